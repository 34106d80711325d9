"""The virtual cluster: real multi-node runs over network namespaces. Needs root and iproute2.

Not part of make test; make test-root runs it, and so does CI where it is root.
"""

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import INJECTED, REPOSITORY, read_rows
from test_sweep import processes_of, wait_for
from test_training import IMAGE_SIZE, plain_parameters

STUDY = REPOSITORY / "cpu" / "run_study.sh"
PUBLISHED = REPOSITORY / "cpu" / "studies" / "network" / "runs"
GRADIENT_BYTES = 27_856_424
BITS = {"100mbit": 1e8, "1gbit": 1e9}
SMALL = {
    "CORE_COUNTS": "2",
    "NUM_RUNS": "1",
    "RUN_TIMEOUT": "60",
    "CPU_SHARE": "1",
    "STEPS": "3",
    "WARMUP": "2",
    "OPTIONS": f"--image-size {IMAGE_SIZE}",  # as of the plain loop
}


def ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    return done.stdout


@pytest.fixture(scope="module", autouse=True)
def namespaces():
    """Skip where namespaces cannot be made: no root, no iproute2, or a container without them."""
    try:
        done = subprocess.run(["ip", "netns", "add", "ddp-probe"], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("iproute2 is not here")
    if done.returncode:
        pytest.skip(f"no network namespaces here: {done.stderr.strip()}")
    ip("netns", "delete", "ddp-probe")
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("two hosts need two cores")


def start(results: Path, data: Path, **settings: str) -> subprocess.Popen:
    temporary = results.parent / "temporary"
    temporary.mkdir(exist_ok=True)
    environment = {**os.environ, "PYTHON": sys.executable, "TMPDIR": str(temporary), **SMALL}
    environment |= {"RESULTS_DIR": str(results), "DATA_DIR": str(data), **settings}
    return subprocess.Popen(
        [str(STUDY), "network"],
        env=environment,
        text=True,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def with_published(results: Path) -> Path:
    """A results folder that has what the study measures once, after the runs."""
    results.mkdir()
    shutil.copy(PUBLISHED / "all_reduce.csv", results)
    return results


def nothing_left(results: Path) -> None:
    assert "ddp-" not in ip("netns", "list") + ip("link", "show")
    wait_for(lambda: not processes_of(results.parent), 15)
    left = [path.name for path in (results.parent / "temporary").iterdir()]
    assert not [name for name in left if not name.startswith("torchinductor")]  # torch's own cache
    assert not [path for path in results.rglob("*") if path.suffix == ".tmp"]


@pytest.fixture(scope="module")
def cluster(data, tmp_path_factory) -> Path:
    """The results of two hosts at two rates, the ranks' parameters beside them."""
    folder = tmp_path_factory.mktemp("cluster")
    python = folder / "python"  # the sweep's interpreter: records what the ranks learn
    python.write_text(f"""#!/usr/bin/env bash
script=$1
shift
if [[ $script == */project_ex_1.py && " $* " != *" --describe "* ]]; then
  output=$(sed 's/.* --output //; s/ .*//' <<<" $*")
  saved='{folder}'/$(basename "$(dirname "$output")")
  mkdir -p "$saved"
  exec '{sys.executable}' '{INJECTED}' "$script" record "$saved" -- "$@"
fi
exec '{sys.executable}' "$script" "$@"
""")
    python.chmod(0o755)
    rates = {"RATES": "100mbit 1gbit", "STEPS": "2", "WARMUP": "1"}
    process = start(folder / "results", data, PYTHON=str(python), **rates)
    out, _ = process.communicate(timeout=280)
    assert process.returncode == 0, out
    nothing_left(folder / "results")
    return folder


def test_two_hosts_train_as_a_plain_loop(cluster, data):
    expected = plain_parameters("cpu/project_ex_1.py", data, 8)
    saved = list(cluster.glob("bs8_cores2_kept_1gbit_image*/times_run1_rank*.pt"))
    assert len(saved) == 2
    for path in saved:
        for name, value in torch.load(path)["parameters"].items():
            error = (value.double() - expected[name].double()).abs().max().item()
            assert error < 1e-5, (path, name, error)


def test_rows_name_the_node_of_each_rank(cluster):
    paths = list((cluster / "results").rglob("times_run1.csv"))
    assert len(paths) == 8  # three settings at two rates, no communication, and the anchor
    for path in paths:
        rows = read_rows(path)
        over_network = "network=" in rows[0]["options"]
        nodes = [row["node"] for row in sorted(rows, key=lambda row: row["rank"])]
        assert nodes == (["0"] * 3 + ["1"] * 3 if over_network else ["0"] * 6)
        assert ("nodes=2" in rows[0]["options"]) == over_network


@pytest.mark.parametrize("network", BITS)
def test_all_reduce_takes_what_the_link_allows(cluster, network):
    """Two hosts: each sends and receives 2(n-1)/n of the bytes, which is once the bytes."""
    times = [
        float(row["seconds"])
        for row in read_rows(cluster / "results" / "all_reduce.csv")
        if row["network"] == network and int(row["bytes"]) == GRADIENT_BYTES
    ]
    theory = GRADIENT_BYTES * 8 / BITS[network]
    taken = statistics.median(times)
    print(f"{network}: {taken:.4f} s, theory {theory:.4f} s, {100 * (taken / theory - 1):+.1f} %")
    assert taken == pytest.approx(theory, rel=0.1)


def both_ranks(results: Path) -> bool:
    return {"0", "1"} <= set(processes_of(results.parent).values())


def sent_by_host1() -> int:
    links = json.loads(ip("-n", "ddp-host1", "-json", "-statistics", "link", "show", "eth0"))
    return links[0]["stats64"]["tx"]["bytes"]


def test_a_host_that_is_cut_off(data, tmp_path):
    """Its run fails with a line that names it; the sweep goes on; nothing is left."""
    results = with_published(tmp_path / "results")
    process = start(results, data, RATES="1gbit", STEPS="20", RUN_TIMEOUT="45")
    wait_for(lambda: both_ranks(results), 120)
    start_of_first = sent_by_host1()
    # More than a run sends before its steps, or without communication: one is cut within its steps.
    wait_for(lambda: sent_by_host1() - start_of_first > 4 * GRADIENT_BYTES, 90)
    first = processes_of(results.parent)
    ip("-n", "ddp-host1", "link", "set", "eth0", "down")
    ranks = {pid for pid, rank in first.items() if rank}
    wait_for(lambda: not ranks & set(processes_of(results.parent)), 45)
    ip("-n", "ddp-host1", "link", "set", "eth0", "up")
    out, _ = process.communicate(timeout=240)
    assert process.returncode == 1, out
    failed = [line for line in out.splitlines() if "FAILED" in line]
    assert len(failed) == 1 and "for another rank (--timeout): hung, or cut off?" in failed[0], out
    assert len(list(results.rglob("times_run1.csv"))) == 4, out
    nothing_left(results)


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_it_cleans_up_when_it_is_stopped(data, tmp_path, end):
    """Also what a killed one left; but not what a user keeps in TMPDIR. (Review, defect 4.)"""
    (tmp_path / "temporary").mkdir()
    mine = tmp_path / "temporary" / "torchinductor-notes"
    mine.write_text("of the user")
    results = with_published(tmp_path / "results")
    killed = start(results, data, RATES="1gbit", STEPS="200")
    wait_for(lambda: "ddp-host1" in ip("netns", "list"), 60)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    process = start(results, data, RATES="1gbit", STEPS="200")
    wait_for(lambda: both_ranks(results), 120)
    os.killpg(process.pid, end)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + end, out
    nothing_left(results)
    assert mine.read_text() == "of the user"
