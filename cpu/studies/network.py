"""What communication costs in a virtual cluster, by hosts, link rate and how DDP is set.

The cost of communication is the step over the same step without communication, in the same rounds:
what is exposed after backward, and what the hidden transfer takes from the core that computes.
all_reduce.csv has the all-reduce alone, on whole cores and links, by its bytes, hosts and link.
"""

import re
from pathlib import Path

import figures
import numpy as np
import pandas as pd
import results
import tables
from figures import plt
from tables import mean, measure_all, median, over

PLAIN = "default DDP"
COLOURS = {PLAIN: figures.DEFAULT, "1 MB buckets": figures.TUNED}
KEY = ["num_devices", "batch_size", "network", "bucket_cap_mb", "options", "cpu_share"]


def bits_per_second(network: str) -> float:
    """The rate that tc's name of it means; unshaped is infinite."""
    found = re.fullmatch(r"([\d.]+)([mg])bit", network)
    return float(found[1]) * {"m": 1e6, "g": 1e9}[found[2]] if found else float("inf")


def rate_text(network: str, share: str) -> str:
    """A link's rate at full speed, and as slowed as the hosts are."""
    if not share or network == "unshaped":
        return network
    return f"{network} at full speed = {bits_per_second(network) * float(share) / 1e6:g} Mbit here"


def setting_text(bucket_cap_mb: str, options: str) -> str:
    words = [f"{bucket_cap_mb} MB buckets"] if bucket_cap_mb else []
    if "gradients=bf16" in options:
        words.append("bf16 gradients")
    return " + ".join(words) or PLAIN


def cost_row(row: dict, own: pd.DataFrame, same: pd.DataFrame) -> dict:
    """A configuration against those of as many hosts: without communication, and default DDP on
    the same link."""
    alone = same[same["mode"] == "no_communication"]
    plain = same.query("mode == 'ddp' and bucket_cap_mb == ''")
    plain = plain[
        (plain["network"] == row["network"]) & ~plain["options"].str.contains("gradients=")
    ]
    row["setting"] = setting_text(row["bucket_cap_mb"], row.pop("options"))
    row |= {"runs": len(own), "bits": bits_per_second(row["network"])}
    measures = {"step_time": median("step_time"), "ratio": over(alone, "step_time")}
    measures |= {"over_plain": over(plain, "step_time")}
    row |= measure_all(own, measures | {"transfer": mean("transfer"), "waiting": mean("waiting")})
    slowed = (results.by_round(own, "backward") - results.by_round(alone, "backward")).dropna()
    return row | results.named_interval("slowed", results.mean_interval(slowed))


