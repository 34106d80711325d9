"""The original study's claims against its own data and against the measurements here.

    python claims.py        # writes claims.csv: claim, what its data say, what was seen here

Reads data/original_study.csv (the re-analysis of the original study's rows: median step time of the
slowest rank, 95 % interval, images that were really in a step), the curve of the study shares, and
memory.csv (gpu/predict_memory.py --output). Verdicts follow from intervals; where they cannot
decide, the verdict says so.
"""

import sys
from pathlib import Path

import pandas as pd

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "common"))
import results  # noqa: E402  (found on the path of the line before)
from tables import interval_text  # noqa: E402

BATCH = 32  # of the claim about strong scaling
CARD = 10.91  # GiB, from the out-of-memory message of the original study
Verdict = tuple[str, str]  # what the data say, and what follows


def published(device: str) -> pd.DataFrame:
    """The original study's configurations of a device, by their number of devices."""
    path = HERE.parent / "data" / "original_study.csv"
    return results.read_original(path, device).set_index("num_devices")


def gains_over(rows: pd.DataFrame, base: int) -> pd.DataFrame:
    """Ratios to the rate of so many devices, and the range that the intervals allow."""
    under, over = rows.loc[base], rows[rows.index > base]
    return pd.DataFrame(
        {
            "gain": over["rate"] / under["rate"],
            "gain_low": over["rate_low"] / under["rate_high"],
            "gain_high": over["rate_high"] / under["rate_low"],
        }
    )


def linear_published(rows: pd.DataFrame) -> Verdict:
    """Whether the original's speed-up is linear to 7 cores, against 2."""
    gains = gains_over(rows, 2).mul(2 / rows.index[rows.index > 2].to_numpy(), axis=0)
    below = [n for n, row in gains.iterrows() if row["gain_high"] < 1 and n <= 7]
    verdict = f"No: efficiency below 1 on {', '.join(map(str, below))}" if below else "Not refuted"
    return f"Efficiency against 2: {first_and_last(gains['gain'])}", verdict


def first_and_last(efficiency: pd.Series) -> str:
    """By number of devices: on the fewest and on the most."""
    ends = [f"{efficiency.iloc[place]:.2f} on {efficiency.index[place]}" for place in (0, -1)]
    return " and ".join(ends)


