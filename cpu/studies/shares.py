"""The curve from 1 to 8 devices, where a device is a share of a core.

The controls say how far the emulation can be trusted: ranks that do not communicate keep the step
of one; at 1 and 2 devices the speed-up agrees with that of real cores in the same rounds; with a
straggler the step follows its share, and the others wait for just that.
"""

from pathlib import Path

import figures
import numpy as np
import pandas as pd
import results
import tables
from figures import plt
from tables import mean, measure_all, over

STRAGGLER, PERIOD = r"straggler=([0-9.]+)", r"period=([0-9]+)"
ORIGINAL = Path(__file__).resolve().parents[2] / "data" / "original_study.csv"


def speedup_by_round(runs: pd.DataFrame, devices: int) -> pd.Series:
    ddp = runs[runs["mode"] == "ddp"]
    many, one = (ddp[ddp["num_devices"] == count] for count in (devices, 1))
    return results.by_round(many) / results.by_round(one)


def control_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Per number of devices, within rounds: the step without communication over one device's, and
    the data-parallel speed-up on shares over that on real cores."""
    runs = runs.query("scaling == 'weak' and options == ''")
    runs = runs.assign(busy=runs["step_time"] - runs["waiting"])
    shares, real = runs[runs["cpu_share"] != ""], runs[runs["cpu_share"] == ""]
    one = shares.query("mode == 'single_process' and num_devices == 1")
    table = []
    for devices, own in shares[shares["num_devices"] > 1].groupby("num_devices"):
        alone = own[own["mode"] == "no_communication"]
        row = {"num_devices": devices} | measure_all(alone, {"alone": over(one, "busy")})
        ratios = speedup_by_round(shares, devices) / speedup_by_round(real, devices)
        if ratios.notna().any():
            interval = results.median_interval(ratios.dropna())
            row |= results.named_interval("against_real", interval)
        table.append(row)
    return pd.DataFrame(table)


def factor_of_a_share(runs: pd.DataFrame) -> results.Interval:
    """How much longer a step takes on a share than on a full core, times the share: 1 if a share of
    a core does that share of its work."""
    one = runs.query("mode == 'single_process' and num_devices == 1")
    sliced, real = one[one["cpu_share"] != ""], one[one["cpu_share"] == ""]
    real = real[real["batch_size"].isin(sliced["batch_size"])]
    sliced = sliced[sliced["batch_size"].isin(real["batch_size"])]
    sliced = sliced.assign(scaled=sliced["step_time"] * sliced["cpu_share"].astype(float))
    return results.paired_interval(sliced, real.assign(scaled=real["step_time"]), "scaled")


def period_table(runs: pd.DataFrame, period: int) -> pd.DataFrame:
    """What the throttling period (ms) does on the most devices: the budget there, and the factor of
    a share, for the period of the study and for others."""
    real, sliced = runs[runs["cpu_share"] == ""], runs[runs["cpu_share"] != ""]
    periods = sliced["options"].str.extract(PERIOD, expand=False)
    groups = {period: sliced[sliced["options"] == ""]}
    for other in sorted(set(periods.dropna()), key=int):
        # It has no base in DDP, so that its runs would not be a weak series by themselves.
        groups[int(other)] = sliced[periods == other].assign(scaling="weak", series=other)
    table = []
    for length, own in groups.items():
        row = results.loss_budget(own).iloc[-1].to_dict() | {"period_ms": length}
        factor = factor_of_a_share(pd.concat([own, real]))
        table.append(row | results.named_interval("factor", factor))
    return pd.DataFrame(table).assign(share=runs["cpu_share"].max())


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
    return runs.assign(missed=runs["waiting"] - runs["longer"]).reset_index()


def straggler_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Per part of its share that the last rank gets: the step over that without a straggler, within
    rounds; how much longer the last rank computes than the others, and how long they wait (s)."""
    runs = straggler_runs(rows)
    base = runs[runs["part"] == 1]
    measures = {name: mean(name) for name in ("longer", "waiting", "missed")}
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
    """The configurations of the curve: of strong and weak scaling, and of ranks alone."""
    own = table[(table["cpu_share"] != "") & (table["options"] == "")]
    own = own[own["mode"] != "single_process"]
    return own.assign(kind=own["scaling"].where(own["mode"] == "ddp", "alone"))


