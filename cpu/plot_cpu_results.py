"""Figures, table and numbers of a CPU sweep: which rate, how efficient, where the time goes.

    python plot_cpu_results.py                         # cpu_run -> cpu_plots
    python plot_cpu_results.py RESULTS_DIR --output DIR
    python plot_cpu_results.py RESULTS_DIR --method original

Reads every times_run*.csv below RESULTS_DIR, the original study's six columns too. Runs are the
units of the statistics: a configuration is the median over its runs, with the exact rank interval
of at least 95 % from 6 runs on, and the range below. --method original adds the reading of the
original study: batch size / mean over all rows of (loading + compute).

Writes time_components_bar, throughput_line, efficiency_line and cold_vs_steady (.png, .pdf),
summary.csv and numbers.tex. Exit status: 0, 1 if some files were left out, 2 if nothing was left.
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

HERE = Path(__file__).resolve().parent
SWEEP = "./run_experiments.sh"

# ---- shared: byte for byte the same in cpu/plot_cpu_results.py and gpu/gpu_plots_ex_2.py
ORIGINAL_COLUMNS = ["run_id", "num_devices", "batch_size", "loading_time", "compute_time", "rank"]
SETTINGS = ("scaling threads precision channels_last loader workers bucket_cap_mb micro_batches "
            "dataset options").split()  # never two in one point
KEY = ["num_devices", "batch_size", "mode", *SETTINGS]
NUMBERS = [*ORIGINAL_COLUMNS, "step", "warmup", "images", "step_time", "forward_time",
           "backward_time", "communication_time", "optimizer_time"]  # fmt: skip
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
UNFAIR = "oversubscribe|share_gpu"  # options whose rows never enter a scaling figure


class ResultsError(Exception):
    """Results that cannot be used, and why."""


def read_run(path: Path) -> pd.DataFrame:
    """The rows of one run's file; raises ResultsError unless they are one whole run. A file of the
    original study has six columns (num_gpus for num_devices) and one step."""
    try:
        text = path.read_text().replace("\0", "NUL")  # which pandas takes for the end of a text
        rows = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
        rows = rows.rename(columns={"num_gpus": "num_devices"})
        missing = [name for name in ORIGINAL_COLUMNS if name not in rows]
        if missing or rows.empty or not text.endswith("\n"):
            raise ResultsError(f"lacks {', '.join(missing) or 'rows, or the end of its last line'}")
        original = "step" not in rows
        rows = rows.reindex(columns=[*NUMBERS, *KEY[2:], "peak_memory_bytes",
                                     "predicted_memory_bytes"], fill_value="")  # fmt: skip
        rows[NUMBERS] = rows[NUMBERS].apply(pd.to_numeric)
    except (OSError, ValueError) as error:
        raise ResultsError(f"unreadable ({str(error).splitlines()[0]})") from None
    if original:
        rows = rows.assign(step=0, warmup=0, mode="ddp", scaling="strong", dataset="not recorded")
        rows["images"] = rows["batch_size"] // rows["num_devices"]  # it drops the remainder
        rows["step_time"] = rows["loading_time"] + rows["compute_time"]
    needed = rows[NUMBERS if not original else [*ORIGINAL_COLUMNS, "images"]]
    whole = rows[["run_id", "rank", "num_devices", "batch_size"]]
    sound = needed.ge(0).all(axis=None) and needed.le(1e9).all(axis=None)
    if not sound or (whole % 1).any(axis=None) or (whole.iloc[:, 2:] < 1).any(axis=None) or (
            rows["step_time"] <= 0).any():
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
        raise ResultsError("\n".join([*problems, f"{found} {folder}: make some with {SWEEP}"]))
    return pd.concat(runs, ignore_index=True), pd.concat(skipped), problems


def run_table(rows: pd.DataFrame) -> pd.DataFrame:
    """One row a run: rate in img/s; times of a step and of its parts, means over steps, in s. A
    step's time is its slowest rank's; ranks that do not talk have none in common: there the slowest
    rank's sum over all its steps counts."""
    table = []
    for key, run in rows.groupby(["run_id", *KEY], sort=False):
        timed = run[run["warmup"] == 0]
        total = timed.groupby("step")["step_time"].max().sum()
        if run["mode"].iloc[0] == "no_communication":
            total = timed.groupby("rank")["step_time"].sum().max()
        # In a step, the rank that waited least shows what the transfer alone takes.
        transfer = timed.groupby("step")["communication_time"].transform("min")
        timed = timed.assign(
            transfer_time=transfer, waiting_time=timed["communication_time"] - transfer
        )
        table.append({
            **dict(zip(["run_id", *KEY], key, strict=True)),
            "rate": timed["images"].sum() / total,
            "step_time": total / timed["step"].nunique(),
            "cold_step_time": run[run["step"] == 0]["step_time"].max(),
            "original_time": (run["loading_time"] + run["compute_time"]).mean(),
            **{part: timed[f"{part}_time"].mean() for part in [*PARTS, "compute"]},
            "peak_memory": pd.to_numeric(run["peak_memory_bytes"]).max(),
            "predicted_memory": pd.to_numeric(run["predicted_memory_bytes"]).max(),
        })  # fmt: skip
    return pd.DataFrame(table)


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
    ratio = float(np.median(over) / np.median(under))
    if min(len(over), len(under)) < 6:
        return ratio, float(over.min() / under.max()), float(over.max() / under.min())
    choose = np.random.default_rng(0).choice
    medians = [np.median(choose(runs, (10_000, len(runs))), axis=1) for runs in (over, under)]
    low, high = np.quantile(medians[0] / medians[1], [0.025, 0.975])
    return ratio, float(low), float(high)


