"""A sweep: every configuration once per round, in shuffled order, each run a process of its own.

    sweep.py SCRIPT LIST OWN PLOT [--dry-run | --help]

`LIST --list` (run_experiments.sh, say) gets the number of devices in DEVICES and prints one
configuration a line: folder, ranks, threads, then NAME=value for its environment (MEMORY=kept
stands for an allocator, NNODES=2 for nodes, GROUP=a for what is measured side by side) and options
of SCRIPT; or, of one that cannot run: folder, `skip`, devices, batch, the reason. OWN is the
default results folder, PLOT draws its figures (empty: none).

Finished runs are kept: started again, a sweep does only what is missing. Without RESULTS_DIR the
rows go to a folder ..._own beside the published ones, which git ignores; there, results of another
machine, code or dataset are moved aside. A folder that RESULTS_DIR names is refused then: results
never mix. Runs that fail are listed at the end, and the exit status is 1 then; 3 if time ran out.

Settings that every sweep has, from the environment:
  NUM_RUNS=6           rounds: runs of each configuration; 6 or more give intervals
  STEPS=  WARMUP=      measured steps of a run, and warm-up steps before them; STEPS=0, on GPUs:
                       as many as take 5 s, after a warm-up of 3 s
  OPTIONS=             of the training script, for all runs: OPTIONS='--model resnet18'
  VARIANTS=            options that take turns, separated by ';', in place of none:
                       VARIANTS='; --channels-last; MEMORY=kept --bucket-cap-mb 1'
  DATA_DIR=            folder with train/ (default: the first data/imagenette2* with real images)
  RESULTS_DIR=         where the rows go: bs32_cores4/times_run1.csv and so on
  MINUTES=             after these the sweep ends in order; started again it does the rest
  RUN_TIMEOUT=900      seconds after which a run is ended and counts as failed
  FIGURES=1            0: do not draw the figures after each round
  PYTHON=              default: the repository's .venv, else python3
Several nodes (cpu/README.md): start the sweep on the first one.
  NNODES=1             nodes; each has the repository, .venv and data at the same path
  LAUNCHER=            starts a command on each node: LAUNCHER='srun --ntasks-per-node=1'
  MASTER_ADDR=         of the first node
"""

import contextlib
import dataclasses
import hashlib
import os
import re
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import process
import shares
from folder import ResultsFolder, SweepError, lock_machine, read_run
from identity import DescriptionError, describe

SECONDS_PER_RUN = float(os.environ.get("SECONDS_PER_RUN", 40))  # where nothing was measured yet
SECONDS_PER_FIGURE = 300
DEFAULTS = {
    "NUM_RUNS": "6",
    "STEPS": "2",
    "WARMUP": "2",
    "OPTIONS": "",
    "VARIANTS": "",
    "DATA_DIR": "",
    "RESULTS_DIR": "",
    "MINUTES": "",
    "RUN_TIMEOUT": "900",
    "FIGURES": "1",
    "PYTHON": sys.executable,
    "NNODES": "1",
    "LAUNCHER": "",
    "MASTER_ADDR": "",
}
AT_LEAST_1 = (r"[1-9]\d{0,7}", "an integer >= 1")
INTEGERS = (r" *[1-9]\d*( +[1-9]\d*)* *", "integers >= 1 like '1 2 4'")
SWITCH = (r"[01]", "0 or 1")
CHECKS = {  # what a setting must look like, and in words
    "NUM_RUNS": AT_LEAST_1,
    "STEPS": (r"\d{1,7}", "an integer >= 0"),
    "WARMUP": (r"\d{1,7}", "an integer >= 0"),
    "CYCLES": AT_LEAST_1,  # of the study curve
    "RUN_TIMEOUT": AT_LEAST_1,
    "NNODES": AT_LEAST_1,
    "MINUTES": (r"\d{1,6}(\.\d+)?", "a number of minutes"),
    "FIGURES": SWITCH,
    "OVERSUBSCRIBE": SWITCH,
    "THREADS": (r"\d{1,4}", "an integer >= 0"),
    "SERIES": (r" *(strong|weak)( +(strong|weak))* *", "strong, weak or both"),
    "CPU_SHARE": (r"\S+", "one share of a core"),
    "BATCH_SIZES": INTEGERS,
    "CORE_COUNTS": INTEGERS,
    "GPU_COUNTS": INTEGERS,
    "RESULTS_DIR": (r"[^\ud800-\udfff]*", "UTF-8"),  # other bytes are such letters
}
# NAME=value, as a shell has it in front of a command.
VARIABLE = re.compile(r"[A-Z_]+=")


