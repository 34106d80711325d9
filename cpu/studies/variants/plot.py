"""How fast the step gets by settings alone, against plain PyTorch as the tutorials write it.

    python plot.py                # runs_own if it is there, else runs and its other occasions

Plain PyTorch is fp32, NCHW, PIL loader, glibc's memory, DDP's defaults. Reads what run.sh makes: a
sweep's runs over all combinations of the factors and, beside them, learning.csv (of
measure_learning.py). Gains are ratios within a round. Further folders are other occasions, of which
the gain of all factors together is taken. Writes variants, factors and learning (.png, .pdf);
summary, variants, factors, copies, gains and learning .csv; and answers.md, which README shows.
"""

import itertools
import sys
from pathlib import Path

import numpy as np
import pandas as pd

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[2] / "common"))
import figures as f  # noqa: E402  (found on the path of the line before)
import results as r  # noqa: E402
from figures import plt  # noqa: E402

FACTORS = {  # column, its plain value, its fast one, and that in words
    "loader": ("pil", "tensor", "tensor loader"), "precision": ("fp32", "bf16", "bf16"),
    "channels_last": ("0", "1", "channels last"), "memory": ("glibc", "kept", "memory kept"),
}
FASTEST = " + ".join(words for *_, words in FACTORS.values())
COPY = "batched_grad_copy=1"
PLAIN = "plain PyTorch (fp32, NCHW, PIL loader, glibc)"
LAST, FIRST = 50, 10  # steps whose mean loss is what was learnt, and where learning began


def name_of(run: pd.Series) -> str:
    """The settings of a run, in words."""
    words = [words for name, (_, fast, words) in FACTORS.items() if run[name] == fast]
    words += ["batched gradient copy"] * (COPY in run["options"])
    return " + ".join(words) or PLAIN


