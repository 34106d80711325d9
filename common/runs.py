"""What complete runs leave: times, checksums, and what became of them since."""

import collections
import csv
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

LOG = "date commit order_seed configuration run_id wall_s steps_s stolen_s result sha256".split()
csv.field_size_limit(2**30)  # a damaged file may have a long one


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
    """The lines of runs.csv that are whole, up to the checksum, by column; none if there is no such
    file."""
    path = results / "runs.csv"
    text = path.read_text(errors="replace").replace("\0", "") if path.is_file() else ""
    return [row for row in csv.DictReader(text.splitlines()) if {"configuration", "run_id"} <=
            row.keys() and None not in row and None not in row.values() and row["run_id"].isdigit()
            and Path(row["configuration"]).name == row["configuration"] != ".."
            and re.fullmatch("([0-9a-f]{64})?", row.get("sha256", ""))
            and (row.get("result") != "complete" or row.get("sha256", "older"))]


def set_aside(path: Path) -> Path:
    """Rename a damaged file, so that no sweep takes it for a good one; its new name."""
    aside = path.with_name(f"damaged_{path.name}")
    while aside.exists():
        aside = aside.with_name(f"damaged_{aside.name}")
    return path.rename(aside)


def mend_log(results: Path) -> str:
    """Set runs.csv aside if its head is another (as a spreadsheet may save it): what a sweep adds
    would not fit; what to print of it. Of a head that a full disk cut nothing is worth keeping."""
    path = results / "runs.csv"
    text = path.read_text(errors="replace") if path.is_file() else ""
    head, end, _ = text.partition("\n")
    names = head.split(",")
    if not text or (end and "run_id" in names and names == LOG[: len(names)]):
        return ""
    if ",".join(LOG).startswith(text):
        path.unlink()
        return ""
    return (f"{path} has another head than a sweep writes, kept as {set_aside(path)}: runs are "
            "taken as they are found\n")


def changed_since(results: Path) -> Iterator[tuple[str, str, str, str, str]]:
    """Complete runs that are not what the log says of them: configuration, number, what became of
    it, its checksum, and a line to print. A damaged one is renamed, so that it is measured anew.
    One that is not in the log (its sweep was killed in between) is taken as found, if its rows
    can be read. The log must get what this yields, or a run that is measured again, and broken off
    before it is in the log, would be called damaged. Lines without a checksum are older than
    checksums."""
    last = {(row["configuration"], row["run_id"]): row for row in read_log(results)}
    kept = {key: row for key, row in last.items() if row.get("result") in ("complete", "found")}
    for (configuration, run_id), row in kept.items():
        path = results / configuration / f"times_run{run_id}.csv"
        if not row.get("sha256"):
            continue
        if not os.path.isfile(path):  # a name that is too long is none
            yield configuration, run_id, "removed", "", (
                f"removed since it was measured: {configuration} run {run_id}")
        elif checksum(path) != row["sha256"]:
            yield configuration, run_id, "damaged", "", (
                f"damaged since it was measured, kept as {set_aside(path)}: {configuration} run "
                f"{run_id}")
    for path in sorted(results.glob("*/times_run*.csv")):
        run = path.parent.name, path.stem.removeprefix("times_run")
        if run in kept or not (run[1].isdigit() and path.is_file() and run[0].isprintable()):
            continue
        try:
            read_times(path)
            became = "found", checksum(path), ""
        except (ValueError, KeyError, TypeError, ArithmeticError, csv.Error):
            became = "damaged", "", f"no whole run, kept as {set_aside(path)}: {' run '.join(run)}"
        yield *run, *became


def reason_of(status: int, log: str, limit: str, nodes: bool) -> str:
    """Why a run failed, in one line: what a rank said, which signal ended it, or the limit."""
    said = [line.removeprefix("error: ") for line in log.splitlines()
            if line.startswith("error: ") and "lost another rank" not in line]
    if limit and not (nodes and said):
        return limit + " Or a node did not join." * nodes
    cause = re.search(r"Root Cause.*?rank +: (\d+).*?exitcode +: -(\d+)", log, re.DOTALL)
    if cause:
        said.append(f"rank {cause[1]} ended by signal {cause[2]}")
    if status < 0:
        said.append(f"the run was ended by signal {-status}")
    said += [line for line in log.splitlines() if re.search(r"\w", line)][-1:]
    return [*said, f"it ended with status {status} and said nothing"][0]
