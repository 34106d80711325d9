"""The best single process: chosen in the first half of the rounds, confirmed in the other.

    python plot.py                # runs_own if it is there, else runs

Settings are micro-batches (the whole batch, or the ranks' parts), memory and layout; all with as
many threads as cores. The old definition of this bound, the whole batch in the default memory and
layout, is the base. Writes single_process (.png, .pdf), summary.csv, settings.csv and
answers.md.
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

OLD = "the whole batch, memory glibc, NCHW"


def name_settings(runs: pd.DataFrame) -> pd.Series:
    parts = np.where(runs["micro_batches"] == "1", "the whole batch", "in micro-batches")
    layout = np.where(runs["channels_last"] == "1", "channels last", "NCHW")
    return pd.Series(parts, runs.index) + ", memory " + runs["memory"] + ", " + layout


def settings_table(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per setting of the single process, slowest first: rate in the first half of the
    rounds, by which the best is chosen; against the old definition and against data parallelism in
    the same memory and layout in the other half."""
    runs = runs.assign(setting=name_settings(runs))
    half = runs["run_id"].max() // 2
    early, late = runs[runs["run_id"] <= half], runs[runs["run_id"] > half]
    single = late["mode"] == "single_process"
    old, table = late[single & (late["setting"] == OLD)], []
    for setting, own in late[single].groupby("setting"):
        first = early[(early["setting"] == setting) & (early["mode"] == "single_process")]
        same = late[(late["mode"] == "ddp") & (late["memory"] == own["memory"].iloc[0])
                    & (late["channels_last"] == own["channels_last"].iloc[0])]
        row = {"setting": setting, "runs": len(own), "rounds": runs["run_id"].max()}
        for name, values in (("chosen_by", r.median_interval(first["rate"])),
                             ("rate", r.median_interval(own["rate"])),
                             ("over_old", r.paired_interval(own, old) if setting != OLD else
                              (1.0, np.nan, np.nan)),
                             ("ddp_over_it", r.paired_interval(same, own))):
            row |= r.named_interval(name, values)
        table.append(row)
    return pd.DataFrame(table).sort_values("chosen_by", ignore_index=True)


def draw(args, rows, runs, table, skipped, title: str) -> tuple[dict, list[str]]:
    settings, text = settings_table(runs), r.interval_text
    figure, axes = plt.subplots(figsize=(7.2, 3.6))
    f.bars(axes, settings["setting"], settings, "rate", np.where(
        settings["setting"] == OLD, "base", settings["over_old"].map("{:.2f} ×".format)))
    axes.set(xlabel="throughput (img/s) in fresh rounds: median, interval (range below 6)",
             title=title)
    f.save(figure, args.output / "single_process")
    best = settings.iloc[-1]
    return {"settings": settings}, [
        f"- **The best single process** (chosen in the first half of {best['rounds']} rounds, "
        f"measured in the other): {best['setting']}, {text(best, 'rate')} img/s, "
        f"{text(best, 'over_old')} times that of {OLD}; data parallelism in the same memory and "
        f"layout has {text(best, 'ddp_over_it')} times its rate."]


if __name__ == "__main__":
    f.plot_results(__doc__, HERE / "runs", draw)
