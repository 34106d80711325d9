"""How all figures look, what is printed beside them, and the arguments of the plotting scripts."""

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import matplotlib
import numpy as np
import pandas as pd
import results as r

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  (the backend comes first)

# The parts of a step in Okabe and Ito's colours, which the colour-blind tell apart, with hatches.
PARTS = {"loading": ("#E69F00", ""), "forward": ("#56B4E9", ""), "backward": ("#0072B2", ""),
         "ddp": ("#000000", ""), "transfer": ("#CC79A7", "xx"), "waiting": ("#D55E00", "//"),
         "optimizer": ("#009E73", "")}
NAMES = {"ddp": "DDP's own work", "slowed_backward": "slowed backward", "transfer":
         "exposed transfer"}
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
STYLE = {"figure.figsize": (6.4, 4.2), "savefig.dpi": 150, "savefig.bbox": "tight", "font.size": 10,
         "axes.titlesize": 10, "legend.fontsize": 8.5, "legend.frameon": False, "axes.grid": True,
         "axes.spines.top": False, "axes.spines.right": False, "axes.grid.axis": "y",
         "axes.axisbelow": True, "grid.alpha": 0.3, "pdf.fonttype": 42, "hatch.linewidth": 0.6,
         "text.parse_math": False}
TEX = str.maketrans({c: f"\\{c}" for c in "#$%&_{}"} | dict.fromkeys("\\~^\n\r", " "))


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
    reasons = missing["reason"].astype(str)
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
                     linewidth=0, label=NAMES.get(part, part))
        bottom += height


def points(axes: plt.Axes, runs: pd.DataFrame, rows: pd.DataFrame, column: str = "rate",
           against: str = "num_devices", aside: float = 0.0, **look: Any) -> None:
    """The runs as dots and the medians with their intervals, over device counts or batch sizes.
    aside moves them sidewards, so that what lies at the same place can be told apart."""
    own = runs[runs["series"].isin(rows["series"]) & runs["mode"].isin(rows["mode"])
               & runs[against].isin(rows[against])]
    if column in own:
        axes.plot(own[against] + aside, own[column], ".", markersize=4, alpha=0.5,
                  color=look["color"])
    axes.errorbar(rows[against] + aside, rows[column], error_bars(rows, column), capsize=3,
                  markersize=6, **look)


def bars(axes: plt.Axes, names: Any, table: pd.DataFrame, name: str, notes: Any = (),
         **look: Any) -> None:
    """A horizontal bar per row with its interval, and a note at its end."""
    axes.barh(names, table[name], 0.65, xerr=error_bars(table, name), capsize=3,
              **{"color": COLOURS[0]} | look)
    for place, (note, high) in enumerate(zip(notes, table[f"{name}_high"], strict=False)):
        axes.annotate(note, (high, place), (6, 0), va="center", textcoords="offset points")
    axes.margins(x=0.12)
    axes.grid(axis="x")


def dots(axes: plt.Axes, names: list[str], columns: dict[str, list[tuple]]) -> None:
    """Values with their intervals, (value, low, high) by name, in a colour for each label."""
    for number, (label, values) in enumerate(columns.items()):
        value, low, high = np.array(values, dtype=float).T
        axes.errorbar(value, np.arange(len(names)) + 0.6 / len(columns) * number, fmt="o",
                      xerr=[value - low, high - value], color=COLOURS[number % len(COLOURS)],
                      capsize=3, markersize=5, label=label)
    axes.set_yticks(np.arange(len(names)) + 0.3 - 0.3 / len(columns), names)
    axes.invert_yaxis()
    axes.grid(axis="x")


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
    """Which results to draw (own ones if there are any, else the published, with all occasions),
    and where to."""
    own = published.with_name(f"{published.name}_own")
    default = [own] if any(own.rglob("times_run*.csv")) else r.occasions_of(published)
    parser = argparse.ArgumentParser(description=doc.split("\n\n")[0])
    add = parser.add_argument
    add("results", nargs="*", type=Path, default=default,
        help="folders with a sweep's CSV files, an occasion each (default: own results, else the "
        "published ones)")
    add("--output", type=Path, help="folder for the figures (default: beside the results)")
    add("--method", choices=["sound", "original"], default="sound",
        help="original: also read the files as the original study did")
    add("--against", type=Path, help="results to compare with, like the published ones")
    args = parser.parse_args()
    args.folders = [path.absolute() for path in args.results]
    args.results = args.folders[0]
    args.output = args.output or plots_folder(args.results)
    args.published = args.results == published
    return args


