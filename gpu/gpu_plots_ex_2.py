"""Figures and table of a GPU sweep: rate by batch and GPUs, components, memory.

    python gpu_plots_ex_2.py                              # your results, else the published ones
    python gpu_plots_ex_2.py gpu_experiments --output DIR
    python gpu_plots_ex_2.py --original-study             # two charts of the original study's rows

Reads every run below the folder, the original study's six columns (num_gpus) too; statistics as in
common/results.py.

Of limits.csv in the folder (measure_limits.py) it prints what limits the rate; of FOLDER_state.csv,
in which a sweep keeps what nvidia-smi says each second, how the GPUs' clocks were.

Writes optimal_gpus, gpu_throughput_line, gpu_time_components_bar and gpu_memory (.png, .pdf), and
summary.csv. Exit status: 0, 1 if some files were left out, 2 if nothing was left.
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
# Bits of nvidia-smi's reasons for a lower clock that are no choice of the user: limits of power and
# heat.
THROTTLED = 0x04 | 0x08 | 0x20 | 0x40 | 0x80
STATE = ["clock_mhz", "power_w", "temperature_c"]  # nvidia-smi's columns between time and reasons
PANELS = 4  # in a line
LAUNCH_BOUND = 0.01  # of a step: the host is ahead of the device by less than that at its end


def bar_names(table: pd.DataFrame) -> list[str]:
    names = []
    for _, row in table.iterrows():
        gpus = "1 GPU" if row["num_devices"] == 1 else f"{row['num_devices']} GPUs"
        names.append(f"{gpus}\n{row['series']}".replace(", ", "\n"))
    return names


def mark_points(axes: plt.Axes, rows: pd.DataFrame) -> list[str]:
    """Say at a point what makes it another one than its neighbours; returns lines that explain."""
    notes = []
    for _, row in rows.iterrows():
        words = []
        if "on_oom=accumulate" in row["options"] and int(row["micro_batches"] or 1) > 1:
            words.append(f"in {row['micro_batches']} micro-batches")
        if "checkpoint=1" in row["options"]:
            words.append("recomputed")
        if row.get("host_ahead", math.nan) < LAUNCH_BOUND * row.get("step_time", math.nan):
            words.append("launch-bound")
            notes = ["launch-bound: the GPU waits for the host, which launches too slowly"]
        place = (row["num_devices"], row["rate"])
        axes.annotate(", ".join(words), place, (5, -12), textcoords="offset points", fontsize=8)
    return notes


def speedup_message(table: pd.DataFrame) -> str:
    """The speed-up on the most GPUs of the smallest and of the largest batch that have one."""
    words = []
    for batch, rows in table.groupby("batch_size"):
        rows = rows.sort_values("num_devices")
        few, most = rows.iloc[0], rows.iloc[-1]
        if most["num_devices"] > few["num_devices"] == 1:
            gain = most["rate"] / few["rate"]
            words.append((batch, f"{gain:.2f} times at batch {batch}", most["num_devices"]))
    if not words:
        return f"{table['rate'].max():.3g} images per second"
    first = f"{words[0][2]} GPUs are {words[0][1].replace('times', 'times as fast as one', 1)}"
    return first if len(words) == 1 else f"{first}, {words[-1][1]}"


def batch_names(table: pd.DataFrame) -> pd.DataFrame:
    """A table whose series are called by their batch alone where that tells them apart."""
    short = "batch " + table["batch_size"].astype(str)
    if table.groupby(short)["series"].nunique().max() == 1:
        return table.assign(series=short)
    return table


def best_gpus(rows: pd.DataFrame) -> list[int]:
    """The GPU counts that the interval of the highest median rate does not tell apart."""
    top = rows.loc[rows["rate"].idxmax()]
    return sorted(map(int, rows[rows["rate_high"] >= top["rate_low"]]["num_devices"]))


def optimal_gpus(table: pd.DataFrame, *notes: str) -> plt.Figure:
    """The fewest GPUs that are as good as the best, by batch; no bar where one was measured."""
    groups = [rows for _, rows in table.groupby("series", sort=False)]
    groups.sort(key=lambda rows: rows["batch_size"].iloc[0])
    figure, axes = plt.subplots(figsize=(6.4, 3.0), layout="constrained")
    names, decided = [], []
    for place, rows in enumerate(groups):
        names.append(rows["series"].iloc[0].replace(", ", "\n"))
        tied = best_gpus(rows)
        height, text = tied[0], figures.count_text(tied[0], "GPU")
        if rows["num_devices"].nunique() < 2:
            height, text = 0, "one GPU count\nmeasured"
        elif len(tied) == 1:
            decided.append(rows["batch_size"].iloc[0])
        else:
            text += f"\n(tie with {' and '.join(map(str, tied[1:]))})"
        axes.bar(place, height, 0.6, color=figures.TUNED)
        axes.annotate(text, (place, height + 0.05), ha="center", fontsize=9)
    most = max(3, table["num_devices"].max())
    axes.set(ylabel="GPUs", ylim=(0, most + 0.8), xlim=(-0.6, len(names) - 0.4))
    axes.set_yticks(range(most + 1))
    axes.set_xticks(range(len(names)), names)
    message = "No number of GPUs is clearly the best, at any batch"
    if decided:
        message = f"One number of GPUs is clearly the best at batch {figures.listed(decided)} only"
    notes = ("a tie within the intervals goes to fewer GPUs", *notes)
    figures.headline(figure, message, *notes)
    return figure


def gpu_throughput_line(table: pd.DataFrame, *notes: str, whose: str = "") -> plt.Figure:
    """Throughput over GPUs, a panel for each batch; bars by batch where one count was measured."""
    table = batch_names(table)
    if table["num_devices"].nunique() == 1:
        figure, axes = plt.subplots(figsize=(6.4, 3.5), layout="constrained")
        figures.rates_as_bars(axes, table, "GPU")
    else:
        lines = math.ceil(table["series"].nunique() / PANELS)
        figure = plt.figure(figsize=(7.4, 0.6 + 2.7 * lines), layout="constrained")
        marks = rates_by_batch(figure, table)
        notes = (
            "dashes: the best that the split of the batch over the GPUs allows",
            *marks,
            *notes,
        )
    figures.headline(figure, whose + speedup_message(table), *notes)
    return figure


def rates_by_batch(figure: plt.Figure, table: pd.DataFrame) -> list[str]:
    """A panel for each series: rates with their intervals; above, the speed-up on the most GPUs.
    Returns lines that explain marks."""
    groups = sorted(table.groupby("series"), key=lambda group: group[1]["batch_size"].iloc[0])
    across, marks = min(PANELS, len(groups)), []
    shape = (math.ceil(len(groups) / across), across)
    panels = figure.subplots(*shape, sharex=True, sharey=True, squeeze=False).flat
    for axes, (series, rows) in zip(panels, groups, strict=False):
        rows = rows.sort_values("num_devices")
        best = figures.draw_ideal(axes, rows, figures.GREY, 0.6)
        figures.intervals(axes, rows, "rate", fmt="o", color=figures.TUNED)
        look = {"fontsize": 8.5, "textcoords": "offset points"}
        for place, rate in zip(rows["num_devices"], rows["rate"], strict=True):
            axes.annotate(f"{rate:.3g}", (place, rate), (5, 4), color=figures.TUNED, **look)
        marks += mark_points(axes, rows)
        few, most = rows.iloc[0], rows.iloc[-1]
        title = series.replace(", ", "\n")
        if most["num_devices"] > few["num_devices"]:
            axes.annotate(
                "ideal", (most["num_devices"], best), (-10, 3), color=figures.GREY, **look
            )
            counts = f"{most['num_devices']} over {few['num_devices']}"
            title += f"\n{counts}: × {most['rate'] / few['rate']:.2f}"
        axes.set_title(title, fontsize=10)
    counts = sorted(set(table["num_devices"]))
    panels[0].set(ylabel="images per second", xticks=counts)
    panels[0].set_ylim(0, 1.1 * panels[0].get_ylim()[1])
    panels[0].set_xlim(min(counts) - 0.5, max(counts) + 0.5)
    figure.supxlabel("GPUs", fontsize=10)
    return sorted(set(marks))


def original_table() -> pd.DataFrame:
    """What the original study published of its GPUs: rates (img/s) with their intervals."""
    table = results.read_original(HERE.parent / "data" / "original_study.csv", "gpu")
    table = table.rename(columns={"total_batch": "batch_size"})
    return table.assign(series="batch " + table["batch_size"].astype(str), options="")


def draw_original(folder: Path) -> None:
    """The two charts that a user gets, of the original study's rows."""
    table = original_table()
    note = "the original study's rows, re-analysed; not measured here"
    note = f"{note}; {figures.how_many(table)}"
    folder.mkdir(parents=True, exist_ok=True)
    with plt.rc_context(figures.STYLE):
        figures.save(
            gpu_throughput_line(table, note, whose="Original study: "),
            folder / "gpu_throughput_line",
        )
        figures.save(optimal_gpus(table, note), folder / "optimal_gpus")
    print(f"two charts of the original study's rows are in {folder}")


