"""The sweep as a user meets it: it runs, resumes, refuses and fails as it says. Real runs."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import REPOSITORY, load, read_rows

SWEEP = REPOSITORY / "cpu" / "run_experiments.sh"
SMALL = {
    "BATCH_SIZES": "4",
    "CORE_COUNTS": "1 2",
    "NUM_RUNS": "1",
    "STEPS": "2",
    "WARMUP": "1",
    "OPTIONS": "--image-size 32",
    "OVERSUBSCRIBE": "1",
    "SERIES": "strong",
    "FIGURES": "0",
    "MEMORIES": "glibc",
    "PYTHON": sys.executable,
}
SIZE = "_image_size_32"  # what these options add to the folders' names


def start(
    results: Path, data: Path, *arguments: str, program: Path = SWEEP, **settings: str
) -> subprocess.Popen:
    environment = {**os.environ, **SMALL, "RESULTS_DIR": str(results), "DATA_DIR": str(data)}
    return subprocess.Popen(
        [str(program), *arguments],
        env=environment | settings,
        text=True,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def copy_of_cpu(folder: Path) -> Path:
    """The scripts of a clone in which nothing was measured yet: its folder cpu."""
    for name in ("common", "cpu", "data"):
        shutil.copytree(
            REPOSITORY / name,
            folder / name,
            ignore=shutil.ignore_patterns("*.csv", "*.png", "*.pdf", "runs*", "imagenette2*"),
        )
    return folder / "cpu"


def sweep(results: Path, data: Path, *arguments: str, program: Path = SWEEP, **settings: str):
    process = start(results, data, *arguments, program=program, **settings)
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
    """The user's own: figures after the first round, and at the end against the published."""
    cpu = copy_of_cpu(tmp_path)
    own, published, sweep_own = cpu / "cpu_run_own", cpu / "cpu_run", cpu / "run_experiments.sh"
    mine = {
        "RESULTS_DIR": "",
        "FIGURES": "1",
        "CORE_COUNTS": "1 1 2 999",
        "OVERSUBSCRIBE": "0",
        "BOUNDS": "none",
    }
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("two ranks need two cores")
    status, out, err = sweep(own, data, "--dry-run", program=sweep_own, **mine)
    assert status == 0 and "plan: 2 runs, about 80 s (at 40 s per run)" in out, out + err
    assert "cannot run on 999: " in out and not own.exists()
    status, out, err = sweep(own, data, program=sweep_own, **mine)
    assert status == 0, out + err
    assert "[2/2]" in out and "img/s" in out and "all runs are complete" in out
    environment = json.loads((own / "environment.json").read_text())
    cells = {Path(name).parent.name for name in contents(own)}
    assert cells == {f"bs4_cores1{SIZE}", f"bs4_cores2{SIZE}"}
    assert environment["identity"]["dataset"].endswith("(stand-in, not Imagenette)")
    assert {row["result"] for row in read_rows(own / "runs.csv")} == {"complete"}
    assert "available" in (own / f"bs4_cores999{SIZE}" / "skipped.csv").read_text()
    drawn = {path.name for path in (cpu / "cpu_plots_own").iterdir()}
    assert {"throughput_line.png", "time_components_bar.pdf", "summary.csv"} <= drawn

    before = contents(own)
    removed = sorted(before)[0]
    (own / removed).unlink()
    shutil.rmtree(published, ignore_errors=True)
    shutil.copytree(own, published)
    status, out, err = sweep(own, data, program=sweep_own, **mine)
    assert status == 0 and "[1/1]" in out and f"against {published}" in out, out + err
    after = contents(own)
    assert after.pop(removed) != before.pop(removed) and after == before

    # Another identity: the user's results are moved aside whole, a named folder is refused.
    everything = contents(own)
    other = {"OPTIONS": "--image-size 32 --seed 1", "CORE_COUNTS": "1", "BOUNDS": "none"}
    status, out, err = sweep(published, data, **other)
    assert status == 2 and "seed 0 there, 1 here" in err and len(err.splitlines()) == 1, out + err
    settings = mine | other | {"FIGURES": "0"}
    status, out, err = sweep(own, data, program=sweep_own, **settings)
    assert status == 0 and "They are kept in" in out and "seed 0 there, 1 here" in out, out + err
    (aside,) = cpu.glob("cpu_run_own_until_*")
    assert contents(aside) == everything
    assert list(contents(own)) == [f"bs4_cores1{SIZE}_seed_1/times_run1.csv"]


