"""A sweep: every configuration once per round, in shuffled order, each run a process of its own.

    sweep.py SCRIPT LIST RESULTS [--dry-run | --help]

`LIST --list` (run_experiments.sh, say), told the DEVICES that are granted, prints a configuration
a line: folder, ranks, threads, then NAME=value for its environment (MEMORY=kept stands for that of
an allocator) and options of SCRIPT; or folder, `skip`, devices, batch, and why it cannot run.

Finished runs are kept: started again, a sweep does only what is missing. Without RESULTS_DIR the
rows go to a folder ..._own beside the published ones, which git ignores; there, results of another
machine, code or dataset are moved aside. A folder that RESULTS_DIR names is refused then: results
never mix. Runs that fail are listed at the end, and the exit status is 1 then.

Settings that every sweep has, from the environment:
  NUM_RUNS=10                       rounds: runs of each configuration
  STEPS=  WARMUP=                   measured steps of a run, and warm-up steps before them
  OPTIONS=                          of the training script, for all runs: OPTIONS='--model resnet18'
  VARIANTS=                         options that take turns, separated by ';', in place of none:
                                    VARIANTS='; --channels-last; MEMORY=kept --bucket-cap-mb 1'
  DATA_DIR=                         folder with train/ (default: the first ../data/imagenette2*)
  RESULTS_DIR=                      where the rows go: bs32_cores4/times_run1.csv and so on
  RUN_TIMEOUT=900                   seconds after which a run is ended and counts as failed
  ORDER_SEED=0                      seed of the order of the runs within a round
  FIGURES=1                         0: do not draw the figures after each round
  PYTHON=                           default: the repository's .venv, else python3
Over several nodes, start it on each with the same settings (common/slurm.sh does, under Slurm):
  NNODES=1  NODE_RANK=0             nodes, and which one this is; node 0 keeps the results
  MASTER_ADDR=  MASTER_PORT=29500   of node 0; each run takes the next port
"""

import collections
import contextlib
import csv
import fcntl
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import memories
import shares
from identity import DescriptionError, describe
from nodes import NodesError, share_plan
from runs import (
    LOG,
    changed_since,
    checksum,
    mend_log,
    read_log,
    read_times,
    reason_of,
    stolen_seconds,
)

DEFAULTS = {"NUM_RUNS": "10", "STEPS": "2", "WARMUP": "2", "OPTIONS": "", "VARIANTS": "",
            "DATA_DIR": "", "RESULTS_DIR": "", "RUN_TIMEOUT": "900", "ORDER_SEED": "0",
            "FIGURES": "1", "PYTHON": sys.executable, "PLOT": "", "NNODES": "1", "NODE_RANK": "0",
            "MASTER_ADDR": "", "MASTER_PORT": "29500"}
SETTINGS = DEFAULTS | {k: v for k, v in os.environ.items() if k in DEFAULTS and v}
CHECKS = {  # settings, what they must look like, and in words
    ("NUM_RUNS", "STEPS", "RUN_TIMEOUT", "NNODES"): (r"[1-9]\d{0,7}", "an integer >= 1"),
    ("MASTER_PORT",): (r"[1-5]?\d{1,4}|6[0-4]\d{3}", "a port below 65000"),
    ("CPU_SHARE",): (r"\S+", "one share of a core"),
    ("CPU_PERIOD_MS",): (r"[1-9]\d\d?", "an integer from 10 to 999"),
    ("BATCH_SIZES", "CORE_COUNTS", "GPU_COUNTS", "HOSTS"):
        (r" *[1-9]\d*( +[1-9]\d*)* *", "integers >= 1 like '1 2 4'"),
}
NODES, NODE = (int(text) if text.isdecimal() else 0
               for text in (SETTINGS["NNODES"], SETTINGS["NODE_RANK"]))
HUNG_UP = [signal.SIGHUP] * (signal.getsignal(signal.SIGHUP) != signal.SIG_IGN)  # not under nohup
ENDING = (signal.SIGINT, signal.SIGTERM, *HUNG_UP)
VARIABLE = re.compile(r"[A-Z_]+=")
RULE_OF_THUMB = 40  # seconds per run, where nothing was measured yet
BOUND = ["setpriv", "--pdeathsig", "KILL"]  # the kernel ends what follows with its parent
IF_STARTED_BY = ["sh", "-c", '[ "$PPID" = "$0" ] && exec "$@"']  # which may have died before that
OF_A_RUN = (".tmp", ".skip", ".retry", ".log")  # beside its rows; others there are the user's


