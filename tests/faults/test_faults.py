"""Real sweeps broken at random points: nothing that was complete is lost, nothing is left behind.

Each case is a group of faults on one results folder: a sweep is started and broken, again and
again, and at last left to end. make test runs a few, make faults the campaign:

    FAULTS=400 python -m pytest -q -s tests/faults        # SEED=1 for other points in time

KINDS="read_only disk_full" takes these alone, again and again. FAULTS_LOG names a CSV file that
gets one line per fault, like campaign.csv; groups that it has are not repeated, so that a campaign
goes on where it was stopped.
"""

import collections
import contextlib
import csv
import hashlib
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

import pytest
from conftest import REPOSITORY, load, read_rows
from test_sweep import contents, processes_of, start, wait_for

FAULTS, SEED, GROUP = int(os.environ.get("FAULTS", 3)), int(os.environ.get("SEED", 0)), 8
KINDS = os.environ.get("KINDS", "").split()
SETTINGS = {"NUM_RUNS": "3", "RUN_TIMEOUT": "60", "BOUNDS": "none"}
RUNS = 6  # of such a sweep: 1 and 2 cores, three rounds
STUDY = REPOSITORY / "cpu" / "run_study.sh"
ROOT, SHARES = os.geteuid() == 0, load("common/shares.py")
LOG = ["seed", "group", "kind", "runs_complete", "runs_lost", "survived"]
PLOTS = [sys.executable, str(REPOSITORY / "cpu" / "plot_cpu_results.py")]
FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
survived, outcomes = collections.Counter(), []


def groups() -> set[Path]:
    """Control groups of sweeps over shares of a core."""
    return set(place.glob("sweep-*")) if (place := SHARES.controller()) else set()


class Broken:
    """A sweep in progress, and all that its faults need."""

    def __init__(self, results: Path, data: Path, dice: random.Random):
        self.results, self.data, self.dice = results, data, dice
        self.temporary = results.parent / "temporary"
        self.temporary.mkdir(exist_ok=True)
        self.others = groups()  # of sweeps that were killed elsewhere

    def sweep(self, **settings: str) -> subprocess.Popen:
        return start(
            self.results, self.data, **SETTINGS | {"TMPDIR": str(self.temporary)} | settings
        )

    def sliced(self, **settings: str) -> subprocess.Popen:
        """A sweep over shares of a core, which has a folder of its own."""
        settings = {"TMPDIR": str(self.temporary), "CPU_SHARE": "0.4", **settings}
        return start(self.results.with_name("shares"), self.data, **SETTINGS | settings)

    def stop(self, process: subprocess.Popen) -> None:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)

    def one_more(self, cores: str) -> dict[str, str]:
        """Settings of a sweep over one core count that has at least one run to do."""
        complete = len(list(self.results.glob(f"bs4_cores{cores}*/times_run*.csv")))
        return {"CORE_COUNTS": cores, "NUM_RUNS": str(complete + 1)}

    def plots(self) -> subprocess.CompletedProcess:
        command = [*PLOTS, str(self.results), "--output", str(self.results.with_name("plots"))]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    def processes(self, *words: bytes) -> list[int]:
        """Python processes of the run in progress that have these words in their command."""
        found = []
        for pid in processes_of(self.results):
            with contextlib.suppress(OSError):
                command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                if b"python" in command[0] and set(words) <= set(command[1:3]):
                    found.append(pid)
        return found

    def signal_one(self, process: subprocess.Popen, number: int, *words: bytes) -> bool:
        """Send a signal to one of them, as soon as there is one; False if the sweep ended first."""
        while process.poll() is None:
            found = self.processes(*words)
            if found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.dice.choice(found), number)
                    return True
            time.sleep(0.1)
        return False


RANK = str(REPOSITORY / "cpu" / "project_ex_1.py").encode()


def kill_rank(broken, process):
    return broken.signal_one(process, signal.SIGKILL, RANK) and "ended by signal 9"


def kill_torchrun(broken, process):
    return broken.signal_one(process, signal.SIGKILL, b"-m", b"torch.distributed.run") and (
        "ended by signal 9"
    )


def hang_rank(broken, process):
    return broken.signal_one(process, signal.SIGSTOP, RANK) and "hung"


def kill_sweep(broken, process):
    os.kill(process.pid, signal.SIGKILL)
    return ""


