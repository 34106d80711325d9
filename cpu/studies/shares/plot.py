"""The curve from 1 to 8 devices, where a device is a time-sliced share of a core.

    python plot.py                # runs_own if it is there, else runs

The controls say how far the emulation can be trusted: ranks that do not communicate keep the step
of one; at 1 and 2 devices the speed-up agrees with that of real cores in the same rounds; with a
straggler the step follows its share, and the others wait for just that. Writes curve, budget and
straggler (.png, .pdf), summary, controls, budget, stragglers and periods .csv, and answers.md.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[2] / "common"))
import figures as f  # noqa: E402  (found on the path of the line before)
import results as r  # noqa: E402
from figures import plt  # noqa: E402

STRAGGLER, PERIOD = r"straggler=([0-9.]+)", r"period=([0-9]+)"


def control_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Per number of devices, within rounds: the step without communication over one device's, and
    the data-parallel speed-up on shares over that on real cores."""
    runs = runs[(runs["scaling"] == "weak") & (runs["options"] == "")]
    runs = runs.assign(busy=runs["step_time"] - runs["waiting"])
    shares, real, table = runs[runs["cpu_share"] != ""], runs[runs["cpu_share"] == ""], []
    one = shares[(shares["mode"] == "single_process") & (shares["num_devices"] == 1)]
    for devices, own in shares[shares["num_devices"] > 1].groupby("num_devices"):
        alone = own[own["mode"] == "no_communication"]
        row = {"num_devices": devices}
        row |= r.named_interval("alone", r.paired_interval(alone, one, "busy"))
        speedups = [r.by_round(ddp[ddp["num_devices"] == devices]) / r.by_round(
            ddp[ddp["num_devices"] == 1]) for ddp in (
                kind[kind["mode"] == "ddp"] for kind in (shares, real))]
        ratios = (speedups[0] / speedups[1]).dropna()
        if len(ratios):
            row |= r.named_interval("against_real", r.median_interval(ratios))
        table.append(row)
    return pd.DataFrame(table)


def factor_of_a_share(runs: pd.DataFrame) -> tuple[float, float, float]:
    """How much longer a step takes on a share than on a full core, times the share: 1 if a share of
    a core does that share of its work."""
    one = runs[(runs["mode"] == "single_process") & (runs["num_devices"] == 1)]
    sliced = one[one["cpu_share"] != ""]
    sliced = sliced.assign(scaled=sliced["step_time"] * sliced["cpu_share"].astype(float))
    real = one[(one["cpu_share"] == "") & one["batch_size"].isin(sliced["batch_size"])]
    sliced = sliced[sliced["batch_size"].isin(real["batch_size"])]
    return r.paired_interval(sliced, real.assign(scaled=real["step_time"]), "scaled")


def period_table(runs: pd.DataFrame, period: int) -> pd.DataFrame:
    """What the throttling period (ms) does on the most devices: the budget there, and the factor of
    a share, for the period of the study and for others."""
    real, sliced = (runs[(runs["cpu_share"] == "") == is_real] for is_real in (True, False))
    periods = sliced["options"].str.extract(PERIOD, expand=False)
    table = []
    for other in [None, *sorted(set(periods.dropna()), key=int)]:
        own = sliced[(periods == other) if other else sliced["options"] == ""]
        own = own.assign(scaling="weak", series=other) if other else own  # it has no base in DDP
        row = r.loss_budget(own).iloc[-1].to_dict() | {"period_ms": int(other or period)}
        factor = factor_of_a_share(pd.concat([own, real]))
        table.append(row | r.named_interval("factor", factor))
    return pd.DataFrame(table)


