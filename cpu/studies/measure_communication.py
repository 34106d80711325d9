"""How long an all-reduce takes by itself, on the hosts of the virtual cluster.

    torchrun ... measure_communication.py --output all_reduce.csv --network 1gbit   # on all hosts

all_reduce.csv: seconds of an all-reduce of so many bytes (gloo; the slowest rank's time after a
barrier). The study network starts it.
"""

import argparse
import csv
import os
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

GRADIENT_BYTES = 27_856_424  # of DenseNet121 with 10 classes, in fp32
SIZES = [4_096, 65_536, 1_048_576, 5_242_880, GRADIENT_BYTES]
SMALL, MANY = 65_536, 100  # up to so many bytes latency counts, which takes more repeats


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("--output", type=Path, required=True, help="CSV file; rows are added to one that is there")
    add("--network", default="", help="name of the link's rate, for the rows")
    add("--repeats", type=int, default=5, help="of each measurement, after one that is not counted")
    return parser.parse_args()


def time_all_reduce(size: int, repeats: int) -> list[float]:
    """Seconds of all-reduces of so many bytes, the slowest rank's, without the first one."""
    tensor, times = torch.zeros(size // 4), []
    for _ in range(1 + repeats):
        dist.barrier()
        begun = time.perf_counter()
        dist.all_reduce(tensor)
        times.append(time.perf_counter() - begun)
    slowest = torch.tensor(times, dtype=torch.float64)
    dist.all_reduce(slowest, op=dist.ReduceOp.MAX)
    return slowest.tolist()[1:]


def all_reduce_rows(args: argparse.Namespace) -> list[dict[str, Any]]:
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    ranks = dist.get_world_size()
    rows = []
    for size in SIZES:
        for seconds in time_all_reduce(size, MANY if size <= SMALL else args.repeats):
            row = {"network": args.network, "ranks": ranks, "bytes": size, "seconds": seconds}
            rows.append(row)
    dist.barrier()
    dist.destroy_process_group()
    return rows


def main() -> None:
    args = parse_arguments()
    rows = all_reduce_rows(args)
    if int(os.environ.get("RANK", 0)) == 0:
        is_new = not args.output.is_file()
        with args.output.open("a", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            if is_new:
                writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
