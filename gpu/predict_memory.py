"""What memory a training step will take on a GPU, before it runs; needs no GPU.

    python predict_memory.py                                # a card of 10.91 GiB, all ways
    python predict_memory.py --gpu-memory 16 --model resnet50 --output memory.csv

Counts on the meta device what autograd saves for the backward pass, and adds parameters, gradients,
DDP's buckets, the input and an allowance. Prints, for plain fp32 and for each way to need less, the
GiB per GPU by batch and GPU count, and the fewest GPUs on which the batch fits. project_ex_2.py
asks the same before each run.
"""

import argparse
import csv
import functools
import itertools
import json
import os
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
import torchvision
from torch.nn.functional import cross_entropy

GIB = 2**30
BATCHES = [16, 32, 48, 64, 96, 128, 256]
GPUS = [1, 2, 3]


class CardError(Exception):
    """What is asked of a card that it cannot give: a batch that it could hold if others did not use
    it now, or more memory than it has."""


class Card(NamedTuple):
    bytes: float  # that a rank may ever take
    free: float  # of these, now


class Task(NamedTuple):
    """What decides how much memory a rank's step needs."""

    model: str
    images: int  # of the rank
    size: int = 224  # pixels per side
    precision: str = "fp32"
    micro_batches: int = 1
    checkpoint: bool = False  # recompute DenseNet's concatenations


# Ways to need less, and what each starts from: a task, and what it does if that does not fit.
WAYS = {
    "plain": ("fp32", "skip"),
    "bf16": ("bf16", "skip"),
    "micro-batches": ("fp32", "accumulate"),
    "recomputation": ("fp32", "checkpoint"),
}


class Memory(NamedTuple):
    """Bytes that a rank's step needs, by what they hold."""

    activations: int
    parameters: int
    gradients: int
    buckets: int
    inputs: int
    allowance: int

    @property
    def total(self) -> int:
        return sum(self)


