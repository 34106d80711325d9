"""How fast a step gets by settings alone, against plain PyTorch as the tutorials write it.

Plain PyTorch is fp32, NCHW, the PIL loader, default malloc and DDP's defaults. Four settings are
switched in all combinations; gains are ratios within rounds. Besides, whether the fast settings
learn the same (learning.csv, by measure_learning.py). Further sessions have the two ends only.
"""

from pathlib import Path

import figures
import numpy as np
import pandas as pd
import results
import tables
from tables import interval_table, measure_all, median, over

SETTINGS = {  # column: its plain value, its fast one, and that in words
    "loader": ("pil", "tensor", "tensor loader"),
    "precision": ("fp32", "bf16", "bf16"),
    "channels_last": ("0", "1", "channels last"),
    "memory": ("glibc", "kept", "memory kept"),
}
PLAIN = "plain PyTorch (fp32, NCHW, PIL loader, glibc)"
FASTEST = " + ".join(words for _, _, words in SETTINGS.values())
NOT_READ = "batched_grad_copy=1"  # of some published rows: no measurable difference
FIRST, LAST = 10, 50  # steps whose mean loss is where learning began, and what was learned


def name_variant(run: pd.Series) -> str:
    """The settings of a run, in words."""
    words = [words for name, (_, fast, words) in SETTINGS.items() if run[name] == fast]
    return " + ".join(words) or PLAIN


