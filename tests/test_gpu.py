"""The GPU experiment as far as a CPU can test it: memory, out-of-memory, no GPU, the sweep."""

import json
import math
import os
import re
import statistics
import subprocess
import sys
import time
import types

import pandas as pd
import pytest
import torch
from conftest import INJECTED, REPOSITORY, launch, load, read_rows
from test_plots import write_run
from test_sweep import wait_for
from torchvision.transforms import v2

SCRIPT = "gpu/project_ex_2.py"
GIB = 2**30
CARD = 10.91  # GiB, the card on which the original study ran out of memory at batch 128
ON_CPU = ["--device", "cpu"]
SMALL = ["--image-size", "64", "--steps", "2", "--warmup", "1", "--workers", "0", *ON_CPU]


@pytest.fixture
def script():
    return load(SCRIPT)


def fails_with(script, monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", [SCRIPT, *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        script.main()
    err = capsys.readouterr().err.strip()
    assert end.value.code in (1, 2) and len(err.splitlines()) == 1 and err.startswith("error: ")
    return err


def test_steps_by_time(data, tmp_path):
    """Of two ranks, which must agree on them; on a CPU, at a tiny size."""
    output = tmp_path / "times_run1.csv"
    options = ["--data", data, "--output", output, "--batch-size", 4, "--model", "resnet18"]
    options += ["--image-size", 32, "--workers", 0, "--steps", 0, *ON_CPU]
    done = launch(2, REPOSITORY / SCRIPT, *options)
    assert done.returncode == 0, done.stderr
    seconds = {"0": 0.0, "1": 0.0}
    for row in read_rows(output):
        if row["rank"] == "0":
            seconds[row["warmup"]] += float(row["step_time"])
    steps = [int(row["step"]) for row in read_rows(output) if row["warmup"] == "0"]
    # As long as the trial said; a machine may be busy in it, or after it.
    assert seconds["1"] > 1.0 and seconds["0"] > 1.7 and len(steps) >= 2 * 50


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_no_gpu(script, monkeypatch, capsys, data):
    err = fails_with(script, monkeypatch, capsys, "--data", data)
    assert "no GPU is available" in err and "--device cpu" in err


def test_driver_too_old(script, monkeypatch, capsys, data):
    def init():
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 1).\nMore")

    monkeypatch.setattr(script.torch.cuda, "init", init)
    assert "driver on your system is too old" in fails_with(
        script, monkeypatch, capsys, "--data", data
    )


