"""One round: where a step's time goes by type of layer, what one core can do, what two take away.

    python measure_limit.py --round 1 --output runs_own

Appends to layers.csv, for each type of layer of steady steps on one core: seconds, counted
floating-point operations, counted bytes (each operator's inputs and outputs, once). To rates.csv:
the best rate of the network's own convolutions and of a matrix product (FLOP/s), and a stream triad
(bytes/s); then a product that stays in cache and a triad, on one core alone and on all at once. A
round that is there already is not measured again.
"""

import argparse
import collections
import csv
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import project_ex_1 as training  # noqa: E402  (found on the path of the line before)

# A gradient that comes from several uses is added up: that is a price of concatenation.
TYPES = {
    "convolution": "convolution",
    "batch_norm": "batch-norm, ReLU",
    "relu": "batch-norm, ReLU",
    "threshold": "batch-norm, ReLU",
    "cat": "concatenation",
    "addmm": "other",
    "add": "concatenation",
    "slice": "concatenation",
    "narrow": "concatenation",
    "pool": "pooling",
    "mean": "pooling",
}
SECONDS = 5.0  # of each product and triad


def type_of(name: str) -> str:
    """The type of layer that an operator belongs to."""
    return next((kind for word, kind in TYPES.items() if word in name), "other")


def tensors_in(tree: object) -> list[torch.Tensor]:
    leaves = torch.utils._pytree.tree_leaves(tree)
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]


class LayerTimes(TorchDispatchMode):
    """Takes the time of each operator, by type of layer; or, as that takes time itself, counts its
    operations and bytes."""

    def __init__(self, count: bool) -> None:
        super().__init__()
        self.count, self.part, self.convolutions = count, "", {}
        self.sums = collections.defaultdict(lambda: [0.0, 0, 0, 0])

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        begun = time.perf_counter()
        result = operator(*args, **(kwargs or {}))
        seconds = time.perf_counter() - begun
        own = self.sums[self.part or type_of(operator._schema.name)]
        own[0] += seconds
        own[3] += 1
        if self.count:
            flops, moved = self.work_of(operator, args, kwargs, result)
            own[1] += flops
            own[2] += moved
        return result

    def work_of(self, operator, args, kwargs, result) -> tuple[int, int]:
        """Floating-point operations of an operator, and bytes of its inputs and outputs."""
        packet, name = operator._overloadpacket, operator._schema.name
        flops = flop_registry[packet](*args, out_val=result) if packet in flop_registry else 0
        if name == "aten::convolution":
            self.convolutions[str([args[0].shape, args[1].shape, *args[3:]])] = args, flops
        inputs, outputs = tensors_in((args, kwargs)), tensors_in(result)
        before = {tensor.untyped_storage()._cdata for tensor in inputs}
        after = {tensor.untyped_storage()._cdata for tensor in outputs}
        if not name.endswith("_") and after <= before:
            return flops, 0  # a view moves nothing
        return flops, sum(t.numel() * t.element_size() for t in [*inputs, *outputs])


def profile_steps(run: argparse.Namespace) -> tuple[list[list], dict]:
    """Rows (step, type, seconds, flops, bytes, calls) of each steady step, with what the first step
    counted; the network's convolutions."""
    timeline = training.Timeline(training.build_device(run))
    images = training.Images(run.data, run.image_size, run.seed, run.loader)
    model = training.build_model(run, timeline)
    optimizer, rows = torch.optim.SGD(model.parameters(), lr=training.LEARNING_RATE), []
    for step, batch in enumerate(training.load_batches(run, images, timeline.device)):
        with LayerTimes(count=step == 0) as layers:
            begun = time.perf_counter()
            layers.part = "other"
            inputs, labels = training.to_device(batch, timeline.device)
            layers.part = ""
            loss = training.cross_entropy(model(inputs), labels)
            loss.backward()
            layers.part = "optimizer"
            optimizer.step()
            optimizer.zero_grad()
            whole = time.perf_counter() - begun
        if step == 0:
            counted = layers
        if step >= run.warmup:
            rows += [
                [step, kind, sums[0], *counted.sums[kind][1:]] for kind, sums in layers.sums.items()
            ]
            rows.append([step, "step", whole, 0, 0, 0])
    return rows, counted.convolutions


