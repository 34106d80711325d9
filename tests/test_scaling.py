"""The model of scaling: its pieces against DDP and against known truth, and the fit as a whole."""

import numpy as np
import pandas as pd
import pytest
import torch
import torch.distributed as dist
import torchvision
from conftest import load
from torch.nn.parallel import DistributedDataParallel


@pytest.fixture(scope="module")
def scaling():
    return load("cpu/studies/scaling.py")


@pytest.fixture(scope="module")
def gradients():
    """When gradients are ready, by network, in a short measurement."""
    measure = load("cpu/studies/measure_communication.py")
    measure.NETWORKS = ["densenet121", "resnet18"]
    args = measure.argparse.Namespace(batch_size=1, repeats=1)
    return {name: pd.DataFrame(measure.gradient_rows(args, name)) for name in measure.NETWORKS}


@pytest.mark.parametrize(
    "model, cap", [("densenet121", ""), ("densenet121", "1"), ("resnet18", ""), ("resnet18", "1")]
)
def test_buckets_are_those_of_ddp(scaling, gradients, model, cap):
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        network = DistributedDataParallel(
            torchvision.models.get_model(model, num_classes=10),
            bucket_cap_mb=int(cap) if cap else None,
        )
        sizes = []

        def note(_, bucket):
            sizes.append(4 * bucket.buffer().numel())
            future = torch.futures.Future()
            future.set_result(bucket.buffer())
            return future

        network.register_comm_hook(None, note)
        for _ in range(2):  # after the first step DDP orders them as gradients became ready
            sizes.clear()
            network(torch.randn(2, 3, 64, 64)).sum().backward()
    finally:
        dist.destroy_process_group()
    planned = [size for size, _ in scaling.bucket_plan(gradients[model], cap)]
    assert sum(planned) == sum(sizes) and len(planned) == pytest.approx(len(sizes), abs=1)
    if not cap:
        assert planned == pytest.approx(sizes, rel=0.02)


def test_transfers_beside_backward(scaling):
    def overlap(times, lost=0.0):
        plan = [(1.0, (i + 1) / len(times)) for i in range(len(times))]
        return scaling.overlap(plan, 1.0, times, lost)

    assert overlap([0.3]) == pytest.approx((0.0, 0.3))  # ready when backward ends: nothing hidden
    assert overlap([0.4, 0.3]) == pytest.approx((0.0, 0.3))
    assert overlap([0.8, 0.3]) == pytest.approx((0.0, 0.6))  # the second waits for the first
    # Half the speed for 0.4 s: backward takes 0.2 longer; the second bucket is ready at its end.
    assert overlap([0.4, 0.3], 0.5) == pytest.approx((0.2, 0.3))
    # In flight when backward ends: 0.5 of backward took 1.0 meanwhile, and 0.2 are left.
    assert overlap([1.2, 0.3], 0.5) == pytest.approx((0.5, 0.5))


def test_a_ring(scaling):
    link = scaling.Link(0.001, 1e6)
    assert scaling.all_reduce_time(2e6, 2, link) == pytest.approx(2.002)
    assert scaling.all_reduce_time(2e6, 8, link) == pytest.approx(14 * (0.001 + 0.25))


def test_the_slowest_of_some(scaling):
    spread = np.random.default_rng(0).normal(size=500)
    drawn = np.random.default_rng(1).choice(spread, (20_000, 8)).max(axis=1).mean()
    assert scaling.slowest_of(spread, 8) == pytest.approx(drawn, rel=0.02)
    assert scaling.slowest_of(spread, 1) == pytest.approx(spread.mean())


@pytest.mark.parametrize("law", ["time in flight", "bytes"])
def test_a_known_truth_is_found(scaling, gradients, law):
    """Steps that follow the model with known links, of which only those of 1 and 2 devices are
    fitted on: the law, and the steps of more devices and of another network."""
    share, fastest = 0.2, 4e7
    whole = {
        "unshaped": scaling.Link(0.001, fastest / share),
        "100mbit": scaling.Link(0.001, 1.25e7),
    }
    links = {
        name: scaling.Link(link.latency / share, share * link.bandwidth)
        for name, link in whole.items()
    }
    links["loopback"] = links["unshaped"]
    lost = {
        name: 0.3 if law == "time in flight" else 0.3 * link.bandwidth / fastest
        for name, link in links.items()
    }
    compute = {
        ("shares", model, 4): (time, 0.6 * time)
        for model, time in (("densenet121", 8.0), ("resnet18", 5.0))
    }
    spread = np.array([-0.02, 0.02])
    truth = scaling.Inputs(compute, {"shares": spread}, 1e-9, gradients, links, lost)
    lines = []
    for model in ("densenet121", "resnet18"):
        for devices in (1, 2, 4, 8):
            for link, cap in (("loopback", ""), ("loopback", "1"), ("100mbit", "1")):
                values = ("shares", model, "ddp", devices, 4 * devices, link, cap, 1.0)
                line = dict(zip(scaling.SETTINGS, values, strict=True))
                said = scaling.predict(truth, pd.Series(line))
                line |= {
                    "images": 4,
                    "runs": 6,
                    "transfer": said["exposed"],
                    "busy": 0.0,
                    "backward": 0.6 * said["compute"] + said["slowed"],
                    **{k: said[k] for k in ("slowed", "waiting", "ddp")},
                }
                line |= {f"step_time{end}": said["step_time"] for end in ("", "_low", "_high")}
                lines.append(line)
        lines.append(
            lines[-1]
            | {
                "mode": "single_process",
                "num_devices": 1,
                "batch_size": 4,
                "busy": compute["shares", model, 4][0],
                "backward": compute["shares", model, 4][1],
            }
        )
    rows = pd.DataFrame(
        [
            {
                "occasion": "one",
                "run_id": run,
                "mode": "no_communication",
                "num_devices": 2,
                "warmup": 0,
                "step_time": 8.0 * (1 + deviation),
                "study": "shares",
                "cpu_share": str(share),
            }
            for run in range(1, 7)
            for deviation in spread / np.sqrt(2)
        ]
    )
    alone = pd.DataFrame(
        [
            {
                "network": name,
                "ranks": 2,
                "bytes": size,
                "seconds": scaling.all_reduce_time(size, 2, link),
            }
            for name, link in whole.items()
            for size in (4096, 2**20, 5 * 2**20)
        ]
    )
    table = pd.DataFrame(lines)
    inputs, known = scaling.fit(rows, table, alone, pd.concat(gradients.values()))
    missed = known[known["input"].str.contains("missed")].set_index("input")["value"]
    assert missed.idxmin() == f"missed by the law of {law}"
    found = scaling.compare(inputs, table)
    assert found["held_out"].sum() == 15 and found["error"].abs().max() < 1.0
    assert found[found["communication"] > 5]["no_communication_error"].max() < -4
