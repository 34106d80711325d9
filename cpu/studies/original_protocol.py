"""What the original study's protocol reads on this machine, beside the steady step.

Three readings of the same batch: as the original study reads its rows (batch size / mean over all
ranks of the first step of a process, whose single process has all threads), with the slowest rank
in place of the mean, and the steady step of this study's protocol in the same rounds.
"""

from pathlib import Path

import pandas as pd
import results
import tables


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
    protocol = protocol_table(runs, steady.iloc[-1])
    columns = {"num_devices": "ranks", "threads": "threads", "rate": "img/s, slowest rank"}
    text = tables.markdown(
        cold,
        "The original's protocol: the first step of a fresh process.",
        columns | {"rate_original_method": "img/s, mean rank"},
    )
    text += tables.markdown(steady, "The steady step, in the same rounds.", columns)
    return tables.Study({"protocol": protocol}, text)
