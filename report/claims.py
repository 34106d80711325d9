"""The original study's claims against its own data and against the measurements here.

    python claims.py        # writes claims.tex (numbers) and claims_rows.tex (a table's rows)

Reads published_results.csv (the re-analysis of the original study's rows: median step time of the
slowest rank, 95 % interval, images that were really in a step) and the summaries that the plotting
scripts wrote. Verdicts come from intervals; where they cannot decide, the verdict says so.
"""

import hashlib
import subprocess
import sys
from pathlib import Path

import pandas as pd

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent
CARD = "10.91"  # GiB, from the out-of-memory message of the original study


def published(device: str) -> pd.DataFrame:
    """The original study's configurations of a device, with rates and their intervals in img/s."""
    rows = pd.read_csv(HERE / "published_results.csv")
    rows = rows[rows["device"] == device].copy()
    rows["rate"] = rows["images_per_step"] / rows["median_step_time_s"]
    rows["low"] = rows["images_per_step"] / rows["ci_high"]
    rows["high"] = rows["images_per_step"] / rows["ci_low"]
    return rows


def summary(folder: str) -> pd.DataFrame:
    """A summary of the plotting scripts; empty when that was not measured."""
    path = REPOSITORY / folder / "summary.csv"
    return pd.read_csv(path, keep_default_na=True) if path.is_file() else pd.DataFrame()


def strong(table: pd.DataFrame) -> pd.DataFrame:
    """The data-parallel rows of the first strong series, by device count."""
    rows = table[(table["mode"] == "ddp") & (table["scaling"] == "strong")]
    return rows[rows["series"] == rows["series"].iloc[0]].set_index("num_devices").sort_index()


def told(row: pd.Series, name: str = "rate") -> str:
    return f"{row[name]:#.3g} [{row[name + '_low']:#.3g}, {row[name + '_high']:#.3g}]"


def apart(a: tuple[float, float], b: tuple[float, float]) -> bool:
    """Whether two intervals (low, high) do not overlap."""
    return a[1] < b[0] or b[1] < a[0]


def linear_claim(own: pd.DataFrame, here: pd.DataFrame) -> list[str]:
    rates = own.set_index("num_devices")["rate"]
    efficiency = [f"{100 * rates[n] / rates[2] * 2 / n:.0f}" for n in range(3, 9)]
    fall = 100 * (1 - rates[2] / rates[1])
    data = (f"No: 1 to 2 cores falls by {fall:.0f}\\,\\%, and against 2 cores the efficiency of 3 "
            f"to 8 is {', '.join(efficiency)}\\,\\%")
    most = here.iloc[-1]
    found = f"Efficiency at {here.index[-1]} cores: {told(most, 'efficiency')}"
    if here.index[-1] < 7:
        return [data, found, f"Open: not measured beyond {here.index[-1]} cores"]
    return [data, found, "No" if (here["efficiency_high"] < 1).any() else "Not refuted"]


def slower_claim(own: pd.DataFrame, here: pd.DataFrame) -> list[str]:
    seven, eight = (own[own["num_devices"] == n].iloc[0] for n in (7, 8))
    decided = apart((seven["low"], seven["high"]), (eight["low"], eight["high"]))
    rates = [f"{row['rate']:#.3g} [{row['low']:#.3g}, {row['high']:#.3g}]"
             for row in (seven, eight)]
    data = f"{'Decided' if decided else 'Not decided'}: {rates[0]} against {rates[1]} img/s"
    if not {7, 8} <= set(here.index):
        return [data, "Not measured", "Open"]
    seven, eight = here.loc[7], here.loc[8]
    if not apart((seven["rate_low"], seven["rate_high"]), (eight["rate_low"], eight["rate_high"])):
        verdict = "Not decided"
    else:
        verdict = "Yes" if eight["rate"] < seven["rate"] else "No"
    return [data, f"{told(seven)} against {told(eight)} img/s", verdict]


