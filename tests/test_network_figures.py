"""What communication costs over a network, on known truth."""

import itertools

import pandas as pd
import pytest
from conftest import load


def test_cost_of_communication():
    """Against no communication of as many hosts in the same rounds; what it adds, in seconds."""
    script = load("cpu/studies/network.py")
    base = dict.fromkeys(script.results.KEY, "") | {
        "mode": "ddp",
        "occasion": "one",
        "machine": "one",
    }
    rows = []
    for run, hosts in itertools.product(range(1, 7), (2, 8)):
        drift = 1 + 0.1 * run  # of the machine: the same for all in a round
        for network, cap, options, time in (
            ("unshaped", "", ";mode", 1.0),
            ("1gbit", "", "", 1.3),
            ("1gbit", "1", ";gradients=bf16", 1.1),
            ("1gbit", "1", "", 1.2),
        ):
            row = base | {
                "run_id": run,
                "num_devices": hosts,
                "batch_size": 4 * hosts,
                "bucket_cap_mb": cap,
                "options": f"network={network}{options}",
                "cpu_share": "0.16",
                "step_time": time * drift,
            }
            rows.append(row | ({"mode": "no_communication"} if time == 1.0 else {}))
    runs = pd.DataFrame(rows)
    table = script.network_table(runs)
    eight = table[table["num_devices"] == 8].set_index("setting")
    assert eight["ratio"].to_dict() == pytest.approx(
        {"default DDP": 1.3, "1 MB buckets + bf16 gradients": 1.1, "1 MB buckets": 1.2}
    )
    assert sorted(eight["added"]) == pytest.approx(
        [0.16 * 0.1 * 1.35, 0.16 * 0.2 * 1.35, 0.16 * 0.3 * 1.35]
    )
    assert script.rate_text("1gbit", "0.16") == "1gbit at full speed = 160 Mbit here"
    assert eight["over_plain"]["1 MB buckets"] == pytest.approx(1.2 / 1.3)
    assert len(table) == 6
    # Of the 30 % on the slower link, small buckets and bf16 win back two thirds.
    assert script.cost_message(table[table["num_devices"] == 8]) == (
        "At 1 Gbit/s two options win back 67 % of what communication costs"
    )
    figure = script.draw_cost(table, "made by hand")
    words = [text.get_text() for text in figure.axes[0].texts]
    assert {"1.30", "1.20", "1.10"} <= set(words)
    script.plt.close(figure)
    with pytest.raises(script.results.ResultsError, match="none without communication"):
        script.network_table(runs[runs["mode"] == "ddp"])


def test_an_all_reduce_over_a_ring():
    """8 hosts on 1 Gbit: 14 messages of 1 ms, and 14/8 of the bytes at the link's rate."""
    script = load("cpu/studies/network.py")
    rows = [
        {
            "network": network,
            "ranks": 8,
            "bytes": size,
            "seconds": 0.014 + 1.75 * size / rate,
        }
        for network, rate in (("1gbit", 1.25e8), ("unshaped", 1e9))
        for size in (4096, 10**8)
        for _ in range(6)
    ]
    table = script.all_reduce_table(pd.DataFrame(rows)).set_index(["network", "bytes"])
    assert table.loc[("1gbit", 10**8), "over_rate"] == pytest.approx(1.01)
    assert pd.isna(table.loc[("unshaped", 4096), "over_rate"])
