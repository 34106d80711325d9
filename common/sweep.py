"""A sweep: every configuration once per round, in shuffled order, each run a process of its own.

    sweep.py SCRIPT LIST RESULTS [--dry-run | --help]

run_experiments.sh and run_gpu_experiments.sh start it with their training script. `LIST --list`,
told the DEVICES that are granted, prints one configuration a line: folder, ranks, threads, then
NAME=value for its environment and options of SCRIPT, which mean nothing here (MEMORY=kept is short
for the environment of an allocator); or folder, `skip`, devices, batch, and why it cannot run.

Finished runs are kept: started again, a sweep does only what is missing. Without RESULTS_DIR the
rows go to a folder ..._own beside the published ones, which git ignores; there, results of another
machine, code or dataset are moved aside. A folder that RESULTS_DIR names is refused then: results
never mix. Runs that fail are listed at the end, and the exit status is 1 then.

Settings that every sweep has, from the environment:
  NUM_RUNS=10                       rounds: runs of each configuration
  STEPS=  WARMUP=                   measured steps of a run, and warm-up steps before them
  OPTIONS=                          options of the training script for all runs (its --help lists
                                    them), like OPTIONS='--model resnet18 --precision bf16'
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
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from identity import DescriptionError, describe

DEFAULTS = {"NUM_RUNS": "10", "STEPS": "2", "WARMUP": "2", "OPTIONS": "", "VARIANTS": "",
            "DATA_DIR": "", "RESULTS_DIR": "", "RUN_TIMEOUT": "900", "ORDER_SEED": "0",
            "FIGURES": "1", "PYTHON": sys.executable, "PLOT": "", "NNODES": "1", "NODE_RANK": "0",
            "MASTER_ADDR": "", "MASTER_PORT": "29500"}
SETTINGS = DEFAULTS | {k: v for k, v in os.environ.items() if k in DEFAULTS and v}
NUMBERS = ("NUM_RUNS", "STEPS", "RUN_TIMEOUT", "NNODES")
NODES, NODE = (int(text) if text.isdecimal() else 0
               for text in (SETTINGS["NNODES"], SETTINGS["NODE_RANK"]))
MEMORIES = {  # allocators, by the environment alone
    "glibc": {},
    "kept": {"GLIBC_TUNABLES": "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=4000000000"},
    "thp": {"THP_MEM_ALLOC_ENABLE": "1"},
    "tcmalloc": {"LD_PRELOAD": "libtcmalloc_minimal.so.4"},
    "jemalloc": {"LD_PRELOAD": "libjemalloc.so.2"},
    "jemalloc_kept": {"LD_PRELOAD": "libjemalloc.so.2",
                      "MALLOC_CONF": "dirty_decay_ms:-1,muzzy_decay_ms:-1"},
}
RULE_OF_THUMB = 40  # seconds per run, where nothing was measured yet
BOUND = ["setpriv", "--pdeathsig", "KILL"]  # the kernel ends what follows with its parent
COLUMNS = ["date", "commit", "order_seed", "configuration", "run_id", "wall_s", "steps_s",
           "stolen_s", "result"]


class Configuration(NamedTuple):
    folder: str
    ranks: int  # 0: it cannot run, the options are devices, batch, reason
    threads: int
    options: list[str]


def die(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def check_settings() -> None:
    lists = ("BATCH_SIZES", "CORE_COUNTS", "GPU_COUNTS", "HOSTS")
    listed = {name: os.environ.get(name) or "1" for name in lists}
    for name, given in {**SETTINGS, **listed}.items():
        if name in NUMBERS and not re.fullmatch(r"[1-9]\d*", given):
            die(f"{name}: expected an integer >= 1, got {given!r}")
        if name in lists and not re.fullmatch(r" *[1-9]\d*( +[1-9]\d*)* *", given):
            die(f"{name}: expected integers >= 1 like '1 2 4', got {given!r}")
    if not SETTINGS["NODE_RANK"].isdecimal() or NODE >= NODES:
        die(f"NODE_RANK: expected an integer below NNODES={NODES}, got {SETTINGS['NODE_RANK']!r}")
    if NODES > 1 and not SETTINGS["MASTER_ADDR"]:
        die(f"NNODES={NODES} needs MASTER_ADDR, that of node 0")


def common_options() -> list[str]:
    data = ["--data", SETTINGS["DATA_DIR"]] if SETTINGS["DATA_DIR"] else []
    steps = ["--steps", SETTINGS["STEPS"], "--warmup", SETTINGS["WARMUP"]]
    timeout = ["--timeout", str(1 + int(SETTINGS["RUN_TIMEOUT"]) // 3)]
    return [*steps, *timeout, *data, *shlex.split(SETTINGS["OPTIONS"])]


def configurations(listing: str, devices: int) -> list[Configuration]:
    """The lines of LIST, for each variant; equal ones once. What differs names the folder: the
    options' words and the environment's values, joined by _."""
    environment = {**os.environ, "DEVICES": str(devices), "PYTHON": SETTINGS["PYTHON"]}
    done = subprocess.run([listing, "--list"], env=environment, capture_output=True, text=True)
    if done.returncode:
        die((done.stderr.strip().splitlines() or [f"{listing} --list failed"])[-1])
    found = {}
    for line in done.stdout.splitlines():
        for variant in map(shlex.split, SETTINGS["VARIANTS"].split(";")):
            folder, ranks, threads, *options = line.split()
            words = [word.split("=")[-1] for word in shlex.split(SETTINGS["OPTIONS"]) + variant]
            words = [re.sub(r"[^A-Za-z0-9.]+", "_", word).strip("_") for word in words]
            folder = "_".join([folder, *filter(None, words)])
            if ranks == "skip":
                new = Configuration(folder, 0, 0, [threads, *options])
            else:
                new = Configuration(folder, int(ranks), int(threads), options + variant)
            if found.setdefault(folder, new) != new:
                die(f"two configurations would share the folder {folder}")
    return list(found.values())


def plan_runs(wanted: list[Configuration], results: Path) -> list[tuple[int, Configuration]]:
    """The runs of all rounds that are missing. The order within a round is that of a hash."""
    runs = []
    for round_number in range(1, int(SETTINGS["NUM_RUNS"]) + 1):
        def place(one: Configuration, round_number: int = round_number) -> str:
            text = f"{SETTINGS['ORDER_SEED']} {round_number} {one.folder}"
            return hashlib.md5(text.encode()).hexdigest()

        for one in sorted(wanted, key=place):
            folder = results / one.folder
            there = (folder / f"times_run{round_number}.csv", folder / "skipped.csv")
            if one.ranks and not any(path.is_file() for path in there):
                runs.append((round_number, one))
    return runs


def share_plan(runs: list, identity: dict[str, Any]) -> list[tuple[int, Configuration]]:
    """Have all nodes take the runs that node 0 planned, in its order; they must have the same
    machine, code and data. torch's own store carries the plan, so no file system is shared."""
    from torch.distributed import TCPStore

    address, port = SETTINGS["MASTER_ADDR"], int(SETTINGS["MASTER_PORT"])
    limit, text = int(SETTINGS["RUN_TIMEOUT"]), json.dumps(identity, sort_keys=True)
    try:
        store = TCPStore(address, port, NODES, NODE == 0, timedelta(seconds=limit))
        if NODE == 0:
            store.set("runs", json.dumps(runs))
            store.set("identity", text)
        runs, same = json.loads(store.get("runs")), store.get("identity").decode() == text
        store.set(f"node {NODE}", "same" if same else "differs")  # node 0 may end the store now
        for other in range(NODES) if NODE == 0 else []:
            if store.get(f"node {other}") != b"same":
                die(f"node {other} has another machine, code or dataset than node 0")
        if not same:
            die(f"node {NODE} has another machine, code or dataset than node 0")
        return [(number, Configuration(*one)) for number, one in runs]
    except RuntimeError:
        die(f"the {NODES} nodes did not meet at {address}:{port} within {limit} s")


def minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


class Sweep:
    """A results folder that is this process's alone, and the run in progress."""

    def __init__(self, script: Path, own: Path, environment: dict[str, dict[str, Any]]) -> None:
        self.script, self.environment = script, environment
        self.named = bool(SETTINGS["RESULTS_DIR"])
        self.results = Path(SETTINGS["RESULTS_DIR"]).absolute() if self.named else own
        if NODE > 0:  # node 0 keeps the results; the others have a folder until they end
            self.results = Path(tempfile.mkdtemp(prefix="sweep-node"))
        self.child: subprocess.Popen | None = None
        self.asked = 0  # signal that asks this sweep to stop
        self.late = self.ending = False
        self.launched, self.failures, self.walls = 0, [], {}
        # Always the same for a results folder, so that what a killed sweep left is found.
        digest = hashlib.md5(str(self.results).encode()).hexdigest()
        self.temporary = Path(tempfile.gettempdir(), f"sweep-{digest[:12]}")

    def lose(self, *_: Any) -> NoReturn:
        die(f"cannot write to the results folder {self.results}: removed, read-only or full?")

    def lock(self) -> None:
        try:
            self.results.mkdir(parents=True, exist_ok=True)
            self.folder = os.open(self.results, os.O_RDONLY)
            fcntl.flock(self.folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            die(f"another sweep is running in {self.results}: wait for it, or set RESULTS_DIR")
        except OSError as error:
            die(f"cannot create the results folder {self.results}: {error.strerror}")

    def open(self) -> None:
        """Take the folder for this sweep alone; see that what is in it is of this identity."""
        self.lock()
        file, identity = self.results / "environment.json", self.environment["identity"]
        found = json.loads(file.read_text())["identity"] if file.is_file() else identity
        identity = json.loads(json.dumps(identity))
        if found != identity:
            differs = [f"{name} {found.get(name)!r} there, {identity.get(name)!r} here"
                       for name in {**found, **identity} if found.get(name) != identity.get(name)]
            if self.named:
                die(f"the results in {self.results} are of another machine, code or dataset "
                    f"({'; '.join(differs)}): set RESULTS_DIR to another folder")  # fmt: skip
            now = datetime.now()
            aside = self.results.with_name(f"{self.results.name}_until_{now:%Y%m%d_%H%M%S}")
            self.results.rename(aside)
            print("The results are of another machine, code or dataset:", *differs, sep="\n  ")
            print(f"They are kept in {aside}.")
            self.lock()
        shutil.rmtree(self.temporary, ignore_errors=True)
        self.temporary.mkdir(mode=0o700)
        for path in [*self.results.rglob("*.tmp*"), *self.results.rglob("times_run*.log")]:
            if path.suffix != ".log" or path.with_suffix(".csv").is_file():
                path.unlink()
        if not file.is_file():
            part = file.with_suffix(".tmp")
            part.write_text(json.dumps(self.environment, indent=2) + "\n")
            part.replace(file)

    def note_skipped(self, one: str, devices: Any, batch: Any, reason: str) -> None:
        """Keep in a configuration's folder why it cannot run; it is not tried again."""
        (self.results / one).mkdir(exist_ok=True)
        with (self.results / one / "skipped.csv").open("w", newline="") as file:
            rows = [("num_devices", "batch_size", "reason"), (devices, batch, reason)]
            csv.writer(file, lineterminator="\n").writerows(rows)

    def on_signal(self, number: int, _: Any) -> None:
        """End the run in progress, at its time limit or because this sweep was asked to stop: at
        first in order, the second time by force."""
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
        names = [word for word in [*one.options, *more] if re.match(r"[A-Z_]+=", word)]
        options = [word for word in [*one.options, *more] if word not in names]
        environment = dict(word.split("=", 1) for word in names)
        environment |= MEMORIES[environment.pop("MEMORY", "glibc")]
        self.launched += 1
        where = ["--standalone"]
        if NODES > 1:
            port = int(SETTINGS["MASTER_PORT"]) + self.launched  # no late rank joins the next run
            where = ["--nnodes", str(NODES), "--node-rank", str(NODE), "--master-addr",
                     SETTINGS["MASTER_ADDR"], "--master-port", str(port)]  # fmt: skip
        torchrun = [SETTINGS["PYTHON"], "-m", "torch.distributed.run", *where, "--no-python",
                    "--nproc-per-node", str(one.ranks // NODES), *BOUND]  # fmt: skip
        variables = {**os.environ, "TMPDIR": str(self.temporary)}
        variables.pop("OMP_NUM_THREADS", None)
        if one.threads:
            variables["OMP_NUM_THREADS"] = str(one.threads)
        command = [
            *BOUND, *(torchrun if one.ranks > 1 else []),
            "env", *(f"{name}={value}" for name, value in environment.items()),
            SETTINGS["PYTHON"], str(self.script), *common_options(), "--run-id", str(run_id),
            "--output", str(output), *options,
        ]  # fmt: skip
        self.late = self.ending = False
        # torchrun gets a process group of its own: a Ctrl-C reaches this process alone.
        self.child = subprocess.Popen(command, env=variables, stdin=subprocess.DEVNULL, stdout=log,
                                      stderr=subprocess.STDOUT, start_new_session=True)  # fmt: skip
        signal.setitimer(signal.ITIMER_REAL, int(SETTINGS["RUN_TIMEOUT"]))
        if self.asked:
            self.child.terminate()
        status = self.child.wait()
        signal.setitimer(signal.ITIMER_REAL, 0)
        self.child = None
        return status

    def run_one(self, one: Configuration, run_id: int, more: list[str]) -> str:
        """One run and what becomes of it; a line that says so."""
        if NODE == 0 and not (self.results / "environment.json").is_file():
            self.lose()  # else a removed folder would come back, without what was complete
        folder, log = self.results / one.folder, self.temporary / "log"
        folder.mkdir(exist_ok=True)
        output = folder / f"times_run{run_id}.csv"
        skip, retry = output.with_suffix(".skip"), output.with_suffix(".retry")
        begun, stolen = time.monotonic(), stolen_seconds()
        with log.open("w") as file:
            status = self.start(one, output, run_id, file, more)
        wall, stolen = time.monotonic() - begun, stolen_seconds() - stolen
        words = {path.suffix: json.loads(path.read_text()) for path in (skip, retry)
                 if path.is_file()}  # fmt: skip
        for path in folder.glob(f"{output.stem}.*"):
            if path != output:
                path.unlink()
        steps, rate = "", ""
        if status == 0 and (output.is_file() or NODE > 0):
            result, line = "complete", "done, the rows are at node 0"
            if NODE == 0:
                steps, rate = read_times(output)
                line = f"{rate:.2f} img/s"
                self.walls.setdefault(one.folder, []).append(wall)
        elif self.asked:
            return ""
        elif ".retry" in words and NODES == 1:
            result, line = "retried", f"{words['.retry']['reason']}; again with "
            line += words[".retry"]["options"]
        elif ".skip" in words:
            result = "skipped"
            reason = f"{words['.skip']['reason']} ({words['.skip']['step']})"
            options = dict(zip(one.options, one.options[1:], strict=False))
            self.note_skipped(one.folder, one.ranks, options.get("--batch-size"), reason)
            line = f"SKIPPED: {reason}"
        else:
            result, reason = "failed", self.reason(status, log.read_text(errors="replace"))
            line = f"FAILED: {reason}"
            self.failures.append(f"{one.folder} run {run_id}: {reason}")
            try:
                shutil.copy(log, output.with_suffix(".log"))
                self.failures[-1] += f" (log: {output.with_suffix('.log')})"
            except OSError:  # a disk that is full has no room for the log either
                pass
        self.record(one.folder, run_id, f"{wall:.2f}", steps and f"{steps:.2f}", f"{stolen:.2f}",
                    result)  # fmt: skip
        if result != "retried":
            return line
        print(f"{one.folder} run {run_id}: {line}", flush=True)
        return self.run_one(one, run_id, shlex.split(words[".retry"]["options"]))

    def record(self, *cells: Any) -> None:
        path, commit = self.results / "runs.csv", self.environment["recorded"]["commit"]
        head = [] if path.is_file() else [COLUMNS]
        date = datetime.now().astimezone().isoformat(timespec="seconds")
        with path.open("a", newline="") as file:
            row = [date, commit, SETTINGS["ORDER_SEED"], *cells]
            csv.writer(file, lineterminator="\n").writerows([*head, row])

    def reason(self, status: int, log: str) -> str:
        """Why a run failed, in one line: what a rank said, which signal ended it, or the limit."""
        said = [line.removeprefix("error: ") for line in log.splitlines()
                if line.startswith("error: ") and "lost another rank" not in line]
        log_end = log.partition("Root Cause")[2]
        cause = re.search(r"rank +: (\d+).*?exitcode +: -(\d+)", log_end, re.DOTALL)
        if self.late and (NODES == 1 or not said):
            limit = f"not done after {SETTINGS['RUN_TIMEOUT']} s (RUN_TIMEOUT): hung?"
            return limit + (" Or a node did not join." if NODES > 1 else "")
        if said:
            return said[0]
        if cause:
            return f"rank {cause[1]} ended by signal {cause[2]}"
        if status < 0:
            return f"the run was ended by signal {-status}"
        lines = [line for line in log.splitlines() if line.strip()]
        return lines[-1] if lines else f"it ended with status {status} and said nothing"

    def seconds_left(self, runs: list[tuple[int, Configuration]]) -> float:
        """What runs need if each takes what its configuration took so far, or else all did."""
        means = {name: statistics.mean(walls) for name, walls in self.walls.items()}
        other = statistics.mean(means.values()) if means else RULE_OF_THUMB
        return sum(means.get(one.folder, other) for _, one in runs)

    def read_walls(self) -> None:
        """How long runs took that are there already."""
        try:
            with (self.results / "runs.csv").open() as file:
                for row in csv.DictReader(file):
                    if row["result"] == "complete":
                        self.walls.setdefault(row["configuration"], []).append(float(row["wall_s"]))
        except (OSError, ValueError, KeyError, TypeError):
            pass

    def draw(self, *arguments: str) -> None:
        """Draw the figures anew, so that one can look, and stop, at any time."""
        if SETTINGS["FIGURES"] == "0" or not SETTINGS["PLOT"] or NODE > 0:
            return
        command = [SETTINGS["PYTHON"], SETTINGS["PLOT"], str(self.results), *arguments]
        done = subprocess.run(command, capture_output=True, text=True)
        print(done.stdout if arguments else (done.stdout.splitlines() or [""])[-1])
        print(done.stderr, end="", file=sys.stderr)

    def run_all(self, runs: list[tuple[int, Configuration]]) -> None:
        begun = time.monotonic()
        for number, (run_id, one) in enumerate(runs, start=1):
            if NODES == 1 and (self.results / one.folder / "skipped.csv").is_file():
                continue
            line = "" if self.asked else self.run_one(one, run_id, [])
            if self.asked:
                print("stopped: complete runs are kept; start the sweep again for the rest")
                sys.exit(128 + self.asked)
            left = minutes(self.seconds_left(runs[number:]))
            print(f"[{number}/{len(runs)}] {one.folder} run {run_id}: {line}; "
                  f"{minutes(time.monotonic() - begun)} gone, about {left} left", flush=True)
            if number < len(runs) and runs[number][0] != run_id:
                self.draw()


def stolen_seconds() -> float:
    """Seconds that the hypervisor gave to others since the start, over all cores."""
    with open("/proc/stat") as file:
        return int(file.readline().split()[8]) / os.sysconf("SC_CLK_TCK")


def read_times(path: Path) -> tuple[float, float]:
    """Seconds of the longest rank in steps, and the images per second after the warm-up."""
    seconds, timed, images = {}, {}, 0
    with path.open() as file:
        for row in csv.DictReader(file):
            taken, measured = float(row["step_time"]), row["warmup"] == "0"
            seconds[row["rank"]] = seconds.get(row["rank"], 0.0) + taken
            timed[row["rank"]] = timed.get(row["rank"], 0.0) + taken * measured
            images += int(row["images"]) * measured
    return max(seconds.values()), images / max(timed.values())


def main() -> None:
    script, listing, own, *arguments = sys.argv[1:]
    if arguments[:1] in (["--help"], ["-h"]):
        print(__doc__[__doc__.index("Finished runs") :].strip())
        return
    if arguments not in ([], ["--dry-run"]):
        die(f"unknown option {arguments[0]!r}: there are --dry-run and --help; settings are in the "
            "environment")  # fmt: skip
    check_settings()
    try:
        environment = describe(SETTINGS["PYTHON"], Path(script), common_options())
    except DescriptionError as error:
        die(str(error))
    environment["recorded"] |= {name.lower(): SETTINGS[name] for name in ("STEPS", "WARMUP")}
    wanted = configurations(listing, environment["identity"]["devices_granted"] * NODES)
    skipped = [one for one in wanted if not one.ranks]
    for reason in dict.fromkeys(" ".join(one.options[2:]) for one in skipped):
        folders = [one.folder for one in skipped if " ".join(one.options[2:]) == reason]
        print(f"cannot run: {', '.join(folders)} ({reason})")
    if len(skipped) == len(wanted):
        die("nothing can run with these settings")
    sweep = Sweep(Path(script), Path(own), environment)
    sweep.read_walls()
    if arguments:
        runs = plan_runs(wanted, sweep.results)
        for one in dict.fromkeys(one.folder for _, one in runs):
            same = [(run_id, other.options) for run_id, other in runs if other.folder == one]
            print(f"{one}: {len(same)} runs of {' '.join(same[0][1])}")
        basis = "by the runs that are there" if sweep.walls else f"at {RULE_OF_THUMB} s per run"
        print(f"plan: {len(runs)} runs, about {minutes(sweep.seconds_left(runs))} ({basis}), into "
              f"{sweep.results}; nothing was written")  # fmt: skip
        return
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
        signal.signal(number, sweep.on_signal)
    sweep.open()
    try:
        for one in skipped if NODE == 0 else []:
            sweep.note_skipped(one.folder, *one.options[:2], " ".join(one.options[2:]))
        runs = plan_runs(wanted, sweep.results)
        sweep.run_all(share_plan(runs, environment["identity"]) if NODES > 1 else runs)
        against = Path(str(sweep.results).removesuffix("_own"))
        compare = not sweep.named and any(against.rglob("times_run*.csv"))
        sweep.draw(*(["--against", str(against)] if compare else []))
    except OSError:
        sweep.lose()
    finally:
        shutil.rmtree(sweep.temporary, ignore_errors=True)
        if NODE > 0:
            shutil.rmtree(sweep.results, ignore_errors=True)
    if sweep.failures:
        print(f"{len(sweep.failures)} runs failed; start the sweep again to repeat them:",
              *sweep.failures, sep="\n  ", file=sys.stderr)  # fmt: skip
        sys.exit(1)
    print("all runs are complete" + (f" in {sweep.results}" if NODE == 0 else ""))


if __name__ == "__main__":
    main()
