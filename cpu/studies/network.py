"""What communication costs in a virtual cluster, by hosts, link rate and how DDP is set.

The cost of communication is the step over the same step without communication, in the same rounds:
what is exposed after backward, and what the hidden transfer takes from the core that computes.
Machines are told apart: links are equal on all, computing is not. Seconds without and added are of
hosts at full speed: emulated ones times the share of a core. all_reduce.csv has the all-reduce
alone, on whole cores and links, by its bytes, hosts and link.
"""

import re
from pathlib import Path

import figures
import numpy as np
import pandas as pd
import results
import tables
from figures import plt
from tables import measure_all, median, over

PLAIN = "default DDP"
COLOURS = {
    PLAIN: figures.DEFAULT,
    "1 MB buckets": figures.TUNED,
    "1 MB buckets + bf16 gradients": figures.COLOURS[2],
}
KEY = ["machine", "num_devices", "batch_size", "network", "bucket_cap_mb", "options", "cpu_share"]


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
    row |= measure_all(own, measures)
    speed = float(row["cpu_share"] or 1)
    row |= measure_all(alone, {"alone": median("step_time", speed)})
    added = results.by_round(own, "step_time") - results.by_round(alone, "step_time")
    return row | results.named_interval("added", results.median_interval(speed * added.dropna()))