def test_variants_take_turns_in_folders_of_their_own(data, tmp_path):
    """Equal lines once, an allocator by its name; a batch below the ranks is known before."""
    settings = {
        "VARIANTS": "; ; MEMORY=kept --precision bf16",
        "CORE_COUNTS": "1",
        "BOUNDS": "none",
        "BATCH_SIZES": "2 2",
    }
    results = tmp_path / "cpu_run"
    status, out, err = sweep(results, data, **settings)
    assert status == 0, out + err
    cells = [f"bs2_cores1{SIZE}", f"bs2_cores1_kept{SIZE}_precision_bf16"]
    assert sorted(contents(results)) == [f"{cell}/times_run1.csv" for cell in cells]
    fast = read_rows(results / cells[1] / "times_run1.csv")[0]
    assert (fast["memory"], fast["precision"]) == ("kept", "bf16")
    status, out, err = sweep(tmp_path / "other", data, CORE_COUNTS="2", BATCH_SIZES="1")
    assert status == 2 and "a batch of 1 leaves some of 2 ranks without an image" in out, out + err


@pytest.mark.alone
def test_killed_and_hung_ranks_and_ctrl_c(data, tmp_path):
    """Run 1 loses a rank, run 2 has one that hangs, run 3 completes, run 4 meets Ctrl-C."""
    results = tmp_path / "cpu_run"
    process = start(results, data, CORE_COUNTS="2", NUM_RUNS="4", BOUNDS="none", RUN_TIMEOUT="16")

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
    assert (
        status == 2
        and "another sweep is running on this machine" in err
        and len(err.splitlines()) == 1
    )
    wait_for(lambda: ranks_of_run(4), 120)
    complete = contents(results)
    os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "stopped: complete runs are kept" in out, out + err
    assert "FAILED: rank 1 ended by signal 9;" in out
    assert "FAILED: not done after 16 s (RUN_TIMEOUT)" in out
    assert len(complete) == 1 and contents(results) == complete
    wait_for(lambda: not processes_of(results), 15)
    assert not list(results.rglob("*.tmp"))


def test_messages_of_the_sweep(data, tmp_path):
    cases = [
        ({"NUM_RUNS": "ten"}, (), "NUM_RUNS: expected an integer >= 1, got 'ten'"),
        ({"CORE_COUNTS": "1,2"}, (), "CORE_COUNTS: expected integers >= 1 like '1 2 4', got '1,2'"),
        ({"BOUNDS": "some"}, (), "BOUNDS: expected all, ends or none"),
        ({"NNODES": "2"}, (), "NNODES=2 needs LAUNCHER and MASTER_ADDR"),
        ({}, ("--fast",), "unknown option '--fast'"),
        ({"DATA_DIR": str(tmp_path / "none")}, (), "prepare_imagenette.py"),
        ({"OPTIONS": "--precision fp8"}, (), "fp8"),
        ({"OPTIONS": "--batch-size 8"}, (), "the sweep itself sets --batch-size"),
        ({"MEMORIES": "keptt"}, (), "MEMORIES: expected some of glibc, kept"),
        ({"VARIANTS": "; --threads 2"}, (), "the sweep itself sets --threads"),
        ({"OPTIONS": "--output x"}, (), "the sweep itself sets --output"),
        ({"THREADS": "x"}, (), "THREADS: expected an integer >= 0, got 'x'"),
        ({"SERIES": "strongly"}, (), "SERIES: expected strong, weak or both"),
        ({"OVERSUBSCRIBE": "yes"}, (), "OVERSUBSCRIBE: expected 0 or 1, got 'yes'"),
        ({"CYCLES": "0"}, (), "CYCLES: expected an integer >= 1, got '0'"),
        ({"MINUTES": "soon"}, (), "MINUTES: expected a number of minutes"),
        ({"OPTIONS": "--note 'x"}, (), "OPTIONS: No closing quotation"),
        ({"OPTIONS": "--batch-size=8"}, (), "the sweep itself sets --batch-size"),
        ({"CPU_SHARE": "0.2 0.3"}, (), "CPU_SHARE: expected one share of a core"),
        ({}, ("--dry-run", "--fast"), "unknown option '--fast'"),
        ({"RESULTS_DIR": "/proc/cpu_run"}, (), "cannot create the results folder /proc/cpu_run"),
    ]
    for settings, arguments, message in cases:
        status, out, err = sweep(tmp_path / "cpu_run", data, *arguments, **settings)
        assert status == 2 and message in err and err.startswith("error: "), (settings, err)
        assert len(err.strip().splitlines()) == 1 and not out
    assert not (tmp_path / "cpu_run").exists()