def interrupt_sweep(broken, process):
    os.kill(process.pid, signal.SIGINT)
    return "stopped: complete runs are kept"


def terminate_sweep(broken, process):
    os.kill(process.pid, signal.SIGTERM)
    return "stopped: complete runs are kept"


def second_sweep(broken, process):
    other = broken.sweep()
    _, err = other.communicate(timeout=60)
    if other.returncode == 0 and process.poll() is not None:  # they did not run at the same time
        return False
    assert other.returncode == 2 and "another sweep is running" in err, err
    return ""


def sweep_elsewhere(broken, process):
    """A second sweep on this machine, of another folder, would time the first one's runs."""
    other = broken.sweep(RESULTS_DIR=str(broken.results.with_name("elsewhere")))
    out, err = other.communicate(timeout=240)
    if process.poll() is not None:
        return False
    assert other.returncode == 2 and "another sweep is running on this machine" in err, out + err
    assert not broken.results.with_name("elsewhere").exists()
    return ""


def remove_results(broken, process):
    """While a run is in progress. What was complete comes back: the user had a copy."""
    while not broken.processes(RANK):
        if process.poll() is not None:
            return False
        time.sleep(0.1)
    copy = broken.results.with_name("copy")
    shutil.copytree(broken.results, copy)
    shutil.rmtree(broken.results, ignore_errors=True)
    process.wait(timeout=120)
    shutil.rmtree(broken.results, ignore_errors=True)
    copy.rename(broken.results)
    return "results folder"


def remounted(broken, how: str) -> bool:
    command = ["mount", "-o", f"remount,{how}", str(broken.results)]
    return subprocess.run(command, capture_output=True).returncode == 0


def read_only(broken, process):
    """The kernel refuses while a file is open for writing, as a run's log is: wait for a gap."""
    while process.poll() is None and not remounted(broken, "ro"):
        time.sleep(0.02)
    status = process.wait(timeout=120)
    assert remounted(broken, "rw")
    return status != 0 and "results folder"


def disk_full(broken, process):
    ballast = broken.results / "ballast"
    with ballast.open("wb", buffering=0) as file, pytest.raises(OSError):
        while True:
            file.write(bytes(4096))
    process.wait(timeout=240)
    ballast.unlink()
    return "No space left"


def damaged_image(broken, process):
    """An image that the next sweep reads is truncated, emptied, a directory, or zeros."""
    broken.stop(process)
    shutil.rmtree(broken.data)
    shutil.copytree(broken.data.with_name("whole"), broken.data)
    images = sorted((broken.data / "train").rglob("*.JPEG"))
    kind = broken.dice.choice(["truncated", "emptied", "directory", "zeros"])
    for path in images:
        if kind == "truncated":
            path.write_bytes(path.read_bytes()[: broken.dice.randrange(1, 200)])
        elif kind == "directory":
            path.unlink()
            path.mkdir()
        else:
            path.write_bytes(b"")
            os.truncate(path, 0 if kind == "emptied" else 200_000_000)
    again = broken.sweep(**broken.one_more("1"))
    out, err = again.communicate(timeout=240)
    shutil.rmtree(broken.data)
    shutil.copytree(broken.data.with_name("whole"), broken.data)
    says = "Found no valid file" in err if kind == "directory" else "cannot decode" in out
    assert again.returncode == (2 if kind == "directory" else 1) and says, out + err
    for log in broken.results.rglob("times_run*.log"):
        log.unlink()  # of a run that may be one more than the others do, and would stay
    return ""


def other_settings(broken, process):
    """Another image size is another experiment: its results are not mixed with these."""
    broken.stop(process)
    complete = contents(broken.results)
    named = broken.sweep(OPTIONS="--image-size 64", NUM_RUNS="1", CORE_COUNTS="1")
    out, err = named.communicate(timeout=120)
    assert named.returncode == 2 and "image_size 32 there, 64 here" in err, out + err
    assert contents(broken.results) == complete
    return ""