class OutOfTime(Exception):
    """MINUTES have passed."""


@dataclasses.dataclass(frozen=True)
class Configuration:
    """What is measured in one folder."""

    folder: str
    ranks: int
    variables: dict[str, str]  # of its environment; MEMORY names an allocator
    options: list[str]  # of the training script

    @property
    def nodes(self) -> int:
        return int(self.variables["NNODES"])

    def is_same_measurement(self, other: "Configuration") -> bool:
        return dataclasses.replace(self, folder=other.folder) == other

    def batch(self) -> int:
        return int(self.options[self.options.index("--batch-size") + 1])


@dataclasses.dataclass(frozen=True)
class Impossible:
    """A configuration that cannot run here, and why."""

    folder: str
    devices: int
    batch: int
    reason: str


class Ended(NamedTuple):
    """How a run ended."""

    why: str  # it failed; nothing if it ended well
    is_late: bool  # it was ended at its time limit
    measured: dict[str, float]  # for the log


# ---- settings and configurations


def read_settings() -> dict[str, str]:
    """The settings, from the environment; an empty one is its default."""
    for name, (pattern, expected) in CHECKS.items():
        if os.environ.get(name) and not re.fullmatch(pattern, os.environ[name]):
            raise SweepError(f"{name}: expected {expected}, got {os.environ[name]!r}")
    # make passes settings that are not given as empty ones.
    settings = {name: os.environ.get(name) or default for name, default in DEFAULTS.items()}
    if settings["NNODES"] != "1" and not (settings["LAUNCHER"] and settings["MASTER_ADDR"]):
        raise SweepError(f"NNODES={settings['NNODES']} needs LAUNCHER and MASTER_ADDR: see --help")
    return settings


def split_words(setting: str, text: str) -> list[str]:
    """As a shell splits them; --option=value becomes two words, so that both ways to write it are
    one configuration."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise SweepError(f"{setting}: {error}: {text!r}") from None
    split = []
    for word in words:
        # Or --bucket-cap-mb=2 and --micro-batches=2 would share a folder's name.
        split += word.split("=", 1) if word.startswith("--") else [word]
    return split


def split_variables(words: list[str]) -> tuple[dict[str, str], list[str]]:
    """NAME=value at the beginning, and the options after that: --note A=1 is an option."""
    variables = {}
    options = list(words)
    while options and VARIABLE.match(options[0]):
        name, value = options.pop(0).split("=", 1)
        variables[name] = value
    return variables, options


def folder_name(base: str, words: list[str]) -> str:
    """What differs names the folder: bs32_cores4 and --precision bf16 make
    bs32_cores4_precision_bf16; of NAME=value it is the value."""
    parts = [base]
    for word in words:
        # MEMORY=kept is "kept" in a name; of other characters none is safe in every file system.
        word = VARIABLE.sub("", word, count=1)
        parts.append(re.sub(r"[^A-Za-z0-9.]+", "_", word).strip("_"))
    return "_".join(filter(None, parts))


def refuse_repeated(given: list[str], listed: list[str]) -> None:
    """The user's options must not set what the sweep sets: folder and rows would disagree."""
    own = {word for word in listed if word.startswith("--")} | {"--output", "--describe"}
    repeated = sorted({word for word in given if word in own})
    if repeated:
        raise SweepError(f"OPTIONS, VARIANTS: the sweep itself sets {', '.join(repeated)}")


