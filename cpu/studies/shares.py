"""The curve from 1 to 8 emulated devices, each a share of a core.

A fixed batch is measured on cores that compute while no device has its turn, and in the same rounds
on real ones; earlier rows are of cores that may pause, after which a core computes slower at first.
With as many images on each device, what is lost is measured within a run: of a step, the part in
which a rank computes, waits for others, or for the all-reduce. Between runs the machine drifts by
more than that. The controls say how far the emulation can be trusted: whether ranks that do not
communicate keep the step of one; whether two emulated devices gain as much as two real cores in the
same rounds; whether the step follows the share of a straggler, and the others wait for just that.
"""

from pathlib import Path

import figures
import numpy as np
import pandas as pd
import results
import tables
from figures import plt
from tables import interval_table, mean, measure_all

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


def error_of_emulation(runs: pd.DataFrame) -> results.Interval:
    """The step without communication over one device's, over all rounds and numbers of devices: 1
    where emulated devices do not disturb each other, with as many images on each."""
    runs = runs.query("scaling == 'weak' and options == '' and cpu_share != ''")
    runs = runs.assign(busy=runs["step_time"] - runs["waiting"])
    one = runs.query("mode == 'single_process' and num_devices == 1")
    alone = runs[runs["mode"] == "no_communication"]
    ratios = []
    for _, own in alone.groupby("num_devices"):
        ratios.append(results.paired_ratios(own, one, "busy"))
    return results.median_interval(pd.concat(ratios))


def loss_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Per number of devices with 4 images each, in % of a step: a rank's own work, waiting for
    others, all-reduce that is not hidden. All of one run's ranks and clock."""
    own = runs.query("scaling == 'weak' and mode == 'ddp' and options == '' and cpu_share != ''")
    own = own[own["num_devices"] > 1].copy()
    for part in ("waiting", "transfer"):
        own[f"{part}_percent"] = 100 * own[part] / own["step_time"]
    own["work_percent"] = 100 - own["waiting_percent"] - own["transfer_percent"]
    names = [f"{part}_percent" for part in ("work", "waiting", "transfer")]
    measures = {name: mean(name) for name in names}
    table = interval_table(own, "num_devices", **measures)
    return table.sort_values("num_devices", ignore_index=True)


def result_table(curve: pd.DataFrame, kind: str = "strong") -> pd.DataFrame:
    """By number of devices: the speed-up of a fixed batch, and what its split allows."""
    strong = curve[curve["kind"] == kind]
    over_one = strong.groupby("series")["num_devices"].transform("min") == 1
    strong = strong[over_one & (strong["num_devices"] > 1)]
    names = ["num_devices", "batch_size", "runs", *(f"speedup{end}" for end in results.ENDS)]
    counts = strong["num_devices"].to_numpy()
    return strong[names].assign(allowed=figures.largest_speedup(strong["batch_size"].max(), counts))


def over_real_share(table: pd.DataFrame, shares: pd.DataFrame, real: pd.DataFrame) -> pd.DataFrame:
    """The table with each rate over what the share would give of a real core, in the same rounds: a
    speed-up whose base is no emulated device."""
    one = real[real["num_devices"] == 1]
    one = one.assign(rate=one["rate"] * float(shares["cpu_share"].iloc[0]))
    measured = []
    for count in table["num_devices"]:
        ratio = results.paired_interval(shares[shares["num_devices"] == count], one)
        measured.append(results.named_interval("over_share", ratio))
    return table.assign(**pd.DataFrame(measured, index=table.index))


def check_table(shares: pd.DataFrame, real: pd.DataFrame) -> pd.DataFrame:
    """Emulated devices against real cores in the same rounds: the speed-up on the most real cores,
    if there are as many emulated ones theirs over it, and a step on one emulated device over a real
    core's, times the share: 1 if a share of a core does that share of its work."""
    most = real["num_devices"].max()
    measured = speedup_by_round(real, most)
    ratios = (speedup_by_round(shares, most) / measured).dropna()
    row = {"num_devices": most, "rounds": len(measured), "rounds_of_both": len(ratios)}
    row["share"] = float(shares["cpu_share"].iloc[0])
    row |= results.named_interval("real", results.median_interval(measured.dropna()))
    both = results.median_interval(ratios) if len(ratios) else (np.nan, np.nan, np.nan)
    row |= results.named_interval("against_real", both)
    one, sliced = (own[own["num_devices"] == 1] for own in (real, shares))
    sliced = sliced.assign(step_time=sliced["step_time"] * row["share"])
    factor = results.paired_interval(sliced, one, "step_time")
    return pd.DataFrame([row | results.named_interval("factor", factor)])


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
    """The configurations of the curve: of strong and weak scaling, and of ranks alone; a fixed
    batch on cores that may pause is a kind of its own."""
    own = table[(table["cpu_share"] != "") & table["options"].isin(["", COMPUTING])]
    own = own[own["mode"] != "single_process"]
    kind = own["scaling"].where(own["mode"] == "ddp", "alone")
    pauses = (kind == "strong") & (own["options"] != COMPUTING)
    return own.assign(kind=kind.mask(pauses, "strong_pausing"))