def name_series(runs: pd.DataFrame) -> pd.Series:
    """What each run is compared within: its batch (weak scaling: a device's) and its settings."""
    weak = runs["scaling"] == "weak"
    batch = runs["batch_size"].where(~weak, runs["batch_size"] // runs["num_devices"]).astype(str)
    names = "batch " + batch + weak.map({True: " a device, weak", False: ""})
    for name in SETTINGS[2:]:
        if runs[name].nunique() > 1 or name == "options":
            word = "" if name in ("precision", "dataset", "options") else f"{name} "
            names += (", " + word + runs[name]).where(runs[name] != "", "")
    return names


def configuration_table(runs: pd.DataFrame) -> pd.DataFrame:
    """One row a configuration: medians over its runs, intervals, speed-up against one device."""
    runs, table = runs.assign(series=name_series(runs)), []
    for key, own in runs.groupby(["series", *KEY], sort=False):
        row = dict(zip(["series", *KEY], key, strict=True))
        row |= {"runs": len(own), "interval": "95 %" if len(own) >= 6 else "range"}
        for name in ("rate", "step_time", "cold_step_time"):
            row[name], row[f"{name}_low"], row[f"{name}_high"] = median_interval(own[name])
        for part in ("transfer", "backward"):
            row |= dict(zip([f"median_{part}", f"median_{part}_low", f"median_{part}_high"],
                            median_interval(own[part]), strict=True))
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
            for name, value in zip(["", "_low", "_high"], speedup, strict=True):
                row[f"speedup{name}"], row[f"efficiency{name}"] = value, value * share
        table.append(row)
    order = ["scaling", "batch_size", "series", "num_devices", "mode"]
    return pd.DataFrame(table).sort_values(order, ignore_index=True)


def tex_definition(name: str, value: Any) -> str:
    r"""\csname name\endcsname as a number of 3 digits or a text, harmless whatever they hold."""
    text = f"{value:#.3g}" if isinstance(value, float) else str(value).translate(TEX)
    name = re.sub(r"[^A-Za-z0-9 ,./=+:;-]", "", name.replace("_", "-"))
    return rf"\expandafter\def\csname {name}\endcsname{{{text}}}"


def save(figure: plt.Figure, path: Path) -> None:
    """A figure as PNG and as PDF; without a date in them, equal data give equal files."""
    figure.savefig(path.with_suffix(".png"))
    figure.savefig(path.with_suffix(".pdf"), metadata={"CreationDate": None})
    plt.close(figure)
# ---- shared: end of the block


MODES = {  # how a mode is called, its marker, its line, and how far aside it is drawn
    "ddp": ("data parallel", "o", "-", 0),
    "no_communication": ("no communication", "^", ":", 0.04),
    "single_process": ("best single process (threads)", "s", "", -0.04),
}
INTERVALS = {"95 %": "95 % interval", "range": "range of the runs"}


def read_environment(folder: Path) -> dict[str, Any]:
    """The machine and software of a sweep; empty for results that do not record them."""
    try:
        environment = json.loads((folder / "environment.json").read_text())
        environment = {**environment["recorded"], **environment["identity"]}
        return environment if {"cpu_model", "cores_granted"} <= environment.keys() else {}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}


