"""Tables of intervals, and how they are shown: what every study is made of."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import pandas as pd
import results
from matplotlib.figure import Figure

MALLOCS = {"glibc": "default malloc", "kept": "tuned malloc"}  # as a reader knows them
MOST_PRINTED = 8  # configurations at a sweep's end
Measure = Callable[[pd.DataFrame], results.Interval]  # from the runs of one row of a table


class Study(NamedTuple):
    """What a study makes of its runs: tables by the name of their file, text for answers.md (which
    README may show), figures by the name of their file, and what is printed if not the text."""

    tables: dict[str, pd.DataFrame]
    text: str = ""
    figures: dict[str, Figure] = {}
    printed: str = ""


# ---- what is in a table


def median(column: str, scale: float = 1.0) -> Measure:
    return lambda runs: results.median_interval(scale * runs[column])


def mean(column: str, scale: float = 1.0) -> Measure:
    return lambda runs: results.mean_interval(scale * runs[column])


def over(base: pd.DataFrame, column: str = "rate") -> Measure:
    """The ratio to other runs, taken within rounds."""
    return lambda runs: results.paired_interval(runs, base, column)


def measure_all(runs: pd.DataFrame, measures: dict[str, Measure]) -> dict[str, Any]:
    """Three columns for each measure: rate, rate_low, rate_high."""
    row: dict[str, Any] = {}
    for name, measure in measures.items():
        row |= results.named_interval(name, measure(runs))
    return row


def of_one_run(row: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """A row whose values are of one run each: without intervals."""
    for name in names:
        row = row | results.named_interval(name, (row.get(name, math.nan), math.nan, math.nan))
    return row


def interval_table(runs: pd.DataFrame, by: str | list[str], **measures: Measure) -> pd.DataFrame:
    """One row per group of runs: keys, number of runs, and each measure with its interval."""
    keys = [by] if isinstance(by, str) else by
    rows = []
    for key, group in runs.groupby(keys, sort=False):
        row = dict(zip(keys, key, strict=True)) | {"runs": len(group)}
        rows.append(row | measure_all(group, measures))
    return pd.DataFrame(rows)


def require(runs: pd.DataFrame, what: str) -> pd.DataFrame:
    """These runs; raises ResultsError if there are none."""
    if runs.empty:
        raise results.ResultsError(f"there are no runs of {what}: has the sweep ended?")
    return runs


# ---- how it is shown


def interval_text(row: Any, name: str, digits: int | None = 2) -> str:
    """median [low, high] of a table's row; digits None: three significant ones. Without interval 1
    is the base of a ratio, and another value is one run's."""
    values = [row[name + end] for end in results.ENDS] if name in row else [None]
    form = "#.3g" if digits is None else f".{digits}f"
    if any(pd.isna(values)):
        if pd.isna(values[0]):
            return "-"
        return "base" if values[0] == 1 else f"{format(values[0], form).rstrip('.')} (1 run)"
    value, low, high = (format(value, form).rstrip(".") for value in values)
    return f"{value} [{low}, {high}]"


def speedup_text(row: Any, name: str = "speedup") -> str:
    """A ratio within rounds: of few shared rounds the brackets hold the range, and it says so."""
    text = interval_text(row, name)
    if "[" in text and row["rounds"] < results.ENOUGH:
        return f"{text} (range of {row['rounds']:.0f})"
    return text


def in_words(text: str) -> str:
    """Text of a table with malloc as its reader knows it; rows and columns have older names."""
    for memory, name in MALLOCS.items():
        text = text.replace(f"memory {memory}", name)
    return text


def cell_text(row: Any, name: str, digits: int | None = 2) -> str:
    if f"{name}_low" in row:
        return interval_text(row, name, digits)
    if isinstance(row[name], float):
        return "-" if pd.isna(row[name]) else f"{row[name]:.4g}"
    if name == "memory":
        return MALLOCS.get(row[name], str(row[name]))
    return in_words(str(row[name]))


def shown(table: pd.DataFrame, columns: dict[str, str], digits: int | None = 2) -> pd.DataFrame:
    """A table as its reader sees it: columns maps names to headings; intervals in brackets."""
    cells = {}
    for name, heading in columns.items():
        cells[heading] = [cell_text(row, name, digits) for _, row in table.iterrows()]
    return pd.DataFrame(cells, index=range(len(table)))


def markdown(
    table: pd.DataFrame,
    caption: str,
    columns: dict[str, str],
    digits: int | None = 2,
    sideways: bool = False,
) -> str:
    """A table for README with a sentence above it, or on its side: a column for each row, headed by
    its first cell. Nothing if the table is empty."""
    if table.empty:
        return ""
    cells = shown(table, columns, digits)
    if sideways:
        first = cells.columns[0]
        cells = cells.set_index(first).T.rename_axis(first).reset_index()
    lines = [caption, "", f"| {' | '.join(cells.columns)} |", f"|{'---|' * len(cells.columns)}"]
    for row in cells.to_numpy():
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join([*lines, "", ""])


def scaling_text(table: pd.DataFrame, device: str) -> str:
    """What a sweep's end prints: rate and speed-up of the first data-parallel configurations."""
    ddp = table[(table["mode"] == "ddp") & (table["scaling"] != "weak")]
    first = ddp.head(MOST_PRINTED)
    cells = shown(first, {"series": "series", "num_devices": device, "rate": "img/s"}, None)
    for name, heading in (("speedup", "speed-up"), ("efficiency", "efficiency")):
        cells[heading] = [speedup_text(row, name) for _, row in first.iterrows()]
    text = cells.to_string(index=False)
    left = len(table) - len(first)
    return text + (f"\n{left} more configurations are in summary.csv" if left else "")


def against_text(runs: pd.DataFrame, others: pd.DataFrame) -> str:
    """The rates of equal configurations, and their ratio, for results of two folders."""
    rows = []
    groups = dict(list(others.groupby(results.KEY)))
    for key, own in runs.groupby(results.KEY, sort=False):
        if key in groups:
            row = {"series": own["series"].iloc[0], "mode": key[2], "devices": key[0]}
            row |= results.named_interval("here", results.median_interval(own["rate"]))
            there = groups[key]["rate"]
            row |= results.named_interval("there", results.median_interval(there))
            ratio = results.ratio_interval(own["rate"], there)
            rows.append(row | results.named_interval("ratio", ratio))
    if not rows:
        return "no configuration is in both"
    columns = {"series": "configuration", "mode": "mode", "devices": "devices"}
    columns |= {"here": "img/s here", "there": "img/s there", "ratio": "here / there"}
    return shown(pd.DataFrame(rows), columns).to_string(index=False)