def straggler_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Per part of its share that the last rank has: the step over that without a straggler, within
    rounds; how much longer the last rank computes than the others, and how long they wait (s)."""
    rows = rows[(rows["warmup"] == 0) & (rows["mode"] == "ddp") & (rows["cpu_share"] != "")]
    part = rows["options"].str.extract(STRAGGLER, expand=False)
    rows = rows.assign(part=part.astype(float).fillna(1.0), own=rows["step_time"]
                       - rows["communication_time"], reducing=rows["communication_time"]
                       - rows["ddp_time"])
    some = rows[rows["part"] < 1]
    like = rows[rows["num_devices"].isin(some["num_devices"])
                & rows["batch_size"].isin(some["batch_size"])]
    each = like.assign(last=like["rank"] == like["num_devices"] - 1).groupby(
        ["part", *r.ROUND, "last"])[["own", "reducing"]].mean().unstack("last")
    step = like.groupby(["part", *r.ROUND, "step"])["step_time"].max().groupby(
        level=["part", *r.ROUND]).mean()
    found = pd.DataFrame({"step_time": step, "longer": each["own"][True] - each["own"][False],
                          "waiting": each["reducing"][False] - each["reducing"][True]})
    table = []
    for part, own in found.groupby(level="part"):
        own = own.droplevel("part")
        ratios = (own["step_time"] / found.loc[1.0, "step_time"]).dropna()
        table.append({"part": part, "runs": len(own)} | {
            k: v for name, values in (
                ("step_ratio", r.median_interval(ratios) if part < 1 else (1, np.nan, np.nan)),
                ("longer", r.mean_interval(own["longer"])),
                ("waiting", r.mean_interval(own["waiting"])),
                ("missed", r.mean_interval(own["waiting"] - own["longer"])))
            for k, v in r.named_interval(name, values).items()})
    return pd.DataFrame(table).sort_values("part", ascending=False, ignore_index=True)


def curve(runs: pd.DataFrame, table: pd.DataFrame, title: str, output: Path) -> None:
    """Speed-up of a fixed batch, and efficiency with as many images per device; beside it what the
    original study published, against its own 2 cores, of which it says that they do what 2 do."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 4.2), layout="constrained")
    ddp = table[(table["mode"] == "ddp") & (table["options"] == "") & (table["memory"] == "kept")]
    sliced, real = ddp[ddp["cpu_share"] != ""], ddp[ddp["cpu_share"] == ""]
    strong, weak = (sliced[sliced["scaling"] == kind] for kind in ("strong", "weak"))
    strong = strong[strong.groupby("series")["num_devices"].transform("nunique") > 2]
    counts = np.array(sorted(set(sliced["num_devices"])))
    left.plot(counts, counts, ":", color="#444444", label="ideal")
    f.points(left, runs, strong, "speedup", color=f.COLOURS[0], marker="o",
             label="shares of a core, a batch of 32")
    past = pd.read_csv(HERE.parents[2] / "report" / "published_results.csv")
    past = past[(past["device"] == "cpu") & (past["num_devices"] > 1)]
    rate, low, high = (past["images_per_step"] / past[time] for time in
                       ("median_step_time_s", "ci_high", "ci_low"))
    base = rate.iloc[0] / 2
    left.errorbar(past["num_devices"], rate / base, [(rate - low) / base, (high - rate) / base],
                  fmt="x--", color="#999999", capsize=2,
                  label="the original's rows, 2 cores taken as 2")
    left.set(xlabel="devices", ylabel="speed-up", xlim=(0, None), ylim=(0, None))
    left.legend()
    f.points(right, runs, weak, "efficiency", color=f.COLOURS[0], marker="o",
             label="data parallel, shares of a core")
    alone = table[(table["mode"] == "no_communication") & table["series"].isin(weak["series"])]
    f.points(right, runs, alone, "efficiency", color=f.COLOURS[2], marker="^", linestyle=":",
             markerfacecolor="white", label="no communication, shares of a core")
    f.points(right, runs, real[real["scaling"] == "weak"], "efficiency", aside=0.12, marker="s",
             color=f.COLOURS[1], label="data parallel, real cores")
    right.axhline(1, linestyle=":", color="#444444")
    right.set(xlabel="devices, 4 images each", ylabel="efficiency per device", ylim=(0, None))
    right.legend(loc="lower left")
    figure.suptitle(f"{title}\ntime-sliced shares of a core", fontsize=10)
    f.save(figure, output / "curve")


def budget_by_devices(budget: pd.DataFrame, title: str, output: Path) -> None:
    """What each device loses against one, by number of devices: a line for each term."""
    figure, axes = plt.subplots(figsize=(7.2, 4.2), layout="constrained")
    colours = dict(zip(r.TERMS[1:], f.COLOURS, strict=False))
    for place, term in enumerate(r.TERMS[1:]):
        axes.errorbar(budget["num_devices"] + 0.08 * (place - 2.5), budget[f"{term}_percent"],
                      f.error_bars(budget, f"{term}_percent"), marker="o", markersize=4, capsize=2,
                      color=colours[term], label=f.NAMES.get(term, term))
    axes.axhline(0, color="#444444", linewidth=0.8)
    axes.set(xlabel="devices, 4 images each", title=f"{title}\ntime-sliced shares of a core",
             ylabel="share of the measured step (%), 95 % interval")
    figure.legend(loc="outside right center")
    f.save(figure, output / "budget")


