"""One round of what a GPU's rate is held against: no loading, nothing but loading; the all-reduce.

    python measure_limits.py --round 1 --output limits.csv --batch-size 64 --precision bf16
    python -m torch.distributed.run --standalone --nproc-per-node 2 \\
        measure_limits.py --round 1 --output limits.csv

On one GPU, for the same steps: `resident`, on one batch that stays on the GPU; `loader`, loading
without training; `together`, training on what the loader gives. They follow each other in one
process. A loader that is slower than the GPU is seen only once its queue is empty: the steps are
five times the queue at least. On several GPUs: `all_reduce`, of as many bytes as the gradients
have, without training; the bus bandwidth is 2 (n - 1) / n times the bytes per second, as NVIDIA's
nccl-tests define it.

Appends rows to --output: rates in images/s, or in bytes/s. Further options are those of
project_ex_2.py. A round that is there already is not measured again. gpu_plots_ex_2.py reads it.
"""

import argparse
import csv
import itertools
import statistics
import sys
import time
from pathlib import Path

import project_ex_2 as training
import torch
import torch.distributed as dist

COLUMNS = "round gpus batch_size precision channels_last workers what rate".split()
STEPS = 100  # unless --steps says otherwise
QUEUES = 5  # so many times the loader's queue is measured


def read_arguments() -> tuple[argparse.Namespace, argparse.Namespace]:
    """The arguments of this program, and those of the training."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], allow_abbrev=False)
    parser.add_argument("--round", type=training.at_least(1), required=True)
    parser.add_argument("--output", type=Path, required=True, help="CSV file; rows are added")
    own, others = parser.parse_known_args()
    run = training.parse_arguments(others)
    run.steps = run.steps or STEPS
    run.mode = "single_process" if training.RANKS == 1 else "no_communication"
    return own, run


def columns_of(own: argparse.Namespace, run: argparse.Namespace) -> dict[str, str]:
    """What tells one measurement of a file from another, as the file has it."""
    settings = vars(run) | {"round": own.round, "gpus": training.RANKS}
    settings["channels_last"] = int(run.channels_last)
    return {name: str(settings[name]) for name in COLUMNS[:-2]}


def is_there(path: Path, columns: dict[str, str]) -> bool:
    if not path.is_file():
        return False
    with path.open() as file:
        return any(columns.items() <= row.items() for row in csv.DictReader(file))


def loader_rate(run: argparse.Namespace, images: training.Images, device: training.Device) -> float:
    """Images/s of the loader alone, after the warm-up, in which its queue fills."""
    begun = 0.0
    for number, _ in enumerate(training.load_batches(run, images, device), start=1):
        if number == run.warmup:
            begun = time.monotonic()
    return run.batch_size * run.steps / (time.monotonic() - begun)


def limits_of_one(
    run: argparse.Namespace, images: training.Images, device: training.Device
) -> dict[str, float]:
    """Images/s of one GPU: resident, loader, together."""
    queue = run.workers * (device.loading["prefetch_factor"] or 0)
    run.warmup, run.steps = max(1, run.warmup, queue), max(run.steps, QUEUES * queue)
    timeline = training.Timeline(device)
    model = training.build_model(run, timeline)
    optimizer = torch.optim.SGD(model.parameters(), lr=training.LEARNING_RATE)
    learner = training.Learner(model, optimizer, 1 / run.batch_size, run.micro_batches)

    def rate(batches) -> float:
        steps = training.run_steps(run, learner, batches, training.Timeline(device))
        return run.batch_size / statistics.mean(step["step_time"] for step in steps[run.warmup :])

    first = next(iter(training.load_batches(run, images, device)))
    kept = [tensor.to(device.device) for tensor in first]
    return {
        "resident": rate(itertools.repeat(kept)),
        "loader": loader_rate(run, images, device),
        "together": rate(training.load_batches(run, images, device)),
    }


def bus_bandwidth(run: argparse.Namespace, device: training.Device) -> float:
    """Bytes/s on the bus, of all-reduces of the network's gradients."""
    model = training.build_model(run, training.Timeline(device))
    count = sum(parameter.numel() for parameter in model.parameters())
    gradients = torch.zeros(count, device=device.device)
    for step in range(run.warmup + run.steps):
        if step == run.warmup:
            device.wait()
            dist.barrier()
            begun = time.monotonic()
        dist.all_reduce(gradients)
    device.wait()
    seconds = (time.monotonic() - begun) / run.steps
    ranks = training.RANKS
    return 2 * (ranks - 1) / ranks * gradients.nbytes / seconds


def measure(run: argparse.Namespace) -> dict[str, float]:
    """The rates of this number of GPUs; raises RunError for what a user can do something about."""
    device = training.build_device(run)
    images = training.Images(run.data, run.image_size, run.seed, run.loader)
    training.join_ranks("gloo" if run.device == "cpu" else "cpu:gloo,cuda:nccl", run.timeout)
    try:
        if training.RANKS > 1:
            return {"all_reduce": bus_bandwidth(run, device)}
        return limits_of_one(run, images, device)
    except RuntimeError as error:
        if not training.is_out_of_memory(error):
            raise
        raise training.RunError(f"out of memory at batch {run.batch_size}") from None
    finally:
        dist.destroy_process_group()


def add_rows(path: Path, columns: dict[str, str], measured: dict[str, float]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    is_new = not path.is_file()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerows(
            [columns | {"what": what, "rate": rate} for what, rate in measured.items()]
        )


def main() -> None:
    own, run = read_arguments()
    columns = columns_of(own, run)
    if is_there(own.output, columns):
        return
    try:
        measured = measure(run)
    except training.RunError as error:
        sys.exit(f"error: {error}")
    if training.RANK != 0:
        return
    add_rows(own.output, columns, measured)
    for what, rate in measured.items():
        unit, scale = ("GB/s on the bus", 1e9) if what == "all_reduce" else ("images/s", 1)
        print(f"{what}: {rate / scale:.4g} {unit}")


if __name__ == "__main__":
    main()
