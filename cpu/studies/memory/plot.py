"""What the allocator costs: page faults predicted and counted, their price, and what they explain.

    python plot.py                # runs_own if it is there, else runs; after the main sweep

Predicts the faults of a step from blocks.csv (list_blocks.py): a block above 32 MiB goes back to
the kernel when it is freed, so each of its 4 KiB pages is faulted in anew at each step. Writes
page_faults (.png, .pdf), summary.csv, faults.csv, verdict.csv, price.csv and answers.md, which
README shows. The main sweep's rows are read for what faults explain of its speed-up.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[2] / "common"))
import figures as f  # noqa: E402  (found on the path of the line before)
import results as r  # noqa: E402
from figures import plt  # noqa: E402

LARGEST, PAGE = 32 * 2**20, 4096  # glibc's DEFAULT_MMAP_THRESHOLD_MAX; bytes


def predicted_faults(blocks: pd.DataFrame, batch: int) -> float:
    """Faults of a step in blocks that glibc gives back, which grow with the batch."""
    sizes = blocks["bytes"] * batch / blocks["batch_size"]
    return float((blocks["blocks"] * sizes / PAGE)[sizes > LARGEST].sum())


def fault_table(runs: pd.DataFrame, blocks: pd.DataFrame) -> pd.DataFrame:
    """One row per batch: predicted faults, and what glibc has beyond kept memory, per round."""
    table = []
    for batch, own in runs[runs["num_devices"] == 1].groupby("batch_size"):
        glibc, kept = (own[own["memory"] == name] for name in ("glibc", "kept"))
        more = {name: (r.by_round(glibc, name) - r.by_round(kept, name)).dropna()
                for name in ("minor_faults", "step_time", "system_time")}
        table.append({
            "batch_size": batch, "predicted": predicted_faults(blocks, batch),
            **{name: value for kind, rows in (("glibc", glibc), ("kept", kept))
               for name, value in r.named_interval(f"faults_{kind}", r.mean_interval(
                   rows["minor_faults"])).items()},
            **r.named_interval("more_faults", r.mean_interval(more["minor_faults"])),
            **r.named_interval("more_ms_per_image", r.mean_interval(
                1000 * more["step_time"] / batch)),
        })
    return pd.DataFrame(table)


def price_of_fault(runs: pd.DataFrame) -> dict[str, float]:
    """Seconds per fault and seconds per image without one: in each round a line through all
    configurations of one core, seconds per image against faults per image. But for huge pages: one
    of their faults clears 2 MiB."""
    lines = []
    small = (runs["num_devices"] == 1) & ~runs["memory"].str.contains("THP")
    for _, own in runs[small].groupby(r.ROUND):
        per_image = own[["minor_faults", "step_time"]].div(own["batch_size"], axis=0)
        slope, start = np.polyfit(per_image["minor_faults"], per_image["step_time"], 1)
        left = per_image["step_time"] - start - slope * per_image["minor_faults"]
        lines.append((1e6 * slope, 1000 * start, 1000 * left.std(),
                      1 - left.var() / per_image["step_time"].var()))
    names = ("price_us", "clean_ms_per_image", "residual_ms_per_image", "r_squared")
    return {k: v for name, values in zip(names, zip(*lines, strict=True), strict=True)
            for k, v in r.named_interval(name, r.mean_interval(values)).items()}


def explained(over: pd.Series, under: pd.Series) -> dict[str, float]:
    """A difference by round, how much of it faults make, and what is left."""
    both = pd.DataFrame({"difference": over, "faults": under}).dropna()
    both["left"] = both["difference"] - both["faults"]
    share = 100 * both["faults"].mean() / both["difference"].mean()
    return {k: v for name in both for k, v in r.named_interval(
        name, r.mean_interval(both[name])).items()} | {"percent": share, "rounds": len(both)}


def verdicts(runs: pd.DataFrame, main_sweep: pd.DataFrame, price_us: float) -> pd.DataFrame:
    """How much page faults explain: of what an image takes longer at batch 32 than at 16; of the
    cold step; of the main sweep's speed-up with glibc as it is. Faults cost the fitted price."""
    one, price = runs[runs["num_devices"] == 1], price_us / 1e6
    table = []
    for memory in ("glibc", "kept"):
        own = one[one["memory"] == memory]
        per = {b: own[own["batch_size"] == b].assign(
            seconds=own["step_time"] / own["batch_size"],
            faults=own["minor_faults"] / own["batch_size"]) for b in (16, 32)}
        more = {name: r.by_round(per[32], name) - r.by_round(per[16], name)
                for name in ("seconds", "faults")}
        table.append({"what": "time per image at 32 less at 16 (ms)", "memory": memory} | explained(
            1000 * more["seconds"], 1000 * price * more["faults"]))
        cold = own[own["batch_size"] == 32]
        table.append({"what": "first step less a steady one, batch 32 (s)", "memory": memory}
                     | explained(r.by_round(cold, "cold_step_time") - r.by_round(cold, "step_time"),
                                 price * (r.by_round(cold, "cold_faults")
                                          - r.by_round(cold, "minor_faults"))))
        strong = main_sweep[(main_sweep["mode"] == "ddp") & (main_sweep["memory"] == memory)
                            & (main_sweep["batch_size"] == 32)]
        step, clean = ({n: r.by_round(strong[strong["num_devices"] == n].assign(
            clean=strong["step_time"] - price * strong["minor_faults"]), name)
            for n in sorted(set(strong["num_devices"]))} for name in ("step_time", "clean"))
        few, most = min(step, default=1), max(step, default=1)
        if most > few:
            speedup, without = step[few] / step[most], clean[few] / clean[most]
            table.append({"what": f"speed-up on {most} cores", "memory": memory,
                          **r.named_interval("measured", r.mean_interval(speedup.dropna()))}
                         | explained(speedup, speedup - without))
    return pd.DataFrame(table)