def sweep_cost(folder: Path) -> dict[str, float]:
    """Where the wall time of a sweep's runs went, in percent by cause, and the seconds that a run
    takes before its first step; empty for sweeps that did not record it."""
    causes = ["launch", "imports", "data", "rendezvous", "model"]
    try:
        runs = pd.read_csv(folder / "runs.csv", dtype=str)
        runs = runs[runs["result"] == "complete"].set_index("run_id")
        runs = runs[["wall_s", "steps_s", *(f"{name}_s" for name in causes)]]
        runs = runs.apply(pd.to_numeric).dropna()
    except (OSError, ValueError, KeyError):
        return {}
    wall, total = runs.pop("wall_s").sum(), runs.sum()
    if not 0 < wall < 1e9:
        return {}
    total["ending_s"] = wall - total.sum()
    percent = {f"{name[:-2]}_percent": 100 * total[name] / wall for name in total.index}
    start_up = runs.drop(columns="steps_s").sum(axis=1)
    return percent | {"start_up": start_up.median(), "longest_start_up": start_up.max()}


def make_title(environment: dict[str, Any], runs: pd.DataFrame) -> str:
    """Machine, precision and data, as each figure says them."""
    machine = "machine not recorded"
    if environment:
        machine = f"{environment['cpu_model']!s:.60}, {environment['cores_granted']!s:.9} cores"
    precision = "+".join(sorted(set(runs["precision"]) - {""})) or "precision not recorded"
    data = "; ".join(sorted(set(runs["dataset"])))
    return f"DenseNet121, {machine}, {precision:.40}\ndata: {data:.90}"


def what_is_drawn(table: pd.DataFrame) -> str:
    """What the markers mean, with the number of runs and the kind of interval."""
    counts = sorted(set(table["runs"]))
    several = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    intervals = " or ".join(INTERVALS[kind] for kind in sorted(set(table["interval"])))
    return f"dots: runs ({several} a configuration); markers: median, {intervals}"


def why_missing(skipped: pd.DataFrame, table: pd.DataFrame) -> list[str]:
    """Lines on the core counts that have no point, with the reasons that the sweep left."""
    missing = skipped[~skipped["num_devices"].isin(table["num_devices"])]
    reasons = missing["reason"].str.replace(r"needs \d+ of (\d+) cores", r"\1 are here", regex=True)
    return [
        f"not measured: {', '.join(map(str, sorted(set(own['num_devices']))))} cores ({reason})"
        for reason, own in missing.groupby(reasons)
    ]


def note_below(axes: plt.Axes, lines: list[str]) -> None:
    axes.annotate("\n".join(lines), (0, 0), (0, -36), "axes fraction", va="top", fontsize=8,
                  textcoords="offset points", color="#444444")


def draw(axes, runs: pd.DataFrame, rows: pd.DataFrame, column: str, aside=0.0, **look) -> None:
    """The runs as dots and the medians with their intervals over the device counts.

    aside moves them sidewards, so that what lies at the same place can be told apart.
    """
    own = runs[runs["mode"].isin(rows["mode"]) & runs["num_devices"].isin(rows["num_devices"])]
    if column in own:
        axes.plot(own["num_devices"] + aside, own[column], ".", markersize=4, alpha=0.5,
                  color=look["color"])
    errors = [rows[column] - rows[f"{column}_low"], rows[f"{column}_high"] - rows[column]]
    axes.errorbar(rows["num_devices"] + aside, rows[column], errors, capsize=3, markersize=6,
                  **look)