def draw_original(axes: plt.Axes) -> None:
    """What the original study published, against its own 2 cores, of which it says that they do
    what 2 do: its 1 core was all cores."""
    past = pd.read_csv(ORIGINAL).query("device == 'cpu' and num_devices > 1")
    rate = past["images_per_step"] / past["median_step_time_s"]
    speedup = pd.DataFrame({"num_devices": past["num_devices"], "x": 2 * rate / rate.iloc[0]})
    for end, column in (("x_low", "ci_high"), ("x_high", "ci_low")):
        speedup[end] = 2 * past["images_per_step"] / past[column] / rate.iloc[0]
    label = "the original's rows, 2 cores taken as 2"
    figures.intervals(axes, speedup, "x", fmt="x--", color="#999999", label=label)


def draw_curve(table: pd.DataFrame, title: str) -> plt.Figure:
    """Speed-up of a fixed batch, and efficiency with as many images per device."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 4.2), layout="constrained")
    ddp = table.query("mode == 'ddp' and options == '' and memory == 'kept'")
    sliced, real = ddp[ddp["cpu_share"] != ""], ddp[ddp["cpu_share"] == ""]
    strong, weak = (sliced[sliced["scaling"] == kind] for kind in ("strong", "weak"))
    strong = strong[strong.groupby("series")["num_devices"].transform("nunique") > 2]
    counts = np.array(sorted(set(sliced["num_devices"])))
    left.plot(counts, counts, ":", color="#444444", label="ideal")
    blue = {"color": figures.COLOURS[0], "marker": "o", "linestyle": "none"}
    figures.intervals(left, strong, "speedup", label="emulated devices, a batch of 32", **blue)
    draw_original(left)
    left.set(xlabel="devices", ylabel="speed-up", xlim=(0, None), ylim=(0, None))
    figures.intervals(right, weak, "efficiency", label="emulated devices", **blue)
    alone = table[(table["mode"] == "no_communication") & table["series"].isin(weak["series"])]
    alone = alone.assign(at=alone["num_devices"] - 0.12)
    green = {"color": figures.COLOURS[2], "marker": "^", "linestyle": "none"}
    label = "no communication, emulated devices"
    figures.intervals(right, alone, "efficiency", "at", label=label, **green)
    cores = real[real["scaling"] == "weak"]
    cores = cores.assign(at=cores["num_devices"] + 0.12)
    orange = {"color": figures.COLOURS[1], "marker": "s", "linestyle": "none"}
    figures.intervals(right, cores, "efficiency", "at", label="real cores", **orange)
    right.axhline(1, linestyle=":", color="#444444")
    right.set(xlabel="devices, 4 images each", ylabel="efficiency per device", ylim=(0, None))
    left.legend()
    right.legend(loc="lower left")
    figure.suptitle(f"{title}\nemulated devices: shares of a core", fontsize=10)
    return figure


def draw_budget(budget: pd.DataFrame, title: str) -> plt.Figure:
    """What each device loses against one, by number of devices: a colour for each term."""
    figure, axes = plt.subplots(figsize=(7.2, 4.2), layout="constrained")
    for place, term in enumerate(results.TERMS[1:]):
        own = budget.assign(at=budget["num_devices"] + 0.08 * (place - 2.5))
        look = {"color": figures.COLOURS[place], "label": figures.NAMES.get(term, term)}
        figures.intervals(axes, own, f"{term}_percent", "at", fmt="o", **look)
    axes.axhline(0, color="#444444", linewidth=0.8)
    axes.set(xlabel="devices, 4 images each", ylabel="share of the step (%), 95 % interval")
    axes.set_title(f"{title}\nemulated devices: shares of a core")
    figure.legend(loc="outside right center")
    return figure


def draw_stragglers(table: pd.DataFrame, title: str) -> plt.Figure:
    """The step against the straggler's share; how long the others wait against what it lacks."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.8), layout="constrained")
    late = table[table["part"] < 1].assign(percent=100 * table["part"])
    parts = np.linspace(table["part"].min(), 1, 50)
    left.plot(100 * parts, 1 / parts, ":", color="#444444", label="1 / its share")
    look = {"fmt": "o", "color": figures.COLOURS[0], "label": "measured"}
    figures.intervals(left, late, "step_ratio", "percent", **look)
    left.set(xlabel="what one of 4 ranks gets of its share (%)", ylabel="step over that without it")
    left.legend()
    bars = [figures.error_bars(table, name) for name in ("waiting", "longer")]
    look = {"fmt": "o", "color": figures.COLOURS[1], "capsize": 3}
    right.errorbar(table["longer"], table["waiting"], *bars, **look)
    right.axline((0, 0), slope=1, linestyle=":", color="#444444")
    right.set(xlabel="what the straggler computes longer (s)", ylabel="what the others wait (s)")
    figure.suptitle(f"{title}\nemulated devices: shares of a core", fontsize=10)
    return figure


