"""Rate, speed-up and page faults of other networks, in both memories.

    python plot.py                # runs_own if it is there, else runs

Writes networks (.png, .pdf), summary.csv, networks.csv and answers.md, which README shows.
"""

import sys
from pathlib import Path

import pandas as pd

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[2] / "common"))
import figures as f  # noqa: E402  (found on the path of the line before)
import results as r  # noqa: E402
from figures import plt  # noqa: E402


def network_table(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per network: rate, faults per image and speed-up in each memory; what keeping the
    memory brings on one core and on all. Ratios within rounds."""
    runs = runs[(runs["mode"] == "ddp") & (runs["scaling"] != "weak")].copy()
    runs["faults"] = runs["minor_faults"] * runs["num_devices"] / runs["batch_size"]
    ends, table = (runs["num_devices"].min(), runs["num_devices"].max()), []
    for model, own in runs.groupby("model"):
        row = {"model": model, "most": ends[1]}
        part = {(memory, n): rows for (memory, n), rows in own.groupby(["memory", "num_devices"])}
        for memory in sorted(set(own["memory"])):
            one, most = (part[memory, n] for n in ends)
            row |= r.named_interval(f"rate_{memory}", r.median_interval(one["rate"]))
            row |= r.named_interval(f"faults_{memory}", r.mean_interval(one["faults"]))
            row |= r.named_interval(f"speedup_{memory}", r.paired_interval(most, one))
        for name, n in zip(("one", "most"), ends, strict=True):
            row |= r.named_interval(f"kept_{name}", r.paired_interval(part["kept", n],
                                                                      part["glibc", n]))
        table.append(row)
    return pd.DataFrame(table)


def draw(args, rows, runs, table, skipped, title: str) -> tuple[dict, list[str]]:
    networks, text = network_table(runs), r.interval_text
    figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    f.dots(axes, networks["model"], {f"memory {memory}": networks[
        [f"speedup_{memory}{end}" for end in r.ENDS]].to_numpy() for memory in ("glibc", "kept")})
    axes.axvline(networks["most"].iloc[0], color="#444444", linewidth=0.8)
    figure.legend(loc="outside lower center", ncols=2)
    axes.set(xlabel=f"speed-up on {networks['most'].iloc[0]} cores", title=title)
    f.save(figure, args.output / "networks")
    return {"networks": networks}, [
        "| network | img/s on 1 core | kept / glibc, 1 core | kept / glibc, all | speed-up, glibc "
        "| speed-up, kept |", "|---|---|---|---|---|---|",
        *(f"| {row['model']} | {text(row, 'rate_glibc')} | {text(row, 'kept_one')} | "
          f"{text(row, 'kept_most')} | {text(row, 'speedup_glibc')} | "
          f"{text(row, 'speedup_kept')} |" for _, row in networks.iterrows())]


if __name__ == "__main__":
    f.plot_results(__doc__, HERE / "runs", draw)
