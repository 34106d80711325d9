"""From rows to runs, intervals and tables: what the plotting scripts and the report share.

A row is a rank's step, a run is one file of rows, a configuration is all runs of equal settings, a
session is the folder of one sweep (column occasion). Runs are the units of the statistics: a
configuration is the median over its runs, with the exact rank interval of at least 95 % from 6 runs
on, and the range below. A ratio is taken within each round, where the drift of the machine is in
both and cancels. Parts of a step are means, so that they add up. Files with the original study's
six columns (and num_gpus) are read too, and a session that is packed into one file (pack.py).
"""

import io
import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

ORIGINAL_COLUMNS = ["run_id", "num_devices", "batch_size", "loading_time", "compute_time", "rank"]
# Two values of one of these never share a point.
SETTINGS = (
    "scaling threads precision channels_last loader workers bucket_cap_mb micro_batches dataset "
    "options model memory cpu_share"
).split()
KEY = ["num_devices", "batch_size", "mode", *SETTINGS]
NUMBERS = [
    *ORIGINAL_COLUMNS,
    *"step warmup images step_time forward_time backward_time".split(),
    *"communication_time optimizer_time".split(),
]
MODES = ["ddp", "no_communication", "single_process"]
PARTS = ["loading", "forward", "backward", "ddp", "transfer", "waiting", "optimizer"]
KERNEL = ["user_time", "system_time", "minor_faults"]  # what the kernel did, per step and rank
MEMORY = ["peak_memory_bytes", "reserved_memory_bytes", "predicted_memory_bytes"]
# Older rows, and some devices, lack them.
OPTIONAL = ["ddp_time", "host_ahead_time", *KERNEL, *MEMORY]
ROUND = ["occasion", "run_id"]
UNFAIR = "oversubscribe|share_gpu|memory_check"  # options whose rows are no rates to compare
ENDS = ("", "_low", "_high")
ENOUGH = 6  # values for an interval of 95 %; of fewer the range is given

Interval = tuple[float, float, float]  # value, low, high


class ResultsError(Exception):
    """Results that cannot be used, and why."""


# ---- rows


def read_text(path: Path) -> pd.DataFrame:
    """A file's cells as text; raises ResultsError for what is no whole file of rows."""
    try:
        # NUL would end the text for pandas.
        text = path.read_text().replace("\0", "NUL")
        cells = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise ResultsError(f"unreadable ({str(error).splitlines()[0]})") from None
    cells = cells.rename(columns={"num_gpus": "num_devices"})
    missing = [name for name in ORIGINAL_COLUMNS if name not in cells]
    if missing or cells.empty or not text.endswith("\n"):
        raise ResultsError(f"lacks {', '.join(missing) or 'rows, or the end of its last line'}")
    return cells


def has_cycles(cells: pd.DataFrame) -> bool:
    """Whether a run went through cycles of phases."""
    return "cycle" in cells and bool((cells["cycle"] != "").any())


def data_parallel_part(cells: pd.DataFrame) -> pd.DataFrame:
    """Of a run in cycles its data-parallel steps, numbered as those of any other run."""
    own = cells[cells["mode"] == "ddp"]
    order = {step: str(number) for number, step in enumerate(dict.fromkeys(own["step"]))}
    return own.assign(step=own["step"].map(order))


def rows_of_run(cells: pd.DataFrame) -> pd.DataFrame:
    """The rows of one run as numbers; raises ResultsError unless they are one whole run."""
    if has_cycles(cells):
        cells = data_parallel_part(cells)
    original = "step" not in cells
    numbers = [*NUMBERS, *OPTIONAL]
    rows = cells.reindex(columns=[*NUMBERS, *KEY[2:], *OPTIONAL], fill_value="")
    try:
        rows[numbers] = rows[numbers].apply(pd.to_numeric)
    except ValueError as error:
        raise ResultsError(f"unreadable ({str(error).splitlines()[0]})") from None
    if original:
        rows = rows.assign(step=0, warmup=0, mode="ddp", scaling="strong", dataset="not recorded")
        rows["images"] = rows["batch_size"] // rows["num_devices"]  # it drops the remainder
        rows["step_time"] = rows["loading_time"] + rows["compute_time"]
    check_numbers(rows[[*ORIGINAL_COLUMNS, "images"]] if original else rows[NUMBERS], rows)
    for name in ["run_id", *KEY]:
        if rows[name].nunique() != 1:
            raise ResultsError(f"mixed: more than one {name} in one run")
    if rows["mode"].iloc[0] not in MODES:
        raise ResultsError(f"damaged: there is no mode {rows['mode'].iloc[0]!r}")
    check_complete(rows, int(rows["num_devices"].iloc[0]) if original else 1)
    return rows