def straggler(table: pd.DataFrame, title: str, output: Path) -> None:
    """The step against the straggler's share; how long the others wait against what it lacks."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.8), layout="constrained")
    late = table[table["part"] < 1]
    parts = np.linspace(table["part"].min(), 1, 50)
    left.plot(100 * parts, 1 / parts, ":", color="#444444", label="1 / its share")
    left.errorbar(100 * late["part"], late["step_ratio"], f.error_bars(late, "step_ratio"), fmt="o",
                  color=f.COLOURS[0], capsize=3, label="measured")
    left.set(xlabel="what one of 4 ranks has of its share (%)", ylabel="step over that without it")
    left.legend()
    right.errorbar(table["longer"], table["waiting"], f.error_bars(table, "waiting"),
                   f.error_bars(table, "longer"), fmt="o", color=f.COLOURS[1], capsize=3)
    ends = [0, table["longer"].max()]
    right.plot(ends, ends, ":", color="#444444")
    right.set(xlabel="what the straggler computes longer (s)", ylabel="what the others wait (s)")
    figure.suptitle(f"{title}\ntime-sliced shares of a core", fontsize=10)
    f.save(figure, output / "straggler")


def answers(table: pd.DataFrame, controls: pd.DataFrame, budget: pd.DataFrame, late: pd.DataFrame,
            periods: pd.DataFrame) -> list[str]:
    text, lines, period = r.interval_text, [], periods["period_ms"].iloc[0] / 1000
    ddp = table[(table["mode"] == "ddp") & (table["cpu_share"] != "") & (table["options"] == "")]
    for scaling, name in (("strong", "a fixed batch"), ("weak", "4 images each")):
        own = ddp[(ddp["scaling"] == scaling) & (ddp["num_devices"] > 1)]
        own = own[own.groupby("series")["num_devices"].transform("nunique") > 1]
        what = "speedup" if scaling == "strong" else "efficiency"
        lines.append(f"- **{scaling.capitalize()} scaling on shares** ({name}), "
                     f"{what.replace('up', '-up')}: " + ", ".join(
                         f"{text(row, what)} on {row['num_devices']}"
                         for _, row in own.iterrows()) + ".")
    most = budget.iloc[-1]
    lines.append(f"- **Where a step on {most['num_devices']} shares goes**: the ideal step "
                 f"{most['ideal_percent']:.1f} %, " + ", ".join(
                     f"{f.NAMES.get(term, term)} {r.term_text(most, term, period)}"
                     for term in r.TERMS[1:]) + ".")
    lines.append("- **Error of the emulation**: without communication the step is " + ", ".join(
        f"{text(row, 'alone')} times one device's on {row['num_devices']:.0f}"
        for _, row in controls.iterrows()) + f"; a step on a share takes "
        f"{text(periods.iloc[0], 'factor')} times as long as on that part of a core.")
    lines += [f"- **Throttled every {row['period_ms']} ms** instead of "
              f"{1000 * period:.0f}: a step on a share takes {text(row, 'factor')} times as long as"
              f" on that part of a core; on {row['num_devices']:.0f} shares slowed backward is "
              f"{r.term_text(row, 'slowed_backward')}, waiting {r.term_text(row, 'waiting')} "
              f"({row['rounds']:.0f} rounds)."
              for _, row in periods.iloc[1:].iterrows()]
    real = controls[controls.get("against_real", pd.Series(dtype=float)).notna()]
    lines += [f"- **Against real cores**: the speed-up on {row['num_devices']:.0f} shares is "
              f"{text(row, 'against_real')} times that on as many cores."
              for _, row in real.iterrows()]
    lines += [f"- **A straggler** with {100 * row['part']:.0f} % of its share, one of 4: the step "
              f"takes {text(row, 'step_ratio')} times as long; it computes {text(row, 'longer')} s "
              f"longer, the others wait {text(row, 'waiting')} s."
              for _, row in late[late["part"] < 1].iterrows()]
    return lines


def draw(args, rows, runs, table, skipped, title: str) -> tuple[dict, list[str]]:
    rows, runs, table = (frame[frame["model"] == "densenet121"] for frame in (rows, runs, table))
    environment = r.read_environment(args.results)
    title = f.make_title(environment, runs)  # without the other networks
    controls, late = control_table(runs), straggler_table(rows)
    budget = r.loss_budget(runs[(runs["cpu_share"] != "") & (runs["options"] == "")])
    if budget.empty or len(late) < 2:
        raise r.ResultsError("no round of data parallelism, its bounds and stragglers: see run.sh")
    curve(runs, table, title, args.output)
    budget_by_devices(budget, title, args.output)
    straggler(late, title, args.output)
    periods = period_table(runs, int(environment.get("cpu_period_ms", 50)))
    periods["share"] = runs["cpu_share"].max()
    lines = answers(table, controls, budget, late, periods)
    if (log := args.results / "runs.csv").is_file():
        results = pd.read_csv(log)["result"]
        results = results[results.isin(["complete", "failed"])]  # not: removed, found since
        lines.append("- **Checks** of each rank's share and of the host's time: "
                     f"{(results == 'failed').sum()} of {len(results)} runs failed.")
    return {"controls": controls, "budget": budget, "stragglers": late, "periods": periods}, lines


if __name__ == "__main__":
    f.plot_results(__doc__, HERE / "runs", draw)
