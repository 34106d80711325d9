"""How many steps until a step is steady? Each step of a run over the mean of its last ones.

The first three steps are judged by the rest, which are called steady: in the second step DDP orders
its buckets anew, and the allocator's memory is in place after the first. Page faults of each step
are shown beside it: if memory is not in place yet, they are more than in a steady step.
"""

from pathlib import Path

import figures
import pandas as pd
import results
import tables
from tables import measure_all, median, over

JUDGED = 3  # steps at the beginning; the ones after them are the measure
KEYS = ["num_devices", "memory", "batch_size"]


def step_rows(folder: Path) -> pd.DataFrame:
    """One row per run and step: its time (s), the slowest rank's, and page faults of all ranks."""
    found = [pd.DataFrame()]
    for _, cells in results.cells_of_runs(folder, []):
        rows = results.rows_of_run(cells)
        if (rows["warmup"] == 0).all() and rows["step"].nunique() > JUDGED:
            by_step = rows.groupby([*KEYS, "run_id", "step"])
            steps = by_step.agg(time=("step_time", "max"), faults=("minor_faults", "sum"))
            found.append(steps.reset_index().assign(occasion=folder.name))
    return pd.concat(found, ignore_index=True)


def over_steady(steps: pd.DataFrame) -> pd.DataFrame:
    """Each step with its time over the mean of the same run's steady steps, its page faults beyond
    their mean (thousand), and its rate (img/s)."""
    runs = [*KEYS, "run_id"]
    steady = steps[steps["step"] >= JUDGED].groupby(runs)[["time", "faults"]].mean()
    steps = steps.join(steady.add_suffix("_steady"), on=runs)
    steps["ratio"] = steps["time"] / steps["time_steady"]
    steps["more_faults"] = (steps["faults"] - steps["faults_steady"]) / 1000
    steps["rate"] = steps["batch_size"] / steps["time"]
    return steps


def step_table(steps: pd.DataFrame) -> pd.DataFrame:
    """One row per configuration and step, the first one is 1; on several cores also that step's
    speed-up over one, in the same rounds."""
    table = []
    for key, own in steps.groupby([*KEYS, "step"]):
        row = dict(zip([*KEYS, "step"], key, strict=True)) | {"runs": len(own)}
        row |= measure_all(own, {name: median(name) for name in ("ratio", "more_faults")})
        if row["num_devices"] > 1:
            base = steps.merge(pd.DataFrame([row | {"num_devices": 1}])[[*KEYS, "step"]])
            row |= measure_all(own, {"speedup": over(base, "rate")})
        table.append(row | {"step": row["step"] + 1})
    return pd.DataFrame(table)


def study(runs: pd.DataFrame, folder: Path) -> tables.Study:
    steps = tables.require(step_rows(folder), f"runs of more than {JUDGED} steps without warm-up")
    made = {"steps": step_table(over_steady(steps))}
    names = made["steps"].assign(
        devices=[figures.count_text(count, "core") for count in made["steps"]["num_devices"]],
        malloc=made["steps"]["memory"].replace(tables.MALLOCS),
    )
    text = tables.markdown(
        names,
        f"A step of a fresh process over the mean of its run's steps from the {JUDGED + 1}th on.",
        {"devices": "cores", "malloc": "malloc", "step": "step", "runs": "runs"}
        | {"ratio": "time, over a steady step", "more_faults": "thousand page faults more than it"}
        | {"speedup": "speed-up over one core"},
    )
    return tables.Study(made, text)
