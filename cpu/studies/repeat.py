"""What tuned malloc brings, and the speed-up with and without it: on other machines, other days."""

from pathlib import Path

import pandas as pd
import results
import tables
from tables import measure_all, median, over


def session_row(own: pd.DataFrame, session: Path) -> dict:
    """One session: rate (img/s) of one core, what tuned malloc brings on it, and both speed-ups."""
    one = own[own["num_devices"] == own["num_devices"].min()]
    all_cores = own[own["num_devices"] == own["num_devices"].max()]
    row = {
        "machine": results.machine_name(session),
        "date": results.read_environment(session).get("date", "")[:16].replace("T", " "),
        "rounds": own["run_id"].nunique(),
    }
    default, tuned = (one[one["memory"] == memory] for memory in tables.MALLOCS)
    row |= measure_all(default, {"rate_one": median("rate")})
    row |= measure_all(tuned, {"gain": over(default)})
    for memory in tables.MALLOCS:
        of_all = all_cores[all_cores["memory"] == memory]
        of_one = one[one["memory"] == memory]
        row |= measure_all(of_all, {f"speedup_{memory}": over(of_one)})
    return row


def study(runs: pd.DataFrame, folder: Path) -> tables.Study:
    ddp = runs.query("mode == 'ddp' and scaling != 'weak'")
    tables.require(ddp[ddp["num_devices"] > 1], "more than one core")
    for memory, name in tables.MALLOCS.items():
        tables.require(ddp[ddp["memory"] == memory], name)
    rows = []
    for session, own in ddp.groupby("occasion"):
        rows.append(session_row(own, folder.with_name(session)))
    table = pd.DataFrame(rows)
    columns = {"machine": "machine", "date": "begun", "rounds": "rounds"}
    columns |= {"rate_one": "img/s on one core", "gain": "tuned malloc, times that"}
    columns |= {"speedup_kept": "speed-up of all cores, tuned malloc"}
    columns |= {"speedup_glibc": "the same, default malloc"}
    text = tables.markdown(table, "The main findings on other machines, other days.", columns)
    return tables.Study({"sessions": table}, text)
