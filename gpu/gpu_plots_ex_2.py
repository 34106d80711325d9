"""Figures, table and numbers of a GPU sweep: rate by batch and GPUs, components, memory.

    python gpu_plots_ex_2.py                           # gpu_experiments -> gpu_plots
    python gpu_plots_ex_2.py RESULTS_DIR --output DIR
    python gpu_plots_ex_2.py RESULTS_DIR --method original

Reads every times_run*.csv below RESULTS_DIR, the original study's six columns (num_gpus) too. Runs
are the units of the statistics: a configuration is the median over its runs, with the exact rank
interval of at least 95 % from 6 runs on, and the range below. --method original adds the reading
of the original study: batch size / mean over all rows of (loading + compute).

Writes throughput_bs16 and so on, optimal_gpus, gpu_throughput_line, gpu_time_components_bar and
gpu_memory (.png, .pdf), summary.csv and numbers.tex. Exit status: 0, 1 if some files were left
out, 2 if nothing was left.
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

FOLDER = Path(__file__).resolve().parent
SWEEP = "./run_gpu_experiments.sh"

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


GIB = 2**30


def gpu_title(folder: Path, runs: pd.DataFrame) -> tuple[str, dict[str, Any]]:
    """Machine, precision and data, as each figure says them; and what the sweep recorded."""
    machine, facts = "machine not recorded", {}
    try:
        environment = json.loads((folder / "environment.json").read_text())
        facts = {**environment["recorded"], **environment["identity"]}
        machine = str(facts["gpu_model"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        facts = {}
    precision = "+".join(sorted(set(runs["precision"]) - {""})) or "precision not recorded"
    data = "; ".join(sorted(set(runs["dataset"])))
    return f"DenseNet121, {machine:.60}, {precision:.40}\ndata: {data:.90}", facts


def footnote(axes: plt.Axes, *lines: str) -> None:
    axes.annotate("\n".join(filter(None, lines)), (0, 0), (0, -36), "axes fraction", va="top",
                  fontsize=8, textcoords="offset points", color="#444444")


def legend_of_markers(rows: pd.DataFrame) -> str:
    counts = sorted(set(rows["runs"]))
    several = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    kinds = {"95 %": "95 % interval", "range": "range of the runs"}
    intervals = " or ".join(kinds[kind] for kind in sorted(set(rows["interval"])))
    return f"dots: runs ({several} a configuration); markers: median, {intervals}"


def missing_points(skipped: pd.DataFrame, rows: pd.DataFrame, batch: int | None) -> list[str]:
    """Why some GPU counts have no point, in the words that the sweep left."""
    own = skipped if batch is None else skipped[skipped["batch_size"] == batch]
    there = set(zip(rows["num_devices"], rows["batch_size"], strict=True))
    lines = []
    for reason, part in own.groupby("reason"):
        missing = sorted(set(zip(part["num_devices"], part["batch_size"], strict=True)) - there)
        if missing and batch is not None:
            gpus = ", ".join(str(count) for count, _ in missing)
            lines.append(f"not measured on {gpus} GPU{'s' * (gpus != '1')}: {reason}")
        elif missing:
            points = "; ".join(f"batch {size} on {count}" for count, size in missing)
            lines.append(f"not measured: {points} ({reason})")
    return lines


def draw_series(axes: plt.Axes, runs: pd.DataFrame, rows: pd.DataFrame, colour: str, name: str):
    """The runs as dots, the medians with their intervals, joined over the GPU counts."""
    own = runs[(runs["mode"] == "ddp") & (runs["series"] == rows["series"].iloc[0])]
    axes.plot(own["num_devices"], own["rate"], ".", markersize=4, alpha=0.5, color=colour)
    errors = [rows["rate"] - rows["rate_low"], rows["rate_high"] - rows["rate"]]
    axes.errorbar(rows["num_devices"], rows["rate"], errors, capsize=3, marker="o",
                  color=colour, label=name)


def throughput_by_batch(runs, table, skipped, title: str, output: Path, original: bool) -> None:
    """One figure a batch size: throughput against GPUs, with the ideal line."""
    for batch, rows_of_batch in table.groupby("batch_size"):
        figure, axes = plt.subplots()
        groups = rows_of_batch.groupby("series")
        for colour, (series, rows) in zip(COLOURS * 9, groups, strict=False):
            draw_series(axes, runs, rows, colour, series)
            first = rows.iloc[0]
            if len(rows) > 1:
                axes.plot(rows["num_devices"], first["rate"] * rows["num_devices"]
                          / first["num_devices"], "--", color=colour, alpha=0.6,
                          label=f"ideal, from {first['rate']:.1f} img/s")
            if original:
                axes.plot(rows["num_devices"], rows["rate_original_method"], "x-.", color="#000000",
                          label="read by the original's method")
        axes.set(xlabel="GPUs", ylabel="throughput (img/s)", ylim=(0, None), title=title)
        axes.set_xticks(sorted(set(rows_of_batch["num_devices"])))
        axes.legend()
        lines = missing_points(skipped, rows_of_batch, int(batch))
        if rows_of_batch["num_devices"].nunique() == 1:
            lines.append("one GPU count measured: no ideal line")
        footnote(axes, legend_of_markers(rows_of_batch), *lines)
        save(figure, output / f"throughput_bs{batch}")


def best_gpus(rows: pd.DataFrame) -> tuple[int, list[int]]:
    """The GPU count of the highest median rate, and those that its interval does not tell apart.

    A tie goes to fewer GPUs.
    """
    top = rows.loc[rows["rate"].idxmax()]
    tied = rows[rows["rate_high"] >= top["rate_low"]]
    return int(tied["num_devices"].min()), sorted(map(int, tied["num_devices"]))


def optimal_gpus(table: pd.DataFrame, skipped, title: str, output: Path) -> None:
    """The best GPU count for each batch size; no bar where fewer than two were measured."""
    figure, axes = plt.subplots()
    bars = [(series, rows) for series, rows in table.groupby("series", sort=False)]
    for place, (_, rows) in enumerate(bars):
        if rows["num_devices"].nunique() < 2:
            axes.annotate("one GPU count\nmeasured", (place, 0.1), ha="center", fontsize=8)
            continue
        best, tied = best_gpus(rows)
        axes.bar(place, best, 0.6, color=COLOURS[0])
        text = f"tie of {' and '.join(map(str, tied))}" if len(tied) > 1 else ""
        axes.annotate(text, (place, best), (0, 3), ha="center", fontsize=8,
                      textcoords="offset points")
    axes.set(ylabel="best number of GPUs", title=title, ylim=(0, 3.4))
    axes.set_yticks(range(4))
    axes.set_xticks(range(len(bars)), [series.replace(", ", "\n") for series, _ in bars])
    axes.set_xlim(-0.6, len(bars) - 0.4)
    footnote(axes, "\nhighest median rate; within the intervals a tie, which goes to fewer GPUs",
             *missing_points(skipped, table, None))
    save(figure, output / "optimal_gpus")


def gpu_throughput_line(runs, table, skipped, title: str, output: Path) -> None:
    """All batch sizes: throughput against GPUs; against the batch where one count was measured."""
    figure, axes = plt.subplots()
    several = table["num_devices"].nunique() > 1
    settings = table["series"].str.replace(r"batch \d+(, )?", "", regex=True)
    groups = table.groupby("series" if several else settings, sort=False)
    for colour, (name, rows) in zip(COLOURS * 9, groups, strict=False):
        if several:
            draw_series(axes, runs, rows, colour, name)
            continue
        rows = rows.sort_values("batch_size")
        own = runs[runs["series"].isin(rows["series"]) & (runs["mode"] == "ddp")]
        axes.plot(own["batch_size"], own["rate"], ".", markersize=4, alpha=0.5, color=colour)
        errors = [rows["rate"] - rows["rate_low"], rows["rate_high"] - rows["rate"]]
        axes.errorbar(rows["batch_size"], rows["rate"], errors, capsize=3, marker="o",
                      color=colour, label=name or "as by default")
    axes.set(xlabel="GPUs" if several else f"images a step, on {table['num_devices'].iloc[0]} GPU",
             ylabel="throughput (img/s)", ylim=(0, None), title=title)
    axes.set_xticks(sorted(set(table["num_devices" if several else "batch_size"])))
    axes.legend()
    footnote(axes, legend_of_markers(table), *missing_points(skipped, table, None))
    save(figure, output / "gpu_throughput_line")


def gpu_time_components_bar(table: pd.DataFrame, title: str, output: Path) -> None:
    """Where the GPU's time goes in a step: milliseconds an image, so that batches compare."""
    figure, axes = plt.subplots(figsize=(max(6.4, 0.9 * len(table)), 4.2))
    places, bottom = np.arange(len(table)), np.zeros(len(table))
    scale = 1000 / table["batch_size"].to_numpy()
    if table["forward"].isna().all():  # the original's files do not split compute
        axes.bar(places, table["compute"] * scale, 0.6, color="#BBBBBB", label="compute",
                 bottom=table["loading"] * scale)
    for part, (colour, hatch) in PARTS.items():
        height = table[part].fillna(0).to_numpy() * scale
        if height.any():
            axes.bar(places, height, 0.6, bottom, color=colour, hatch=hatch, edgecolor="white",
                     linewidth=0, label=part)
        bottom += height
    names = [f"{row['num_devices']} GPU{'s' * (row['num_devices'] > 1)}\n"
             + row["series"].replace(", ", "\n") for _, row in table.iterrows()]
    axes.set_xticks(places, names, fontsize=8)
    axes.set(ylabel="time of a step / images (ms)", title=title)
    axes.set_xlabel("means over ranks and steps of the run of median step time", fontsize=8)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    save(figure, output / "gpu_time_components_bar")


