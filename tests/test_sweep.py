"""The sweep as a user meets it: it runs, resumes, refuses and fails as it says. Real runs."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import REPOSITORY, read_rows

SWEEP = REPOSITORY / "cpu" / "run_experiments.sh"
SMALL = {"BATCH_SIZES": "4", "CORE_COUNTS": "1 2", "NUM_RUNS": "1", "STEPS": "2", "WARMUP": "1",
         "IMAGE_SIZE": "64", "OVERSUBSCRIBE": "1", "PYTHON": sys.executable}  # fmt: skip


def start(results: Path, data: Path, *arguments: str, **settings: str) -> subprocess.Popen:
    environment = {**os.environ, **SMALL, "RESULTS_DIR": str(results), "DATA_DIR": str(data)}
    return subprocess.Popen(
        [str(SWEEP), *arguments], env=environment | settings, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def sweep(results: Path, data: Path, *arguments: str, **settings: str):
    process = start(results, data, *arguments, **settings)
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


def processes_of(results: Path) -> dict[int, str]:
    """The processes that work for a results folder: pid -> rank, or '' for the others."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
            if str(results).encode() in command:
                variables = (folder / "environ").read_bytes().split(b"\0")
                rank = [v[5:].decode() for v in variables if v.startswith(b"RANK=")]
                found[int(folder.name)] = rank[0] if rank and b"project_ex" in command else ""
        except OSError:
            continue
    return found


def wait_for(condition, seconds: float):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.1)
    raise AssertionError(f"not within {seconds} s: {condition}")


def contents(folder: Path) -> dict[str, bytes]:
    files = folder.rglob("times_run*.csv")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_a_sweep_then_figures_then_only_what_is_missing(data, tmp_path):
    results = tmp_path / "cpu_run"
    status, out, err = sweep(results, data, "--dry-run")
    assert status == 0 and "plan: 5 runs to do" in out and not results.exists(), err
    status, out, err = sweep(results, data)
    assert status == 0, out + err
    assert "[5/5]" in out and "img/s" in out and "all runs are complete" in out
    environment = json.loads((results / "environment.json").read_text())
    two = "bs4_cores2" + "_oversubscribed" * (environment["identity"]["cores_granted"] < 2)
    cells = {Path(name).parent.name for name in contents(results)}
    assert cells == {
        "bs4_cores1", "bs4_cores1_single_process", two, f"{two}_single_process",
        f"{two}_no_communication",
    }  # fmt: skip
    assert environment["identity"]["dataset"].endswith("(stand-in, not Imagenette)")
    assert {row["result"] for row in read_rows(results / "runs.csv")} == {"complete"}

    script = REPOSITORY / "cpu" / "plot_cpu_results.py"
    command = [sys.executable, script, results, "--output", tmp_path / "plots"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0 and "batch 4" in done.stdout, done.stderr

    before = contents(results)
    removed = sorted(before)[0]
    (results / removed).unlink()
    status, out, err = sweep(results, data)
    assert status == 0 and "[1/1]" in out, out + err
    after = contents(results)
    assert after.pop(removed) != before.pop(removed) and after == before

    # Another identity: what was measured is moved aside whole, and nothing is mixed.
    everything = contents(results)
    status, out, err = sweep(results, data, SEED="1", CORE_COUNTS="1", BOUNDS="none")
    assert status == 0 and "They are kept in" in out and '"seed": 1' in out, out + err
    aside = [path for path in tmp_path.iterdir() if path.name.startswith("cpu_run_until_")]
    assert len(aside) == 1 and contents(aside[0]) == everything
    assert list(contents(results)) == ["bs4_cores1/times_run1.csv"]


def test_killed_and_hung_ranks_and_ctrl_c(data, tmp_path):
    """Run 1 loses a rank, run 2 has one that hangs, run 3 completes, run 4 meets Ctrl-C."""
    results = tmp_path / "cpu_run"
    process = start(results, data, CORE_COUNTS="2", NUM_RUNS="4", BOUNDS="none", RUN_TIMEOUT="25")

    def ranks_of_run(number: int) -> list[int]:
        name = f"times_run{number}.csv"
        found = processes_of(results)
        return [pid for pid, rank in found.items() if rank == "1" and name in command_of(pid)]

    def command_of(pid: int) -> str:
        try:
            return Path(f"/proc/{pid}/cmdline").read_text()
        except OSError:
            return ""

    os.kill(wait_for(lambda: ranks_of_run(1), 60)[0], signal.SIGKILL)
    os.kill(wait_for(lambda: ranks_of_run(2), 60)[0], signal.SIGSTOP)
    # A second sweep in the same folder is refused while this one runs.
    status, _, err = sweep(results, data)
    assert status == 2 and "another sweep is running" in err and len(err.splitlines()) == 1
    wait_for(lambda: ranks_of_run(4), 120)
    complete = contents(results)
    os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "stopped: complete runs are kept" in out, out + err
    assert "FAILED: rank 1 ended by signal 9;" in out
    assert "FAILED: not done after 25 s (RUN_TIMEOUT)" in out
    assert len(complete) == 1 and contents(results) == complete
    wait_for(lambda: not processes_of(results), 15)
    assert not list(results.rglob("*.tmp"))


def test_messages_of_the_sweep(data, tmp_path):
    cases = [
        ({"NUM_RUNS": "ten"}, (), "NUM_RUNS='ten' is not a whole number"),
        ({"CORE_COUNTS": "1,2"}, (), "CORE_COUNTS='1,2' is not a list"),
        ({}, ("--fast",), "unknown option '--fast'"),
        ({"DATA_DIR": str(tmp_path / "none")}, (), "prepare_imagenette.py"),
        ({"PRECISION": "fp8"}, (), "fp8"),
        ({"RESULTS_DIR": "/proc/cpu_run"}, (), "cannot create the results folder /proc/cpu_run"),
    ]
    for settings, arguments, message in cases:
        status, out, err = sweep(tmp_path / "cpu_run", data, *arguments, **settings)
        assert status == 2 and message in err and err.startswith("error: "), (settings, err)
        assert len(err.strip().splitlines()) == 1 and not out
    assert not (tmp_path / "cpu_run").exists()


def test_a_failed_configuration_does_not_stop_the_sweep(data, tmp_path):
    results = tmp_path / "cpu_run"
    status, out, err = sweep(results, data, BATCH_SIZES="1", BOUNDS="none")
    assert status == 1, out + err
    assert "FAILED: a total batch of 1 leaves some of 2 ranks without an image" in out
    assert "1 of 2 runs failed" in err
    assert list(contents(results)) == ["bs1_cores1/times_run1.csv"]
    assert {row["result"] for row in read_rows(results / "runs.csv")} == {"complete", "failed"}


@pytest.mark.parametrize("script", ["run_experiments.sh", "run_original_protocol.sh"])
def test_help_and_mode(script):
    path = REPOSITORY / "cpu" / script
    assert os.access(path, os.X_OK)
    tracked = subprocess.run(
        ["git", "-C", str(REPOSITORY), "ls-files", "--stage", str(path)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert tracked.returncode or tracked.stdout.startswith("100755 ")
    done = subprocess.run([path, "--help"], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0
    for name in ("BATCH_SIZES", "CORE_COUNTS", "NUM_RUNS", "RUN_TIMEOUT", "BOUNDS", "RESULTS_DIR"):
        assert name in done.stdout