def loading_claim(here: pd.DataFrame) -> list[str]:
    each = 1000 * here["loading"] * here.index / here["batch_size"]
    found = ", ".join(f"{1000 * row['loading']:.0f} on {n}" for n, row in here.iterrows())
    found = (f"Loading of a step in ms on 1 to {here.index[-1]} cores: {found}; "
             f"{each.min():.1f} to {each.max():.1f} ms an image")
    open_to = here.index[-1]
    if open_to < 4:
        return ["No: it falls with the cores, and is constant an image", found,
                f"Open: not measured beyond {open_to} cores"]
    falls = here["loading"].iloc[-1] < 0.75 * here.loc[2, "loading"]
    return ["No: it falls with the cores, and is constant an image", found,
            "No" if falls else "Not refuted"]


def gpu_claims(own: pd.DataFrame) -> tuple[list[str], list[str]]:
    speedups, best = [], []
    for batch, rows in own.groupby("total_batch"):
        rows = rows.set_index("num_devices")
        if 1 in rows.index:
            gains = [f"{rows['rate'][n] / rows['rate'][1]:.2f}" for n in (2, 3)]
            speedups.append(f"batch {batch}: {' and '.join(gains)}")
        top = rows.loc[rows["rate"].idxmax()]
        tied = sorted(rows.index[rows["high"] >= top["low"]])
        best.append(f"{batch}: {' or '.join(map(str, tied))}")
    linear = f"No: speed-ups on 2 and 3 GPUs, {'; '.join(speedups)}"
    needs = f"Partly: GPUs that its intervals leave as the best, batch {'; '.join(best)}"
    return [linear, "No GPU was to be had", "Open"], [needs, "No GPU was to be had", "Open"]


def memory_claim() -> tuple[list[str], dict[str, str]]:
    """What the GPU script predicts for the original's card; it needs no GPU for that."""
    script = [sys.executable, str(REPOSITORY / "gpu" / "project_ex_2.py"), "--predict-memory"]
    needs = {}
    for name, options in {
        "plain": [], "bf16": ["--precision", "bf16"], "accumulate": ["--on-oom", "accumulate"],
        "checkpoint": ["--on-oom", "checkpoint"],
    }.items():
        done = subprocess.run([*script, "--gpu-memory", CARD, *options], check=True, text=True,
                              capture_output=True)
        table = {line.split()[0]: line.split() for line in done.stdout.splitlines() if line.strip()}
        needs[name] = table["128"][1]
        if name == "plain":
            needs["half"] = table["64"][1]
    data = "Its error message: 10.91 GiB in all, batch 128 did not fit"
    found = (f"Predicted, not measured: plain {needs['plain']} GiB; micro-batches "
             f"{needs['accumulate']}, bf16 {needs['bf16']}, recomputation {needs['checkpoint']}")
    fits = all(float(needs[n]) <= float(CARD) for n in ("bf16", "accumulate", "checkpoint"))
    plain_fits = float(needs["plain"]) <= float(CARD)
    verdict = "Only without these" if fits and not plain_fits else "See the numbers"
    return [data, found, verdict], {f"memory/{k}": v for k, v in needs.items()}


