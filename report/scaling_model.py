"""A model of the step time over n devices, fitted on some configurations and tested on others.

    python scaling_model.py      # after cpu/studies/network/plot.py

step(n, b) = compute of the slowest of n devices at the local batch b
           + exposed all-reduce + what the hidden transfer takes from the computing core

- compute: median step of ranks without communication; the slowest of n by drawing n of their
  measured spreads about it (waiting).
- exposed: DDP's buckets in the order in which backward makes the gradients, sent one after the
  other; each takes latency + 2(n-1)/n x bytes / bandwidth, both from the all-reduce alone.
- slowed: seconds of the core per byte; the one number that is fitted on steps, those of FITTED.

Reads the network study's summary.csv, rows, all_reduce.csv and gradients.csv. Writes
predicted_vs_measured (.png, .pdf) and scaling.csv (its errors, and what was fitted) beside itself.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "common"))
import results as r  # noqa: E402  (found on the path of the line before)
from results import plt  # noqa: E402

STUDY = HERE.parent / "cpu" / "studies" / "network"
MIB = 2**20
FITTED = {("unshaped", 8, "1"), ("10gbit", 8, ""), ("100mbit", 8, "25")}  # network, batch, bucket


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
    """The error of each predicted step, against the measured step with its interval."""
    figure, axes = plt.subplots(figsize=(6.4, 3.2))
    for fitted, rest in rows.groupby("fitted"):
        errors = 100 * rest["error"]
        spread = [(100 * (rest["predicted"] / rest[end] - 1) - errors).abs() for end in
                  ("high", "low")]
        axes.errorbar(rest["measured"], errors, spread, fmt="o", color=r.COLOURS[0], capsize=2,
                      markerfacecolor="white" if fitted else r.COLOURS[0],
                      label="fitted on" if fitted else "held out")
    axes.axhline(0, linestyle=":", color="#444444")
    axes.set(xscale="log", xlabel="measured step (s)", ylabel="predicted step: error (%)")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.legend()
    r.save(figure, HERE / "predicted_vs_measured")


def numbers(rows: pd.DataFrame, model: Model) -> dict[str, str]:
    """Errors on held-out steps and on the communication's shares, and what was fitted."""
    held = rows[~rows["fitted"]]
    dear = held[held["decided"]]
    shares = (dear["share_predicted"] / dear["share_measured"] - 1).abs()
    points = (held["share_predicted"] - held["share_measured"]).abs()
    return {
        "held": len(held), "fitted": int(rows["fitted"].sum()),
        "error_median": f"{100 * held['error'].abs().median():.1f}",
        "error_worst": f"{100 * held['error'].abs().max():.1f}",
        "share_median": f"{100 * shares.median():.0f}", "share_configurations": len(dear),
        "share_worst": f"{100 * shares.max():.0f}", "share_points": f"{100 * points.max():.1f}",
        "slowed": f"{1000 * model.slowed_a_byte * model.gradients['bytes'].sum():.0f}",
        "gbit_efficiency": f"{100 * model.links['1gbit'][1] / (1e9 / 8):.0f}",
        "gradient_megabytes": f"{model.gradients['bytes'].sum() / 1e6:.1f}",
    }


def main() -> None:
    try:
        table = pd.read_csv(STUDY / "plots" / "summary.csv", keep_default_na=False, na_values=[""])
        steps = measured_steps(STUDY / "runs")
        all_reduce = pd.read_csv(STUDY / "runs" / "all_reduce.csv")
        gradients = pd.read_csv(STUDY / "runs" / "gradients.csv")
    except (OSError, ValueError) as error:
        print(f"error: {error}: run cpu/studies/network/run.sh and plot.py first", file=sys.stderr)
        sys.exit(2)
    alone = table[table["mode"] == "no_communication"].set_index("batch_size")
    table = table[(table["mode"] == "ddp") & ~table["options"].str.contains("ddp=|gradients=")]
    table = table.assign(
        network=table["options"].str.extract(r"network=([^;]*)", expand=False),
        cap=table["bucket_cap_mb"].map(lambda cap: "" if pd.isna(cap) else f"{cap:g}"),
    )
    model = Model(steps, all_reduce, gradients)
    fitted = [tuple(row) in FITTED for row in table[["network", "batch_size", "cap"]].values]
    model.fit(table[fitted])
    rows = compare(model, table, alone)
    print(rows.round(3).to_string(index=False))
    with plt.rc_context(r.STYLE):
        predicted_vs_measured(rows)
    pd.DataFrame([numbers(rows, model)]).to_csv(HERE / "scaling.csv", index=False)


if __name__ == "__main__":
    main()
