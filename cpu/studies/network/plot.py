"""What communication costs over a shaped network, by link rate and by how DDP is set.

    python plot.py                # runs_own if it is there, else runs

The cost of communication is the step against the same step without communication: what is exposed
after backward, and what the hidden transfer takes from the core that computes. Writes
communication_cost (.png, .pdf), summary.csv, network.csv and all_reduce.csv: the all-reduce alone,
on whole cores and links, by its bytes, hosts and link.
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

EXPOSED, REST = f.PARTS["transfer"][0], f.PARTS["backward"][0]


def bits_per_second(network: str) -> float:
    """The rate that tc's name of it means; unshaped is infinite."""
    found = re.fullmatch(r"([\d.]+)([mg])bit", network)
    return float(found[1]) * {"m": 1e6, "g": 1e9}[found[2]] if found else float("inf")


def network_table(table: pd.DataFrame) -> pd.DataFrame:
    """The configurations that name a network, with what each costs beyond a step without
    communication of the same batch, in s; raises ResultsError if that was not measured."""
    options = table["options"].str.split(";")
    named = options.map(lambda words: dict(w.split("=", 1) for w in words if "=" in w))
    bf16 = named.str.get("gradients").map({"bf16": "bf16 gradients"})
    table = table.assign(network=named.str.get("network"),
                         ddp=named.str.get("ddp").fillna(bf16).fillna(""))
    table = table[table["network"].notna()]
    alone = table[table["mode"] == "no_communication"].set_index("batch_size")
    table = table[table["mode"] == "ddp"].copy()
    for name in ("step_time", "backward"):
        table[f"alone_{name}"] = table["batch_size"].map(alone[name])
    if table.empty or table["alone_step_time"].isna().any():
        raise r.ResultsError("no runs over a network, or none without communication")
    for end in r.ENDS:
        table[f"cost{end}"] = table[f"step_time{end}"] - table["alone_step_time"]
    table["slowed"] = table["backward"] - table["alone_backward"]
    table["setting"] = [
        " + ".join([f"{cap} MB buckets"] * bool(cap) + [ddp.replace("-", " ")] * bool(ddp))
        or "DDP as it is" for cap, ddp in zip(table["bucket_cap_mb"], table["ddp"], strict=True)
    ]
    return table.assign(bits=table["network"].map(bits_per_second)).sort_values(
        ["batch_size", "bits", "setting"], ignore_index=True)


def all_reduce_table(times: pd.DataFrame) -> pd.DataFrame:
    """The all-reduce alone: median seconds; algorithm and bus bandwidth (bytes/s) as nccl-tests
    define them, bytes / time and 2(n-1)/n of it, which a ring cannot raise above the link's; the
    time against 2(n-1)/n x bytes / rate; and the latency of one of its 2(n-1) messages."""
    table = []
    for (network, ranks, size), own in times.groupby(["network", "ranks", "bytes"]):
        seconds, sent = r.median_interval(own["seconds"]), 2 * (ranks - 1) / ranks
        row = {"network": network, "ranks": ranks, "bytes": size, "repeats": len(own)}
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
    """For each link rate, the cost of each setting: exposed, and the rest; interval of the step."""
    batch = table.groupby("batch_size")["setting"].nunique().idxmax()
    table = table[table["batch_size"] == batch]
    networks = table.drop_duplicates("network")["network"].tolist()
    settings = sorted(set(table["setting"]), reverse=True)
    figure, panels = plt.subplots(1, len(networks), sharey=True, layout="constrained",
                                  squeeze=False, figsize=(9.6, 5.2))
    for axes, network in zip(panels[0], networks, strict=True):
        own = table[table["network"] == network].set_index("setting").reindex(settings)
        exposed = own["transfer"]
        rest = (own["cost"] - exposed).clip(lower=0)
        axes.barh(settings, exposed, 0.6, color=EXPOSED, hatch="xx", edgecolor="white",
                  linewidth=0, label="exposed transfer")
        axes.barh(settings, rest, 0.6, exposed, color=REST,
                  label="the rest: slowed backward, waiting")
        axes.errorbar(own["cost"], settings, xerr=f.error_bars(own, "cost"), fmt="o",
                      color="#000000", markersize=4, capsize=3,
                      label="cost of the step: median, interval over runs")
        axes.axvline(0, color="#444444", linewidth=0.8)
        axes.set(title=network, xlabel="s per step")
    handles = panels[0][0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=3)
    figure.suptitle(
        f"Step beyond {table['alone_step_time'].iloc[0]:.2f} s without communication, "
        f"{table['num_devices'].iloc[0]} hosts, batch {batch}\n{title}", fontsize=10)
    f.save(figure, output / "communication_cost")


def draw(args, rows, runs, table, skipped, title: str) -> tuple[dict, list[str]]:
    network = network_table(table)
    with plt.rc_context({"axes.grid.axis": "x", "font.size": 9}):
        communication_cost(network, title, args.output)
    alone = all_reduce_table(pd.read_csv(args.results / "all_reduce.csv"))
    return {"network": network, "all_reduce": alone}, []


if __name__ == "__main__":
    f.plot_results(__doc__, HERE / "runs", draw)