def damaged_file(broken, process):
    """A complete run's file is cut, or its lines are repeated, reordered or no numbers: the figures
    are made without it, and say so. What is left of it is put back from the user's copy."""
    broken.stop(process)
    complete = contents(broken.results)
    if not complete:
        return False
    name = broken.dice.choice(sorted(complete))
    raw, path = complete[name], broken.results / name
    head, *lines = raw.decode().splitlines(keepends=True)
    kind = broken.dice.choice(["cut", "repeated", "reordered", "words"])
    if kind == "cut":
        path.write_bytes(raw[: broken.dice.randrange(len(raw) - 1)])
    elif kind == "repeated":
        path.write_text("".join([head, *lines, broken.dice.choice(lines)]))
    elif kind == "reordered":
        path.write_text("".join([head, *reversed(lines)]))
    else:
        path.write_text(head + "".join(lines).replace(".", "x"))
    done = broken.plots()
    if kind == "reordered":
        assert done.returncode == 0, done.stderr
    else:
        assert done.returncode == (1 if len(complete) > 1 else 2), done.stderr
        assert name in done.stderr, done.stderr
    path.write_bytes(raw)
    return ""


def clock_set_back(broken, process):
    """In the middle of a sweep somebody sets the clock back by two days. On one rank only: under
    libfaketime's old clock Python cannot sleep until a time, as torchrun does."""
    broken.stop(process)
    clock = broken.results.with_name("clock")
    clock.write_text("+0\n")
    late = broken.sweep(
        **broken.one_more("1"),
        LD_PRELOAD=str(FAKETIME),
        FAKETIME_TIMESTAMP_FILE=str(clock),
        FAKETIME_CACHE_DURATION="1",
        DONT_FAKE_MONOTONIC="1",
    )
    time.sleep(broken.dice.uniform(3.0, 9.0))
    clock.write_text("-2d\n")
    out, err = late.communicate(timeout=240)
    assert late.returncode == 0 and "all runs are complete" in out, out + err
    log = read_rows(broken.results / "runs.csv")
    walls = [float(row["wall_s"]) for row in log if row["result"] == "complete"]
    assert all(0 < wall < 300 for wall in walls), walls
    return ""


def pause_sweep(broken, process):
    """The sweep is stopped while its run goes on, and continued: it takes no harm."""
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(broken.dice.uniform(1.0, 6.0))
    os.kill(process.pid, signal.SIGCONT)
    return "all runs are complete"


def damaged_later(broken, process):
    """A bit of a complete run changes: the next sweep says so, keeps it aside and measures anew.
    At last what was damaged is put back from the user's copy."""
    broken.stop(process)
    complete = contents(broken.results)
    if not complete:
        return False
    name = broken.dice.choice(sorted(complete))
    path, sums = broken.results / name, broken.results / "SHA256SUMS"
    damaged = bytearray(complete[name])
    damaged[broken.dice.randrange(len(damaged))] ^= 1
    path.write_bytes(damaged)
    cores = name.split("cores")[1][0]
    again = broken.sweep(CORE_COUNTS=cores, NUM_RUNS=path.stem.removeprefix("times_run"))
    out, err = again.communicate(timeout=240)
    assert again.returncode == 0 and "damaged since it was measured" in out, out + err
    (aside,) = broken.results.rglob("damaged_*")
    assert aside.read_bytes() == damaged and len(read_rows(path)) % 3 == 0
    aside.unlink()
    path.write_bytes(complete[name])
    # Its own checksum alone: another run may have been measured anew since.
    others = [line for line in sums.read_text().splitlines(keepends=True) if name not in line]
    sums.write_text("".join([*others, f"{hashlib.sha256(complete[name]).hexdigest()}  {name}\n"]))
    return ""


def in_groups() -> list[Path]:
    """The groups' files that list a process."""
    files = SHARES.controller().glob("sweep-*/*/cgroup.procs")
    return [path for path in files if path.read_text()]


def kill_sliced(broken, process):
    """A sweep over shares is killed: the next one removes its groups."""
    broken.stop(process)
    late = broken.sliced(STEPS="2000", CORE_COUNTS="2")
    wait_for(in_groups, 60)
    os.kill(late.pid, signal.SIGKILL)
    late.communicate()
    wait_for(lambda: not processes_of(broken.results.with_name("shares")), 20)
    # So short a step may miss its share.
    broken.sliced(CORE_COUNTS="1", NUM_RUNS="1").communicate(timeout=240)
    assert groups() <= broken.others
    shutil.rmtree(broken.results.with_name("shares"))
    return ""


