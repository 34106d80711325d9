"""The best single process: chosen in the first half of the rounds, confirmed in the other.

Settings are micro-batches (the whole batch, or the ranks' parts), memory and layout; all with as
many threads as cores. The old definition of this bound, the whole batch in the default memory and
layout, is the base.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import tables
from tables import measure_all, median, over

OLD = "the whole batch, memory glibc, NCHW"


def name_settings(runs: pd.DataFrame) -> pd.Series:
    parts = np.where(runs["micro_batches"] == "1", "the whole batch", "in micro-batches")
    layout = np.where(runs["channels_last"] == "1", "channels last", "NCHW")
    return pd.Series(parts, runs.index) + ", memory " + runs["memory"] + ", " + layout


def setting_table(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per setting of the single process, slowest first: rate in the first half of the
    rounds, by which the best is chosen; against the old definition and against data parallelism in
    the same memory and layout in the other half."""
    half = runs["run_id"].max() // 2
    single, ddp = (runs[runs["mode"] == mode] for mode in ("single_process", "ddp"))
    late, early = single[single["run_id"] > half], single[single["run_id"] <= half]
    old = tables.require(late[late["setting"] == OLD], OLD)
    table = []
    for setting, own in late.groupby("setting"):
        row = {"setting": setting, "runs": len(own), "rounds": runs["run_id"].max()}
        row |= measure_all(early[early["setting"] == setting], {"chosen_by": median("rate")})
        row |= measure_all(own, {"rate": median("rate"), "over_old": over(old)})
        every = single[single["setting"] == setting]
        row |= measure_all(every, {"over_old_in_all": over(single[single["setting"] == OLD])})
        if setting == OLD:
            row |= {"over_old": 1.0, "over_old_low": np.nan, "over_old_high": np.nan}
        same = ddp[(ddp["run_id"] > half) & (ddp["memory"] == own["memory"].iloc[0])]
        same = same[same["channels_last"] == own["channels_last"].iloc[0]]
        table.append(row | measure_all(same, {"ddp_over_it": over(own)}))
    return pd.DataFrame(table).sort_values("chosen_by", ignore_index=True)


def study(runs: pd.DataFrame, folder: Path) -> tables.Study:
    settings = setting_table(runs.assign(setting=name_settings(runs)))
    columns = {"setting": "setting", "rate": "img/s", "over_old": "against the first setting"}
    columns |= {"ddp_over_it": "data parallelism against it"}
    text = tables.markdown(
        settings,
        "One process with a thread per core, slowest first: the last one was chosen in the first "
        "half of the rounds; rates are of the other half.",
        columns,
    )
    return tables.Study({"settings": settings}, text)