def answers(ddp: pd.DataFrame, own: dict[str, pd.DataFrame]) -> str:
    """The curve, its budget and its controls, as tables."""
    counts = ddp.groupby("series")["num_devices"].transform("nunique")
    columns = {"series": "series", "num_devices": "devices", "speedup": "speed-up"}
    text = tables.markdown(
        ddp[(counts > 1) & (ddp["num_devices"] > 1)],
        "Data parallelism on emulated devices, each a share of a core.",
        columns | {"efficiency": "efficiency"},
    )
    percent = {f"{term}_percent": figures.NAMES.get(term, term) for term in results.TERMS}
    caption = "Where a step goes, in % of it, with 4 images on each device."
    text += tables.markdown(own["budget"], caption, {"num_devices": "devices"} | percent, 1)
    text += tables.markdown(
        own["controls"],
        "Controls of the emulation: the step without communication over one device's, and the "
        "speed-up over that on as many real cores.",
        {"num_devices": "devices", "alone": "no communication", "against_real": "real cores"},
    )
    late = own["stragglers"]
    columns = {"part": "part of its share", "step_ratio": "step over that without"}
    columns |= {"longer": "it computes longer (s)", "waiting": "the others wait (s)"}
    return text + tables.markdown(late[late["part"] < 1], "A straggler, one of 4 devices.", columns)


def study(runs: pd.DataFrame, folder: Path) -> tables.Study:
    rows = results.read_results(folder)[0].query("model == 'densenet121'")
    runs = runs[runs["model"] == "densenet121"]
    table = results.configuration_table(runs)
    sliced = runs[(runs["cpu_share"] != "") & (runs["options"] == "")]
    period = int(results.read_environment(folder).get("cpu_period_ms", 50))
    own = {"controls": control_table(runs), "budget": results.loss_budget(sliced)}
    tables.require(own["budget"], "data parallelism and its bounds in one round")
    own["stragglers"] = straggler_table(rows)
    tables.require(own["stragglers"].iloc[1:], "stragglers")
    own["periods"] = period_table(runs, period)
    own["curve"] = curve_table(table)
    title = figures.make_title(folder, runs)
    drawn = {
        "curve": draw_curve(table, title),
        "budget": draw_budget(own["budget"], title),
        "straggler": draw_stragglers(own["stragglers"], title),
    }
    return tables.Study(own, answers(own["curve"].query("kind != 'alone'"), own), drawn)
