"""A model of the step time over n devices, fitted on some configurations and tested on others.

    python scaling_model.py      # after plot_cpu_results.py and plot_network_results.py

step(n, b) = compute of the slowest of n devices at the local batch b
           + exposed all-reduce + what the hidden transfer takes from the computing core

- compute: median step of ranks that do not talk; the slowest of n by drawing n of their measured
  spreads about it (waiting).
- exposed: DDP's buckets in the order in which backward makes the gradients, sent one after the
  other; each takes latency + 2(n-1)/n x bytes / bandwidth, both from the all-reduce alone.
- slowed: seconds of the core a byte; the one number that is fitted on steps, those of FITTED.

Reads cpu/cpu_plots_network/summary.csv, the rows, all_reduce.csv and gradients.csv. Writes
predicted_vs_measured and scaling_prediction (.png, .pdf) and scaling.tex (numbers) beside itself.
"""

import sys
from pathlib import Path

import matplotlib
import matplotlib.ticker
import numpy as np
import pandas as pd

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  (the backend comes first)

HERE = Path(__file__).resolve().parent
CPU = HERE.parent / "cpu"
MIB = 2**20
FITTED = {("unshaped", 8, "1"), ("10gbit", 8, ""), ("100mbit", 8, "25")}  # network, batch, buckets
LINKS = {"1 Gbit": (1e9, "#D55E00"), "10 Gbit": (1e10, "#0072B2"), "100 Gbit": (1e11, "#009E73")}
DEVICES = 2 ** np.arange(11)
STRONG_BATCH, WEAK_BATCH = 1024, 16  # images: all devices together; a device
STYLE = {"figure.figsize": (9, 4), "savefig.dpi": 150, "savefig.bbox": "tight", "font.size": 10,
         "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
         "axes.axisbelow": True, "grid.alpha": 0.3, "pdf.fonttype": 42, "legend.frameon": False,
         "legend.fontsize": 8.5}  # fmt: skip


def bucket_plan(gradients: pd.DataFrame, cap: str) -> list[tuple[int, float]]:
    """DDP's buckets: bytes, and the share of backward that is over when the bucket is full.

    A bucket is closed when it holds its cap or more; without a cap given, the first one's is 1 MiB
    and the others' 25 (torch.nn.parallel.DistributedDataParallel, bucket_cap_mb).
    """
    caps = [int(cap) * MIB] if cap else [MIB, 25 * MIB]
    buckets, held = [], 0
    for size, share in zip(gradients["bytes"], gradients["share_of_backward"], strict=True):
        held += size
        if held >= caps[min(len(buckets), len(caps) - 1)]:
            buckets.append((held, share))
            held = 0
    return buckets + ([(held, gradients["share_of_backward"].iloc[-1])] if held else [])


def exposed_time(plan, backward: float, devices: int, latency: float, bandwidth: float) -> float:
    """Seconds between the end of backward and that of the last all-reduce, over a ring.

    latency is that of one message, of which a ring's all-reduce has 2(n-1); bandwidth in bytes/s.
    """
    if devices == 1:
        return 0.0
    done = 0.0
    for size, share in plan:
        messages = 2 * (devices - 1)
        done = max(done, share * backward)
        done += messages * latency + messages / devices * size / bandwidth
    return max(0.0, done - backward)


def link(all_reduce: pd.DataFrame, network: str) -> tuple[float, float]:
    """Latency of a message (s) and bandwidth (bytes/s) of a network, from the all-reduce alone.

    Two ranks exchange 2 messages of half the bytes: the same bytes in all. The latency is from the
    shortest time of the smallest: most are longer by up to the 4 ms of a scheduler's tick, which
    is not the network's.
    """
    times = all_reduce[all_reduce["network"] == network].groupby("bytes")["seconds"]
    sizes, medians = sorted(times.groups), times.median()
    bandwidth = (sizes[-1] - sizes[-2]) / (medians[sizes[-1]] - medians[sizes[-2]])
    return times.min()[sizes[0]] / 2, bandwidth


def measured_steps(folder: Path) -> pd.DataFrame:
    """The rows of all timed steps below a folder of results."""
    rows = [pd.read_csv(path, keep_default_na=False) for path in folder.rglob("times_run*.csv")]
    rows = pd.concat(rows, ignore_index=True)
    rows["network"] = rows["options"].str.extract(r"network=([^;]*)", expand=False)
    return rows[rows["warmup"] == 0]


def slowest_of(steps: np.ndarray, devices: int) -> float:
    """Expected largest of n draws from relative step times: what waiting adds to a device's own."""
    ordered = np.sort(steps / np.median(steps))
    ranks = np.arange(1, len(ordered) + 1) / len(ordered)
    weights = np.diff(np.concatenate([[0.0], ranks**devices]))
    return float((ordered * weights).sum())


