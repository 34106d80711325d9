"""A model of the step over n devices: fitted on one and two of them, tested on more.

A step is the mean compute of the devices at their local batches (each measured on one device, never
scaled from another batch), the wait for the slowest of n, backward slowed by transfers beside it,
what is exposed of DDP's buckets after it (one after the other, over a ring), and DDP's own work.
Latency and bandwidth are those of the all-reduce alone on 2 hosts, slowed as the devices are. Null
models: no communication; nothing hidden. Tables: scaling (each configuration, its terms measured
and predicted), inputs, and summary (errors).
"""

from pathlib import Path
from typing import NamedTuple

import figures
import numpy as np
import pandas as pd
import results
import tables

RUNS_OF = "shares"
FITTED, SLOW, MIB = "densenet121", "100mbit", 2**20
SETTINGS = ["study", "model", "mode", "num_devices", "batch_size", "link", "bucket_cap_mb", "part"]
SHOWN = {"exposed": "transfer", "slowed": "slowed", "waiting": "waiting"}  # terms that are tested
NULLS = ["no_communication", "nothing_hidden"]


class Link(NamedTuple):
    latency: float  # s, of one message
    bandwidth: float  # bytes/s


class Inputs(NamedTuple):
    """What the model knows: of one and two devices, and of the all-reduce alone."""

    compute: dict[tuple, tuple[float, float]]  # study, network, images: step and backward (s)
    spread: dict[str, np.ndarray]  # by study: relative deviations of a rank's step
    own: float  # DDP's own work, s per byte of gradients
    gradients: dict[str, pd.DataFrame]  # by network
    links: dict[str, Link]
    lost: dict[str, float]  # by link: part of backward's speed that a transfer takes


# ---- the model


def bucket_plan(gradients: pd.DataFrame, cap: str, part: float = 1.0) -> list[tuple[float, float]]:
    """DDP's buckets: bytes, and the share of backward that is over when the bucket is full. One is
    closed when it holds its cap or more; without a cap given, the first one's is 1 MiB and the
    others' 25. Of compressed gradients a part is sent."""
    caps = [int(cap) * MIB] if cap else [MIB, 25 * MIB]
    buckets, held = [], 0
    for size, share in zip(gradients["bytes"], gradients["share_of_backward"], strict=True):
        held += size
        if held >= caps[min(len(buckets), len(caps) - 1)]:
            buckets.append((part * held, share))
            held = 0
    if held:
        buckets.append((part * held, 1.0))
    return buckets


def all_reduce_time(size: float, devices: int, link: Link) -> float:
    """Of a ring: 2(n-1) messages, 2(n-1)/n of the bytes."""
    messages = 2 * (devices - 1)
    return messages * (link.latency + size / devices / link.bandwidth)


def overlap(plan: list, backward: float, times: list[float], lost: float) -> tuple[float, float]:
    """How much longer backward takes, and what is exposed after it (s), when the buckets' transfers
    take these times one after the other and a part of backward's speed is lost meanwhile."""
    clock = 0.0
    done = 0.0  # seconds of backward that are over
    free = 0.0  # when the link is free
    for (_, share), time in [*zip(plan, times, strict=True), ((0, 1.0), 0.0)]:
        need = share * backward - done
        beside = max(0.0, free - clock) * (1 - lost)  # done while a transfer is in flight
        if need <= beside:
            clock += need / (1 - lost)
        else:
            clock = max(free, clock) + need - beside
        done = share * backward
        free = max(free, clock) + time
    return clock - backward, max(0.0, free - clock)


def slowest_of(spread: np.ndarray, devices: int) -> float:
    """Expected largest of n draws from relative deviations."""
    ranks = np.arange(len(spread) + 1) / len(spread)
    return float((np.sort(spread) * np.diff(ranks**devices)).sum())


