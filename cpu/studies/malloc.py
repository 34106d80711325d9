"""Which malloc to train with, what it costs in memory, and whether page faults are the reason.

The reason is tested by a prediction. Each malloc gives some freed blocks back to the kernel, by a
rule that its documentation states; a step's blocks (list_blocks.py) and that rule say how many page
faults a step has. Their price is fitted on the first network alone. Together they predict the time
per image of the other networks, from their time with tuned malloc, which gives nothing back.
"""

from pathlib import Path

import figures
import numpy as np
import pandas as pd
import results
import tables
from figures import plt
from tables import mean, measure_all, median, over

PAGE, HUGE_PAGE = 2**12, 2**21  # bytes
FIRST = "densenet121"  # the price of a fault is fitted on this network
MIB = 2**20
PLAIN = "mode == 'ddp' and precision == 'fp32' and channels_last == '0' and num_devices == 1"
# From which size on (bytes) a freed block goes back to the kernel before it is needed again.
# list_blocks.py leaves out what is smaller than 64 KiB.
RETURNS_FROM = {
    # DEFAULT_MMAP_THRESHOLD_MAX: mallopt(3). Larger blocks are mmaps of their own.
    "glibc": 32 * MIB + 1,
    "glibc, hugetlb=1": 32 * MIB + 1,
    "tuned malloc": None,
    "tcmalloc": None,
    # opt.oversize_threshold: blocks of 8 MiB and more have an arena that keeps nothing.
    "jemalloc": 8 * MIB,
    # The launcher sets that threshold to 1 byte; it holds for blocks of 16 KiB and more.
    "jemalloc, as run_cpu sets it": 16 * 1024,
    "jemalloc, decay off": None,
    # Unused pages are given back after 25 ms, blocks above 16 MiB at once: a step takes seconds.
    "mimalloc": 1,
}
NAMES = {
    "kept": tables.MALLOCS["kept"],
    "glibc hugetlb=1": "glibc, hugetlb=1",
    "jemalloc MALLOC_CONF=oversize": "jemalloc, as run_cpu sets it",
    "jemalloc MALLOC_CONF=dirty": "jemalloc, decay off",
    "mimalloc MIMALLOC_ALLOW": "mimalloc, purging off",
}


def allocator_name(memory: str) -> str:
    """What the rows have as memory, in words."""
    for start, name in NAMES.items():
        if memory.startswith(start):
            return name
    return memory


def torch_of(folder: Path) -> str:
    """The release of torch that a session was measured with."""
    return results.read_environment(folder).get("torch", "")


def variant_name(run: pd.Series) -> str:
    """What sets a run apart from the others of the first network, besides the allocator."""
    if run["num_devices"] > 1:
        return f"{run['num_devices']} cores"
    if run["channels_last"] == "1":
        return "channels last"
    return f"torch {run['torch']}" if run["precision"] == "fp32" else run["precision"]


# ---- which malloc


def allocator_rows(runs: pd.DataFrame, by: str) -> pd.DataFrame:
    """One row per network (or variant) and allocator: rate, faults, memory, gain over glibc."""
    table = []
    if runs.empty:
        return pd.DataFrame()
    for (name, allocator), own in runs.groupby([by, "allocator"], sort=False):
        base = runs[runs[by] == name].query("allocator == 'glibc'")
        row = {by: name, "allocator": allocator, "runs": len(own)}
        measures = {"rate": median("rate"), "faults_per_image": mean("faults_per_image")}
        row |= measure_all(own, measures)
        row["peak_gib"] = own["peak_memory"].max() / 2**30
        if allocator != "glibc":
            row |= measure_all(own, {"gain": over(base)})
        if len(own) == 1:
            row = tables.of_one_run(row, ["rate", "faults_per_image"])
        if len(results.paired_ratios(own, base)) == 1:
            row = tables.of_one_run(row, ["gain"])
        table.append(row)
    return pd.DataFrame(table).sort_values([by, "gain"], ascending=[True, False], ignore_index=True)


# ---- why