def check_numbers(needed: pd.DataFrame, rows: pd.DataFrame) -> None:
    """Raise ResultsError for empty or impossible numbers."""
    counts = rows[["run_id", "rank", "num_devices", "batch_size"]]
    optional = rows[OPTIONAL].fillna(0)
    bad = [
        ~needed.ge(0),
        ~needed.le(1e9),
        optional < 0,
        optional > 1e15,
        counts % 1 > 0,
        counts[["num_devices", "batch_size"]] < 1,
        rows[["step_time"]] <= 0,
    ]
    if any(part.any(axis=None) for part in bad):
        raise ResultsError("truncated or damaged: empty or impossible numbers")


def check_complete(rows: pd.DataFrame, dropped_by: int) -> None:
    """Raise ResultsError unless each rank has each step once and a step has its whole batch."""
    ranks, steps = rows["rank"].nunique(), rows["step"].nunique()
    expected = set(itertools.product(range(ranks), range(steps)))
    found = set(zip(rows["rank"], rows["step"], strict=True))
    batch = rows["batch_size"].iloc[0] // dropped_by * dropped_by
    images = rows.groupby("step")["images"].sum()
    if found != expected or len(rows) != len(expected) or (images != batch).any():
        raise ResultsError("truncated or repeated: some rank's step is missing or there twice")
    if rows["warmup"].all():
        raise ResultsError("has warm-up steps only")


def read_run(path: Path) -> pd.DataFrame:
    """The rows of one run's file; raises ResultsError unless they are one whole run."""
    return rows_of_run(read_text(path))


def read_phases(*folders: Path) -> pd.DataFrame:
    """The measured steps of all runs in cycles: one row per rank and phase, numbers as numbers."""
    found = [pd.DataFrame()]
    for folder in folders:
        for _, cells in cells_of_runs(folder, []):
            if has_cycles(cells):
                measured = cells[cells["warmup"] == "0"].copy()
                names = [*NUMBERS, *OPTIONAL, "cycle"]
                measured[names] = measured[names].apply(pd.to_numeric)
                found.append(measured.assign(occasion=folder.name))
    return pd.concat(found, ignore_index=True)


def sessions_of(published: Path) -> list[Path]:
    """A published sweep's folders, one for each session: cpu_run, cpu_run_2 and so on."""
    return [published, *sorted(published.parent.glob(f"{published.name}_[0-9]*"))]


def cells_of_runs(folder: Path, problems: list[str]) -> Iterator[tuple[Path, pd.DataFrame]]:
    """The runs of a session as text, from a file each or from a packed one. What cannot be read is
    added to problems, with the reason."""
    for path in sorted(folder.rglob("times_run*.csv")) + sorted(folder.rglob("rows.csv")):
        try:
            cells = read_text(path)
        except ResultsError as error:
            problems.append(f"{path}: {error}")
            continue
        if path.name != "rows.csv":
            yield path, cells
            continue
        for _, run in cells.groupby(["configuration", "run_id"], sort=False):
            yield path, run


def read_skipped(folders: tuple[Path, ...], problems: list[str]) -> pd.DataFrame:
    """The configurations that a sweep left out, and why."""
    columns = ["num_devices", "batch_size", "reason"]
    skipped = [pd.DataFrame(columns=columns)]
    for folder in folders:
        for path in sorted(folder.rglob("skipped.csv")):
            try:
                skipped.append(pd.read_csv(path)[columns])
            except (OSError, ValueError, KeyError) as error:
                problems.append(f"{path}: {str(error).splitlines()[0]}")
    return pd.concat(skipped)