def gpu_memory(table: pd.DataFrame, facts: dict[str, Any], title: str, output: Path) -> None:
    """Predicted against measured peak memory a GPU, with the limit of the card."""
    rows = table[table["predicted_memory"].notna()]
    if rows.empty:
        return
    figure, axes = plt.subplots(figsize=(max(6.4, 0.9 * len(rows)), 4.2))
    places = np.arange(len(rows))
    axes.bar(places - 0.2, rows["predicted_memory"] / GIB, 0.38, color="white", hatch="//",
             edgecolor=COLOURS[0], label="predicted before the run")
    if rows["peak_memory"].notna().any():
        axes.bar(places + 0.2, rows["peak_memory"] / GIB, 0.38, color=COLOURS[0],
                 label="measured peak")
    total = facts.get("gpu_memory_bytes")
    if total:
        axes.axhline(total / GIB, linestyle="--", color=COLOURS[1],
                     label=f"the card: {total / GIB:.1f} GiB")
    axes.set_xticks(places, [f"{row['num_devices']} GPU{'s' * (row['num_devices'] > 1)}\n"
                             + row["series"].replace(", ", "\n") for _, row in rows.iterrows()],
                    fontsize=8)
    axes.set(ylabel="memory a GPU (GiB)", title=title)
    axes.legend()
    save(figure, output / "gpu_memory")


