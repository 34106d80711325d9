"""The original study's claims against its own data and against the measurements here.

    python claims.py        # writes claims.csv: claim, what its data say, what was seen here

Reads published_results.csv (the re-analysis of the original study's rows: median step time of the
slowest rank, 95 % interval, images that were really in a step), the summary of time-sliced devices,
and memory.csv (gpu/predict_memory.py --output). Verdicts follow from intervals; where they cannot
decide, the verdict says so.
"""

import sys
from pathlib import Path

import pandas as pd

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "common"))
import results as r  # noqa: E402  (found on the path of the line before)

BATCH = 32  # of the claim about strong scaling
CARD = 10.91  # GiB, from the out-of-memory message of the original study


def published(device: str) -> pd.DataFrame:
    """The original study's configurations of a device, with rates and their intervals in img/s."""
    rows = pd.read_csv(HERE / "published_results.csv")
    rows = rows[rows["device"] == device].set_index("num_devices")
    times = {"rate": "median_step_time_s", "rate_low": "ci_high", "rate_high": "ci_low"}
    return rows.assign(**{k: rows["images_per_step"] / rows[v] for k, v in times.items()})


def ratio(rows: pd.DataFrame, over: int, under: int) -> list[float]:
    """Ratio of two rates, and the range that their intervals allow."""
    pairs = (("rate", "rate"), ("rate_low", "rate_high"), ("rate_high", "rate_low"))
    return [rows.loc[over, a] / rows.loc[under, b] for a, b in pairs]


