"""Which blocks a training step allocates, by size: what plot.py predicts page faults from.

    python list_blocks.py --output runs_own/blocks.csv

Runs two steps of one core at a small batch and takes the second from torch's profiler, which sees
every block of torch's CPU allocator, the library's own copies too. Writes a line for each operator,
shape and size: bytes of a block and how many there are.
"""

import argparse
import collections
import csv
import json
import sys
import tempfile
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import project_ex_1 as training  # noqa: E402  (found on the path of the line before)


def profile_step(options: list[str]) -> list[dict]:
    """The events of one step, as torch's profiler writes them."""
    run = training.parse_arguments([*options, "--mode", "single_process"])
    training.take_cores(run)
    timeline = training.Timeline(training.build_device(run))
    images = training.Images(run.data, run.image_size, run.seed, run.loader)
    model = training.build_model(run, timeline)
    optimizer = torch.optim.SGD(model.parameters(), lr=run.lr)
    batches = list(training.load_batches(run, images, timeline.device))
    timeline.note("start")
    training.train_step(model, optimizer, batches[0], 1 / run.batch_size, 1, timeline)
    with torch.profiler.profile(profile_memory=True, record_shapes=True) as profile:
        training.train_step(model, optimizer, batches[1], 1 / run.batch_size, 1, timeline)
    with tempfile.TemporaryDirectory() as folder:
        profile.export_chrome_trace(f"{folder}/trace.json")
        return json.loads(Path(folder, "trace.json").read_text())["traceEvents"]


def count_blocks(events: list[dict]) -> collections.Counter:
    """Blocks by (operator, shapes of its inputs, bytes): the innermost operator around each."""
    operators = sorted((e for e in events if e.get("cat") == "cpu_op"), key=lambda e: e["ts"])
    blocks, open_operators, place = collections.Counter(), [], 0
    memory = [e for e in events if e.get("name") == "[memory]" and e["args"]["Bytes"] > 0]
    for event in sorted(memory, key=lambda e: e["ts"]):
        while place < len(operators) and operators[place]["ts"] <= event["ts"]:
            open_operators.append(operators[place])
            place += 1
        open_operators = [e for e in open_operators if e["ts"] + e["dur"] >= event["ts"]]
        inner = open_operators[-1] if open_operators else {"name": "outside", "args": {}}
        shapes = str(inner["args"].get("Input Dims", ""))
        blocks[inner["name"], shapes, event["args"]["Bytes"]] += 1
    return blocks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="CSV file to write")
    parser.add_argument("--data", type=Path, help="folder that holds train/ (default: the sweep's)")
    parser.add_argument("--batch-size", type=int, default=8)
    args = parser.parse_args()
    options = ["--batch-size", str(args.batch_size), "--warmup", "1", "--steps", "1"]
    options += ["--data", str(args.data)] if args.data else []
    blocks = count_blocks(profile_step(options))
    with args.output.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["batch_size", "operator", "shapes", "bytes", "blocks"])
        writer.writerows((args.batch_size, *key, count) for key, count in sorted(blocks.items())
                         if key[2] >= 2**16)
    print(f"{sum(blocks.values())} blocks are in {args.output}")


if __name__ == "__main__":
    main()