class Configuration(NamedTuple):
    folder: str
    ranks: int  # 0: it cannot run, the options are devices, batch, reason
    threads: int
    options: list[str]

    def environment(self) -> dict[str, str]:
        given = dict(word.split("=", 1) for word in self.options if VARIABLE.match(word))
        return {"MEMORY": "glibc"} | given

    def content(self) -> tuple:
        """What is measured, without the folder's name."""
        words = (word for word in self.options if not VARIABLE.match(word))
        return self.ranks, self.threads, *sorted(self.environment().items()), *words


def die(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def check_settings() -> None:
    for names, (pattern, expected) in CHECKS.items():
        for name in names:
            if os.environ.get(name) and not re.fullmatch(pattern, os.environ[name]):
                die(f"{name}: expected {expected}, got {os.environ[name]!r}")
    for name, end in ("OPTIONS", "\n"), ("VARIANTS", ";"):
        try:
            [shlex.split(part) for part in SETTINGS[name].split(end)]
        except ValueError as error:
            die(f"{name}: {error}: {SETTINGS[name]!r}")
    if not SETTINGS["NODE_RANK"].isdecimal() or NODE >= NODES:
        die(f"NODE_RANK: expected an integer below NNODES={NODES}, got {SETTINGS['NODE_RANK']!r}")
    if NODES > 1 and not SETTINGS["MASTER_ADDR"]:
        die(f"NNODES={NODES} needs MASTER_ADDR, that of node 0")


def common_options() -> list[str]:
    data = ["--data", SETTINGS["DATA_DIR"]] if SETTINGS["DATA_DIR"] else []
    return ["--steps", SETTINGS["STEPS"], "--warmup", SETTINGS["WARMUP"], "--timeout",
            str(1 + int(SETTINGS["RUN_TIMEOUT"]) // 3), *data, *shlex.split(SETTINGS["OPTIONS"])]


def configurations(listing: str, devices: int) -> list[Configuration]:
    """The lines of LIST, for each variant; equal ones once, whatever their folders' names. What
    differs names the folder: the options' words and the environment's values, joined by _."""
    environment = {**os.environ, "DEVICES": str(devices), "PYTHON": SETTINGS["PYTHON"]}
    done = subprocess.run([listing, "--list"], env=environment, capture_output=True, text=True)
    if done.returncode:
        die((done.stderr.strip().splitlines() or [f"{listing} --list failed"])[-1])
    found, common = {}, shlex.split(SETTINGS["OPTIONS"])
    for line in done.stdout.splitlines():
        for variant in map(shlex.split, SETTINGS["VARIANTS"].split(";")):
            folder, ranks, threads, *options = line.split()
            both = {w.split("=")[0] for w in common} & {w for w in options if w[:2] == "--"}
            if ranks != "skip" and both:
                die(f"OPTIONS: the sweep itself sets {', '.join(sorted(both))}: see --help")
            words = [word.split("=")[-1] for word in common + variant]
            words = [re.sub(r"[^A-Za-z0-9.]+", "_", word).strip("_") for word in words]
            words += [f"nodes{NODES}"] * (NODES > 1)
            folder = "_".join([folder, *filter(None, words)])
            new = Configuration(folder, 0, 0, [threads, *options])
            if ranks != "skip":
                new = Configuration(folder, int(ranks), int(threads), options + variant)
            same = (one for one in found.values() if one.folder == folder)
            if any(one.content() != new.content() for one in same):
                die(f"two configurations would share the folder {folder}")
            found.setdefault(new.content() if new.ranks else folder, new)
    return list(found.values())


def check_devices(wanted: list[Configuration], identity: dict[str, Any]) -> None:
    """Refuse allocators and shares of a core that cannot be had; the shares' period belongs to the
    identity."""
    if why := memories.refusal({one.environment()["MEMORY"] for one in wanted}):
        die(why)
    for one in (one for one in wanted if "CPU_SHARE" in one.environment()):
        identity["cpu_period_ms"] = shares.PERIOD_MS
        if why := shares.refusal(one.environment()["CPU_SHARE"], one.ranks // NODES,
                                 identity["cores_granted"]):
            die(why)


def plan_runs(wanted: list[Configuration], results: Path) -> list[tuple[int, Configuration]]:
    """The runs of all rounds that are missing. The order within a round is that of a hash."""
    def place(run: tuple[int, Configuration]) -> tuple[int, str]:
        text = f"{SETTINGS['ORDER_SEED']} {run[0]} {run[1].folder}"
        return run[0], hashlib.md5(text.encode()).hexdigest()

    def missing(run_id: int, one: Configuration) -> bool:
        files = (f"times_run{run_id}.csv", "skipped.csv")
        return one.ranks > 0 and not any((results / one.folder / name).is_file() for name in files)

    rounds = range(1, int(SETTINGS["NUM_RUNS"]) + 1)
    return sorted(((n, one) for n in rounds for one in wanted if missing(n, one)), key=place)


class Sweep:
    """A results folder that is this process's alone, and the run in progress."""
    def __init__(self, script: Path, own: Path, environment: dict[str, dict[str, Any]]) -> None:
        self.script, self.environment = script, environment
        self.named = bool(SETTINGS["RESULTS_DIR"])
        self.results = Path(SETTINGS["RESULTS_DIR"]).absolute() if self.named else own
        # Always the same for a results folder, so that what a killed sweep left is found.
        name = f"sweep-{hashlib.md5(f'{self.results} {NODE}'.encode()).hexdigest()[:12]}"
        self.temporary, self.groups = Path(tempfile.gettempdir(), name), shares.Groups(name)
        self.child, self.asked = None, 0  # the run in progress, and the signal that asks to stop
        self.late = self.ending = False
        self.launched, self.failures, self.walls = 0, [], {}

    def lock(self) -> None:
        """Take the results folder for this sweep alone."""
        if NODE > 0:  # node 0 keeps the results; the others have a folder until they end
            self.results = Path(f"{self.temporary}-rows")
            shutil.rmtree(self.results, ignore_errors=True)
        try:
            self.results.mkdir(parents=True, exist_ok=NODE == 0)
            self.held = os.open(self.results, os.O_RDONLY)
            fcntl.flock(self.held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            die(f"another sweep is running in {self.results}: wait for it, or set RESULTS_DIR")
        except OSError as error:
            die(f"cannot create the results folder {self.results}: {error.strerror}")

    def replaced(self) -> bool:
        """Whether another folder is where the one that this sweep took was; OSError: none is."""
        return not os.path.samestat(os.fstat(self.held), self.results.stat())

    def differs(self) -> list[str]:
        """What identifies the results that are there and is not so here; dies if they must stay."""
        file, found = self.results / "environment.json", self.environment
        try:
            found = json.loads(file.read_text()) if file.is_file() else found
            there, recorded = {**found["identity"]}, {**found["recorded"]}
        except (ValueError, KeyError, TypeError, RecursionError):
            die(f"{file} is damaged: put it back, or set RESULTS_DIR to another folder")
        if not file.is_file() and any(self.results.glob("*/times_run*.csv")):
            die(f"{file}, which says whose the runs there are, is missing: put it back, or set "
                "RESULTS_DIR to another folder")
        here = self.environment["identity"]
        differs = [f"{name} {there.get(name)!r} there, {here.get(name)!r} here"
                   for name in {**there, **here} if there.get(name) != here.get(name)]
        if differs and self.named:
            die(f"the results in {self.results} are of another machine, code or dataset "
                f"({'; '.join(differs)}): set RESULTS_DIR to another folder")
        for name in () if differs else ("steps", "warmup"):  # not the identity: may be together
            if recorded.get(name, SETTINGS[name.upper()]) != SETTINGS[name.upper()]:
                print(f"note: runs that are there have {name.upper()}={recorded[name]}")
        return differs

    def open(self) -> None:
        """See that what is in the folder is of this identity, and as it was measured."""
        file = self.results / "environment.json"
        if differs := self.differs():
            aside = Path(f"{self.results}_until_{datetime.now():%Y%m%d_%H%M%S}")
            self.results.rename(aside)
            print("The results are of another machine, code or dataset:", *differs, sep="\n  ")
            print(f"They are kept in {aside}.")
            self.lock()
        shutil.rmtree(self.temporary, ignore_errors=True)
        self.groups.remove()
        self.temporary.mkdir(mode=0o700)
        file.with_suffix(".tmp").unlink(missing_ok=True)
        for path in [path for end in ("tmp*", "log") for path in
                     self.results.glob(f"*/times_run*.{end}")]:
            if path.suffix != ".log" or path.with_suffix(".csv").is_file():
                path.unlink()
        if not file.is_file():
            part = file.with_suffix(".tmp")
            part.write_text(json.dumps(self.environment, indent=2) + "\n")
            part.replace(file)
        print(mend_log(self.results), end="")
        for configuration, run_id, result, sha256, line in changed_since(self.results):
            self.record(configuration, run_id, "", "", "", result, sha256)
            print(line, end="\n" if line else "")
        self.read_walls(self.results)

    def note_skipped(self, one: str, devices: Any, batch: Any, reason: str) -> None:
        """Keep in a configuration's folder why it cannot run; it is not tried again."""
        (self.results / one).mkdir(exist_ok=True)
        text = f'num_devices,batch_size,reason\n{devices},{batch},"{reason}"\n'
        (self.results / one / "skipped.csv").write_text(text)

    def on_signal(self, number: int, _: Any) -> None:
        """Asked to stop, or a time limit: end the run in order, the second time by force."""
        if number == signal.SIGALRM:
            self.late = self.late or not self.asked
        else:
            self.asked = number
        if self.child and self.child.returncode is None:
            self.child.kill() if self.ending else self.child.terminate()
            self.ending = True
            signal.setitimer(signal.ITIMER_REAL, 10)

    def start(self, one: Configuration, output: Path, run_id: int, log: Any, more: list) -> int:
        """Run one configuration once, and wait; its exit status, negative for a signal."""
        environment = one.environment()
        options = [word for word in [*one.options, *more] if not VARIABLE.match(word)]
        environment |= memories.MEMORIES[environment.pop("MEMORY")]
        if "CPU_SHARE" in environment:
            environment |= self.groups.make(one.ranks // NODES, environment)
        self.launched += 1
        port = int(SETTINGS["MASTER_PORT"]) + self.launched  # no late rank joins the next run
        where = ["--nnodes", str(NODES), "--node-rank", str(NODE), "--master-addr",
                 SETTINGS["MASTER_ADDR"], "--master-port", str(port)]
        torchrun = [SETTINGS["PYTHON"], "-m", "torch.distributed.run", "--no-python",
                    *(where if NODES > 1 else ["--standalone"]), "--nproc-per-node",
                    str(one.ranks // NODES), *BOUND]
        outer = memories.without(os.environ, "OMP_NUM_THREADS", "CPU_SHARE")
        outer |= {"OMP_NUM_THREADS": str(one.threads)} if one.threads else {}
        command = [
            *BOUND, *IF_STARTED_BY, str(os.getpid()), *(torchrun if one.ranks > 1 else []),
            "env", *(f"{name}={value}" for name, value in environment.items()),
            SETTINGS["PYTHON"], str(self.script), *common_options(), "--run-id", str(run_id),
            "--output", str(output), *options,
        ]
        self.late = self.ending = False
        # torchrun gets a process group of its own: a Ctrl-C reaches this process alone.
        self.child = subprocess.Popen(
            command, env=outer | {"TMPDIR": str(self.temporary)}, stdin=subprocess.DEVNULL,
            stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        signal.setitimer(signal.ITIMER_REAL, int(SETTINGS["RUN_TIMEOUT"]))
        if self.asked:
            self.child.terminate()
        status = self.child.wait()
        signal.setitimer(signal.ITIMER_REAL, 0)
        self.child = None
        return status

    def run_one(self, one: Configuration, run_id: int, more: list[str]) -> str:
        """One run and what becomes of it; a line that says so."""
        if self.replaced():
            raise FileExistsError(17, "replaced by another", str(self.results))
        folder, log = self.results / one.folder, self.temporary / "log"
        folder.mkdir(exist_ok=True)
        output = folder / f"times_run{run_id}.csv"
        begun, stolen = time.monotonic(), stolen_seconds()
        with log.open("w") as file:
            status = self.start(one, output, run_id, file, more)
        wall, stolen = time.monotonic() - begun, stolen_seconds() - stolen
        left = {path for path in folder.glob(f"{output.stem}.*")
                if path.suffix.startswith(OF_A_RUN) and path.is_file()}
        said, steps, missed = {}, "", ""
        if output.is_file() and "CPU_SHARE" in one.environment():
            missed = shares.miss(output, one.environment(), stolen, wall)
            left |= {output} if missed else set()
        for path in left:  # word of the script: how to try again, or why not; or half a file
            if path.suffix in (".skip", ".retry"):
                said[path.suffix] = json.loads(path.read_text())
            path.unlink()
        text = log.read_text(None, "replace")
        limit = f"not done after {SETTINGS['RUN_TIMEOUT']} s (RUN_TIMEOUT): hung?" * self.late
        why = missed or reason_of(status, text, limit, NODES > 1)
        if output.is_file() or (status == 0 and NODE > 0):
            result, line = "complete", "done, the rows are at node 0"
            if NODE == 0:
                steps, rate = (f"{value:.2f}" for value in read_times(output))
                line = f"{rate} img/s" + f"; after its last step: {why}" * (status != 0)
                self.walls.setdefault(one.folder, []).append(wall)
        elif self.asked:
            return ""
        elif ".retry" in said and NODES == 1:
            more = said[".retry"]["options"]
            result, line = "retried", f"{said['.retry']['reason']}; again with {more}"
        elif ".skip" in said:
            result, reason = "skipped", f"{said['.skip']['reason']} ({said['.skip']['step']})"
            options = dict(zip(one.options, one.options[1:], strict=False))
            self.note_skipped(one.folder, one.ranks, options.get("--batch-size"), reason)
            line = f"SKIPPED: {reason}"
        else:
            result, line = "failed", f"FAILED: {why}"
            self.failures.append(f"{one.folder} run {run_id}: {why}")
            with contextlib.suppress(OSError):  # a full disk has no room for the log either
                kept = output.with_suffix(".log") if NODE == 0 else Path(f"{self.temporary}.log")
                shutil.copy(log, kept)
                self.failures[-1] += f" (log: {kept})"
        self.record(one.folder, run_id, f"{wall:.2f}", steps, f"{stolen:.2f}", result,
                    checksum(output) if result == "complete" and NODE == 0 else "")
        if result != "retried":
            return line
        print(f"{one.folder} run {run_id}: {line}", flush=True)
        return self.run_one(one, run_id, shlex.split(more))

    def record(self, *cells: Any) -> None:
        """Add a line to runs.csv; not in a folder that was made anew, which lacks the others."""
        if NODE == 0 and (self.replaced() or not (self.results / "environment.json").is_file()):
            raise FileNotFoundError(2, "removed", str(self.results))
        path, date = self.results / "runs.csv", datetime.now().astimezone()
        row = [date.isoformat(timespec="seconds"), self.environment["recorded"]["commit"],
               SETTINGS["ORDER_SEED"], *cells]
        text = path.read_text(errors="replace") if path.is_file() else ""
        head = text.partition("\n")[0].split(",") if text else LOG  # older ones: fewer columns
        with path.open("a", newline="") as file:
            file.write("" if text.endswith("\n") or not text else "\n")
            csv.writer(file, lineterminator="\n").writerows(
                [row[: len(head)]] if text else [LOG, row])

    def time_left(self, runs: list[tuple[int, Configuration]]) -> str:
        """What runs need if each takes what its configuration took so far, or else all did."""
        means = {name: statistics.mean(walls) for name, walls in self.walls.items()}
        other = statistics.mean(means.values()) if means else RULE_OF_THUMB
        seconds = sum(means.get(one.folder, other) for _, one in runs)
        return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"

    def print_plan(self, wanted: list[Configuration]) -> None:
        there = self.results
        if differs := self.differs():
            print("The results that are there will be moved aside:", *differs, sep="\n  ")
            there /= "none"
        self.read_walls(there)
        runs = plan_runs(wanted, there)
        counts = collections.Counter(one.folder for _, one in runs)
        for one in (one for one in wanted if one.folder in counts):
            print(f"{one.folder}: {counts[one.folder]} runs of {' '.join(one.options)}")
        basis = "by the runs that are there" if self.walls else f"at {RULE_OF_THUMB} s per run"
        print(f"plan: {len(runs)} runs, about {self.time_left(runs)} ({basis}), into "
              f"{self.results}; nothing was written", flush=True)

    def read_walls(self, results: Path) -> None:
        """How long runs took that are there already."""
        with contextlib.suppress(OSError, ValueError, KeyError):
            for row in read_log(results):
                if row["result"] == "complete":
                    self.walls.setdefault(row["configuration"], []).append(float(row["wall_s"]))

    def draw(self, *arguments: str) -> None:
        """Draw the figures anew, so that one can look, and stop, at any time."""
        if SETTINGS["FIGURES"] == "0" or not SETTINGS["PLOT"] or NODE > 0:
            return
        command = [*BOUND, SETTINGS["PYTHON"], SETTINGS["PLOT"], str(self.results), *arguments]
        self.ending = False
        self.child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True,
                                      start_new_session=True)
        out, _ = self.child.communicate()
        self.child = None
        if self.asked:
            stop(self.asked)
        print(out if arguments else (out.splitlines() or [""])[-1], flush=True)

    def run_all(self, runs: list[tuple[int, Configuration]]) -> None:
        for number, (run_id, one) in enumerate(runs, start=1):
            if number > 1 and runs[number - 2][0] != run_id:  # a round has ended
                self.draw()
            if NODES == 1 and (self.results / one.folder / "skipped.csv").is_file():
                continue
            line = "" if self.asked else self.run_one(one, run_id, [])
            if self.asked:
                stop(self.asked)
            print(f"[{number}/{len(runs)}] {one.folder} run {run_id}: {line}; about "
                  f"{self.time_left(runs[number:])} left", flush=True)

    def run(self, wanted: list[Configuration]) -> None:
        """Measure what is missing; clean up, whatever ends it."""
        for number in (*ENDING, signal.SIGALRM):
            signal.signal(number, self.on_signal)
        self.lock()
        try:
            self.open()
            for one in wanted if NODE == 0 else []:
                if not one.ranks:
                    self.note_skipped(one.folder, *one.options[:2], " ".join(one.options[2:]))
            runs = plan_runs(wanted, self.results)
            if NODES > 1:
                runs = share_plan(runs, self.environment["identity"], SETTINGS,
                                  lambda: stop(self.asked) if self.asked else None)
            self.run_all([(number, Configuration(*one)) for number, one in runs])
            against = Path(str(self.results).removesuffix("_own"))
            compare = not self.named and any(against.rglob("times_run*.csv"))
            self.draw(*(["--against", str(against)] if compare else []))
        finally:
            self.close()
        if self.failures:
            print(f"{len(self.failures)} runs failed; start the sweep again to repeat them:",
                  *self.failures, sep="\n  ", file=sys.stderr)
            sys.exit(1)
        print("all runs are complete" + (f" in {self.results}" if NODE == 0 else ""))

    def close(self) -> None:
        """Remove what only this sweep needs, unless another one took the place of its folder."""
        with contextlib.suppress(FileNotFoundError):
            if self.replaced():
                return
        self.groups.remove()
        shutil.rmtree(self.temporary, ignore_errors=True)
        if NODE > 0:
            shutil.rmtree(self.results, ignore_errors=True)


def stop(number: int, *_: Any) -> NoReturn:
    print("stopped: complete runs are kept; start the sweep again for the rest", flush=True)
    sys.exit(128 + number)


def prepare(script: Path, listing: str, own: Path) -> tuple[Sweep, list[Configuration]]:
    """The sweep, and all configurations that these settings ask for."""
    environment = describe(SETTINGS["PYTHON"], script, common_options())
    environment["recorded"] |= {name.lower(): SETTINGS[name] for name in ("STEPS", "WARMUP")}
    wanted = configurations(listing, environment["identity"]["devices_granted"] * NODES)
    skipped = [one for one in wanted if not one.ranks]
    for why in sorted({" ".join(one.options[2:]) for one in skipped}):
        folders = [one.folder for one in skipped if " ".join(one.options[2:]) == why]
        print(f"cannot run: {', '.join(folders)} ({why})")
    check_devices(wanted, environment["identity"])
    if len(skipped) == len(wanted):
        die("nothing can run with these settings")
    return Sweep(script, own, environment), wanted


def in_words(error: OSError, results: Path) -> str:
    """What cannot be used, and why. A write that fails names no file: it was to the results."""
    where = Path(str(error.filename or results))
    if results in (where, *where.absolute().parents):
        where = f"the results folder {results}"
    return f"cannot use {where}: {error.strerror}"


def main() -> None:
    for number in ENDING:
        signal.signal(number, stop)
    script, listing, own, *arguments = sys.argv[1:]
    try:
        if arguments[:1] in (["--help"], ["-h"]):
            print(__doc__[__doc__.index("Finished runs") :].strip(), flush=True)
            return
        if arguments not in ([], ["--dry-run"]):
            die(f"unknown option {arguments[-1]!r}: there are --dry-run and --help; settings are "
                "in the environment")
        check_settings()
        sweep, wanted = prepare(Path(script), listing, Path(own))
        sweep.print_plan(wanted) if arguments else sweep.run(wanted)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        die("nobody reads the output any more; complete runs are kept")
    except (DescriptionError, NodesError) as error:
        die(str(error))
    except OSError as error:
        die(in_words(error, Path(SETTINGS["RESULTS_DIR"] or own).absolute()))


if __name__ == "__main__":
    main()