def throughput_line(runs, table, skipped, title: str, output: Path, original: bool) -> None:
    """Throughput against cores: data parallel, the ideal, and the two bounds."""
    figure, axes = plt.subplots()
    groups = table.groupby("series", sort=False)
    for colour, (series, rows) in zip(COLOURS * 9, groups, strict=False):
        for mode, (name, marker, line, aside) in MODES.items():
            part = rows[rows["mode"] == mode]
            if len(part):
                draw(axes, runs[runs["series"] == series], part, "rate", aside, color=colour,
                     label=f"{series}: {name}", marker=marker, linestyle=line,
                     markerfacecolor=colour if mode == "ddp" else "white")
        ddp = rows[rows["mode"] == "ddp"]
        if len(ddp) > 1:
            first = ddp.iloc[0]
            axes.plot(ddp["num_devices"], first["rate"] * ddp["num_devices"] / first["num_devices"],
                      "--", color=colour, alpha=0.6, label=f"{series}: ideal, "
                      f"{first['rate'] / first['num_devices']:.2f} img/s a core")
        if original:
            axes.plot(ddp["num_devices"], ddp["rate_original_method"], "x-.", color="#000000",
                      label=f"{series}: read by the original's method")
    axes.set(xlabel="CPU cores", ylabel="throughput (img/s)", title=title, ylim=(0, None))
    axes.set_xticks(sorted(set(table["num_devices"])))
    axes.margins(x=0.15)
    axes.legend()
    note_below(axes, [what_is_drawn(table), *why_missing(skipped, table)])
    save(figure, output / "throughput_line")


def efficiency_line(table: pd.DataFrame, skipped, title: str, output: Path) -> None:
    """Efficiency against the smallest core count, strong and weak; 1 is perfect."""
    figure, axes = plt.subplots()
    ddp = table[table["mode"] == "ddp"]
    several = ddp.groupby("series")["num_devices"].transform("nunique") > 1
    groups = ddp[several].groupby("series", sort=False)
    for colour, (series, rows) in zip(COLOURS * 9, groups, strict=False):
        first = rows.iloc[0]
        draw(axes, rows.head(0), rows, "efficiency", color=colour, marker="o",
             linestyle="--" if first["scaling"] == "weak" else "-",
             label=f"{series} (1 is {first['rate']:.2f} img/s at {first['num_devices']})")
    lines = ["markers: ratio of medians, 95 % bootstrap interval over runs (range below 6 runs)"]
    if several.any():
        axes.axhline(1, linestyle=":", color="#444444", label="ideal")
        axes.set_xticks(sorted(set(ddp[several]["num_devices"])))
        axes.legend()
    else:
        lines = ["no efficiency: it takes two core counts, and only one was measured"]
    axes.set(xlabel="CPU cores", ylabel="efficiency per core", title=title, ylim=(0, None))
    note_below(axes, [*lines, *why_missing(skipped, table)])
    save(figure, output / "efficiency_line")


def bar_name(row: pd.Series, several_series: bool) -> str:
    cores = f"{row['num_devices']} core" + "s" * (row["num_devices"] > 1)
    mode = {"ddp": "", "no_communication": "\nno comm.", "single_process": "\n1 process"}
    series = row["series"].replace(", ", "\n")
    return cores + mode[row["mode"]] + (f"\n{series}" if several_series else "")