CLEAR = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}  # of a label over a line
APART = 0.28  # devices between points that stand for the same number of them


def draw_allowed(axes: plt.Axes, table: pd.DataFrame) -> None:
    """The linear speed-up, and dashes where the split of the batch allows less, with the reason."""
    batch, end = int(table["batch_size"].max()), table["num_devices"].max()
    axes.plot([1, end], [1, end], ":", color="#AAAAAA", linewidth=1)
    look = {"color": figures.GREY, "fontsize": 8.5}
    axes.annotate("linear", (end, end), (-8, 2), textcoords="offset points", ha="right", **look)
    uneven = table[table["allowed"] < table["num_devices"]]
    counts, allowed = uneven["num_devices"].to_numpy(), uneven["allowed"].to_numpy()
    figures.draw_dashes(axes, counts, allowed, "#AAAAAA", 1)
    if len(uneven):  # why, of the last of them
        words = "dashes: the most that an uneven split allows\n"
        words += f"(of {counts[-1]} the fullest has {-(-batch // counts[-1])} of {batch} images: "
        words += f"{allowed[-1]:.3g})"
        axes.text(0.99, 0.03, words, transform=axes.transAxes, ha="right", va="bottom", **look)


def draw_against(axes: plt.Axes, table: pd.DataFrame, name: str, base: str) -> None:
    """A column of speed-ups, in words at the last one over what (base)."""
    is_first = name == "speedup"
    colour = figures.TUNED if is_first else "#555555"
    rows = table.assign(at=table["num_devices"] + (0 if is_first else APART))
    look = {"fmt": "o" if is_first else "s", "color": colour, "markerfacecolor": "white"}
    figures.intervals(axes, rows, name, "at", **look)
    look = {"color": colour, "textcoords": "offset points", "fontsize": 9, "va": "center"}
    last = rows.iloc[-1]
    place = (last["num_devices"] + APART, last[name])
    words, height = f"{last[name]:.2f} over\n{base}", 8 if is_first else -10
    axes.annotate(words, place, (9, height), fontweight="bold", bbox=CLEAR, **look)
    if is_first:
        for _, row in rows.iloc[:-1].iterrows():
            if row["allowed"] == row["num_devices"]:  # elsewhere a dash is in the way
                words, place = f"{row[name]:.2f}", (row["at"], row[name])
                axes.annotate(words, place, (-7, -2), ha="right", bbox=CLEAR, **look)


def draw_real(axes: plt.Axes, checks: pd.DataFrame) -> None:
    """The speed-up on real cores of the same rounds, at the right of the emulated devices'."""
    real = checks.iloc[0]
    if real["num_devices"] == 1:
        return
    place = real["num_devices"] + 2 * APART
    figures.intervals(axes, checks.assign(at=place), "real", "at", fmt="o", color="black")
    words = f"{real['num_devices']:.0f} real cores: {real['real']:.2f}"
    look = {"textcoords": "offset points", "fontsize": 9, "va": "center"}
    axes.annotate(words, (place, real["real"]), (9, -8), **look)


