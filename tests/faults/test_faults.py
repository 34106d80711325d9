"""Real sweeps broken at random points: nothing that was complete is lost, nothing is left behind.

Each case is a group of faults on one results folder: a sweep is started and broken, again and
again, and at last left to end. make test runs a few, make faults the campaign:

    FAULTS=200 python -m pytest -q -s tests/faults        # SEED=1 for other points in time
"""

import collections
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import REPOSITORY, read_rows
from test_sweep import contents, processes_of, start, wait_for

FAULTS, SEED, GROUP = int(os.environ.get("FAULTS", 3)), int(os.environ.get("SEED", 0)), 8
SETTINGS = {"NUM_RUNS": "3", "RUN_TIMEOUT": "30", "BOUNDS": "none"}
RUNS = 6  # of such a sweep: 1 and 2 cores, three rounds
ROOT = os.geteuid() == 0
survived = collections.Counter()


class Broken:
    """A sweep in progress, and all that its faults need."""

    def __init__(self, results: Path, data: Path, dice: random.Random):
        self.results, self.data, self.dice = results, data, dice
        self.temporary = results.parent / "temporary"
        self.temporary.mkdir(exist_ok=True)

    def sweep(self, **settings: str) -> subprocess.Popen:
        return start(
            self.results, self.data, **SETTINGS | {"TMPDIR": str(self.temporary)} | settings
        )

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
    assert other.returncode == 2 and "another sweep is running" in err, err
    return ""


def remove_results(broken, process):
    """What was complete comes back: the user had a copy."""
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
    with ballast.open("wb") as file, pytest.raises(OSError):
        while True:
            file.write(bytes(4096))
            file.flush()
    process.wait(timeout=240)
    ballast.unlink()
    return "No space left"


def damaged_image(broken, process):
    """An image that the next sweep reads is truncated, emptied, a directory, or zeros."""
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=60)
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
            os.truncate(path, 0 if kind == "emptied" else 200_000_000 // len(images))
    again = broken.sweep(NUM_RUNS="9")  # there is always one to do
    out, err = again.communicate(timeout=240)
    shutil.rmtree(broken.data)
    shutil.copytree(broken.data.with_name("whole"), broken.data)
    says = "Found no valid file" in err if kind == "directory" else "cannot decode" in out
    assert again.returncode == (2 if kind == "directory" else 1) and says, out + err
    return ""


def other_settings(broken, process):
    """Another image size is another experiment: its results are not mixed with these."""
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=60)
    complete = contents(broken.results)
    other = broken.sweep(IMAGE_SIZE="32", NUM_RUNS="1", CORE_COUNTS="1")
    out, err = other.communicate(timeout=120)
    assert other.returncode == 0 and "are kept in" in out, out + err
    (aside,) = broken.results.parent.glob("results_until_*")
    assert contents(aside) == complete
    for path in broken.results.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in aside.iterdir():
        shutil.move(path, broken.results / path.name)
    aside.rmdir()
    return ""


FAULT_KINDS = [kill_rank, kill_torchrun, kill_sweep, interrupt_sweep, terminate_sweep,
               second_sweep, damaged_image, hang_rank]  # fmt: skip
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


@pytest.mark.parametrize("group", range(-(-FAULTS // GROUP)))
def test_faults(data, tmp_path, group):
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
        for kind in dice.sample(kinds, min(GROUP, FAULTS - group * GROUP)):
            complete = contents(broken.results)
            if len(complete) == RUNS:
                first = dice.choice(sorted(complete))
                (broken.results / first).unlink()
                complete.pop(first)
            process = broken.sweep()
            time.sleep(dice.uniform(0.0, 9.0))
            while process.poll() is None and not (broken.results / "environment.json").exists():
                time.sleep(0.1)
            complete |= contents(broken.results)
            if process.poll() is None:
                says = kind(broken, process)
                check(broken, process, complete, says or "")
                survived[kind.__name__] += says is not False
            else:
                process.communicate()
        last = broken.sweep()
        out, err = last.communicate(timeout=240)
        assert last.returncode == 0, out + err
        assert len(contents(broken.results)) >= RUNS
        left = [path.name for path in broken.results.rglob("*") if path.suffix in (".tmp", ".log")]
        left += [path.name for path in broken.temporary.iterdir()
                 if not path.name.startswith("torchinductor")]  # torch's own cache  # fmt: skip
        assert not left
        plots = [sys.executable, REPOSITORY / "cpu" / "plot_cpu_results.py", broken.results]
        done = subprocess.run([*plots, "--output", tmp_path / "plots"], capture_output=True)
        assert done.returncode == 0, done.stderr
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(broken.results)], check=False)
        print(f"faults survived so far: {sum(survived.values())}, {dict(survived)}")