def time_components_bar(table: pd.DataFrame, skipped, title: str, output: Path) -> None:
    """Where the time of a step goes: on the left as in the original study, on the right split."""
    order = table.sort_values(["mode", "series", "num_devices"], ignore_index=True)
    figure, axes = plt.subplots(figsize=(max(6.4, 1.1 * len(order)), 4.2))
    axes.bar(order.index - 0.29, order["loading"], 0.2, color=PARTS["loading"][0])
    axes.bar(order.index - 0.29, order["compute"], 0.2, order["loading"], color="#BBBBBB",
             label="compute, as in the original")
    bottom = np.zeros(len(order))
    for part, (colour, hatch) in PARTS.items():
        height = order[part].fillna(0).to_numpy()
        if height.any():
            axes.bar(order.index + 0.12, height, 0.56, bottom, color=colour, hatch=hatch,
                     edgecolor="white", linewidth=0, label=part)
        bottom += height
    axes.set(ylabel="time of a step (s), mean over ranks", title=title)
    axes.set_xticks(order.index, [bar_name(row, order["series"].nunique() > 1)
                                  for _, row in order.iterrows()], fontsize=8)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    lines = ["means over ranks and steps of the run of median step time",
             "waiting: for slower ranks; transfer: what the all-reduce exposes",
             "no comm.: each rank by itself, so none waits; 1 process: one, with a thread a core"]
    axes.set_xlabel("\n".join([*lines, *why_missing(skipped, table)]), fontsize=8)
    save(figure, output / "time_components_bar")


def cold_vs_steady(runs, table, title: str, output: Path) -> None:
    """What the first step of a fresh process reads, against the steady step."""
    figure, axes = plt.subplots()
    ddp = table[table["mode"] == "ddp"]
    series = ddp["series"].iloc[0]
    own, rows = runs[(runs["series"] == series)], ddp[ddp["series"] == series]
    draw(axes, own, rows, "cold_step_time", color=COLOURS[1], marker="s", linestyle="-",
         label="first step of a run: all that the original study timed")
    draw(axes, own, rows, "step_time", color=COLOURS[0], marker="o", linestyle="-",
         label="steady step, after the warm-up")
    for _, row in rows.iterrows():
        axes.annotate(f"{row['cold_step_time'] / row['step_time']:.2f} ×",
                      (row["num_devices"], row["cold_step_time"]), (8, 6), fontsize=9,
                      textcoords="offset points")
    axes.set(xlabel="CPU cores", ylabel="time of a step (s), slowest rank", ylim=(0, None),
             title=f"{title}\n{series}")
    axes.set_xticks(sorted(set(rows["num_devices"])))
    axes.margins(x=0.1)
    axes.legend()
    note_below(axes, [what_is_drawn(rows)])
    save(figure, output / "cold_vs_steady")


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
                ratio = dict(zip(["ratio", "low", "high"], median_interval(ratios), strict=True))
                table.append({"series": series, "num_devices": devices, "bound": bound, **ratio,
                              "rounds": len(ratios)})
    return pd.DataFrame(table)


def print_table(table: pd.DataFrame, ratios: pd.DataFrame, original: bool) -> None:
    """The configurations, aligned, and data parallelism against its bounds."""
    def interval(row: pd.Series, name: str) -> str:
        if pd.isna(row.get(name)):
            return "-"
        return f"{row[name]:.2f} [{row[name + '_low']:.2f}, {row[name + '_high']:.2f}]"

    shown = pd.DataFrame({
        "configuration": table["series"], "mode": table["mode"], "cores": table["num_devices"],
        "runs": table["runs"], "interval": table["interval"],
        **{head: [interval(row, name) for _, row in table.iterrows()] for head, name in (
            ("img/s", "rate"), ("step (s)", "step_time"), ("first step (s)", "cold_step_time"),
            ("speed-up", "speedup"), ("efficiency", "efficiency"))},
        **({"img/s, original's method": table["rate_original_method"].round(4)}
           if original else {}),
    })
    print(shown.to_string(index=False))
    for _, row in ratios.iterrows():
        print(f"{row['series']}, {row['num_devices']} cores: data parallel / "
              f"{row['bound'].replace('_', ' ')} = {row['ratio']:.3f} "
              f"[{row['low']:.3f}, {row['high']:.3f}] (median over {row['rounds']} rounds)")


def main_series(table: pd.DataFrame) -> pd.DataFrame:
    """The data-parallel configurations of the first strong series, from fewest to most cores."""
    strong = table[(table["mode"] == "ddp") & (table["scaling"] != "weak")]
    return strong[strong["series"] == strong["series"].iloc[0]] if len(strong) else strong


