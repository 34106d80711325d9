"""A model of the step over n devices: fitted on one and two of them, tested on more.

    python scaling_model.py       # after the sweeps of cpu/studies/shares and network

A step is the mean compute of the devices at their local batches (each measured on one device, never
scaled from another batch), the wait for the slowest of n, backward slowed by transfers beside it,
what is exposed of DDP's buckets after it (one after the other, over a ring), and DDP's own work.
Latency and bandwidth are those of the all-reduce alone on 2 hosts, slowed as the devices are. Null
models: no communication; nothing hidden. Writes scaling.csv (each configuration, its terms
measured and predicted), scaling_inputs.csv, scaling_summary.csv and predicted_vs_measured (.png,
.pdf).
"""

import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "common"))
import figures as f  # noqa: E402  (found on the path of the line before)
import results as r  # noqa: E402
from figures import plt  # noqa: E402

STUDIES = HERE.parent / "cpu" / "studies"
FITTED, SLOW, MIB = "densenet121", "100mbit", 2**20
SETTINGS = ["study", "model", "mode", "num_devices", "batch_size", "link", "bucket_cap_mb", "part"]
SHOWN = {"exposed": "transfer", "slowed": "slowed", "waiting": "waiting"}  # terms that are tested


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
    return buckets + [(part * held, 1.0)] * (held > 0)


def all_reduce_time(size: float, devices: int, link: Link) -> float:
    """Of a ring: 2(n-1) messages, 2(n-1)/n of the bytes."""
    messages = 2 * (devices - 1)
    return messages * (link.latency + size / devices / link.bandwidth)


def overlap(plan: list, backward: float, times: list[float], lost: float) -> tuple[float, float]:
    """How much longer backward takes, and what is exposed after it (s), when the buckets' transfers
    take these times one after the other and a part of backward's speed is lost meanwhile."""
    clock, done, free = 0.0, 0.0, 0.0  # time; seconds of backward that are over; the link is free
    for (_, share), time in [*zip(plan, times, strict=True), ((0, 1.0), 0.0)]:
        need, beside = share * backward - done, max(0.0, free - clock) * (1 - lost)
        clock = clock + need / (1 - lost) if need <= beside else max(free, clock) + need - beside
        done, free = share * backward, max(free, clock) + time
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
    (step, backward), (short, _) = (
        inputs.compute[row["study"], row["model"], images] for images in (most, few))
    compute = (full * step + (devices - full) * short) / devices
    gradients, link = inputs.gradients[row["model"]], inputs.links[row["link"]]
    plan = bucket_plan(gradients, row["bucket_cap_mb"], row["part"])
    times = [all_reduce_time(size, devices, link) for size, _ in plan]
    slowed, exposed = overlap(plan, backward, times, inputs.lost[row["link"]])
    terms = {"compute": compute, "slowed": slowed, "exposed": exposed,
             "waiting": step * (1 + slowest_of(inputs.spread[row["study"]], full)) - compute,
             "ddp": inputs.own * gradients["bytes"].sum()}
    alone = terms["compute"] + terms["waiting"]
    return terms | {"step_time": sum(terms.values()), "no_communication": alone,
                    "nothing_hidden": alone + terms["ddp"] + sum(times)}


