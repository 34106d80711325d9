"""What communication costs in a virtual cluster, by hosts, link rate and how DDP is set.

    python plot.py                # runs_own if it is there, else runs

The cost of communication is the step over the same step without communication, in the same rounds:
what is exposed after backward, and what the hidden transfer takes from the core that computes.
Writes communication_cost (.png, .pdf), summary.csv, network.csv, all_reduce.csv (the all-reduce
alone, on whole cores and links, by its bytes, hosts and link) and answers.md.
"""

import re
import sys
from pathlib import Path

import pandas as pd

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[2] / "common"))
import figures as f  # noqa: E402  (found on the path of the line before)
import results as r  # noqa: E402
from figures import plt  # noqa: E402

PLAIN = "DDP as it is"


def bits_per_second(network: str) -> float:
    """The rate that tc's name of it means; unshaped is infinite."""
    found = re.fullmatch(r"([\d.]+)([mg])bit", network)
    return float(found[1]) * {"m": 1e6, "g": 1e9}[found[2]] if found else float("inf")


def rate_text(network: str, share: str) -> str:
    """A link's rate at full speed, and as slowed as the hosts are."""
    if not share or network == "unshaped":
        return network
    return f"{network} at full speed = {bits_per_second(network) * float(share) / 1e6:g} Mbit here"


def network_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Per number of hosts, link and setting: the step, its ratio to the one without communication
    in the same rounds, and what it is made of (s); raises ResultsError if there is none."""
    network = runs["options"].str.extract(r"network=([\w.]+)", expand=False)
    runs = runs.assign(network=network).drop_duplicates([*r.ROUND, *set(r.KEY) - {"scaling"}])
    runs, table = runs[network.notna()], []
    key = ["num_devices", "batch_size", "network", "bucket_cap_mb", "options", "cpu_share"]
    for values, own in runs[runs["mode"] == "ddp"].groupby(key):
        row = dict(zip(key, values, strict=True))
        alone = runs[(runs["mode"] == "no_communication")
                     & (runs["num_devices"] == row["num_devices"])
                     & (runs["batch_size"] == row["batch_size"])]
        if alone.empty:
            continue
        bf16 = "gradients=bf16" in row.pop("options")
        names = [f"{row['bucket_cap_mb']} MB buckets"] * bool(row["bucket_cap_mb"])
        row |= {"setting": " + ".join([*names, *["bf16 gradients"] * bf16]) or PLAIN,
                "runs": len(own), "bits": bits_per_second(row["network"])}
        row |= r.named_interval("step_time", r.median_interval(own["step_time"]))
        row |= r.named_interval("ratio", r.paired_interval(own, alone, "step_time"))
        plain = runs[(runs["mode"] == "ddp") & (runs["bucket_cap_mb"] == "")
                     & ~runs["options"].str.contains("gradients=")
                     & (runs["num_devices"] == row["num_devices"])
                     & (runs["batch_size"] == row["batch_size"])
                     & (runs["network"] == row["network"])]
        row |= r.named_interval("over_plain", r.paired_interval(own, plain, "step_time"))
        for name in ("transfer", "waiting"):
            row |= r.named_interval(name, r.mean_interval(own[name]))
        slowed = (r.by_round(own, "backward") - r.by_round(alone, "backward")).dropna()
        table.append(row | r.named_interval("slowed", r.mean_interval(slowed)))
    if not table:
        raise r.ResultsError("no runs over a network, or none without communication")
    return pd.DataFrame(table).sort_values(["bits", "num_devices", "setting"], ignore_index=True)


def all_reduce_table(times: pd.DataFrame) -> pd.DataFrame:
    """The all-reduce alone: median seconds; algorithm and bus bandwidth (bytes/s) as nccl-tests
    define them, bytes / time and 2(n-1)/n of it, which a ring cannot raise above the link's; the
    time against 2(n-1)/n x bytes / rate; the latency of one of its 2(n-1) messages; and the median
    seconds by occasion."""
    table = []
    for (network, ranks, size), own in times.groupby(["network", "ranks", "bytes"]):
        seconds, sent = r.median_interval(own["seconds"]), 2 * (ranks - 1) / ranks
        row = {"network": network, "ranks": ranks, "bytes": size, "repeats": len(own),
               "by_occasion": " and ".join(
                   f"{median:.3f}" for median in own.groupby("occasion")["seconds"].median())}
        at_rate = 8 * sent * size / bits_per_second(network)
        for name, values in (
            ("seconds", seconds), ("message", [t / (2 * (ranks - 1)) for t in seconds]),
            ("algorithm_bandwidth", [size / seconds[i] for i in (0, 2, 1)]),
            ("bus_bandwidth", [sent * size / seconds[i] for i in (0, 2, 1)]),
            ("over_rate", [t / at_rate if at_rate else float("nan") for t in seconds])):
            row |= r.named_interval(name, values)
        table.append(row)
    return pd.DataFrame(table)


def communication_cost(table: pd.DataFrame, title: str, output: Path) -> None:
    """By hosts, how much longer a step is than without communication: a panel for each link rate,
    a line for each setting; hollow, of the step, what is exposed. The panels' scales differ."""
    networks, settings = (list(table[name].unique()) for name in ("network", "setting"))
    figure, panels = plt.subplots(1, len(networks), layout="constrained",
                                  squeeze=False, figsize=(9.6, 4.2))
    for axes, network in zip(panels[0], networks, strict=True):
        own = table[table["network"] == network]
        for place, setting in enumerate(settings):
            line = own[own["setting"] == setting]
            hosts, bars = line["num_devices"] + 0.12 * (place - 1), f.error_bars(line, "ratio")
            axes.errorbar(hosts, 100 * (line["ratio"] - 1), [100 * bar for bar in bars], marker="o",
                          capsize=3, markersize=5, color=f.COLOURS[place], label=setting)
            axes.plot(hosts, 100 * line["transfer"] / (line["step_time"] / line["ratio"]), ":o",
                      color=f.COLOURS[place], markerfacecolor="white", markersize=5)
        axes.axhline(0, color="#444444", linewidth=0.8)
        axes.set(xlabel="hosts, 4 images each", xticks=sorted(table["num_devices"].unique()))
        axes.set_title(rate_text(network, own["cpu_share"].iloc[0]).replace(" = ", "\n= "),
                       fontsize=9)
    panels[0][0].set_ylabel("longer than a step without\ncommunication (%)")
    widest = max(panels[0], key=lambda axes: len(axes.get_legend_handles_labels()[1]))
    figure.legend(*widest.get_legend_handles_labels(), loc="outside lower center",
                  ncols=len(settings), title="filled: the step; hollow: what is exposed of it")
    figure.suptitle(title, fontsize=10)
    f.save(figure, output / "communication_cost")