def linear_here(rows: pd.DataFrame) -> Verdict:
    """Whether the curve reaches what the split allows, which the most loaded device bounds."""
    rows = rows[rows.index > 1]
    below = []
    for devices, row in rows[rows.index <= 7].iterrows():
        if row["efficiency_high"] < BATCH / devices / -(-BATCH // devices):
            below.append(str(devices))
    verdict = f"No: below what the split allows on {', '.join(below)}" if below else "Not refuted"
    return f"Efficiency against 1: {first_and_last(rows['efficiency'])}", verdict


def slower(rows: pd.DataFrame, name: str = "rate", unit: str = "img/s") -> Verdict:
    """Whether 8 devices are slower than 7."""
    seven, eight = rows.loc[7], rows.loc[8]
    text = f"{interval_text(eight, name)} {unit} on 8, {interval_text(seven, name)} on 7"
    if eight[f"{name}_high"] < seven[f"{name}_low"]:
        return text, "Yes"
    return text, "No" if eight[f"{name}_low"] > seven[f"{name}_high"] else "Not decided"


def on_emulated(verdict: Verdict) -> Verdict:
    """What emulated devices cannot say of real cores, which compete for memory."""
    return verdict[0], f"Not measured on real cores; on emulated devices: {verdict[1].lower()}"


def loading(rows: pd.DataFrame, shortest: float) -> Verdict:
    """Loading of a step by device count, and whether it is constant beyond 2; less than the
    shortest time that can be measured (s) counts as that."""
    words = []
    for devices in (2, rows.index.max()):
        seconds = rows.loc[devices, "loading"]
        below = "under " if seconds < shortest else ""
        words.append(f"{below}{1000 * max(seconds, shortest):.0f} ms on {devices}")
    text = f"Loading of a step, of slowed devices: {', '.join(words)}"
    beyond = rows.loc[rows.index > 2, "loading"]
    if beyond.max() < shortest:
        return text, f"Too small to measure (< {1000 * shortest:.0f} ms) beyond 2"
    falls = beyond.iloc[-1] < 0.75 * rows.loc[2, "loading"]
    return text, "No: it falls, as each loads fewer images" if falls else "Not refuted"


def super_linear(gpus: pd.DataFrame) -> Verdict:
    """Whether a speed-up is above the number of GPUs."""
    texts, beyond = [], False
    for batch, rows in gpus[gpus["total_batch"] < 128].groupby("total_batch"):
        gains = gains_over(rows, 1)
        beyond = beyond or (gains["gain_low"] > gains.index).any()
        texts.append(f"batch {batch}: {' and '.join(gains['gain'].map('{:.2f}'.format))}")
    verdict = "Yes" if beyond else "No: no speed-up is above the number of GPUs"
    return f"Speed-ups on 2 and 3 GPUs, {'; '.join(texts)}", verdict


def best_counts(gpus: pd.DataFrame) -> Verdict:
    """Whether the GPU counts that intervals leave as the best grow with the batch."""
    fewest, texts, tied = [], [], False
    for batch, rows in gpus.groupby("total_batch"):
        top = rows.loc[rows["rate"].idxmax()]
        best = sorted(rows.index[rows["rate_high"] >= top["rate_low"]])
        texts.append(f"{batch}: {' or '.join(map(str, best))}")
        fewest.append(best[0])
        tied = tied or len(best) > 1
    text = f"The best number, as far as intervals tell, batch {'; '.join(texts)}"
    if fewest[-1] <= fewest[0]:
        return text, "No"
    if fewest != sorted(fewest):
        return text, "Not decided: the best numbers overlap"
    return text, "Partly: ties at some" if tied else "Yes"


def memory(path: Path) -> Verdict:
    """What is predicted for the original's card; it needs no GPU for that."""
    needs = pd.read_csv(path).query("batch_size == 128 and num_devices == 1")
    needs = needs.set_index("way")["predicted_gib"]
    text = ", ".join(f"{way} {need:.2f}" for way, need in needs.items())
    fits = list(needs.index[needs <= CARD])
    only = f"Only in plain fp32 on its card: one is enough with {', '.join(fits)}"
    verdict = only if fits else "Yes"
    verdict = "No" if "plain" in fits else verdict
    return f"Predicted GiB: {text}", f"{verdict} (predicted)"


def main() -> None:
    study = HERE.parent / "cpu" / "studies" / "shares"
    try:
        here = pd.read_csv(study / "plots" / "curve.csv")
        period = float(results.read_environment(study / "runs")["cpu_period_ms"]) / 1000
        predicted = memory(HERE / "memory.csv")
    except OSError as error:
        sys.exit(f"error: {error.filename}: {error.strerror}: run make plots report")
    here = here.query(f"kind == 'strong' and batch_size == {BATCH}").set_index("num_devices")
    cpu, gpu, none = published("cpu"), published("gpu"), ("No GPU was available", "Not measured")
    gains = slower(here, "speedup", "times as fast as one")
    linear = "CPU throughput grows linearly to 7 cores"
    rows = [
        (linear, *linear_published(cpu), *linear_here(here)),
        ("8 cores are slower than 7", *slower(cpu), *on_emulated(gains)),
        (
            "Loading time is constant beyond 2 cores",
            "Its table has no loading times",
            "Not published",
            *loading(here, period),
        ),
        ("Several GPUs gain more than linearly", *super_linear(gpu), *none),
        ("Larger batches need more GPUs", *best_counts(gpu), *none),
        (
            "Batch 128 needs at least 2 GPUs",
            f"Out of memory on a card of {CARD} GiB",
            "Yes",
            *predicted,
        ),
    ]
    head = ["claim", "its_data", "its_verdict", "here", "verdict"]
    pd.DataFrame(rows, columns=head).to_csv(HERE / "claims.csv", index=False)


if __name__ == "__main__":
    main()
