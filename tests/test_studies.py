"""Do the studies of memory, limits and the single process find what is put into their rows?"""

import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import load
from test_plots import write_run

PRICE, CLEAN = 2e-6, 0.25  # seconds: of a fault, and of an image without one
FAULTS = {"glibc": {8: 1e4, 16: 8e5, 32: 2.4e6}, "kept": {8: 1e4, 16: 2e4, 32: 6e4}}


def runs_of(script, folder) -> pd.DataFrame:
    return script.r.run_table(script.r.read_results(folder)[0])


@pytest.fixture
def memory_runs(tmp_path):
    """One core at a known price per fault; two with half of the batch, and of its faults, each."""
    script = load("cpu/studies/memory/plot.py")
    for run, (memory, batch) in itertools.product(range(1, 7), itertools.product(
            FAULTS, (8, 16, 32))):  # fmt: skip
        faults = FAULTS[memory][batch] * (1 + 0.01 * run)
        time = CLEAN * batch + PRICE * faults
        folder, settings = tmp_path / memory, {"batch_size": batch, "memory": memory}
        write_run(folder, 1, run, time, minor_faults=faults, **settings)
        faults = FAULTS[memory][batch // 2 if batch > 8 else 8] * (1 + 0.01 * run)
        time = CLEAN * batch / 2 + PRICE * faults
        write_run(folder, 2, run, time, minor_faults=faults, **settings)
    return script, runs_of(script, tmp_path)


def test_price_of_a_fault_and_what_it_explains(memory_runs):
    script, runs = memory_runs
    price = script.price_of_fault(runs)
    assert price["price_us"] == pytest.approx(1e6 * PRICE)
    assert price["clean_ms_per_image"] == pytest.approx(1000 * CLEAN)
    table = script.verdicts(runs, runs[runs["scaling"] != "weak"], price["price_us"])
    table = table.set_index(["what", "memory"])
    image = table.loc["image at batch 32 less at 16 (ms)", "glibc"]
    more = 1e3 * PRICE * (2.4e6 / 32 - 8e5 / 16) * 1.035
    assert image["difference"] == pytest.approx(more) and image["left"] == pytest.approx(0)
    assert image["percent"] == pytest.approx(100)
    speedup = table.loc["speed-up on 2 cores", "glibc"]
    assert speedup["measured"] == pytest.approx(2.293, abs=0.01)  # beyond linear
    assert speedup["left"] == pytest.approx(2.0)  # linear, once no fault costs anything


def test_faults_are_predicted_from_blocks_above_32_mib(memory_runs):
    script, runs = memory_runs
    blocks = pd.DataFrame({"batch_size": 8, "operator": "conv", "shapes": "", "blocks": [3, 5],
                           "bytes": [8 * 3 * 2**20, 8 * 2**20]})  # fmt: skip
    pages = {8: 0, 11: 3 * 33 * 256, 32: 3 * 96 * 256, 33: (3 * 99 + 5 * 33) * 256}
    assert {batch: script.predicted_faults(blocks, batch) for batch in pages} == pages
    table = script.fault_table(runs, blocks).set_index("batch_size")
    assert table.loc[32, "more_faults"] == pytest.approx((2.4e6 - 6e4) * 1.035)


def test_blocks_belong_to_the_innermost_operator():
    script = load("cpu/studies/memory/list_blocks.py")
    operator = {"cat": "cpu_op", "args": {"Input Dims": [[1]]}}
    memory = {"name": "[memory]", "cat": "cpu_instant_event"}
    events = [operator | {"name": "outer", "ts": 0, "dur": 10},
              operator | {"name": "inner", "ts": 2, "dur": 3},
              *(memory | {"ts": ts, "args": {"Bytes": size}}
                for ts, size in ((1, 10), (3, 20), (4, -20), (6, 30), (12, 40)))]  # fmt: skip
    found = {(name, size): n for (name, _, size), n in script.count_blocks(events).items()}
    assert found == {("outer", 10): 1, ("inner", 20): 1, ("outer", 30): 1, ("outside", 40): 1}


def test_operators_are_timed_and_counted_by_type():
    script = load("cpu/studies/limit/measure_limit.py")
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, bias=False), torch.nn.BatchNorm2d(8),
                                  torch.nn.ReLU(inplace=True))  # fmt: skip
    with script.LayerTimes(count=True) as layers:
        output = network(torch.ones(2, 3, 10, 10))
        output.view(2, -1)
        output.sum().backward()
    seconds, flops, moved, _ = layers.sums["convolution"]
    forward = 2 * 2 * 8 * 8 * 8 * 3 * 9  # no gradient of the images is needed
    assert flops == 2 * forward and 0 < seconds < 5
    images, weight, result = 2 * 3 * 100, 8 * 3 * 9, 2 * 8 * 64
    assert moved >= 4 * 2 * (images + weight + result)
    assert layers.sums["batch-norm, ReLU"][2] >= 4 * (2 + 2 + 3 + 3) * result
    assert sum(calls for *_, calls in layers.sums.values()) >= 7


def test_roof_is_the_longer_of_operations_and_bytes():
    script = load("cpu/studies/limit/plot.py")
    layers = pd.DataFrame(
        [[1, "kept", 2, "convolution", 4.0, 200, 10], [1, "kept", 2, "concatenation", 3.0, 0, 20],
         [1, "kept", 2, "step", 7.5, 0, 0]],
        columns=["round", "memory", "step", "type", "seconds", "flops", "bytes"])  # fmt: skip
    rates = pd.DataFrame({"round": 1, "what": ["convolution", "product", "triad"],
                          "rate": [100.0, 80.0, 10.0]})  # fmt: skip
    table = script.roof_table(layers, rates).set_index("type")
    assert table["roof"].to_dict() == {"convolution": 2.0, "concatenation": 2.0,
                                       "between operators": 0, "step": 4.0}  # fmt: skip
    assert table.loc["between operators", "seconds"] == pytest.approx(0.5)
    assert table.loc["step", "share"] == pytest.approx(100 * 4 / 7.5)


def test_the_best_single_process_is_chosen_and_confirmed_in_other_rounds(tmp_path):
    """The setting that was lucky in the first rounds is chosen; the fresh rounds show it."""
    script = load("cpu/studies/single_process/plot.py")
    common = {"mode": "single_process", "threads": 2}
    for run in range(1, 13):
        write_run(tmp_path / "ddp", 2, run, 4.0)
        lucky = 2.0 if run <= 6 else 4.4
        write_run(tmp_path / "old", 2, run, 4.4, micro_batches=1, **common)
        write_run(tmp_path / "new", 2, run, lucky, micro_batches=2, **common)
    table = script.settings_table(runs_of(script, tmp_path)).set_index("setting")
    assert list(table.index) == [script.OLD, "in micro-batches, memory glibc, NCHW"]
    best = table.iloc[-1]
    assert best["chosen_by"] == pytest.approx(16) and best["over_old"] == pytest.approx(1.0)
    assert best["ddp_over_it"] == pytest.approx(1.1) and best["runs"] == 6
    assert np.isfinite(best["rate_low"])