def best_rate(amount: float, run, repeats: int = 3) -> float:
    """Work per second, in the best of some repeats."""
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        run()
        times.append(time.perf_counter() - begun)
    return amount / min(times)


def work(kind: str) -> tuple[float, object]:
    """FLOP of a product whose matrices stay in the cache, or bytes of a triad that does not."""
    if kind == "product":
        a, b, c = (torch.ones(256, 256) for _ in range(3))
        return 2 * 256**3, lambda: torch.mm(a, b, out=c)
    a, b, c = (torch.ones(2**24) for _ in range(3))
    return 3 * 4 * 2**24, lambda: torch.add(b, c, alpha=3.0, out=a)


def keep_busy(kind: str, core: int, start: float) -> float:
    """The rate of one core over SECONDS from a common start on; an error if it comes too late."""
    os.sched_setaffinity(0, [core])
    torch.set_num_threads(1)
    amount, run = work(kind)
    run()
    time.sleep(start - time.monotonic())
    count, begun = 0, time.monotonic()
    while time.monotonic() < begun + SECONDS:
        run()
        count += 1
    return amount * count / (time.monotonic() - begun)


def contention(cores: list[int]) -> list[list]:
    """Rows (what, cores busy at once, rate of one): each kind alone and on all cores, in turns."""
    rows = []
    with ProcessPoolExecutor(len(cores), get_context("spawn")) as pool:
        for kind in ("product", "triad"):
            for some in (cores[:1], cores, cores[-1:]):
                start = time.monotonic() + (20 if len(rows) < 2 else 3)  # processes start on demand
                rates = list(pool.map(keep_busy, [kind] * len(some), some, [start] * len(some)))
                rows.append([f"{kind}_busy", len(some), sum(rates) / len(rates)])
    return rows


def append(path: Path, head: str, rows: list[list]) -> None:
    new = not path.is_file()
    with path.open("a", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([head.split()] * new + rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("--round", type=int, required=True, help="number of the round, a column of its rows")
    add("--output", type=Path, required=True, help="folder of layers.csv and rates.csv")
    add("--data", type=Path, help="folder that holds train/ (default: the sweep's)")
    add("--batch-size", type=int, default=16)
    args = parser.parse_args()
    memory, layers = training.memory_setting(), args.output / "layers.csv"
    key = f"{args.round},{memory},"
    if layers.is_file() and f"\n{key}" in layers.read_text():
        return
    options = ["--batch-size", str(args.batch_size), "--mode", "single_process", "--warmup", "2"]
    options += ["--steps", "2", *(["--data", str(args.data)] if args.data else [])]
    run, cores = training.parse_arguments(options), training.granted_cores()
    rates = contention(cores) if memory == "kept" else []
    time.sleep(1)  # the pool's threads have ended, but the kernel may list them a little longer
    training.take_cores(run)
    rows, convolutions = profile_steps(run)
    own = [
        best_rate(flops, lambda a=a: torch.ops.aten.convolution(*a))
        for a, flops in convolutions.values()
    ]
    square = torch.ones(2048, 2048)
    rates += [
        ["convolution", 1, max(own)],
        ["product", 1, best_rate(2 * 2048**3, lambda: square @ square)],
        ["triad", 1, best_rate(*work("triad"), repeats=10)],
    ]
    append(
        args.output / "rates.csv",
        "round memory what cores rate",
        [[args.round, memory, *row] for row in rates],
    )
    append(
        layers,
        "round memory step type seconds flops bytes calls",
        [[args.round, memory, *row] for row in rows],
    )
    print(f"round {args.round}, memory {memory}: in {args.output}")


if __name__ == "__main__":
    main()
