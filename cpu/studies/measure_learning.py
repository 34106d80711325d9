"""Do the fast settings learn what plain PyTorch learns? The loss of both, step by step.

    python -m torch.distributed.run --standalone --nproc-per-node 2 measure_learning.py \\
        --output runs_own/learning.csv

For each seed the same weights are trained twice on the same images and crops: with plain PyTorch's
settings (fp32, NCHW, PIL loader) and with the fast ones (bf16 autocast, channels last, tensor
loader). Images are small, because what is compared is the arithmetic, not the rate. variants.py
says how far the losses are apart.
"""

import argparse
import csv
import sys
from pathlib import Path

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import project_ex_1 as training  # noqa: E402  (found on the path of the line before)

SETTINGS = {
    "plain": ["--loader", "pil"],
    "fast": ["--precision", "bf16", "--channels-last"],
}
LEARNING_RATE = 0.01  # ten times the sweep's, so that 200 steps learn something


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("--output", type=Path, required=True, help="CSV file to write: one row per step")
    add("--data", type=Path, default=training.find_data(), help="folder that holds train/")
    add("--seeds", type=int, default=6, help="of weights, image order and augmentation")
    add("--steps", type=int, default=200)
    add("--batch-size", type=int, default=32, help="images per step, over all ranks")
    add("--image-size", type=int, default=64, help="pixels per side, after the crop")
    return parser.parse_args()


def train(args: argparse.Namespace, setting: str, seed: int) -> list[float]:
    """The mean loss over all images of each step, before that step's update."""
    options = [*SETTINGS[setting], "--seed", seed, "--steps", args.steps, "--warmup", 0]
    options += ["--batch-size", args.batch_size, "--image-size", args.image_size]
    options += ["--data", args.data]
    run = training.parse_arguments([str(option) for option in options])
    images = training.Images(run.data, run.image_size, run.seed, run.loader)
    losses, plain_loss = [], torch.nn.functional.cross_entropy

    def noting_loss(*inputs: torch.Tensor, reduction: str) -> torch.Tensor:
        loss = plain_loss(*inputs, reduction=reduction)
        losses.append(loss.item())
        return loss

    training.cross_entropy = noting_loss
    timeline = training.Timeline(training.build_device(run))
    model = training.build_model(run, timeline)
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    learner = training.Learner(model, optimizer, training.RANKS / run.batch_size, 1)
    for batch in training.load_batches(run, images, timeline.device):
        training.train_step(learner, batch, timeline)
    total = torch.tensor(losses, dtype=torch.float64)
    dist.all_reduce(total)
    return (total / run.batch_size).tolist()


def main() -> None:
    args = parse_arguments()
    training.take_cores(training.parse_arguments([]))
    training.join_ranks("gloo", 600)
    rows = []
    for seed in range(args.seeds):
        for setting in SETTINGS:
            losses = train(args, setting, seed)
            rows += [(seed, setting, step, f"{loss:.6f}") for step, loss in enumerate(losses)]
            if training.RANK == 0:
                print(f"seed {seed}, {setting}: {losses[0]:.3f} -> {losses[-1]:.3f}", flush=True)
    if training.RANK == 0:
        with args.output.open("w", newline="") as file:
            csv.writer(file).writerows([("seed", "setting", "step", "loss"), *rows])
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