def read_results(*folders: Path) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """All rows below the folders, each a session; the configurations that were skipped; and what
    was left out, with the reason."""
    if len({folder.name for folder in folders}) < len(folders):
        raise ResultsError("sessions are told apart by their folders' names: two have the same")
    runs: list[pd.DataFrame] = []
    problems: list[str] = []
    seen: dict[tuple, Path] = {}
    for folder in folders:
        for path, cells in cells_of_runs(folder, problems):
            try:
                rows = rows_of_run(cells)
                key = (folder, *rows[["run_id", *KEY]].iloc[0])
                if key in seen:
                    raise ResultsError(f"the same run of the same configuration as {seen[key]}")
            except ResultsError as error:
                problems.append(f"{path}: {error}")
                continue
            seen[key] = path
            runs.append(rows.assign(occasion=folder.name))
    skipped = read_skipped(folders, problems)
    if not runs:
        found = "no run can be used in" if problems else "there are no results in"
        names = ", ".join(map(str, folders))
        raise ResultsError("\n".join([*problems, f"{found} {names}: run the sweep first"]))
    return pd.concat(runs, ignore_index=True), skipped, problems


def read_runs(*folders: Path) -> pd.DataFrame:
    """One row per run of these sessions."""
    return run_table(read_results(*folders)[0])


def read_original(path: Path, device: str) -> pd.DataFrame:
    """The original study's configurations of a device ("cpu" or "gpu"): rates in img/s with their
    intervals, from the median steps in data/original_study.csv."""
    rows = pd.read_csv(path)
    rows = rows[rows["device"] == device].reset_index(drop=True)
    times = {"rate": "median_step_time_s", "rate_low": "ci_high", "rate_high": "ci_low"}
    for rate, seconds in times.items():
        rows[rate] = rows["images_per_step"] / rows[seconds]
    return rows


def read_environment(folder: Path) -> dict[str, Any]:
    """The machine and software of a sweep; empty for results that do not record them."""
    try:
        environment = json.loads(sorted(folder.rglob("environment.json"))[0].read_text())
        environment = {**environment["recorded"], **environment["identity"]}
        return environment if {"cpu_model", "cores_granted"} <= environment.keys() else {}
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return {}


def machine_name(session: Path) -> str:
    """Processor and instruction set: two processors may be called by the same name."""
    environment = read_environment(session)
    if not environment:
        return "machine not recorded"
    return f"{environment['cpu_model']}, {environment.get('cpu_capability', 'not recorded')}"


# ---- runs


def run_table(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per run: rate in img/s; times of a step and of its parts, means over steps and ranks,
    in s. Each run is in the series that it belongs to, so it may be there twice."""
    table = []
    for key, run in rows.groupby([*ROUND, *KEY], sort=False):
        table.append(dict(zip([*ROUND, *KEY], key, strict=True)) | summarise_run(run))
    return name_series(derive_scaling(pd.DataFrame(table)))


def summarise_run(run: pd.DataFrame) -> dict[str, float]:
    """What a run's rows amount to.

    A step's time is its slowest rank's; ranks without communication have no step in common: there
    the slowest rank's sum over all its steps counts. Communication is copying gradients back (ddp:
    after the last all-reduce was complete), transfer (what the rank that waited least in a step
    shows) and waiting, to which belongs what a faster rank has left when the slowest ends: so the
    parts add up to the step.
    """
    timed = run[run["warmup"] == 0]
    total = timed.groupby("step")["step_time"].max().sum()
    if run["mode"].iloc[0] == "no_communication":
        total = timed.groupby("rank")["step_time"].sum().max()
    step = total / timed["step"].nunique()
    reducing = timed["communication_time"] - timed["ddp_time"].fillna(0)
    transfer = reducing.groupby(timed["step"]).transform("min")
    waiting = reducing - transfer + step - timed["step_time"].mean()
    timed = timed.assign(transfer_time=transfer, waiting_time=waiting)
    cold = run[run["step"] == 0]
    is_emulated = bool(run["cpu_share"].iloc[0])
    summary = {
        "rate": timed["images"].sum() / total,
        "step_time": step,
        # In its first step an emulated device has the whole core.
        "cold_step_time": math.nan if is_emulated else cold["step_time"].max(),
        "cold_faults": cold["minor_faults"].mean(),
        "original_time": (run["loading_time"] + run["compute_time"]).mean(),
    }
    for part in [*PARTS, "compute"]:
        summary[part] = timed[f"{part}_time"].mean()
    for name in KERNEL:
        summary[name] = timed[name].mean()
    summary["host_ahead"] = timed["host_ahead_time"].median()
    for name in MEMORY:
        summary[name.removesuffix("_bytes")] = run[name].max()
    return summary


def derive_scaling(runs: pd.DataFrame) -> pd.DataFrame:
    """Each run in the series that it belongs to: strong (the same total batch), weak (the same
    images per device), or both. The original study's rows are strong by definition."""
    same = "precision channels_last loader dataset named_options model memory cpu_share".split()
    runs = runs.assign(named_options=options_to_compare(runs))
    new = runs["scaling"] == ""
    weak = runs[new & (runs["batch_size"] % runs["num_devices"] == 0)].assign(scaling="weak")
    # A weak series has data-parallel runs on more than one number of devices.
    per_device = weak["batch_size"] // weak["num_devices"]
    counts = weak["num_devices"].where(weak["mode"] == "ddp")
    counts = counts.groupby([per_device, *(weak[name] for name in same)])
    weak = weak[counts.transform("nunique") > 1]
    strong = runs[new].assign(scaling="strong")
    counts = strong["num_devices"].groupby([strong[name] for name in ["batch_size", *same]])
    only_weak = (counts.transform("nunique") == 1) & strong.index.isin(weak.index)
    runs = pd.concat([runs[~new], strong[~only_weak], weak], ignore_index=True)
    return runs.drop(columns="named_options")