class Model:
    """What a step takes, from what was measured; seconds and bytes."""

    def __init__(self, steps: pd.DataFrame, all_reduce: pd.DataFrame, gradients: pd.DataFrame):
        alone = steps[steps["mode"] == "no_communication"]
        alone = alone.assign(own=alone["batch_size"] // alone["num_devices"])
        self.compute = alone.groupby("own")["step_time"].median()
        self.backward = alone.groupby("own")["backward_time"].median()
        median = alone.groupby("own")["step_time"].transform("median")
        self.spread = (alone["step_time"] / median).to_numpy()
        self.gradients, self.slowed_a_byte = gradients, 0.0
        self.links = {name: link(all_reduce, name) for name in all_reduce["network"].unique()}

    def parts(self, devices: int, own: float, cap: str, latency: float, bandwidth: float):
        """Compute of the slowest device, exposed and slowing communication of a step, in s."""
        compute = self.at(self.compute, own) * slowest_of(self.spread, devices)
        plan = bucket_plan(self.gradients, cap)
        exposed = exposed_time(plan, self.at(self.backward, own), devices, latency, bandwidth)
        moved = sum(size for size, _ in plan) * 2 * (devices - 1) / devices
        return compute, exposed, self.slowed_a_byte * moved

    @staticmethod
    def at(times: pd.Series, own: float) -> float:
        """A time at a local batch: straight lines between measured ones, in proportion beyond."""
        least, most = times.index[0], times.index[-1]
        if least <= own <= most:
            return float(np.interp(own, times.index, times))
        edge = least if own < least else most
        return float(times[edge] * own / edge)

    def fit(self, table: pd.DataFrame) -> None:
        """slowed_a_byte from the median of what the fitted steps take beyond the other parts."""
        beyond, moved = [], self.gradients["bytes"].sum()
        for _, row in table.iterrows():
            parts = self.parts(2, row["batch_size"] / 2, row["cap"], *self.links[row["network"]])
            beyond.append((row["step_time"] - sum(parts)) / moved)
        self.slowed_a_byte = max(0.0, float(np.median(beyond)))


def compare(model: Model, table: pd.DataFrame, alone: pd.DataFrame) -> pd.DataFrame:
    """Measured and predicted step, and the communication's share of either: what it costs beyond
    the measured step without communication. It is decided where the intervals do not overlap."""
    rows = []
    for _, row in table.iterrows():
        own = row["batch_size"] / row["num_devices"]
        predicted = sum(model.parts(
            row["num_devices"], own, row["cap"], *model.links[row["network"]]
        ))  # fmt: skip
        without = alone.loc[row["batch_size"]]
        rows.append({
            "network": row["network"], "batch": row["batch_size"], "buckets": row["cap"],
            "fitted": (row["network"], row["batch_size"], row["cap"]) in FITTED,
            "measured": row["step_time"], "low": row["step_time_low"],
            "high": row["step_time_high"], "predicted": predicted,
            "share_measured": 1 - without["step_time"] / row["step_time"],
            "share_predicted": 1 - without["step_time"] / predicted,
            "decided": row["step_time_low"] > without["step_time_high"],
        })  # fmt: skip
    rows = pd.DataFrame(rows)
    return rows.assign(error=rows["predicted"] / rows["measured"] - 1)


def predicted_vs_measured(rows: pd.DataFrame) -> None:
    """Steps and the communication's shares, predicted against measured; fitted ones are hollow."""
    figure, (left, right) = plt.subplots(1, 2, layout="constrained")
    for fitted, rest in rows.groupby("fitted"):
        look = {"fmt": "o", "color": "#0072B2", "markersize": 5, "capsize": 2,
                "markerfacecolor": "white" if fitted else "#0072B2",
                "label": "fitted on" if fitted else "held out"}  # fmt: skip
        errors = [rest["measured"] - rest["low"], rest["high"] - rest["measured"]]
        left.errorbar(rest["predicted"], rest["measured"], errors, **look)
        right.errorbar(100 * rest["share_predicted"], 100 * rest["share_measured"], **look)
    ends = [0.9 * rows[["measured", "predicted"]].min(axis=None),
            1.1 * rows[["measured", "predicted"]].max(axis=None)]  # fmt: skip
    left.plot(ends, ends, ":", color="#444444", label="equal")
    left.fill_between(ends, [0.8 * x for x in ends], [1.2 * x for x in ends], alpha=0.12,
                      color="#444444", linewidth=0, label="20 % either way")  # fmt: skip
    left.set(xscale="log", yscale="log", xlabel="predicted step (s)", ylabel="measured step (s)")
    for axis in (left.xaxis, left.yaxis):
        axis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 3, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_locator(matplotlib.ticker.NullLocator())
    right.axline((0, 0), slope=1, linestyle=":", color="#444444")
    right.set(xlabel="predicted cost of communication (% of step)",
              ylabel="measured cost of communication (% of step)")  # fmt: skip
    left.legend()
    save(figure, "predicted_vs_measured")


def scaling_prediction(model: Model, uncertainty: float) -> None:
    """Efficiency to 1024 devices, strong and weak, on three links: on paper."""
    figure, panels = plt.subplots(1, 2, sharey=True, layout="constrained")
    latency = model.links["1gbit"][0]
    efficient = model.links["1gbit"][1] / (1e9 / 8)  # what the link carries of its nominal rate
    for axes, strong in zip(panels, (True, False), strict=True):
        for name, (bits, colour) in LINKS.items():
            for cap, line in (("", "-"), ("25", "--")):
                own = STRONG_BATCH / DEVICES if strong else np.full(len(DEVICES), WEAK_BATCH)
                steps = np.array([
                    sum(model.parts(int(n), b, cap, latency, bits / 8 * efficient))
                    for n, b in zip(DEVICES, own, strict=True)
                ])  # fmt: skip
                efficiency = steps[0] / steps / (DEVICES if strong else 1)
                label = f"{name}, {'25 MB buckets' if cap else 'DDP as it is'}"
                axes.plot(DEVICES, efficiency, line, color=colour, label=label)
                if not cap:
                    off = np.where(DEVICES > 1, uncertainty, 0.0)
                    axes.fill_between(DEVICES, efficiency * (1 - off), efficiency * (1 + off),
                                      color=colour, alpha=0.12, linewidth=0)
        kind = f"strong: {STRONG_BATCH} images in all" if strong else f"weak: {WEAK_BATCH} a device"
        axes.set(xscale="log", xlabel="devices, one a host", title=f"predicted, {kind}")
        axes.set_xticks(DEVICES[::2], DEVICES[::2])
        axes.minorticks_off()
    panels[0].set(ylabel="efficiency a device (prediction)", ylim=(0, None))
    panels[1].legend(loc="lower left")
    figure.supxlabel(f"band: the largest error on held-out configurations, {100 * uncertainty:.0f} "
                     "% either way; nothing here beyond 2 devices was measured", fontsize=8.5)
    save(figure, "scaling_prediction")


def save(figure: plt.Figure, name: str) -> None:
    figure.savefig(HERE / f"{name}.png")
    figure.savefig(HERE / f"{name}.pdf", metadata={"CreationDate": None})
    plt.close(figure)


def write_numbers(rows: pd.DataFrame, model: Model) -> None:
    """LaTeX definitions: errors on held-out steps and shares, and what was fitted."""
    held = rows[~rows["fitted"]]
    talkative = held[held["decided"]]
    share_errors = (talkative["share_predicted"] / talkative["share_measured"] - 1).abs()
    points = (held["share_predicted"] - held["share_measured"]).abs()
    gbit = model.links["1gbit"]
    numbers = {
        "held": len(held), "fitted": int(rows["fitted"].sum()),
        "error-median": f"{100 * held['error'].abs().median():.1f}",
        "error-worst": f"{100 * held['error'].abs().max():.1f}",
        "share-median": f"{100 * share_errors.median():.0f}",
        "share-worst": f"{100 * share_errors.max():.0f}", "share-configurations": len(talkative),
        "share-points": f"{100 * points.max():.1f}",
        "slowed": f"{1000 * model.slowed_a_byte * model.gradients['bytes'].sum():.0f}",
        "gbit-efficiency": f"{100 * gbit[1] / (1e9 / 8):.0f}",
        "gbit-latency": f"{1e6 * gbit[0]:.0f}",
        "gradient-megabytes": f"{model.gradients['bytes'].sum() / 1e6:.1f}",
    }
    definitions = [
        rf"\expandafter\def\csname scaling/{name}\endcsname{{{text}}}"
        for name, text in numbers.items()
    ]
    (HERE / "scaling.tex").write_text(
        "\n".join(["% Written by scaling_model.py from the CSV files.", *definitions]) + "\n"
    )


def main() -> None:
    results, plots = CPU / "cpu_run_network", CPU / "cpu_plots_network"
    try:
        table = pd.read_csv(plots / "summary.csv", keep_default_na=False, na_values=[""])
        steps = measured_steps(results)
        all_reduce = pd.read_csv(results / "all_reduce.csv")
        gradients = pd.read_csv(results / "gradients.csv")
    except (OSError, ValueError) as error:
        print(f"error: {error}: run cpu/run_network_experiments.sh first", file=sys.stderr)
        sys.exit(2)
    alone = table[table["mode"] == "no_communication"].set_index("batch_size")
    table = table[(table["mode"] == "ddp") & ~table["options"].str.contains("ddp=")]
    table = table.assign(
        network=table["options"].str.extract(r"network=([^;]*)", expand=False),
        cap=table["bucket_cap_mb"].map(lambda cap: "" if pd.isna(cap) else f"{cap:g}"),
    )
    model = Model(steps, all_reduce, gradients)
    fitted = [tuple(row) in FITTED for row in table[["network", "batch_size", "cap"]].values]
    model.fit(table[fitted])
    rows = compare(model, table, alone)
    print(rows.round(3).to_string(index=False))
    with plt.rc_context(STYLE):
        predicted_vs_measured(rows)
        scaling_prediction(model, rows[~rows["fitted"]]["error"].abs().max())
    write_numbers(rows, model)


if __name__ == "__main__":
    main()
