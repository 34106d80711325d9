"""The curve from 1 to 8 emulated devices, each a share of a core.

A fixed batch is measured on cores that compute while no device has its turn, and in the same rounds
on real ones; earlier rows are of cores that may pause, after which a core computes slower at first.
What is lost on the way is measured by study curve. The controls say how far the emulation can be
trusted: whether two emulated devices gain as much as two real cores in the same rounds; whether the
step follows the share of a straggler, and the others wait for just that.
"""

from pathlib import Path

import figures
import numpy as np
import pandas as pd
import results
import tables
from figures import plt
from tables import mean, measure_all

STRAGGLER = r"straggler=([0-9.]+)"
COMPUTING = "cores=computing"  # option of rows whose cores compute in between


def of_the_curve(runs: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A fixed batch on emulated devices, and on real cores in the same rounds."""
    runs = runs[runs["mode"] == "ddp"]
    shares = tables.require(runs[runs["options"] == COMPUTING], "a fixed batch on shares of a core")
    real = runs.query("cpu_share == '' and memory == 'kept' and scaling == 'strong'")
    return shares, real[real["batch_size"].isin(shares["batch_size"])]


def speedup_by_round(runs: pd.DataFrame, devices: int) -> pd.Series:
    many, one = (runs[runs["num_devices"] == count] for count in (devices, 1))
    return results.by_round(many) / results.by_round(one)


def result_table(curve: pd.DataFrame, kind: str = "strong") -> pd.DataFrame:
    """By number of devices: the speed-up of a fixed batch, and what its split allows."""
    strong = curve[curve["kind"] == kind]
    over_one = strong.groupby("series")["num_devices"].transform("min") == 1
    strong = strong[over_one & (strong["num_devices"] > 1)]
    names = ["num_devices", "batch_size", "runs", *(f"speedup{end}" for end in results.ENDS)]
    counts = strong["num_devices"].to_numpy()
    return strong[names].assign(allowed=figures.largest_speedup(strong["batch_size"].max(), counts))


def check_table(shares: pd.DataFrame, real: pd.DataFrame) -> pd.DataFrame:
    """Emulated devices against real cores in the same rounds: the speed-up on the most real cores,
    in all rounds and in those that have as many emulated devices, whose speed-up is over it; a step
    on one emulated device over a real core's, times the share (1 if a share of a core does that
    share of its work); and the rate of the most devices over that share of a real core's."""
    count, most = real["num_devices"].max(), shares["num_devices"].max()
    measured = speedup_by_round(real, count).dropna()
    ratios = (speedup_by_round(shares, count) / measured).dropna()
    row = {"num_devices": count, "rounds": len(measured), "rounds_of_both": len(ratios)}
    row |= {"share": float(shares["cpu_share"].iloc[0]), "most": most}
    none = (np.nan, np.nan, np.nan)
    for name, values in {"real": measured, "against_real": ratios}.items():
        interval = results.median_interval(values) if len(values) else none
        row |= results.named_interval(name, interval)
    both = results.median_interval(measured[ratios.index]) if len(ratios) else none
    row |= results.named_interval("real_of_both", both)
    one = real[real["num_devices"] == 1]
    one = one.assign(step_time=one["step_time"] / row["share"], rate=one["rate"] * row["share"])
    sliced = shares[shares["num_devices"] == 1]
    row |= results.named_interval("factor", results.paired_interval(sliced, one, "step_time"))
    over = results.paired_interval(shares[shares["num_devices"] == most], one)
    return pd.DataFrame([row | results.named_interval("over_share", over)])