class SavedTensors:
    """The distinct storages that autograd saves for the backward pass, parameters aside."""

    def __init__(self, network: torch.nn.Module) -> None:
        self.storages: dict[int, torch.UntypedStorage] = {}
        self.recomputed = [0]  # bytes at the peak of recomputing a concatenation
        self.fixed = set()
        for tensor in itertools.chain(network.parameters(), network.buffers()):
            self.fixed.add(tensor.untyped_storage()._cdata)

    def keep(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        self.storages[storage._cdata] = storage
        return tensor

    def keep_inputs(self, _: torch.nn.Module, inputs: tuple) -> None:
        """Before a dense layer: recomputation keeps the features that the layer concatenates, and
        the concatenation takes three times their size."""
        features = sum(self.keep(feature).untyped_storage().nbytes() for feature in inputs[0])
        self.recomputed.append(3 * features + sum(self.sizes()))

    def sizes(self) -> list[int]:
        return [storage.nbytes() for key, storage in self.storages.items() if key not in self.fixed]


@functools.lru_cache
def predict_memory(task: Task) -> Memory:
    """What a rank will hold at its peak, in bytes.

    The allowance, for workspaces and gradients in flight, is the largest saved tensor, or what
    recomputing a concatenation takes beyond what is saved, when later layers' have been freed. SGD
    without momentum has no state.
    """
    images = -(-task.images // task.micro_batches)
    is_half = task.precision in ("bf16", "fp16")
    dtype = torch.bfloat16 if is_half else torch.float32
    settings = {"memory_efficient": True} if task.checkpoint else {}
    with torch.device("meta"):
        network = torchvision.models.get_model(task.model, num_classes=10, **settings)
        batch = torch.empty(images, 3, task.size, task.size)
        labels = torch.empty(images, dtype=torch.int64)
    parameters = sum(p.numel() * p.element_size() for p in network.parameters())
    # CPU autocast does nothing on meta tensors: for half precision, model and input are cast.
    network = network.to(dtype)
    saved = SavedTensors(network)
    if task.checkpoint:
        for name, module in network.named_modules():
            if "denselayer" in name.split(".")[-1]:
                module.register_forward_pre_hook(saved.keep_inputs)
    with torch.autograd.graph.saved_tensors_hooks(saved.keep, lambda tensor: tensor):
        cross_entropy(network(batch.to(dtype)), labels)
    sizes = saved.sizes()
    # Autocast keeps copies of the weights, half as large.
    cast = parameters // 2 if is_half else 0
    return Memory(
        activations=sum(sizes),
        parameters=parameters + cast,
        gradients=parameters,
        buckets=parameters,
        inputs=batch.numel() * batch.element_size(),
        allowance=max(max(sizes), max(saved.recomputed) - sum(sizes)),
    )


def find_fit(task: Task, fewest: int, on_oom: str, available: float) -> tuple[int, Task]:
    """Bytes needed, and the task that needs them: as given if that fits into the available bytes,
    else by the way that on_oom names. fewest: images of the smallest rank, none of whose
    micro-batches may be empty."""
    while True:
        need = predict_memory(task).total
        if need > available and on_oom == "checkpoint" and not task.checkpoint:
            task = task._replace(checkpoint=True)
        elif need > available and on_oom == "accumulate" and task.micro_batches < fewest:
            task = task._replace(micro_batches=task.micro_batches + 1)
        else:
            return need, task


def fit_batch(args: argparse.Namespace, ranks: int, card: Card) -> int:
    """Choose micro-batches and recomputation by prediction, alike on all ranks, or give up.

    Returns the predicted bytes of the largest rank; args.micro_batches and args.checkpoint are set.
    Raises CardError if the batch would fit a card that others do not use.
    """
    task = Task(
        args.model,
        -(-args.batch_size // ranks),
        args.image_size,
        args.precision,
        args.micro_batches,
        args.checkpoint,
    )
    need, task = find_fit(task, args.batch_size // ranks, args.on_oom, card.bytes)
    if need > card.bytes:
        give_up(args, need, card.bytes, "predicted before the run")
    if need > card.free:
        raise CardError(
            f"needs {need / GIB:.1f} GiB, of which {card.free / GIB:.1f} are free now: other "
            "processes use this GPU"
        )
    fit = torch.tensor([task.micro_batches, int(task.checkpoint)])
    dist.all_reduce(fit, op=dist.ReduceOp.MAX)
    args.micro_batches, args.checkpoint = int(fit[0]), bool(fit[1])
    return need


def card_memory(args: argparse.Namespace) -> Card:
    """What this rank may take of its card; with --memory-limit, of the smaller one. Raises
    CardError for a limit above the card.

    What is outside torch's allocator (the context, libraries) counts against the limit.
    """
    limit = float("inf") if args.memory_limit is None else args.memory_limit * GIB
    if args.device == "cpu":
        return Card(limit, limit)
    torch.cuda.synchronize()
    free, total = torch.cuda.mem_get_info()
    if args.memory_limit is None:
        return Card(total, free)
    if limit > total:
        raise CardError(
            f"--memory-limit {args.memory_limit} GiB is above the card's {total / GIB:.2f} GiB"
        )
    outside = total - free - torch.cuda.memory_reserved()
    torch.cuda.set_per_process_memory_fraction(max(0.0, (limit - outside) / total))
    return Card(limit - outside, min(limit - outside, free))


def give_up(args: argparse.Namespace, need: float, available: float, step: str) -> None:
    """Leave word for the sweep, why this run is skipped or how to try it again, and end at once.

    No collective: the other ranks may sit in an all-reduce, where a further one would pair with
    their gradients or hang. torchrun ends them when it sees this rank's exit status.
    """
    rank = os.environ.get("RANK", "0")
    ranks = int(os.environ.get("WORLD_SIZE", 1))
    reason = f"needs {need / GIB:.1f} of {available / GIB:.1f} GiB"
    word, suffix = {"reason": reason, "step": step}, ".skip"
    parts = 2 * args.micro_batches
    # What the prediction refuses was tried in all micro-batches.
    if args.on_oom == "accumulate" and need <= available and parts <= args.batch_size // ranks:
        word, suffix = {"reason": step, "options": f"--micro-batches {parts}"}, ".retry"
    part = args.output.with_suffix(f".tmp{rank}")
    part.write_text(json.dumps(word))
    part.rename(args.output.with_suffix(suffix))
    os.write(2, f"error: does not fit: {reason} per GPU ({step}): see --on-oom\n".encode())
    os._exit(1)


def need_by_gpus(args: argparse.Namespace, way: str, batch: int) -> dict[int, float]:
    """GiB per GPU of a batch, by the number of GPUs."""
    precision, on_oom = WAYS[way]
    needs = {}
    for gpus in GPUS:
        task = Task(args.model, -(-batch // gpus), args.image_size, precision)
        needs[gpus] = find_fit(task, batch // gpus, on_oom, args.gpu_memory * GIB)[0] / GIB
    return needs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--gpu-memory", type=float, default=10.91, help="GiB of the card")
    parser.add_argument("--image-size", type=int, default=224, help="pixels per side")
    names = torchvision.models.list_models(module=torchvision.models)
    parser.add_argument("--model", default="densenet121", choices=names, metavar="NAME")
    parser.add_argument("--output", type=Path, help="CSV file to write the same numbers to")
    args = parser.parse_args()
    rows = []
    for way in WAYS:
        if way == "recomputation" and not args.model.startswith("densenet"):
            continue
        print(
            f"{way}: predicted GiB per GPU on {', '.join(map(str, GPUS))} GPUs, of "
            f"{args.gpu_memory} GiB; fewest GPUs that the batch fits on"
        )
        for batch in BATCHES:
            needs = need_by_gpus(args, way, batch)
            rows += [(way, batch, gpus, need) for gpus, need in needs.items()]
            fits = [gpus for gpus, need in needs.items() if need <= args.gpu_memory]
            columns = "".join(f"{need:9.2f}" for need in needs.values())
            print(f"{batch:7d}{columns}   ", min(fits, default="more than 3"))
    if args.output:
        with args.output.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["way", "batch_size", "num_devices", "predicted_gib"])
            writer.writerows(rows)


if __name__ == "__main__":
    main()