def tell_table(table: pd.DataFrame, original: bool) -> None:
    """The configurations, aligned."""
    def with_interval(row: pd.Series, name: str) -> str:
        if pd.isna(row.get(name)):
            return "-"
        return f"{row[name]:.3g} [{row[name + '_low']:.3g}, {row[name + '_high']:.3g}]"

    shown = table[["series", "mode", "num_devices", "runs", "interval"]].assign(**{
        head: [with_interval(row, name) for _, row in table.iterrows()] for head, name in (
            ("img/s", "rate"), ("step (s)", "step_time"), ("speed-up", "speedup"),
            ("efficiency", "efficiency"))
    })
    if original:
        shown["img/s, original's method"] = table["rate_original_method"].round(4)
    print(shown.to_string(index=False))


def define_numbers(table: pd.DataFrame, facts: dict[str, Any], path: Path) -> None:
    r"""LaTeX definitions of all numbers: \csname gpu/batch 32/2/ddp/rate\endcsname."""
    numbers = {f"machine/{name}": str(value) for name, value in facts.items()}
    for _, row in table.iterrows():
        where = f"{row['series']}/{row['num_devices']}/{row['mode']}"
        for name in table.columns.difference([*KEY, "series"]):
            numbers[f"{where}/{name}"] = row[name]
    lines = ["% Written by gpu_plots_ex_2.py from the CSV files: do not edit."]
    lines += [tex_definition(f"gpu/{name}", value) for name, value in numbers.items()]
    path.write_text("\n".join(lines) + "\n")


def all_figures(runs, fair, skipped, facts, title: str, output: Path, original: bool) -> None:
    """All figures; configurations that shared a GPU are in the table, never in a figure."""
    strong = fair[(fair["scaling"] != "weak") & (fair["mode"] == "ddp")]
    if strong.empty:
        print("no figures: nothing but shared GPUs or weak scaling was measured", file=sys.stderr)
        return
    throughput_by_batch(runs, strong, skipped, title, output, original)
    optimal_gpus(strong, skipped, title, output)
    gpu_throughput_line(runs, strong, skipped, title, output)
    gpu_time_components_bar(strong.reset_index(), title, output)
    gpu_memory(strong, facts, title, output)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("results", nargs="?", type=Path, default=FOLDER / "gpu_experiments",
                        help="folder with the sweep's CSV files (default: gpu_experiments)")
    parser.add_argument("--output", type=Path, default=FOLDER / "gpu_plots",
                        help="folder for figures and numbers (default: gpu_plots)")
    parser.add_argument("--method", choices=["sound", "original"], default="sound",
                        help="original: also read the files as the original study did")
    args = parser.parse_args()
    try:
        rows, skipped, problems = read_results(args.results)
        args.output.mkdir(parents=True, exist_ok=True)
    except (ResultsError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    runs = run_table(rows)
    runs = runs.assign(series=name_series(runs))
    table = configuration_table(runs)
    title, facts = gpu_title(args.results, runs)
    original = args.method == "original"
    with plt.rc_context(STYLE):
        fair = table[~table["options"].str.contains(UNFAIR)]
        all_figures(runs, fair, skipped, facts, title, args.output, original)
    table.to_csv(args.output / "summary.csv", index=False)
    define_numbers(table, facts, args.output / "numbers.tex")
    tell_table(table, original)
    print(f"figures, summary.csv and numbers.tex are in {args.output}")
    for problem in problems:
        print(f"left out: {problem}", file=sys.stderr)
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