def answers(table: pd.DataFrame, alone: pd.DataFrame) -> list[str]:
    lines = []
    for network, own in table.groupby("network", sort=False):
        for setting, line in own.groupby("setting", sort=False):
            link = rate_text(network, line["cpu_share"].iloc[0])
            said = []
            for name in ("ratio", *["over_plain"] * (setting != PLAIN)):
                said.append(", ".join(f"{r.interval_text(row, name)} on {row['num_devices']} hosts"
                                      for _, row in line.iterrows()))
            lines.append(f"- **Virtual cluster, link {link}, {setting}**: a step over one without "
                         f"communication {f'; over {PLAIN} '.join(said)}.")
    shaped = alone[(alone["bytes"] == alone["bytes"].max()) & alone["over_rate"].notna()]
    ratios = [f"{r.interval_text(row, 'over_rate')} on {row['ranks']} hosts at {row['network']}"
              for _, row in shaped.iterrows()]
    return [*lines, "- **All-reduce of all gradients alone**, over 2(n-1)/n x bytes / rate: "
            f"{', '.join(ratios)}."]


def draw(args, rows, runs, table, skipped, title: str) -> tuple[dict, list[str]]:
    network = network_table(runs)
    communication_cost(network, title, args.output)
    alone = all_reduce_table(pd.concat(
        [pd.read_csv(folder / "all_reduce.csv").assign(occasion=number)
         for number, folder in enumerate(args.folders)]))
    return {"network": network, "all_reduce": alone}, answers(network, alone)


if __name__ == "__main__":
    f.plot_results(__doc__, HERE / "runs", draw)
