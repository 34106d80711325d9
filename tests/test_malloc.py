"""Does the malloc study find which malloc is fastest, and why, when both were put into its rows?"""

import itertools
import json

import numpy as np
import pandas as pd
import pytest
from conftest import load
from test_plots import write_run

MIB = 2**20
# ms per page fault, and per fault of a huge page; ms per image without any.
PRICE, HUGE_PRICE, CLEAN = 0.002, 0.4, {"densenet121": 200.0, "resnet50": 150.0}
CONF = "MALLOC_CONF=oversize_threshold:1,background_thread:true,metadata_thp:auto"
MEMORIES = ["glibc", "glibc hugetlb=1", "kept", "tcmalloc", "jemalloc", f"jemalloc {CONF}"]


@pytest.fixture(scope="module")
def malloc():
    return load("cpu/studies/malloc.py")


@pytest.fixture
def blocks():
    """Of a batch of 32: 40 blocks of 64 MiB, 100 of 16 MiB, 1,000 of 1 MiB."""
    return pd.DataFrame({"bytes": [64 * MIB, 16 * MIB, MIB], "blocks": [40, 100, 1000]})


@pytest.fixture
def runs(malloc, blocks, tmp_path):
    """Six rounds of two networks on one core, with faults as the rules say, at a known price."""
    for run, model, memory in itertools.product(range(1, 7), CLEAN, MEMORIES):
        faults = malloc.predict_faults(blocks, malloc.allocator_name(memory)) / 32
        price = HUGE_PRICE if "hugetlb" in memory else PRICE
        seconds = 32 * (CLEAN[model] + price * faults) / 1000 * (1 + 0.01 * run)
        settings = {"model": model, "memory": memory, "minor_faults": 32 * faults}
        settings["peak_memory_bytes"] = 2**32
        folder = tmp_path / "runs" / f"{model}_{MEMORIES.index(memory)}"
        write_run(folder, 1, run, seconds, **settings)
    for model in CLEAN:
        blocks.assign(batch_size=32).to_csv(tmp_path / "runs" / f"blocks_{model}.csv")
    return load("common/results.py").read_runs(tmp_path / "runs")


def test_a_fault_is_predicted_from_what_each_malloc_gives_back(malloc, blocks):
    pages = {name: malloc.predict_faults(blocks, name) for name in malloc.RETURNS_FROM}
    large, middle, small = 40 * 64 * 256, 100 * 16 * 256, 1000 * 256
    assert pages["glibc"] == large
    assert pages["glibc, hugetlb=1"] == large / 512
    assert pages["tuned malloc"] == pages["tcmalloc"] == pages["jemalloc, decay off"] == 0
    assert pages["jemalloc"] == large + middle
    assert pages["jemalloc, as run_cpu sets it"] == pages["mimalloc"] == large + middle + small
    at_limit = pd.DataFrame({"bytes": [32 * MIB], "blocks": [1]})
    assert malloc.predict_faults(at_limit, "glibc") == 0  # only larger ones go back


def test_gains_and_the_prediction_of_other_networks(malloc, runs, tmp_path):
    study = malloc.study(runs, tmp_path / "runs")
    gains = study.tables["allocators"].set_index(["model", "allocator"])
    expected = (200 + PRICE * 40 * 64 * 256 / 32) / 200
    assert gains.loc[("densenet121", "tcmalloc"), "gain"] == pytest.approx(expected)
    assert gains.loc[("densenet121", "jemalloc"), "gain"] < 1
    assert gains.loc[("densenet121", "glibc"), "peak_gib"] == 4
    assert np.isnan(gains.loc[("densenet121", "glibc"), "gain"])
    prediction = study.tables["prediction"].set_index(["model", "allocator"])
    assert prediction["ms_per_fault"].iloc[0] == pytest.approx(PRICE * 1.035)
    assert prediction["ms_per_huge_fault"].iloc[0] == pytest.approx(HUGE_PRICE * 1.035)
    assert prediction["error_percent"].abs().max() < 1e-6
    # Only the network that nothing was fitted on, and not the malloc that it starts from.
    errors = study.tables["errors"].set_index("allocator")
    assert "tuned malloc" not in errors.index and (errors["networks"] == 1).all()


def test_a_wrong_rule_shows_as_an_error(malloc, runs, tmp_path, monkeypatch):
    monkeypatch.setitem(malloc.RETURNS_FROM, "jemalloc", None)
    errors = malloc.study(runs, tmp_path / "runs").tables["errors"].set_index("allocator")
    # 150 ms instead of 150 + 67 ms.
    assert errors.loc["jemalloc", "worst_error_percent"] == pytest.approx(30.7, abs=0.1)
    assert errors.loc["jemalloc", "worst_error_of_counted_percent"] < 1e-6


def test_sessions_of_another_torch_are_told_apart(malloc, runs, tmp_path):
    """A later session, under another release and three times as slow, changes no row of the first;
    of it only the plain runs are shown."""
    before = malloc.study(runs, tmp_path / "runs").tables
    for session, release in (("runs", "2.14.1+cu130"), ("runs_2", "2.15.0+cu132")):
        (tmp_path / session).mkdir(exist_ok=True)
        there = {
            "identity": {"torch": release, "cpu_model": "x", "cores_granted": 2},
            "recorded": {},
        }
        (tmp_path / session / "environment.json").write_text(json.dumps(there))
    bf16 = {"precision": "bf16"}
    for run, (memory, seconds, more) in itertools.product(
        range(1, 7), [("glibc", 60.0, {}), ("tcmalloc", 30.0, {}), ("tcmalloc", 6.0, bf16)]
    ):
        folder = tmp_path / "runs_2" / f"{memory}_{len(more)}"
        settings = {"model": "densenet121", "memory": memory, "minor_faults": 32}
        write_run(folder, 1, run, seconds, **settings, peak_memory_bytes=2**32, **more)
    both = load("common/results.py").read_runs(tmp_path / "runs", tmp_path / "runs_2")
    after = malloc.study(both, tmp_path / "runs").tables
    pd.testing.assert_frame_equal(after["allocators"], before["allocators"])
    pd.testing.assert_frame_equal(after["prediction"], before["prediction"])
    shown = after["variants"].set_index(["variant", "allocator"])["gain"].dropna()
    assert shown.to_dict() == {("torch 2.15.0+cu132", "tcmalloc"): pytest.approx(2.0)}