def test_more_ranks_than_gpus(script, monkeypatch, capsys, data):
    monkeypatch.setattr(script.torch.cuda, "init", lambda: None)
    monkeypatch.setattr(script.torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(script, "LOCAL_RANKS", 2)
    assert "2 ranks need 2 GPUs, 1 are here" in fails_with(
        script, monkeypatch, capsys, "--data", data
    )


def test_out_of_memory_on_one_rank_only(data, tmp_path):
    """Rank 1 runs out in step 1 while rank 0 sits in the all-reduce: a record, and no hang."""
    output = tmp_path / "times_run1.csv"
    begun = time.monotonic()
    done = launch(
        2,
        INJECTED,
        REPOSITORY / SCRIPT,
        "out_of_memory",
        tmp_path,
        "--",
        "--data",
        data,
        "--output",
        output,
        "--batch-size",
        4,
        *SMALL,
    )
    assert done.returncode != 0 and time.monotonic() - begun < 60
    assert not output.exists()
    word = json.loads(output.with_suffix(".skip").read_text())
    assert word["step"] == "out of memory in step 1" and "GiB" in word["reason"]
    assert sorted(path.name for path in tmp_path.glob("times_run1*")) == ["times_run1.skip"]


def sweep(results, data, **settings):
    environment = {
        **os.environ,
        "DEVICE": "cpu",
        "STEPS": "2",
        "WARMUP": "1",
        "NUM_RUNS": "1",
        "GPU_COUNTS": "1",
        "PYTHON": sys.executable,
        "RESULTS_DIR": str(results),
        "DATA_DIR": str(data),
        "FIGURES": "0",
        **settings,
        "OPTIONS": f"--image-size 64 --workers 0 {settings.get('OPTIONS', '')}",
    }
    command = [REPOSITORY / "gpu" / "run_gpu_experiments.sh"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)


def test_sweep_skips_what_does_not_fit_and_goes_on(data, tmp_path):
    results = tmp_path / "gpu_experiments"
    small = {"BATCH_SIZES": "64 4", "OPTIONS": "--memory-limit 0.4"}
    done = sweep(results, data, **small)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SKIPPED: needs" in done.stdout
    assert "of 0.4 GiB (predicted before the run)" in done.stdout
    (skipped,) = results.rglob("skipped.csv")
    row = pd.read_csv(skipped).iloc[0]
    assert (row["num_devices"], row["batch_size"]) == (1, 64) and "GiB" in row["reason"]
    measured = sorted(path.name for path in results.rglob("times_run*.csv"))
    assert measured == ["times_run1.csv"]
    # Not tried again, but in another way: in micro-batches it fits.
    again = sweep(results, data, **small)
    assert again.returncode == 0 and "[1/" not in again.stdout, again.stdout
    small |= {"BATCH_SIZES": "64", "OPTIONS": "--memory-limit 0.4 --on-oom accumulate"}
    smaller = sweep(results, data, **small, FIGURES="1")
    assert smaller.returncode == 0, smaller.stdout + smaller.stderr
    (path,) = results.glob("bs64*accumulate*/times_run1.csv")
    rows = read_rows(path)
    assert int(rows[0]["micro_batches"]) > 1
    assert float(rows[0]["predicted_memory_bytes"]) <= 0.4 * GIB
    names = {path.name for path in (tmp_path / "gpu_plots").iterdir()}
    assert {
        "optimal_gpus.pdf",
        "gpu_memory.png",
        "summary.csv",
        "gpu_throughput_line.png",
        "gpu_time_components_bar.png",
    } <= names


def test_sweep_runs_again_in_micro_batches_after_out_of_memory(data, tmp_path):
    python = tmp_path / "python"  # for runs, not for the description, the script gets the fault
    python.write_text(
        f"""#!/usr/bin/env bash
[[ $1 != */project_ex_2.py || $2 == --describe ]] && exec '{sys.executable}' "$@"
exec '{sys.executable}' '{INJECTED}' "$1" out_of_memory '{tmp_path}' -- "${{@:2}}"
"""
    )
    python.chmod(0o755)
    results = tmp_path / "gpu_experiments"
    settings = {"BATCH_SIZES": "4", "PYTHON": str(python)}
    done = sweep(results, data, OPTIONS="--on-oom accumulate", **settings)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "out of memory in step 1; again with --micro-batches 2" in done.stdout
    (path,) = results.glob("*accumulate*/times_run1.csv")
    assert {row["micro_batches"] for row in read_rows(path)} == {"2"}
    done = sweep(results, data, **settings)
    assert done.returncode == 0 and "SKIPPED" in done.stdout, done.stdout + done.stderr
    (skipped,) = results.rglob("skipped.csv")
    assert "(out of memory in step 1)" in skipped.read_text()


def test_sweep_without_a_gpu_says_so(data, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    done = sweep(tmp_path / "results", data, DEVICE="cuda")
    assert done.returncode == 2 and done.stderr.startswith("error: no GPU is available")
    assert len(done.stderr.strip().splitlines()) == 1 and not (tmp_path / "results").exists()


def runs_of_stage_b(done: subprocess.CompletedProcess) -> set[tuple[str, str]]:
    """Configuration and number of each run that a sweep's lines name as measured."""
    return set(re.findall(r"(\S+) run (\d+): ", done.stdout.split("stage c")[0]))


def test_all_stages_stop_in_time_and_go_on(data, tmp_path):
    """In order of value; complete runs only; a second call does not repeat them."""
    environment = {
        **os.environ,
        "STAGES": "b c d e f",  # a: tests
        "MINUTES": "0.5",
        "DEVICE": "cpu",
        "BATCH_SIZES": "2",
        "STEPS": "1",
        "WARMUP": "1",
        "DATA_DIR": str(data),
        "RESULTS_DIR": str(tmp_path / "rows_own"),
        "OPTIONS": "--image-size 32 --workers 0",
        "PYTHON": sys.executable,
    }

    def run_all(**settings) -> subprocess.CompletedProcess:
        return subprocess.run(
            [REPOSITORY / "gpu" / "run_all.sh"],
            env=environment | settings,
            capture_output=True,
            text=True,
            timeout=90,
        )

    done = run_all()
    assert done.returncode == 3 and "call it again for the rest" in done.stdout, done.stderr
    stages = [line[6] for line in done.stdout.splitlines() if line.startswith("stage ")]
    assert len(stages) >= 1 and stages == sorted(stages) and stages[0] == "b"
    paths = {path: path.read_bytes() for path in tmp_path.rglob("times_run*")}
    assert all(path.suffix == ".csv" and read_rows(path) for path in paths) and paths
    assert not list(tmp_path.rglob("*.tmp*"))
    again = run_all()
    assert again.returncode in (0, 3), again.stderr
    first, second = map(runs_of_stage_b, (done, again))
    assert first and second and not first & second
    assert all(path.read_bytes() == content for path, content in paths.items())
    assert len(list(tmp_path.rglob("times_run*"))) > len(paths)
    names = subprocess.run(["tar", "-tzf", tmp_path / "rows_own.tar.gz"], capture_output=True)
    assert b"rows_own/SHA256SUMS" in names.stdout.splitlines()


def test_the_plan_of_run_all_has_times_and_writes_nothing(data, tmp_path):
    done = subprocess.run(
        [REPOSITORY / "gpu" / "run_all.sh", "--dry-run"],
        env={
            **os.environ,
            "DEVICE": "cpu",
            "MINUTES": "9",
            "DATA_DIR": str(data),
            "RESULTS_DIR": str(tmp_path / "rows_own"),
            "PYTHON": sys.executable,
        },
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    stages = done.stdout.split("stage ")[1:]
    assert [stage[0] for stage in stages] == list("abcdef")
    assert all(re.search(r"about \d+ (s|min)", stage) for stage in stages), done.stdout
    assert not list(tmp_path.iterdir())


# ---- what the GPUs did meanwhile


def test_clocks_of_each_run(tmp_path):
    """Two runs of 3 s: the second is held back by power in one of its seconds; an idle card between
    them is nobody's."""
    lines = []
    for second, (clock, mask) in enumerate(
        [(1700, "1"), (1710, "0"), (1690, "0"), (345, "1"), (1500, "4"), (1500, "0"), (1510, "0")]
    ):
        at = f"2026/11/29 00:00:{second:02}.500"
        lines.append(
            f"{at}, {clock}, {250 if second < 4 else '[N/A]'}, 60, 0x000000000000000{mask}"
        )
    (tmp_path / "state.csv").write_text("\n".join([*lines, "cut, 1"]))
    (tmp_path / "runs.csv").write_text(
        "date,configuration,run_id,wall_s,result\n"
        "2026-11-29T00:00:03+00:00,bs16_gpus1,1,3.0,complete\n"
        "2026-11-29T01:00:07+01:00,bs16_gpus1,2,3.0,complete\n"
        "2026-11-29T00:01:09+00:00,bs16_gpus1,3,3.0,complete\n"  # without a line of nvidia-smi
    )
    plots = load("gpu/gpu_plots_ex_2.py")
    one, two = plots.state_table(tmp_path / "state.csv", tmp_path / "runs.csv").to_dict("records")
    assert (one["clock_mhz"], one["power_w"], one["throttled"]) == (1700, 250, 0)
    assert two["clock_mhz"] == 1500 and two["throttled"] == pytest.approx(1 / 3)
    assert math.isnan(two["power_w"])
    table = plots.state_table(tmp_path / "state.csv", tmp_path / "runs.csv")
    assert "1500 to 1700 between runs; held back by power or heat in 1 of 2 runs" in (
        plots.state_text(table)
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_nvidia_smi_ends_with_the_sweep(data, tmp_path):
    """One that stands in for it: it writes a line a second, and ends when the sweep does."""
    smi = tmp_path / "nvidia-smi"
    smi.write_text(
        '#!/bin/sh\n[ "$1" = --loop=1 ] || exit\necho $$ > "$0.pid"\n'
        "while true; do echo 2026/11/29 00:00:00.500, 1700, 250, 60, 0x0; sleep 0.2; done\n"
    )
    smi.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = sweep(tmp_path / "rows_own", data, DEVICE="cuda", PATH=path)
    assert done.returncode != 0 and "no GPU is available" in done.stderr
    assert (tmp_path / "rows_own_state.csv").read_text().startswith("2026/11/29")
    pid = int((tmp_path / "nvidia-smi.pid").read_text())
    wait_for(lambda: not os.path.exists(f"/proc/{pid}"), 10)


# ---- what limits the rate


def measure_limits(data, output, ranks, *arguments):
    script = REPOSITORY / "gpu" / "measure_limits.py"
    options = ["--round", 1, "--output", output, "--data", data, "--batch-size", 4, *SMALL]
    return launch(ranks, script, *options, "--model", "resnet18", *arguments)


def test_limits_are_measured_once(data, tmp_path):
    output = tmp_path / "limits.csv"
    for _ in range(2):
        for ranks in (1, 2):
            done = measure_limits(data, output, ranks)
            assert done.returncode == 0, done.stderr
    rows = read_rows(output)
    found = [(row["gpus"], row["what"]) for row in rows]
    assert found == [("1", "resident"), ("1", "loader"), ("1", "together"), ("2", "all_reduce")]
    assert all(float(row["rate"]) > 0 for row in rows)


@pytest.mark.alone
def test_a_slow_loader_is_seen_as_the_limit(data, monkeypatch):
    limits = load("gpu/measure_limits.py")
    training = limits.training
    get = training.Images.__getitem__

    def slow(self, key):
        time.sleep(0.5)
        return get(self, key)

    monkeypatch.setattr(training.Images, "__getitem__", slow)
    options = ["--data", str(data), "--batch-size", "2", "--model", "resnet18", *SMALL]
    run = training.parse_arguments([*options, "--mode", "single_process"])
    training.join_ranks("gloo", 60)
    try:
        device = training.build_device(run)
        images = training.Images(run.data, run.image_size, run.seed, run.loader)
        rates = limits.limits_of_one(run, images, device)
    finally:
        training.dist.destroy_process_group()
    assert 1.6 < rates["loader"] < 2.05 and rates["together"] < rates["loader"]
    assert rates["resident"] > 2 * rates["together"]


def test_table_of_limits(tmp_path):
    lines = ["round,gpus,batch_size,precision,channels_last,workers,what,rate"]
    for number in range(1, 7):
        drift = 1 + 0.1 * number
        for what, rate in {"resident": 800, "loader": 900, "together": 600}.items():
            lines.append(f"{number},1,64,bf16,1,7,{what},{drift * rate}")
        lines.append(f"{number},2,64,bf16,1,7,all_reduce,{90e9}")
    path = tmp_path / "limits.csv"
    path.write_text("\n".join(lines))
    plots = load("gpu/gpu_plots_ex_2.py")
    one, two = plots.limits_table(path).to_dict("records")
    assert [one["kept"], one["kept_low"]] == pytest.approx([0.75, 0.75])
    assert two["all_reduce"] == pytest.approx(90) and two["rounds"] == 6
    text = plots.limits_text(plots.limits_table(path))
    assert "| 1 | 64 | 6 |" in text and "0.750 [0.750, 0.750]" in text


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU: clocks and memory")
def test_predicted_memory_on_a_gpu(data, tmp_path):
    memory = load("gpu/predict_memory.py")
    card = torch.cuda.get_device_properties(0).total_memory
    for batch, tolerance in {64: 0.05, 128: 0.05, 16: 0.1, 32: 0.1, 48: 0.1, 96: 0.1}.items():
        if memory.predict_memory(memory.Task("densenet121", batch)).total > 0.9 * card:
            continue
        output = tmp_path / f"bs{batch}.csv"
        done = launch(
            1,
            REPOSITORY / SCRIPT,
            "--data",
            data,
            "--output",
            output,
            "--steps",
            3,
            "--batch-size",
            batch,
            "--workers",
            2,
        )
        assert done.returncode == 0, done.stderr
        row = read_rows(output)[0]
        measured, predicted = (float(row[f"{name}_memory_bytes"]) for name in ("peak", "predicted"))
        assert abs(predicted / measured - 1) < tolerance, (batch, predicted, measured)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU: kernels")
def test_clocks_on_a_gpu(data, tmp_path):
    """Kernels of known length in forward, backward and optimizer are found there, within 3 %."""
    output, places = tmp_path / "times_run1.csv", load("tests/injected.py").PLACES
    done = launch(
        1,
        INJECTED,
        REPOSITORY / SCRIPT,
        "sleep",
        tmp_path,
        "--",
        "--data",
        data,
        "--output",
        output,
        "--batch-size",
        16,
        "--steps",
        36,
        "--warmup",
        9,
        "--workers",
        0,
        INJECTED_SLEEP="0.2",
    )
    assert done.returncode == 0, done.stderr
    rows = [row for row in read_rows(output) if row["warmup"] == "0"]
    for part in ("forward", "backward", "optimizer"):
        found = {
            place: statistics.median(
                float(row[f"{part}_time"])
                for row in rows
                if places[int(row["step"]) % len(places)] == place
            )
            for place in (part, "nowhere")
        }
        print(f"{part}: {1000 * (found[part] - found['nowhere']):.1f} of 200 ms")
        assert found[part] - found["nowhere"] == pytest.approx(0.2, rel=0.03), part


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU: gradients")
def test_gradients_on_a_gpu(data, tmp_path):
    """The same weights after two steps with 1, 2 and 3 ranks that share the GPU."""
    parameters = {}
    for ranks in (1, 2, 3):
        output = tmp_path / f"ranks{ranks}.csv"
        done = launch(
            ranks,
            INJECTED,
            REPOSITORY / SCRIPT,
            "record",
            tmp_path,
            "--",
            "--data",
            data,
            "--output",
            output,
            "--batch-size",
            7,
            "--steps",
            2,
            "--warmup",
            0,
            "--workers",
            0,
            "--image-size",
            64,
            *(["--oversubscribe"] if ranks > 1 else []),
        )
        assert done.returncode == 0, done.stderr
        saved = torch.load(tmp_path / f"{output.stem}_rank0.pt", map_location="cpu")
        parameters[ranks] = {k: v for k, v in saved["parameters"].items() if v.is_floating_point()}
    for ranks in (2, 3):
        worst = max((parameters[ranks][k] - v).abs().max() for k, v in parameters[1].items())
        print(f"{ranks} ranks: weights differ by {worst:.1e}")
        assert worst < 1e-5


def test_a_sweep_takes_as_many_workers_on_any_number_of_gpus():
    """Or 1, 2 and 3 GPUs would share no series, and no speed-up be computed."""
    environment = {**os.environ, "DEVICES": "3", "BATCH_SIZES": "32"}
    command = [REPOSITORY / "gpu" / "run_gpu_experiments.sh", "--list"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [[f"bs32_gpus{n}", str(n)] for n in (1, 2, 3)]
    expected = max(1, os.cpu_count() // 3 - 1)
    assert all(f"WORKERS={expected} " in line for line in lines)


def test_the_gpus_of_several_nodes_come_in_multiples_of_them():
    environment = {**os.environ, "DEVICES": "8", "NNODES": "4", "BATCH_SIZES": "32"}
    command = [REPOSITORY / "gpu" / "run_gpu_experiments.sh", "--list"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert [line.split()[1] for line in done.stdout.splitlines()] == ["4", "8"]


def test_speedups_of_1_to_3_gpus_and_the_optimal_number(tmp_path):
    """Generated rows; on one GPU memory allows micro-batches only: a mark on its batch's line."""
    for run in range(1, 7):
        for gpus, speedup in ((1, 1.0), (2, 1.86), (3, 2.6)):
            settings = {"options": "on_oom=accumulate", "micro_batches": 4 if gpus == 1 else 1}
            settings |= {"workers": 4, "host_ahead_time": 0.5 if gpus < 3 else 0.0}
            folder = tmp_path / "gpu_experiments" / str(gpus)
            write_run(folder, gpus, run, (1 + 0.01 * run) / speedup, **settings)
    done = subprocess.run(
        [sys.executable, REPOSITORY / "gpu" / "gpu_plots_ex_2.py", tmp_path / "gpu_experiments"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "gpu_plots" / "summary.csv")
    assert table["series"].nunique() == 1
    assert table.set_index("num_devices")["speedup"].tolist() == pytest.approx([1, 1.86, 2.6])
    plots = load("gpu/gpu_plots_ex_2.py")
    assert plots.best_gpus(table) == [3]
    figure, axes = plots.plt.subplots()
    notes = plots.mark_points(axes, table.astype({"micro_batches": str}))
    words = [text.get_text() for text in axes.texts]
    assert words == ["in 4 micro-batches", "", "launch-bound"] and len(notes) == 1


def test_charts_of_the_original_studys_rows(tmp_path):
    """What a user will get, while nothing was measured here; labelled as not ours."""
    plots = load("gpu/gpu_plots_ex_2.py")
    table = plots.original_table()
    assert plots.speedup_message(table) == (
        "3 GPUs are 1.17 times as fast as one at batch 16, 2.17 times at batch 64"
    )
    best = {batch: plots.best_gpus(rows) for batch, rows in table.groupby("batch_size")}
    assert best == {16: [1, 2, 3], 32: [1, 2, 3], 64: [3], 128: [2, 3]}
    plots.draw_original(tmp_path)
    names = {path.name for path in tmp_path.glob("*.png")}
    assert names == {"gpu_throughput_line.png", "optimal_gpus.png"}


@pytest.mark.parametrize(
    ("capability", "built_for", "runs"),
    [
        ((8, 9), ["sm_80", "sm_90"], True),  # code for 8.0 runs on 8.9
        ((9, 0), ["sm_80", "sm_86"], False),
        ((9, 0), ["sm_80", "compute_80"], True),  # compiled by the driver
        ((6, 1), ["sm_75", "sm_80", "compute_120"], False),  # Pascal in a build for CUDA 13
        ((7, 0), ["sm_70", "sm_75"], True),
        ((12, 0), ["sm_120"], True),
        ((9, 0), ["sm_90a"], True),
    ],
)
def test_cards_that_this_torch_has_code_for(script, capability, built_for, runs):
    assert script.has_code(capability, built_for) is runs


@pytest.mark.parametrize(
    ("card", "precision", "words"),
    [
        (("Tesla T4", 7, 5), "bf16", "Tesla T4 (compute capability 7.5) has no bf16"),
        (("Tesla T4", 7, 5), "tf32", "has no tf32"),
        (("Tesla T4", 7, 5), "fp16", ""),
        (("GTX 1080 Ti", 6, 1), "fp32", "no code for GTX 1080 Ti (compute capability 6.1)"),
    ],
)
def test_what_a_card_cannot_do_is_said_first(script, monkeypatch, card, precision, words):
    name, major, minor = card
    properties = types.SimpleNamespace(name=name, major=major, minor=minor)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_80", "sm_90"])
    args = script.parse_arguments(["--precision", precision])
    if not words:
        script.check_card(args)
        return
    with pytest.raises(script.RunError, match=re.escape(words)):
        script.check_card(args)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True),
        ("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED", True),
        ("NCCL error ... Failed to CUDA calloc async: out of memory", True),
        ("Expected all tensors to be on the same device", False),
    ],
)
def test_out_of_memory_in_other_libraries_words(script, message, expected):
    assert script.is_out_of_memory(RuntimeError(message)) is expected
    assert script.is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))


def test_a_limit_above_the_card_is_an_error(script, monkeypatch):
    memory = load("gpu/predict_memory.py")
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (10 * GIB, 11 * GIB))
    args = script.parse_arguments(["--memory-limit", "12"])
    with pytest.raises(memory.CardError, match="12.0 GiB is above the card's 11.00 GiB"):
        memory.card_memory(args)


def test_nothing_is_copied_from_lists_in_a_step(script, monkeypatch):
    """The channels' mean and deviation are made once: each copy would stall the host."""
    made = []
    plain = torch.tensor
    monkeypatch.setattr(torch, "tensor", lambda *a, **k: made.append(a) or plain(*a, **k))
    script.channel_statistics.cache_clear()
    device = script.build_device(script.parse_arguments(ON_CPU))
    images = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    for _ in range(3):
        found, _labels = script.to_device([images, torch.zeros(2)], device)
    assert len(made) == 2
    wanted = v2.functional.normalize(images.float() / 255, script.MEAN, script.STD)
    assert torch.allclose(found, wanted, atol=1e-6)
