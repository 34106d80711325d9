"""From rows to runs, statistics and tables: what the plotting scripts and the report share.

A row is a rank's step, a run is one file of rows, a configuration is all runs of equal settings, an
occasion is a sweep's folder. Runs are the units of the statistics: a configuration is the median
over its runs, with the exact rank interval of at least 95 % from 6 runs on, and the range below.
A ratio is taken within each round, where the drift of the machine is in both and cancels. Parts of
a step are means, so that they add up. Files with the original study's six columns (and num_gpus)
are read too.
"""

import io
import json
import math
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd

ORIGINAL_COLUMNS = ["run_id", "num_devices", "batch_size", "loading_time", "compute_time", "rank"]
SETTINGS = ("scaling threads precision channels_last loader workers bucket_cap_mb micro_batches "
            "dataset options model memory cpu_share").split()  # never two in one point
KEY = ["num_devices", "batch_size", "mode", *SETTINGS]
NUMBERS = [*ORIGINAL_COLUMNS, "step", "warmup", "images", "step_time", "forward_time",
           "backward_time", "communication_time", "optimizer_time"]
PARTS = ["loading", "forward", "backward", "ddp", "transfer", "waiting", "optimizer"]
KERNEL = ["user_time", "system_time", "minor_faults"]  # what the kernel did, per step and rank
MEMORY = ["peak_memory_bytes", "reserved_memory_bytes", "predicted_memory_bytes"]
OPTIONAL = ["ddp_time", *KERNEL, *MEMORY]  # older rows, and some devices, lack them
ROUND = ["occasion", "run_id"]
TERMS = ["ideal", "contention", "slowed_backward", "ddp", "transfer", "waiting", "remainder"]
WORDS = {"precision": "", "dataset": "", "options": "", "model": "", "cpu_share": "shares of "}
UNFAIR = "oversubscribe|share_gpu"  # options whose rows never enter a scaling figure
ENDS = ("", "_low", "_high")


class ResultsError(Exception):
    """Results that cannot be used, and why."""


def read_run(path: Path) -> pd.DataFrame:
    """The rows of one run's file; raises ResultsError unless they are one whole run."""
    try:
        text = path.read_text().replace("\0", "NUL")  # which pandas takes for the end of a text
        rows = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
        rows = rows.rename(columns={"num_gpus": "num_devices"})
        missing = [name for name in ORIGINAL_COLUMNS if name not in rows]
        if missing or rows.empty or not text.endswith("\n"):
            raise ResultsError(f"lacks {', '.join(missing) or 'rows, or the end of its last line'}")
        original = "step" not in rows
        rows = rows.reindex(columns=[*NUMBERS, *KEY[2:], *OPTIONAL], fill_value="")
        numbers = [*NUMBERS, *OPTIONAL]
        rows[numbers] = rows[numbers].apply(pd.to_numeric)
    except (OSError, ValueError) as error:
        raise ResultsError(f"unreadable ({str(error).splitlines()[0]})") from None
    if original:
        rows = rows.assign(step=0, warmup=0, mode="ddp", scaling="strong", dataset="not recorded")
        rows["images"] = rows["batch_size"] // rows["num_devices"]  # it drops the remainder
        rows["step_time"] = rows["loading_time"] + rows["compute_time"]
    needed = rows[NUMBERS if not original else [*ORIGINAL_COLUMNS, "images"]]
    whole = rows[["run_id", "rank", "num_devices", "batch_size"]]
    optional = rows[OPTIONAL].fillna(0)
    bad = [~needed.ge(0), ~needed.le(1e9), optional < 0, optional > 1e15, whole % 1 > 0,
           whole.iloc[:, 2:] < 1, rows[["step_time"]] <= 0]
    if any(part.any(axis=None) for part in bad):
        raise ResultsError("truncated or damaged: empty or impossible numbers")
    mixed = [name for name in ["run_id", *KEY] if rows[name].nunique() != 1]
    if mixed:
        raise ResultsError(f"mixed: more than one {mixed[0]} in one run")
    check_complete(rows, int(rows["num_devices"].iloc[0]) if original else 1)
    return rows