def predict(inputs: Inputs, row: pd.Series) -> dict[str, float]:
    """The terms of a configuration's step (s), and the step of the null models."""
    devices, batch = int(row["num_devices"]), int(row["batch_size"])
    most, few = -(-batch // devices), batch // devices
    full = batch - few * devices or devices  # devices that have the most images
    step, backward = inputs.compute[row["study"], row["model"], most]
    short, _ = inputs.compute[row["study"], row["model"], few]
    compute = (full * step + (devices - full) * short) / devices
    gradients, link = inputs.gradients[row["model"]], inputs.links[row["link"]]
    plan = bucket_plan(gradients, row["bucket_cap_mb"], row["part"])
    times = [all_reduce_time(size, devices, link) for size, _ in plan]
    slowed, exposed = overlap(plan, backward, times, inputs.lost[row["link"]])
    waiting = step * (1 + slowest_of(inputs.spread[row["study"]], full)) - compute
    terms = {"compute": compute, "slowed": slowed, "exposed": exposed, "waiting": waiting}
    terms["ddp"] = inputs.own * gradients["bytes"].sum()
    alone = terms["compute"] + terms["waiting"]
    terms["step_time"] = sum(terms.values())
    terms["no_communication"] = alone
    terms["nothing_hidden"] = alone + terms["ddp"] + sum(times)
    return terms


# ---- what was measured


def read_study(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of a session on shares, and a line for each of its configurations: median of the
    step with its interval, means of its terms, and what the options say: link, buckets,
    compression. A study's sessions stand by themselves: network, network_2."""
    study = folder.parent.name + folder.name.removeprefix("runs").removesuffix("_own")
    rows = results.read_results(folder)[0].assign(study=study)
    controls = rows["options"].str.contains("straggler|period")
    rows = rows[(rows["cpu_share"] != "") & ~controls]
    runs = results.run_table(rows)
    runs = runs.drop_duplicates([*results.ROUND, *set(results.KEY) - {"scaling"}])
    link = runs["options"].str.extract(r"network=([\w.]+)", expand=False).fillna("loopback")
    part = np.where(runs["options"].str.contains("gradients=bf16"), 0.5, 1.0)
    table = []
    for values, own in runs.assign(study=study, link=link, part=part).groupby(SETTINGS):
        line = dict(zip(SETTINGS, values, strict=True)) | {"runs": len(own)}
        line |= results.named_interval("step_time", results.median_interval(own["step_time"]))
        line["busy"] = (own["step_time"] - own["waiting"]).median()
        table.append(line | own[["backward", "transfer", "waiting", "ddp"]].mean().to_dict())
    return rows, pd.DataFrame(table)


def slowed_backward(table: pd.DataFrame) -> pd.DataFrame:
    """With how much longer backward takes than without communication (s): at as many devices where
    that was measured, else on one."""
    key = ["study", "model", "num_devices", "batch_size"]
    alone = table[table["mode"] != "ddp"].groupby(key)["backward"].mean().rename("alone")
    one = table[table["mode"] == "single_process"].rename(columns={"batch_size": "images"})
    one = one.groupby(["study", "model", "images"])["backward"].mean().rename("one")
    images = -(-table["batch_size"] // table["num_devices"])
    table = table.assign(images=images).join(alone, on=key).join(one, on=one.index.names)
    return table.assign(slowed=table["backward"] - table["alone"].fillna(table["one"]))


def compute_of_one(table: pd.DataFrame) -> dict[tuple, tuple[float, float]]:
    """Step and backward by study, network and images: of one device, else of the fewest that do not
    communicate."""
    alone = table[table["mode"] != "ddp"].sort_values(["num_devices"], ascending=False)
    compute = {}
    for _, row in alone[alone["num_devices"] <= 2].iterrows():
        compute[row["study"], row["model"], row["images"]] = row["busy"], row["backward"]
    return compute


def spread_of(rows: pd.DataFrame) -> np.ndarray:
    """Deviations of two ranks' steps that do not communicate from the mean of their run, made wider
    by what the mean has taken of them."""
    own = rows.query("mode == 'no_communication' and num_devices == 2 and warmup == 0")
    steps = own.groupby(results.ROUND)["step_time"]
    count = steps.transform("size")
    wider = np.sqrt(count / (count - 1))
    return ((own["step_time"] / steps.transform("mean") - 1) * wider).to_numpy()


def measure_links(all_reduce: pd.DataFrame, share: float) -> dict[str, Link]:
    """Latency and bandwidth of each link, of the all-reduce alone on 2 hosts. It was measured on
    whole cores and links: on shares, and links slowed alike, all takes longer. A small all-reduce
    takes 0.2 or some ms, on any link; messages add up: the mean counts."""
    alone = all_reduce[all_reduce["ranks"] == 2].assign(time=all_reduce["seconds"] / share)
    latency = alone[alone["bytes"] == alone["bytes"].min()]["time"].mean() / 2
    links = {}
    for name, own in alone.groupby("network"):
        times = own.groupby("bytes")["time"].median()
        bandwidth = np.diff(times.index[-2:])[0] / np.diff(times.iloc[-2:])[0]
        links[name] = Link(latency, bandwidth)
    links["loopback"] = links["unshaped"]  # nothing but gloo's own work is the limit of both
    return links


# ---- fit and test


def lost_by_law(law: str, most: float, links: dict[str, Link]) -> dict[str, float]:
    """Which part of backward's speed a transfer takes on each link, if it takes `most` on the
    fastest: the same for the time in flight, or less where fewer bytes are sent in that time."""
    fastest = max(link.bandwidth for link in links.values())
    lost = {}
    for name, link in links.items():
        lost[name] = most if law == "time in flight" else most * link.bandwidth / fastest
    return lost


def missed_slowed(inputs: Inputs, rows: pd.DataFrame) -> float:
    """By how much (s, RMS) the inputs miss slowed backward."""
    errors = [predict(inputs, row)["slowed"] - row["slowed"] for _, row in rows.iterrows()]
    return float(np.sqrt(np.mean(np.square(errors))))


def fit_law(law: str, inputs: Inputs, two: pd.DataFrame) -> tuple[float, Inputs]:
    """By how much the law misses slowed backward on two devices at best (s), and these inputs."""
    trials = []
    for most in np.linspace(0, 0.99, 100):
        trials.append(inputs._replace(lost=lost_by_law(law, most, inputs.links)))
    missed = [missed_slowed(trial, two) for trial in trials]
    return min(missed), trials[int(np.argmin(missed))]


def fit(
    rows: pd.DataFrame, table: pd.DataFrame, all_reduce: pd.DataFrame, gradients: pd.DataFrame
) -> tuple[Inputs, pd.DataFrame]:
    """The inputs, from one and two devices and the network FITTED, and how well each law of slowed
    backward does there: a transfer takes a part of its speed for the time in flight, or for the
    bytes that are sent meanwhile."""
    links = measure_links(all_reduce, float(rows["cpu_share"].iloc[0]))
    size = gradients.groupby("model")["bytes"].sum()[FITTED]
    ddp = table[(table["mode"] == "ddp") & (table["model"] == FITTED)]
    one, two = (ddp[ddp["num_devices"] == devices] for devices in (1, 2))
    by_network = gradients.sort_values("share_of_backward").groupby("model")
    inputs = Inputs(
        compute_of_one(table),
        {study: spread_of(own) for study, own in rows.groupby("study")},
        float((one["ddp"] / size).mean()),
        dict(list(by_network)),
        links,
        dict.fromkeys(links, 0.0),
    )
    laws = {law: fit_law(law, inputs, two) for law in ("time in flight", "bytes")}
    known = [(f"missed by the law of {law}", missed, "s") for law, (missed, _) in laws.items()]
    # A constant is their null model.
    known.append(("missed by a constant", two["slowed"].std(ddof=0), "s"))
    inputs = min(laws.values(), key=lambda found: found[0])[1]
    known.append(("ddp's own work", 1e9 * inputs.own, "ns per byte"))
    for name, link in inputs.links.items():
        known.append((f"{name} latency", 1e3 * link.latency, "ms"))
        known.append((f"{name} bandwidth", link.bandwidth / 1e6, "MB/s"))
        known.append((f"{name} lost", inputs.lost[name], "of backward's speed"))
    return inputs, pd.DataFrame(known, columns=["input", "value", "unit"])


def compare_one(inputs: Inputs, row: pd.Series) -> dict:
    """A configuration: see compare."""
    said, step = predict(inputs, row), row["step_time"]
    line = row[[*SETTINGS, "runs"]].to_dict()
    line["held_out"] = row["num_devices"] > 2 or row["model"] != FITTED
    line |= {"measured": step, "predicted": said["step_time"]}
    line["error"] = 100 * (said["step_time"] / step - 1)
    for null in NULLS:
        line[f"{null}_error"] = 100 * (said[null] / step - 1)
    line["floor"] = 50 * (row["step_time_high"] - row["step_time_low"]) / step
    line["communication"] = 100 * (1 - said["no_communication"] / step)
    for term, name in SHOWN.items():
        line |= {f"{term}_measured": row[name], f"{term}_predicted": said[term]}
    return line


def compare(inputs: Inputs, table: pd.DataFrame) -> pd.DataFrame:
    """Each data-parallel configuration: the step and its terms, measured and predicted (s), errors
    of the step (%) of the model and of the null models, and the runs' interval about it."""
    several = table[(table["mode"] == "ddp") & (table["num_devices"] > 1)]
    return pd.DataFrame([compare_one(inputs, row) for _, row in several.iterrows()])


def errors_of(name: str, own: pd.DataFrame, period: float) -> dict:
    """Errors of some configurations: see error_table."""
    row = {"configurations": name, "number": len(own), "floor": own["floor"].median()}
    for error in ("error", *(f"{null}_error" for null in NULLS)):
        row |= {error: own[error].abs().median(), f"{error}_worst": own[error].abs().max()}
    for term in SHOWN:
        long = own[own[f"{term}_measured"] > period]
        off = (long[f"{term}_predicted"] / long[f"{term}_measured"] - 1).abs()
        row |= {f"{term}_resolved": len(long), f"{term}_within": int((off <= 0.25).sum())}
    slowed = own["slowed_measured"]
    row["slowed_rms"] = np.sqrt(((own["slowed_predicted"] - slowed) ** 2).mean())
    row["slowed_none_rms"] = np.sqrt((slowed**2).mean())
    return row


def error_table(table: pd.DataFrame, period: float) -> pd.DataFrame:
    """For what was fitted on and what was held out: errors of the step (%, median and worst) of the
    model and the null models, beside the runs' own interval; and of the terms that are longer than
    a throttling period (s), how many are within a quarter, and how far (s, RMS) slowed backward is
    off, or would be if it were left out."""
    network, plain = table["model"] == FITTED, table["bucket_cap_mb"].astype(str) == ""
    more = table["held_out"] & network
    chosen = {
        "fitted": ~table["held_out"],
        "more devices": more,
        "DDP as it is": more & plain,
        "small buckets": more & ~plain,
        "8 devices": network & (table["num_devices"] == 8),
        "slow link": table["held_out"] & (table["link"] == SLOW),
        "other networks": ~network,
    }
    return pd.DataFrame([errors_of(name, table[rows], period) for name, rows in chosen.items()])


def draw_errors(table: pd.DataFrame) -> figures.plt.Figure:
    """Errors of the step by number of devices: the model, fitted and held out, and null models."""
    figure, axes = figures.plt.subplots(figsize=(7.2, 4.2), layout="constrained")
    looks = {
        "no_communication_error": ("x", "#999999", "no communication"),
        "nothing_hidden_error": ("+", "#666666", "nothing hidden"),
        "error": ("o", figures.COLOURS[0], "the model"),
    }
    for place, (name, (marker, colour, label)) in enumerate(looks.items()):
        for held_out, own in table.groupby("held_out"):
            look = {"color": colour, "markersize": 5, "linestyle": "none"}
            look |= {"markerfacecolor": colour if held_out else "white"}
            look |= {"label": label if held_out else None}
            axes.plot(own["num_devices"] + 0.2 * (place - 1), own[name], marker, **look)
    axes.axhline(0, color="#444444", linewidth=0.8)
    axes.set_yscale("symlog", linthresh=10, linscale=2)  # null models miss slow links by far
    ticks = [-80, -40, -20, -10, -5, 0, 5, 10, 20, 40]
    axes.set_yticks(ticks, [f"{tick:+d}" if tick else "0" for tick in ticks])
    axes.set(xlabel="devices", ylabel="predicted step less measured (%)")
    axes.set_title("emulated devices: shares of a core; hollow: fitted on")
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def study(runs: pd.DataFrame, folder: Path) -> tables.Study:
    networks = results.sessions_of(folder.parents[1] / "network" / folder.name)
    read = [read_study(session) for session in [*results.sessions_of(folder), *networks]]
    rows = pd.concat([rows for rows, _ in read])
    table = slowed_backward(pd.concat([table for _, table in read], ignore_index=True))
    alone = [pd.read_csv(session / "all_reduce.csv") for session in networks]
    gradients = pd.read_csv(networks[0] / "gradients.csv")
    inputs, known = fit(rows, table, pd.concat(alone, ignore_index=True), gradients)
    found = compare(inputs, table)
    period = float(results.read_environment(folder).get("cpu_period_ms", 50)) / 1000
    summary = error_table(found, period)
    columns = {"configurations": "configurations", "number": "number", "floor": "runs (+-%)"}
    columns |= {"error": "model (%)", "no_communication_error": "no communication (%)"}
    text = tables.markdown(
        summary,
        "Median error of the predicted step, of the model and of two null models.",
        columns | {"nothing_hidden_error": "nothing hidden (%)"},
    )
    own = {"summary": summary, "scaling": found, "inputs": known}
    return tables.Study(own, text, {"predicted_vs_measured": draw_errors(found)})
