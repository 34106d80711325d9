"""Do the studies find what is put into their rows?"""

import itertools
import os
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import REPOSITORY, load
from test_plots import run_plots, write_run
from test_sweep import copy_of_cpu

PRICE, CLEAN = 2e-6, 0.25  # seconds: of a fault, and of an image without one
FAULTS = {"glibc": {8: 1e4, 16: 8e5, 32: 2.4e6}, "kept": {8: 1e4, 16: 2e4, 32: 6e4}}


def runs_of(script, folder) -> pd.DataFrame:
    return load("common/results.py").read_runs(folder)


@pytest.fixture
def memory_runs(tmp_path):
    """One core at a known price per fault; two with half of the batch, and of its faults, each."""
    script = load("cpu/studies/memory.py")
    for run, (memory, batch) in itertools.product(
        range(1, 7), itertools.product(FAULTS, (8, 16, 32))
    ):
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
    table = script.verdict_table(runs, runs, price["price_us"] / 1e6)
    table = table.set_index(["what", "memory"])
    image = table.loc["time per image at 32 less at 16 (ms)", "glibc"]
    more = 1e3 * PRICE * (2.4e6 / 32 - 8e5 / 16) * 1.035
    assert image["difference"] == pytest.approx(more) and image["left"] == pytest.approx(0)
    assert image["percent"] == pytest.approx(100)
    speedup = table.loc["speed-up on 2 cores", "glibc"]
    assert speedup["measured"] == pytest.approx(2.293, abs=0.01)  # beyond linear
    assert speedup["left"] == pytest.approx(2.0)  # linear, once no fault costs anything


def test_faults_are_predicted_from_blocks_above_32_mib(memory_runs):
    script, runs = memory_runs
    blocks = pd.DataFrame(
        {
            "batch_size": 8,
            "operator": "conv",
            "shapes": "",
            "blocks": [3, 5],
            "bytes": [8 * 3 * 2**20, 8 * 2**20],
        }
    )
    pages = {8: 0, 11: 3 * 33 * 256, 32: 3 * 96 * 256, 33: (3 * 99 + 5 * 33) * 256}
    assert {batch: script.predicted_faults(blocks, batch) for batch in pages} == pages
    table = script.fault_table(runs, blocks).set_index("batch_size")
    assert table.loc[32, "more_faults"] == pytest.approx((2.4e6 - 6e4) * 1.035)


def test_blocks_are_counted_by_their_size():
    script = load("cpu/studies/list_blocks.py")
    memory = {"name": "[memory]", "cat": "cpu_instant_event"}
    sizes = (10, 20, -20, 30, 20)  # negative: given back
    events = [{"name": "conv", "cat": "cpu_op", "args": {}}]
    events += [memory | {"args": {"Bytes": size}} for size in sizes]
    assert script.count_blocks(events) == {10: 1, 20: 2, 30: 1}


def test_operators_are_timed_and_counted_by_type():
    script = load("cpu/studies/measure_limit.py")
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, bias=False), torch.nn.BatchNorm2d(8), torch.nn.ReLU(inplace=True)
    )
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
    script = load("cpu/studies/limit.py")
    layers = pd.DataFrame(
        [
            [1, "kept", 2, "convolution", 4.0, 200, 10],
            [1, "kept", 2, "concatenation", 3.0, 0, 20],
            [1, "kept", 2, "step", 7.5, 0, 0],
        ],
        columns=["round", "memory", "step", "type", "seconds", "flops", "bytes"],
    )
    rates = pd.DataFrame(
        {"round": 1, "what": ["convolution", "product", "triad"], "rate": [100.0, 80.0, 10.0]}
    )
    table = script.roof_table(layers, rates).set_index("type")
    assert table["roof"].to_dict() == {
        "convolution": 2.0,
        "concatenation": 2.0,
        "between operators": 0,
        "step": 4.0,
    }
    assert table.loc["between operators", "seconds"] == pytest.approx(0.5)
    assert table.loc["step", "share"] == pytest.approx(100 * 4 / 7.5)