def write_numbers(table, ratios, environment: dict[str, Any], cost: dict, path: Path) -> None:
    r"""LaTeX definitions of all numbers, named by folder, configuration and quantity, such as
    \csname cpu-plots/batch 32/2/ddp/rate\endcsname; fewest and most are the main series' ends."""
    numbers = {f"machine/{name}": str(value) for name, value in environment.items()}
    numbers |= {f"cost/{name}": value for name, value in cost.items()}
    ends = main_series(table).iloc[[0, -1]] if len(main_series(table)) else table.head(0)
    named = [(f"{row['series']}/{row['num_devices']}/{row['mode']}", row)
             for _, row in table.iterrows()]
    named += list(zip(["fewest", "most"], (row for _, row in ends.iterrows()), strict=False))
    for where, row in named:
        numbers |= {f"{where}/{name}": row[name] for name in table.columns}
        numbers |= {f"{where}/{part}_percent": 100 * row[part] / row["step_time"] for part in PARTS}
        numbers[f"{where}/cold_ratio"] = row["cold_step_time"] / row["step_time"]
    for _, row in ratios.iterrows():
        for name in ("ratio", "low", "high", "rounds"):
            value = row[name]
            numbers[f"{row['series']}/{row['num_devices']}/{row['bound']}/paired_{name}"] = value
            if len(ends) and row["num_devices"] == ends["num_devices"].iloc[-1]:
                numbers.setdefault(f"most/{row['bound']}/paired_{name}", value)
    lines = ["% Written by plot_cpu_results.py from the CSV files: do not edit."]
    lines += [tex_definition(f"{path.parent.name}/{name}", numbers[name]) for name in numbers]
    path.write_text("\n".join(lines) + "\n")


def write_rows(runs: pd.DataFrame, table: pd.DataFrame, output: Path) -> None:
    """Rows of tables: the configurations, and what loading takes in the data-parallel ones."""
    def told(median: float, low: float, high: float, digits: int) -> str:
        return f"{median:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"

    rows, loading = [], []
    for _, row in table.iterrows():
        name = f"{row['series']}, {MODES[row['mode']][0]}".translate(TEX)
        cells = [told(*(row[f"{quantity}{end}"] for end in ("", "_low", "_high")), 2)
                 if quantity in row and pd.notna(row[quantity]) else "--"
                 for quantity in ("rate", "step_time", "speedup")]
        counts = f"{row['num_devices']} & {row['runs']}"
        rows.append(" & ".join([name, counts, *cells]))
        if row["mode"] == "ddp":
            own = runs[(runs[KEY] == row[KEY]).all(axis=1)]
            milliseconds = told(*median_interval(1000 * own["loading"]), 0)
            rate = told(row["rate"], row["rate_low"], row["rate_high"], 2)
            loading.append([row["dataset"], row["loader"], str(row["runs"]), milliseconds, rate])
    (output / "table_rows.tex").write_text("".join(rf"{line} \\" + "\n" for line in rows))
    (output / "loading_rows.tex").write_text("".join(
        rf"{' & '.join(cells).translate(TEX | {ord('&'): '&'})} \\" + "\n" for cells in loading))
    (output / "loading_rows.md").write_text("".join(
        f"| {' | '.join(cells)} |\n" for cells in loading))


