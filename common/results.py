"""From rows to runs, statistics, tables and figures: what the plotting scripts and report share.

A row is a rank's step, a run is one file of rows, a configuration is all runs of equal settings.
Runs are the units of the statistics: a configuration is the median over its runs, with the exact
rank interval of at least 95 % from 6 runs on, and the range below. Files with the original study's
six columns (and num_gpus) are read too.
"""

import argparse
import io
import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  (the backend comes first)

ORIGINAL_COLUMNS = ["run_id", "num_devices", "batch_size", "loading_time", "compute_time", "rank"]
SETTINGS = ("scaling threads precision channels_last loader workers bucket_cap_mb micro_batches "
            "dataset options model memory cpu_share").split()  # never two in one point
KEY = ["num_devices", "batch_size", "mode", *SETTINGS]
NUMBERS = [*ORIGINAL_COLUMNS, "step", "warmup", "images", "step_time", "forward_time",
           "backward_time", "communication_time", "optimizer_time"]
# The parts of a step in Okabe and Ito's colours, which the colour-blind tell apart, with hatches.
PARTS = {"loading": ("#E69F00", ""), "forward": ("#56B4E9", ""), "backward": ("#0072B2", ""),
         "waiting": ("#D55E00", "//"), "transfer": ("#CC79A7", "xx"), "optimizer": ("#009E73", "")}
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
STYLE = {"figure.figsize": (6.4, 4.2), "savefig.dpi": 150, "savefig.bbox": "tight", "font.size": 10,
         "axes.titlesize": 10, "legend.fontsize": 8.5, "legend.frameon": False, "axes.grid": True,
         "axes.spines.top": False, "axes.spines.right": False, "axes.grid.axis": "y",
         "axes.axisbelow": True, "grid.alpha": 0.3, "pdf.fonttype": 42, "hatch.linewidth": 0.6,
         "text.parse_math": False}
TEX = str.maketrans({c: f"\\{c}" for c in "#$%&_{}"} | dict.fromkeys("\\~^\n\r", " "))
MEMORY = ["peak_memory_bytes", "predicted_memory_bytes"]
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
        if not original and "model" not in rows:  # older rows: of the one network and allocator
            rows = rows.assign(model="densenet121", memory="glibc")
        rows = rows.reindex(columns=[*NUMBERS, *KEY[2:], *MEMORY], fill_value="")
        rows[NUMBERS] = rows[NUMBERS].apply(pd.to_numeric)
    except (OSError, ValueError) as error:
        raise ResultsError(f"unreadable ({str(error).splitlines()[0]})") from None
    if original:
        rows = rows.assign(step=0, warmup=0, mode="ddp", scaling="strong", dataset="not recorded")
        rows["images"] = rows["batch_size"] // rows["num_devices"]  # it drops the remainder
        rows["step_time"] = rows["loading_time"] + rows["compute_time"]
    needed = rows[NUMBERS if not original else [*ORIGINAL_COLUMNS, "images"]]
    whole = rows[["run_id", "rank", "num_devices", "batch_size"]]
    bad = [~needed.ge(0), ~needed.le(1e9), whole % 1 > 0, whole.iloc[:, 2:] < 1,
           rows[["step_time"]] <= 0]
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