def network_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Per machine, number of hosts, link and setting: the emulated step (s), its ratio to the one
    without communication in the same rounds, and, at full speed, what that one takes and what is
    added to it (s); raises ResultsError if there is none."""
    runs = runs.assign(network=runs["options"].str.extract(r"network=([\w.]+)", expand=False))
    runs = runs.drop_duplicates([*results.ROUND, *set(results.KEY) - {"scaling"}])
    runs = runs[runs["network"].notna()]
    table = []
    for values, own in runs[runs["mode"] == "ddp"].groupby(KEY):
        row = dict(zip(KEY, values, strict=True))
        alike = ["machine", "num_devices", "batch_size"]
        same = runs[(runs[alike] == pd.Series(row)[alike]).all(axis=1)]
        if (same["mode"] == "no_communication").any():
            table.append(cost_row(row, own, same))
    if not table:
        raise results.ResultsError("no runs over a network, or none without communication")
    order = ["bits", "num_devices", "setting"]
    table = pd.DataFrame(table).sort_values(order)
    # Machines in the order of their sessions.
    by_session = list(runs["machine"].unique())
    return table.sort_values(
        "machine", key=lambda names: names.map(by_session.index), kind="stable"
    )


def all_reduce_row(own: pd.DataFrame, network: str, ranks: int, size: int) -> dict:
    """One size of an all-reduce alone: see all_reduce_table."""
    seconds = results.median_interval(own["seconds"])
    at_rate = 2 * (ranks - 1) / ranks * 8 * size / bits_per_second(network)
    row = {"network": network, "ranks": ranks, "bytes": size, "repeats": len(own)}
    row |= results.named_interval("seconds", seconds)
    over_rate = [time / at_rate if at_rate else float("nan") for time in seconds]
    return row | results.named_interval("over_rate", over_rate)


def all_reduce_table(times: pd.DataFrame) -> pd.DataFrame:
    """The all-reduce alone: median seconds, and the time against 2(n-1)/n x bytes / rate, which a
    ring has to send."""
    groups = times.groupby(["network", "ranks", "bytes"])
    return pd.DataFrame([all_reduce_row(own, *key) for key, own in groups])


def cost_message(own: pd.DataFrame) -> str:
    """How much of the cost on the slowest link the best setting wins back, over the machines."""
    slow = own[own["bits"] == own["bits"].min()]
    won = []
    for _, rows in slow.groupby("machine"):
        ratios = rows.set_index("setting")["ratio"]
        if PLAIN not in ratios or len(ratios) < 2 or ratios[PLAIN] <= 1:
            return f"What communication costs between {own['num_devices'].iloc[0]} hosts"
        won.append(round(100 * (ratios[PLAIN] - ratios.min()) / (ratios[PLAIN] - 1)))
        best = ratios.idxmin()
    words = {1: "one option wins", 2: "two options win"}[best.count("+") + 1]
    part = " to ".join(map(str, sorted({min(won), max(won)})))
    link = link_name(slow["network"].iloc[0])
    return f"At {link} {words} back {part} % of what communication costs"


def link_name(network: str) -> str:
    bits = bits_per_second(network)
    if bits == float("inf"):
        return "no limit"
    return f"{bits / 1e6:g} Mbit/s" if bits < 1e9 else f"{bits / 1e9:g} Gbit/s"


def draw_machine(axes: plt.Axes, own: pd.DataFrame, settings: list[str]) -> None:
    """A group of bars for each link, a colour for each setting."""
    links = list(own.drop_duplicates("network").sort_values("bits")["network"])
    for number, setting in enumerate(settings):
        rows = own[own["setting"] == setting].set_index("network").reindex(links)
        places = np.arange(len(links)) + 0.28 * (number - (len(settings) - 1) / 2)
        axes.bar(places, rows["ratio"], 0.26, color=COLOURS[setting])
        bars = figures.error_bars(rows, "ratio")
        axes.errorbar(places, rows["ratio"], bars, fmt="none", color="#222222", capsize=2)
        for place, (_, row) in zip(places, rows.iterrows(), strict=True):
            words, height = f"{row['ratio']:.2f}", row["ratio_high"]
            if pd.isna(row["ratio"]):
                words, height = "–", 1
            look = {"ha": "center", "fontsize": 7.5, "textcoords": "offset points"}
            axes.annotate(words, (place, height), (0, 3), **look)
    axes.axhline(1, color="#222222", linewidth=0.8)
    axes.set_xticks(range(len(links)), map(link_name, links))
    axes.set_xlim(-0.5, len(links) - 0.5)
    words = f"{own['machine'].iloc[0]}: {own['alone'].iloc[0]:.2g} s without communication"
    axes.set_title(words, loc="left", fontsize=8)


def draw_cost(table: pd.DataFrame, note: str) -> plt.Figure:
    """On the most hosts and on links with a limit, a step over one without communication: a panel
    for each machine."""
    own = table[table["num_devices"] == table["num_devices"].max()]
    limited = own[own["bits"] < float("inf")]
    own = limited if len(limited) else own
    machines = own["machine"].unique()
    figure, panels = plt.subplots(
        1, len(machines), figsize=(6.4, 2.9), sharey=True, squeeze=False, layout="constrained"
    )
    settings = [name for name in COLOURS if name in set(own["setting"])]
    for axes, machine in zip(panels[0], machines, strict=True):
        draw_machine(axes, own[own["machine"] == machine], settings)
    for number, setting in enumerate(settings):
        look = {"color": COLOURS[setting], "ha": "right", "fontweight": "bold", "fontsize": 9}
        look["bbox"] = {"facecolor": "white", "edgecolor": "none", "pad": 2}
        axes.text(0.98, 0.9 - 0.08 * number, setting, transform=axes.transAxes, **look)
    panels[0][0].set_ylabel("a step, times as long as\nwithout communication")
    axes.set_ylim(0, 1.15 * float(own["ratio_high"].max()))
    hosts = f"{own['num_devices'].iloc[0]} hosts, 4 images each; cores and links equally slowed"
    many = f"{figures.how_many(own)}; –: not measured; seconds are of hosts at full speed"
    figures.headline(figure, cost_message(own), hosts, many, note)
    return figure


def study(runs: pd.DataFrame, folder: Path) -> tables.Study:
    sessions = [folder.with_name(name) for name in runs["occasion"].unique()]
    machines = {session.name: results.machine_name(session) for session in sessions}
    runs = runs.assign(machine=runs["occasion"].map(machines))
    network = network_table(runs)
    times = pd.concat(pd.read_csv(session / "all_reduce.csv") for session in sessions)
    alone = all_reduce_table(times)
    shown = network.assign(
        link=[rate_text(row["network"], row["cpu_share"]) for _, row in network.iterrows()]
    )
    text = tables.markdown(
        shown,
        "A step between virtual hosts, against one without communication and against default DDP.",
        {"machine": "machine", "link": "link", "setting": "setting", "num_devices": "hosts"}
        | {
            "runs": "runs",
            "ratio": "over no communication",
            "added": "seconds added, at full speed",
        }
        | {"over_plain": "over default DDP"},
    )
    text += tables.markdown(
        alone[(alone["bytes"] == alone["bytes"].max()) & alone["over_rate"].notna()],
        "An all-reduce of all gradients alone, over 2(n-1)/n x bytes / rate.",
        {"network": "link", "ranks": "hosts", "over_rate": "ratio"},
    )
    several = "machines as above" if network["machine"].nunique() > 1 else ""
    note = figures.make_title(sessions[0], runs, several)
    cost = {"communication_cost": draw_cost(network, note)}
    return tables.Study({"network": network, "all_reduce": alone}, text, cost)