def check_complete(rows: pd.DataFrame, dropped_by: int) -> None:
    """Raise ResultsError unless each rank has each step once and a step has its whole batch."""
    ranks, steps = rows["rank"].nunique(), rows["step"].nunique()
    expected = {(rank, step) for rank in range(ranks) for step in range(steps)}
    found = set(zip(rows["rank"], rows["step"], strict=True))
    batch = rows["batch_size"].iloc[0] // dropped_by * dropped_by
    images = rows.groupby("step")["images"].sum()
    if found != expected or len(rows) != len(expected) or (images != batch).any():
        raise ResultsError("truncated or repeated: some rank's step is missing or there twice")
    if rows["warmup"].all():
        raise ResultsError("has warm-up steps only")


def occasions_of(published: Path) -> list[Path]:
    """A published sweep's folders, one for each occasion: cpu_run, cpu_run_2 and so on."""
    return [published, *sorted(published.parent.glob(f"{published.name}_[0-9]*"))]


def read_results(*folders: Path) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """All rows below the folders, each an occasion; the configurations that were skipped; and what
    was left out, with the reason."""
    if len({folder.name for folder in folders}) < len(folders):
        raise ResultsError("occasions are told apart by their folders' names: two have the same")
    runs, problems, seen = [], [], {}
    skipped = [pd.DataFrame(columns=["num_devices", "batch_size", "reason"])]
    paths = [(folder, path) for folder in folders for name in ("times_run*.csv", "skipped.csv")
             for path in sorted(folder.rglob(name))]
    for folder, path in paths:
        try:
            if path.name == "skipped.csv":
                skipped.append(pd.read_csv(path)[["num_devices", "batch_size", "reason"]])
                continue
            rows = read_run(path)
            key = (folder, *rows[["run_id", *KEY]].iloc[0])
            if key in seen:
                raise ResultsError(f"the same run of the same configuration as {seen[key]}")
        except (ResultsError, OSError, ValueError, KeyError) as error:
            problems.append(f"{path}: {str(error).splitlines()[0]}")
            continue
        seen[key] = path
        runs.append(rows.assign(occasion=folder.name))
    if not runs:
        found = "no run can be used in" if problems else "there are no results in"
        names = ", ".join(map(str, folders))
        raise ResultsError("\n".join([*problems, f"{found} {names}: run the sweep first"]))
    return pd.concat(runs, ignore_index=True), pd.concat(skipped), problems


