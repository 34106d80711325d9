"""How many steps until a step is steady? Each step of a run over the mean of its last ones.

On real cores the first three steps are judged by the rest, which are called steady. An emulated
device's step is long: there the second one, which other studies measure, is judged by the third.
Page faults are shown beside it: while memory is not in place yet, there are more than later.
"""

from pathlib import Path

import figures
import pandas as pd
import results
import tables
from tables import measure_all, median, over

JUDGED = 3  # steps at the beginning; the ones after them, or else the last one, are the measure
KEYS = ["device", "num_devices", "memory", "batch_size"]


def step_rows(folders: list[Path]) -> pd.DataFrame:
    """One row per run and measured step: its time (s), the slowest rank's, and page faults of all
    ranks. Of real cores runs without a warm-up; emulated devices warm up on whole cores."""
    found = [pd.DataFrame()]
    for folder in folders:
        for _, cells in results.cells_of_runs(folder, []):
            rows = results.rows_of_run(cells)
            is_core = rows["cpu_share"].iloc[0] == ""
            measured = rows[rows["warmup"] == 0]
            if measured["step"].nunique() > 1 and not (is_core and rows["warmup"].any()):
                device = "core" if is_core else "emulated device"
                by_step = measured.assign(device=device).groupby([*KEYS, "run_id", "step"])
                steps = by_step.agg(time=("step_time", "max"), faults=("minor_faults", "sum"))
                found.append(steps.reset_index().assign(occasion=folder.name))
    return pd.concat(found, ignore_index=True)


def over_steady(steps: pd.DataFrame) -> pd.DataFrame:
    """Each step with its time over the mean of the same run's steady steps, its page faults beyond
    their mean (thousand), and its rate (img/s)."""
    runs = [*KEYS, "run_id"]
    last = steps.groupby(runs)["step"].transform("max")
    is_steady = steps["step"] >= last.clip(upper=JUDGED)
    steady = steps[is_steady].groupby(runs)[["time", "faults"]].mean()
    steps = steps.join(steady.add_suffix("_steady"), on=runs)
    steps["ratio"] = steps["time"] / steps["time_steady"]
    steps["more_faults"] = (steps["faults"] - steps["faults_steady"]) / 1000
    steps["rate"] = steps["batch_size"] / steps["time"]
    return steps


def step_table(steps: pd.DataFrame) -> pd.DataFrame:
    """One row per configuration and step, the first one is 1; on several cores also that step's
    speed-up over one, in the same rounds, if one was measured."""
    table = []
    for key, own in steps.groupby([*KEYS, "step"]):
        row = dict(zip([*KEYS, "step"], key, strict=True)) | {"runs": len(own)}
        row |= measure_all(own, {name: median(name) for name in ("ratio", "more_faults")})
        base = steps.merge(pd.DataFrame([row | {"num_devices": 1}])[[*KEYS, "step"]])
        row = tables.of_one_run(row, ["speedup"])
        if row["num_devices"] > 1 and len(base):
            row |= measure_all(own, {"speedup": over(base, "rate")})
        table.append(row | {"step": row["step"] + 1})
    return pd.DataFrame(table)


def study(runs: pd.DataFrame, folder: Path) -> tables.Study:
    folders = [folder.with_name(name) for name in runs["occasion"].unique()]
    steps = tables.require(step_rows(folders), "runs of several steps without warm-up")
    table = step_table(over_steady(steps))
    counts = zip(table["num_devices"], table["device"], strict=True)
    text = tables.markdown(
        table.assign(devices=[figures.count_text(*count) for count in counts]),
        "A step over the mean of the same run's later ones, which are called steady: those from "
        f"the {JUDGED + 1}th on; of emulated devices the third, after a first one on whole cores.",
        {"devices": "devices", "memory": "malloc", "step": "step", "runs": "runs"}
        | {"ratio": "time, over a steady step", "more_faults": "thousand page faults more than it"}
        | {"speedup": "speed-up over one"},
    )
    return tables.Study({"steps": table}, text)