def draw_speedup(table: pd.DataFrame, checks: pd.DataFrame, note: str) -> plt.Figure:
    """Speed-up of a fixed batch over devices: over an emulated one, and over its share of a real
    core; with the best that its split allows."""
    figure, axes = plt.subplots(figsize=(6.4, 3.1), layout="constrained")
    real, last = checks.iloc[0], table.iloc[-1]
    share = f"{100 * real['share']:.0f} % of a"
    draw_allowed(axes, table)
    draw_against(axes, table, "speedup", "one emulated device")
    draw_against(axes, table, "over_share", f"{share} real core")
    draw_real(axes, checks)
    end = table["num_devices"].max()
    axes.set(xlabel="emulated devices, tuned malloc", ylabel="speed-up")
    axes.set(xlim=(0.4, end + 2.4), ylim=(0, end + 0.4), xticks=np.arange(1, end + 1))
    message = f"{end} emulated devices: {last['speedup']:.1f} times as fast as one of them"
    many = f"batch {table['batch_size'].max()}; an emulated device is {share} core; "
    notes = [many + figures.how_many(table), note]
    if real["rounds_of_both"]:
        count = f"{real['num_devices']:.0f}"
        words = f"in the rounds that have both, {count} emulated devices gain "
        words += f"{real['against_real']:.2f} times as much as {count} real cores"
        notes.insert(0, words)
    figures.headline(figure, message, *notes)
    return figure


def curve_text(own: dict[str, pd.DataFrame]) -> str:
    """The curve of a fixed batch and what it is checked by, as tables."""
    columns = {"num_devices": "devices", "speedup": "speed-up"}
    columns |= {"allowed": "the most that is possible"}
    text = tables.markdown(
        own["results"],
        "Speed-up of a fixed batch of 32 over one emulated device, and over as large a share of "
        "what a real core does in the same rounds; tuned malloc.",
        columns | {"over_share": "over as much of a real core"},
    )
    text += tables.markdown(
        own["checks"],
        "Real cores in the same rounds: their speed-up; that of as many emulated devices over it, "
        "in the rounds that have both; and a step on a share of a core over what that part of a "
        "core's would take.",
        {"num_devices": "cores", "rounds": "rounds", "real": "their speed-up"}
        | {"rounds_of_both": "rounds of both", "against_real": "emulated over real"}
        | {"factor": "a share of a core"},
    )
    title = "Earlier, on cores that may pause, by the second step of a process: the speed-up."
    return text + tables.markdown(own["pausing"], title, columns)


def control_text(own: dict[str, pd.DataFrame]) -> str:
    """Losses with as many images on each device, and controls, as tables."""
    text = tables.markdown(
        own["losses"],
        "With 4 images on each device, % of a step.",
        {"num_devices": "devices", "work_percent": "own work", "waiting_percent": "waiting"}
        | {"transfer_percent": "all-reduce not hidden"},
    )
    text += tables.markdown(
        own["emulation"],
        "Do emulated devices disturb each other? The step without communication over one device's, "
        "all numbers of devices together.",
        {"alone": "no communication"},
    )
    late = own["stragglers"]
    columns = {"part": "part of its share", "step_ratio": "step over that without"}
    columns |= {"longer": "it computes longer (s)", "waiting": "the others wait (s)"}
    shown = late[late["part"] <= 0.8]
    return text + tables.markdown(shown, "A straggler, one of 4 devices.", columns)


def control_tables(runs: pd.DataFrame, folder: Path) -> dict[str, pd.DataFrame]:
    """The tables of as many images on each device, and of stragglers."""
    rows = results.read_results(folder)[0].query("model == 'densenet121'")
    own = {"stragglers": straggler_table(rows), "losses": loss_table(runs)}
    tables.require(own["stragglers"].iloc[1:], "stragglers")
    tables.require(own["losses"], "data parallelism with as many images on each device")
    emulation = results.named_interval("alone", error_of_emulation(runs))
    return own | {"emulation": pd.DataFrame([emulation])}


def study(runs: pd.DataFrame, folder: Path) -> tables.Study:
    runs = runs[runs["model"] == "densenet121"]
    shares, real = of_the_curve(runs)
    table = results.configuration_table(runs)
    own = {"checks": check_table(shares, real), "curve": curve_table(table)}
    curve = tables.require(result_table(own["curve"]), "one emulated device and of more")
    own["results"] = over_real_share(curve, shares, real)
    own["pausing"] = result_table(own["curve"], "strong_pausing")
    text = curve_text(own)
    if (runs["scaling"] == "weak").any():  # the controls are there, too
        own |= control_tables(runs, folder)
        text += control_text(own)
    machine = figures.make_title(folder.with_name(shares["occasion"].iloc[0]), shares)
    chart = draw_speedup(own["results"], own["checks"], machine)
    return tables.Study(own, text, {"speedup": chart})
