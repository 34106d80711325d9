"""How all figures look, and the main of the plotting scripts."""

import argparse
import re
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import matplotlib
import numpy as np
import pandas as pd
import results
import tables

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  (the backend comes first)

# The parts of a step in Okabe and Ito's colours, which the colour-blind tell apart, with hatches.
PARTS = {
    "loading": ("#E69F00", ""),
    "forward": ("#56B4E9", ""),
    "backward": ("#0072B2", ""),
    "ddp": ("#000000", ""),
    "transfer": ("#CC79A7", "xx"),
    "waiting": ("#D55E00", "//"),
    "optimizer": ("#009E73", ""),
}
NAMES = {
    "ddp": "copying gradients back (DDP)",
    "transfer": "all-reduce not hidden",
}
SHORT = {"transfer": "all-reduce", "ddp": "copying"}
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
GREY, BETTER, WORSE = "#666666", "#0072B2", "#D55E00"
DEFAULT, TUNED = "#777777", "#0072B2"  # malloc
LARGE_PARTS = ("forward", "backward")
COMPUTING = "computing"  # both of them
CAUSES = {
    COMPUTING: "slower computing",
    "loading": "slower loading",
    "optimizer": "a slower optimizer",
    "transfer": "communication",
    "ddp": "communication",
    "waiting": "waiting",
}
MOST_LABELS = 10  # devices up to which each point has its value beside it
STYLE = {
    "figure.figsize": (6.4, 4.2),
    "savefig.dpi": 150,
    "savefig.bbox": "tight",
    "font.size": 10,
    "axes.titlesize": 10,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.alpha": 0.3,
    "pdf.fonttype": 42,
    "hatch.linewidth": 0.6,
    "text.parse_math": False,
}


# ---- words on figures


def listed(values: Any) -> str:
    """The distinct values of a column: fp32, bf16."""
    return ", ".join(str(value) for value in sorted(set(values)) if value != "")


def make_title(folder: Path, runs: pd.DataFrame, machine: str = "") -> str:
    """Network, precision, machine and data in a line, as the foot of each figure has them. machine:
    what to say of it, if not what the session has."""
    environment = results.read_environment(folder)
    if not machine and not environment:
        machine = "machine not recorded"
    elif not machine:
        units = f"{environment['cpu_model']!s:.60}, {environment.get('cpu_capability', '')!s:.20}"
        machine = f"{units.strip(', ')}, {environment['cores_granted']} cores"
        machine = environment.get("gpu_model", machine)
    precision = listed(runs["precision"]) or "precision not recorded"
    network = listed(runs["model"]) or "DenseNet121"
    data = listed(runs["dataset"])
    return f"{network:.60}, {precision:.40}; {machine!s:.80}; {data:.90}"


def how_many(table: pd.DataFrame) -> str:
    """The number of runs of a point, and what its interval is."""
    few, many = table["runs"].min(), table["runs"].max()
    if many == 1:
        return "1 run each"
    counts = f"{few}" if few == many else f"{few} to {many}"
    kinds = ["95 % interval"] if many >= results.ENOUGH else []
    kinds += ["range"] if few < results.ENOUGH else []
    return f"median and {' or '.join(kinds)} of {counts} runs"


def count_ranges(counts: pd.Series) -> str:
    """Numbers of devices, those in a row joined: 3 to 8."""
    numbers = sorted(set(counts))
    if len(numbers) > 2 and numbers == list(range(int(numbers[0]), int(numbers[-1]) + 1)):
        return f"{numbers[0]} to {numbers[-1]}"
    return listed(counts)


def count_text(count: int, device: str) -> str:
    """1 core, 2 cores."""
    return f"{count} {device}" + ("" if count == 1 else "s")


def why_missing(skipped: pd.DataFrame, table: pd.DataFrame, device: str) -> list[str]:
    """Lines on the device counts that have no point, with the reasons that the sweep left."""
    there = set(zip(table["num_devices"], table["batch_size"], strict=True))
    points = zip(skipped["num_devices"], skipped["batch_size"], strict=True)
    is_missing = [point not in there for point in points]
    lines = []
    missing = skipped[np.array(is_missing, dtype=bool)]
    batches = {*table["batch_size"], *missing["batch_size"]}
    for reason, own in missing.groupby(missing["reason"].astype(str)):
        where = f"{count_ranges(own['num_devices'])} {device}"
        if len(batches) > 1:
            where = f"batch {listed(own['batch_size'])} on {where}"
        lines.append(f"not measured: {where} ({reason})")
    return lines


