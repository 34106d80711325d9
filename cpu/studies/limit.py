"""How far a step on one core is from its hardware limit, by type of layer; what cores contend for.

The limit (roof) of a type is the longer of its operations at the best rate of the network's own
convolutions and products, and its bytes at that of a stream triad, of the same round. Contention: a
product in the cache and a triad on all cores against one, beside ranks that do not communicate.
"""

from pathlib import Path

import pandas as pd
import results
import tables
from tables import mean, measure_all, over

KEY = ["round", "memory", "type"]
REST = "between operators"


def roof_table(layers: pd.DataFrame, rates: pd.DataFrame) -> pd.DataFrame:
    """Each round's types: seconds of a step, seconds at the limit, their ratio; the step itself."""
    means = layers.groupby(KEY)[["seconds", "flops", "bytes"]].mean().reset_index()
    best = rates.groupby(["round", "what"])["rate"].max().unstack()
    peak = best[["convolution", "product"]].max(axis=1)
    means["at_peak"] = means["flops"] / means["round"].map(peak)
    means["at_triad"] = means["bytes"] / means["round"].map(best["triad"])
    means["roof"] = means[["at_peak", "at_triad"]].max(axis=1)
    types = means[means["type"] != "step"]
    whole = means[means["type"] == "step"].set_index(["round", "memory"])
    sums = types.groupby(["round", "memory"])[["seconds", "roof"]].sum()
    whole = whole.assign(roof=sums["roof"])
    rest = whole.assign(type=REST, seconds=whole["seconds"] - sums["seconds"], roof=0)
    table = pd.concat([types, rest.reset_index(), whole.reset_index()])
    return table.assign(share=100 * table["roof"] / table["seconds"])


def roofline_table(table: pd.DataFrame) -> pd.DataFrame:
    """Means over the rounds with intervals, the longest type first."""
    measures = {name: mean(name) for name in ("seconds", "roof", "share")}
    rows = tables.interval_table(table, ["memory", "type"], **measures)
    return rows.sort_values(["memory", "seconds"], ascending=[True, False])


def contention_table(rates: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """How much slower a core is when all are busy, within rounds: in cache, from memory, in a step
    without communication."""
    rows = []
    for what in ("product", "triad"):
        own = rates[rates["what"] == f"{what}_busy"]
        rate = own.groupby(["round", "cores"])["rate"].mean().unstack()
        slower = results.median_interval(rate[1] / rate[rate.columns.max()])
        rows.append({"what": what, **results.named_interval("slower", slower)})
    runs = runs.assign(busy=runs["step_time"] - runs["waiting"])
    for memory, own in runs.groupby("memory"):
        alone = own[(own["mode"] == "single_process") & (own["num_devices"] == 1)]
        many = own[own["mode"] == "no_communication"]
        if len(alone) and len(many):
            row = {"what": f"step (memory {memory})"}
            rows.append(row | measure_all(many, {"slower": over(alone, "busy")}))
    return pd.DataFrame(rows)


def study(runs: pd.DataFrame, folder: Path) -> tables.Study:
    layers, rates = (pd.read_csv(folder / f"{name}.csv") for name in ("layers", "rates"))
    roofs = roofline_table(roof_table(layers, rates))
    slower = contention_table(rates, runs)
    text = tables.markdown(
        roofs[roofs["type"] == "step"],
        "A step on one core against the hardware limit of its layers.",
        {
            "memory": "malloc",
            "seconds": "step (s)",
            "roof": "at the limit (s)",
            "share": "reached (%)",
        },
    )
    text += tables.markdown(
        slower,
        "All cores busy against one: a product in the cache, a triad from memory, a step.",
        {"what": "what", "slower": "takes so many times as long"},
    )
    return tables.Study({"roofline": roofs, "contention": slower}, text)
