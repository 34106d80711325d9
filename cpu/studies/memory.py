"""What the allocator costs: page faults predicted and counted, their price, and what they explain.

Predicts the faults of a step from blocks.csv (list_blocks.py): a block above 32 MiB goes back to
the kernel when it is freed, so each of its 4 KiB pages is faulted in anew at each step. The main
sweep's rows are read for what faults explain of its speed-up, so it comes first.
"""

from pathlib import Path

import figures
import numpy as np
import pandas as pd
import results
import tables
from figures import plt
from tables import interval_table, mean, measure_all, median

LARGEST = 32 * 2**20  # glibc's DEFAULT_MMAP_THRESHOLD_MAX, in bytes
PAGE = 4096  # bytes
MEMORIES = ("glibc", "kept")
CPU = Path(__file__).resolve().parents[1]
COLOURS = {"glibc": figures.DEFAULT, "kept": figures.TUNED}


def name_of(memory: str) -> str:
    """What the rows have as memory, in words."""
    if "MALLOC_CONF" in memory:
        return "jemalloc without decay"
    if "THP" in memory:
        return "torch's huge pages"
    return tables.MALLOCS.get(memory, memory)


def predicted_faults(blocks: pd.DataFrame, batch: int) -> float:
    """Faults of a step in blocks that glibc gives back, which grow with the batch."""
    sizes = blocks["bytes"] * batch / blocks["batch_size"]
    return float((blocks["blocks"] * sizes / PAGE)[sizes > LARGEST].sum())


def fault_table(runs: pd.DataFrame, blocks: pd.DataFrame) -> pd.DataFrame:
    """One row per batch: predicted faults, and what glibc has beyond kept memory, per round."""
    table = []
    for batch, own in runs[runs["num_devices"] == 1].groupby("batch_size"):
        glibc, kept = (own[own["memory"] == memory] for memory in MEMORIES)
        row = {"batch_size": batch, "predicted": predicted_faults(blocks, batch)}
        more = results.by_round(glibc, "minor_faults") - results.by_round(kept, "minor_faults")
        table.append(
            row | results.named_interval("more_faults", results.mean_interval(more.dropna()))
        )
    return pd.DataFrame(table)


def line_of_round(own: pd.DataFrame) -> dict[str, float]:
    """A line through the configurations of one round: time against faults, per image."""
    per_image = own[["minor_faults", "step_time"]].div(own["batch_size"], axis=0)
    slope, start = np.polyfit(per_image["minor_faults"], per_image["step_time"], 1)
    left = per_image["step_time"] - start - slope * per_image["minor_faults"]
    return {
        "price_us": 1e6 * slope,
        "clean_ms_per_image": 1000 * start,
        "r_squared": 1 - left.var() / per_image["step_time"].var(),
    }


def price_of_fault(runs: pd.DataFrame) -> dict[str, float]:
    """Microseconds per fault and milliseconds per image without one: in each round a line through
    all configurations of one core. But for huge pages: one of their faults clears 2 MiB."""
    small = runs[(runs["num_devices"] == 1) & ~runs["memory"].str.contains("THP")]
    lines = pd.DataFrame([line_of_round(own) for _, own in small.groupby(results.ROUND)])
    return measure_all(lines, {name: mean(name) for name in lines})


def price_table(runs: pd.DataFrame, faults: pd.DataFrame) -> pd.DataFrame:
    """The price, and how well faults are predicted: which batches are missed."""
    within = faults["predicted"].between(faults["more_faults_low"], faults["more_faults_high"])
    row = price_of_fault(runs) | {
        "batches": len(faults),
        "within": int(within.sum()),
        "missed": ", ".join(map(str, faults["batch_size"][~within])) or "none",
    }
    return pd.DataFrame([row])


def explained(what: str, memory: str, over: pd.Series, faults: pd.Series) -> dict:
    """A difference by round, how much of it faults make, and what is left."""
    both = pd.DataFrame({"difference": over, "faults": faults}).dropna()
    both["left"] = both["difference"] - both["faults"]
    row = {"what": what, "memory": memory}
    row |= measure_all(both, {name: mean(name) for name in both})
    share = 100 * both["faults"].mean() / both["difference"].mean()
    return row | {"percent": share, "rounds": len(both)}