def read_variants(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs on the most cores, each with its variant; raises ResultsError without a base."""
    runs = runs[(runs["mode"] == "ddp") & (runs["scaling"] == "strong")]
    runs = runs[runs["num_devices"] == runs["num_devices"].max()]
    runs = runs.assign(variant=[name_of(run) for _, run in runs.iterrows()])
    if PLAIN not in set(runs["variant"]):
        raise r.ResultsError("there is no run of plain PyTorch (--loader pil)")
    return runs


def variant_table(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per variant, slowest first: its rate, its gain over plain PyTorch, what it loads;
    medians over runs with their intervals."""
    plain, table = runs[runs["variant"] == PLAIN], []
    for variant, own in runs.groupby("variant"):
        row = own.iloc[0][["precision", "loader", "num_devices", "batch_size", "dataset"]].to_dict()
        row |= {"variant": variant, "runs": len(own)}
        for name, values in (
            ("rate", r.median_interval(own["rate"])), ("gain", r.paired_interval(own, plain)),
            ("loading_ms", r.median_interval(1000 * own["loading"])),
            ("loading_percent", r.median_interval(100 * own["loading"] / own["step_time"]))):
            row |= r.named_interval(name, values)
        table.append(row)
    return pd.DataFrame(table).sort_values("rate", ignore_index=True)


def factor_table(runs: pd.DataFrame) -> pd.DataFrame:
    """What each factor brings, as ratios of rates within rounds: by itself, on plain PyTorch; last,
    on all the others; in the geometric mean over all settings of the others; and all together."""
    factorial = runs[~runs["options"].str.contains(COPY)]
    rates = factorial.pivot_table(index=r.ROUND, columns=list(FACTORS), values="rate").dropna()
    wanted, table = itertools.product(*(values[:2] for values in FACTORS.values())), []
    if rates.empty or not set(wanted) <= set(rates.columns):
        raise r.ResultsError("no round has all combinations of the factors: see run.sh")
    for name, (plain, fast, words) in FACTORS.items():
        gains = rates.xs(fast, axis=1, level=name) / rates.xs(plain, axis=1, level=name)
        others = [FACTORS[other][:2] for other in FACTORS if other != name]
        row = {"factor": words, "rounds": len(gains)}
        for kind, values in (
            ("alone", gains[tuple(slow for slow, _ in others)]),
            ("last", gains[tuple(quick for _, quick in others)]),
            ("mean", np.exp(np.log(gains).mean(axis=1)))):
            row |= r.named_interval(kind, r.median_interval(values))
        table.append(row)
    ends = [tuple(values[i] for values in FACTORS.values()) for i in (0, 1)]
    together = r.median_interval(rates[ends[1]] / rates[ends[0]])
    table.append({"factor": "all together", "rounds": len(rates)} | {
        k: v for kind in ("alone", "last", "mean")
        for k, v in r.named_interval(kind, together).items()})
    return pd.DataFrame(table)


def copy_table(runs: pd.DataFrame) -> pd.DataFrame:
    """DDP's own work (ms) without and with its batched copy of gradients, in the same rounds."""
    table = []
    same = runs[(runs["loader"] == "tensor") & (runs["precision"] == "fp32")
                & (runs["channels_last"] == "0")]
    for memory, own in same.groupby("memory"):
        copies = own["options"].str.contains(COPY)
        if copies.all() or not copies.any():
            continue
        row = {"memory": memory, **r.named_interval("gain", r.paired_interval(
            own[copies], own[~copies]))}
        for name, part in (("without", own[~copies]), ("with", own[copies])):
            row |= r.named_interval(name, r.mean_interval(1000 * part["ddp"]))
        table.append(row)
    return pd.DataFrame(table)


def gain_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Plain PyTorch, all factors together, and the gain within rounds: by occasion and together."""
    groups = list(runs.groupby("occasion", sort=False))
    groups += [("together", runs)] if len(groups) > 1 else []
    table = []
    for occasion, own in groups:
        plain, fast = (own[own["variant"] == name] for name in (PLAIN, FASTEST))
        if plain.empty or fast.empty:
            continue
        table.append({"occasion": occasion, "rounds": len(r.by_round(plain))} | {
            k: v for name, values in (
                ("plain", r.median_interval(plain["rate"])),
                ("fast", r.median_interval(fast["rate"])), ("gain", r.paired_interval(fast, plain)))
            for k, v in r.named_interval(name, values).items()})
    return pd.DataFrame(table)


def draw_factors(table: pd.DataFrame, title: str, output: Path) -> None:
    """The gain of each factor: by itself, last, and in the mean."""
    figure, axes = plt.subplots(figsize=(7.2, 3.6))
    kinds = {"by itself, on plain PyTorch": "alone", "mean over the other factors' settings":
             "mean", "last, on all the others": "last"}
    f.dots(axes, table["factor"], {label: table[[kind + end for end in r.ENDS]].to_numpy()
                                   for label, kind in kinds.items()})
    axes.axvline(1, color="#444444", linewidth=0.8)
    axes.legend()
    axes.set(xlabel="gain in throughput (ratio within rounds), interval over rounds", title=title)
    f.save(figure, output / "factors")


def draw_variants(table: pd.DataFrame, title: str, output: Path) -> None:
    """Rates with their intervals, slowest first, and the gain over plain PyTorch."""
    figure, axes = plt.subplots(figsize=(7.2, 5.4))
    plain = table["variant"] == PLAIN
    f.bars(axes, table["variant"], table, "rate", np.where(
        plain, "base", table["gain"].map("{:.2f} ×".format)), color=np.where(
            plain, "#999999", f.COLOURS[0]))
    axes.invert_yaxis()
    axes.set(xlabel="throughput (img/s): median over runs, interval (range below 6); gain over "
             "plain PyTorch", title=f"{title}; {table['num_devices'][0]} ranks, batch "
             f"{table['batch_size'][0]}")
    f.save(figure, output / "variants")


def read_learning(path: Path) -> tuple[pd.DataFrame, pd.Series]:
    """The losses, one row per step and a column for each setting and seed; and how far the settings
    are apart in the mean loss of the last steps, over the seeds, in loss and in % of the drop."""
    try:
        losses = pd.read_csv(path).pivot(index="step", columns=["setting", "seed"], values="loss")
        losses = losses[["plain", "fast"]].astype(float)
    except (KeyError, TypeError, ValueError) as error:
        raise r.ResultsError(f"{path}: {error}: see run.sh") from None
    learnt = losses.tail(LAST).mean()
    apart = learnt["fast"] - learnt["plain"]
    drop = (losses["plain"].head(FIRST).mean() - learnt["plain"]).median()
    return losses, pd.Series({
        **r.named_interval("difference", r.median_interval(apart)),
        **r.named_interval("percent", r.median_interval(100 * apart / drop)),
        "seeds": len(apart), "steps": len(losses), "last": LAST, "first": FIRST, "drop": drop,
    })


def draw_learning(losses: pd.DataFrame, title: str, output: Path) -> None:
    """The loss by step, running means of 10 steps: median over the seeds and their range."""
    figure, axes = plt.subplots()
    smooth = losses.rolling(10, min_periods=1).mean()
    for setting, colour, line in (("plain", "#999999", "-"), ("fast", f.COLOURS[0], "--")):
        own = smooth[setting]
        axes.plot(own.median(axis=1), line, color=colour, label=f"{setting} settings")
        axes.fill_between(own.index, own.min(axis=1), own.max(axis=1), color=colour, alpha=0.2,
                          linewidth=0)
    axes.set(xlabel="step", ylabel="training loss (mean of 10 steps)",
             title=f"{title}\nmedian and range of {losses['plain'].shape[1]} seeds")
    axes.legend()
    f.save(figure, output / "learning")


def answers(table: pd.DataFrame, factors: pd.DataFrame, copies: pd.DataFrame,
            gains: pd.DataFrame, learning: pd.Series) -> list[str]:
    plain, text = table[table["variant"] == PLAIN].iloc[0], r.interval_text
    every = table[table["variant"] == FASTEST].iloc[0]
    lines = [f"- **Plain PyTorch** (fp32, NCHW, PIL loader, glibc; batch {plain['batch_size']}, "
             f"{plain['num_devices']} cores, {plain['runs']} runs): {text(plain, 'rate')} img/s."]
    for _, row in factors.iterrows():
        if row["factor"] == "all together":
            lines.append(f"- **All together**: {text(row, 'alone')} times plain PyTorch; loading "
                         f"takes {text(every, 'loading_percent', 1)} % of that step.")
        else:
            lines.append(f"- **{row['factor'].capitalize()}**: {text(row, 'alone')} times by "
                         f"itself, {text(row, 'last')} on top of the others.")
    if len(gains) > 1:
        lines.append("- **By occasion**, all together over plain PyTorch: " + ", ".join(
            f"{text(row, 'gain')} ({row['occasion']}, {row['rounds']} rounds)"
            for _, row in gains.iterrows()) + ".")
    for _, row in copies.iterrows():
        lines.append(f"- **DDP's batched gradient copy** (memory {row['memory']}): "
                     f"{text(row, 'gain')} times the rate without it.")
    lines.append(f"- **The first {learning['steps']:.0f} steps** of bf16 with channels last and "
                 f"the tensor loader ({learning['seeds']:.0f} seeds): the mean loss of the last "
                 f"{LAST} differs by {text(learning, 'percent', 1)} % of its drop.")
    return lines


def draw(args, rows, runs, table, skipped, title: str) -> tuple[dict, list[str]]:
    runs = read_variants(runs)
    first = runs[runs["occasion"] == runs["occasion"].iloc[0]]
    variants, factors, copies = variant_table(first), factor_table(first), copy_table(first)
    gains = gain_table(runs)
    losses, learning = read_learning(args.results / "learning.csv")
    draw_variants(variants, title, args.output)
    draw_factors(factors, title, args.output)
    draw_learning(losses, title.replace("bf16+fp32", "fast: bf16, plain: fp32"), args.output)
    return {"variants": variants, "factors": factors, "copies": copies,
            "gains": gains, "learning": learning.to_frame().T}, answers(
                variants, factors, copies, gains, learning)


if __name__ == "__main__":
    f.plot_results(__doc__, HERE / "runs", draw)
