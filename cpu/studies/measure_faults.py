"""What a page fault costs by how much memory is in use: touches memory, without training.

    python measure_faults.py --round 1 --output runs_own/touch.csv

Takes one GiB after the other and writes into each of its 4 KiB pages. A line of the CSV is the
round, the GiB that were in use after it, and the microseconds per page.
"""

import argparse
import csv
import mmap
import time
from pathlib import Path

GIB, PAGE = 2**30, 4096


def touch(block: mmap.mmap) -> float:
    """Write into each page; microseconds per page."""
    begun = time.perf_counter()
    # One byte of each page by a strided copy: no loop in Python, and nothing but the faults.
    memoryview(block)[::PAGE] = bytes(len(block) // PAGE)
    return 1e6 * (time.perf_counter() - begun) * PAGE / len(block)


def available_gib() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable"):
            return int(line.split()[1]) // 2**20
    return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("--round", type=int, required=True, help="number of the round, a column of its rows")
    add("--output", type=Path, required=True, help="CSV file to append to")
    add("--most", type=int, default=16, help="GiB; 3 less than what is free at most")
    args = parser.parse_args()
    rows, blocks = [], []
    for used in range(1, 1 + min(args.most, available_gib() - 3)):
        # Anonymous, and without advice for huge pages: as malloc takes it.
        blocks.append(mmap.mmap(-1, GIB, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        rows.append([args.round, used, f"{touch(blocks[-1]):.4f}"])
    is_new = not args.output.is_file()
    with args.output.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([["round", "gib", "us_per_page"]] * is_new + rows)


if __name__ == "__main__":
    main()
