"""Figures and table of a GPU sweep: rate by batch and GPUs, components, memory.

    python gpu_plots_ex_2.py                              # your results, else the published ones
    python gpu_plots_ex_2.py gpu_experiments --output DIR
    python gpu_plots_ex_2.py RESULTS --method original

Reads every run below the folder, the original study's six columns (num_gpus) too; statistics as in
common/results.py. --method original adds the reading of the original study: batch size / mean over
all rows of (loading + compute).

Writes throughput_bs16 and so on, optimal_gpus, gpu_throughput_line, gpu_time_components_bar and
gpu_memory (.png, .pdf), and summary.csv. Exit status: 0, 1 if some files were left out, 2 if
nothing was left.
"""

import math
import sys
from pathlib import Path

import numpy as np
import pandas as pd

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "common"))
import figures  # noqa: E402  (found on the path of the line before)
import results  # noqa: E402
import tables  # noqa: E402
from figures import plt  # noqa: E402

GIB = 2**30
LAUNCH_BOUND = 0.01  # of a step: the host is ahead of the device by less than that at its end


def bar_names(table: pd.DataFrame) -> list[str]:
    names = []
    for _, row in table.iterrows():
        gpus = "1 GPU" if row["num_devices"] == 1 else f"{row['num_devices']} GPUs"
        names.append(f"{gpus}\n{row['series']}".replace(", ", "\n"))
    return names


def mark_points(axes: plt.Axes, rows: pd.DataFrame, against: str = "num_devices") -> list[str]:
    """Say at a point what makes it another one than its neighbours; returns lines that explain."""
    notes = []
    for _, row in rows.iterrows():
        words = []
        if "on_oom=accumulate" in row["options"] and int(row["micro_batches"] or 1) > 1:
            words.append(f"in {row['micro_batches']} micro-batches")
        if "checkpoint=1" in row["options"]:
            words.append("recomputed")
        if row.get("host_ahead", math.nan) < LAUNCH_BOUND * row["step_time"]:
            words.append("launch-bound")
            notes = ["launch-bound: the GPU waits for the host, which launches too slowly"]
        place = (row[against], row["rate"])
        axes.annotate(", ".join(words), place, (5, -12), textcoords="offset points", fontsize=8)
    return notes


def throughput_of_batch(session: figures.Session, table: pd.DataFrame) -> plt.Figure:
    """One batch size: throughput against GPUs, with the ideal line."""
    figure, axes = plt.subplots()
    for colour, (series, rows) in zip(figures.COLOURS * 9, table.groupby("series"), strict=False):
        figures.points(axes, session.runs, rows, color=colour, marker="o", label=series)
        each = rows["rate"].iloc[0] / rows["num_devices"].iloc[0]
        if len(rows) > 1:
            ideal = f"ideal, {each:.1f} img/s per GPU"
            axes.plot(rows["num_devices"], each * rows["num_devices"], "--", c=colour, label=ideal)
        if session.is_original:
            label = "read by the original's method"
            axes.plot(rows["num_devices"], rows["rate_original_method"], "kx-.", label=label)
    axes.set(xlabel="GPUs", ylabel="throughput (img/s)", ylim=(0, None), title=session.title)
    axes.set_xticks(sorted(set(table["num_devices"])))
    axes.legend()
    own = session.skipped[session.skipped["batch_size"] == table["batch_size"].iloc[0]]
    notes = figures.why_missing(own, table, "GPUs") + mark_points(axes, table)
    if table["num_devices"].nunique() == 1:
        notes.append("one GPU count measured: no ideal line")
    figures.note_below(axes, figures.what_is_drawn(table), *notes)
    return figure


def best_gpus(rows: pd.DataFrame) -> list[int]:
    """The GPU counts that the interval of the highest median rate does not tell apart."""
    top = rows.loc[rows["rate"].idxmax()]
    return sorted(map(int, rows[rows["rate_high"] >= top["rate_low"]]["num_devices"]))


def optimal_gpus(session: figures.Session, table: pd.DataFrame) -> plt.Figure:
    """The best GPU count for each batch size; no bar where fewer than two were measured."""
    figure, axes = plt.subplots()
    names, most = [], max(3, table["num_devices"].max())
    for place, (series, rows) in enumerate(table.groupby("series", sort=False)):
        names.append(series.replace(", ", "\n"))
        tied = best_gpus(rows)
        height, text = tied[0], ""
        if rows["num_devices"].nunique() < 2:
            height, text = 0, "one GPU count\nmeasured"
        elif len(tied) > 1:
            text = f"tie of {' and '.join(map(str, tied))}"
        axes.bar(place, height, 0.6, color=figures.COLOURS[0])
        axes.annotate(text, (place, height + 0.05), ha="center", fontsize=8)
    axes.set(ylabel="best number of GPUs", title=session.title, ylim=(0, most + 0.4))
    axes.set_yticks(range(most + 1))
    axes.set_xticks(range(len(names)), names)
    axes.set_xlim(-0.6, len(names) - 0.4)
    note = "\nhighest median rate; a tie within the intervals goes to fewer GPUs"
    missing = figures.why_missing(session.skipped, table, "GPUs")
    figures.note_below(axes, note, *missing)
    return figure


