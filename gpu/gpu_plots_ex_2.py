"""Figures and table of a GPU sweep: rate by batch and GPUs, components, memory.

    python gpu_plots_ex_2.py                              # own results, else the published ones
    python gpu_plots_ex_2.py gpu_experiments --output DIR
    python gpu_plots_ex_2.py RESULTS --method original

Reads every times_run*.csv below the folder, the original study's six columns (num_gpus) too;
statistics as in common/results.py. --method original adds the reading of the original study: batch
size / mean over all rows of (loading + compute).

Writes throughput_bs16 and so on, optimal_gpus, gpu_throughput_line, gpu_time_components_bar and
gpu_memory (.png, .pdf), and summary.csv. Exit status: 0, 1 if some files were left out, 2 if
nothing was left.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "common"))
import figures as f  # noqa: E402  (found on the path of the line before)
import results as r  # noqa: E402
from figures import plt  # noqa: E402

GIB = 2**30


def bar_names(table: pd.DataFrame) -> list[str]:
    return [f"{row['num_devices']} GPU{'s' * (row['num_devices'] > 1)}\n"
            + row["series"].replace(", ", "\n") for _, row in table.iterrows()]


def throughput_by_batch(runs, table, skipped, title: str, output: Path, original: bool) -> None:
    """One figure for each batch size: throughput against GPUs, with the ideal line."""
    for batch, rows_of_batch in table.groupby("batch_size"):
        figure, axes = plt.subplots()
        groups = rows_of_batch.groupby("series")
        for colour, (series, rows) in zip(f.COLOURS * 9, groups, strict=False):
            f.points(axes, runs, rows, color=colour, marker="o", label=series)
            each = rows["rate"].iloc[0] / rows["num_devices"].iloc[0]
            if len(rows) > 1:
                axes.plot(rows["num_devices"], each * rows["num_devices"], "--", color=colour,
                          alpha=0.6, label=f"ideal, {each:.1f} img/s per GPU")
            if original:
                axes.plot(rows["num_devices"], rows["rate_original_method"], "x-.", color="#000000",
                          label="read by the original's method")
        axes.set(xlabel="GPUs", ylabel="throughput (img/s)", ylim=(0, None), title=title)
        axes.set_xticks(sorted(set(rows_of_batch["num_devices"])))
        axes.legend()
        one = rows_of_batch["num_devices"].nunique() == 1
        own = skipped[skipped["batch_size"] == batch]
        f.note_below(axes, f.what_is_drawn(rows_of_batch), *f.why_missing(own, table, "GPUs"),
                     "one GPU count measured: no ideal line" if one else "")
        f.save(figure, output / f"throughput_bs{batch}")


def best_gpus(rows: pd.DataFrame) -> list[int]:
    """The GPU counts that the interval of the highest median rate does not tell apart."""
    top = rows.loc[rows["rate"].idxmax()]
    return sorted(map(int, rows[rows["rate_high"] >= top["rate_low"]]["num_devices"]))


def optimal_gpus(table: pd.DataFrame, skipped, title: str, output: Path) -> None:
    """The best GPU count for each batch size; no bar where fewer than two were measured."""
    figure, axes = plt.subplots()
    most = max(3, table["num_devices"].max())
    bars = list(table.groupby("series", sort=False))
    for place, (_, rows) in enumerate(bars):
        if rows["num_devices"].nunique() < 2:
            axes.annotate("one GPU count\nmeasured", (place, 0.1), ha="center", fontsize=8)
            continue
        tied = best_gpus(rows)
        axes.bar(place, tied[0], 0.6, color=f.COLOURS[0])
        text = f"tie of {' and '.join(map(str, tied))}" if len(tied) > 1 else ""
        axes.annotate(text, (place, tied[0]), (0, 3), ha="center", fontsize=8,
                      textcoords="offset points")
    axes.set(ylabel="best number of GPUs", title=title, ylim=(0, most + 0.4))
    axes.set_yticks(range(most + 1))
    axes.set_xticks(range(len(bars)), [series.replace(", ", "\n") for series, _ in bars])
    axes.set_xlim(-0.6, len(bars) - 0.4)
    f.note_below(axes, "\nhighest median rate; a tie within the intervals goes to fewer GPUs",
                 *f.why_missing(skipped, table, "GPUs"))
    f.save(figure, output / "optimal_gpus")


def gpu_throughput_line(runs, table, skipped, title: str, output: Path) -> None:
    """All batch sizes: throughput against GPUs; against the batch where one count was measured."""
    figure, axes = plt.subplots()
    several = table["num_devices"].nunique() > 1
    against = "num_devices" if several else "batch_size"
    settings = table["series"].str.replace(r"batch \d+(, )?", "", regex=True)
    groups = table.groupby("series" if several else settings, sort=False)
    for colour, (name, rows) in zip(f.COLOURS * 9, groups, strict=False):
        f.points(axes, runs, rows.sort_values(against), against=against, color=colour,
                 marker="o", label=name or "as by default")
    count = table["num_devices"].iloc[0]
    axes.set(xlabel="GPUs" if several else f"images per step, on {count} GPU",
             ylabel="throughput (img/s)", ylim=(0, None), title=title)
    axes.set_xticks(sorted(set(table[against])))
    axes.legend()
    f.note_below(axes, f.what_is_drawn(table), *f.why_missing(skipped, table, "GPUs"))
    f.save(figure, output / "gpu_throughput_line")


def gpu_time_components_bar(table: pd.DataFrame, title: str, output: Path) -> None:
    """Where the GPU's time goes in a step: milliseconds per image, so that batches compare."""
    figure, axes = plt.subplots(figsize=(max(6.4, 0.9 * len(table)), 4.2))
    scale = 1000 / table["batch_size"].to_numpy()
    if table["forward"].isna().all():  # the original's files do not split compute
        axes.bar(np.arange(len(table)), table["compute"] * scale, 0.6, table["loading"] * scale,
                 color="#BBBBBB", label="compute")
    f.stacked_parts(axes, table, 0.6, scale)
    axes.set_xticks(np.arange(len(table)), bar_names(table), fontsize=8)
    axes.set(ylabel="time of a step / images (ms)", title=title)
    axes.set_xlabel("means over ranks, steps and runs", fontsize=8)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    f.save(figure, output / "gpu_time_components_bar")