def read_results(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """All rows below a folder, the configurations that were skipped, and what was left out."""
    runs, problems, seen = [], [], {}
    skipped = [pd.DataFrame(columns=["num_devices", "batch_size", "reason"])]
    for path in [*sorted(folder.rglob("times_run*.csv")), *sorted(folder.rglob("skipped.csv"))]:
        try:
            if path.name == "skipped.csv":
                skipped.append(pd.read_csv(path)[["num_devices", "batch_size", "reason"]])
                continue
            rows = read_run(path)
            key = tuple(rows[["run_id", *KEY]].iloc[0])
            if key in seen:
                raise ResultsError(f"the same run of the same configuration as {seen[key]}")
        except (ResultsError, OSError, ValueError, KeyError) as error:
            problems.append(f"{path}: {str(error).splitlines()[0]}")
            continue
        seen[key] = path
        runs.append(rows)
    if not runs:
        found = "no run can be used in" if problems else "there are no results in"
        raise ResultsError("\n".join([*problems, f"{found} {folder}: run the sweep first"]))
    return pd.concat(runs, ignore_index=True), pd.concat(skipped), problems


def run_table(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per run: rate in img/s; times of a step and of its parts, means over steps, in s. A
    step's time is its slowest rank's; ranks without communication have no step in common: there
    the slowest rank's sum over all its steps counts."""
    table = []
    for key, run in rows.groupby(["run_id", *KEY], sort=False):
        timed = run[run["warmup"] == 0]
        total = timed.groupby("step")["step_time"].max().sum()
        if run["mode"].iloc[0] == "no_communication":
            total = timed.groupby("rank")["step_time"].sum().max()
        # In a step, the rank that waited least shows what the transfer alone takes.
        transfer = timed.groupby("step")["communication_time"].transform("min")
        waiting = timed["communication_time"] - transfer
        timed = timed.assign(transfer_time=transfer, waiting_time=waiting)
        table.append(dict(zip(["run_id", *KEY], key, strict=True)) | {
            "rate": timed["images"].sum() / total,
            "step_time": total / timed["step"].nunique(),
            "cold_step_time": run[run["step"] == 0]["step_time"].max(),
            "original_time": (run["loading_time"] + run["compute_time"]).mean(),
            **{part: timed[f"{part}_time"].mean() for part in [*PARTS, "compute"]},
            **{name.removesuffix("_bytes"): pd.to_numeric(run[name]).max() for name in MEMORY},
        })
    return name_series(derive_scaling(pd.DataFrame(table)))


def derive_scaling(runs: pd.DataFrame) -> pd.DataFrame:
    """Each run in the series that it belongs to: strong (the same total batch), weak (the same
    images per device), or both. Older rows name their series themselves."""
    new = runs["scaling"] == ""
    weak = runs[new & (runs["batch_size"] % runs["num_devices"] == 0)].assign(scaling="weak")
    same = ["precision", "channels_last", "loader", "dataset", "options", "model", "memory"]
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
        if len(set(given) - {""}) > 1 or name == "options":
            short = name in ("precision", "dataset", "options", "model")
            names += (", " + ("" if short else f"{name} ") + given).where(given != "", "")
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


def ratio_interval(over: np.ndarray, under: np.ndarray) -> tuple[float, float, float]:
    """Ratio of two medians with its 95 % bootstrap interval over the runs of both (percentiles of
    10 000 resamples), or with the range that their extremes allow below 6 runs of either."""
    over, under = np.asarray(over, dtype=float), np.asarray(under, dtype=float)
    low, high = over.min() / under.max(), over.max() / under.min()
    if min(len(over), len(under)) >= 6:
        choose = np.random.default_rng(0).choice
        medians = [np.median(choose(runs, (10_000, len(runs))), axis=1) for runs in (over, under)]
        low, high = np.quantile(medians[0] / medians[1], [0.025, 0.975])
    return float(np.median(over) / np.median(under)), float(low), float(high)


def configuration_table(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per configuration: medians over its runs, intervals, speed-up against the fewest
    devices of its series."""
    table = []
    for key, own in runs.groupby(["series", *KEY], sort=False):
        row = dict(zip(["series", *KEY], key, strict=True))
        row |= {"runs": len(own), "interval": "95 %" if len(own) >= 6 else "range"}
        for name, values in (("rate", "rate"), ("step_time",) * 2, ("cold_step_time",) * 2,
                             ("median_transfer", "transfer"), ("median_backward", "backward")):
            row |= named_interval(name, median_interval(own[values]))
        row["rate_original_method"] = row["batch_size"] / own["original_time"].mean()
        # Parts come from the run of median step time, so that they add up to a step that was.
        typical = own.sort_values("step_time").iloc[(len(own) - 1) // 2]
        row |= {part: typical[part] for part in [*PARTS, "compute"]}
        row |= own[["peak_memory", "predicted_memory"]].max().to_dict()
        same = runs[(runs["series"] == row["series"]) & (runs["mode"] == "ddp")]
        base = same[same["num_devices"] == same["num_devices"].min()]
        if len(base):
            row["base_devices"] = base["num_devices"].iloc[0]
            share = row["base_devices"] / row["num_devices"]
            speedup = ratio_interval(own["rate"], base["rate"])
            row |= named_interval("speedup", speedup)
            row |= named_interval("efficiency", [value * share for value in speedup])
        table.append(row)
    order = ["scaling", "batch_size", "series", "num_devices", "mode"]
    return pd.DataFrame(table).sort_values(order, ignore_index=True)


def paired_ratios(runs: pd.DataFrame) -> pd.DataFrame:
    """Data parallel against each bound in the same round: median and interval of the ratios.

    A round's runs are neighbours in time, so the drift of the machine is in both and cancels.
    """
    rates = runs.pivot_table(index=["series", "num_devices", "run_id"], columns="mode",
                             values="rate")
    table = []
    for (series, devices), own in rates.groupby(level=[0, 1]):
        for bound in own.columns.intersection(["no_communication", "single_process"]):
            ratios = (own["ddp"] / own[bound]).dropna() if "ddp" in own else []
            if len(ratios):
                table.append({"series": series, "num_devices": devices, "bound": bound,
                              "rounds": len(ratios),
                              **named_interval("ratio", median_interval(ratios))})
    return pd.DataFrame(table)


def named_interval(name: str, values: Any) -> dict[str, float]:
    return {name + end: value for end, value in zip(ENDS, values, strict=True)}


def interval_text(row: Any, name: str, digits: int | None = 2, scale: float = 1.0) -> str:
    """median [low, high] of a table's row; digits None: three significant ones."""
    values = [row[name + end] for end in ENDS] if name in row else [math.nan]
    if any(pd.isna(values)):
        return "-"
    form = "#.3g" if digits is None else f".{digits}f"
    median, low, high = (format(scale * value, form) for value in values)
    return f"{median} [{low}, {high}]"


def main_series(table: pd.DataFrame) -> pd.DataFrame:
    """The data-parallel configurations of the first strong series, from fewest to most devices."""
    strong = table[(table["mode"] == "ddp") & (table["scaling"] != "weak")]
    return strong[strong["series"] == strong["series"].iloc[0]] if len(strong) else strong


def read_environment(folder: Path) -> dict[str, Any]:
    """The machine and software of a sweep; empty for results that do not record them."""
    try:
        environment = json.loads((folder / "environment.json").read_text())
        environment = {**environment["recorded"], **environment["identity"]}
        return environment if {"cpu_model", "cores_granted"} <= environment.keys() else {}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}


def make_title(environment: dict[str, Any], runs: pd.DataFrame) -> str:
    """Network, machine, precision and data, as each figure says them."""
    machine = "machine not recorded"
    if environment:
        cpu = f"{environment['cpu_model']!s:.60}, cores: {environment['cores_granted']!s:.9}"
        machine = environment.get("gpu_model", cpu)
    precision = "+".join(sorted(set(runs["precision"]) - {""})) or "precision not recorded"
    network = "+".join(sorted(set(runs["model"]) - {""})) or "DenseNet121"
    data = "; ".join(sorted(set(runs["dataset"])))
    return f"{network:.60}, {machine!s:.80}, {precision:.40}\ndata: {data:.90}"


def what_is_drawn(table: pd.DataFrame) -> str:
    """What the markers mean, with the number of runs and the kind of interval."""
    counts, kinds = sorted(set(table["runs"])), sorted(set(table["interval"]))
    several = " to ".join(map(str, sorted({counts[0], counts[-1]})))
    kinds = " or ".join({"95 %": "95 % interval", "range": "range of the runs"}[k] for k in kinds)
    return f"dots: runs ({several} per configuration); markers: median, {kinds}"


def why_missing(skipped: pd.DataFrame, table: pd.DataFrame, device: str) -> list[str]:
    """Lines on the device counts that have no point, with the reasons that the sweep left."""
    there = set(zip(table["num_devices"], table["batch_size"], strict=True))
    points = zip(skipped["num_devices"], skipped["batch_size"], strict=True)
    missing = skipped[pd.Series([point not in there for point in points], skipped.index, bool)]
    reasons = missing["reason"].astype(str).str.replace(
        r"needs \d+ of (\d+) cores", r"\1 are here", regex=True)
    def listed(values: pd.Series) -> str:
        return ", ".join(map(str, sorted(set(values))))

    return [f"not measured: batch {listed(own['batch_size'])} on {listed(own['num_devices'])} "
            f"{device} ({reason})" for reason, own in missing.groupby(reasons)]


def note_below(axes: plt.Axes, *lines: str) -> None:
    axes.annotate("\n".join(filter(None, lines)), (0, 0), (0, -36), "axes fraction", va="top",
                  fontsize=8, textcoords="offset points", color="#444444")


def error_bars(rows: pd.DataFrame, name: str) -> list[pd.Series]:
    return [rows[name] - rows[f"{name}_low"], rows[f"{name}_high"] - rows[name]]


def stacked_parts(axes: plt.Axes, table: pd.DataFrame, width: float, scale: Any = 1.0) -> None:
    """A bar per row of the table: the parts of a step, on top of each other."""
    places, bottom = np.arange(len(table)), np.zeros(len(table))
    for part, (colour, hatch) in PARTS.items():
        height = table[part].fillna(0).to_numpy() * scale
        if height.any():
            axes.bar(places, height, width, bottom, color=colour, hatch=hatch, edgecolor="white",
                     linewidth=0, label=part)
        bottom += height


def save(figure: plt.Figure, path: Path) -> None:
    """A figure as PNG and as PDF; without a date in them, equal data give equal files."""
    figure.savefig(path.with_suffix(".png"))
    figure.savefig(path.with_suffix(".pdf"), metadata={"CreationDate": None})
    plt.close(figure)


def tex_rows(rows: list[list[Any]]) -> str:
    """Lines of a LaTeX table, harmless whatever the cells hold; no cell, a space between lines."""
    lines = [" & ".join(str(cell).translate(TEX) for cell in row) + r" \\" if row else
             r"\addlinespace" for row in rows]
    return "\n".join([*lines, ""])


def plots_folder(results: Path) -> Path:
    """Where figures go by default: cpu_run_own -> cpu_plots_own, runs -> plots."""
    name = re.sub("experiments|runs|run", "plots", results.name, count=1)
    return results.with_name(name if name != results.name else f"{name}_plots")


def read_arguments(doc: str, published: Path) -> argparse.Namespace:
    """Which results to draw (own ones if there are any, else the published), and where to."""
    own = published.with_name(f"{published.name}_own")
    default = own if any(own.rglob("times_run*.csv")) else published
    parser = argparse.ArgumentParser(description=doc.split("\n\n")[0])
    add = parser.add_argument
    add("results", nargs="?", type=Path, default=default,
        help="folder with a sweep's CSV files (default: own results, else the published ones)")
    add("--output", type=Path, help="folder for the figures (default: beside the results)")
    add("--method", choices=["sound", "original"], default="sound",
        help="original: also read the files as the original study did")
    add("--against", type=Path, help="results to compare with, like the published ones")
    args = parser.parse_args()
    args.results = args.results.absolute()
    args.output = args.output or plots_folder(args.results)
    args.published = args.results == published
    return args


def read_tables(args: argparse.Namespace) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, list]:
    """Runs, configurations, what was skipped, problems; ends the process if nothing can be read."""
    try:
        rows, skipped, problems = read_results(args.results)
        runs = run_table(rows)
        args.output.mkdir(parents=True, exist_ok=True)
    except (ResultsError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    return runs, configuration_table(runs), skipped, problems


def print_table(table: pd.DataFrame, device: str, original: bool) -> None:
    """The configurations, aligned."""
    shown = pd.DataFrame({
        "configuration": table["series"], "mode": table["mode"], device: table["num_devices"],
        "runs": table["runs"], "interval": table["interval"],
        **{head: [interval_text(row, name, None) for _, row in table.iterrows()] for head, name in (
            ("img/s", "rate"), ("step (s)", "step_time"), ("first step (s)", "cold_step_time"),
            ("speed-up", "speedup"), ("efficiency", "efficiency"))},
    })
    if original:
        shown["img/s, original's method"] = table["rate_original_method"].round(4)
    print(shown.to_string(index=False))


def print_against(runs: pd.DataFrame, folder: Path) -> None:
    """The rates of equal configurations, and their ratio, for results of two folders."""
    try:
        others = run_table(read_results(folder)[0])
    except ResultsError as error:
        print(f"not compared: {error}", file=sys.stderr)
        return
    lines, groups = [], dict(list(others.groupby(KEY)["rate"]))
    for key, own in runs.groupby(KEY, sort=False):
        if key in groups:
            values = (median_interval(own["rate"]), median_interval(groups[key]),
                      ratio_interval(own["rate"], groups[key]))
            texts = [interval_text(named_interval("x", value), "x") for value in values]
            lines.append([own["series"].iloc[0], *key[2:3], key[0], *texts])
    head = ["configuration", "mode", "devices", "img/s here", "img/s there", "here / there"]
    print(f"\nagainst {folder} (two machines or days differ in absolute rates: compare ratios)")
    print(pd.DataFrame(lines, columns=head).to_string(index=False) if lines else
          "no configuration is in both")


def finish(args: argparse.Namespace, runs: pd.DataFrame, problems: list[str]) -> None:
    """Say where the figures are, compare, and end: 0, or 1 if some files were left out."""
    if args.against:
        print_against(runs, args.against)
    for problem in problems:
        print(f"left out: {problem}", file=sys.stderr)
    kind = "published" if args.published else "own"
    print(f"figures and summary.csv of {kind} results are in {args.output}")
    sys.exit(len(problems) > 0)
