"""The limit of the step: arithmetic of a training step, and the peak of the machine's cores.

    python measure_peak.py --output cpu_run_variants/peak.csv

Counts the floating-point operations of forward and backward of DenseNet121 (torch's FLOP counter,
on the meta device), and times a large matrix product in each precision, one process a physical
core, all cores at once, as the ranks compute. plot_variants.py puts a rate over this limit.
"""

import argparse
import csv
import multiprocessing
import os
import statistics
import time
from pathlib import Path

import torch
import torchvision
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

SIDE = 2048
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def flops_of_an_image(size: int = 224) -> float:
    """Floating-point operations of one image's forward and backward pass."""
    with torch.device("meta"):
        model = torchvision.models.densenet121(num_classes=10)
        images, labels = torch.empty(2, 3, size, size), torch.empty(2, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter:
        cross_entropy(model(images), labels).backward()
    return counter.get_total_flops() / len(images)


def matrix_rate(task: tuple[int, str, int]) -> float:
    """Operations a second of a matrix product on one core: the median over repeats."""
    core, precision, repeats = task
    os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)
    a = torch.randn(SIDE, SIDE).to(PRECISIONS[precision])
    times = []
    for _ in range(1 + repeats):
        begun = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - begun)
    return 2 * SIDE**3 / statistics.median(times[1:])


def physical_cores() -> list[int]:
    """One logical CPU of each physical core that this process may use."""
    cores = {}
    for cpu in sorted(os.sched_getaffinity(0)):
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        cores.setdefault(siblings.read_text() if siblings.is_file() else cpu, cpu)
    return list(cores.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="CSV file to write")
    parser.add_argument("--repeats", type=int, default=15, help="of each matrix product")
    args = parser.parse_args()
    cores, rows = physical_cores(), []
    flops = flops_of_an_image()
    with multiprocessing.get_context("spawn").Pool(len(cores)) as pool:
        for precision in PRECISIONS:
            tasks = [(core, precision, args.repeats) for core in cores]
            rates = pool.map(matrix_rate, tasks, chunksize=1)
            rows.append({"precision": precision, "cores": len(cores), "flops_a_second": sum(rates),
                         "flops_an_image": flops})  # fmt: skip
            print(f"{precision}: {sum(rates) / 1e9:.0f} GFLOP/s on {len(cores)} cores")
    print(f"an image: {flops / 1e9:.1f} GFLOP")
    with args.output.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