def options_to_compare(runs: pd.DataFrame) -> pd.Series:
    """The options that a series has in common: whether a card's memory made a run recompute
    activations is a mark on its point."""
    return runs["options"].str.replace(r";?checkpoint=\d", "", regex=True).str.strip(";")


def name_series(runs: pd.DataFrame) -> pd.DataFrame:
    """Names what each run is compared within: its batch (weak scaling: a device's), settings."""
    weak = runs["scaling"] == "weak"
    batch = runs["batch_size"].where(~weak, runs["batch_size"] // runs["num_devices"]).astype(str)
    names = ("batch " + batch).where(~weak, batch + " images per device")
    single = runs["mode"] == "single_process"
    # A single process has the ranks' threads and micro-batches, and is compared with them; where
    # nothing is pinned the launcher chose the threads.
    ignored = {
        "threads": single | runs["options"].str.contains("pinned=0"),
        # Where memory decides, one line of a batch has points in micro-batches and others.
        "micro_batches": single | runs["options"].str.contains("on_oom=accumulate"),
    }
    words = dict.fromkeys(("precision", "dataset", "options", "model"), "")
    words["cpu_share"] = "shares of "
    compared = runs.assign(options=options_to_compare(runs))
    for name in SETTINGS[1:]:
        given = compared[name].mask(ignored[name], "") if name in ignored else runs[name]
        if len(set(given) - {""}) > 1 or name in ("options", "cpu_share", "bucket_cap_mb"):
            names += (f", {words.get(name, f'{name} ')}" + given).where(given != "", "")
    return runs.assign(series=names)


# ---- intervals


def median_interval(values: Any) -> Interval:
    """Median with its exact rank interval of at least 95 %, or with the range below 6 values: the
    k-th smallest and k-th largest of n cover it with 1 - 2 P(Binomial(n, 1/2) < k)."""
    values = np.sort(np.asarray(values, dtype=float))
    rank = max(1, int(stats.binom.ppf(0.025, len(values), 0.5)))
    return float(np.median(values)), float(values[rank - 1]), float(values[-rank])


def mean_interval(values: Any) -> Interval:
    """Mean with Student's 95 % interval, or with the range below 6 values: for parts of a step,
    which add up as means do."""
    values = np.asarray(values, dtype=float)
    mean = float(np.mean(values))
    if len(values) < ENOUGH:
        return mean, float(values.min()), float(values.max())
    half = float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))
    return mean, mean - half, mean + half