def page_faults(runs, faults: pd.DataFrame, price: dict, title: str, output: Path) -> None:
    """Left: faults of a step, predicted and counted. Right: seconds against faults, per image."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 4.2), layout="constrained")
    thousand = faults.drop(columns="batch_size") / 1000
    left.plot(faults["batch_size"], thousand["predicted"], "x--", color="#000000",
              label="predicted: pages of blocks above 32 MiB")
    left.errorbar(faults["batch_size"], thousand["more_faults"], f.error_bars(
        thousand, "more_faults"), fmt="o", color=f.COLOURS[0], capsize=3,
        label="counted: glibc less kept memory")
    left.set(xlabel="images per step, one core", ylabel="page faults of a step (thousands)",
             ylim=(0, None))
    left.legend()
    one = runs[runs["num_devices"] == 1]
    for colour, (memory, own) in zip(f.COLOURS, one.groupby("memory"), strict=False):
        right.plot(own["minor_faults"] / own["batch_size"] / 1000,
                   own["step_time"] / own["batch_size"], ".", color=colour,
                   label=r.allocator_name(memory))
    ends = np.array([0, (one["minor_faults"] / one["batch_size"]).max()])
    right.plot(ends / 1000, price["clean_ms_per_image"] / 1000 + price["price_us"] / 1e6 * ends,
               "--", color="#444444", label=f"{price['price_us']:.2f} µs per fault")
    right.set(xlabel="page faults per image (thousands)", ylabel="time per image (s)",
              ylim=(0, None))
    right.legend()
    figure.suptitle(title, fontsize=10)
    f.save(figure, output / "page_faults")


def draw(args, rows, runs, table, skipped, title: str) -> tuple[dict, list[str]]:
    faults = fault_table(runs, pd.read_csv(args.results / "blocks.csv"))
    own = HERE.parents[1] / "cpu_run_own"
    sweeps = r.occasions_of(own.with_name("cpu_run")) if args.published else [own]
    main_sweep, price = r.run_table(r.read_results(*sweeps)[0]), price_of_fault(runs)
    fit = np.polyfit(faults["predicted"], faults["more_faults"], 1)
    within = faults["predicted"].between(faults["more_faults_low"], faults["more_faults_high"])
    price |= {"faults_per_predicted": fit[0], "faults_beyond": fit[1], "largest_miss": (
        faults["more_faults"] - np.polyval(fit, faults["predicted"])).abs().max(),
        "batches": len(faults), "within": int(within.sum()),
        "missed": ", ".join(map(str, faults["batch_size"][~within])) or "none"}
    verdict = verdicts(runs, main_sweep[main_sweep["scaling"] != "weak"], price["price_us"])
    page_faults(runs, faults, price, title, args.output)
    text = r.interval_text
    lines = [f"- **A page fault** takes {text(price, 'price_us')} µs; an image without any "
             f"{text(price, 'clean_ms_per_image', 0)} ms (all allocators but huge pages, and all "
             "batches, on one line, "
             f"R² {price['r_squared']:.2f})."]
    for _, row in verdict.iterrows():
        what = f"- **{row['what'][0].upper()}{row['what'][1:]}**, memory {row['memory']}: "
        digits = 0 if "(ms)" in what else 2
        if "Speed-up" in what:
            lines.append(f"{what}{text(row, 'measured')}; without page faults, at that price, "
                         f"{text(row, 'left')}.")
        else:
            lines.append(f"{what}{text(row, 'difference', digits)}; page faults make "
                         f"{text(row, 'faults', digits)} of it, {text(row, 'left', digits)} is not "
                         "explained.")
    print(faults.round(2).to_string(index=False))
    return {"faults": faults, "verdict": verdict, "price": pd.DataFrame([price])}, lines


if __name__ == "__main__":
    f.plot_results(__doc__, HERE / "runs", draw)
