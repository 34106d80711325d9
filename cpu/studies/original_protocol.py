"""What the original study's protocol reads on this machine, beside the steady step.

Three readings of the same batch: as the original study reads its rows (batch size / mean over all
ranks of the first step of a process, whose single process has all threads), with the slowest rank
in place of the mean, and the steady step of this study's protocol in the same rounds.
"""

from pathlib import Path

import figures
import pandas as pd
import results
import tables


def draw_protocol(cold: pd.DataFrame, steady: pd.DataFrame, title: str) -> figures.plt.Figure:
    """Throughput against ranks, in the three readings."""
    figure, axes = figures.plt.subplots()
    mean = "first step, mean over ranks: the original's reading"
    axes.plot(cold["num_devices"], cold["rate_original_method"], "kx", label=mean)
    look = {"color": figures.COLOURS[1], "fmt": "s", "label": "first step, slowest rank"}
    figures.intervals(axes, cold, "rate", **look)
    look = {"color": figures.COLOURS[0], "fmt": "o", "label": "steady step, this study's protocol"}
    figures.intervals(axes, steady, "rate", **look)
    threads = f"one process, {cold['threads'].iloc[0]} threads"
    axes.annotate(threads, (1, cold["rate"].iloc[0]), (8, -12), textcoords="offset points")
    axes.set(xlabel="ranks", ylabel="throughput (img/s)", ylim=(0, None), title=title)
    axes.set_xticks(sorted(set(cold["num_devices"])))
    axes.margins(x=0.3)
    axes.legend()
    figures.note_below(axes, figures.what_is_drawn(cold))
    return figure


def protocol_table(runs: pd.DataFrame, steady: pd.Series) -> pd.DataFrame:
    """On the most cores: the first step over a steady one, and how much longer (%) the slowest rank
    takes than the mean rank, in the median over runs."""
    same = runs[(runs["num_devices"] == steady["num_devices"]) & (runs["loader"] == "pil")]
    gain = 100 * (same["step_time"] / same["original_time"] - 1).median()
    row = {"devices": steady["num_devices"], "mean_gain": gain}
    row["cold_to_steady"] = steady["cold_step_time"] / steady["step_time"]
    return pd.DataFrame([row])


def study(runs: pd.DataFrame, folder: Path) -> tables.Study:
    table = results.configuration_table(runs)
    cold, steady = (
        results.main_series(table[table["loader"] == loader]) for loader in ("pil", "tensor")
    )
    tables.require(cold, "the protocol (--loader pil)")
    chart = draw_protocol(cold, steady, figures.make_title(folder, runs))
    protocol = protocol_table(runs, steady.iloc[-1])
    return tables.Study({"protocol": protocol}, "", {"protocol": chart})