def predict_faults(blocks: pd.DataFrame, allocator: str) -> float:
    """Page faults of a step, in the blocks that the allocator's rule gives back."""
    least = RETURNS_FROM[allocator]
    if least is None:
        return 0.0
    pages = blocks["blocks"] * blocks["bytes"] / PAGE
    faults = float(pages[blocks["bytes"] >= least].sum())
    return faults * PAGE / HUGE_PAGE if "hugetlb" in allocator else faults


def price_of_fault(runs: pd.DataFrame) -> dict[str, float]:
    """Milliseconds per page fault, and per fault of a huge page, on the first network: in each
    round a line through its allocators; then what is left of the huge pages' time."""
    prices = []
    for _, own in runs[runs["model"] == FIRST].groupby(results.ROUND):
        huge = own["allocator"].str.contains("hugetlb")
        small = own[~huge]
        if len(small) < 2:
            continue
        slope, start = np.polyfit(small["faults_per_image"], small["ms_per_image"], 1)
        one = own[huge]
        large = (one["ms_per_image"] - start) / one["faults_per_image"]
        prices.append({"ms_per_fault": slope, "ms_per_huge_fault": large.mean()})
    return pd.DataFrame(prices).mean().to_dict()


def prediction_rows(runs: pd.DataFrame, folder: Path) -> list[dict]:
    """Predicted and measured, for each network and allocator of one session, whose blocks are in
    its folder."""
    price = price_of_fault(runs)
    table = []
    for (model, allocator), own in runs.groupby(["model", "allocator"], sort=False):
        file = folder / f"blocks_{model}.csv"
        if allocator not in RETURNS_FROM or not file.is_file():
            continue
        faults = predict_faults(pd.read_csv(file), allocator) / own["batch_size"].iloc[0]
        tuned = runs[runs["model"] == model].query("allocator == 'tuned malloc'")
        per_fault = price["ms_per_huge_fault" if "hugetlb" in allocator else "ms_per_fault"]
        row = {"session": folder.name, "model": model, "allocator": allocator, "faults": faults}
        row |= measure_all(own, {"counted": mean("faults_per_image")})
        row["ms"] = tuned["ms_per_image"].median() + per_fault * faults
        row |= measure_all(own, {"measured_ms": median("ms_per_image")})
        row["error_percent"] = 100 * (row["ms"] / row["measured_ms"] - 1)
        counted = tuned["ms_per_image"].median() + per_fault * row["counted"]
        row["error_of_counted_percent"] = 100 * (counted / row["measured_ms"] - 1)
        table.append(row | price)
    return table


def error_table(predictions: pd.DataFrame) -> pd.DataFrame:
    """Errors of the networks that nothing was fitted on; tuned malloc is where they start from."""
    others = predictions.query(f"model != '{FIRST}' and allocator != 'tuned malloc'")
    rows = []
    for allocator, own in [*others.groupby("allocator", sort=False), ("all", others)]:
        row = {"allocator": allocator, "networks": own["model"].nunique()}
        for name in ("error_percent", "error_of_counted_percent"):
            row[f"median_{name}"] = own[name].abs().median()
            row[f"worst_{name}"] = own[name].abs().max()
        rows.append(row)
    return pd.DataFrame(rows)


# ---- the study


def study(runs: pd.DataFrame, folder: Path) -> tables.Study:
    runs = runs[runs["scaling"] != "weak"].copy()
    runs["allocator"] = runs["memory"].map(allocator_name)
    runs["faults_per_image"] = runs["minor_faults"] * runs["num_devices"] / runs["batch_size"]
    runs["ms_per_image"] = 1000 * runs["step_time"] / runs["batch_size"]
    runs["torch"] = runs["occasion"].map(lambda session: torch_of(folder.with_name(session)))
    is_first = runs["torch"] == torch_of(folder)
    # Of other releases of torch than the first session's, no more than this is shown.
    elsewhere = runs[~is_first].query(PLAIN)
    runs = runs[is_first]
    parallel, plain = runs[runs["mode"] == "ddp"], runs.query(PLAIN)
    tables.require(plain[plain["allocator"] == "glibc"], "memory glibc")
    allocators = allocator_rows(plain, "model")
    others = pd.concat([parallel.drop(plain.index), elsewhere])
    variants = allocator_rows(others.assign(variant=others.apply(variant_name, axis=1)), "variant")
    rows = []
    for session, own in plain.groupby("occasion"):
        rows += prediction_rows(own, folder.with_name(session))
    made = {"allocators": allocators, "variants": variants}
    text = allocator_text(allocators, variants)
    if rows:
        made |= {"prediction": pd.DataFrame(rows), "errors": error_table(pd.DataFrame(rows))}
        text += error_text(made["errors"])
    return tables.Study(made, text, {"malloc": gain_chart(allocators, folder, plain)})


