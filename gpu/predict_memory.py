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
BATCHES, GPUS = (16, 32, 48, 64, 96, 128, 256), (1, 2, 3)
WAYS = {"plain": ("fp32", "skip"), "bf16": ("bf16", "skip"),
        "micro-batches": ("fp32", "accumulate"), "recomputation": ("fp32", "checkpoint")}


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


@functools.lru_cache
def predict_memory(
    model: str, images: int, size: int, precision: str, micro_batches: int, checkpoint: bool
) -> Memory:
    """What a rank with so many images of size x size pixels will hold at its peak, in bytes.

    Activations: the distinct storages that autograd saves, parameters aside. The allowance, for
    workspaces and gradients in flight: the largest of them, or what recomputing a concatenation
    (three times its size) takes beyond what is saved, when later layers' have been freed. SGD
    without momentum has no state.
    """
    images = -(-images // micro_batches)
    dtype = {"bf16": torch.bfloat16}.get(precision, torch.float32)
    settings = {"memory_efficient": True} if checkpoint else {}
    with torch.device("meta"):
        network = torchvision.models.get_model(model, num_classes=10, **settings)
        batch = torch.empty(images, 3, size, size)
        labels = torch.empty(images, dtype=torch.int64)
    parameters = sum(p.numel() * p.element_size() for p in network.parameters())
    # CPU autocast does nothing on meta tensors: for bf16, model and input are cast instead.
    network, saved, anew = network.to(dtype), {}, [0]
    fixed = itertools.chain(network.parameters(), network.buffers())
    fixed = {tensor.untyped_storage()._cdata for tensor in fixed}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        return tensor

    def keep_inputs(_: torch.nn.Module, inputs: tuple) -> None:
        features = sum(keep(feature).untyped_storage().nbytes() for feature in inputs[0])
        anew.append(3 * features + sum(s.nbytes() for k, s in saved.items() if k not in fixed))

    if checkpoint:  # recomputation keeps the features that a layer concatenates
        for name, module in network.named_modules():
            if "denselayer" in name.split(".")[-1]:
                module.register_forward_pre_hook(keep_inputs)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        cross_entropy(network(batch.to(dtype)), labels)
    sizes = [storage.nbytes() for key, storage in saved.items() if key not in fixed]
    cast = parameters // 2 if precision == "bf16" else 0  # autocast's copies of the weights
    return Memory(
        activations=sum(sizes), parameters=parameters + cast, gradients=parameters,
        buckets=parameters, inputs=batch.numel() * batch.element_size(),
        allowance=max(max(sizes), max(anew) - sum(sizes)),
    )


def find_fit(
    model: str, batch: int, ranks: int, size: int, precision: str, micro_batches: int,
    checkpoint: bool, on_oom: str, available: float,
) -> tuple[int, int, bool]:
    """Bytes needed by the largest rank, micro-batches and recomputation: as given if that fits into
    the available bytes, else by the way that on_oom names (skip, accumulate, checkpoint)."""
    images, fewest = -(-batch // ranks), batch // ranks  # no rank has an empty micro-batch
    while True:
        need = predict_memory(model, images, size, precision, micro_batches, checkpoint).total
        if need > available and on_oom == "checkpoint" and not checkpoint:
            checkpoint = True
        elif need > available and on_oom == "accumulate" and micro_batches < fewest:
            micro_batches += 1
        else:
            return need, micro_batches, checkpoint


def fit_batch(args: argparse.Namespace, ranks: int, available: float) -> int:
    """Choose micro-batches and recomputation by prediction, alike on all ranks, or give up.

    Returns the predicted bytes of the largest rank; args.micro_batches and args.checkpoint are set.
    """
    need, *fit = find_fit(args.model, args.batch_size, ranks, args.image_size, args.precision,
                          args.micro_batches, args.checkpoint, args.on_oom, available)
    if need > available:
        give_up(args, need, available, "predicted before the run")
    fit = torch.tensor(fit, dtype=torch.int64)
    dist.all_reduce(fit, op=dist.ReduceOp.MAX)
    args.micro_batches, args.checkpoint = int(fit[0]), bool(fit[1])
    return need


def limit_memory(args: argparse.Namespace) -> float:
    """Bytes that this rank may take; with --memory-limit those of the smaller card.

    What the process holds outside the allocator (context, libraries) counts against the limit.
    """
    limit = float("inf") if args.memory_limit is None else args.memory_limit * GIB
    if args.device == "cpu":
        return limit
    torch.cuda.synchronize()
    free, total = torch.cuda.mem_get_info()
    if limit >= total:
        return free
    outside = total - free - torch.cuda.memory_reserved()
    torch.cuda.set_per_process_memory_fraction(max(0.0, (limit - outside) / total))
    return min(limit - outside, free)


def give_up(args: argparse.Namespace, need: float, available: float, step: str) -> None:
    """Leave word for the sweep, why this run is skipped or how to try it again, and end at once.

    No collective: the other ranks may sit in an all-reduce, where a further one would pair with
    their gradients or hang. torchrun ends them when it sees this rank's exit status.
    """
    rank, ranks = (int(os.environ.get(name, d)) for name, d in (("RANK", 0), ("WORLD_SIZE", 1)))
    reason = f"needs {need / GIB:.1f} of {available / GIB:.1f} GiB"
    word, kind, parts = {"reason": reason, "step": step}, ".skip", 2 * args.micro_batches
    # What the prediction refuses was tried in all micro-batches.
    if args.on_oom == "accumulate" and need <= available and parts <= args.batch_size // ranks:
        word, kind = {"reason": step, "options": f"--micro-batches {parts}"}, ".retry"
    part = args.output.with_suffix(f".tmp{rank}")
    part.write_text(json.dumps(word))
    part.rename(args.output.with_suffix(kind))
    os.write(2, f"error: does not fit: {reason} per GPU ({step}): see --on-oom\n".encode())
    os._exit(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--gpu-memory", type=float, default=10.91, help="GiB of the card")
    parser.add_argument("--image-size", type=int, default=224, help="pixels per side")
    names = torchvision.models.list_models(module=torchvision.models)
    parser.add_argument("--model", default="densenet121", choices=names, metavar="NAME")
    parser.add_argument("--output", type=Path, help="CSV file to write the same numbers to")
    args = parser.parse_args()
    rows, card = [], args.gpu_memory * GIB
    for way, (precision, on_oom) in WAYS.items():
        if on_oom == "checkpoint" and not args.model.startswith("densenet"):
            continue
        print(f"{way}: predicted GiB per GPU on {', '.join(map(str, GPUS))} GPUs, of "
              f"{args.gpu_memory} GiB; fewest GPUs that the batch fits on")
        for batch in BATCHES:
            needs = [find_fit(args.model, batch, gpus, args.image_size, precision, 1, False, on_oom,
                              card)[0] for gpus in GPUS]
            pairs = list(zip(GPUS, needs, strict=True))
            rows += [(way, batch, gpus, need / GIB) for gpus, need in pairs]
            fewest = min((gpus for gpus, need in pairs if need <= card), default="more than 3")
            print(f"{batch:7d}" + "".join(f"{need / GIB:9.2f}" for need in needs), "  ", fewest)
    if args.output:
        with args.output.open("w", newline="") as file:
            head = ("way", "batch_size", "num_devices", "predicted_gib")
            csv.writer(file, lineterminator="\n").writerows([head, *rows])


if __name__ == "__main__":
    main()
