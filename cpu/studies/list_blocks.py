"""Which blocks a training step allocates, by size: what memory.py and malloc.py predict page faults
from.

    python list_blocks.py --output runs_own/blocks.csv

Runs two steps on one core and takes the second from torch's profiler, which sees
every block of torch's CPU allocator, the library's own copies too. Writes a line for each size of
64 KiB and more: bytes of a block and how many there are.
"""

import argparse
import collections
import csv
import json
import sys
import tempfile
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import project_ex_1 as training  # noqa: E402  (found on the path of the line before)


def profile_step(options: list[str]) -> list[dict]:
    """The events of one step, as torch's profiler writes them."""
    run = training.parse_arguments([*options, "--mode", "single_process"])
    training.take_cores(run)
    timeline = training.Timeline(training.build_device(run))
    images = training.Images(run.data, run.image_size, run.seed, run.loader)
    model = training.build_model(run, timeline)
    optimizer = torch.optim.SGD(model.parameters(), lr=training.LEARNING_RATE)
    learner = training.Learner(model, optimizer, 1 / run.batch_size, 1)
    first, second = training.load_batches(run, images, timeline.device)
    timeline.note("start")
    training.train_step(learner, first, timeline)
    with torch.profiler.profile(profile_memory=True) as profile:
        training.train_step(learner, second, timeline)
    with tempfile.TemporaryDirectory() as folder:
        profile.export_chrome_trace(f"{folder}/trace.json")
        return json.loads(Path(folder, "trace.json").read_text())["traceEvents"]


def count_blocks(events: list[dict]) -> dict[int, int]:
    """How many blocks of each size (bytes) were allocated."""
    memory = [event["args"]["Bytes"] for event in events if event.get("name") == "[memory]"]
    return collections.Counter(size for size in memory if size > 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="CSV file to write")
    parser.add_argument("--data", type=Path, help="folder that holds train/ (default: the sweep's)")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--model", default="densenet121", help="network of torchvision")
    args = parser.parse_args()
    options = [
        "--model",
        args.model,
        "--batch-size",
        str(args.batch_size),
        "--warmup",
        "1",
        "--steps",
        "1",
    ]
    if args.data:
        options += ["--data", str(args.data)]
    blocks = count_blocks(profile_step(options))
    with args.output.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["batch_size", "bytes", "blocks"])
        for size, count in sorted(blocks.items()):
            if size >= 2**16:
                writer.writerow([args.batch_size, size, count])
    print(f"{sum(blocks.values())} blocks are in {args.output}")


if __name__ == "__main__":
    main()
