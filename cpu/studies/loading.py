"""What loading costs a step, by image size and loader."""

from pathlib import Path

import pandas as pd
import results
import tables
from tables import measure_all, median

READING = {"": "page cache", "seed=1": "page cache, other images", "cache=dropped": "disk"}


def study(runs: pd.DataFrame, folder: Path) -> tables.Study:
    table = results.configuration_table(runs)
    loading = []
    for _, row in table.iterrows():
        own = runs[(runs[results.KEY] == row[results.KEY]).all(axis=1)]
        loading.append(measure_all(own, {"loading_ms": median("loading", 1000)}))
    table = table.join(pd.DataFrame(loading))
    table["read_from"] = [READING.get(options, options) for options in table["options"]]
    columns = {"dataset": "images", "loader": "loader", "read_from": "read from", "runs": "runs"}
    columns |= {"loading_ms": "loading of a step (ms)", "rate": "img/s"}
    text = tables.markdown(table, "What loading takes of a step, by images and loader.", columns)
    return tables.Study({"summary": table}, text)
