"""A sweep's results folder: whose results it holds, which runs are complete, and still whole.

environment.json     the identity of the results (machine, code, dataset) and what is recorded
SHA256SUMS           complete runs, one a line; `sha256sum -c SHA256SUMS` checks them by hand
runs.csv             a log for people: one line per run; no program decides by it
<configuration>/     times_run1.csv and so on; skipped.csv if it cannot run
"""

import csv
import fcntl
import hashlib
import json
import os
import re
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

LOG_COLUMNS = "date commit configuration run_id wall_s steps_s stolen_s result reason".split()
OF_A_RUN = (".tmp", ".skip", ".retry", ".log")  # beside its rows; other files are the user's
csv.field_size_limit(2**30)  # a damaged file may have a long one


class SweepError(Exception):
    """What ends a sweep with one line for its user."""


def write_whole(path: Path, text: str) -> None:
    """Write a file so that it is never seen half written."""
    # Renaming is atomic within a folder.
    part = path.with_name(path.name + ".tmp")
    part.write_text(text)
    part.replace(path)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def set_aside(path: Path) -> Path:
    """Rename a damaged file, so that no sweep takes it for a good one; its new name."""
    aside = path.with_name(f"damaged_{path.name}")
    while aside.exists():
        aside = aside.with_name(f"damaged_{aside.name}")
    return path.rename(aside)


def take_lock(path: Path, taken: str) -> int:
    """Take a folder for this process alone; the kernel gives the lock back when it ends. Returns
    the open folder; raises SweepError with the words `taken` if another process has it."""
    try:
        # Read-only is enough to lock, and another user's folder can be opened so.
        held = os.open(path, os.O_RDONLY)
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise SweepError(f"another sweep is running {taken}: wait for it") from None
    return held


def lock_machine() -> int:
    """One machine runs one sweep at a time, whatever its results folder: two would time each other.
    The lock is on the folder for temporary files, which all of a machine's users share."""
    return take_lock(Path(tempfile.gettempdir()), "on this machine")


def read_run(path: Path) -> tuple[float, float]:
    """Seconds of the slowest rank in steps, and the images per second after the warm-up. Raises
    ValueError, KeyError or another of UNREADABLE for what is no whole run."""
    steps: dict[str, float] = {}
    timed: dict[str, float] = {}
    images = 0
    with path.open() as file:
        for row in csv.DictReader(file):
            # Ranks run freely: each has its own sum.
            rank, seconds = row["rank"], float(row["step_time"])
            steps[rank] = steps.get(rank, 0.0) + seconds
            if row["warmup"] == "0":
                timed[rank] = timed.get(rank, 0.0) + seconds
                images += int(row["images"])
    return max(steps.values()), images / max(timed.values())


UNREADABLE = (ValueError, KeyError, TypeError, ArithmeticError, csv.Error)


