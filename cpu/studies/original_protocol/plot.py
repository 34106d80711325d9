"""What the original study's protocol reads on this machine, beside the steady step.

    python plot.py                # runs_own if it is there, else runs

Three readings of the same batch: as the original study reads its rows (batch size / mean over all
ranks of the first step of a process, whose single process has all threads), with the slowest rank
in place of the mean, and the steady step of this study's protocol in the same rounds. Writes
protocol (.png, .pdf) and summary.csv.
"""

import sys
from pathlib import Path

import pandas as pd

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[2] / "common"))
import figures as f  # noqa: E402  (found on the path of the line before)
import results as r  # noqa: E402
from figures import plt  # noqa: E402


def protocol(runs: pd.DataFrame, cold: pd.DataFrame, steady: pd.DataFrame, title: str,
             output: Path) -> None:
    """Throughput against cores, in the three readings."""
    figure, axes = plt.subplots()
    axes.plot(cold["num_devices"], cold["rate_original_method"], "x-.", color="#000000",
              label="first step, mean over ranks: the original's reading")
    axes.plot(runs["num_devices"], runs["rate"], ".", markersize=4, alpha=0.5, color=f.COLOURS[1])
    for rows, colour, marker, name in (
        (cold, f.COLOURS[1], "s", "first step, slowest rank"),
        (steady, f.COLOURS[0], "o", "steady step, this study's protocol")):
        axes.errorbar(rows["num_devices"], rows["rate"], f.error_bars(rows, "rate"), capsize=3,
                      color=colour, marker=marker, label=name)
    axes.annotate(f"one process, {cold['threads'].iloc[0]} threads", (1, cold["rate"].iloc[0]),
                  (8, -12), textcoords="offset points", fontsize=8)
    axes.set(xlabel="ranks", ylabel="throughput (img/s)", ylim=(0, None), title=title)
    axes.set_xticks(sorted(set(cold["num_devices"])))
    axes.margins(x=0.2)
    axes.legend()
    f.note_below(axes, f.what_is_drawn(cold))
    f.save(figure, output / "protocol")


def draw(args, rows, runs, table, skipped, title: str) -> tuple[dict, list[str]]:
    cold, steady = (r.main_series(table[table["loader"] == name]) for name in ("pil", "tensor"))
    if cold.empty:
        raise r.ResultsError(f"{args.results}: there is no run of the protocol (--loader pil)")
    protocol(runs[runs["loader"] == "pil"], cold, steady, title, args.output)
    return {}, []


if __name__ == "__main__":
    f.plot_results(__doc__, HERE / "runs", draw)