def headline(figure: plt.Figure, message: str, *notes: str) -> None:
    """What a figure says, bold at its top left; below it, grey, what it was measured with."""
    figure.suptitle(message, x=0.01, ha="left", fontweight="bold", fontsize=10.5)
    width = int(16 * figure.get_figwidth())  # letters that fit into a line
    lines = [textwrap.fill(note, width) for note in notes]
    figure.text(0.01, -0.01, "\n".join(lines), va="top", fontsize=8, color=GREY)


def series_colour(series: str, place: int) -> str:
    """Default malloc is grey and tuned malloc blue in all figures."""
    if "memory glibc" in series:
        return DEFAULT
    return TUNED if "memory kept" in series else COLOURS[place % len(COLOURS)]


def lighter(colour: str) -> tuple[float, ...]:
    """The same colour, half way to white."""
    return tuple((1 + part) / 2 for part in matplotlib.colors.to_rgb(colour))


def largest_speedup(batch: int, counts: np.ndarray) -> np.ndarray:
    """What the split of a batch allows: 32 images over 7 devices are 5 on the fullest, so 6.4."""
    return batch / np.ceil(batch / counts)


def draw_ideal(axes: plt.Axes, rows: pd.DataFrame, colour: str, alpha: float) -> float:
    """The best rate that the split of the batch allows, from the fewest devices' rate on: a dash at
    each number of devices. Returns that on the most."""
    base, batch = rows.iloc[0], int(rows["batch_size"].iloc[0])
    counts = np.arange(base["num_devices"], rows["num_devices"].max() + 1)
    allowed = largest_speedup(batch, counts)
    best = base["rate"] * allowed / allowed[0]
    draw_dashes(axes, counts, best, colour, alpha)
    return float(best[-1])


def draw_dashes(
    axes: plt.Axes, counts: np.ndarray, best: np.ndarray, colour: str, alpha: float
) -> None:
    """A dash at each number of devices: what would be the best there."""
    axes.hlines(best, counts - 0.36, counts + 0.36, color=colour, alpha=alpha, linewidth=1.5)


def label_series(axes: plt.Axes, last: dict[str, tuple[float, float, str]]) -> None:
    """Each series' name and last rate beside its last point (place, rate, colour), from the lowest
    up, moved apart where rates are alike."""
    step = 0.055 * axes.get_ylim()[1]
    height = -step
    for name, (place, rate, colour) in sorted(last.items(), key=lambda item: item[1][1]):
        height = max(rate, height + step)
        look = {"color": colour, "fontsize": 8.5, "va": "center", "textcoords": "offset points"}
        axes.annotate(f"{rate:.3g}  {tables.in_words(name)}", (place, height), (8, 0), **look)


