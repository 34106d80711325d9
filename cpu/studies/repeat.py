"""The speed-up with default and with tuned malloc, again: on another machine, another day."""

from pathlib import Path

import pandas as pd
import results
import tables
from tables import measure_all, median, over


def speedup_row(own: pd.DataFrame, machine: dict) -> dict:
    """One malloc in one session: rate (img/s) on the fewest and the most cores, and their ratio."""
    few, most = own["num_devices"].min(), own["num_devices"].max()
    one, all_cores = (own[own["num_devices"] == count] for count in (few, most))
    row = {
        "memory": own["memory"].iloc[0],
        "cores": most,
        "rounds": len(all_cores),
        "machine": machine.get("cpu_model", ""),
        "date": machine.get("date", "")[:16].replace("T", " "),
    }
    row |= measure_all(one, {"rate_one": median("rate")})
    return row | measure_all(all_cores, {"rate": median("rate"), "speedup": over(one)})


def study(runs: pd.DataFrame, folder: Path) -> tables.Study:
    ddp = runs.query("mode == 'ddp' and scaling != 'weak'")
    tables.require(ddp[ddp["num_devices"] > 1], "more than one core")
    rows = []
    for (session, _), own in ddp.groupby(["occasion", "memory"]):
        rows.append(speedup_row(own, results.read_environment(folder.with_name(session))))
    table = pd.DataFrame(rows)
    columns = {"machine": "machine", "date": "begun", "memory": "malloc", "rounds": "rounds"}
    columns |= {"rate_one": "img/s on 1 core", "rate": "img/s on all", "speedup": "speed-up"}
    text = tables.markdown(table, "The main finding on another machine, another day.", columns)
    return tables.Study({"speedups": table}, text)
