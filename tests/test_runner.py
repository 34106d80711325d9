"""The runner by itself, with a stand-in for the training script: long sweeps, damaged runs."""

import os
import random
import re
import shutil
import signal
import stat
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import REPOSITORY, load, read_rows
from test_sweep import wait_for

RUNS = int(os.environ.get("SOAK", 300))  # make faults: 2,000


@pytest.fixture
def listing(tmp_path) -> Path:
    """A LIST of two configurations."""
    path = tmp_path / "list.sh"
    path.write_text("#!/bin/sh\necho one 1 1 --batch-size 4\necho two 1 1 --batch-size 8\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def command(listing: Path, *arguments: str) -> list[str]:
    runner = [sys.executable, "-u", REPOSITORY / "common" / "sweep.py"]
    return [*map(str, [*runner, REPOSITORY / "tests" / "standin.py", listing,
                       listing.parent / "own", *arguments])]  # fmt: skip


def run(listing: Path, **settings: str) -> str:
    environment = {**os.environ, "PYTHON": sys.executable, "FIGURES": "0", **settings,
                   "RESULTS_DIR": str(listing.parent / "rows")}  # fmt: skip
    done = subprocess.run(command(listing), env=environment, capture_output=True, text=True,
                          timeout=600)  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    return done.stdout


def test_damaged_runs_are_found_set_aside_and_measured_anew(listing):
    """Fifty complete runs are damaged, each in another way: bytes changed, cut short, emptied."""
    run(listing, NUM_RUNS="30")
    rows, dice = listing.parent / "rows", random.Random(0)
    paths = dice.sample(sorted(rows.rglob("times_run*.csv")), 50)
    kept = {path: path.read_bytes() for path in rows.rglob("times_run*.csv")}
    for number, path in enumerate(paths):
        content, place = bytearray(kept[path]), dice.randrange(len(kept[path]))
        if number % 3 == 0:
            content[place] ^= 1 << dice.randrange(8)
        else:
            content = content[:place] if number % 3 == 1 else b""
        path.write_bytes(content)
    said = run(listing, NUM_RUNS="30")
    assert said.count("damaged since it was measured") == 50
    assert {path: path.read_bytes() for path in rows.rglob("times_run*.csv")} == kept
    assert len(list(rows.rglob("damaged_*"))) == 50
    assert "damaged since" not in run(listing, NUM_RUNS="30")


def break_off(listing: Path, path: Path, number: int) -> None:
    """A sweep of one run gets a signal when the run's rows are there and it has not ended."""
    environment = {**os.environ, "PYTHON": sys.executable, "FIGURES": "0", "NUM_RUNS": "1",
                   "RESULTS_DIR": str(listing.parent / "rows"), "SLOW": "0.1", "LINGER": "60"}
    with subprocess.Popen(command(listing), env=environment) as process:
        while not path.is_file():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)