def run_table(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per run: rate in img/s; times of a step and of its parts, means over steps and ranks,
    in s. A step's time is its slowest rank's; ranks without communication have no step in common:
    there the slowest rank's sum over all its steps counts.

    Communication is DDP's own work (after the last all-reduce was complete), transfer (what the
    rank that waited least in a step shows) and waiting, to which belongs what a faster rank has
    left when the slowest ends: so the parts add up to the step.
    """
    table = []
    for key, run in rows.groupby([*ROUND, *KEY], sort=False):
        timed = run[run["warmup"] == 0]
        total = timed.groupby("step")["step_time"].max().sum()
        if run["mode"].iloc[0] == "no_communication":
            total = timed.groupby("rank")["step_time"].sum().max()
        reducing = timed["communication_time"] - timed["ddp_time"].fillna(0)
        timed = timed.assign(transfer_time=reducing.groupby(timed["step"]).transform("min"))
        step = total / timed["step"].nunique()
        waiting = reducing - timed["transfer_time"] + step - timed["step_time"].mean()
        timed = timed.assign(waiting_time=waiting)
        table.append(dict(zip([*ROUND, *KEY], key, strict=True)) | {
            "rate": timed["images"].sum() / total, "step_time": step,
            "cold_step_time": math.nan if run["cpu_share"].iloc[0] else  # not yet in its share
            run[run["step"] == 0]["step_time"].max(),
            "cold_faults": run[run["step"] == 0]["minor_faults"].mean(),
            "original_time": (run["loading_time"] + run["compute_time"]).mean(),
            **{part: timed[f"{part}_time"].mean() for part in [*PARTS, "compute"]},
            **timed[KERNEL].mean(),
            **{name.removesuffix("_bytes"): run[name].max() for name in MEMORY},
        })
    return name_series(derive_scaling(pd.DataFrame(table)))


def derive_scaling(runs: pd.DataFrame) -> pd.DataFrame:
    """Each run in the series that it belongs to: strong (the same total batch), weak (the same
    images per device), or both. The original study's rows are strong by definition."""
    new = runs["scaling"] == ""
    weak = runs[new & (runs["batch_size"] % runs["num_devices"] == 0)].assign(scaling="weak")
    same = "precision channels_last loader dataset options model memory cpu_share".split()
    counts = weak["num_devices"].where(weak["mode"] == "ddp")
    weak = weak[counts.groupby([weak["batch_size"] // weak["num_devices"],
                                *(weak[name] for name in same)]).transform("nunique") > 1]
    strong = runs[new].assign(scaling="strong")
    counts = strong["num_devices"].groupby([strong[n] for n in ["batch_size", *same]])
    only_weak = (counts.transform("nunique") == 1) & strong.index.isin(weak.index)
    return pd.concat([runs[~new], strong[~only_weak], weak], ignore_index=True)


def name_series(runs: pd.DataFrame) -> pd.DataFrame:
    """Names what each run is compared within: its batch (weak scaling: a device's), settings."""
    weak = runs["scaling"] == "weak"
    batch = runs["batch_size"].where(~weak, runs["batch_size"] // runs["num_devices"]).astype(str)
    names = ("batch " + batch).where(~weak, batch + " images per device")
    for name in SETTINGS[2:]:
        # A single process has the ranks' micro-batches, and is compared with them.
        given = runs[name].where((runs["mode"] != "single_process") | (name != "micro_batches"), "")
        if len(set(given) - {""}) > 1 or name in ("options", "cpu_share", "bucket_cap_mb"):
            names += (f", {WORDS.get(name, f'{name} ')}" + given).where(given != "", "")
    return runs.assign(series=names)


def median_interval(values: np.ndarray) -> tuple[float, float, float]:
    """Median with its exact rank interval of at least 95 %, or with the range below 6 values: the
    k-th smallest and k-th largest of n cover it with 1 - 2 P(Binomial(n, 1/2) < k)."""
    values = np.sort(np.asarray(values, dtype=float))
    n, k, tail = len(values), 1, 0.5 ** len(values) * (1 + len(values))
    while 2 * tail <= 0.05:
        tail += math.comb(n, k + 1) * 0.5**n
        k += 1
    return float(np.median(values)), float(values[k - 1]), float(values[-k])


def mean_interval(values: Any) -> tuple[float, float, float]:
    """Mean with Student's 95 % interval, or with the range below 6 values: for parts of a step,
    which add up as means do. The quantile by Cornish and Fisher's series (0.1 % off at 6)."""
    values = np.asarray(values, dtype=float)
    n, z, mean = len(values), NormalDist().inv_cdf(0.975), float(np.mean(values))
    if n < 6:
        return mean, float(values.min()), float(values.max())
    t = z + (z**3 + z) / (4 * (n - 1)) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * (n - 1) ** 2)
    t += (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * (n - 1) ** 3)
    half = t * float(np.std(values, ddof=1)) / math.sqrt(n)
    return mean, mean - half, mean + half


