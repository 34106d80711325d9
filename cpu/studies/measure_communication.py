"""What the model of scaling needs to know besides steps: the all-reduce alone, and the gradients.

    torchrun ... measure_communication.py --output all_reduce.csv --network 1gbit   # on all hosts
    python measure_communication.py --gradients --output gradients.csv              # on one core

all_reduce.csv: how long an all-reduce of so many bytes takes by itself (gloo; the slowest rank's
time after a barrier). gradients.csv: each network's gradients in the order in which backward makes
them, and the share of backward that is over when each is ready (median over repeats, one thread).
run.sh starts both.
"""

import argparse
import csv
import os
import statistics
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torchvision
from torch.nn.functional import cross_entropy

GRADIENT_BYTES = 27_856_424  # of DenseNet121 with 10 classes, in fp32
SIZES = [4_096, 65_536, 1_048_576, 5_242_880, GRADIENT_BYTES]
SMALL, MANY = 65_536, 100  # up to so many bytes latency counts, which takes more repeats
NETWORKS = ["densenet121", "resnet18", "mobilenet_v3_large", "alexnet"]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("--gradients", action="store_true", help="measure when gradients are ready, on one core")
    add("--output", type=Path, required=True, help="CSV file; rows are added to one that is there")
    add("--network", default="", help="name of the link's rate, for the rows")
    add("--repeats", type=int, default=5, help="of each measurement, after one that is not counted")
    add("--batch-size", type=int, default=4, help="images for --gradients")
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


def gradient_rows(args: argparse.Namespace, network: str) -> list[dict[str, Any]]:
    """One row a parameter, in the order of readiness."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = torchvision.models.get_model(network, num_classes=10)
    images, labels = torch.randn(args.batch_size, 3, 224, 224), torch.zeros(args.batch_size).long()
    ready, shares = {}, {name: [] for name, _ in model.named_parameters()}
    for name, parameter in model.named_parameters():
        parameter.register_post_accumulate_grad_hook(
            lambda _, name=name: ready.__setitem__(name, time.perf_counter())
        )
    for repeat in range(1 + args.repeats):
        loss = cross_entropy(model(images), labels)
        begun = time.perf_counter()
        loss.backward()
        ended = time.perf_counter()
        model.zero_grad()
        for name, instant in ready.items() if repeat else ():
            shares[name].append((instant - begun) / (ended - begun))
    rows = [
        {
            "model": network,
            "parameter": name,
            "share_of_backward": statistics.median(shares[name]),
            "bytes": parameter.numel() * parameter.element_size(),
        }
        for name, parameter in model.named_parameters()
    ]
    return sorted(rows, key=lambda row: row["share_of_backward"])


def main() -> None:
    args = parse_arguments()
    rows = []
    if args.gradients:
        for network in NETWORKS:
            rows += gradient_rows(args, network)
    else:
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