def variant_table(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per variant, slowest first: its rate, and its gain over plain PyTorch."""
    keys = ["variant", "precision", "loader", "num_devices", "batch_size", "dataset"]
    table = interval_table(
        runs,
        keys,
        rate=median("rate"),
        gain=over(runs[runs["variant"] == PLAIN]),
    )
    return table.sort_values("rate", ignore_index=True)


def factor_table(runs: pd.DataFrame) -> pd.DataFrame:
    """What each setting brings, as ratios of rates within rounds: by itself, on plain PyTorch;
    last, on all the others; in the geometric mean over all combinations of the others; and all
    together."""
    rates = runs.pivot_table(index=results.ROUND, columns=list(SETTINGS), values="rate").dropna()
    if rates.shape[1] < 2 ** len(SETTINGS) or rates.empty:
        raise results.ResultsError("no round has all combinations of the settings")
    table = []
    for name, (plain, fast, words) in SETTINGS.items():
        # Rounds x combinations of the other settings.
        gains = rates.xs(fast, axis=1, level=name) / rates.xs(plain, axis=1, level=name)
        others = [values for other, values in SETTINGS.items() if other != name]
        kinds = {
            "alone": gains[tuple(slow for slow, _, _ in others)],
            "last": gains[tuple(quick for _, quick, _ in others)],
            "mean": np.exp(np.log(gains).mean(axis=1)),
        }
        table.append(gain_row(words, kinds))
    slowest = rates[tuple(slow for slow, _, _ in SETTINGS.values())]
    fastest = rates[tuple(quick for _, quick, _ in SETTINGS.values())]
    together = fastest / slowest
    table.append(gain_row("all together", dict.fromkeys(("alone", "last", "mean"), together)))
    return pd.DataFrame(table)


def gain_row(name: str, kinds: dict[str, pd.Series]) -> dict:
    row = {"factor": name, "rounds": len(kinds["alone"])}
    for kind, gains in kinds.items():
        row |= results.named_interval(kind, results.median_interval(gains))
    return row


def gain_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Plain PyTorch, all settings together, and the gain: by session and together."""
    groups = list(runs.groupby("occasion", sort=False))
    if len(groups) > 1:
        groups.append(("together", runs))
    table = []
    for session, own in groups:
        plain, fast = (own[own["variant"] == name] for name in (PLAIN, FASTEST))
        if len(plain) and len(fast):
            row = {"occasion": session, "rounds": len(results.by_round(plain))}
            row |= measure_all(plain, {"plain": median("rate")})
            table.append(row | measure_all(fast, {"fast": median("rate"), "gain": over(plain)}))
    return pd.DataFrame(table)


def learning_table(losses: pd.DataFrame) -> pd.DataFrame:
    """How far the settings are apart in the mean loss of the last steps, over the seeds: in loss,
    and in % of what plain PyTorch's has dropped."""
    losses = losses.pivot(index="step", columns=["setting", "seed"], values="loss")
    learned = losses.tail(LAST).mean()
    apart = learned["fast"] - learned["plain"]
    drop = (losses["plain"].head(FIRST).mean() - learned["plain"]).median()
    row = results.named_interval("difference", results.median_interval(apart))
    row |= results.named_interval("percent", results.median_interval(100 * apart / drop))
    row |= {"seeds": len(apart), "steps": len(losses), "last": LAST, "first": FIRST, "drop": drop}
    return pd.DataFrame([row])


def draw_steps(variants: pd.DataFrame, note: str) -> figures.plt.Figure:
    """Plain PyTorch, and the settings one after the other; grey where one brings nothing more."""
    steps = {"plain PyTorch": PLAIN, "+ bf16 autocast": "bf16"}
    steps["+ channels last"] = "bf16 + channels last"
    steps["+ tuned malloc"] = "bf16 + channels last + memory kept"
    rows = variants.set_index("variant").loc[list(steps.values())].reset_index()
    figure, axes = figures.plt.subplots(figsize=(6.4, 2.1), layout="constrained")
    places = np.arange(len(rows))
    # Intervals that overlap do not say that a step is faster than the one before it.
    is_faster = rows["rate_low"].to_numpy()[1:] > rows["rate_high"].to_numpy()[:-1]
    pale = figures.lighter(figures.TUNED)
    colours = [figures.TUNED if faster else pale for faster in is_faster]
    axes.barh(places, rows["rate"], 0.62, color=[figures.DEFAULT, *colours])
    bars = figures.error_bars(rows, "rate")
    axes.errorbar(rows["rate"], places, fmt="none", xerr=bars, color="#222222", capsize=3)
    for place, row in rows.iterrows():
        words = f"{row['rate']:.3g} img/s"
        if place:
            gain = f"{row['gain']:.2f} times plain PyTorch"
            words += f"   {gain if is_faster[place - 1] else 'no clear gain'}"
        look = {"va": "center", "textcoords": "offset points", "fontsize": 9.5}
        axes.annotate(words, (row["rate_high"], place), (6, 0), **look)
    axes.set_yticks(places, list(steps))
    axes.set_xlim(0, 1.75 * rows["rate_high"].max())
    axes.xaxis.set_visible(False)  # the values are beside the bars
    axes.spines["bottom"].set_visible(False)
    axes.invert_yaxis()
    axes.grid(visible=False)
    best = rows.iloc[2]
    cores = figures.count_text(best["num_devices"], "core")
    message = f"bf16 and channels last make {cores} {best['gain']:.2f} times as fast"
    detail = (
        "each bar adds to the one above; plain: fp32, default malloc, as many ranks; ratios within "
        f"rounds; batch {best['batch_size']}; median and 95 % interval of {best['runs']} runs"
    )
    figures.headline(figure, message, detail, note)
    return figure


def study(runs: pd.DataFrame, folder: Path) -> tables.Study:
    runs = runs.query("mode == 'ddp' and scaling == 'strong'").copy()
    runs = runs[~runs["options"].str.contains(NOT_READ)]
    runs = runs[runs["num_devices"] == runs["num_devices"].max()]
    runs["variant"] = [name_variant(run) for _, run in runs.iterrows()]
    tables.require(runs[runs["variant"] == PLAIN], "plain PyTorch (--loader pil)")
    first = runs[runs["occasion"] == runs["occasion"].iloc[0]]
    own = {
        "variants": variant_table(first),
        "factors": factor_table(first),
        "gains": gain_table(runs),
        "learning": learning_table(pd.read_csv(folder / "learning.csv")),
    }
    chart = draw_steps(own["variants"], figures.make_title(folder, runs))
    text = tables.markdown(
        own["factors"],
        "What each setting brings to throughput, times that without it.",
        {"factor": "setting", "alone": "on plain PyTorch", "mean": "mean over the others"}
        | {"last": "on all others"},
    )
    text += tables.markdown(
        own["gains"],
        "All settings together against plain PyTorch, by session (img/s).",
        {"occasion": "session", "plain": "plain PyTorch", "fast": "all", "gain": "gain"},
    )
    return tables.Study(own, text, {"settings": chart})