def print_list(listing: list[str], devices: int, settings: dict[str, str]) -> list[str]:
    """The lines of LIST, which gets the number of devices."""
    # LIST may need Python, and must not find another one.
    environment = {**os.environ, "DEVICES": str(devices), "PYTHON": settings["PYTHON"]}
    command = [*listing, "--list"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        said = (done.stderr.strip() or f"{listing[0]} --list failed").splitlines()[-1]
        raise SweepError(said.removeprefix("error: "))
    return [line for line in done.stdout.splitlines() if line.strip()]


def read_line(line: str, given: list[str], nodes: str) -> Configuration | Impossible:
    """A line of LIST, with the words that the user's settings add to it."""
    # Split as a shell does: a path in it may have a blank.
    base, ranks, *rest = shlex.split(line)
    folder = folder_name(base, given)
    if ranks == "skip":
        return Impossible(folder, int(rest[0]), int(rest[1]), " ".join(rest[2:]))
    threads, *words = rest
    variables, options = split_variables(words)
    more_variables, more_options = split_variables(given)
    refuse_repeated(more_options, options)
    # What the user gives comes last: a variant may set what the list has.
    variables = {"MEMORY": "glibc", "NNODES": nodes} | variables | more_variables
    # torchrun sets OMP_NUM_THREADS=1 only when it starts more than one process; 0 leaves it so.
    if threads != "0":
        variables["OMP_NUM_THREADS"] = threads
    # The same ranks on more nodes are another measurement.
    if variables["NNODES"] != "1":
        folder += f"_nodes{variables['NNODES']}"
    return Configuration(folder, int(ranks), variables, options + more_options)


def list_configurations(
    lines: list[str], settings: dict[str, str]
) -> tuple[list[Configuration], list[Impossible]]:
    """The lines of LIST, each with every variant; equal ones once."""
    common = split_words("OPTIONS", settings["OPTIONS"])
    variants = [split_words("VARIANTS", text) for text in settings["VARIANTS"].split(";")]
    found: dict[str, Configuration] = {}
    impossible: dict[str, Impossible] = {}
    for line in lines:
        for variant in variants:
            # Variables of a variant come first, as in a line; then the options for all runs.
            variables, options = split_variables(variant)
            own = [f"{name}={value}" for name, value in variables.items()]
            new = read_line(line, [*own, *common, *options], settings["NNODES"])
            if isinstance(new, Impossible):
                impossible[new.folder] = new
            # A fixed batch and a fixed batch per device meet in one configuration.
            elif any(new.is_same_measurement(old) for old in found.values()):
                continue
            elif new.folder in found:
                raise SweepError(f"two configurations would share the folder {new.folder}")
            else:
                found[new.folder] = new
    return list(found.values()), list(impossible.values())


def check_devices(configurations: list[Configuration], identity: dict[str, Any]) -> None:
    """Refuse allocators that are not installed, and shares of a core that are not possible."""
    for memory in sorted({one.variables["MEMORY"] for one in configurations}):
        if memory not in process.MEMORIES:
            known = ", ".join(process.MEMORIES)
            raise SweepError(f"MEMORIES: expected some of {known}, got {memory!r}")
        # Of a library that is missing the loader would only warn, and glibc be measured.
        if library := process.missing_library(memory):
            raise SweepError(f"memory {memory} needs {library}, which is not installed")
    for one in configurations:
        if one.variables.get("CPU_SHARE"):
            # Results of two throttling periods differ: the period identifies them.
            identity["cpu_period_ms"] = shares.PERIOD_MS
            reason = shares.refusal(one.variables, one.ranks, identity["cores_granted"])
            if reason:
                raise SweepError(reason)


def script_options(settings: dict[str, str]) -> list[str]:
    """Options of the training script that are the same for all runs."""
    # A rank waits less long for another than the run may take: then it can say so itself.
    patience = 1 + int(settings["RUN_TIMEOUT"]) // 3
    options = ["--steps", settings["STEPS"], "--warmup", settings["WARMUP"]]
    options += ["--timeout", str(patience)]
    if settings["DATA_DIR"]:
        options += ["--data", settings["DATA_DIR"]]
    return options


def plan(
    configurations: list[Configuration], folder: ResultsFolder, rounds: int
) -> list[tuple[int, Configuration]]:
    """The runs that are missing, round by round, within a round in an order drawn by a hash: it
    does not depend on which runs are there already, and differs between results folders. A GROUP of
    configurations stays together, so that they are compared within minutes in a long round, too."""

    def draw(run_id: int, name: str) -> str:
        # md5 is only a die here: the same on every machine, Python's own hash is not.
        return hashlib.md5(f"{folder.path.name} {run_id} {name}".encode()).hexdigest()

    def place(run: tuple[int, Configuration]) -> tuple[int, str, str]:
        run_id, one = run
        return run_id, draw(run_id, one.variables.get("GROUP", "")), draw(run_id, one.folder)

    runs = []
    for run_id in range(1, rounds + 1):
        for one in configurations:
            # A file of this name is complete: the training script renames it when it is.
            done = folder.rows_of(one.folder, run_id).is_file()
            if not done and not folder.is_skipped(one.folder):
                runs.append((run_id, one))
    return sorted(runs, key=place)


def seconds_left(runs: list[tuple[int, Configuration]], walls: dict[str, list[float]]) -> float:
    """What runs need if each takes what its configuration took so far, or else all did."""
    # Configurations differ by a factor of ten; within one, runs are alike.
    means = {name: statistics.mean(times) for name, times in walls.items()}
    other = statistics.mean(means.values()) if means else SECONDS_PER_RUN
    return sum(means.get(one.folder, other) for _, one in runs)


def duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def show(line: str, stays: bool = False) -> None:
    """A line of progress. On a terminal the next one takes its place, unless it is to stay."""
    if not sys.stdout.isatty():
        print(line, flush=True)
        return
    width = shutil.get_terminal_size().columns - 1
    print(f"\r\x1b[K{line if stays else line[:width]}", end="\n" if stays else "", flush=True)


def leave_progress() -> None:
    """On a terminal, go on below the line of progress."""
    if sys.stdout.isatty():
        print()


def stolen_seconds() -> float:
    """Seconds that the hypervisor gave to others since the start, over all cores."""
    # The eighth number of the line "cpu", which sums over all cores, in ticks.
    return int(Path("/proc/stat").read_text().split()[8]) / os.sysconf("SC_CLK_TCK")


# ---- the sweep


class Sweep:
    """The runs of a plan, one after the other, and what becomes of them."""

    def __init__(self, script: Path, plot: str, folder: ResultsFolder, settings: dict) -> None:
        self.script, self.plot, self.folder, self.settings = script, plot, folder, settings
        # Always the same for a results folder, so that what a killed sweep left is found.
        name = f"sweep-{hashlib.md5(str(folder.path).encode()).hexdigest()[:12]}"
        self.temporary = Path(tempfile.gettempdir(), name)
        self.groups = shares.Groups(name)
        # Taken before results move aside: of another machine's runs no time is estimated.
        self.walls = folder.wall_times()
        self.failures: list[str] = []
        minutes = float(settings["MINUTES"] or "inf")
        self.deadline = time.monotonic() + 60 * minutes

    def job(self, one: Configuration, rows: Path, more: list[str]) -> process.Job:
        """A run of a configuration, as a process."""
        variables = dict(one.variables)
        variables |= process.MEMORIES[variables.pop("MEMORY")]
        nodes = int(variables.pop("NNODES"))
        # The ranks enter their groups themselves, after the warm-up.
        if variables.get("CPU_SHARE"):
            variables |= self.groups.make(one.ranks, variables)
        arguments = [*script_options(self.settings), "--output", str(rows), *one.options, *more]
        return process.Job(
            program=[self.settings["PYTHON"], str(self.script), *arguments],
            ranks=one.ranks,
            variables=variables,
            limit_s=min(float(self.settings["RUN_TIMEOUT"]), self.time_left()),
            nodes=nodes,
            launcher=shlex.split(self.settings["LAUNCHER"]),
            address=self.settings["MASTER_ADDR"],
        )

    def time_left(self) -> float:
        """Seconds until the deadline; raises OutOfTime after it."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise OutOfTime
        return left

    def execute(self, one: Configuration, rows: Path, more: list[str]) -> Ended:
        """Start a run and wait for its end."""
        begun, stolen = time.monotonic(), stolen_seconds()
        job, log = self.job(one, rows, more), self.temporary / "log"
        environment = process.environment_of(job, self.temporary)
        try:
            status = process.run(process.command_of(job), environment, log)
        except process.Stopped:
            # Its rows may be there already: then it is complete, and has a checksum.
            self.note_if_complete(rows)
            raise
        # A monotonic clock: somebody may set the other one.
        wall, stolen = time.monotonic() - begun, stolen_seconds() - stolen
        why = process.why_it_failed(status, log.read_text(errors="replace")) if status else ""
        # A run whose ranks did not get their shares measured something else.
        if rows.is_file() and one.variables.get("CPU_SHARE"):
            missed = shares.miss(rows, one.variables, stolen, wall)
            if missed:
                why = missed
                rows.unlink()
        return Ended(why, wall >= job.limit_s, {"wall_s": wall, "stolen_s": stolen})

    def run_one(self, one: Configuration, run_id: int, more: list[str]) -> str:
        """Run a configuration once and see what becomes of it; a line that says so. The training
        script leaves its rows, or a word why it did not: how to try again, or why not to."""
        # A user may have moved the folder away since the last run.
        self.folder.check_ours()
        rows = self.folder.rows_of(one.folder, run_id)
        rows.parent.mkdir(exist_ok=True)
        ended = self.execute(one, rows, more)
        words = self.folder.take_words(rows)

        if rows.is_file():
            # First the checksum, then the log: a run without a log is complete all the same.
            self.folder.note_complete(rows)
            steps_s, rate = read_run(rows)
            self.walls.setdefault(one.folder, []).append(ended.measured["wall_s"])
            self.folder.log(rows, "complete", steps_s=steps_s, **ended.measured)
            after = f"; after its last step: {ended.why}" if ended.why else ""
            return f"{rate:.2f} img/s{after}"
        if ended.is_late and self.deadline < time.monotonic():
            raise OutOfTime  # it had what was left of MINUTES
        if ended.is_late:
            why = f"not done after {self.settings['RUN_TIMEOUT']} s (RUN_TIMEOUT): hung?"
            return self.note_failed(rows, why, ended.measured)
        if ".retry" in words:
            reason, options = words[".retry"]["reason"], words[".retry"]["options"]
            self.folder.log(rows, "retried", reason=reason, **ended.measured)
            print(f"{one.folder} run {run_id}: {reason}; again with {options}", flush=True)
            return self.run_one(one, run_id, shlex.split(options))
        if ".skip" in words:
            reason = f"{words['.skip']['reason']} ({words['.skip']['step']})"
            self.folder.skip(one.folder, one.ranks, one.batch(), reason)
            self.folder.log(rows, "skipped", reason=reason, **ended.measured)
            return f"SKIPPED: {reason}"
        return self.note_failed(rows, ended.why or "it left no rows", ended.measured)

    def note_if_complete(self, rows: Path) -> None:
        with process.undisturbed():
            # A second Ctrl-C comes after this.
            if rows.is_file():
                self.folder.note_complete(rows)
            self.folder.take_words(rows)

    def note_failed(self, rows: Path, why: str, measured: dict[str, float]) -> str:
        """Keep a failed run's log beside where its rows would be."""
        self.failures.append(f"{rows.parent.name} run {rows.stem.removeprefix('times_run')}: {why}")
        try:
            kept = shutil.copy(self.temporary / "log", rows.with_suffix(".log"))
            self.failures[-1] += f" (log: {kept})"
        except OSError:
            rows.with_suffix(".log").unlink(missing_ok=True)  # a full disk has no room for it
        self.folder.log(rows, "failed", reason=why, **measured)
        return f"FAILED: {why}"

    @contextlib.contextmanager
    def prepared(self) -> Iterator[None]:
        """What runs need while they last; it is cleaned up, whatever ends them."""
        shutil.rmtree(self.temporary, ignore_errors=True)  # of a sweep that was killed
        self.groups.remove()
        self.temporary.mkdir(mode=0o700)
        try:
            yield
        finally:
            with process.undisturbed():
                self.groups.remove()
                shutil.rmtree(self.temporary, ignore_errors=True)

    def run(self, runs: list[tuple[int, Configuration]]) -> None:
        """All runs of the plan."""
        with self.prepared():
            try:
                for number, (run_id, one) in enumerate(runs, start=1):
                    if not self.folder.is_skipped(one.folder):
                        self.run_and_show(runs, number)
                    if number < len(runs) and runs[number][0] != run_id:
                        leave_progress()
                        self.draw()  # a round has ended
            finally:
                leave_progress()

    def run_and_show(self, runs: list[tuple[int, Configuration]], number: int) -> None:
        """The run of this number, from 1 on, and a line that says how it went."""
        run_id, one = runs[number - 1]
        name = f"[{number}/{len(runs)}] {one.folder} run {run_id}"
        if sys.stdout.isatty():
            left = duration(seconds_left(runs[number - 1 :], self.walls))
            show(f"{name}: running; about {left} left")
        line = self.run_one(one, run_id, [])
        left = duration(seconds_left(runs[number:], self.walls))
        show(f"{name}: {line}; about {left} left", stays="img/s" not in line)

    def draw(self, *arguments: str) -> None:
        """Draw the figures anew, so that one can look, and stop, at any time."""
        if self.settings["FIGURES"] == "0" or not self.plot:
            return
        # In a session of its own, as the runs: a Ctrl-C must not end in the plot's traceback.
        command = [*process.BOUND, self.settings["PYTHON"], self.plot, str(self.folder.path)]
        command += arguments
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        how = ""
        try:
            out, _ = child.communicate(timeout=SECONDS_PER_FIGURE)
        except subprocess.TimeoutExpired:
            how = f"did not end within {SECONDS_PER_FIGURE} s"
        finally:
            process.end(child)
        # Status 1 says that some files were left out.
        if child.returncode not in (0, 1):
            how = how or f"ended with status {child.returncode}"
            problem = f"no figures: {self.plot} {how}"
            if problem not in self.failures:
                self.failures.append(problem)
        elif out:
            print(out if arguments else out.splitlines()[-1], flush=True)


# ---- the program


def print_plan(configurations: list[Configuration], sweep: Sweep) -> None:
    runs = plan(configurations, sweep.folder, int(sweep.settings["NUM_RUNS"]))
    for one in configurations:
        count = sum(other is one for _, other in runs)
        if count:
            print(f"{one.folder}: {count} runs of {' '.join(one.options)}")
    basis = "by the runs that are there" if sweep.walls else f"at {SECONDS_PER_RUN:g} s per run"
    print(
        f"plan: {len(runs)} runs, about {duration(seconds_left(runs, sweep.walls))} ({basis}), "
        f"into {sweep.folder.path}; nothing was written"
    )


def print_impossible(impossible: list[Impossible]) -> None:
    """A line for each reason, with the numbers of devices that it leaves out."""
    for reason in sorted({one.reason for one in impossible}):
        devices = sorted({one.devices for one in impossible if one.reason == reason})
        numbers = ", ".join(map(str, devices))
        if len(devices) > 2 and devices[-1] - devices[0] == len(devices) - 1:
            numbers = f"{devices[0]} to {devices[-1]}"
        print(f"cannot run on {numbers}: {reason}")


def check_identity(folder: ResultsFolder, settings: dict[str, str]) -> list[str]:
    """How results that are there differ from what this sweep would measure: they move aside. Raises
    SweepError if the user has named their folder."""
    differences = folder.differences()
    if differences and settings["RESULTS_DIR"]:
        raise SweepError(
            f"the results in {folder.path} are of another machine, code or dataset "
            f"({'; '.join(differences)}): set RESULTS_DIR to another folder"
        )
    recorded = folder.read_there()["recorded"]
    for name in () if differences else ("STEPS", "WARMUP"):
        # They do not identify results, and may be together.
        if recorded.get(name.lower(), settings[name]) != settings[name]:
            print(f"note: runs that are there have {name}={recorded[name.lower()]}")
    return differences


def take(sweep: Sweep, differences: list[str]) -> None:
    """Take the machine and the folder; results that differ in these move aside."""
    folder = sweep.folder
    # The machine first: whoever waits for it must not hold a folder.
    lock_machine()
    folder.lock()
    if differences:
        print("Results of another machine, code or dataset are there:", *differences, sep="\n  ")
        print(f"They are kept in {folder.move_aside()}.")
        sweep.walls = {}
    print("".join(f"{message}\n" for message in folder.open()), end="", flush=True)


def measure(
    sweep: Sweep,
    configurations: list[Configuration],
    impossible: list[Impossible],
    differences: list[str],
) -> None:
    """Do the runs that are missing."""
    take(sweep, differences)
    folder = sweep.folder
    for one in impossible:
        folder.skip(one.folder, one.devices, one.batch, one.reason)
    sweep.run(plan(configurations, folder, int(sweep.settings["NUM_RUNS"])))
    # cpu_run_own stands beside cpu_run.
    published = Path(str(folder.path).removesuffix("_own"))
    compare = published != folder.path and any(published.rglob("times_run*.csv"))
    sweep.draw(*(["--against", str(published)] if compare else []))


def report_failures(failures: list[str]) -> NoReturn:
    print(f"{len(failures)} failed; start the sweep again to repeat them:", *failures, sep="\n  ")
    sys.exit(1)


def run_program(script: Path, listing: list[str], own: Path, plot: str, is_dry: bool) -> None:
    settings = read_settings()
    # With the user's options: what the script refuses is said before anything is written.
    asked = [*script_options(settings), *split_words("OPTIONS", settings["OPTIONS"])]
    environment = describe(settings["PYTHON"], script, asked)
    environment["recorded"] |= {"steps": settings["STEPS"], "warmup": settings["WARMUP"]}
    devices = environment["identity"]["devices_granted"] * int(settings["NNODES"])
    lines = print_list(listing, devices, settings)
    configurations, impossible = list_configurations(lines, settings)
    print_impossible(impossible)
    if not configurations:
        raise SweepError("nothing can run with these settings")
    check_devices(configurations, environment["identity"])
    memories = sorted({one.variables["MEMORY"] for one in configurations})
    environment["recorded"]["malloc"] = process.library_versions(memories)

    path = Path(settings["RESULTS_DIR"] or own).absolute()
    folder = ResultsFolder(path, environment)
    differences = check_identity(folder, settings)
    if is_dry:
        # The plan is of the empty folder that would take their place.
        if differences:
            print("The results that are there would move aside:", *differences, sep="\n  ")
            folder.path = path / "none"
        print_plan(configurations, Sweep(script, plot, folder, settings))
        return
    sweep = Sweep(script, plot, folder, settings)
    measure(sweep, configurations, impossible, differences)
    if sweep.failures:
        report_failures(sweep.failures)
    print(f"all runs are complete in {path}")


def in_words(error: OSError, results: Path) -> str:
    """What cannot be used, and why. A write that fails names no file: it was to the results."""
    where = Path(str(error.filename or results))
    if results in (where, *where.absolute().parents):
        return f"cannot use the results folder {results}: {error.strerror}"
    return f"cannot use {where}: {error.strerror}"


def fail(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def run_as_program(work: Callable[[], None], own: str) -> NoReturn:
    """Work that ends with a status and, if it cannot go on, with one line for its user. own: the
    default results folder."""
    try:
        process.stop_on_signals()
        work()
        sys.stdout.flush()
    except process.Stopped as stopped:
        print("stopped: complete runs are kept; start the sweep again for the rest")
        sys.exit(128 + stopped.number)
    except OutOfTime:
        print("out of time (MINUTES): complete runs are kept; start the sweep again for the rest")
        sys.exit(3)
    except BrokenPipeError:
        # Nothing more can be printed: not by Python at its end either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        fail("nobody reads the output any more; complete runs are kept")
    except (SweepError, DescriptionError) as error:
        fail(str(error))
    except OSError as error:
        fail(in_words(error, Path(os.environ.get("RESULTS_DIR") or own).absolute()))
    sys.exit(0)


def main() -> None:
    script, listing, own, plot, *arguments = sys.argv[1:]
    if arguments in (["--help"], ["-h"]):
        print(__doc__[__doc__.index("Finished runs") :].strip())
        return
    if arguments not in ([], ["--dry-run"]):
        fail(
            f"unknown option {arguments[-1]!r}: there are --dry-run and --help; settings are in "
            "the environment"
        )
    is_dry = bool(arguments)
    run_as_program(
        lambda: run_program(Path(script), shlex.split(listing), Path(own), plot, is_dry), own
    )


if __name__ == "__main__":
    main()