def configurations(*studies: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows on shares, and a line for each of their configurations: median of the step with its
    interval, means of its terms, and what the options say: link, buckets, compression. Occasions of
    a study stand by themselves: network, network_2."""
    table, rows = [], []
    for folder in studies:
        study = folder.parent.name + folder.name.removeprefix("runs")
        found = r.read_results(folder)[0].assign(study=study)
        controls = found["options"].str.contains("straggler|period")
        found = found[(found["cpu_share"] != "") & ~controls]
        runs = r.run_table(found).drop_duplicates([*r.ROUND, *set(r.KEY) - {"scaling"}])
        link = runs["options"].str.extract(r"network=([\w.]+)", expand=False).fillna("loopback")
        part = np.where(runs["options"].str.contains("gradients=bf16"), 0.5, 1.0)
        for values, own in runs.assign(study=study, link=link, part=part).groupby(SETTINGS):
            line = dict(zip(SETTINGS, values, strict=True)) | {"runs": len(own)}
            line |= r.named_interval("step_time", r.median_interval(own["step_time"]))
            line["busy"] = (own["step_time"] - own["waiting"]).median()
            table.append(line | own[["backward", "transfer", "waiting", "ddp"]].mean().to_dict())
        rows.append(found)
    return pd.concat(rows), slowed_backward(pd.DataFrame(table))


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
    return {(row["study"], row["model"], row["images"]): (row["busy"], row["backward"])
            for _, row in alone[alone["num_devices"] <= 2].iterrows()}


def spread_of(rows: pd.DataFrame) -> np.ndarray:
    """Deviations of two ranks' steps that do not communicate from the mean of their run, made wider
    by what the mean has taken of them."""
    own = rows[(rows["mode"] == "no_communication") & (rows["num_devices"] == 2)
               & (rows["warmup"] == 0)]
    steps = own.groupby(r.ROUND)["step_time"]
    count = steps.transform("size")
    wider = np.sqrt(count / (count - 1))
    return ((own["step_time"] / steps.transform("mean") - 1) * wider).to_numpy()


def fitted(trials: list[Inputs], rows: pd.DataFrame) -> tuple[float, Inputs]:
    """By how much (s, RMS) the inputs that miss slowed backward least miss it, and these inputs."""
    errors = [np.sqrt(np.mean([(predict(inputs, row)["slowed"] - row["slowed"]) ** 2
                               for _, row in rows.iterrows()])) for inputs in trials]
    return min(errors), trials[int(np.argmin(errors))]


def fit(rows: pd.DataFrame, table: pd.DataFrame, all_reduce: pd.DataFrame,
        gradients: pd.DataFrame) -> tuple[Inputs, pd.DataFrame]:
    """The inputs, from one and two devices and the network FITTED, and how well each law of slowed
    backward does there: a transfer takes a part of its speed for the time in flight, or for the
    bytes that are sent meanwhile."""
    share = float(rows["cpu_share"].iloc[0])
    sizes = gradients.groupby("model")["bytes"].sum()
    ddp = table[(table["mode"] == "ddp") & (table["model"] == FITTED)]
    one, two = (ddp[ddp["num_devices"] == devices] for devices in (1, 2))
    # Measured on whole cores and links: on shares, and links slowed alike, all takes longer. A
    # small all-reduce takes 0.2 or some ms, on any link; messages add up: the mean counts.
    alone = all_reduce[all_reduce["ranks"] == 2].assign(time=all_reduce["seconds"] / share)
    latency, links = alone[alone["bytes"] == alone["bytes"].min()]["time"].mean() / 2, {}
    for name, own in alone.groupby("network"):
        times = own.groupby("bytes")["time"].median()
        links[name] = Link(latency, np.diff(times.index[-2:])[0] / np.diff(times.iloc[-2:])[0])
    links["loopback"] = links["unshaped"]  # nothing but gloo's own work is the limit of both
    inputs = Inputs(
        compute_of_one(table), {study: spread_of(own) for study, own in rows.groupby("study")},
        float((one["ddp"] / sizes[FITTED]).mean()),
        {model: own.sort_values("share_of_backward") for model, own in gradients.groupby("model")},
        links, dict.fromkeys(links, 0.0))
    laws = {}
    for law in ("time in flight", "bytes"):
        trials = []
        for most in np.linspace(0, 0.99, 100):  # lost to the fastest link; to others less, by bytes
            fastest = max(link.bandwidth for link in inputs.links.values())
            trials.append(inputs._replace(lost={
                name: most if law == "time in flight" else most * link.bandwidth / fastest
                for name, link in inputs.links.items()}))
        laws[law] = fitted(trials, two)
    best = min(laws, key=lambda law: laws[law][0])
    known = [{"input": f"missed by the law of {law}", "value": missed, "unit": "s"}
             for law, (missed, _) in laws.items()]  # a constant is their null model
    known.append({"input": "missed by a constant", "value": two["slowed"].std(ddof=0), "unit": "s"})
    inputs = laws[best][1]
    known.append({"input": "ddp's own work", "value": 1e9 * inputs.own, "unit": "ns per byte"})
    for name, link in inputs.links.items():
        for what, value, unit in (
                ("latency", 1e3 * link.latency, "ms"), ("bandwidth", link.bandwidth / 1e6, "MB/s"),
                ("lost", inputs.lost[name], "of backward's speed")):
            known.append({"input": f"{name} {what}", "value": value, "unit": unit})
    return inputs, pd.DataFrame(known)


def compare(inputs: Inputs, table: pd.DataFrame) -> pd.DataFrame:
    """Each data-parallel configuration: the step and its terms, measured and predicted (s), errors
    of the step (%) of the model and of the null models, and the runs' interval about it."""
    compared = []
    for _, row in table[(table["mode"] == "ddp") & (table["num_devices"] > 1)].iterrows():
        said = predict(inputs, row)
        error = {name: 100 * (said[name] / row["step_time"] - 1)
                 for name in ("step_time", "no_communication", "nothing_hidden")}
        line = row[[*SETTINGS, "runs"]].to_dict() | {
            "held_out": row["num_devices"] > 2 or row["model"] != FITTED,
            "measured": row["step_time"], "predicted": said["step_time"],
            "error": error.pop("step_time"), **{f"{name}_error": e for name, e in error.items()},
            "floor": 50 * (row["step_time_high"] - row["step_time_low"]) / row["step_time"],
            "communication": 100 * (1 - said["no_communication"] / row["step_time"])}
        for term, name in SHOWN.items():
            line |= {f"{term}_measured": row[name], f"{term}_predicted": said[term]}
        compared.append(line)
    return pd.DataFrame(compared)


def summary_of(table: pd.DataFrame, period: float) -> pd.DataFrame:
    """For what was fitted on and what was held out: errors of the step (%, median and worst) of the
    model and the null models, beside the runs' own interval; and of the terms that are longer than
    a throttling period (s), how many are within a quarter, and how far (s, RMS) slowed backward is
    off, or would be if it were left out."""
    network, summary = table["model"] == FITTED, []
    more, plain = table["held_out"] & network, table["bucket_cap_mb"].astype(str) == ""
    for name, chosen in (("fitted", ~table["held_out"]),
                         ("more devices", more), ("DDP as it is", more & plain),
                         ("small buckets", more & ~plain),
                         ("8 devices", network & (table["num_devices"] == 8)),
                         ("slow link", table["held_out"] & (table["link"] == SLOW)),
                         ("other networks", ~network)):
        own = table[chosen]
        row = {"configurations": name, "number": len(own), "floor": own["floor"].median()}
        for error in ("error", "no_communication_error", "nothing_hidden_error"):
            row |= {error: own[error].abs().median(), f"{error}_worst": own[error].abs().max()}
        for term in SHOWN:
            long = own[own[f"{term}_measured"] > period]
            off = (long[f"{term}_predicted"] / long[f"{term}_measured"] - 1).abs()
            row |= {f"{term}_resolved": len(long), f"{term}_within": int((off <= 0.25).sum())}
        slowed = own["slowed_measured"]
        row |= {"slowed_rms": np.sqrt(((own["slowed_predicted"] - slowed) ** 2).mean()),
                "slowed_none_rms": np.sqrt((slowed**2).mean())}
        summary.append(row)
    return pd.DataFrame(summary)


def draw(table: pd.DataFrame) -> None:
    """Errors of the step by number of devices: the model, fitted and held out, and null models."""
    figure, axes = plt.subplots(figsize=(7.2, 4.2), layout="constrained")
    looks = (("no_communication_error", "x", "#999999", "no communication"),
             ("nothing_hidden_error", "+", "#666666", "nothing hidden"),
             ("error", "o", f.COLOURS[0], "the model"))
    for place, (name, marker, colour, label) in enumerate(looks):
        for held_out, own in table.groupby("held_out"):
            axes.plot(own["num_devices"] + 0.2 * (place - 1), own[name], marker, color=colour,
                      markerfacecolor=colour if held_out else "white", markersize=5, ls="",
                      label=label if held_out else None)
    axes.axhline(0, color="#444444", linewidth=0.8)
    axes.set_yscale("symlog", linthresh=10, linscale=2)  # null models miss slow links by far
    ticks = [-80, -40, -20, -10, -5, 0, 5, 10, 20, 40]
    axes.set_yticks(ticks, [f"{tick:+d}" if tick else "0" for tick in ticks])
    axes.set(xlabel="devices", ylabel="predicted step less measured (%)",
             title="time-sliced shares of a core; hollow: fitted on")
    figure.legend(loc="outside lower center", ncols=3)
    f.save(figure, HERE / "predicted_vs_measured")


def main() -> None:
    shares, networks = (r.occasions_of(STUDIES / name / "runs") for name in ("shares", "network"))
    try:
        rows, table = configurations(*shares, *networks)
        alone = pd.concat([pd.read_csv(folder / "all_reduce.csv") for folder in networks],
                          ignore_index=True)
        inputs, known = fit(rows, table, alone, pd.read_csv(networks[0] / "gradients.csv"))
        found = compare(inputs, table)
    except (OSError, KeyError, IndexError, ValueError, r.ResultsError) as error:
        sys.exit(f"error: the model lacks data ({error}): run the sweeps of shares and network")
    period = float(r.read_environment(shares[0]).get("cpu_period_ms", 50)) / 1000
    summary = summary_of(found, period)
    for name, own in (("", found), ("_inputs", known), ("_summary", summary)):
        own.to_csv(HERE / f"scaling{name}.csv", index=False)
    with plt.rc_context(f.STYLE):
        draw(found)
    for own in (known, found, summary):
        print(own.to_string(index=False))


if __name__ == "__main__":
    main()