def straggler_runs(rows: pd.DataFrame) -> pd.DataFrame:
    """Per run with as many devices and images as those with a straggler: the part of its share that
    the last rank gets, the step, how much longer the last rank computes than the others, and how
    long they wait (s)."""
    rows = rows.query("warmup == 0 and mode == 'ddp' and cpu_share != ''").copy()
    part = rows["options"].str.extract(STRAGGLER, expand=False)
    rows["part"] = part.astype(float).fillna(1.0)
    rows["own"] = rows["step_time"] - rows["communication_time"]
    rows["reducing"] = rows["communication_time"] - rows["ddp_time"]
    rows["last"] = rows["rank"] == rows["num_devices"] - 1
    late = rows[rows["part"] < 1]
    like = rows[rows["num_devices"].isin(late["num_devices"])]
    like = like[like["batch_size"].isin(late["batch_size"])]
    key = ["part", *results.ROUND]
    each = like.groupby([*key, "last"])[["own", "reducing"]].mean().unstack("last")
    step = like.groupby([*key, "step"])["step_time"].max().groupby(level=key).mean()
    runs = pd.DataFrame({"step_time": step})
    runs["longer"] = each["own"][True] - each["own"][False]
    runs["waiting"] = each["reducing"][False] - each["reducing"][True]
    return runs.reset_index()


