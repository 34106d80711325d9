"""Devices that are time-sliced shares of a core: each rank in a control group of its own (root).

CPU_SHARE=0.16 makes a device of 16 % of a core: of each period of CPU_PERIOD_MS the kernel's cpu
controller, version 1 or 2, whichever is there, gives a rank that much and no more. Ranks are spread
evenly over the cores, of which at most 65 % are given away, so that no rank waits for a core.
"""

import collections
import contextlib
import csv
import os
import signal
import sys
import time
from pathlib import Path

PERIOD_MS = int(p) if (p := os.environ.get("CPU_PERIOD_MS", "")).isdecimal() else 50
MOST, MISS, STOLEN = 0.65, 0.02, 0.02  # of the cores; of a share; of the cores' time, with start-up
V1, V2 = Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup")


def controller() -> Path | None:
    """Where groups with a limit of CPU time can be made."""
    if (V1 / "cgroup.procs").is_file():
        return V1
    with contextlib.suppress(OSError):
        if "cpu" in (V2 / "cgroup.controllers").read_text().split():
            (V2 / "cgroup.subtree_control").write_text("+cpu")
            return V2
    return None


def refusal(share: str, ranks: int, cores: int) -> str:
    """Why so many shares cannot be had here, and what to do; nothing if they can."""
    try:
        part = float(share)
    except ValueError:
        part = 0.0
    if not 0.05 <= part <= 1:
        return f"CPU_SHARE: expected a share of a core between 0.05 and 1, got {share!r}"
    if 1000 * part * PERIOD_MS < 1000:
        return (f"CPU_SHARE={part:g} of CPU_PERIOD_MS={PERIOD_MS} is less than 1 ms, which the "
                "kernel does not give: use a longer period")
    if os.geteuid() != 0:
        return "CPU_SHARE makes control groups, which needs root: sudo -E"
    if controller() is None:
        return ("CPU_SHARE needs the kernel's cpu controller in /sys/fs/cgroup, which is not there "
                "or cannot be written")
    if ranks * part > MOST * cores:
        return (f"{ranks} shares of {part:g} are more than {100 * MOST:.0f} % of {cores} cores: "
                f"use fewer ranks, or CPU_SHARE={MOST * cores / ranks - 0.005:.2f}")
    return ""


class Groups:
    """The control groups of one sweep: the same name each time, so that what a killed sweep left
    is found."""
    def __init__(self, name: str) -> None:
        self.name = name

    def make(self, ranks: int, environment: dict[str, str]) -> dict[str, str]:
        """Groups for a run; what tells its ranks, which enter their own after start-up. The last
        rank may have a part of its share only: STRAGGLER=0.5."""
        self.remove()
        place, period = controller() or V1, 1000 * int(environment.get("CPU_PERIOD_MS", PERIOD_MS))
        folder, files = place / self.name, {}
        for rank in range(ranks):
            part = float(environment.get("STRAGGLER", 1)) if rank == ranks - 1 else 1.0
            quota = max(1000, int(float(environment["CPU_SHARE"]) * part * period))
            limits = {"cpu.max": f"{quota} {period}"}
            if place == V1:
                limits = {"cpu.cfs_period_us": period, "cpu.cfs_quota_us": quota}
            files |= {folder / str(rank) / file: str(value) for file, value in limits.items()}
        try:
            folder.mkdir()
            if place == V2:
                (folder / "cgroup.subtree_control").write_text("+cpu")
            for file, text in files.items():
                file.parent.mkdir(exist_ok=True)
                file.write_text(text)
        except OSError as error:
            sys.exit(f"error: cannot make a share of a core, {error.filename}: {error.strerror}")
        return {"CPU_GROUPS": str(folder)}

    def remove(self) -> None:
        """End what is in the groups, and remove them."""
        folders = [place / self.name for place in (V1, V2)]
        for group in [*(one for folder in folders for one in folder.glob("*/")), *folders]:
            deadline = time.monotonic() + 10
            while group.is_dir() and time.monotonic() < deadline:
                with contextlib.suppress(OSError):
                    for pid in {*(group / "cgroup.procs").read_text().split()} - {"0"}:
                        os.kill(int(pid), signal.SIGKILL)  # 0: of another container; here, of us
                    group.rmdir()
                    break
                time.sleep(0.02)


def miss(path: Path, environment: dict[str, str], stolen_s: float, wall_s: float) -> str:
    """Whether a run's ranks had their shares while they did not wait for each other, and how much
    the host took of the cores' time; nothing if all is well."""
    busy, passed = collections.Counter(), collections.Counter()
    with path.open() as file:
        for row in csv.DictReader(file):
            if row["warmup"] == "1":  # not yet in its group
                continue
            rank = int(row["rank"])
            for name in ("user_time", "system_time"):
                busy[rank] += float(row[name]) - float(row[f"communication_{name}"])
            passed[rank] += float(row["step_time"]) - float(row["communication_time"])
    for rank, seconds in busy.items():
        part = float(environment.get("STRAGGLER", 1)) if rank == max(busy) else 1.0
        share, had = float(environment["CPU_SHARE"]) * part, seconds / passed[rank]
        if abs(had / share - 1) > MISS:
            return f"rank {rank} had {had:.3f} of a core, not its share of {share:.3g}"
    if stolen_s > STOLEN * wall_s * os.cpu_count():  # the kernel counts it over all cores
        return f"the host took {stolen_s:.2f} s, more than {100 * STOLEN:.0f} % of the cores' time"
    return ""
