"""The GPU experiment as far as a CPU can test it: memory, out-of-memory, no GPU, the sweep."""

import json
import os
import statistics
import subprocess
import sys
import time

import pandas as pd
import pytest
import torch
from conftest import INJECTED, REPOSITORY, launch, load, read_rows

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
        "throughput_bs4.png",
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


def test_all_stages_stop_in_time_and_go_on(data, tmp_path):
    """In order of value; complete runs only; a second call does not repeat them."""
    environment = {
        **os.environ,
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
    assert len(stages) >= 1 and stages == sorted(stages) and stages[0] == "a"
    paths = {path: path.read_bytes() for path in tmp_path.rglob("times_run*")}
    assert all(path.suffix == ".csv" and read_rows(path) for path in paths) and paths
    assert not list(tmp_path.rglob("*.tmp*"))
    again = run_all()
    assert again.returncode in (0, 3) and "run 1:" not in again.stdout.split("stage b")[0]
    assert all(path.read_bytes() == content for path, content in paths.items())
    assert len(list(tmp_path.rglob("times_run*"))) > len(paths)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU: clocks and memory")
def test_predicted_memory_on_a_gpu(data, tmp_path):
    for batch, tolerance in {64: 0.05, 128: 0.05, 16: 0.1, 32: 0.1, 48: 0.1, 96: 0.1}.items():
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
        assert worst < 1e-3