def straggler_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Per part of its share that the last rank gets: the step over that without a straggler, within
    rounds; how much longer the last rank computes than the others, and how long they wait (s)."""
    runs = straggler_runs(rows)
    base = runs[runs["part"] == 1]
    measures = {name: mean(name) for name in ("longer", "waiting")}
    table = []
    for part, own in runs.groupby("part"):
        row = {"part": part, "runs": len(own)}
        ratio = (1, np.nan, np.nan)
        if part < 1:
            ratio = results.paired_interval(own, base, "step_time")
        row |= results.named_interval("step_ratio", ratio)
        table.append(row | measure_all(own, measures))
    return pd.DataFrame(table).sort_values("part", ascending=False, ignore_index=True)


def curve_table(table: pd.DataFrame) -> pd.DataFrame:
    """The configurations of a fixed batch on emulated devices: a kind on cores that compute in
    between, and one on cores that may pause."""
    own = table[(table["cpu_share"] != "") & table["options"].isin(["", COMPUTING])]
    own = own[(own["mode"] == "ddp") & (own["scaling"] != "weak")]
    return own.assign(kind=np.where(own["options"] == COMPUTING, "strong", "strong_pausing"))


CLEAR = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}  # of a label over a line


def draw_allowed(axes: plt.Axes, table: pd.DataFrame) -> None:
    """The linear speed-up, and dashes where the split of the batch allows less, with the reason."""
    batch, end = int(table["batch_size"].max()), table["num_devices"].max()
    axes.plot([1, end], [1, end], ":", color="#AAAAAA", linewidth=1)
    look = {"color": figures.GREY, "fontsize": 8.5}
    axes.annotate("linear", (end, end), (6, 0), textcoords="offset points", va="center", **look)
    uneven = table[table["allowed"] < table["num_devices"]]
    counts, allowed = uneven["num_devices"].to_numpy(), uneven["allowed"].to_numpy()
    figures.draw_dashes(axes, counts, allowed, "#AAAAAA", 1)
    if len(uneven):  # why, of the last of them
        words = "grey: the most that an uneven split allows\n"
        words += f"(of {counts[-1]} the fullest has {-(-batch // counts[-1])} of {batch} images: "
        words += f"{allowed[-1]:.3g})"
        axes.text(0.02, 0.95, words, transform=axes.transAxes, va="top", **look)


def draw_real(axes: plt.Axes, checks: pd.DataFrame) -> None:
    """The speed-up on real cores in the rounds that have as many emulated devices."""
    count = checks["num_devices"].iloc[0]
    rows = checks.assign(at=checks["num_devices"] + 0.25)
    figures.intervals(axes, rows, "real_of_both", "at", fmt="o", color="black")
    words = f"{count} real cores, same rounds: {checks['real_of_both'].iloc[0]:.2f}"
    look = {"textcoords": "offset points", "fontsize": 9, "va": "center"}
    axes.annotate(words, (count + 0.25, checks["real_of_both"].iloc[0]), (9, -6), **look)


def draw_speedup(table: pd.DataFrame, checks: pd.DataFrame, note: str) -> plt.Figure:
    """Speed-up of a fixed batch over emulated devices, with the best that its split allows, and
    that of real cores."""
    figure, axes = plt.subplots(figsize=(6.4, 3.0), layout="constrained")
    draw_allowed(axes, table)
    look = {"color": figures.TUNED, "fmt": "o", "markerfacecolor": "white"}
    figures.intervals(axes, table, "speedup", **look)
    for _, row in table.iterrows():
        look = {"color": figures.TUNED, "textcoords": "offset points", "fontsize": 9, "bbox": CLEAR}
        # At the right, but for where the real cores' own is.
        is_taken = row["num_devices"] == checks["num_devices"].iloc[0]
        offset, side = ((-9, -2), "right") if is_taken else ((9, -10), "left")
        place = (row["num_devices"], row["speedup"])
        axes.annotate(f"{row['speedup']:.2f}", place, offset, ha=side, **look)
    if checks["rounds_of_both"].iloc[0] and checks["num_devices"].iloc[0] > 1:
        draw_real(axes, checks)
    end = table["num_devices"].max()
    axes.set(xlabel="emulated devices, tuned malloc", ylabel="speed-up over one")
    axes.set(xlim=(0.4, end + 0.8), ylim=(0, end + 0.4), xticks=np.arange(1, end + 1))
    message = f"{end} emulated devices train {table['speedup'].iloc[-1]:.1f} times as fast as one"
    message += "; real cores may gain less"
    share = f"a device is {100 * checks['share'].iloc[0]:.0f} % of a core "
    share += f"({end} gain {checks['over_share'].iloc[0]:.1f} over that of a real one)"
    many = f"batch {table['batch_size'].max()}; {share}; {figures.how_many(table)}"
    figures.headline(figure, message, many, note)
    return figure


def curve_text(own: dict[str, pd.DataFrame]) -> str:
    """The curve of a fixed batch and what it is checked by, as tables."""
    columns = {"num_devices": "devices", "speedup": "speed-up"}
    columns |= {"allowed": "the most that is possible"}
    text = tables.markdown(
        own["results"],
        "Speed-up of a fixed batch of 32 over one emulated device; tuned malloc.",
        columns,
        sideways=True,
    )
    text += tables.markdown(
        own["checks"],
        "Real cores, measured in turns with emulated devices. Their speed-up in all rounds, and in "
        "those that have as many emulated devices; there, the emulated devices' speed-up over it.",
        {"num_devices": "cores", "rounds": "rounds", "real": "their speed-up"}
        | {"rounds_of_both": "rounds of both", "real_of_both": "their speed-up there"}
        | {"against_real": "emulated over real"},
    )
    text += tables.markdown(
        own["checks"],
        "One emulated device against its share of a real core: its step over the one that the "
        "share would take. And the rate of the most devices over the share's.",
        {"factor": "step over the share's", "most": "devices", "over_share": "rate over it"},
    )
    title = "Earlier, on cores that may pause, by the second step of a process: the speed-up."
    return text + tables.markdown(own["pausing"], title, columns)


def late_text(late: pd.DataFrame) -> str:
    """What stragglers do, as a table."""
    columns = {"part": "part of its share", "step_ratio": "step over that without"}
    columns |= {"longer": "it computes longer (s)", "waiting": "the others wait (s)"}
    return tables.markdown(late, "A straggler, one of 4 devices.", columns)


def study(runs: pd.DataFrame, folder: Path) -> tables.Study:
    runs = runs[runs["model"] == "densenet121"]
    shares, real = of_the_curve(runs)
    table = results.configuration_table(runs)
    own = {"checks": check_table(shares, real), "curve": curve_table(table)}
    own["results"] = tables.require(result_table(own["curve"]), "one emulated device and of more")
    own["pausing"] = result_table(own["curve"], "strong_pausing")
    text = curve_text(own)
    rows = results.read_results(folder)[0].query("model == 'densenet121'")
    if rows["options"].str.contains("straggler=").any():
        own["stragglers"] = straggler_table(rows)
        text += late_text(own["stragglers"])
    machine = figures.make_title(folder.with_name(shares["occasion"].iloc[0]), shares)
    chart = draw_speedup(own["results"], own["checks"], machine)
    return tables.Study(own, text, {"speedup": chart})
