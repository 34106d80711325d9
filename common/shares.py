"""Emulated devices: each rank in a control group of its own, with a share of a core (root).

CPU_SHARE=0.16 makes a device of 16 % of a core: of each period of CPU_PERIOD_MS the kernel's cpu
controller, version 1 or 2, whichever is there, gives a rank that much and no more. Ranks are spread
evenly over the cores, of which at most 65 % are given away, so that no rank waits for a core.
"""

import collections
import contextlib
import csv
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path

from folder import SweepError

PERIOD_MS = 50
MOST = 0.65  # of the cores that are given away
MISS = 0.02  # of a share that a rank may miss
STOLEN = 0.02  # of the cores' time that the host may take, start-up included
V1, V2 = Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup")


def controller() -> Path | None:
    """Where groups with a limit of CPU time can be made."""
    # Where both are mounted the cpu controller is version 1's.
    if (V1 / "cgroup.procs").is_file():
        return V1
    with contextlib.suppress(OSError):
        if "cpu" in (V2 / "cgroup.controllers").read_text().split():
            (V2 / "cgroup.subtree_control").write_text("+cpu")
            return V2
    return None


def period_of(variables: Mapping[str, str]) -> int:
    """The period of a configuration, in ms."""
    return int(variables.get("CPU_PERIOD_MS", PERIOD_MS))


def refusal(variables: Mapping[str, str], ranks: int, cores: int) -> str:
    """Why so many shares are not possible here, and what to do; nothing if they are."""
    share = variables["CPU_SHARE"]
    try:
        part = float(share)
    except ValueError:
        part = 0.0
    if not 0.05 <= part <= 1:
        return f"CPU_SHARE: expected a share of a core between 0.05 and 1, got {share!r}"
    # Below that the quota is rounded up, and the share is not what was asked for.
    if part * period_of(variables) < 1:
        return (
            f"CPU_SHARE={part:g} of CPU_PERIOD_MS={period_of(variables)} is less than 1 ms, which "
            "the kernel does not give: use a longer period"
        )
    if os.geteuid() != 0:
        return "CPU_SHARE makes control groups, which needs root: sudo -E"
    if controller() is None:
        return (
            "CPU_SHARE needs the kernel's cpu controller in /sys/fs/cgroup, which is not there or "
            "cannot be written"
        )
    if ranks * part > MOST * cores:
        return (
            f"{ranks} shares of {part:g} are more than {100 * MOST:.0f} % of {cores} cores: use "
            f"fewer ranks, or CPU_SHARE={MOST * cores / ranks - 0.005:.2f}"
        )
    return ""


def part_of(rank: int, ranks: int, variables: Mapping[str, str]) -> float:
    """Share of a core that a rank gets: STRAGGLER=0.5 gives the last one a half of the others'."""
    straggler = float(variables.get("STRAGGLER", 1)) if rank == ranks - 1 else 1.0
    return float(variables["CPU_SHARE"]) * straggler


class Groups:
    """The control groups of one sweep: the same name each time, so that what a killed sweep left
    is found."""

    def __init__(self, name: str) -> None:
        self.name = name

    def make(self, ranks: int, variables: Mapping[str, str]) -> dict[str, str]:
        """Make groups for a run; what tells its ranks, which enter their own after the warm-up."""
        # A sweep that was killed leaves groups, and a run that failed may too.
        self.remove()
        place = controller() or V1
        folder, period = place / self.name, 1000 * period_of(variables)
        try:
            folder.mkdir()
            if place == V2:
                (folder / "cgroup.subtree_control").write_text("+cpu")
            for rank in range(ranks):
                # The kernel gives no less than 1 ms.
                quota = max(1000, int(part_of(rank, ranks, variables) * period))
                limits = {"cpu.max": f"{quota} {period}"}
                # Version 1 has a file for each; the period comes first, or the quota may not fit.
                if place == V1:
                    limits = {"cpu.cfs_period_us": str(period), "cpu.cfs_quota_us": str(quota)}
                (folder / str(rank)).mkdir()
                for name, value in limits.items():
                    (folder / str(rank) / name).write_text(value)
        except OSError as error:
            raise SweepError(
                f"cannot make a share of a core, {error.filename}: {error.strerror}"
            ) from None
        return {"CPU_GROUPS": str(folder)}

    def remove(self) -> None:
        """End what is in the groups, and remove them."""
        # Groups within a group first: the kernel removes none that holds others.
        for folder in (V1 / self.name, V2 / self.name):
            for group in [*folder.glob("*/"), folder]:
                remove_group(group)


def remove_group(group: Path) -> None:
    """Kill a group's processes and remove it; raises SweepError if it is there after 10 s."""
    deadline = time.monotonic() + 10
    while group.is_dir():
        with contextlib.suppress(OSError):
            for pid in (group / "cgroup.procs").read_text().split():
                if pid != "0":  # of another container; for kill() it would be this process's group
                    os.kill(int(pid), signal.SIGKILL)
            group.rmdir()
            return
        if time.monotonic() > deadline:
            raise SweepError(f"cannot remove the control group {group}: something is left in it")
        time.sleep(0.02)


def cpu_time_of_ranks(path: Path) -> dict[int, tuple[float, float]]:
    """For each rank of a run its CPU time (s) and the time (s) while it did not wait for others.
    The warm-up does not count: there the ranks are not yet in their groups."""
    busy: dict[int, float] = collections.defaultdict(float)
    passed: dict[int, float] = collections.defaultdict(float)
    with path.open() as file:
        for row in csv.DictReader(file):
            if row["warmup"] == "0":
                rank = int(row["rank"])
                for name in ("user_time", "system_time"):
                    busy[rank] += float(row[name]) - float(row[f"communication_{name}"])
                passed[rank] += float(row["step_time"]) - float(row["communication_time"])
    return {rank: (busy[rank], passed[rank]) for rank in busy}


def miss(path: Path, variables: Mapping[str, str], stolen_s: float, wall_s: float) -> str:
    """Whether a run's ranks got their shares, and how much the host took of the cores' time;
    nothing if all is well."""
    ranks = cpu_time_of_ranks(path)
    for rank, (busy, passed) in ranks.items():
        # Communication does not count: there a rank sleeps.
        share, got = part_of(rank, len(ranks), variables), busy / passed
        if abs(got / share - 1) > MISS:
            return f"rank {rank} got {got:.3f} of a core, not its share of {share:.3g}"
    # The kernel counts stolen time over all cores.
    if stolen_s > STOLEN * wall_s * (os.cpu_count() or 1):
        return f"the host took {stolen_s:.2f} s, more than {100 * STOLEN:.0f} % of the cores' time"
    return ""