def test_a_failed_configuration_does_not_stop_the_sweep(data, tmp_path):
    """One of two variants asks for too many micro-batches: its run fails, the other's is kept."""
    results = tmp_path / "cpu_run"
    settings = {"BOUNDS": "none", "CORE_COUNTS": "1", "VARIANTS": "; --micro-batches 999"}
    status, out, err = sweep(results, data, **settings)
    assert status == 1, out + err
    assert "FAILED: a batch of 4 is too small for 999 ranks or micro-batches" in out
    assert "1 failed; start the sweep again" in out
    assert list(contents(results)) == [f"bs4_cores1{SIZE}/times_run1.csv"]
    assert {row["result"] for row in read_rows(results / "runs.csv")} == {"complete", "failed"}
    assert len(list(results.rglob("*.log"))) == 1


def listed(script: str, **settings: str) -> list[str]:
    environment = {**os.environ, "DEVICES": "4", **settings}
    done = subprocess.run(
        [REPOSITORY / script, "--list"], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


def test_the_loops_list_series_bounds_and_memories():
    settings = {"CORE_COUNTS": "4 1 2 8", "MEMORIES": "kept"}
    settings |= {"SERIES": "strong weak", "BOUNDS": "ends"}
    lines = listed("cpu/run_experiments.sh", **settings)
    folders = [line.split()[0] for line in lines]
    assert set(folders) == {
        "bs32_cores1_kept",
        "bs32_cores2_kept",
        "bs32_cores4_kept",  # strong
        "bs8_cores1_kept",
        "bs16_cores2_kept",  # weak: 8 images per core on the most cores
        "bs32_cores1_kept_single_process",
        "bs8_cores1_kept_single_process",
        "bs32_cores4_kept_single_process",
        "bs32_cores4_kept_no_communication",
        "bs32_cores8_kept",
    }
    lines = {line.split()[0]: line for line in lines}
    assert lines["bs32_cores8_kept"].endswith("skip 8 32 4 cores are available")
    assert (
        lines["bs32_cores4_kept_single_process"].split()[1:]
        == (
            "1 4 MEMORY=kept --batch-size 32 --threads 4 --mode single_process --micro-batches 4"
        ).split()
    )
    # By default a fixed batch with default and tuned malloc.
    assert len(listed("cpu/run_experiments.sh", CORE_COUNTS="1 2")) == 4


def test_the_loops_over_gpus():
    lines = listed(
        "gpu/run_gpu_experiments.sh", BATCH_SIZES="2 64", DEVICES="3", GPU_COUNTS="1 2 3 4"
    )
    folders = {line.split()[0]: line for line in lines}
    assert folders["bs2_gpus3"].endswith("a batch of 2 leaves some of 3 ranks without an image")
    assert folders["bs64_gpus4"].endswith("skip 4 64 3 GPUs are available")
    assert {"bs64_gpus1", "bs64_gpus2", "bs64_gpus3"} <= set(folders)
    nodes = listed("gpu/run_gpu_experiments.sh", BATCH_SIZES="64", NNODES="2", GPU_COUNTS="2 3")
    assert [re.sub(r"WORKERS=\d+ ", "", line) for line in nodes] == [
        "bs64_gpus2 2 1 --batch-size 64",
        "bs64_gpus3 skip 3 64 2 nodes cannot share 3 ranks equally",
    ]


@pytest.mark.parametrize("words", [["run_experiments.sh"], ["run_study.sh", "original_protocol"]])
def test_help_and_mode(words):
    script, *arguments = words
    path = REPOSITORY / "cpu" / script
    assert os.access(path, os.X_OK)
    tracked = subprocess.run(
        ["git", "-C", str(REPOSITORY), "ls-files", "--stage", str(path)],
        capture_output=True,
        text=True,
    )
    assert tracked.returncode or tracked.stdout.startswith("100755 ")
    done = subprocess.run([path, *arguments, "--help"], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0
    for name in ("BATCH_SIZES", "CORE_COUNTS", "NUM_RUNS", "RUN_TIMEOUT", "BOUNDS", "RESULTS_DIR"):
        assert name in done.stdout


def test_a_study_that_is_told_to_end_ends_its_sweep(data, tmp_path):
    """The signal reaches bash alone, as from kill or a batch system."""
    study = REPOSITORY / "cpu" / "run_study.sh"
    process = start(tmp_path / "rows", data, "networks", program=study, STEPS="2000")
    wait_for(lambda: processes_of(tmp_path), 60)
    process.terminate()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 143 and "stopped: complete runs are kept" in out, out + err
    wait_for(lambda: not processes_of(tmp_path), 30)


STUDIES = sorted(path.stem for path in (REPOSITORY / "cpu" / "studies").glob("*.sh"))


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_has_a_plan_in_a_fresh_clone(data, tmp_path, name):
    """Nothing is written, generated or measured for it. (Review, defect 14.)"""
    needs_root = name in ("shares", "network")
    if needs_root and (os.geteuid() or not Path("/sys/fs/cgroup/cpu/cgroup.procs").exists()):
        pytest.skip("shares of a core need root and the cpu controller")
    cpu = copy_of_cpu(tmp_path)
    before = {path for path in tmp_path.rglob("*") if path.suffix != ".pyc"}
    environment = {**os.environ, "PYTHON": sys.executable, "DATA_DIR": str(data)}
    command = [cpu / "run_study.sh", name, "--dry-run"]
    process = load("common/process.py")
    if name in ("memory", "malloc") and any(map(process.missing_library, process.MEMORIES)):
        pytest.skip("jemalloc, tcmalloc and mimalloc are not installed")
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing was written" in done.stdout and " min (" in done.stdout
    after = {path for path in tmp_path.rglob("*") if path.suffix != ".pyc"}
    assert {path for path in after - before if path.name != "__pycache__"} == set()


def test_an_unknown_study_is_a_line():
    command = [REPOSITORY / "cpu" / "run_study.sh", "memori"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(
        "error: no study 'memori': there are advise curve limit loading malloc"
    )


def test_two_nodes_by_a_launcher(data, tmp_path):
    """common/on_hosts.sh with an ssh that stays on this machine: each rank is on its node, and a
    launcher that fails is a failed run."""
    ssh = tmp_path / "bin" / "ssh"
    ssh.parent.mkdir()
    ssh.write_text('#!/bin/sh\nfor line in "$@"; do :; done\nexec bash -c "$line"\n')
    ssh.chmod(0o700)
    settings = {
        "PATH": f"{ssh.parent}:{os.environ['PATH']}",
        "NNODES": "2",
        "MASTER_ADDR": "127.0.0.1",
        "HOSTS": "here there",
        "LAUNCHER": str(REPOSITORY / "common" / "on_hosts.sh"),
        "CORE_COUNTS": "2",
        "BOUNDS": "none",
        "OVERSUBSCRIBE": "0",
    }
    status, out, err = sweep(tmp_path / "rows", data, **settings)
    assert status == 0, out + err
    (name,) = contents(tmp_path / "rows")
    assert name == f"bs4_cores2{SIZE}_nodes2/times_run1.csv"
    rows = read_rows(tmp_path / "rows" / name)
    assert {(row["rank"], row["node"]) for row in rows} == {("0", "0"), ("1", "1")}
    assert all("nodes=2" in row["options"] for row in rows)
    ssh.write_text("#!/bin/sh\necho error: no such host >&2\nexit 255\n")
    status, out, err = sweep(tmp_path / "other", data, **settings)
    assert status == 1 and "FAILED: no such host" in out, out + err
    wait_for(lambda: not processes_of(tmp_path), 30)