def per_image_verdict(own: pd.DataFrame, memory: str, price: float) -> dict:
    """Of what an image takes longer at batch 32 than at 16."""
    batches = []
    for batch in (32, 16):
        runs = own[own["batch_size"] == batch]
        seconds = runs["step_time"] / runs["batch_size"]
        faults = runs["minor_faults"] / runs["batch_size"]
        runs = runs.assign(seconds=seconds, faults=faults)
        batches.append([results.by_round(runs, name) for name in ("seconds", "faults")])
    (seconds, faults), (fewer_seconds, fewer_faults) = batches
    more = 1000 * (seconds - fewer_seconds)
    what = "time per image at 32 less at 16 (ms)"
    return explained(what, memory, more, 1000 * price * (faults - fewer_faults))


def cold_verdict(own: pd.DataFrame, memory: str, price: float) -> dict:
    """Of what the first step takes longer than a steady one."""
    cold = own[own["batch_size"] == 32]
    longer = results.by_round(cold, "cold_step_time") - results.by_round(cold, "step_time")
    more = results.by_round(cold, "cold_faults") - results.by_round(cold, "minor_faults")
    what = "first step less a steady one, batch 32 (s)"
    return explained(what, memory, longer, price * more)


def speedup_verdict(strong: pd.DataFrame, memory: str, price: float) -> dict:
    """Of the main sweep's speed-up: what it is, and what it would be without faults."""
    strong = strong[strong["memory"] == memory]
    clean = strong["step_time"] - price * strong["minor_faults"]
    strong = strong.assign(clean=clean)
    few, most = strong["num_devices"].min(), strong["num_devices"].max()
    speedups = []
    for name in ("step_time", "clean"):
        one, many = (strong[strong["num_devices"] == count] for count in (few, most))
        speedups.append(results.by_round(one, name) / results.by_round(many, name))
    speedup, without = speedups
    row = explained(f"speed-up on {most} cores", memory, speedup, speedup - without)
    measured = results.mean_interval(speedup.dropna())
    return {"what": row.pop("what"), "memory": row.pop("memory")} | (
        results.named_interval("measured", measured) | row
    )


def verdict_table(runs: pd.DataFrame, main_sweep: pd.DataFrame, price: float) -> pd.DataFrame:
    """How much page faults explain, at their price (s)."""
    one = runs[runs["num_devices"] == 1]
    strong = main_sweep.query("mode == 'ddp' and scaling != 'weak' and batch_size == 32")
    table = []
    for memory in MEMORIES:
        own = one[one["memory"] == memory]
        table.append(per_image_verdict(own, memory, price))
        table.append(cold_verdict(own, memory, price))
        if strong[strong["memory"] == memory]["num_devices"].nunique() > 1:
            table.append(speedup_verdict(strong, memory, price))
    return pd.DataFrame(table)


def label_points(
    axes: plt.Axes, points: pd.DataFrame, name: str, colour: str, middle: float
) -> None:
    """A malloc's name beside its slowest of these points, clear of the line: below it, or above it
    right of the middle; and below each of the points its batch."""
    top = points.loc[points["ms"].idxmax()]
    has_room = top["faults"] < middle  # at its right
    look = {"color": colour, "textcoords": "offset points", "va": "center"}
    place, side = ((20, -9), "left") if has_room else ((-12, 8), "right")
    axes.annotate(
        name, (top["faults"], top["ms"]), place, ha=side, fontweight="bold", fontsize=9, **look
    )
    for _, point in points.iterrows():
        where = (point["faults"], point["ms"])
        axes.annotate(f"{point['batch_size']:.0f}", where, (5, -9), fontsize=8, **look)


