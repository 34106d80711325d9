"""What complete runs leave: times, checksums, and what became of them since."""

import collections
import csv
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path


def stolen_seconds() -> float:
    """Seconds that the hypervisor gave to others since the start, over all cores."""
    return int(Path("/proc/stat").read_text().split()[8]) / os.sysconf("SC_CLK_TCK")


def read_times(path: Path) -> tuple[float, float]:
    """Seconds of the longest rank in steps, and the images per second after the warm-up."""
    seconds, timed, images = collections.Counter(), collections.Counter(), 0
    with path.open() as file:
        for row in csv.DictReader(file):
            seconds[row["rank"]] += float(row["step_time"])
            timed[row["rank"]] += float(row["step_time"]) * (row["warmup"] == "0")
            images += int(row["images"]) * (row["warmup"] == "0")
    return max(seconds.values()), images / max(timed.values())


def checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_log(results: Path) -> list[dict[str, str]]:
    """The lines of runs.csv that are whole, by column; none if there is no such file."""
    path = results / "runs.csv"
    lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
    return [row for row in csv.DictReader(lines) if None not in row and None not in row.values()]


def set_aside_damaged(results: Path) -> Iterator[str]:
    """Rename each complete run that is not any more what it was when it was written, so that it is
    measured anew; yields a line on each. Runs without a checksum are older than checksums."""
    last = {(row["configuration"], row["run_id"]): row.get("sha256") for row in read_log(results)
            if row.get("result") == "complete"}
    for (configuration, run_id), sha256 in last.items():
        path = results / configuration / f"times_run{run_id}.csv"
        if sha256 and path.is_file() and checksum(path) != sha256:
            aside = path.with_name(f"damaged_{path.name}")
            while aside.exists():
                aside = aside.with_name(f"damaged_{aside.name}")
            path.rename(aside)
            yield f"damaged since it was measured, kept as {aside}: {configuration} run {run_id}"