def network_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Per number of hosts, link and setting: the step, its ratio to the one without communication
    in the same rounds, and what it is made of (s); raises ResultsError if there is none."""
    runs = runs.assign(network=runs["options"].str.extract(r"network=([\w.]+)", expand=False))
    runs = runs.drop_duplicates([*results.ROUND, *set(results.KEY) - {"scaling"}])
    runs = runs[runs["network"].notna()]
    table = []
    for values, own in runs[runs["mode"] == "ddp"].groupby(KEY):
        row = dict(zip(KEY, values, strict=True))
        same = runs[runs["num_devices"] == row["num_devices"]]
        same = same[same["batch_size"] == row["batch_size"]]
        if (same["mode"] == "no_communication").any():
            table.append(cost_row(row, own, same))
    if not table:
        raise results.ResultsError("no runs over a network, or none without communication")
    return pd.DataFrame(table).sort_values(["bits", "num_devices", "setting"], ignore_index=True)


def all_reduce_row(own: pd.DataFrame, network: str, ranks: int, size: int) -> dict:
    """One size of an all-reduce alone: see all_reduce_table."""
    seconds = results.median_interval(own["seconds"])
    by_session = own.groupby("occasion")["seconds"].median()
    sent = 2 * (ranks - 1) / ranks
    at_rate = 8 * sent * size / bits_per_second(network)
    row = {"network": network, "ranks": ranks, "bytes": size, "repeats": len(own)}
    row["by_occasion"] = " and ".join(f"{median:.3f}" for median in by_session)
    value, low, high = seconds
    bandwidth = [size / value, size / high, size / low]
    per_message = [time / (2 * (ranks - 1)) for time in seconds]
    row |= results.named_interval("seconds", seconds)
    row |= results.named_interval("message", per_message)
    row |= results.named_interval("algorithm_bandwidth", bandwidth)
    row |= results.named_interval("bus_bandwidth", [sent * rate for rate in bandwidth])
    over_rate = [time / at_rate if at_rate else float("nan") for time in seconds]
    return row | results.named_interval("over_rate", over_rate)


def all_reduce_table(times: pd.DataFrame) -> pd.DataFrame:
    """The all-reduce alone: median seconds; algorithm and bus bandwidth (bytes/s) as nccl-tests
    define them, bytes / time and 2(n-1)/n of it, which a ring cannot raise above the link's; the
    time against 2(n-1)/n x bytes / rate; the latency of one of its 2(n-1) messages; and the median
    seconds by session."""
    groups = times.groupby(["network", "ranks", "bytes"])
    return pd.DataFrame([all_reduce_row(own, *key) for key, own in groups])


def cost_message(own: pd.DataFrame) -> str:
    """How much of the cost on the slowest link the best setting wins back."""
    slow = own[own["bits"] == own["bits"].min()].set_index("setting")["ratio"]
    if PLAIN not in slow or len(slow) < 2 or slow[PLAIN] <= 1:
        return f"What communication costs between {own['num_devices'].iloc[0]} hosts"
    won = 100 * (slow[PLAIN] - slow.min()) / (slow[PLAIN] - 1)
    words = {1: "one option wins", 2: "two options win"}[slow.idxmin().count("+") + 1]
    link = link_name(own.loc[own["bits"].idxmin(), "network"])
    return f"At {link} {words} back {won:.0f} % of what communication costs"


def link_name(network: str) -> str:
    bits = bits_per_second(network)
    if bits == float("inf"):
        return "no limit"
    return f"{bits / 1e6:g} Mbit/s" if bits < 1e9 else f"{bits / 1e9:g} Gbit/s"


def draw_cost(table: pd.DataFrame, note: str) -> plt.Figure:
    """On the most hosts, a step over one without communication: a group of bars for each link, a
    colour for each setting."""
    own = table[table["num_devices"] == table["num_devices"].max()]
    figure, axes = plt.subplots(figsize=(6.4, 3.2), layout="constrained")
    settings = sorted(own["setting"].unique(), key=lambda name: (name != PLAIN, len(name)))
    links = list(own.drop_duplicates("network").sort_values("bits")["network"])
    top = 1.15 * float(own["ratio_high"].max())
    for number, setting in enumerate(settings):
        rows = own[own["setting"] == setting].set_index("network").reindex(links)
        colour = COLOURS.get(setting, figures.COLOURS[2])
        places = np.arange(len(links)) + 0.27 * (number - (len(settings) - 1) / 2)
        axes.bar(places, rows["ratio"], 0.25, color=colour)
        bars = figures.error_bars(rows, "ratio")
        axes.errorbar(places, rows["ratio"], bars, fmt="none", color="#222222", capsize=2)
        for place, (_, row) in zip(places, rows.iterrows(), strict=True):
            is_missing = pd.isna(row["ratio"])
            words = "not\nmeasured" if is_missing else f"{row['ratio']:.2f}"
            height = 1 if is_missing else row["ratio_high"]
            look = {"ha": "center", "fontsize": 8, "textcoords": "offset points"}
            look["color"] = figures.GREY if is_missing else "#222222"
            axes.annotate(words, (place, height), (0, 3), **look)
        look = {"color": colour, "ha": "right", "fontweight": "bold", "fontsize": 9}
        look["bbox"] = {"facecolor": "white", "edgecolor": "none", "pad": 2}
        axes.text(0.98, 0.9 - 0.08 * number, setting, transform=axes.transAxes, **look)
    axes.axhline(1, color="#222222", linewidth=0.8)
    axes.set_xticks(range(len(links)), map(link_name, links))
    axes.set(ylabel="a step, times as long as\nwithout communication", ylim=(0, top))
    hosts = f"{own['num_devices'].iloc[0]} hosts, 4 images each; cores and links equally slowed"
    figures.headline(figure, cost_message(own), f"{hosts}; {figures.how_many(own)}", note)
    return figure


def study(runs: pd.DataFrame, folder: Path) -> tables.Study:
    network = network_table(runs)
    times = []
    for number, session in enumerate(results.sessions_of(folder)):
        times.append(pd.read_csv(session / "all_reduce.csv").assign(occasion=number))
    alone = all_reduce_table(pd.concat(times))
    shown = network.assign(
        link=[rate_text(row["network"], row["cpu_share"]) for _, row in network.iterrows()]
    )
    text = tables.markdown(
        shown,
        "A step between virtual hosts, against one without communication and against default DDP.",
        {"link": "link", "setting": "setting", "num_devices": "hosts"}
        | {"ratio": "over no communication", "over_plain": "over default DDP"},
    )
    text += tables.markdown(
        alone[(alone["bytes"] == alone["bytes"].max()) & alone["over_rate"].notna()],
        "An all-reduce of all gradients alone, over 2(n-1)/n x bytes / rate.",
        {"network": "link", "ranks": "hosts", "over_rate": "ratio"},
    )
    cost = {"communication_cost": draw_cost(network, figures.make_title(folder, runs))}
    return tables.Study({"network": network, "all_reduce": alone}, text, cost)