def test_contention_is_what_cores_lose_when_all_are_busy(tmp_path):
    """A step that takes 1.1 times as long, less what the faster rank waits; a triad of 0.8."""
    script = load("cpu/studies/limit.py")
    for run in range(1, 7):
        write_run(tmp_path, 1, run, 3.0, mode="single_process", batch_size=16)
        write_run(tmp_path, 2, run, 3.3, mode="no_communication", batch_size=32)
        write_run(tmp_path, 2, run, 3.3, batch_size=32)
    rates = [
        [run, f"{what}_busy", cores, rate]
        for run in range(1, 7)
        for what, cores, rate in (
            ("product", 1, 9.0),
            ("product", 1, 11.0),
            ("product", 2, 10.0),
            ("triad", 1, 10.0),
            ("triad", 2, 8.0),
        )
    ]
    rates = pd.DataFrame(rates, columns=["round", "what", "cores", "rate"])
    slower = script.contention_table(rates, runs_of(script, tmp_path))
    table = slower.set_index("what")["slower"]
    assert table.to_dict() == pytest.approx(
        {"product": 1.0, "triad": 1.25, "step (memory glibc)": 1.1}
    )


@pytest.fixture
def share_runs(tmp_path):
    """Devices of 0.2 of a core: a step of 4 images on each of 4 takes 6 s, and longer with a
    straggler. A batch of 32 takes a quarter longer than ideal on 2 and 4 devices whose cores
    compute, no longer on those whose cores may pause, and a tenth longer on two real cores."""
    script = load("cpu/studies/shares.py")
    share = {"cpu_share": 0.2, "memory": "kept", "ddp_time": 0.01}
    for run in range(1, 7):
        drift, small = 1 + 0.05 * run, share | {"batch_size": 16}
        write_run(tmp_path / "even", 4, run, 6 * drift, **small)
        for part in (0.5, 0.8):
            own = small | {"options": f"straggler={part}"}
            write_run(tmp_path / f"late{part}", 4, run, 6 * drift / part, **own)
        batch = {"batch_size": 32, "memory": "kept"}
        for n in (1, 2, 4):
            write_run(tmp_path / "pausing", n, run, 48.0 / n * drift, **(share | batch))
            own = share | batch | {"options": "cores=computing"}
            seconds = 44 * drift * (1 if n == 1 else 1.25 / n)
            write_run(tmp_path / "computing", n, run, seconds, **own)
        for n in (1, 2):
            write_run(tmp_path / "real", n, run, 8 * drift * (1 if n == 1 else 0.55), **batch)
    return script, tmp_path


def test_curve_of_emulated_devices_and_stragglers(share_runs, tmp_path):
    script, folder = share_runs
    late = script.straggler_table(script.results.read_results(folder)[0]).set_index("part")
    assert late.loc[[0.8, 0.5], "step_ratio"].tolist() == pytest.approx([1 / 0.8, 2])
    done = run_plots("cpu/studies/shares.py", folder, "--output", tmp_path / "plots")
    assert done.returncode == 0, done.stderr
    result = pd.read_csv(tmp_path / "plots" / "results.csv").set_index("num_devices")
    assert result.loc[4, "speedup"] == pytest.approx(4 / 1.25)
    assert result.loc[4, "allowed"] == 4 and 7 not in result.index  # it has no fixed batch
    assert script.figures.largest_speedup(32, np.array([7])) == pytest.approx(6.4)
    drawn = {path.stem for path in (tmp_path / "plots").glob("*.png")}
    assert drawn == {"speedup"}
    assert "| devices | 2 | 4 |" in done.stdout and "3.20 [3.20, 3.20] |\n" in done.stdout
    assert "| 4 | 4.00 [4.00, 4.00] | 4 |" in done.stdout  # earlier, on cores that may pause