def group_removed(broken, process):
    """In mid-run somebody takes the ranks out of their groups, and removes these."""
    broken.stop(process)
    late = broken.sliced(STEPS="2000", CORE_COUNTS="2")
    for path in wait_for(in_groups, 60):
        for pid in path.read_text().split():
            SHARES.controller().joinpath("cgroup.procs").write_text(pid)
        path.parent.rmdir()
    late.send_signal(signal.SIGTERM)
    out, err = late.communicate(timeout=60)
    assert "stopped: complete runs are kept" in out + err, out + err
    assert groups() <= broken.others
    shutil.rmtree(broken.results.with_name("shares"))
    return ""


def checksums_cut(broken, process):
    """SHA256SUMS is cut anywhere, or missing: the next sweep calls no run damaged."""
    broken.stop(process)
    sums = broken.results / "SHA256SUMS"
    if not contents(broken.results) or not sums.is_file():
        return False
    if broken.dice.random() < 0.3:
        sums.unlink()
    else:
        os.truncate(sums, broken.dice.randrange(sums.stat().st_size))
    again = broken.sweep(**broken.one_more("1"))
    out, err = again.communicate(timeout=240)
    assert again.returncode == 0 and "damaged" not in out + err, out + err
    return ""


def broken_cluster(broken, process, break_it) -> str:
    """In a virtual cluster of two hosts something happens while they train: the runs go on or fail
    in a line each, and no host is left."""
    broken.stop(process)
    results = broken.results.with_name("hosts")
    late = start(
        results,
        broken.data,
        "network",
        program=STUDY,
        CORE_COUNTS="2",
        RATES="1gbit",
        CPU_SHARE="1",
        NUM_RUNS="1",
        STEPS="40",
        RUN_TIMEOUT="120",
        TMPDIR=str(broken.temporary),
    )
    # On a busy machine all that takes more than two minutes.
    wait_for(lambda: {"0", "1"} <= set(processes_of(results.parent).values()), 300)
    time.sleep(broken.dice.uniform(4.0, 12.0))
    break_it()
    out, err = late.communicate(timeout=400)
    assert late.returncode == ("FAILED" in out), out + err
    hosts = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout
    assert "ddp-" not in hosts, hosts
    shutil.rmtree(results)
    return ""


def link_down(broken, process):
    """A host's link goes down and, seconds later, up again."""

    def break_it():
        for state in ("down", "up"):
            subprocess.run(["ip", "-n", "ddp-host1", "link", "set", "eth0", state], check=False)
            time.sleep(broken.dice.uniform(0.5, 5.0))

    return broken_cluster(broken, process, break_it)


def second_node_dies(broken, process):
    """Its launcher, or all that runs on it."""

    def break_it():
        listed = subprocess.run(
            ["ip", "netns", "pids", "ddp-host1"], capture_output=True, text=True
        )
        pids = sorted(map(int, listed.stdout.split()))
        for pid in pids if broken.dice.random() < 0.5 else pids[:1]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    return broken_cluster(broken, process, break_it)


FAULT_KINDS = [
    kill_rank,
    kill_torchrun,
    kill_sweep,
    interrupt_sweep,
    terminate_sweep,
    second_sweep,
    damaged_image,
    hang_rank,
    damaged_file,
    pause_sweep,
    damaged_later,
    checksums_cut,
    sweep_elsewhere,
]
FAULT_KINDS += [clock_set_back] if FAKETIME else []
FAULT_KINDS += [kill_sliced, group_removed] if ROOT and SHARES.controller() else []
FAULT_KINDS += [link_down, second_node_dies] if ROOT and shutil.which("tc") else []
IF_MOUNTED = [read_only, disk_full]
IF_NOT_MOUNTED = [remove_results, other_settings]  # a mount point cannot be moved or removed


def check(broken: Broken, process: subprocess.Popen, complete: dict[str, bytes], says: str) -> None:
    """After a fault: what was complete is byte for byte there, nothing partial or running is."""
    out, err = process.communicate(timeout=240)
    assert says in out + err, (says, out, err)
    wait_for(lambda: not processes_of(broken.results), 20)
    now = contents(broken.results)
    assert {name: now.get(name) for name in complete} == complete
    for name, raw in now.items():
        assert raw.endswith(b"\n") and len(read_rows(broken.results / name)) % 3 == 0, name