def gpu_throughput_line(session: figures.Session, table: pd.DataFrame) -> plt.Figure:
    """All batch sizes: throughput against GPUs; against the batch where one count was measured."""
    figure, axes = plt.subplots()
    against, xlabel, names = "num_devices", "GPUs", table["series"]
    if table["num_devices"].nunique() == 1:
        against, xlabel = "batch_size", f"images per step, on {table['num_devices'].iloc[0]} GPU"
        names = names.str.replace(r"batch \d+(, )?", "", regex=True)
    groups = table.groupby(names, sort=False)
    for colour, (name, rows) in zip(figures.COLOURS * 9, groups, strict=False):
        look = {"color": colour, "marker": "o", "label": name or "as by default"}
        figures.points(axes, session.runs, rows.sort_values(against), against, **look)
    axes.set(xlabel=xlabel, ylabel="throughput (img/s)", ylim=(0, None), title=session.title)
    axes.set_xticks(sorted(set(table[against])))
    axes.legend()
    missing = figures.why_missing(session.skipped, table, "GPUs")
    figures.note_below(axes, figures.what_is_drawn(table), *missing)
    return figure


def bar_figure(table: pd.DataFrame, title: str, ylabel: str) -> tuple[plt.Figure, plt.Axes]:
    """Axes with a place for a bar for each row of the table."""
    figure, axes = plt.subplots(figsize=(max(6.4, 0.9 * len(table)), 4.2))
    axes.set_xticks(np.arange(len(table)), bar_names(table), fontsize=8)
    axes.set(ylabel=ylabel, title=title)
    return figure, axes


def gpu_time_components_bar(session: figures.Session, table: pd.DataFrame) -> plt.Figure:
    """Where the GPU's time goes in a step: milliseconds per image, so that batches compare."""
    figure, axes = bar_figure(table, session.title, "time of a step / images (ms)")
    scale = 1000 / table["batch_size"].to_numpy()
    if table["forward"].isna().all():  # the original's files do not split compute
        look = {"color": "#BBBBBB", "label": "compute"}
        loading = table["loading"] * scale
        axes.bar(np.arange(len(table)), table["compute"] * scale, 0.6, loading, **look)
    figures.stacked_parts(axes, table, 0.6, scale)
    axes.set_xlabel("means over ranks, steps and runs", fontsize=8)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def gpu_memory(session: figures.Session, table: pd.DataFrame) -> plt.Figure:
    """Predicted against measured peak memory per GPU, with the limit of the card."""
    figure, axes = bar_figure(table, session.title, "memory per GPU (GiB)")
    places = np.arange(len(table))
    look = {"color": "white", "hatch": "//", "edgecolor": figures.COLOURS[0]}
    predicted = table["predicted_memory"] / GIB
    axes.bar(places - 0.2, predicted, 0.38, label="predicted before the run", **look)
    measured = table["peak_memory"] / GIB
    axes.bar(places + 0.2, measured, 0.38, color=figures.COLOURS[0], label="measured peak")
    card = results.read_environment(session.folder).get("gpu_memory_bytes")
    if card:
        look = {"linestyle": "--", "color": figures.COLOURS[1]}
        axes.axhline(card / GIB, label=f"the card: {card / GIB:.1f} GiB", **look)
    axes.legend()
    return figure


def draw_all(session: figures.Session) -> tables.Study:
    table = session.table
    # Oversubscribed GPUs are in the table alone.
    fair = table[~table["options"].str.contains(results.UNFAIR)]
    strong = fair[(fair["scaling"] != "weak") & (fair["mode"] == "ddp")].reset_index(drop=True)
    if strong.empty:
        print("no figures: nothing but shared GPUs or weak scaling was measured", file=sys.stderr)
        return tables.Study({})
    drawn = {}
    for batch, rows in strong.groupby("batch_size"):
        drawn[f"throughput_bs{batch}"] = throughput_of_batch(session, rows)
    drawn["optimal_gpus"] = optimal_gpus(session, strong)
    drawn["gpu_throughput_line"] = gpu_throughput_line(session, strong)
    drawn["gpu_time_components_bar"] = gpu_time_components_bar(session, strong)
    # Memory is as good in checks of a few steps.
    whole = table[(table["mode"] == "ddp") & ~table["options"].str.contains("oversubscribe")]
    predicted = whole[whole["predicted_memory"].notna()].reset_index(drop=True)
    if len(predicted):
        drawn["gpu_memory"] = gpu_memory(session, predicted)
    return tables.Study({}, "", drawn)


if __name__ == "__main__":
    args = figures.read_arguments(__doc__, HERE / "gpu_experiments", sys.argv[1:])
    figures.plot_results(args, draw_all, "GPUs")