def ratio_interval(over: Any, under: Any) -> Interval:
    """Ratio of two medians that share no rounds with its 95 % bootstrap interval over the runs of
    both, or the range of their extremes below 6 of either."""
    over, under = np.asarray(over, dtype=float), np.asarray(under, dtype=float)

    def ratio(above: np.ndarray, below: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.median(above, axis=axis) / np.median(below, axis=axis)

    if min(len(over), len(under)) < ENOUGH:
        return float(ratio(over, under)), over.min() / under.max(), over.max() / under.min()
    found = stats.bootstrap((over, under), ratio, method="percentile", rng=0).confidence_interval
    return float(ratio(over, under)), float(found.low), float(found.high)


def by_round(runs: pd.DataFrame, name: str = "rate") -> pd.Series:
    """A quantity of one configuration, by session and round."""
    return runs.groupby(ROUND)[name].mean()


def paired_ratios(over: pd.DataFrame, under: pd.DataFrame, name: str = "rate") -> pd.Series:
    """Ratios of two configurations, one for each round that has both."""
    return (by_round(over, name) / by_round(under, name)).dropna()


def paired_interval(over: pd.DataFrame, under: pd.DataFrame, name: str = "rate") -> Interval:
    """Ratio of two configurations: the median over the rounds that have both, with its interval;
    of their medians where they share no round."""
    ratios = paired_ratios(over, under, name)
    return median_interval(ratios) if len(ratios) else ratio_interval(over[name], under[name])


def named_interval(name: str, values: Any) -> dict[str, float]:
    """Three columns of a table: rate, rate_low, rate_high."""
    return {name + end: value for end, value in zip(ENDS, values, strict=True)}


# ---- tables that every sweep has


def configuration_table(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per configuration: medians over its runs, parts as means over them, speed-up against
    the fewest devices of its series; all with intervals, but for a base against itself."""
    table = []
    for key, own in runs.groupby(["series", *KEY], sort=False):
        row = dict(zip(["series", *KEY], key, strict=True))
        row |= {"runs": len(own), "interval": "95 %" if len(own) >= ENOUGH else "range"}
        for name in ("rate", "step_time", "cold_step_time"):
            row |= named_interval(name, median_interval(own[name]))
        row["rate_original_method"] = row["batch_size"] / own["original_time"].mean()
        for part in [*PARTS, "compute", *KERNEL]:
            row |= named_interval(part, mean_interval(own[part]))
        if own["host_ahead"].notna().any():  # of a GPU, whose host may run ahead
            row["host_ahead"] = own["host_ahead"].median()
        for name in MEMORY:
            row[name.removesuffix("_bytes")] = own[name.removesuffix("_bytes")].max()
        table.append(row | speedup_of(own, runs[runs["series"] == row["series"]]))
    order = ["scaling", "batch_size", "series", "num_devices", "mode"]
    return pd.DataFrame(table).sort_values(order, ignore_index=True)


def speedup_of(own: pd.DataFrame, series: pd.DataFrame) -> dict[str, float]:
    """Speed-up and efficiency of a configuration against the fewest data-parallel devices of its
    series, and the number of rounds that have both; nothing if there is no base."""
    ddp = series[series["mode"] == "ddp"]
    base = ddp[ddp["num_devices"] == ddp["num_devices"].min()]
    if base.empty:
        return {}
    devices, base_devices = own["num_devices"].iloc[0], base["num_devices"].iloc[0]
    speedup = paired_interval(own, base)
    if own["mode"].iloc[0] == "ddp" and devices == base_devices:
        speedup = (1.0, math.nan, math.nan)
    efficiency = [value * base_devices / devices for value in speedup]
    return {
        "base_devices": base_devices,
        "rounds": len(paired_ratios(own, base)),
        **named_interval("speedup", speedup),
        **named_interval("efficiency", efficiency),
    }


def bound_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Data parallel against each bound in the same round: median and interval of the ratios."""
    table = []
    for (series, devices), own in runs.groupby(["series", "num_devices"]):
        ddp = own[own["mode"] == "ddp"]
        for bound in ("no_communication", "single_process"):
            ratios = paired_ratios(ddp, own[own["mode"] == bound])
            if len(ratios):
                row = {"series": series, "num_devices": devices, "bound": bound}
                row |= {"rounds": len(ratios)} | named_interval("ratio", median_interval(ratios))
                table.append(row)
    return pd.DataFrame(table)


def main_series(table: pd.DataFrame) -> pd.DataFrame:
    """The data-parallel configurations of the strong series with the most runs (the first of those
    in alphabetical order, so glibc before kept), from fewest to most devices."""
    strong = table[(table["mode"] == "ddp") & (table["scaling"] != "weak")]
    if strong.empty:
        return strong
    return strong[strong["series"] == strong.groupby("series")["runs"].sum().idxmax()]


def clock_resolution(truth: pd.DataFrame) -> dict[str, float]:
    """For each part of a step the shortest sleep (s) from which on all were seen, by the
    injections of tests/test_training.py."""
    missed = truth[~truth["resolved"]].groupby("found_in")["slept_s"].max()
    longer = truth[truth["slept_s"] > truth["found_in"].map(missed).fillna(0)]
    return longer.groupby("found_in")["slept_s"].min().to_dict()