def inject(kind, broken: Broken, process: subprocess.Popen, complete: dict, group: int) -> None:
    """Break a sweep in one way, check what is left, and note the outcome."""
    sound = False
    try:
        says = kind(broken, process)
        check(broken, process, complete, says or "")
        if says is False:  # the sweep ended before it could be broken
            return
        sound = True
        survived[kind.__name__] += 1
    except Exception:
        traceback.print_exc()  # at once: the campaign is long
        raise
    finally:
        now = contents(broken.results)
        lost = sum(now.get(name) != raw for name, raw in complete.items())
        if sound or sys.exc_info()[0]:
            outcomes.append([SEED, group, kind.__name__, len(complete), lost, int(sound)])


def campaign() -> list[dict[str, str]]:
    """The outcomes that were logged before."""
    path = Path(os.environ.get("FAULTS_LOG", "none"))
    return read_rows(path) if path.is_file() else []


def log_outcomes() -> None:
    """A group's outcomes, at its end (one that is broken off is done again), and the table of all
    by kind beside the log."""
    if "FAULTS_LOG" in os.environ:
        path, rows = Path(os.environ["FAULTS_LOG"]), [*([] if campaign() else [LOG]), *outcomes]
        with path.open("a", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)
        head = "| fault | injected | survived | complete runs at stake | lost |"
        kinds, table = collections.defaultdict(list), [head, "|---|---|---|---|---|"]
        for row in campaign():
            kinds[row["kind"]].append([int(row[name]) for name in LOG[3:]])
        for kind, own in [*sorted(kinds.items()), ("all", [*itertools.chain(*kinds.values())])]:
            stake, lost, sound = map(sum, zip(*own, strict=True))
            table.append(f"| {kind.replace('_', ' ')} | {len(own)} | {sound} | {stake} | {lost} |")
        path.with_suffix(".md").write_text("\n".join([*table, ""]))
    outcomes.clear()


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("group", range(-(-FAULTS // GROUP)))
def test_faults(data, tmp_path, group):
    if any((row["seed"], row["group"]) == (str(SEED), str(group)) for row in campaign()):
        pytest.skip("in the log")
    dice = random.Random(f"{SEED} {group}")
    broken = Broken(tmp_path / "results", tmp_path / "data", dice)
    shutil.copytree(data, broken.data)
    shutil.copytree(data, broken.data.with_name("whole"))
    mounted = ROOT and group % 2 == 0
    broken.results.mkdir()
    if mounted:
        command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(broken.results)]
        mounted = subprocess.run(command, capture_output=True).returncode == 0
    try:
        kinds = FAULT_KINDS + (IF_MOUNTED if mounted else IF_NOT_MOUNTED)
        if KINDS:
            kinds = [kind for kind in kinds if kind.__name__ in KINDS]
        # Those first that the campaign has seen least, so that each comes equally often; in turns,
        # since some need a run that is complete.
        seen = collections.Counter(row["kind"] for row in campaign())
        kinds = sorted(dice.sample(kinds, len(kinds)), key=lambda kind: seen[kind.__name__])
        for kind in (GROUP * kinds)[: min(GROUP, FAULTS - group * GROUP)]:
            complete = contents(broken.results)
            if len(complete) >= RUNS:
                planned = [name for name in complete if name[-5] in "123"]
                again = dice.choice(sorted(planned))
                (broken.results / again).unlink()
                complete.pop(again)
            process = broken.sweep()
            time.sleep(dice.uniform(0.5, 9.0))  # bash and Python have begun
            while process.poll() is None and not (broken.results / "environment.json").exists():
                time.sleep(0.1)
            complete |= contents(broken.results)
            if process.poll() is None:
                inject(kind, broken, process, complete, group)
            else:
                process.communicate()
        last = broken.sweep()
        out, err = last.communicate(timeout=240)
        assert last.returncode == 0, out + err
        assert len(contents(broken.results)) >= RUNS
        left = [path.name for path in broken.results.rglob("*") if path.suffix in (".tmp", ".log")]
        left += [
            path.name
            for path in broken.temporary.iterdir()
            if not path.name.startswith("torchinductor")
        ]  # torch's own cache
        assert not left
        done = broken.plots()
        assert done.returncode == 0, done.stderr
    except KeyboardInterrupt:
        outcomes.clear()
        raise
    finally:
        log_outcomes()
        if mounted:
            subprocess.run(["umount", "-l", str(broken.results)], check=False)
        print(f"faults survived so far: {sum(survived.values())}, {dict(survived)}")