def draw_line(axes: plt.Axes, price: dict, most: float) -> None:
    """The line that was fitted, up to the most faults (thousands per image), with its slope."""
    ends = np.array([0, most])
    line = price["clean_ms_per_image"] + price["price_us"] * ends
    axes.plot(ends, line, "--", color="#222222", linewidth=1)
    place = (0.68 * most, np.interp(0.68 * most, ends, line))
    each = f"{price['price_us']:.2f} µs per fault"
    axes.annotate(each, place, (6, -8), textcoords="offset points", va="top", fontsize=9)


def page_faults(runs: pd.DataFrame, price: dict, note: str) -> plt.Figure:
    """Time against faults of 4 KiB pages, per image on one core, for each batch and malloc."""
    one = runs[(runs["num_devices"] == 1) & ~runs["memory"].str.contains("THP")]
    one = one.assign(faults=one["minor_faults"] / one["batch_size"] / 1000)
    one = one.assign(ms=1000 * one["step_time"] / one["batch_size"])
    figure, axes = plt.subplots(figsize=(6.4, 3.1), layout="constrained")
    most, low = one["faults"].max(), one["ms"].min()
    few = {}  # ms per image of the mallocs that have hardly any faults at any batch
    for number, (memory, own) in enumerate(one.groupby("memory")):
        name = name_of(memory)
        colour = COLOURS.get(memory, figures.COLOURS[1 + number % 5])
        points = interval_table(own, "batch_size", faults=median("faults"), ms=median("ms"))
        if own["faults"].max() < 0.05 * most:
            few[name] = points["ms"].iloc[-1]
            colour = figures.TUNED
        else:
            is_seen = points["faults"] > 0.05 * most
            label_points(axes, points[is_seen], name, colour, most / 2)
        figures.intervals(axes, points, "ms", "faults", fmt="o", color=colour)
    times = [f"{name} {few[name]:.0f}" for name in sorted(few, key=few.get)]
    words = f"hardly any faults (ms, batch {one['batch_size'].max()}):\n{', '.join(times)}"
    look = {"color": figures.TUNED, "fontweight": "bold", "fontsize": 9, "va": "top"}
    axes.text(0, 0.94 * low, words, **look)
    draw_line(axes, price, most)
    axes.set(xlabel="page faults per image (thousands)", ylabel="ms per image, one core")
    axes.set_ylim(0.68 * low, None)
    each_point = figures.how_many(interval_table(one, ["memory", "batch_size"]))
    figures.headline(
        figure,
        f"The time of an image follows its page faults: {price['price_us']:.2f} µs each (4 KiB)",
        f"one core; the numbers are images of the batch; {each_point}",
        note,
    )
    return figure


def study(runs: pd.DataFrame, folder: Path) -> tables.Study:
    tables.require(runs[runs["memory"] == "kept"], "memory kept")
    is_published = folder == CPU / "studies" / "memory" / "runs"
    sweep = results.sessions_of(CPU / "cpu_run") if is_published else [CPU / "cpu_run_own"]
    main_sweep = results.read_runs(*sweep)
    faults = fault_table(runs, pd.read_csv(folder / "blocks.csv"))
    prices = price_table(runs, faults)
    price = prices.iloc[0].to_dict()
    verdict = verdict_table(runs, main_sweep, price["price_us"] / 1e6)
    text = tables.markdown(
        prices,
        "The price of a page fault: a line through all batches and all allocators but huge pages.",
        {
            "price_us": "us per fault",
            "clean_ms_per_image": "ms per image without",
            "r_squared": "R²",
        },
        None,
    )
    text += tables.markdown(
        verdict,
        "What page faults explain at that price; of a speed-up: what is left without them.",
        {"what": "what", "memory": "malloc", "difference": "measured", "faults": "by page faults"}
        | {"left": "unexplained, or left"},
    )
    text += tables.markdown(
        faults,
        "Page faults of a step: predicted from its blocks above 32 MiB, and counted with default "
        "malloc beyond those with tuned malloc.",
        {"batch_size": "images", "predicted": "predicted", "more_faults": "counted"},
        None,
    )
    drawn = {"page_faults": page_faults(runs, price, figures.make_title(folder, runs))}
    return tables.Study({"faults": faults, "verdict": verdict, "price": prices}, text, drawn)