def bar_figure(table: pd.DataFrame, ylabel: str) -> tuple[plt.Figure, plt.Axes]:
    """Axes with a place for a bar for each row of the table."""
    size = (max(7.2, 0.9 * len(table)), 4.2)
    figure, axes = plt.subplots(figsize=size, layout="constrained")
    axes.set_xticks(np.arange(len(table)), bar_names(table), fontsize=8)
    axes.set_ylabel(ylabel)
    return figure, axes


def gpu_time_components_bar(session: figures.Session, table: pd.DataFrame) -> plt.Figure:
    """Where the GPU's time goes in a step: milliseconds per image, so that batches compare."""
    figure, axes = bar_figure(table, "ms per image")
    table = table.copy()
    if table["forward"].isna().all():  # the original's files do not split compute
        table["forward"] = table["compute"]
    figures.stacked_parts(axes, table, 0.6, 1000 / table["batch_size"].to_numpy())
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    row = table.loc[table["num_devices"].idxmax()]
    message = figures.parts_message(row, "GPU")
    figures.headline(figure, message, "means over ranks, steps and runs", session.title)
    return figure


def gpu_memory(session: figures.Session, table: pd.DataFrame) -> plt.Figure:
    """Predicted against measured peak memory per GPU, with the limit of the card."""
    figure, axes = bar_figure(table, "memory per GPU (GiB)")
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
    apart = (table["peak_memory"] / table["predicted_memory"] - 1).abs().max()
    message = f"Predicted memory is within {100 * apart:.0f} % of the measured peak"
    if pd.isna(apart):
        message = "Predicted memory; no peak was measured"
    figures.headline(figure, message, session.title)
    return figure