def rates_over_devices(axes: plt.Axes, table: pd.DataFrame, device: str) -> None:
    """Rates with their intervals over the number of devices, a colour for each of at most four
    series; dashes are what the split allows. Nothing is drawn between two numbers of devices."""
    groups = list(table.groupby("series", sort=False))
    most = table.groupby("series")["rate"].max()
    last = {}
    for place, (series, rows) in enumerate(groups):
        rows = rows.sort_values("num_devices")
        colour = series_colour(series, place)
        if len(rows) > 1:
            draw_ideal(axes, rows, colour, 0.6 if len(groups) <= 2 else 0.3)
        # Side by side, where there is room: intervals of several series overlap.
        apart = 0.06 if rows["num_devices"].max() <= MOST_LABELS else 0
        rows = rows.assign(at=rows["num_devices"] + apart * (place - (len(groups) - 1) / 2))
        intervals(axes, rows, "rate", "at", fmt="o", color=colour)
        last[series] = (rows["num_devices"].iloc[-1] + 1.5 * apart, rows["rate"].iloc[-1], colour)
        # Over many devices, or of many series, values would lie on each other.
        if len(groups) <= 2 and rows["num_devices"].max() <= MOST_LABELS:
            # Below the points of the slower series, above those of the faster one.
            is_faster = len(groups) == 2 and most[series] > most.min()
            beside = (-4, 5) if is_faster else (4, -11)
            look = {"color": colour, "fontsize": 8.5, "textcoords": "offset points"}
            look["ha"] = "right" if is_faster else "left"
            for _, row in rows.iloc[:-1].iterrows():
                axes.annotate(f"{row['rate']:.3g}", (row["at"], row["rate"]), beside, **look)
    axes.set(xlabel=device, ylabel="images per second", ylim=(0, None))
    label_series(axes, last)
    counts = sorted(set(table["num_devices"]))
    axes.set_xticks(counts if len(counts) <= 10 else counts[:: len(counts) // 8])
    # Room for the names at the right, in the part of the width that their letters take.
    letters = 6 + max(len(tables.in_words(name)) for name in last)
    part = min(0.5, 0.075 * letters / axes.figure.get_figwidth())
    across = max(counts) - min(counts) + 1
    axes.set_xlim(min(counts) - 0.8, max(counts) + 0.5 + across * part / (1 - part))


def rates_as_bars(axes: plt.Axes, table: pd.DataFrame, device: str) -> None:
    """Rates on one or two numbers of devices: a group of bars and a speed-up for each series."""
    top = 1.25 * float(table["rate_high"].max())
    ticks: dict[float, str] = {}
    place = 0.0
    for number, (series, rows) in enumerate(table.groupby("series", sort=False)):
        rows = rows.sort_values("num_devices")
        colour = series_colour(series, number)
        places = place + np.arange(len(rows))
        shades = [lighter(colour), colour][-len(rows) :]
        axes.bar(places, rows["rate"], 0.84, color=shades)
        bars = error_bars(rows, "rate")
        axes.errorbar(places, rows["rate"], bars, fmt="none", color="#222222", capsize=3)
        for at, (_, row) in zip(places, rows.iterrows(), strict=True):
            look = {"ha": "center", "textcoords": "offset points", "fontsize": 9}
            axes.annotate(f"{row['rate']:.3g}", (at, row["rate_high"]), (0, 3), **look)
            ticks[at] = count_text(row["num_devices"], device)
        look = {"ha": "center", "color": colour, "fontweight": "bold"}
        middle = float(places.mean())
        if pd.notna(rows["speedup_low"].iloc[-1]):
            gain = f"× {rows['speedup'].iloc[-1]:.2f}"
            axes.text(middle, 0.94 * top, gain, fontsize=13, **look)
        name = tables.in_words(series)
        if table["batch_size"].nunique() == 1:  # the note says it
            name = name.removeprefix(f"batch {rows['batch_size'].iloc[0]}, ")
        name = name.replace(", ", "\n")
        axes.annotate(name, (middle, 0), (0, -22), "data", "offset points", va="top", **look)
        place += len(rows) + 0.6
    axes.set(ylabel="images per second", ylim=(0, top))
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.tick_params(axis="x", length=0)


def parts_message(row: pd.Series, device: str) -> str:
    """How much of a step is computing, and how much is waiting."""
    parts = row[list(PARTS)].astype(float).fillna(0)
    step, waiting = parts.sum(), parts["waiting"]
    computing = 100 * parts[list(LARGE_PARTS)].sum() / step
    devices = count_text(int(row["num_devices"]), device)
    message = f"On {devices} {computing:.0f} % of a step is computing"
    return message + (
        f", {100 * waiting / step:.1f} % is waiting" if waiting > 0.005 * step else ""
    )


def longer_message(rows: pd.DataFrame, device: str, ideal: np.ndarray) -> str:
    """By how much a step on the most devices is longer than an ideal one (s), and mostly why."""
    row, longer = rows.iloc[-1], longer_parts(rows, ideal).iloc[-1]
    if longer.sum() <= 0.005:
        return parts_message(row, device)
    devices = count_text(int(row["num_devices"]), device)
    why = longer.groupby(CAUSES).sum().idxmax()
    return f"On {devices} a step is {100 * longer.sum():.1f} % longer than ideal, mostly by {why}"


def longer_parts(rows: pd.DataFrame, ideal: np.ndarray) -> pd.DataFrame:
    """How much longer each part is than in an ideal step (s), as a share of that step, whose parts
    are the first row's, all shortened alike."""
    parts = with_computing(rows)
    return (parts - np.outer(ideal / ideal[0], parts.iloc[0])).div(ideal, axis=0)


def with_computing(rows: pd.DataFrame) -> pd.DataFrame:
    """The parts of a step (s), forward and backward as one."""
    parts = rows[list(PARTS)].fillna(0)
    parts.insert(0, COMPUTING, parts.pop("forward") + parts.pop("backward"))
    return parts


def longer_intervals(runs: pd.DataFrame, ideal: np.ndarray) -> pd.DataFrame:
    """The last of longer_parts with its interval over the rounds that have the fewest and the most
    devices [value, low, high x parts]; empty if there are fewer than two."""
    counts = runs["num_devices"]
    parts = with_computing(runs).set_index([runs[name] for name in results.ROUND])
    few, many = (parts[(counts == end).to_numpy()] for end in (counts.min(), counts.max()))
    short = few * (ideal[-1] / ideal[0])
    longer = (many - short).div(short.sum(axis=1), axis=0).dropna()
    if len(longer) < 2:
        return pd.DataFrame()
    return longer.apply(results.mean_interval)


def parts_over_devices(
    figure: plt.Figure, rows: pd.DataFrame, device: str, ideal: np.ndarray, spread: pd.DataFrame
) -> None:
    """The parts of a step over the number of devices, with the step that would be ideal (s), and by
    how much it is longer; at the right, of the last one, which parts are why (spread: their
    intervals)."""
    grid = figure.add_gridspec(1, 8)
    left = figure.add_subplot(grid[:4] if len(rows) > 1 else grid[:])
    parts = rows[list(PARTS)].fillna(0)
    tallest = 1.12 * max(*parts.sum(axis=1), *ideal)
    bottom, lowest = np.zeros(len(parts)), -0.05 * tallest  # the first name is above the axis
    for name in PARTS:
        height = parts[name].to_numpy()
        left.bar(range(len(parts)), height, 0.62, bottom, color=PARTS[name][0])
        bottom += height
        # Beside the last bar, apart if it is low; what is hardly seen is named at the right alone.
        share = height[-1] / parts.iloc[-1].sum()
        if share > 0.01 or (name in LARGE_PARTS and share > 0):
            lowest = max(bottom[-1] - height[-1] / 2, lowest + 0.08 * tallest)
            words = SHORT.get(name, name)
            if name == "forward" and not parts["backward"].any():
                words = COMPUTING  # the original's files do not tell them apart
            if share > 0.1:
                words += f" {100 * share:.0f} %"
            look = {"color": PARTS[name][0], "fontsize": 8.5, "va": "center", "fontweight": "bold"}
            left.text(len(parts) - 0.58, lowest, words, **look)
    draw_dashes(left, np.arange(1, len(rows)), ideal[1:], "#222222", 0.8)
    look = {"ha": "center", "fontsize": 8.5, "textcoords": "offset points"}
    if len(rows) > 4:  # labels at each would lie on each other
        left.annotate("ideal", (1, max(bottom[1], ideal[1])), (0, 4), **look)
    for place in range(1, len(rows) if len(rows) <= 4 else 1):
        left.text(place - 0.4, ideal[place], "ideal", fontsize=8.5, ha="right", va="center")
        longer = f"{100 * (bottom[place] / ideal[place] - 1):+.1f} %"
        left.annotate(longer, (place, max(bottom[place], ideal[place])), (0, 4), **look)
    left.set(xlabel=device, ylabel="seconds per step", ylim=(0, tallest))
    left.set_xticks(range(len(rows)), rows["num_devices"])
    left.set_xlim(-0.5, len(rows) - 0.5 + 0.4 * max(2, len(rows)))
    if len(rows) > 1:
        right = figure.add_subplot(grid[4:])
        why_longer(right, longer_parts(rows, ideal).iloc[-1], spread)
        right.set_title(f"{rows['num_devices'].iloc[-1]} {device}: % longer than ideal")


def why_longer(axes: plt.Axes, longer: pd.Series, spread: pd.DataFrame) -> None:
    """A bar for each part of a step: how much longer it is, as a share of the whole step."""
    is_shown = longer.abs().ge(0.0025) | longer.index.isin((COMPUTING, "waiting"))
    percent = 100 * longer[is_shown]
    percent["all else"] = 100 * longer[~is_shown].sum()
    colours = {COMPUTING: PARTS["backward"][0], "all else": GREY}
    for place, (name, value) in enumerate(percent.items()):
        colour = colours[name] if name in colours else PARTS[name][0]
        axes.barh(place, value, 0.62, color=colour)
        # At the right edge, clear of the whiskers.
        look = {"transform": axes.get_yaxis_transform(), "ha": "right", "va": "center"}
        axes.text(1, place, f"{value:.1f} %", **look)
        if name in spread:
            low, high = 100 * spread[name].iloc[1:]
            axes.hlines(place, low, high, color="#222222", linewidth=1)
    names = [NAMES.get(name, name) for name in percent.index]
    axes.set_yticks(range(len(percent)), [textwrap.fill(name, 16) for name in names])
    axes.set_ylim(len(percent) - 0.4, -0.6)
    low, high = axes.get_xlim()
    axes.set_xlim(low, high + 0.35 * (high - low))
    axes.axvline(0, color="#222222", linewidth=0.8)
    axes.grid(visible=False)


def gain_colour(gain: float, low: float, high: float) -> str:
    """Blue for a ratio above 1, vermilion for one below, grey if the interval does not say, or if
    there is none."""
    if low > 1:
        return BETTER
    return WORSE if high < 1 else GREY


def gain_bars(axes: plt.Axes, gains: np.ndarray) -> None:
    """Ratios [rows, 3] as bars from 1, from top to bottom, each with its value."""
    places = np.arange(len(gains))
    value, low, high = gains.T
    colours = [gain_colour(*gain) for gain in gains]
    axes.barh(places, value - 1, 0.62, left=1, color=colours)
    bars = [value - low, high - value]
    axes.errorbar(value, places, xerr=bars, fmt="none", color="#222222", capsize=2, linewidth=0.8)
    for place, gain in enumerate(gains):
        if np.isnan(gain[0]):
            continue
        # Beside the whisker, away from 1.
        low, high = (gain[0] if np.isnan(end) else end for end in gain[1:])
        outer, side, gap = (high, "left", 3) if gain[0] >= 1 else (low, "right", -3)
        look = {"va": "center", "ha": side, "fontsize": 8.5}
        axes.annotate(f"{gain[0]:.2f}", (outer, place), (gap, 0), "data", "offset points", **look)
    axes.axvline(1, color="#222222", linewidth=0.8)
    axes.margins(x=0.3)
    axes.set_ylim(len(gains) - 0.4, -0.6)
    axes.grid(visible=False)


# ---- what is drawn


def error_bars(rows: pd.DataFrame, name: str) -> list[pd.Series]:
    return [rows[name] - rows[f"{name}_low"], rows[f"{name}_high"] - rows[name]]


def triples(table: pd.DataFrame, name: str) -> np.ndarray:
    """Value, low and high of a table's column [rows, 3]."""
    return table[[name + end for end in results.ENDS]].to_numpy()


def stacked_parts(axes: plt.Axes, table: pd.DataFrame, width: float, scale: Any = 1.0) -> None:
    """A bar per row of the table: the parts of a step, on top of each other."""
    places, bottom = np.arange(len(table)), np.zeros(len(table))
    for part, (colour, hatch) in PARTS.items():
        height = table[part].fillna(0).to_numpy() * scale
        look = {"color": colour, "hatch": hatch, "edgecolor": "white", "linewidth": 0}
        if height.any():
            axes.bar(places, height, width, bottom, label=NAMES.get(part, part), **look)
        bottom += height


def intervals(
    axes: plt.Axes, rows: pd.DataFrame, name: str, against: str = "num_devices", **look: Any
) -> None:
    """Values with their intervals over device counts or batch sizes."""
    bars = error_bars(rows, name)
    axes.errorbar(rows[against], rows[name], bars, capsize=3, markersize=6, **look)


# ---- the main of the plotting scripts


class Session(NamedTuple):
    """What a plotting script draws from: the first of the folders, all rows and runs, the table of
    configurations, and what was skipped."""

    folder: Path
    rows: pd.DataFrame
    runs: pd.DataFrame
    table: pd.DataFrame
    skipped: pd.DataFrame

    @property
    def title(self) -> str:
        return make_title(self.folder, self.runs)


def save(figure: plt.Figure, path: Path) -> None:
    """A figure as PNG, and as PDF in the report's font; without a date in them, equal data give
    equal files."""
    figure.savefig(path.with_suffix(".png"))
    with plt.rc_context({"font.sans-serif": ["STIXGeneral"]}):
        figure.savefig(path.with_suffix(".pdf"), metadata={"CreationDate": None})
    plt.close(figure)


def plots_folder(folder: Path) -> Path:
    """Where figures go by default: cpu_run_own -> cpu_plots_own, runs -> plots."""
    word = r"(?<![A-Za-z])(experiments|runs|run)(?![A-Za-z])"
    name = re.sub(word, "plots", folder.name, count=1)
    return folder.with_name(name if name != folder.name else f"{name}_plots")


def read_arguments(doc: str, published: Path, arguments: list[str]) -> argparse.Namespace:
    """Which results to draw (the user's if there are any, else the published, with all sessions),
    and where to."""
    own = published.with_name(f"{published.name}_own")
    default = [own] if any(own.rglob("times_run*.csv")) else results.sessions_of(published)
    parser = argparse.ArgumentParser(description=doc.split("\n\n")[0])
    add = parser.add_argument
    add(
        "results",
        nargs="*",
        type=Path,
        default=default,
        help="folders of a sweep, a session each (default: your results, else the published ones)",
    )
    add("--published", action="store_true", help="the published results, though there are yours")
    add("--output", type=Path, help="folder for the figures (default: beside the results)")
    add("--against", type=Path, help="results to compare with, like the published ones")
    args = parser.parse_args(arguments)
    chosen = results.sessions_of(published) if args.published else args.results
    args.folders = [path.absolute() for path in chosen]
    args.output = args.output or plots_folder(args.folders[0])
    args.kind = "published" if args.folders[0] == published else "your"
    return args


def write_study(study: tables.Study, output: Path) -> None:
    """Tables, text and figures of a study; none of these files may stay of other results."""
    pictures = [f"![{figure.get_suptitle()}]({name}.png)" for name, figure in study.figures.items()]
    page = "\n\n".join(filter(None, [study.text.rstrip(), *pictures]))
    texts = {"answers.md": page and f"{page}\n"}
    digits = "%.12g"  # what comes after them depends on the processor
    for name, table in study.tables.items():
        csv = table.to_csv(index=False, float_format=digits)
        texts[f"{name}.csv"] = csv if len(table) else ""
    for name, text in texts.items():
        if text:
            (output / name).write_text(text)
        else:
            (output / name).unlink(missing_ok=True)
    for name, figure in study.figures.items():
        save(figure, output / name)


def print_against(runs: pd.DataFrame, folder: Path) -> None:
    try:
        text = tables.against_text(runs, results.read_runs(folder))
    except results.ResultsError as error:
        print(f"not compared: {error}", file=sys.stderr)
        return
    print(f"\nagainst {folder} (two machines or days differ in absolute rates: compare ratios)")
    print(text)


def draw_results(args: argparse.Namespace, draw: Callable, device: str) -> list[str]:
    """Read the results, draw and write them; returns what was left out of them, and why."""
    rows, skipped, problems = results.read_results(*args.folders)
    runs = results.run_table(rows)
    table = results.configuration_table(runs)
    with plt.rc_context(STYLE):
        study = draw(Session(args.folders[0], rows, runs, table, skipped))
        args.output.mkdir(parents=True, exist_ok=True)
        write_study(study._replace(tables={"summary": table, **study.tables}), args.output)
    print(study.printed or study.text or tables.scaling_text(table, device))
    if args.against:
        print_against(runs, args.against)
    return problems


def plot_results(args: argparse.Namespace, draw: Callable, device: str = "cores") -> NoReturn:
    """Have draw(session) make a study of the results, and write it into args.output. Ends the
    process: status 0, 1 if some files were left out, 2 if nothing can be used."""
    try:
        problems = draw_results(args, draw, device)
    except (results.ResultsError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    for problem in problems:
        print(f"left out: {problem}", file=sys.stderr)
    print(f"figures and summary.csv of {args.kind} results are in {args.output}")
    sys.exit(1 if problems else 0)
