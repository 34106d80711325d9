"""Which settings train fastest on this machine: tries them in rounds, and halves the field.

    search_settings.py SCRIPT OWN --model densenet121 --batch-size 32

Settings are the malloc (those that are installed), the precision, the memory format, and how the
cores are split: ranks, each with its part of the cores as threads. The first rounds take one after
the other, from PyTorch's defaults on: the fastest value of each stays; they take at most half of
MINUTES, with fewer mallocs if the machine is slow. Then the winner, the defaults, and the winner
with one setting changed take turns, until MINUTES are over; each round keeps the faster half of
what was changed. Each run is one of SCRIPT, into the folder OWN or RESULTS_DIR. Started again it
goes on with more rounds. advise.py reads the runs.

With --all nothing is searched, as a check of what the search chooses: every combination in a first
round; in NUM_RUNS more, those that came near the fastest of it, and the defaults.
"""

import argparse
import contextlib
import itertools
import math
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "common"))
import process  # noqa: E402  (found on the path of the line before)
import sweep  # noqa: E402
from folder import UNREADABLE, ResultsFolder, SweepError, read_run  # noqa: E402
from identity import describe  # noqa: E402

# In the order in which they are tried: PyTorch's default first. The last ones are left out if there
# is little time: they were the slowest in the study `malloc`.
MALLOCS = ["glibc", "tcmalloc", "kept", "jemalloc_kept", "hugetlb", "jemalloc", "mimalloc"]
# Processors that compute in bf16 say so in /proc/cpuinfo: x86 in the first two words, Arm.
BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
RUNNERS_UP = 2  # values of a setting that get another chance beside the winner
RESERVE_S = 15  # for reading the results
NEAR = 0.75  # of the fastest rate of the first round: may be as fast in others


class Setting(NamedTuple):
    """What can be set without a change of the training itself."""

    malloc: str
    precision: str
    memory_format: str
    ranks: int

    def words(self, cores: int) -> str:
        threads = cores // self.ranks
        return f"{self.malloc}, {self.precision}, {self.memory_format}, {self.ranks} x {threads}"

    def configuration(self, cores: int, options: list[str]) -> sweep.Configuration:
        """How the runner starts it."""
        threads = cores // self.ranks
        options = [*options, "--threads", str(threads), "--precision", self.precision]
        if self.memory_format == "channels_last":
            options.append("--channels-last")
        if self.ranks == 1:
            options += ["--mode", "single_process"]
        options += ["--note", f"malloc={self.malloc}"]
        variables = {"MEMORY": self.malloc, "NNODES": "1", "OMP_NUM_THREADS": str(threads)}
        parts = [self.malloc, self.precision, self.memory_format, f"{self.ranks}x{threads}"]
        return sweep.Configuration("_".join(parts), self.ranks, variables, options)


Measure = Callable[[Setting, int], float]  # a setting in a round: its rate in img/s, 0 if it failed


def values_here(cores: int, batch: int) -> dict[str, list]:
    """The values of each setting that this machine has; the default first."""
    flags = set(Path("/proc/cpuinfo").read_text().split())
    return {
        "precision": ["fp32", "bf16"] if flags & BF16_FLAGS else ["fp32"],
        "memory_format": ["contiguous", "channels_last"],
        "ranks": [ranks for ranks in range(1, cores + 1) if cores % ranks == 0 and ranks <= batch],
        "malloc": [name for name in MALLOCS if not process.missing_library(name)],
    }


def defaults(values: dict[str, list]) -> Setting:
    """What PyTorch does if nothing is set: the first value of each setting."""
    return Setting(**{name: choices[0] for name, choices in values.items()})


def fewer_mallocs(values: dict[str, list], most_runs: float) -> dict[str, list]:
    """As many mallocs as fit into that many runs of the first rounds; two at least."""
    others = sum(len(choices) for name, choices in values.items() if name != "malloc")
    return values | {"malloc": values["malloc"][: max(2, int(most_runs) - others)]}


def screen(measure: Measure, values: dict[str, list]) -> tuple[Setting, dict[str, dict]]:
    """A round for each setting: its values, one after the other, with the fastest of the others so
    far. Returns the winner, and the rates by setting and value: compare them within a setting only,
    the machine's speed may drift."""
    best = defaults(values)
    rates: dict[str, dict] = {}
    for number, (name, choices) in enumerate(values.items(), start=1):
        tried = {choice: best._replace(**{name: choice}) for choice in choices}
        rates[name] = {choice: measure(one, number) for choice, one in tried.items()}
        best = tried[max(rates[name], key=rates[name].get)]
    return best, rates


def changed(best: Setting, rates: dict[str, dict]) -> list[Setting]:
    """The winner with one setting changed: to its default, and to the values that came next; those
    first that came closest to the winner's own value."""
    field: dict[Setting, float] = {}
    for name, by_value in rates.items():
        default = next(iter(by_value))
        own = getattr(best, name)
        others = sorted(by_value, key=by_value.get, reverse=True)
        others = [value for value in others if value != own]
        for value in [*others[:RUNNERS_UP], default]:
            if value != own:
                close = by_value[value] / by_value[own] if by_value[own] else 0.0
                field[best._replace(**{name: value})] = close
    return sorted(field, key=field.get, reverse=True)


class Finals:
    """Rounds of the settings that are still in the field; the defaults stay, to compare with."""

    def __init__(self, default: Setting, field: list[Setting]) -> None:
        self.default = default
        self.others = [one for one in field if one != default]
        self.gains: dict[Setting, list[float]] = {}

    def round(self, measure: Measure, number: int) -> None:
        """Measure the field once, in an order of this round's own, and keep the faster half."""
        field = [self.default, *self.others]
        random.Random(number).shuffle(field)
        rates = {one: measure(one, number) for one in field}
        if not rates[self.default]:
            return
        for one in self.others:
            self.gains.setdefault(one, []).append(rates[one] / rates[self.default])
        self.others.sort(key=lambda one: -statistics.median(self.gains[one]))
        # Three at least: the winner, and what may be as good.
        self.others = self.others[: max(3, math.ceil(len(self.others) / 2))]


