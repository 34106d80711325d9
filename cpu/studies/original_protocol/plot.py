"""What the original study's protocol reads on this machine, beside the steady step.

    python plot.py                # runs_own if it is there, else runs; after plot_cpu_results.py

Three readings of the same batch: as the original study reads its rows (batch size / mean over all
ranks of the first step of a process, whose single process has all threads), with the slowest rank
in place of the mean, and the steady step of the main sweep. Writes protocol (.png, .pdf) and
summary.csv.
"""

import sys
from pathlib import Path

import pandas as pd

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[2] / "common"))
import results as r  # noqa: E402  (found on the path of the line before)
from results import plt  # noqa: E402


def protocol(runs: pd.DataFrame, cold: pd.DataFrame, steady: pd.DataFrame, title: str,
             output: Path) -> None:
    """Throughput against cores, in the three readings."""
    figure, axes = plt.subplots()
    axes.plot(cold["num_devices"], cold["rate_original_method"], "x-.", color="#000000",
              label="first step, mean over ranks: the original's reading")
    axes.plot(runs["num_devices"], runs["rate"], ".", markersize=4, alpha=0.5, color=r.COLOURS[1])
    for rows, colour, marker, name in ((cold, r.COLOURS[1], "s", "first step, slowest rank"),
                                       (steady, r.COLOURS[0], "o", "steady step, main sweep")):
        axes.errorbar(rows["num_devices"], rows["rate"], r.error_bars(rows, "rate"), capsize=3,
                      color=colour, marker=marker, label=name)
    axes.annotate(f"one process, {cold['threads'].iloc[0]} threads", (1, cold["rate"].iloc[0]),
                  (8, -12), textcoords="offset points", fontsize=8)
    axes.set(xlabel="ranks", ylabel="throughput (img/s)", ylim=(0, None), title=title)
    axes.set_xticks(sorted(set(cold["num_devices"])))
    axes.margins(x=0.2)
    axes.legend()
    r.note_below(axes, r.what_is_drawn(cold))
    r.save(figure, output / "protocol")


def main() -> None:
    args = r.read_arguments(__doc__, HERE / "runs")
    runs, table, _, problems = r.read_tables(args)
    table.to_csv(args.output / "summary.csv", index=False)
    main_sweep = HERE.parents[1] / ("cpu_plots" if args.published else "cpu_plots_own")
    path = main_sweep / "summary.csv"
    steady = r.main_series(pd.read_csv(path)) if path.is_file() else table.head(0)
    with plt.rc_context(r.STYLE):
        protocol(runs, r.main_series(table), steady,
                 r.make_title(r.read_environment(args.results), runs), args.output)
    r.print_table(table, "cores", True)
    r.finish(args, runs, problems)


if __name__ == "__main__":
    main()