def test_a_run_measured_again_and_broken_off_is_not_called_damaged(listing):
    """Its old line in the log has another checksum; it is killed before it has a new one. (Found by
    the fault campaign, seed 0, group 0.)"""
    run(listing, NUM_RUNS="1")
    path = listing.parent / "rows" / "one" / "times_run1.csv"
    path.unlink()
    break_off(listing, path, signal.SIGKILL)
    written = path.read_bytes()
    assert written.count(b"1.1") == 1  # the second time, which is not what the log has
    assert "damaged" not in run(listing, NUM_RUNS="1") and path.read_bytes() == written
    assert not list(path.parent.glob("damaged_*"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_whose_sweep_ended_before_it_has_a_checksum(listing, number):
    """Asked to stop, the sweep writes it at once; after SIGKILL the next one does. (Found by the
    fault campaign, seed 0, group 8.)"""
    path = listing.parent / "rows" / "one" / "times_run1.csv"
    break_off(listing, path, number)
    if number == signal.SIGKILL:
        assert "damaged" not in run(listing, NUM_RUNS="1")
    path.write_bytes(path.read_bytes().replace(b"1.1", b"1.2"))
    assert "damaged since it was measured" in run(listing, NUM_RUNS="1")


@pytest.mark.parametrize("keep", [0, 30, 42, -3, -60])
def test_a_log_that_a_full_disk_cut_is_mended(listing, keep):
    """Empty, a part of its head, its last line cut. (Found by the fault campaign, seed 0, groups 12
    and 14.)"""
    run(listing, NUM_RUNS="1")
    log = listing.parent / "rows" / "runs.csv"
    log.write_text(log.read_text()[:keep])
    run(listing, NUM_RUNS="2")
    paths = list(listing.parent.rglob("times_run*.csv"))
    for path in paths:
        path.write_bytes(path.read_bytes().replace(b"1.0", b"1.5"))
    assert run(listing, NUM_RUNS="2").count("damaged since it was measured") == len(paths) == 4


def refused(listing: Path, *arguments: str, **settings: str) -> str:
    """What a sweep says that cannot begin, or go on: one line."""
    environment = {**os.environ, "PYTHON": sys.executable, "FIGURES": "0",
                   "RESULTS_DIR": str(listing.parent / "rows"), **settings}  # fmt: skip
    done = subprocess.run(command(listing, *arguments), env=environment, capture_output=True,
                          text=True)  # fmt: skip
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stdout + done.stderr
    return done.stderr


@pytest.mark.parametrize("name, content, says", [
    ("one/times_run9.tmp", None, "cannot use the results folder"),  # a folder: it stays
    ("environment.json", "", "is damaged"), ("environment.json", "{}", "is damaged"),
    ("environment.json", "[" * 10000, "is damaged"),
])  # fmt: skip
def test_a_folder_that_cannot_be_opened_is_one_line(listing, name, content, says):
    """(Found by the fault campaign, seed 1, group 8: read-only since the sweep took its lock.)"""
    run(listing, NUM_RUNS="1")
    path = listing.parent / "rows" / name
    path.mkdir() if content is None else path.write_text(content)
    assert says in refused(listing)


def test_what_is_wrong_elsewhere_is_not_put_on_the_results(listing):
    """No setpriv; a LIST that cannot be run; a pipe that nobody reads."""
    assert "cannot use setpriv: No such file" in refused(listing, PATH="/nowhere")
    listing.chmod(0o600)
    assert f"cannot use {listing}: Permission denied" in refused(listing)
    listing.chmod(0o700)
    with subprocess.Popen(command(listing), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          env={**os.environ, "NUM_RUNS": "30"}) as process:  # fmt: skip
        process.stdout.readline()
        process.stdout.close()
        said = process.stderr.read().decode()
    assert process.returncode == 2 and said.startswith("error: nobody reads the output"), said
    assert len(said.splitlines()) == 1, said


def test_a_node_that_waits_for_others_can_be_stopped(listing):
    environment = {**os.environ, "PYTHON": sys.executable, "FIGURES": "0", "NNODES": "2",
                   "NODE_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29871",
                   "TMPDIR": str(listing.parent)}  # fmt: skip
    with subprocess.Popen(command(listing), env=environment, text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE) as process:  # fmt: skip
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=6)  # torch is imported by then
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 130 and out.startswith("stopped: ") and not err, out + err
    assert not list(listing.parent.glob("sweep-*"))


def test_rows_without_their_identity_are_not_adopted(listing):
    run(listing, NUM_RUNS="1")
    (listing.parent / "rows" / "environment.json").unlink()
    assert "is missing: put it back" in refused(listing)
    assert "is missing: put it back" in refused(listing, "--dry-run")


def test_a_folder_that_is_replaced_belongs_to_the_next_sweep(listing):
    """The user moves the results of a running sweep away and starts another in their place: the
    first stops, and takes nothing from the second."""
    rows = listing.parent / "rows"
    environment = {**os.environ, "PYTHON": sys.executable, "FIGURES": "0", "SLOW": "0.5",
                   "NUM_RUNS": "3", "RESULTS_DIR": str(rows)}  # fmt: skip
    sweeps = []
    for _ in range(2):
        sweeps.append(subprocess.Popen(command(listing), env=environment, text=True,
                                       stdout=subprocess.PIPE, stderr=subprocess.PIPE))
        sweeps[-1].stdout.readline()  # of its first run
        if len(sweeps) == 1:
            rows.rename(listing.parent / "elsewhere")
    (_, said), (out, err) = (one.communicate(timeout=60) for one in sweeps)
    assert sweeps[0].returncode == 2 and "the results folder" in said, said
    assert len(said.splitlines()) == 1 and sweeps[1].returncode == 0, said + out + err
    assert len(read_rows(rows / "runs.csv")) == 6
    assert all(row["result"] == "complete" for row in read_rows(rows / "runs.csv"))


def test_a_run_with_all_its_rows_is_complete_however_it_ends(listing):
    said = run(listing, NUM_RUNS="1", STATUS="1")
    assert said.count("img/s; after its last step: it ended with status 1") == 2, said
    assert {row["result"] for row in read_rows(listing.parent / "rows" / "runs.csv")} == {
        "complete"}  # fmt: skip


def test_a_log_with_another_head_is_kept(listing):
    """As a spreadsheet may save it: its checksums do not count any more, which is said."""
    run(listing, NUM_RUNS="1")
    log = listing.parent / "rows" / "runs.csv"
    quoted = '"' + log.read_text().replace(",", '","').replace("\n", '"\n"')[:-1]
    log.write_text(quoted)
    assert "has another head than a sweep writes, kept as" in run(listing, NUM_RUNS="2")
    assert log.with_name("damaged_runs.csv").read_text() == quoted
    assert [row["result"] for row in read_rows(log)] == 2 * ["found"] + 2 * ["complete"]
    log.write_text(log.read_text() + "x,x,0,../outside,1,1,1,1,complete,00\n")
    (listing.parent / "rows" / "one" / "times_run9.csv").mkdir()
    assert "damaged since" not in run(listing, NUM_RUNS="2")


def test_equal_configurations_are_measured_once(listing):
    """A variant may set what the list has already; the same ranks on more nodes are another
    configuration; the plan of another machine's results is whole."""
    listing.write_text("#!/bin/sh\necho a 1 1 --batch-size 4\necho a_kept 1 1 MEMORY=kept "
                       "--batch-size 4\n")
    run(listing, VARIANTS="; MEMORY=kept", NUM_RUNS="1")
    folders = sorted(path.parent.name for path in listing.parent.rglob("times_run1.csv"))
    assert folders == ["a", "a_kept"]
    environment = {**os.environ, "PYTHON": sys.executable, "NUM_RUNS": "1", "RESULTS_DIR": ""}
    (listing.parent / "rows").rename(listing.parent / "own")
    file = listing.parent / "own" / "environment.json"
    whole = file.read_text()
    other = whole.replace('"dataset": "none"', '"dataset": "another"')
    for nodes, text, runs in ("1", whole, 0), ("2", whole, 2), ("1", other, 2):
        file.write_text(text)
        environment |= {"NNODES": nodes, "MASTER_ADDR": "127.0.0.1"}
        done = subprocess.run(command(listing, "--dry-run"), env=environment, text=True,
                              capture_output=True)  # fmt: skip
        assert f"plan: {runs} runs" in done.stdout, done.stdout + done.stderr
        assert ("moved aside" in done.stdout) == (text == other)


def test_an_allocator_is_the_configuration_s_alone(monkeypatch):
    """What a user exports does not stand in for glibc as it is; a library that is not installed is
    an error, not glibc."""
    memories = load("common/memories.py")
    given = {"GLIBC_TUNABLES": "glibc.malloc.mmap_max=0", "LD_PRELOAD": "libjemalloc.so.2"}
    assert memories.without({**given, "A": "1", "B": "2"}, "A") == {"B": "2"}
    assert memories.without({"LD_PRELOAD": "libother.so"}) == {"LD_PRELOAD": "libother.so"}
    assert memories.refusal({"glibc", "kept"}) == ""
    monkeypatch.setitem(memories.MEMORIES, "none", {"LD_PRELOAD": "libnone.so.9"})
    assert memories.refusal({"none"}) == "memory none needs libnone.so.9, which is not installed"


def test_a_run_whose_sweep_is_killed_as_it_starts_does_not_begin(listing):
    """What binds the run to its sweep, setpriv, comes a second late here."""
    late, begun, rows = (listing.parent / name for name in ("setpriv", "begun", "rows"))
    late.write_text(f'#!/bin/sh\ntouch {begun}\nsleep 1\nexec {shutil.which("setpriv")} "$@"\n')
    late.chmod(0o700)
    environment = {**os.environ, "PATH": f"{listing.parent}:{os.environ['PATH']}",
                   "PYTHON": sys.executable, "FIGURES": "0", "RESULTS_DIR": str(rows)}  # fmt: skip
    with subprocess.Popen(command(listing), env=environment, stdout=subprocess.PIPE) as process:
        wait_for(begun.exists, 30)
        process.kill()
    time.sleep(3)
    assert (rows / "environment.json").exists() and not list(rows.rglob("times_run*"))


def test_nohup_is_heeded(listing):
    environment = {**os.environ, "PYTHON": sys.executable, "FIGURES": "0", "NUM_RUNS": "1",
                   "RESULTS_DIR": str(listing.parent / "rows"), "SLOW": "1"}  # fmt: skip
    with subprocess.Popen(["nohup", *command(listing)], env=environment, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:  # fmt: skip
        wait_for((listing.parent / "rows" / "environment.json").exists, 30)
        process.send_signal(signal.SIGHUP)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and "all runs are complete" in out, out


def test_no_whole_run_is_taken_as_one(listing):
    """Not in the log either: emptied, or cut within its first line or a number."""
    run(listing, NUM_RUNS="3")
    rows = listing.parent / "rows"
    kept = {path: path.read_bytes() for path in rows.rglob("times_run*.csv")}
    (rows / "runs.csv").unlink()
    for end, path in zip((0, 30, -5), sorted(kept), strict=False):
        path.write_bytes(kept[path][:end])
    said = run(listing, NUM_RUNS="3")
    assert said.count("no whole run, kept as") == 3, said
    assert {path: path.read_bytes() for path in rows.rglob("times_run*.csv")} == kept


def test_what_a_user_puts_beside_a_run_stays(listing):
    run(listing, NUM_RUNS="1")
    path = listing.parent / "rows" / "one" / "times_run1.csv"
    kept = path.with_name("times_run1.csv.bak")
    path.rename(kept)
    content = kept.read_bytes()
    kept.with_name("times_run2.d").mkdir()
    run(listing, NUM_RUNS="2")
    assert kept.read_bytes() == content and path.is_file()


@pytest.mark.parametrize("cut", [3, 60, 64, 65, 66, 90])
def test_a_log_whose_last_line_is_cut_calls_no_run_damaged(listing, cut):
    """Wherever it is cut, the run stays, and damage that comes later is found."""
    run(listing, NUM_RUNS="2")
    log = listing.parent / "rows" / "runs.csv"
    last = log.read_text().splitlines()[-1].split(",")
    os.truncate(log, log.stat().st_size - cut)
    assert "damaged" not in run(listing, NUM_RUNS="2")
    path = log.parent / last[3] / f"times_run{last[4]}.csv"
    path.write_bytes(path.read_bytes()[:-3])
    assert run(listing, NUM_RUNS="2").count("damaged since") == 1


@pytest.mark.alone
def test_a_long_sweep_stays_as_it_began(listing):
    """Memory, descriptors and time per run of the runner do not grow, nor what lies in /tmp; the
    time that it says is left, is."""
    environment = {**os.environ, "PYTHON": sys.executable, "FIGURES": "0", "TMPDIR": str(
        listing.parent), "RESULTS_DIR": str(listing.parent / "rows"), "NUM_RUNS": str(RUNS // 2)}
    seen, said = [], []
    with subprocess.Popen(command(listing), env=environment, text=True,
                          stdout=subprocess.PIPE) as process:  # fmt: skip
        proc = Path(f"/proc/{process.pid}")
        for number, line in enumerate(process.stdout):
            promise = re.search(r"about (\d+) (s|min) left", line)
            if 10 <= number < RUNS / 2:  # later, whole seconds are too coarse
                said.append((time.monotonic(), int(promise[1]) * {"s": 1, "min": 60}[promise[2]]))
            if number % (RUNS // 10) == 0 and line.startswith("["):
                memory = int(proc.joinpath("statm").read_text().split()[1]) * 4096
                files = []  # most of the time a run runs; between runs and at a start it differs
                for _ in range(50):
                    files.append(len(list(proc.joinpath("fd").iterdir())))
                    time.sleep(0.001)
                seen.append((memory, statistics.mode(files), len(list(listing.parent.iterdir()))))
    assert process.returncode == 0 and len(seen) == 10
    ended = time.monotonic()
    left = [promised / (ended - then) for then, promised in said]
    walls = [float(row["wall_s"]) for row in read_rows(listing.parent / "rows" / "runs.csv")]
    tenth = len(walls) // 10
    print(f"{len(walls)} runs; memory {seen[1][0] / 2**20:.1f} to {seen[-1][0] / 2**20:.1f} MiB, "
          f"descriptors {seen[1][1]} to {seen[-1][1]}, wall time per run "
          f"{sum(walls[:tenth]) / tenth:.3f} to {sum(walls[-tenth:]) / tenth:.3f} s, "
          f"time left said / true {min(left):.2f} to {max(left):.2f}")
    assert seen[-1][0] < 1.1 * seen[1][0] + 2**20 and seen[-1][1:] == seen[1][1:]
    assert sum(walls[-tenth:]) < 1.5 * sum(walls[:tenth])
    assert 0.7 < statistics.median(left) < 1.3


def test_shares_by_the_controller_of_version_2(tmp_path, monkeypatch):
    """Files in place of the kernel's: what a machine with version 2 alone would be told."""
    shares = load("common/shares.py")
    with monkeypatch.context() as changed:
        changed.setattr(shares, "PERIOD_MS", 10)
        assert "use a longer period" in shares.refusal("0.05", 1, 2)
    monkeypatch.setattr(shares, "V1", tmp_path / "none")
    monkeypatch.setattr(shares, "V2", tmp_path)
    assert shares.controller() is None
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu memory\n")
    assert shares.controller() == tmp_path
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+cpu"
    environment = {"CPU_SHARE": "0.16", "STRAGGLER": "0.5"}
    (folder,) = shares.Groups("sweep-x").make(2, environment).values()
    limits = [(tmp_path / "sweep-x" / str(rank) / "cpu.max").read_text() for rank in range(2)]
    assert limits == ["8000 50000", "4000 50000"] and folder == str(tmp_path / "sweep-x")
