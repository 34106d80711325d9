"""What communication costs over a network, on known truth."""

import pandas as pd
import pytest
from conftest import load


def test_cost_of_communication():
    """Against no communication of the same batch; exposed and slowed apart; settings by name."""
    script = load("cpu/studies/network/plot.py")
    base = {"mode": "ddp", "num_devices": 2, "batch_size": 8, "bucket_cap_mb": "", "runs": 6}
    rows = [
        base | {"options": "nodes=2;network=unshaped", "mode": "no_communication", "time": 1.0},
        base | {"options": "nodes=2;network=1gbit", "time": 1.3},
        base | {"options": "ddp=bf16-gradients;nodes=2;network=1gbit", "bucket_cap_mb": "1",
                "time": 1.1},
        base | {"options": "gradients=bf16;nodes=2;network=1gbit", "time": 1.2},
    ]  # fmt: skip
    for row in rows:
        time = row.pop("time")
        for name, value in (("step_time", time), ("transfer", (time - 1) / 2),
                            ("backward", 0.5 + (time - 1) / 4)):  # fmt: skip
            row |= {name: value, f"{name}_low": 0.99 * value, f"{name}_high": 1.01 * value}
    table = script.network_table(pd.DataFrame(rows))
    assert dict(zip(table["setting"], table["cost"], strict=True)) == pytest.approx(
        {"DDP as it is": 0.3, "1 MB buckets + bf16 gradients": 0.1, "bf16 gradients": 0.2}
    )
    assert sorted(table["slowed"]) == pytest.approx([0.025, 0.05, 0.075])
    with pytest.raises(script.r.ResultsError, match="none without communication"):
        script.network_table(pd.DataFrame(rows[1:]))


def test_an_all_reduce_over_a_ring():
    """8 hosts on 1 Gbit: 14 messages of 1 ms, and 14/8 of the bytes at the link's rate."""
    script = load("cpu/studies/network/plot.py")
    rows = [{"network": network, "ranks": 8, "bytes": size, "seconds": 0.014 + 1.75 * size / rate}
            for network, rate in (("1gbit", 1.25e8), ("unshaped", 1e9)) for size in (4096, 10**8)
            for _ in range(6)]  # fmt: skip
    table = script.all_reduce_table(pd.DataFrame(rows)).set_index(["network", "bytes"])
    assert table.loc[("1gbit", 4096), "message"] == pytest.approx(0.001, rel=0.01)
    assert table.loc[("1gbit", 10**8), "over_rate"] == pytest.approx(1.01)
    assert table.loc[("1gbit", 10**8), "bus_bandwidth"] == pytest.approx(1.25e8 / 1.01)
    assert table.loc[("unshaped", 10**8), "algorithm_bandwidth"] == pytest.approx(
        1e8 / (0.014 + 0.175))  # fmt: skip
    assert pd.isna(table.loc[("unshaped", 4096), "over_rate"])
