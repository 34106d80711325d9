"""What to set on this machine for this network: what was tried, what it brings, lines to paste.

Gains are ratios within rounds: to PyTorch's defaults, and of the fastest setting to itself with one
setting put back. search_settings.py chooses what is tried.
"""

from pathlib import Path

import figures
import pandas as pd
import process
import results
import tables
from figures import plt
from tables import measure_all, median, over

SETTINGS = ["malloc", "precision", "memory_format", "ranks"]
NO_DIFFERENCE, DEFAULTS = "no difference seen", "PyTorch's defaults"
MALLOCS = tables.MALLOCS | {
    "hugetlb": "default malloc (huge pages)",
    "jemalloc_kept": "jemalloc (decay off)",
}
MOST_BARS = 12  # in the figure; the table has all
LINES = {
    "bf16": '    with torch.autocast("cpu", torch.bfloat16):  # around forward and loss',
    "channels_last": "    model = model.to(memory_format=torch.channels_last)  # the images too",
}


def with_settings(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs, with what was set in columns of its own."""
    runs = runs.copy()
    runs["malloc"] = runs["options"].str.extract(r"malloc=(\w+)", expand=False)
    layout = {"0": "contiguous", "1": "channels_last"}
    runs["memory_format"] = runs["channels_last"].map(layout)
    threads = runs["threads"].astype(int)
    runs["ranks"] = runs["num_devices"] // threads
    split = runs["ranks"].astype(str) + " x " + threads.astype(str)
    layout_words = runs["memory_format"].str.replace("_", " ")
    words = [runs["malloc"].replace(MALLOCS), runs["precision"], layout_words, split]
    runs["setting"] = words[0].str.cat(words[1:], sep=", ")
    return runs


def verdict(row: dict, name: str) -> str:
    """Faster, slower or neither, as far as the interval says."""
    if pd.isna(row[f"{name}_low"]):
        return "one round: not decided"
    if row[f"{name}_low"] <= 1 <= row[f"{name}_high"]:
        return NO_DIFFERENCE
    return "faster" if row[name] > 1 else "slower"


def gain_over(own: pd.DataFrame, base: pd.DataFrame, rounds: int) -> dict:
    """A ratio within rounds; of a single one without an interval."""
    row = measure_all(own, {"gain": over(base)})
    return row if rounds > 1 else tables.of_one_run(row, ["gain"])


def of_the_fastest(runs: pd.DataFrame, own: pd.DataFrame) -> float:
    """A setting's rate over that of the fastest in the same rounds."""
    fastest_rate = runs.groupby(results.ROUND)["rate"].max()
    return float((results.by_round(own) / fastest_rate).dropna().median())


def tried_table(runs: pd.DataFrame, default: pd.DataFrame) -> pd.DataFrame:
    """One row per setting, the fastest first: rate, and gain over the defaults in the rounds that
    have both. A setting that left after a first round without the defaults has no gain."""
    rows = []
    for setting, own in runs.groupby("setting"):
        row = {"setting": setting} | {name: own[name].iloc[0] for name in SETTINGS}
        row["rounds"] = len(results.paired_ratios(own, default))
        row |= measure_all(own, {"rate": median("rate")})
        row = row if len(own) > 1 else tables.of_one_run(row, ["rate"])
        if row["rounds"]:
            row |= gain_over(own, default, row["rounds"])
            row["verdict"] = verdict(row, "gain")
        else:
            row["verdict"] = f"{of_the_fastest(runs, own):.2f} of the fastest in its first round"
        if setting == default["setting"].iloc[0]:
            row["verdict"] = DEFAULTS
        rows.append(row)
    return pd.DataFrame(rows).sort_values("gain", ascending=False, ignore_index=True)


def fastest(tried: pd.DataFrame, runs: pd.DataFrame) -> pd.Series:
    """Of what stayed to the last rounds, the setting with the largest gain. The last round may not
    have had all, but a single one says less than two. The first rounds are without the defaults and
    count, too: what was faster in each of two rounds or more takes its place."""
    most = max(tried.loc[tried["verdict"] != DEFAULTS, "rounds"], default=1)
    stayed = tried[tried["rounds"] >= max(most - 1, most // 2 + 1)]
    best = stayed.loc[stayed["gain"].idxmax()]
    own = runs[runs["setting"] == best["setting"]]
    ahead = {}
    for setting in tried.loc[tried["rounds"] > 0, "setting"]:
        ratios = results.paired_ratios(runs[runs["setting"] == setting], own)
        if len(ratios) > 1 and ratios.min() > 1:
            ahead[setting] = ratios.median()
    if not ahead:
        return best
    return tried.loc[tried["setting"] == max(ahead, key=ahead.get)].iloc[0]


def brings_table(runs: pd.DataFrame, best: pd.Series) -> pd.DataFrame:
    """What each part of the fastest setting brings: over itself with another value of that part."""
    own = runs[runs["setting"] == best["setting"]]
    rows = []
    for name in SETTINGS:
        alike = pd.Series(True, index=runs.index)
        for other in set(SETTINGS) - {name}:
            alike &= runs[other] == best[other]
        for value, base in runs[alike & (runs[name] != best[name])].groupby(name):
            shared = results.paired_ratios(own, base)
            if len(shared):
                row = {"what": f"{name} {best[name]}", "over": value, "rounds": len(shared)}
                row |= gain_over(own, base, len(shared))
                rows.append(row | {"verdict": verdict(row, "gain")})
    return pd.DataFrame(rows)


def lines_to_paste(best: pd.Series, threads: int) -> list[str]:
    """The fastest setting as lines for a shell and for a training script."""
    lines = ["    # in the shell"]
    for name, value in process.MEMORIES[best["malloc"]].items():
        lines.append(f"    export {name}={value}")
    if best["ranks"] > 1:
        launch = f"torchrun --standalone --nproc-per-node {best['ranks']}"
    else:
        launch = "python"
    lines.append(f"    OMP_NUM_THREADS={threads} {launch} train.py")
    settings = [best["precision"], best["memory_format"]]
    in_script = [LINES[value] for value in settings if value in LINES]
    return [*lines, *(["    # in train.py"] if in_script else []), *in_script]


def advice(tried: pd.DataFrame, brings: pd.DataFrame, best: pd.Series, threads: int) -> str:
    head = {"setting": "malloc, precision, memory format, ranks x threads", "rounds": "rounds"}
    head |= {"rate": "img/s", "gain": "times the defaults", "verdict": "verdict"}
    text = tables.markdown(tried, "What was tried, by what it brings.", head, None)
    columns = {"what": "of the fastest setting", "over": "over", "rounds": "rounds"}
    columns |= {"gain": "brings", "verdict": "verdict"}
    text += tables.markdown(brings, "What each part of it brings.", columns, None)
    gain = tables.interval_text(best, "gain", None)
    is_range = 1 < best["rounds"] < results.ENOUGH
    enough = f" (range of {best['rounds']} rounds)" if is_range else ""
    lines = [f"To paste; together {gain} times the defaults{enough}:", ""]
    if best["verdict"] == DEFAULTS:
        lines = ["Nothing is faster than PyTorch's defaults:", ""]
    return text + "\n".join([*lines, *lines_to_paste(best, threads), "", ""])


def tried_chart(tried: pd.DataFrame, best: pd.Series, note: str) -> plt.Figure:
    """What was tried, over the defaults."""
    tried = tried.dropna(subset="gain").head(MOST_BARS)
    size = (7.2, 1.4 + 0.28 * len(tried))
    figure, axes = plt.subplots(figsize=size, layout="constrained")
    figures.gain_bars(axes, figures.triples(tried, "gain"))
    axes.set_yticks(range(len(tried)), tried["setting"])
    axes.set_xlabel("times the rate of PyTorch's defaults")
    message = f"{best['gain']:.2f} times PyTorch's defaults: {best['setting']}"
    rounds = f"ratios within {tried['rounds'].min()} to {tried['rounds'].max()} rounds"
    figures.headline(
        figure,
        message,
        f"last: ranks x threads; {rounds}; whiskers: range or 95 % interval; grey: not decided",
        note,
    )
    return figure


def study(runs: pd.DataFrame, folder: Path) -> tables.Study:
    runs = with_settings(runs[runs["scaling"] != "weak"])
    cores = runs["num_devices"].max()
    is_default = (runs["malloc"] == "glibc") & (runs["precision"] == "fp32")
    is_default &= (runs["memory_format"] == "contiguous") & (runs["ranks"] == 1)
    default = tables.require(runs[is_default], "PyTorch's defaults")
    tried = tried_table(runs, default)
    best = fastest(tried, runs)
    brings = brings_table(runs, best)
    text = advice(tried, brings, best, cores // best["ranks"])
    chart = tried_chart(tried, best, figures.make_title(folder, runs))
    made = {"tried": tried, "brings": brings}
    return tables.Study(made, text, {"tried": chart})
