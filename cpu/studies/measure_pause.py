"""What a pause costs a core: small matrix products right after 42 ms in which it slept, ran an
empty loop, or computed, as an emulated device's core does between two of its turns.

    python measure_pause.py --round 1 --output runs_own/pause.csv

A line of the CSV is the median time (us) of a product that began so many ms after the pause, over
many pauses on the first core that is granted; beside it what a loop of integers takes there, which
needs no vector unit. The three kinds of pause take turns.
"""

import argparse
import csv
import itertools
import os
import random
import statistics
import time
from collections import defaultdict
from pathlib import Path

import numpy as np

PAUSE_S, TURN_S = 0.042, 0.008  # as of a device of 16 % of a core, in periods of 50 ms
PAUSES = 200  # of each kind
SIDE = 48  # of the matrices: three of them fit into the first cache
MATRIX = np.ones((SIDE, SIDE), np.float32)


def sleep(end: float) -> None:
    time.sleep(max(0.0, end - time.perf_counter()))


def run_empty(end: float) -> None:
    while time.perf_counter() < end:
        os.sched_yield()


def integers() -> None:
    sum(range(300))


def product() -> None:
    MATRIX @ MATRIX


def compute(end: float) -> None:
    while time.perf_counter() < end:
        product()


KINDS = {"asleep": sleep, "awake": run_empty, "computing": compute}
WORK = {"product": product, "integers": integers}


def one_turn(kind: str, work: str, found: dict[tuple[str, str, int], list[float]]) -> None:
    """Pause, then work for a turn, timed one by one; times (s) go to found, by whole ms."""
    KINDS[kind](time.perf_counter() + PAUSE_S)
    begun = before = time.perf_counter()
    while before - begun < TURN_S:
        WORK[work]()
        after = time.perf_counter()
        found[kind, work, int(1000 * (before - begun))].append(after - before)
        before = after


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("--round", type=int, required=True, help="number of the round, a column of its rows")
    add("--output", type=Path, required=True, help="CSV file to append to")
    args = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    turns = PAUSES * list(itertools.product(KINDS, WORK))
    random.Random(args.round).shuffle(turns)
    found: dict[tuple[str, str, int], list[float]] = defaultdict(list)
    for kind, work in turns:
        one_turn(kind, work, found)
    rows = []
    for key, times in sorted(found.items()):
        rows.append([args.round, *key, f"{1e6 * statistics.median(times):.4g}"])
    is_new = not args.output.is_file()
    with args.output.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([["round", "cores", "work", "ms", "us"]] * is_new + rows)


if __name__ == "__main__":
    main()