def ratio_interval(over: np.ndarray, under: np.ndarray) -> tuple[float, float, float]:
    """Ratio of two medians that share no rounds with its 95 % bootstrap interval over the runs of
    both (percentiles of 10 000 resamples), or the range of their extremes below 6 of either."""
    over, under = np.asarray(over, dtype=float), np.asarray(under, dtype=float)
    low, high = over.min() / under.max(), over.max() / under.min()
    if min(len(over), len(under)) >= 6:
        choose = np.random.default_rng(0).choice
        medians = [np.median(choose(runs, (10_000, len(runs))), axis=1) for runs in (over, under)]
        low, high = np.quantile(medians[0] / medians[1], [0.025, 0.975])
    return float(np.median(over) / np.median(under)), float(low), float(high)


def by_round(runs: pd.DataFrame, name: str = "rate") -> pd.Series:
    """A quantity of one configuration, by occasion and round."""
    return runs.groupby(ROUND)[name].mean()


def paired_interval(over: pd.DataFrame, under: pd.DataFrame, name: str = "rate") -> tuple:
    """Ratio of two configurations: the median over the rounds that have both, with its interval;
    of their medians where they share no round."""
    ratios = (by_round(over, name) / by_round(under, name)).dropna()
    return median_interval(ratios) if len(ratios) else ratio_interval(over[name], under[name])