class Search:
    """Measures settings as runs of a sweep, as long as there is time."""

    def __init__(self, runner: sweep.Sweep, cores: int, options: list[str]) -> None:
        self.runner, self.cores, self.options = runner, cores, options
        self.measured: set[Setting] = set()

    def measure(self, setting: Setting, number: int) -> float:
        one = setting.configuration(self.cores, self.options)
        rows = self.runner.folder.rows_of(one.folder, number)
        if not rows.is_file():
            left = ""
            if self.runner.settings["MINUTES"]:
                left = f"; {sweep.duration(self.runner.time_left())} were left"
            line = self.runner.run_one(one, number, [])
            print(f"round {number}: {setting.words(self.cores)}: {line}{left}", flush=True)
        self.measured.add(setting)
        try:
            return read_run(rows)[1]
        except (OSError, *UNREADABLE):
            return 0.0  # it failed: the runner has said so

    def has_time(self, field: list[Setting], number: int) -> bool:
        """Whether the runs of a round that are missing fit into what is left of MINUTES."""
        seconds = 0.0
        for setting in field:
            folder = setting.configuration(self.cores, self.options).folder
            if not self.runner.folder.rows_of(folder, number).is_file():
                seconds += statistics.mean(self.runner.walls.get(folder, [sweep.SECONDS_PER_RUN]))
        return seconds < self.runner.deadline - time.monotonic()

    def run(self, values: dict[str, list]) -> None:
        default = defaults(values)
        first = default.configuration(self.cores, self.options).folder
        # What an earlier call has measured takes no time.
        if not self.runner.folder.rows_of(first, 1).is_file() and self.runner.settings["MINUTES"]:
            begun = time.monotonic()
            self.measure(default, 1)
            now = time.monotonic()
            values = fewer_mallocs(values, (self.runner.deadline - begun) / 2 / (now - begun))
        best, rates = screen(self.measure, values)
        finals = Finals(default, [best, *changed(best, rates)])
        number = len(values) + 1
        while finals.others:
            if self.has_time([default, *finals.others], number):
                finals.round(self.measure, number)
                number += 1
            else:
                finals.others.pop()  # the slowest so far: a smaller round may fit

    def compare_all(self, values: dict[str, list], rounds: int) -> None:
        """Every combination once; then, in fresh rounds, those that may be the fastest."""
        default = defaults(values)
        choices = [values[name] for name in Setting._fields]
        field = [Setting(*combination) for combination in itertools.product(*choices)]
        for number in range(1, rounds + 2):
            random.Random(number).shuffle(field)
            rates = {one: self.measure(one, number) for one in field}
            if number == 1:
                fastest = max(rates.values())
                field = [one for one in field if one == default or rates[one] >= NEAR * fastest]

    def untried(self, values: dict[str, list]) -> list[str]:
        """The values that no run has had."""
        left = []
        for name, choices in values.items():
            measured = {getattr(one, name) for one in self.measured}
            word = " ranks" if name == "ranks" else ""
            left += [f"{value}{word}" for value in choices if value not in measured]
        return left


def search(args: argparse.Namespace, begun: float) -> None:
    settings = sweep.read_settings()
    options = ["--batch-size", str(args.batch_size), "--model", args.model]
    options += sweep.split_words("OPTIONS", settings["OPTIONS"])
    asked = [*sweep.script_options(settings), *options]
    environment = describe(settings["PYTHON"], args.script, asked)
    cores = environment["identity"]["cores_granted"]
    values = values_here(cores, args.batch_size)
    missing = [name for name in MALLOCS if name not in values["malloc"]]
    if missing:
        print(f"not installed here, so not tried: {', '.join(missing)}")
    if cores == 1:
        print("one core is available here: there is nothing to split over ranks")
    environment["recorded"]["malloc"] = process.library_versions(values["malloc"])
    folder = ResultsFolder(Path(settings["RESULTS_DIR"] or args.own).absolute(), environment)
    differences = sweep.check_identity(folder, settings)
    runner = sweep.Sweep(args.script, "", folder, settings)
    if settings["MINUTES"]:
        runner.deadline = begun + 60 * float(settings["MINUTES"]) - RESERVE_S
    sweep.take(runner, differences)
    one = Search(runner, cores, options)
    with runner.prepared(), contextlib.suppress(sweep.OutOfTime):
        if args.all:
            one.compare_all(values, int(settings["NUM_RUNS"]))
        else:
            one.run(values)
    if untried := one.untried(values):
        print(f"not tried, for want of time (more MINUTES): {', '.join(untried)}")
    for failure in runner.failures:
        print(f"failed: {failure}")


def main() -> None:
    begun = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("script", type=Path, help="training script")
    add("own", help="default results folder")
    add("--model", required=True, help="network of torchvision")
    add("--batch-size", required=True, help="images per step, over all ranks")
    add("--all", action="store_true", help="every combination, as a check of the search")
    args = parser.parse_args()

    def work() -> None:
        if not args.batch_size.isdecimal() or int(args.batch_size) < 1:
            raise SweepError(f"BATCH: expected an integer >= 1, got {args.batch_size!r}")
        args.batch_size = int(args.batch_size)
        search(args, begun)

    sweep.run_as_program(work, args.own)


if __name__ == "__main__":
    main()
