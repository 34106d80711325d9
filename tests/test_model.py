"""The model of scaling and the network figures, on known truth; the buckets against DDP's own."""

import numpy as np
import pandas as pd
import pytest
import torch
import torch.distributed as dist
from conftest import load
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

MIB = 2**20


@pytest.fixture(scope="module")
def model_script():
    return load("report/scaling_model.py")


def gradients(sizes: list[int]) -> pd.DataFrame:
    shares = np.arange(1, len(sizes) + 1) / len(sizes)
    return pd.DataFrame({"bytes": sizes, "share_of_backward": shares})


def test_buckets_close_when_they_hold_their_cap(model_script):
    ready = gradients([MIB] * 28)
    assert model_script.bucket_plan(ready, "") == [
        (MIB, 1 / 28), (25 * MIB, 26 / 28), (2 * MIB, 1.0)
    ]  # fmt: skip
    assert [size for size, _ in model_script.bucket_plan(ready, "25")] == [25 * MIB, 3 * MIB]
    assert len(model_script.bucket_plan(ready, "1")) == 28


@pytest.mark.parametrize("cap", ["", "25", "1"])
def test_buckets_are_those_of_ddp(model_script, cap):
    """DDP rebuilds its buckets after the first step, in the order in which gradients came."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        plain = load("cpu/project_ex_1.py").torchvision.models.densenet121(num_classes=10)
        order = []
        for name, parameter in plain.named_parameters():
            parameter.register_post_accumulate_grad_hook(lambda _, name=name: order.append(name))
        ddp = DistributedDataParallel(plain, bucket_cap_mb=int(cap) if cap else None)
        sizes = []

        def hook(_, bucket):
            sizes.append(bucket.buffer().numel() * bucket.buffer().element_size())
            future = torch.futures.Future()
            future.set_result(bucket.buffer())
            return future

        ddp.register_comm_hook(None, hook)
        for _ in range(2):
            order.clear()
            sizes.clear()
            cross_entropy(ddp(torch.randn(2, 3, 32, 32)), torch.zeros(2).long()).backward()
    finally:
        dist.destroy_process_group()
    own = {name: p.numel() * p.element_size() for name, p in plain.named_parameters()}
    ready = gradients([own[name] for name in order])
    predicted = [size for size, _ in model_script.bucket_plan(ready, cap)]
    assert sum(predicted) == sum(sizes) == sum(own.values())
    assert len(predicted) == len(sizes)
    assert sorted(predicted) == pytest.approx(sorted(sizes), rel=0.05)


def test_exposed_is_what_is_left_after_backward(model_script):
    late = [(1_000_000, 1.0)]
    assert model_script.exposed_time(late, 2.0, 2, 0.0, 1e6) == pytest.approx(1.0)
    assert model_script.exposed_time(late, 2.0, 2, 0.1, 1e6) == pytest.approx(1.2)
    assert model_script.exposed_time(late, 2.0, 4, 0.0, 1e6) == pytest.approx(1.5)
    assert model_script.exposed_time(late, 2.0, 1, 0.1, 1e6) == 0
    early = [(1_000_000, 0.25), (1_000_000, 0.5)]
    assert model_script.exposed_time(early, 4.0, 2, 0.0, 1e6) == 0
    assert model_script.exposed_time(early, 2.0, 2, 0.0, 1e6) == pytest.approx(0.5)


def test_the_slowest_of_many_is_the_largest(model_script):
    steps = np.array([0.9, 1.0, 1.1, 1.0])
    assert model_script.slowest_of(steps, 1) == pytest.approx(1.0)
    assert 1.0 < model_script.slowest_of(steps, 2) < 1.1
    assert model_script.slowest_of(steps, 1000) == pytest.approx(1.1)


def test_latency_and_bandwidth_from_the_all_reduce(model_script):
    sizes = np.array([4_096, 65_536, 1_000_000, 5_000_000, 28_000_000])
    rows = pd.DataFrame({"network": "1gbit", "bytes": sizes, "seconds": 2e-4 + sizes / 1e8})
    latency, bandwidth = model_script.link(rows, "1gbit")
    assert bandwidth == pytest.approx(1e8) and latency == pytest.approx(1.2e-4, rel=0.1)


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
        for name, value in (("step_time", time), ("median_transfer", (time - 1) / 2),
                            ("median_backward", 0.5 + (time - 1) / 4)):  # fmt: skip
            row |= {name: value, f"{name}_low": 0.99 * value, f"{name}_high": 1.01 * value}
    table = script.network_table(pd.DataFrame(rows))
    assert dict(zip(table["setting"], table["cost"], strict=True)) == pytest.approx(
        {"DDP as it is": 0.3, "1 MB buckets + bf16 gradients": 0.1, "bf16 gradients": 0.2}
    )
    assert sorted(table["slowed"]) == pytest.approx([0.025, 0.05, 0.075])
    with pytest.raises(script.r.ResultsError, match="none without communication"):
        script.network_table(pd.DataFrame(rows[1:]))