def linear(rows: pd.DataFrame) -> tuple[str, str]:
    """Speed-ups against the fewest devices, and whether they are linear to 7 devices."""
    base = rows.index[0]
    gains = {n: [x * base / n for x in ratio(rows, n, base)] for n in rows.index[1:]}
    most = dict.fromkeys(gains, 1.0)
    if "efficiency" in rows:  # within rounds; the device with the most images bounds it
        gains = {n: [rows.loc[n, f"efficiency{end}"] for end in r.ENDS] for n in gains}
        most = {n: BATCH / n / -(-BATCH // n) for n in gains}
    text = ", ".join(f"{gain[0]:.2f} on {n}" for n, gain in gains.items())
    below = [n for n, gain in gains.items() if gain[2] < most[n] and n <= 7]
    bound = "1" if set(most.values()) == {1.0} else "what the split allows"
    verdict = f"No: below {bound} on {', '.join(map(str, below))}" if below else "Not refuted"
    if max(rows.index) < 7:
        verdict = f"Open: not measured beyond {max(rows.index)} cores"
    return f"Efficiency against {base}: {text or 'one count alone'}", verdict


def slower(rows: pd.DataFrame) -> tuple[str, str]:
    """Whether 8 devices are slower than 7."""
    if not {7, 8} <= set(rows.index):
        return "Not measured", "Open"
    seven, eight = rows.loc[7], rows.loc[8]
    text = f"{r.interval_text(eight, 'rate')} on 8, {r.interval_text(seven, 'rate')} on 7"
    if eight["rate_high"] < seven["rate_low"]:
        return text, "Yes"
    return text, "No" if eight["rate_low"] > seven["rate_high"] else "Not decided"


def loading(rows: pd.DataFrame, shortest: float = 0.0) -> tuple[str, str]:
    """Loading of a step by device count, and whether it is constant beyond 2; less than the
    shortest time that can be told (s) counts as that."""
    text = ", ".join(f"{'under ' * (time < shortest)}{1000 * max(time, shortest):.0f} on {n}"
                     for n, time in rows["loading"].items())
    if max(rows.index) < 4 or 2 not in rows.index:
        return f"Loading of a step (ms): {text}", f"Open: not measured beyond {max(rows.index)}"
    beyond = rows.loc[rows.index > 2, "loading"]
    verdict = "No: it falls" if beyond.iloc[-1] < 0.75 * rows.loc[2, "loading"] else "Not refuted"
    if beyond.max() < shortest:
        verdict = "Not decided: less than a throttling period beyond 2"
    return f"Loading of a step (ms): {text}", verdict


def super_linear(gpus: pd.DataFrame) -> tuple[str, str]:
    texts, beyond = [], False
    for batch, rows in gpus[gpus["total_batch"] < 128].groupby("total_batch"):
        gains = {n: ratio(rows, n, 1) for n in rows.index if n > 1}
        beyond = beyond or any(gain[1] > n for n, gain in gains.items())
        texts.append(f"batch {batch}: {' and '.join(f'{gain[0]:.2f}' for gain in gains.values())}")
    verdict = "Yes" if beyond else "No: no speed-up is above the number of GPUs"
    return f"Speed-ups on 2 and 3 GPUs, {'; '.join(texts)}", verdict


def best_counts(gpus: pd.DataFrame) -> tuple[str, str]:
    best = {}
    for batch, rows in gpus.groupby("total_batch"):
        top = rows.loc[rows["rate"].idxmax()]
        best[batch] = sorted(rows.index[rows["rate_high"] >= top["rate_low"]])
    text = "; ".join(f"{batch}: {' or '.join(map(str, counts))}" for batch, counts in best.items())
    fewest = [min(counts) for counts in best.values()]
    tied = any(len(counts) > 1 for counts in best.values())
    verdict = ("Partly: ties at some" if tied else "Yes") if fewest[-1] > fewest[0] else "No"
    if verdict != "No" and fewest != sorted(fewest):
        verdict = "Not decided: the fewest of these do not grow with each batch"
    return f"GPUs that its intervals leave as the best, batch {text}", verdict


def memory(path: Path) -> tuple[str, str]:
    """What is predicted for the original's card; it needs no GPU for that."""
    needs = pd.read_csv(path).set_index(["way", "batch_size", "num_devices"])["predicted_gib"]
    ways = {way: needs[way, 128, 1] for way in needs.index.get_level_values(0).unique()}
    text = ", ".join(f"{way} {need:.2f}" for way, need in ways.items())
    fits = [way for way, need in ways.items() if need <= CARD]
    verdict = f"only without {', '.join(fits)}" if fits else "yes"
    return f"Predicted GiB: {text}", f"By the prediction {'no' if 'plain' in fits else verdict}"


def main() -> None:
    try:
        shares = HERE.parent / "cpu" / "studies" / "shares"
        summary = pd.read_csv(shares / "plots" / "summary.csv")
        here = summary[(summary["mode"] == "ddp") & (summary["model"] == "densenet121")
                       & summary["cpu_share"].notna() & (summary["scaling"] == "strong")
                       & (summary["batch_size"] == BATCH) & summary["options"].isna()]
        here = here.set_index("num_devices").sort_index()
        period = float(r.read_environment(shares / "runs")["cpu_period_ms"]) / 1000
        predicted = memory(HERE / "memory.csv")
    except OSError as error:
        sys.exit(f"error: {error.filename}: {error.strerror}: run make report")
    cpu, gpu, none = published("cpu"), published("gpu"), ("No GPU was available", "Open")
    rows = [
        ("CPU throughput grows linearly to 7 cores", *linear(cpu.loc[2:]), *linear(here)),
        ("8 cores are slower than 7", *slower(cpu), *slower(here)),
        ("Loading time is constant beyond 2 cores", "Not in its published table", "--",
         *loading(here, period)),
        ("Several GPUs gain more than linearly", *super_linear(gpu), *none),
        ("Larger batches need more GPUs", *best_counts(gpu), *none),
        ("Batch 128 needs at least 2 GPUs", f"Out of memory on a card of {CARD} GiB", "Yes",
         *predicted),
    ]
    head = ["claim", "its_data", "its_verdict", "here", "verdict"]
    pd.DataFrame(rows, columns=head).to_csv(HERE / "claims.csv", index=False)


if __name__ == "__main__":
    main()