def limits_table(path: Path) -> pd.DataFrame:
    """One row per configuration of measure_limits.py: images/s, and the all-reduce in GB/s, with
    their intervals over the rounds; together over resident within them."""
    rows = pd.read_csv(path)
    rows.loc[rows["what"] == "all_reduce", "rate"] /= 1e9
    names = ["gpus", "batch_size", "precision", "channels_last", "workers"]
    table = []
    for key, own in rows.groupby(names):
        row = dict(zip(names, key, strict=True)) | {"rounds": own["round"].nunique()}
        rates = own.pivot_table(index="round", columns="what", values="rate")
        if "together" in rates:
            rates["kept"] = rates["together"] / rates["resident"]
        for name in rates:
            row |= results.named_interval(name, results.median_interval(rates[name]))
        table.append(row)
    return pd.DataFrame(table)


def limits_text(table: pd.DataFrame) -> str:
    """What limits the rate, for the end of a sweep."""
    heads = {"resident": "no loading (img/s)", "loader": "loader alone", "together": "together"}
    heads |= {"kept": "together / no loading", "all_reduce": "all-reduce (GB/s)"}
    columns = {"gpus": "GPUs", "batch_size": "batch", "rounds": "rounds"}
    columns |= {name: head for name, head in heads.items() if name in table}
    return tables.markdown(table, "What limits the rate.", columns, None)