def configuration_table(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per configuration: medians over its runs, parts as means over them, speed-up against
    the fewest devices of its series; all with intervals, but for a base against itself."""
    table = []
    for key, own in runs.groupby(["series", *KEY], sort=False):
        row = dict(zip(["series", *KEY], key, strict=True))
        row |= {"runs": len(own), "interval": "95 %" if len(own) >= 6 else "range"}
        for name in ("rate", "step_time", "cold_step_time"):
            row |= named_interval(name, median_interval(own[name]))
        row["rate_original_method"] = row["batch_size"] / own["original_time"].mean()
        for part in [*PARTS, "compute", *KERNEL]:
            row |= named_interval(part, mean_interval(own[part]))
        row |= own[[name.removesuffix("_bytes") for name in MEMORY]].max().to_dict()
        same = runs[(runs["series"] == row["series"]) & (runs["mode"] == "ddp")]
        base = same[same["num_devices"] == same["num_devices"].min()]
        if len(base):
            row["base_devices"] = base["num_devices"].iloc[0]
            itself = row["mode"] == "ddp" and row["base_devices"] == row["num_devices"]
            speedup = (1.0, math.nan, math.nan) if itself else paired_interval(own, base)
            share = row["base_devices"] / row["num_devices"]
            row |= named_interval("speedup", speedup)
            row |= named_interval("efficiency", [value * share for value in speedup])
        table.append(row)
    order = ["scaling", "batch_size", "series", "num_devices", "mode"]
    return pd.DataFrame(table).sort_values(order, ignore_index=True)


def paired_ratios(runs: pd.DataFrame) -> pd.DataFrame:
    """Data parallel against each bound in the same round: median and interval of the ratios."""
    table = []
    for (series, devices), own in runs.groupby(["series", "num_devices"]):
        ddp = own[own["mode"] == "ddp"]
        for bound in ("no_communication", "single_process"):
            ratios = (by_round(ddp) / by_round(own[own["mode"] == bound])).dropna()
            if len(ratios):
                table.append({"series": series, "num_devices": devices, "bound": bound,
                              "rounds": len(ratios),
                              **named_interval("ratio", median_interval(ratios))})
    return pd.DataFrame(table)


def loss_budget(runs: pd.DataFrame) -> pd.DataFrame:
    """Where the time of a step goes when each device has the same number of images: for each weak
    series and number of devices the TERMS in s, means over the rounds that have all it takes, with
    intervals. The ideal step is one device's without DDP; the remainder is a term of its own."""
    table = []
    weak = runs[runs["scaling"] == "weak"].copy()
    weak["busy"] = weak["step_time"] - weak["waiting"]  # without what a faster rank has left
    for series, own in weak.groupby("series", sort=False):
        ideal = by_round(own[(own["mode"] == "single_process") & (own["num_devices"] == 1)],
                         "step_time")
        for devices, rows in own[own["num_devices"] > 1].groupby("num_devices"):
            ddp, alone = (rows[rows["mode"] == mode] for mode in ("ddp", "no_communication"))
            terms = pd.DataFrame({
                "ideal": ideal, "contention": by_round(alone, "busy") - ideal,
                "slowed_backward": by_round(ddp, "backward") - by_round(alone, "backward"),
                **{name: by_round(ddp, name) for name in ("ddp", "transfer", "waiting")},
            })
            terms["step_time"] = by_round(ddp, "step_time")
            terms["remainder"] = terms["step_time"] - terms.drop(columns="step_time").sum(
                axis=1, skipna=False)
            terms = terms.dropna()
            if terms.empty:
                continue
            row = {"series": series, "num_devices": devices, "rounds": len(terms)}
            step = terms["step_time"].mean()
            for name in [*TERMS, "step_time"]:
                row |= named_interval(name, mean_interval(terms[name]))
                row |= named_interval(f"{name}_percent", mean_interval(100 * terms[name] / step))
            table.append(row)
    return pd.DataFrame(table)


def named_interval(name: str, values: Any) -> dict[str, float]:
    return {name + end: value for end, value in zip(ENDS, values, strict=True)}


def interval_text(row: Any, name: str, digits: int | None = 2) -> str:
    """median [low, high] of a table's row; digits None: three significant ones. A value without
    interval is the base of a ratio."""
    values = [row[name + end] for end in ENDS] if name in row else [math.nan]
    if any(pd.isna(values)):
        return "-" if pd.isna(values[0]) else "base"
    form = "#.3g" if digits is None else f".{digits}f"
    median, low, high = (format(value, form) for value in values)
    return f"{median} [{low}, {high}]"


def allocator_name(memory: str) -> str:
    """What the rows have as memory, in words."""
    names = {"MALLOC_CONF": "jemalloc, decay off", "THP": "glibc, huge pages"}
    return next((name for word, name in names.items() if word in memory), memory)


def clock_resolution() -> dict[str, float]:
    """For each part of a step the shortest sleep (s) from which on all were told from none, by the
    injections of tests/test_training.py."""
    truth = pd.read_csv(Path(__file__).resolve().parents[1] / "report" / "clock_truth.csv")
    missed = truth[~truth["resolved"]].groupby("found_in")["slept_s"].max()
    longer = truth[truth["slept_s"] > truth["found_in"].map(missed).fillna(0)]
    return longer.groupby("found_in")["slept_s"].min().to_dict()


def term_text(row: Any, term: str, least: float = 0.0) -> str:
    """A term of the loss budget in % of the step, unless the clock does not resolve it, or it is
    less than something in it (s)."""
    part = "communication" if term in ("ddp", "transfer", "waiting") else "backward"
    if abs(row[term]) < max(clock_resolution()[part], least):
        return "not resolved"
    return f"{interval_text(row, term + '_percent', 1)} %"


def main_series(table: pd.DataFrame) -> pd.DataFrame:
    """The data-parallel configurations of the strong series with the most runs (the first of those
    in alphabetical order, so glibc before kept), from fewest to most devices."""
    strong = table[(table["mode"] == "ddp") & (table["scaling"] != "weak")]
    if strong.empty:
        return strong
    return strong[strong["series"] == strong.groupby("series")["runs"].sum().idxmax()]


def read_environment(folder: Path) -> dict[str, Any]:
    """The machine and software of a sweep; empty for results that do not record them."""
    try:
        environment = json.loads(sorted(folder.rglob("environment.json"))[0].read_text())
        environment = {**environment["recorded"], **environment["identity"]}
        return environment if {"cpu_model", "cores_granted"} <= environment.keys() else {}
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return {}