def write_answers(table: pd.DataFrame, ratios: pd.DataFrame, path: Path) -> None:
    """What the figures show, in a few lines of Markdown: README shows the same ones."""
    def told(row: pd.Series, name: str, digits: int = 2) -> str:
        return (f"{row[name]:.{digits}f} [{row[name + '_low']:.{digits}f}, "
                f"{row[name + '_high']:.{digits}f}]")

    ddp, strong = table[table["mode"] == "ddp"], main_series(table)
    one, most = strong.iloc[0], strong.iloc[-1]
    cores = most["num_devices"]
    lines = [
        f"- **Throughput** ({one['series']}, {most['runs']} runs): {told(one, 'rate')} img/s on "
        f"{one['num_devices']} core, {told(most, 'rate')} img/s on {cores}: a speed-up of "
        f"{told(most, 'speedup')}, an efficiency of {told(most, 'efficiency')} a core.",
    ]
    weak = ddp[(ddp["scaling"] == "weak") & (ddp["num_devices"] == cores)]
    lines += [f"- **Weak scaling** ({row['series'].replace(', weak', '')}, {row['runs']} runs): "
              f"{told(row, 'rate')} img/s on {cores} cores, an efficiency of "
              f"{told(row, 'efficiency')} a core."
              for _, row in weak.iterrows()]
    own = ratios[ratios["series"] == one["series"]] if len(ratios) else ratios
    names = {"no_communication": f"{cores} ranks that do not talk",
             "single_process": f"the best single process with {cores} threads"}
    lines += [f"- **Against {names[row['bound']]}**: {row['ratio']:.2f} [{row['low']:.2f}, "
              f"{row['high']:.2f}] times the rate (median over {row['rounds']} rounds)."
              for _, row in own.iterrows() if row["num_devices"] == cores > 1]
    parts = ", ".join(f"{part} {100 * most[part] / most['step_time']:.1f} %" for part in PARTS)
    lines += [
        f"- **Where a step's {most['step_time']:.2f} s go** on {cores} cores: {parts}.",
        f"- **The first step** of a fresh process takes {told(one, 'cold_step_time', 1)} s on "
        f"{one['num_devices']} core and {told(most, 'cold_step_time', 1)} s on {cores}, a steady "
        f"one {told(one, 'step_time', 1)} s and {told(most, 'step_time', 1)} s.",
    ]
    path.write_text("\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("results", nargs="?", type=Path, default=HERE / "cpu_run",
                        help="folder with the sweep's CSV files (default: cpu_run)")
    parser.add_argument("--output", type=Path, default=HERE / "cpu_plots",
                        help="folder for figures and numbers (default: cpu_plots)")
    parser.add_argument("--method", choices=["sound", "original"], default="sound",
                        help="original: also read the files as the original study did")
    parser.add_argument("--table-only", action="store_true",
                        help="no figures: of variants and networks others draw better ones")
    args = parser.parse_args()
    try:
        rows, skipped, problems = read_results(args.results)
        args.output.mkdir(parents=True, exist_ok=True)
    except (ResultsError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    runs = run_table(rows)
    runs = runs.assign(series=name_series(runs))
    table, ratios = configuration_table(runs), paired_ratios(runs)
    environment, cost = read_environment(args.results), sweep_cost(args.results)
    title, original = make_title(environment, runs), args.method == "original"
    fair = table[~table["options"].str.contains(UNFAIR)]
    if not args.table_only:
        with plt.rc_context(STYLE):
            draw_figures(runs, fair, skipped, title, args.output, original)
    table.to_csv(args.output / "summary.csv", index=False)
    write_numbers(table, ratios, environment, cost, args.output / "numbers.tex")
    write_rows(runs, table, args.output)
    if not args.table_only and ((fair["scaling"] != "weak") & (fair["mode"] == "ddp")).any():
        write_answers(fair, ratios, args.output / "answers.md")
    print_table(table, ratios, original)
    if cost:
        shares = (f"{cost[name]:.1f} % {name[:-8]}" for name in cost if name.endswith("_percent"))
        print(f"the sweep's time: {', '.join(shares)}; a run takes {cost['start_up']:.1f} s before "
              f"its first step (median; at most {cost['longest_start_up']:.1f} s)")
    print(f"figures, summary.csv and numbers.tex are in {args.output}")
    for problem in problems:
        print(f"left out: {problem}", file=sys.stderr)
    sys.exit(1 if problems else 0)


def draw_figures(runs, fair, skipped, title: str, output: Path, original: bool) -> None:
    """All figures; oversubscribed configurations are in the table, never in a figure."""
    if fair.empty:
        print("no figures: all configurations were oversubscribed", file=sys.stderr)
        return
    strong = fair[fair["scaling"] != "weak"]
    if len(strong):
        throughput_line(runs, strong, skipped, title, output, original)
        time_components_bar(strong, skipped, title, output)
        if (strong["mode"] == "ddp").any():
            cold_vs_steady(runs, strong, title, output)
    efficiency_line(fair, skipped, title, output)


if __name__ == "__main__":
    main()
