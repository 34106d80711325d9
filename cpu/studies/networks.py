"""Rate, speed-up and page faults of other networks, with default and with tuned malloc."""

from pathlib import Path

import pandas as pd
import tables
from tables import mean, measure_all, median, over


def network_row(own: pd.DataFrame, few: int, most: int) -> dict:
    """A network: rate, faults per image and speed-up in each memory; what keeping the memory brings
    on one core and on all. Ratios within rounds."""
    one, all_cores = (own[own["num_devices"] == count] for count in (few, most))
    row = {"model": own["model"].iloc[0], "most": most}
    for memory, runs in one.groupby("memory"):
        measures = {f"rate_{memory}": median("rate"), f"faults_{memory}": mean("faults")}
        row |= measure_all(runs, measures)
        many = all_cores[all_cores["memory"] == memory]
        row |= measure_all(many, {f"speedup_{memory}": over(runs)})
    for name, runs in (("one", one), ("most", all_cores)):
        glibc, kept = (runs[runs["memory"] == memory] for memory in ("glibc", "kept"))
        row |= measure_all(kept, {f"kept_{name}": over(glibc)})
    return row


def study(runs: pd.DataFrame, folder: Path) -> tables.Study:
    runs = runs.query("mode == 'ddp' and scaling != 'weak'").copy()
    runs["faults"] = runs["minor_faults"] * runs["num_devices"] / runs["batch_size"]
    few, most = runs["num_devices"].min(), runs["num_devices"].max()
    for memory in ("glibc", "kept"):
        tables.require(runs[(runs["memory"] == memory)], f"memory {memory}")
    networks = pd.DataFrame([network_row(own, few, most) for _, own in runs.groupby("model")])
    columns = {
        "model": "network",
        "rate_glibc": "img/s on 1 core",
        "kept_one": "tuned / default malloc, 1 core",
        "kept_most": "tuned / default malloc, all cores",
        "speedup_glibc": "speed-up, default",
        "speedup_kept": "speed-up, tuned",
    }
    text = tables.markdown(networks, "Other networks, on one core and on all.", columns)
    return tables.Study({"networks": networks}, text)
