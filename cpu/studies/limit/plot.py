"""How far a step on one core is from its roof, by type of layer; what contention between cores is.

    python plot.py                # runs_own if it is there, else runs

The roof of a type is the longer of its operations at the best rate of the network's own
convolutions and products, and its bytes at that of a stream triad, of the same round. Contention: a
product in the cache and a triad on all cores against one, beside ranks that do not communicate.
Writes roofline (.png, .pdf); summary, roofline, contention and verdict .csv; answers.md.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[2] / "common"))
import figures as f  # noqa: E402  (found on the path of the line before)
import results as r  # noqa: E402
from figures import plt  # noqa: E402

KEY = ["round", "memory", "type"]


def roof_table(layers: pd.DataFrame, rates: pd.DataFrame) -> pd.DataFrame:
    """Each round's types: seconds of a step, seconds at the roof, their ratio; the step itself."""
    means = layers.groupby(KEY)[["seconds", "flops", "bytes"]].mean().reset_index()
    best = rates.groupby(["round", "what"])["rate"].max().unstack()
    peak = best[["convolution", "product"]].max(axis=1)
    means["at_peak"] = means["flops"] / means["round"].map(peak)
    means["at_triad"] = means["bytes"] / means["round"].map(best["triad"])
    means["roof"] = means[["at_peak", "at_triad"]].max(axis=1)
    whole = means[means["type"] == "step"].set_index(["round", "memory"])
    parts = means[means["type"] != "step"].groupby(["round", "memory"])
    whole = whole.assign(roof=parts["roof"].sum(), types=parts["seconds"].sum())
    rest = whole.assign(type="between operators", seconds=whole["seconds"] - whole["types"], roof=0)
    table = pd.concat([means[means["type"] != "step"], rest.reset_index(), whole.reset_index()])
    return table.assign(share=100 * table["roof"] / table["seconds"])


def summary_of(table: pd.DataFrame) -> pd.DataFrame:
    """Means over the rounds with intervals, the longest type first."""
    rows = []
    for (memory, kind), own in table.groupby(["memory", "type"]):
        row = {"memory": memory, "type": kind, "rounds": len(own),
               "bound_by": "-" if kind in ("step", "between operators") else "bytes" if
               own["at_triad"].mean() > own["at_peak"].mean() else "FLOP",
               "above_roof": int((own["share"] > 100).sum())}
        whole = table[(table["memory"] == memory) & (table["type"] == "step")]["seconds"].mean()
        row["percent"] = 100 * own["seconds"].mean() / whole  # of the step
        for name in ("seconds", "roof", "share"):
            row |= r.named_interval(name, r.mean_interval(own[name]))
        rows.append(row)
    return pd.DataFrame(rows).sort_values(["memory", "seconds"], ascending=[True, False])


def contention_table(rates: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """How much slower a core is when all are busy, within rounds: in cache, from memory, in a step
    without communication."""
    rows = []
    for what in ("product", "triad"):
        own = rates[rates["what"] == f"{what}_busy"]
        mean = own.groupby(["round", "cores"])["rate"].mean().unstack()
        slower = mean[1] / mean[mean.columns.max()]
        rows.append({"what": what, **r.named_interval("slower", r.median_interval(slower))})
    for memory, own in runs.assign(busy=runs["step_time"] - runs["waiting"]).groupby("memory"):
        alone = own[(own["mode"] == "single_process") & (own["num_devices"] == 1)]
        many = own[own["mode"] == "no_communication"]
        if alone.empty or many.empty:  # the anchor's
            continue
        slower = r.paired_interval(many, alone, "busy")
        rows.append({"what": f"step (memory {memory})", **r.named_interval("slower", slower)})
    return pd.DataFrame(rows)


def verdict_of(slower: pd.DataFrame, rounds: int) -> str:
    """What takes longer when all cores are busy, as far as the intervals decide it."""
    if rounds < 6:
        return "Too few rounds to say what is significant."
    names = ("a " + slower["what"]).to_list()
    longer = [name for name, low in zip(names, slower["slower_low"], strict=True) if low > 1]
    rest = [name for name in names if name not in longer]
    if not longer:
        return "Nothing takes significantly longer."
    return f"Significantly longer: {', '.join(longer)}; not so: {', '.join(rest) or 'nothing'}."


def roofline(table: pd.DataFrame, title: str, output: Path) -> None:
    """Seconds of a step by type: measured in both memories, and at the roof."""
    types = [kind for kind in table["type"].drop_duplicates() if kind != "step"]
    by_memory = {memory: own.set_index("type").reindex(types) for memory, own in
                 table.groupby("memory")}
    figure, axes = plt.subplots()
    f.dots(axes, types, {f"measured, memory {memory}": own[
        ["seconds" + end for end in r.ENDS]].to_numpy() for memory, own in by_memory.items()})
    roofs = list(by_memory.values())[-1]["roof"]
    axes.plot(roofs, np.arange(len(types)) + 0.15, "|", color="#000000", markersize=20,
              markeredgewidth=2, label="at the roof")
    axes.set(xlabel="time of a step on one core (s), 95 % interval over rounds", title=title,
             xlim=(0, None))
    axes.legend(loc="lower right")
    f.save(figure, output / "roofline")


def draw(args, rows, runs, table, skipped, title: str) -> tuple[dict, list[str]]:
    layers, rates = (pd.read_csv(args.results / f"{name}.csv") for name in ("layers", "rates"))
    each, text = roof_table(layers, rates), r.interval_text
    roofs, slower = summary_of(each), contention_table(rates, runs)
    verdict = verdict_of(slower, rates["round"].nunique())
    roofline(roofs, title, args.output)
    cells = each[(each["roof"] > 0) & (each["type"] != "step")]
    above = cells[cells["share"] > 100]
    print(f"{len(above)} of {len(cells)} are above their roof", *above[KEY].to_numpy(), sep="\n  ")
    lines = [f"- **Against the roof** (one core, memory {row['memory']}): a step takes "
             f"{text(row, 'seconds')} s, {text(row, 'roof')} s at the roof: {text(row, 'share', 0)}"
             " % of it is reached." for _, row in roofs[roofs["type"] == "step"].iterrows()]
    lines.append("- **All cores busy against one**: " + ", ".join(
        f"a {row['what']} takes {text(row, 'slower')} times as long" for _, row in
        slower.iterrows()) + f". {verdict}")
    decided = pd.DataFrame([{"verdict": verdict, "above": len(above), "cells": len(cells)}])
    return {"roofline": roofs, "contention": slower, "verdict": decided}, lines


if __name__ == "__main__":
    f.plot_results(__doc__, HERE / "runs", draw)