def allocator_text(allocators: pd.DataFrame, variants: pd.DataFrame) -> str:
    columns = {"allocator": "malloc", "rate": "img/s", "faults_per_image": "page faults per image"}
    columns |= {"peak_gib": "peak memory (GiB)", "gain": "times default malloc"}
    text = tables.markdown(
        allocators, "One core, batch 32, fp32.", {"model": "network"} | columns, None
    )
    return text + tables.markdown(
        variants, f"{FIRST}, with other settings.", {"variant": "with"} | columns, None
    )


def error_text(errors: pd.DataFrame) -> str:
    return tables.markdown(
        errors,
        "Time per image of the networks that nothing was fitted on: error of the prediction (%).",
        {"allocator": "malloc", "median_error_percent": "median", "worst_error_percent": "worst"}
        | {"median_error_of_counted_percent": "median, with the faults that were counted"}
        | {"worst_error_of_counted_percent": "worst, with the faults that were counted"},
    )


def message(gains: pd.DataFrame) -> str:
    """The best and the worst malloc of the first network, in a sentence."""
    first = gains[gains["model"] == gains["model"].iloc[0]].sort_values("gain")
    slower = first[first["gain_high"] < 1]
    worst, best = (slower if len(slower) else first).iloc[0], first.iloc[-1]
    text = f"{best['allocator']} trains {best['model']} {best['gain']:.2f} times as fast as default"
    return f"{text} malloc, {worst['allocator']} {worst['gain']:.2f} times"


def gain_chart(allocators: pd.DataFrame, folder: Path, runs: pd.DataFrame) -> plt.Figure:
    """What each malloc brings to each network, the best first."""
    gains = allocators.dropna(subset="gain")
    order = gains.groupby("allocator")["gain"].median().sort_values(ascending=False).index
    networks = list(gains.groupby("model", sort=False))
    size = (2.4 + 1.7 * len(networks), 1.2 + 0.3 * len(order))
    figure, panels = plt.subplots(
        1,
        len(networks),
        sharey=True,
        sharex=True,
        squeeze=False,
        figsize=size,
        layout="constrained",
    )
    for axes, (model, own) in zip(panels[0], networks, strict=True):
        gains_here = figures.triples(own.set_index("allocator").reindex(order), "gain")
        figures.gain_bars(axes, gains_here)
        for place in np.flatnonzero(np.isnan(gains_here[:, 0])):
            axes.text(1.05, place, "not measured", color=figures.GREY, fontsize=8, va="center")
        axes.set_title(model, loc="left", fontsize=10)
        axes.margins(x=0.45)  # the values of the shortest bars would lie on the axis
    panels[0][0].set_yticks(range(len(order)), order)
    figure.supxlabel("times the rate of default malloc", fontsize=10)
    # A round without the base compares nothing.
    counts = runs[runs["allocator"] == "glibc"].groupby("model").size()
    rounds = ", ".join(f"{model} {count}" for model, count in counts.items())
    batch = f"one core, batch {runs['batch_size'].max()}"
    colours = "blue: faster, orange: slower, grey: undecided, or one round"
    note = f"{batch}; rounds: {rounds}"
    figures.headline(figure, message(gains), note, colours, figures.make_title(folder, runs))
    return figure