class ResultsFolder:
    """A results folder that is this process's alone once lock() has returned."""

    def __init__(self, path: Path, environment: dict[str, dict[str, Any]]) -> None:
        self.path = path
        self.environment = environment
        self.held = -1

    def lock(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = error.strerror
            raise SweepError(f"cannot create the results folder {self.path}: {reason}") from None
        self.held = take_lock(self.path, f"in {self.path}")

    def check_ours(self) -> None:
        """Raise SweepError if the folder was removed, or replaced by another, since lock()."""
        # The lock is on the folder that was there then, whatever its name is now.
        if not os.path.samestat(os.fstat(self.held), self.path.stat()):
            raise SweepError(f"the results folder {self.path} was replaced by another")
        if not (self.path / "environment.json").is_file():
            raise SweepError(f"the results folder {self.path} lacks its environment.json now")

    def read_there(self) -> dict[str, dict[str, Any]]:
        """environment.json of the results that are there; of an empty folder, this machine's."""
        file = self.path / "environment.json"
        if not file.is_file():
            # Rows of nobody knows which machine must not be gone on with.
            if any(self.path.glob("*/times_run*.csv")):
                raise SweepError(
                    f"{file}, which says whose the runs there are, is missing: put it back, or "
                    "set RESULTS_DIR to another folder"
                )
            return self.environment
        try:
            there = json.loads(file.read_text())
            return {"identity": {**there["identity"]}, "recorded": {**there["recorded"]}}
        except (ValueError, KeyError, TypeError, RecursionError):
            raise SweepError(
                f"{file} is damaged: put it back, or set RESULTS_DIR to another folder"
            ) from None

    def differences(self) -> list[str]:
        """In what the identity of the results that are there differs from this machine's."""
        there, here = self.read_there()["identity"], self.environment["identity"]
        differences = []
        for name in {**there, **here}:
            if there.get(name) != here.get(name):
                differences.append(f"{name} {there.get(name)!r} there, {here.get(name)!r} here")
        return differences

    def move_aside(self) -> Path:
        """Rename the folder and make an empty one in its place."""
        # Nothing that was measured is deleted.
        aside = Path(f"{self.path}_until_{datetime.now():%Y%m%d_%H%M%S}")
        self.path.rename(aside)
        self.lock()
        return aside

    def open(self) -> list[str]:
        """Say whose the results are, and check the runs that are there; returns what to print."""
        self.remove_leftovers()
        file = self.path / "environment.json"
        if not file.is_file():
            write_whole(file, json.dumps(self.environment, indent=2) + "\n")
        return self.check_log() + self.check_runs()

    def remove_leftovers(self) -> None:
        """Of a sweep that was killed: half-written files, and logs of runs that succeeded since."""
        (self.path / "environment.json.tmp").unlink(missing_ok=True)
        for path in self.path.glob("*/times_run*.tmp*"):
            path.unlink()
        for path in self.path.glob("*/times_run*.log"):
            if path.with_suffix(".csv").is_file():
                path.unlink()

    def check_runs(self) -> list[str]:
        """Compare the runs with their checksums. A damaged run is renamed, so that it is measured
        again. One without a checksum (its sweep was killed in between) is taken as it is found, if
        its rows can be read. Returns what to print."""
        for part in self.path.iterdir():
            if part.is_dir():
                os.listdir(part)  # an error if it cannot be read: the search below passes over it
        listed, good, messages = self.read_sums(), {}, []
        for path in sorted(self.path.glob("*/times_run*.csv")):
            name = str(path.relative_to(self.path))
            if not re.fullmatch(r"times_run\d+\.csv", path.name) or not path.is_file():
                continue
            # What is left in `listed` at the end is not there any more.
            expected = listed.pop(name, None)
            if expected not in (None, sha256(path)):
                messages.append(f"damaged since it was measured, kept as {set_aside(path)}: {name}")
            elif expected is None and not self.is_whole(path):
                messages.append(f"no whole run, kept as {set_aside(path)}: {name}")
            else:
                good[name] = sha256(path)
        messages += [f"removed since it was measured: {name}" for name in sorted(listed)]
        # A line break in a name would need sha256sum's escapes: such a run is taken as found.
        lines = [f"{digest}  {name}\n" for name, digest in good.items() if "\n" not in name]
        write_whole(self.path / "SHA256SUMS", "".join(lines))
        return messages

    @staticmethod
    def is_whole(path: Path) -> bool:
        try:
            read_run(path)
        except UNREADABLE:
            return False
        return path.read_bytes().endswith(b"\n")

    def read_sums(self) -> dict[str, str]:
        """Checksums of complete runs by name. A line that a full disk cut counts as not there."""
        path = self.path / "SHA256SUMS"
        text = path.read_text(errors="replace") if path.is_file() else ""
        lines = re.findall(r"^([0-9a-f]{64})  (.+/times_run\d+\.csv)\n", text, re.MULTILINE)
        return {name: digest for digest, name in lines}

    def rows_of(self, configuration: str, run_id: int) -> Path:
        return self.path / configuration / f"times_run{run_id}.csv"

    def is_skipped(self, configuration: str) -> bool:
        return (self.path / configuration / "skipped.csv").is_file()

    def skip(self, configuration: str, devices: int, batch: int, reason: str) -> None:
        """Keep why a configuration cannot run; it is not tried again."""
        (self.path / configuration).mkdir(exist_ok=True)
        text = f'num_devices,batch_size,reason\n{devices},{batch},"{reason}"\n'
        (self.path / configuration / "skipped.csv").write_text(text)

    def take_words(self, rows: Path) -> dict[str, Any]:
        """What a run left beside its rows, and remove it: half files, and words of the script by
        their suffix: .retry (how to try again) and .skip (why not)."""
        words = {}
        for path in rows.parent.glob(f"{rows.stem}.*"):
            # Not times_run1.csv.bak, which a user may keep there.
            if path.suffix.startswith(OF_A_RUN) and path.is_file():
                if path.suffix in (".skip", ".retry"):
                    words[path.suffix] = json.loads(path.read_text())
                path.unlink()
        return words

    def note_complete(self, rows: Path) -> None:
        """Add a complete run to SHA256SUMS."""
        self.check_ours()
        # Added to, not written anew: after thousands of runs that would take longer than a run.
        with (self.path / "SHA256SUMS").open("a") as file:
            file.write(f"{sha256(rows)}  {rows.relative_to(self.path)}\n")

    def log(self, rows: Path, result: str, **columns: Any) -> None:
        """Add a line to runs.csv."""
        self.check_ours()
        row = {
            "date": datetime.now().astimezone().isoformat(timespec="seconds"),
            "commit": self.environment["recorded"]["commit"],
            "configuration": rows.parent.name,
            "run_id": rows.stem.removeprefix("times_run"),
            "result": result,
        }
        for name, value in columns.items():
            row[name] = f"{value:.2f}" if isinstance(value, float) else value
        path = self.path / "runs.csv"
        # A full disk may have left it empty.
        is_new = not path.is_file() or path.stat().st_size == 0
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, LOG_COLUMNS, lineterminator="\n")
            if is_new:
                writer.writeheader()
            writer.writerow(row)

    def check_log(self) -> list[str]:
        """Set a log aside that a new line would not fit: an older sweep's, or a spreadsheet's."""
        path = self.path / "runs.csv"
        text = path.read_text(errors="replace") if path.is_file() else ""
        head, end, _ = text.partition("\n")
        if not text or (end and head == ",".join(LOG_COLUMNS)):
            if text and not text.endswith("\n"):
                path.write_text(text + "\n")  # a full disk cut its last line
            return []
        if ",".join(LOG_COLUMNS).startswith(text):
            path.unlink()  # a full disk cut its first line: there is nothing to keep
            return []
        return [f"{path} has another head than a sweep writes now, kept as {set_aside(path)}"]

    def wall_times(self) -> dict[str, list[float]]:
        """Seconds that the complete runs of each configuration took, as far as the log says."""
        walls: dict[str, list[float]] = {}
        path = self.path / "runs.csv"
        text = path.read_text(errors="replace").replace("\0", "") if path.is_file() else ""
        for row in csv.DictReader(text.splitlines()):
            try:
                if row["result"] == "complete":
                    walls.setdefault(row["configuration"], []).append(float(row["wall_s"]))
            except UNREADABLE:
                pass  # a line that was cut: it only serves the estimate of time
        return walls