def test_a_fixed_batch_is_held_against_real_cores(share_runs, tmp_path):
    """Two emulated devices against two real cores, and one against its share of one; without the
    controls there are the curve's tables alone."""
    script, folder = share_runs
    alone = tmp_path / "alone"
    alone.mkdir()
    for name in ("computing", "real"):
        (folder / name).rename(alone / name)
    runs = runs_of(script, alone)
    check = script.check_table(*script.of_the_curve(runs)).iloc[0]
    assert check["num_devices"] == 2 and check["real"] == pytest.approx(1 / 0.55)
    assert check["against_real"] == pytest.approx(1.1 / 1.25)
    assert check["factor"] == pytest.approx(44 * 0.2 / 8)
    assert check["over_share"] == pytest.approx(8 / (0.2 * 44 * 1.25 / check["most"]))
    done = run_plots("cpu/studies/shares.py", alone, "--output", tmp_path / "plots")
    assert done.returncode == 0, done.stderr
    made = {path.stem for path in (tmp_path / "plots").glob("*.csv")}
    assert made == {"summary", "curve", "results", "checks"}
    shared = (
        runs["run_id"].astype(int) <= 2
    )  # rounds with two emulated devices, two with real cores
    late = (runs["cpu_share"] == "") & (runs["num_devices"] == 2) & ~shared
    few = runs.assign(rate=runs["rate"].where(~late, 2 * runs["rate"]))
    few = few[shared | (few["cpu_share"] == "") | (few["num_devices"] != 2)]
    check = script.check_table(*script.of_the_curve(few)).iloc[0]
    assert check["rounds_of_both"] == 2 and check["real"] == pytest.approx(2 / 0.55)
    assert check["real_of_both"] == pytest.approx(1 / 0.55)
    few = script.study(runs[runs["num_devices"].isin([1, 4])], alone)  # one and the most alone
    assert few.tables["results"]["num_devices"].tolist() == [4]
    few = script.study(runs[(runs["cpu_share"] == "") | (runs["num_devices"] != 2)], alone)
    check = few.tables["checks"].iloc[0]  # two real cores, and no two emulated devices
    assert check["real"] == pytest.approx(1 / 0.55) and np.isnan(check["against_real"])
    assert (check["rounds"], check["rounds_of_both"]) == (6, 0) and "| 2 | 6 | 1.82" in few.text


def test_what_other_networks_gain(tmp_path):
    script = load("cpu/studies/networks.py")
    for run, (memory, factor) in itertools.product(range(1, 7), (("glibc", 1.5), ("kept", 1.0))):
        for model, time in (("resnet18", 2.0), ("alexnet", 1.0)):
            own = {"memory": memory, "model": model, "minor_faults": 100 * factor}
            write_run(tmp_path / memory / model, 1, run, time * factor, **own)
            write_run(tmp_path / memory / model, 2, run, time / 1.6, **own)
    runs = runs_of(script, tmp_path)
    networks = script.study(runs, tmp_path).tables["networks"]
    table = networks.set_index("model")
    assert table.loc["resnet18", "rate_kept"] == pytest.approx(16.0)
    assert table["speedup_kept"].tolist() == pytest.approx([1.6, 1.6])
    assert table["kept_one"].tolist() == pytest.approx([1.5, 1.5])
    assert table["kept_most"].tolist() == pytest.approx([1.0, 1.0])
    assert table["faults_glibc"].tolist() == pytest.approx([150 / 32] * 2)


def test_what_tuned_malloc_brings_on_another_machine(tmp_path):
    script = load("cpu/studies/repeat.py")
    speedups = {"glibc": 2.4, "kept": 1.8}
    for run, (memory, speedup) in itertools.product(range(1, 7), speedups.items()):
        seconds = (1 + 0.1 * run) * (8.0 if memory == "glibc" else 5.0)
        write_run(tmp_path / memory, 1, run, seconds, memory=memory)
        write_run(tmp_path / memory, 2, run, seconds / speedup, memory=memory)
    (row,) = script.study(runs_of(script, tmp_path), tmp_path).tables["sessions"].to_dict("records")
    assert row["gain"] == pytest.approx(1.6) and row["rounds"] == 6
    assert [row["speedup_glibc"], row["speedup_kept"]] == pytest.approx([2.4, 1.8])