def state_table(state: Path, log: Path) -> pd.DataFrame:
    """One row per complete run of the log (runs.csv): medians of clock (MHz), power (W) and
    temperature (degrees C) while it lasted, and the share of the time in which it was throttled."""
    names = ["time", *STATE, "reasons"]
    seen = pd.read_csv(state, names=names, skipinitialspace=True, on_bad_lines="skip")
    seen["time"] = pd.to_datetime(seen["time"], utc=True, errors="coerce")
    for name in STATE:
        seen[name] = pd.to_numeric(seen[name], errors="coerce")  # a card may not know its power
    masks = seen["reasons"].astype(str).str.extract(r"0x([0-9a-fA-F]+)$", expand=False).fillna("0")
    seen["throttled"] = [int(mask, 16) & THROTTLED > 0 for mask in masks]
    runs = pd.read_csv(log)
    runs["date"] = pd.to_datetime(runs["date"], utc=True)
    table = []
    for _, run in runs[runs["result"] == "complete"].iterrows():
        begun = run["date"] - pd.Timedelta(seconds=run["wall_s"])
        own = seen[(begun <= seen["time"]) & (seen["time"] <= run["date"])]
        if len(own):
            row = run[["configuration", "run_id"]].to_dict() | own[STATE].median().to_dict()
            table.append(row | {"throttled": own["throttled"].mean()})
    return pd.DataFrame(table)


def state_text(table: pd.DataFrame) -> str:
    """How the GPUs' clocks were, for the end of a sweep."""
    clock, slowed = table["clock_mhz"], (table["throttled"] > 0).sum()
    clocks = f"{clock.median():.0f} MHz, {clock.min():.0f} to {clock.max():.0f} between runs"
    return f"GPU clock: {clocks}; held back by power or heat in {slowed} of {len(table)} runs"


def beside_the_runs(folder: Path) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """Tables of what was measured besides, empty where there is nothing, and what they say."""
    limits, log = folder / "limits.csv", folder / "runs.csv"
    state = folder.with_name(f"{folder.name}_state.csv")
    made = {"limits": pd.DataFrame(), "state": pd.DataFrame()}
    if limits.is_file():
        made["limits"] = limits_table(limits)
    if state.is_file() and log.is_file():
        made["state"] = state_table(state, log)
    words = {"limits": limits_text, "state": state_text}
    return made, [words[name](table).rstrip() for name, table in made.items() if len(table)]


def draw_all(session: figures.Session) -> tables.Study:
    table = session.table
    # Oversubscribed GPUs are in the table alone.
    fair = table[~table["options"].str.contains(results.UNFAIR)]
    strong = fair[(fair["scaling"] != "weak") & (fair["mode"] == "ddp")].reset_index(drop=True)
    if strong.empty:
        print("no figures: nothing but shared GPUs or weak scaling was measured", file=sys.stderr)
        return tables.Study({})
    drawn = {}
    missing = figures.why_missing(session.skipped, strong, "GPUs")
    notes = [*missing, f"{session.title}; {figures.how_many(strong)}"]
    drawn["optimal_gpus"] = optimal_gpus(strong, *notes)
    drawn["gpu_throughput_line"] = gpu_throughput_line(strong, *notes)
    drawn["gpu_time_components_bar"] = gpu_time_components_bar(session, strong)
    # Memory is as good in checks of a few steps.
    whole = table[(table["mode"] == "ddp") & ~table["options"].str.contains("oversubscribe")]
    predicted = whole[whole["predicted_memory"].notna()].reset_index(drop=True)
    if len(predicted):
        drawn["gpu_memory"] = gpu_memory(session, predicted)
    made, texts = beside_the_runs(session.folder)
    rates = tables.scaling_text(table, "GPUs")
    return tables.Study(made, "\n\n".join(texts), drawn, "\n\n".join([rates, *texts]))


if __name__ == "__main__":
    if sys.argv[1:] == ["--original-study"]:
        draw_original(HERE / "gpu_plots")
        sys.exit()
    args = figures.read_arguments(__doc__, HERE / "gpu_experiments", sys.argv[1:])
    figures.plot_results(args, draw_all, "GPUs")