def gpu_memory(table: pd.DataFrame, facts: dict[str, Any], title: str, output: Path) -> None:
    """Predicted against measured peak memory per GPU, with the limit of the card."""
    rows = table[table["predicted_memory"].notna()]
    if rows.empty:
        return
    figure, axes = plt.subplots(figsize=(max(6.4, 0.9 * len(rows)), 4.2))
    places = np.arange(len(rows))
    axes.bar(places - 0.2, rows["predicted_memory"] / GIB, 0.38, color="white", hatch="//",
             edgecolor=f.COLOURS[0], label="predicted before the run")
    if rows["peak_memory"].notna().any():
        axes.bar(places + 0.2, rows["peak_memory"] / GIB, 0.38, color=f.COLOURS[0],
                 label="measured peak")
    if facts.get("gpu_memory_bytes"):
        total = facts["gpu_memory_bytes"] / GIB
        axes.axhline(total, linestyle="--", color=f.COLOURS[1], label=f"the card: {total:.1f} GiB")
    axes.set_xticks(places, bar_names(rows), fontsize=8)
    axes.set(ylabel="memory per GPU (GiB)", title=title)
    axes.legend()
    f.save(figure, output / "gpu_memory")


def draw_all(args, rows, runs, table, skipped, title: str) -> tuple[dict, list[str]]:
    facts, original = r.read_environment(args.results), args.method == "original"
    fair = table[~table["options"].str.contains(r.UNFAIR)]  # shared GPUs are in the table alone
    strong = fair[(fair["scaling"] != "weak") & (fair["mode"] == "ddp")].reset_index(drop=True)
    if strong.empty:
        print("no figures: nothing but shared GPUs or weak scaling was measured", file=sys.stderr)
    else:
        throughput_by_batch(runs, strong, skipped, title, args.output, original)
        optimal_gpus(strong, skipped, title, args.output)
        gpu_throughput_line(runs, strong, skipped, title, args.output)
        gpu_time_components_bar(strong, title, args.output)
        gpu_memory(strong, facts, title, args.output)
    return {}, []


if __name__ == "__main__":
    f.plot_results(__doc__, HERE / "gpu_experiments", draw_all, "GPUs")