def print_table(table: pd.DataFrame, device: str, original: bool) -> None:
    """The configurations, aligned."""
    shown = pd.DataFrame({
        "configuration": table["series"], "mode": table["mode"], device: table["num_devices"],
        "runs": table["runs"], "interval": table["interval"],
        **{head: [r.interval_text(row, name, None) for _, row in table.iterrows()]
           for head, name in (("img/s", "rate"), ("step (s)", "step_time"),
                              ("first step (s)", "cold_step_time"), ("speed-up", "speedup"),
                              ("efficiency", "efficiency"))},
    })
    if original:
        shown["img/s, original's method"] = table["rate_original_method"].round(4)
    print(shown.to_string(index=False))


def print_against(runs: pd.DataFrame, folder: Path) -> None:
    """The rates of equal configurations, and their ratio, for results of two folders."""
    try:
        others = r.run_table(r.read_results(folder)[0])
    except r.ResultsError as error:
        print(f"not compared: {error}", file=sys.stderr)
        return
    lines, groups = [], dict(list(others.groupby(r.KEY)["rate"]))
    for key, own in runs.groupby(r.KEY, sort=False):
        if key in groups:
            values = (r.median_interval(own["rate"]), r.median_interval(groups[key]),
                      r.ratio_interval(own["rate"], groups[key]))
            texts = [r.interval_text(r.named_interval("x", value), "x") for value in values]
            lines.append([own["series"].iloc[0], key[2], key[0], *texts])
    head = ["configuration", "mode", "devices", "img/s here", "img/s there", "here / there"]
    print(f"\nagainst {folder} (two machines or days differ in absolute rates: compare ratios)")
    print(pd.DataFrame(lines, columns=head).to_string(index=False) if lines else
          "no configuration is in both")


def plot_results(doc: str, published: Path, draw: Callable, device: str = "cores") -> NoReturn:
    """The main of each plotting script: reads the results, has draw(args, rows, runs, table,
    skipped, title) make the figures in args.output, and writes what that returns: tables by name,
    beside summary.csv, and lines for answers.md. Ends the process: status 0, 1 if some files were
    left out, 2 if nothing can be used."""
    args = read_arguments(doc, published)
    try:
        rows, skipped, problems = r.read_results(*args.folders)
        runs = r.run_table(rows)
        args.output.mkdir(parents=True, exist_ok=True)
        table = r.configuration_table(runs)
        title = make_title(r.read_environment(args.results), runs)
        with plt.rc_context(STYLE):
            tables, lines = draw(args, rows, runs, table, skipped, title)
        texts = {f"{name}.csv": own.to_csv(index=False) if len(own) else "" for name, own in {
            "summary": table, **tables}.items()}
        texts["answers.md"] = "".join(f"{line}\n" for line in lines)
        for name, text in texts.items():
            path = args.output / name  # none may stay of other results
            path.write_text(text) if text else path.unlink(missing_ok=True)
    except (r.ResultsError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except (KeyError, IndexError, ValueError) as error:
        print(f"error: the results lack what these figures need ({error!r})", file=sys.stderr)
        sys.exit(2)
    print_table(table, device, args.method == "original")
    print(*lines, sep="\n")
    if args.against:
        print_against(runs, args.against)
    for problem in problems:
        print(f"left out: {problem}", file=sys.stderr)
    kind = "published" if args.published else "own"
    print(f"figures and summary.csv of {kind} results are in {args.output}")
    sys.exit(len(problems) > 0)