def protocol_numbers(here: pd.DataFrame, original: pd.DataFrame) -> dict[str, str]:
    """What the original's protocol reads on this machine, beside what is so."""
    most, same = here.iloc[-1], original.loc[here.index[-1]]
    split = {n: 32 // n * n for n in range(1, 9)}
    over = {n: 100 * (32 / images - 1) for n, images in split.items()}
    return {
        "cold-against-steady": f"{same['step_time'] / most['step_time']:.1f}",
        "original-speedup": told(original.iloc[-1], "speedup"),
        "original-first-threads": str(original.iloc[0]["threads"]),
        "original-first-rate": told(original.iloc[0]),
        "original-last-rate": told(original.iloc[-1]),
        "original-method-gain": f"${100 * (same['rate_original_method'] / same['rate'] - 1):+.1f}$",
        "remainder-most": f"{max(over.values()):.1f}",
        "remainder-where": ", ".join(str(n) for n, share in over.items() if share > 0),
    }


def superlinear_sentence(table: pd.DataFrame, here: pd.DataFrame) -> str:
    """Whether the speed-up is more than linear, and what weak scaling says of the reason."""
    most = here.iloc[-1]
    if most["efficiency_low"] <= 1:
        return "It is not more than linear."
    weak = table[(table["mode"] == "ddp") & (table["scaling"] == "weak")
                 & (table["num_devices"] == here.index[-1])]
    if weak.empty:
        return "It is more than linear, for a reason that was not looked for."
    share = int(most["batch_size"] / here.index[-1])
    rows = [f"{told(row, 'efficiency')} at {row['batch_size'] // row['num_devices']} images a core"
            for _, row in weak.sort_values("batch_size").iterrows()]
    if (weak["efficiency_high"] < most["efficiency_low"]).all():
        reason = ("It is more than linear because the batch a core shrinks, not because of the "
                  "second core")
    else:
        reason = "It is more than linear; part of that is the smaller batch a core"
    return (f"{reason} ({share} images): with the batch a core kept, the efficiency is "
            f"{' and '.join(rows)}.")


def clock_numbers() -> dict[str, str]:
    """How well the clocks gave back injected sleeps (written by tests/test_training.py)."""
    truth = pd.read_csv(HERE / "clock_truth.csv")
    errors = (1000 * (truth["found_s"] - truth["slept_s"])).abs()
    slept = 1000 * truth["slept_s"].max()
    return {
        "clock/places": str(truth["slept_in"].nunique()), "clock/slept": f"{slept:.0f}~ms",
        "clock/median": f"{errors.median():.1f}~ms", "clock/largest": f"{errors.max():.1f}~ms",
    }


def fault_rows() -> tuple[list[str], dict[str, str]]:
    """The campaign of faults (written by make faults) by kind, and its sums."""
    faults = pd.read_csv(REPOSITORY / "tests" / "faults" / "campaign.csv")
    columns = {"survived": ["size", "sum"], "runs_complete": ["sum"], "runs_lost": ["sum"]}
    kinds = faults.groupby("kind").agg(columns)
    rows = [
        " & ".join([kind.replace("_", " "), *(str(count) for count in counts)])
        for kind, *counts in kinds.itertuples()
    ]
    total = [str(count) for count in kinds.sum()]
    rows.append(" & ".join([r"\midrule all", *total]))
    names = ["injected", "survived", "at-stake", "lost"]
    return rows, {f"faults/{name}": n for name, n in zip(names, total, strict=True)}


def fingerprint() -> str:
    """Of all that the report is made from: a PDF that shows another one is out of date."""
    digest = hashlib.sha256()
    sources = [*REPOSITORY.glob("cpu/cpu_plots*/*.tex"), *REPOSITORY.glob("gpu/gpu_plots*/*.tex")]
    sources += [HERE / name for name in ("report.tex", "references.bib", "claims_rows.tex",
                                     "clock_truth.csv", "scaling.tex", "faults_rows.tex")]
    for path in sorted(sources):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def main() -> None:
    table, original = summary("cpu/cpu_plots"), summary("cpu/cpu_plots_original_protocol")
    here, original = strong(table), strong(original)
    cpu, gpu = published("cpu"), published("gpu")
    super_linear, more_gpus = gpu_claims(gpu)
    memory, needs = memory_claim()
    rows = {
        "CPU throughput grows linearly to 7 cores": linear_claim(cpu, here),
        "8 cores are slower than 7": slower_claim(cpu, here),
        "Loading time is constant beyond 2 cores": loading_claim(here),
        "Several GPUs gain more than linearly": super_linear,
        "Larger batches need more GPUs": more_gpus,
        "Batch 128 needs at least 2 GPUs": memory,
    }
    lines = [" & ".join([claim, *cells]) + r" \\" for claim, cells in rows.items()]
    (HERE / "claims_rows.tex").write_text("\n\\addlinespace\n".join(lines) + "\n")
    faults, fault_numbers = fault_rows()
    (HERE / "faults_rows.tex").write_text("".join(rf"{row} \\" + "\n" for row in faults))
    numbers = protocol_numbers(here, original) | needs | clock_numbers() | fault_numbers
    numbers |= {"superlinear": superlinear_sentence(table, here), "fingerprint": fingerprint()}
    definitions = [
        rf"\expandafter\def\csname claims/{name}\endcsname{{{text}}}"
        for name, text in numbers.items()
    ]
    head = "% Written by claims.py from the CSV files: do not edit."
    (HERE / "claims.tex").write_text("\n".join([head, *definitions]) + "\n")
    print(f"claims.tex and claims_rows.tex are in {HERE}")


if __name__ == "__main__":
    main()