def test_the_best_single_process_is_chosen_and_confirmed_in_other_rounds(tmp_path):
    """The setting that was lucky in the first rounds is chosen; the fresh rounds show it."""
    script = load("cpu/studies/single_process.py")
    common = {"mode": "single_process", "threads": 2}
    for run in range(1, 13):
        write_run(tmp_path / "ddp", 2, run, 4.0)
        lucky = 2.0 if run <= 6 else 4.4
        write_run(tmp_path / "old", 2, run, 4.4, micro_batches=1, **common)
        write_run(tmp_path / "new", 2, run, lucky, micro_batches=2, **common)
    runs = runs_of(script, tmp_path)
    table = script.setting_table(runs.assign(setting=script.name_settings(runs)))
    table = table.set_index("setting")
    assert list(table.index) == [script.OLD, "in micro-batches, memory glibc, NCHW"]
    best = table.iloc[-1]
    assert best["chosen_by"] == pytest.approx(16) and best["over_old"] == pytest.approx(1.0)
    assert best["ddp_over_it"] == pytest.approx(1.1) and best["runs"] == 6
    assert np.isfinite(best["rate_low"])


def blocks_of_readme() -> dict[str, str]:
    """The study that tests/README.md shows: its list and its function."""
    text = (REPOSITORY / "tests" / "README.md").read_text()
    return dict(re.findall(r"```(bash|python)\n(.*?)```", text, re.DOTALL))


def test_the_study_of_the_readme_runs_as_it_is_shown(data, tmp_path):
    """Under 30 lines; it plans, measures, and makes its table."""
    cpu, blocks = copy_of_cpu(tmp_path), blocks_of_readme()
    assert sum(len(text.strip().splitlines()) for text in blocks.values()) < 30
    (cpu / "studies" / "channels.sh").write_text(blocks["bash"])
    (cpu / "studies" / "channels.py").write_text(blocks["python"])
    small = {"CORE_COUNTS": "1", "NUM_RUNS": "1", "STEPS": "1", "WARMUP": "0", "BATCH_SIZES": "2"}
    environment = {**os.environ, **small, "PYTHON": sys.executable, "DATA_DIR": str(data)}
    environment["OPTIONS"] = "--image-size 32"
    done = subprocess.run(
        [cpu / "run_study.sh", "channels"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    plots = cpu / "studies" / "channels" / "plots_own"
    gains = pd.read_csv(plots / "gains.csv")
    assert set(gains["memory"]) == {"glibc", "kept"} and (gains["gain"] > 0).all()
    assert "| memory | img/s | over NCHW |" in (plots / "answers.md").read_text()
    help_text = subprocess.run(
        [cpu / "run_study.sh", "channels", "--help"], capture_output=True, text=True
    )
    assert help_text.stdout.startswith("What the memory format brings on two cores")


def test_a_first_step_that_is_longer_is_told_from_steady_ones(tmp_path):
    """The first step takes three times as long; runs with a warm-up are not looked at."""
    for run in range(1, 7):
        for cores, seconds in ((1, 8.0), (2, 4.1)):
            write_run(tmp_path, cores, run, seconds * (1 + 0.01 * run), steps=5, warmup=0)
            write_run(tmp_path / "warm", cores, run, 99.0, memory="kept")
        # An emulated device's first step is its warm-up.
        write_run(tmp_path / "share", 1, run, 30.0, cpu_share="0.16")
    script = load("cpu/studies/warmup.py")
    study = script.study(runs_of(script, tmp_path), tmp_path)
    table = study.tables["steps"]
    emulated = table[table["device"] == "emulated device"]
    assert emulated["step"].tolist() == [2, 3] and emulated["ratio"].tolist() == [1, 1]
    steps = table[table["device"] == "core"].set_index(["num_devices", "step"])
    assert steps.loc[2, "ratio"].tolist() == pytest.approx([3, 1, 1, 1, 1, 1])
    assert steps.loc[2, "speedup"].tolist() == pytest.approx([8 / 4.1] * 6)
    assert steps.loc[1, "speedup"].isna().all() and len(steps) == 12
    rows = script.step_rows([tmp_path])
    for cores in (1, 2):  # by themselves: no speed-up, and no error
        own = rows[(rows["device"] == "core") & (rows["num_devices"] == cores)]
        assert script.step_table(script.over_steady(own))["speedup"].isna().all()
