"""One measured run of data-parallel training on GPUs.

Trains DenseNet121 on Imagenette for a few steps, one rank a GPU (nccl), and writes one CSV row a
rank a step: where the GPU's time went, by CUDA events, in parts that add up to the step. The total
batch is split exactly over the ranks.

    python -m torch.distributed.run --standalone --nproc-per-node 2 project_ex_2.py \\
        --batch-size 64 --run-id 1 --output times_run1.csv
    python project_ex_2.py --batch-size 64            # one GPU needs no launcher
    python project_ex_2.py --predict-memory --gpu-memory 10.91   # what fits; needs no GPU

A run knows whether its batch fits before it starts: the activations that autograd saves are
counted on the meta device. --on-oom says what to do if not: leave it (skip), run it in
micro-batches that keep the total batch and its gradient but for batch-norm, which then takes the
statistics of a micro-batch (accumulate), or recompute DenseNet's concatenations (checkpoint).
"""

import argparse
import contextlib
import csv
import ctypes
import functools
import hashlib
import itertools
import json
import os
import platform
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
import torchvision
from PIL import Image
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torchvision import transforms
from torchvision.transforms import v2

# ---- shared: this block is byte for byte the same in cpu/project_ex_1.py and gpu/project_ex_2.py
PARTS = ["loading", "forward", "backward", "communication", "optimizer"]
COLUMNS = (
    "run_id num_devices batch_size loading_time compute_time rank "  # the original study's six
    "step warmup images forward_time backward_time communication_time optimizer_time step_time "
    "started_at mode scaling threads precision channels_last loader workers bucket_cap_mb "
    "micro_batches node dataset peak_memory_bytes predicted_memory_bytes options"
).split()
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # of ImageNet, as everybody uses them


class RunError(Exception):
    """A run that cannot go on for a reason that its user can mend: one line, no traceback."""


class Device(NamedTuple):
    """All in which devices differ, as values: nothing in this block asks which one it is on."""

    device: torch.device
    mark: Callable[[], Any]  # notes a point in the device's time, without stalling the device
    seconds: Callable[[Any, Any], float]  # what lay between two marks, once the device is done
    wait: Callable[[], None]  # returns when the device is done
    autocast: Callable[[], contextlib.AbstractContextManager]
    memory_format: torch.memory_format
    peak_memory: Callable[[], int]  # bytes


def batch_split(batch_total: int, ranks: int) -> list[int]:
    """Images of a step for each rank: they sum to batch_total and differ by one at most."""
    if batch_total < ranks:
        raise RunError(
            f"a total batch of {batch_total} leaves some of {ranks} ranks without an image: "
            f"use --batch-size {ranks} or more, or fewer ranks"
        )
    return [batch_total // ranks + (rank < batch_total % ranks) for rank in range(ranks)]


def rank_batches(
    rank: int, ranks: int, batch_total: int, dataset_size: int, steps: int, seed: int
) -> list[list[tuple[int, int]]]:
    """For each step the (step, image) keys of one rank: its part of the step's images.

    The batch_total images of a step are the same at every number of ranks.
    """
    epochs = range(1 + steps * batch_total // dataset_size)
    orders = [np.random.default_rng((seed, epoch)).permutation(dataset_size) for epoch in epochs]
    steps_images = np.concatenate(orders)[: steps * batch_total].reshape(steps, batch_total)
    borders = np.cumsum(batch_split(batch_total, ranks))[:-1]
    own = np.split(steps_images, borders, axis=1)[rank].tolist()
    return [[(step, image) for image in images] for step, images in enumerate(own)]


class Images(torch.utils.data.Dataset):
    """The training images; a (step, image) key gives that image as that step augments it.

    Seeded by (seed, step, image), the augmentation is the same on any rank and in any worker.
    Items: image [3, size, size], uint8 (tensor loader) or normalised float32 (PIL loader); label.
    """

    def __init__(self, data: Path, size: int, seed: int, loader: str) -> None:
        try:
            self.samples = torchvision.datasets.ImageFolder(str(data / "train")).samples
        except OSError as error:  # no class folder, or one without an image: the message names it
            reason = str(error).split(" Supported")[0]
            raise RunError(f"{data}: {reason}: run 'python data/prepare_imagenette.py'") from None
        label = data / "label.txt"  # from data/prepare_imagenette.py: what exactly this is
        self.label = label.read_text().strip() if label.is_file() else data.name
        self.seed = seed
        self.decode = functools.partial(torchvision.io.decode_image, mode="RGB")
        crop = [v2.RandomResizedCrop(size, antialias=True), v2.RandomHorizontalFlip()]
        if loader == "pil":
            self.decode = lambda path: Image.open(path).convert("RGB")
            crop = [transforms.RandomResizedCrop(size), transforms.RandomHorizontalFlip()]
            crop += [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
        self.transform = transforms.Compose(crop)

    def __getitem__(self, key: tuple[int, int]) -> tuple[torch.Tensor, int]:
        path, label = self.samples[key[1]]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(np.random.SeedSequence((self.seed, *key)).generate_state(1)[0]))
            try:
                return self.transform(self.decode(path)), label
            except (OSError, RuntimeError, ValueError) as error:
                reason = str(error).splitlines()[0]
                raise RunError(f"cannot decode {path} ({reason}): replace or remove it") from None


def to_device(batch: list[torch.Tensor], device: Device) -> tuple[torch.Tensor, torch.Tensor]:
    """A loaded batch as the model takes it: on the device, float32, normalised."""
    images, labels = (tensor.to(device.device, non_blocking=True) for tensor in batch)
    if images.dtype == torch.uint8:
        images = v2.functional.to_dtype(images, torch.float32, scale=True)
        images = v2.functional.normalize(images, MEAN, STD, inplace=True)
    return images.contiguous(memory_format=device.memory_format), labels


class Timeline:
    """Points in the device's time: each ends a part of a step and starts the next, so that
    nothing can hide between two parts. A part may come back within a step."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.points = []

    def note(self, part: str) -> None:
        self.points.append((part, self.device.mark()))

    def step_times(self) -> list[dict[str, float]]:
        """For each step the seconds of its parts and of the whole, and when it started."""
        steps, started_at, parts = [], 0.0, dict.fromkeys(PARTS, 0.0)
        for (_, before), (part, point) in itertools.pairwise(self.points):
            parts[part] += self.device.seconds(before, point)
            if part == PARTS[-1]:
                step = {f"{name}_time": seconds for name, seconds in parts.items()}
                step |= {"started_at": started_at, "step_time": sum(parts.values())}
                step["compute_time"] = step["step_time"] - step["loading_time"]
                steps.append(step)
                started_at, parts = started_at + step["step_time"], dict.fromkeys(PARTS, 0.0)
        return steps


def noting_hook(
    state: tuple[Timeline, Callable], bucket: dist.GradBucket
) -> torch.futures.Future[torch.Tensor]:
    """DDP communication hook: note that a bucket of gradients is ready, then reduce it."""
    timeline, reduce_bucket = state
    timeline.note("backward")
    return reduce_bucket(None, bucket)


def train_step(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, batch: list[torch.Tensor],
    loss_scale: float, micro_batches: int, timeline: Timeline,
) -> None:
    """One step on the rank's images [b, 3, size, size] and labels [b]; notes where the time goes.

    The loss is the sum over the rank's images times loss_scale: with ranks / batch_total DDP's
    average over the ranks is the mean over all images of the step, however uneven the split.
    """
    images, labels = to_device(batch, timeline.device)
    timeline.note("loading")
    micro = zip(images.tensor_split(micro_batches), labels.tensor_split(micro_batches), strict=True)
    for number, (micro_images, micro_labels) in enumerate(micro, start=1):
        # Only the last micro-batch reduces: the others add to the gradients of their own rank.
        talks = number == micro_batches or not isinstance(model, DistributedDataParallel)
        with contextlib.nullcontext() if talks else model.no_sync():
            with timeline.device.autocast():
                logits = model(micro_images)
                loss = cross_entropy(logits, micro_labels, reduction="sum") * loss_scale
            timeline.note("forward")
            loss.backward()
        # Once the hook has noted the last bucket, backward() only waits for reduced gradients.
        reduced = timeline.points[-1][0] == "backward"
        timeline.note("communication" if reduced else "backward")
    optimizer.step()
    optimizer.zero_grad()
    timeline.note("optimizer")


def run_steps(
    steps: int, batches: Iterable[list[torch.Tensor]], timeline: Timeline, **step: Any
) -> list[dict[str, float]]:
    """All steps of this rank after one barrier; from then on the ranks run freely, as in training.

    Returns each step's times in seconds; raises RunError if they miss the host's clock.
    """
    device, batches = timeline.device, iter(batches)
    dist.barrier()
    device.wait()
    timeline.note("start")
    barrier_left = time.monotonic()
    for _ in range(steps):
        train_step(batch=next(batches), timeline=timeline, **step)
    device.wait()
    clock = time.monotonic() - barrier_left
    times = timeline.step_times()
    total = sum(step["step_time"] for step in times)
    if abs(total - clock) > 0.005 * clock + 0.001:
        raise RunError(f"the steps add up to {total:.4f} s, but the clock says {clock:.4f} s")
    return times


def write_rows(rows: list[dict[str, Any]], path: Path) -> list[dict[str, Any]]:
    """Gather all ranks' rows at rank 0, which writes and returns them."""
    gathered = [None] * dist.get_world_size() if dist.get_rank() == 0 else None
    dist.gather_object(rows, gathered)
    if gathered is None:
        return []
    rows, part = list(itertools.chain(*gathered)), path.with_name(path.name + ".tmp")
    with part.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    part.replace(path)  # so that a file of this name is always complete
    return rows


def die_with_parent(*_: Any) -> None:
    """Have the kernel end this process when its parent ends: torchrun alone leaves its ranks."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # 1 is PR_SET_PDEATHSIG
# ---- shared: end of the block


FOLDER = Path(__file__).resolve().parent
RANK = int(os.environ.get("RANK", 0))  # torchrun's names; without a launcher there is one rank
RANKS = int(os.environ.get("WORLD_SIZE", 1))
LOCAL_RANK = int(os.environ.get("LOCAL_RANK", 0))
LOCAL_RANKS = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
NODE = int(os.environ.get("GROUP_RANK", 0))
GIB = 2**30
DOES_NOT_FIT = 75  # exit status of a run that was not tried, or ended, for lack of memory


def whole(text: str) -> int:
    """An argument type: the whole numbers from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def refuse(message: str) -> None:
    """Say what is wrong with the arguments in one line, once, not at each rank."""
    if RANK == 0:
        print(f"error: {message} (--help lists the options)", file=sys.stderr)
    sys.exit(2)


def default_workers() -> int:
    """Loader processes for one rank: the cores are shared by the ranks and by their main loops."""
    return max(1, min(8, len(os.sched_getaffinity(0)) // LOCAL_RANKS - 1))


def read_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    folders = sorted((FOLDER.parent / "data").glob("imagenette2*/"))
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    parser.error = refuse
    add = parser.add_argument
    add("--batch-size", type=whole, default=32, help="images a step, all ranks together")
    add("--run-id", type=whole, default=1, help="number of the run, a column of its rows")
    add("--data", type=Path, default=folders[0] if folders else FOLDER.parent / "data",
        help="folder that holds train/<class>/*.JPEG")
    add("--output", type=Path, default=Path("times_run1.csv"), help="CSV file to write")
    add("--steps", type=whole, default=20, help="measured steps, after the warm-up")
    add("--warmup", type=int, default=5, help="first steps, kept but marked warmup=1")
    add("--seed", type=int, default=0, help="of weights, image order and augmentation")
    add("--image-size", type=whole, default=224, help="pixels a side, after the crop")
    add("--lr", type=float, default=0.001, help="learning rate of SGD")
    add("--precision", choices=["fp32", "tf32", "bf16"], default="fp32",
        help="tf32: matrix units for fp32 data; bf16: by autocast")
    add("--channels-last", action="store_true", help="NHWC memory format instead of NCHW")
    add("--compile", action="store_true", help="torch.compile the model; takes more warm-up")
    add("--loader", choices=["tensor", "pil"], default="tensor",
        help="decoding and augmentation by torchvision.io on uint8, or by PIL as in the original")
    add("--workers", type=int, default=default_workers(),
        help="loader processes a rank, which prefetch; 0: the original's serial loading")
    add("--bucket-cap-mb", type=whole, default=None,
        help="size of DDP's gradient buckets in MB; None: DDP's own, a first one of 1 and then 25")
    add("--scaling", choices=["strong", "weak"], default="strong",
        help="which series the run belongs to; goes to the rows and changes nothing")
    add("--no-communication", action="store_true",
        help="ranks that do not talk: the same step without DDP, an upper bound")
    add("--micro-batches", type=whole, default=1, help="parts that each rank's batch is run in")
    add("--on-oom", choices=["skip", "accumulate", "checkpoint"], default="skip",
        help="what to do with a batch that does not fit")
    add("--memory-limit", type=float, default=None,
        help="GiB of a smaller card to re-create; None: the card as it is")
    add("--predict-memory", action="store_true",
        help="print what each batch needs on 1 to 3 GPUs, and measure nothing; needs no GPU")
    add("--gpu-memory", type=float, default=10.91, help="GiB of the card for --predict-memory")
    add("--device", choices=["cuda", "cpu"], default="cuda", help="cpu: only to test the program")
    add("--backend", choices=["nccl", "gloo"], default="nccl", help="of torch.distributed")
    add("--share-gpu", action="store_true",
        help="several ranks on one GPU (with gloo): for correctness only, the rows say so")
    add("--describe", action="store_true",
        help="print what identifies this machine and this code as JSON, and measure nothing")
    return parser.parse_args(arguments)


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
    images: int, size: int, precision: str, micro_batches: int, checkpoint: bool
) -> Memory:
    """What a rank with so many images will hold at its peak, counted on the meta device.

    Activations: the distinct storages that autograd saves, parameters aside. The allowance, for
    workspaces and gradients in flight: the largest of them; recomputing adds three times the
    largest concatenation. SGD without momentum has no state.
    """
    images = -(-images // micro_batches)
    dtype = {"bf16": torch.bfloat16}.get(precision, torch.float32)
    with torch.device("meta"):
        model = torchvision.models.densenet121(num_classes=10, memory_efficient=checkpoint)
        batch = torch.empty(images, 3, size, size)
        labels = torch.empty(images, dtype=torch.int64)
    parameters = sum(p.numel() * p.element_size() for p in model.parameters())
    # CPU autocast does nothing on meta tensors: for bf16, model and input are cast instead.
    model, saved, anew = model.to(dtype), {}, [0]
    own = {p.untyped_storage()._cdata for p in itertools.chain(model.parameters(), model.buffers())}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        return tensor

    def keep_inputs(_: torch.nn.Module, inputs: tuple) -> None:
        anew.append(3 * sum(keep(feature).untyped_storage().nbytes() for feature in inputs[0]))

    if checkpoint:  # recomputation keeps the features that a layer concatenates
        for name, module in model.named_modules():
            if "denselayer" in name.split(".")[-1]:
                module.register_forward_pre_hook(keep_inputs)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        cross_entropy(model(batch.to(dtype)), labels)
    sizes = [storage.nbytes() for key, storage in saved.items() if key not in own]
    cast = parameters // 2 if precision == "bf16" else 0  # autocast's copies of the weights
    return Memory(
        activations=sum(sizes), parameters=parameters + cast, gradients=parameters,
        buckets=parameters, inputs=batch.numel() * batch.element_size(),
        allowance=max(sizes) + max(anew),
    )


def print_memory_table(args: argparse.Namespace) -> None:
    """GiB a GPU for each batch and GPU count, and the fewest GPUs on which the batch fits."""
    way = "plain" if args.on_oom == "skip" else args.on_oom
    print(f"Predicted GiB a GPU: {args.precision}, {args.image_size} pixels, {way}; the card has "
          f"{args.gpu_memory} GiB")
    print("batch    1 GPU   2 GPUs   3 GPUs   fewest that fit")
    for batch in (16, 32, 48, 64, 96, 128, 256):
        needs = [
            fitting_memory(batch_split(batch, gpus)[0], args, args.gpu_memory * GIB)[0]
            for gpus in (1, 2, 3)
        ]
        fits = [gpus for gpus, need in enumerate(needs, start=1) if need <= args.gpu_memory * GIB]
        row = "".join(f"{need / GIB:9.2f}" for need in needs)
        print(f"{batch:5d}{row}   {fits[0] if fits else 'more than 3'}")


def fitting_memory(
    images: int, args: argparse.Namespace, available: float
) -> tuple[int, int, bool]:
    """Bytes needed, micro-batches and recomputation for a rank's batch under --on-oom."""
    micro, size, precision = args.micro_batches, args.image_size, args.precision
    need = predict_memory(images, size, precision, micro, False).total
    if need <= available or args.on_oom == "skip":
        return need, micro, False
    if args.on_oom == "checkpoint":
        return predict_memory(images, size, precision, micro, True).total, micro, True
    while need > available and micro < images:
        micro += 1
        need = predict_memory(images, size, precision, micro, False).total
    return need, micro, False


def check_gpus(args: argparse.Namespace) -> None:
    """Refuse what cannot work, with the reason that the driver gives."""
    if args.backend == "nccl" and (args.device == "cpu" or args.share_gpu):
        raise RunError("nccl needs a GPU for each rank: add --backend gloo")
    if args.device == "cpu":
        return
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:  # none, no driver, or one that is too old
        raise RunError(
            f"no GPU can be used here ({str(error).splitlines()[0].rstrip('.')}): run on a machine "
            "with an NVIDIA GPU, or with --device cpu --backend gloo to test the program"
        ) from None
    gpus = torch.cuda.device_count()
    if LOCAL_RANKS > gpus and not args.share_gpu:
        raise RunError(f"{LOCAL_RANKS} ranks need {LOCAL_RANKS} GPUs, {gpus} are here: use fewer")


def connect(args: argparse.Namespace) -> None:
    """Connect the ranks; gloo carries the rows, so that gathering them takes no GPU memory."""
    backend = "cpu:gloo,cuda:nccl" if args.backend == "nccl" else "gloo"
    if "TORCHELASTIC_RUN_ID" in os.environ:
        dist.init_process_group(backend)
    else:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)


def gpu_device(args: argparse.Namespace) -> Device:
    """How a GPU keeps time: events on its stream, so that the host can run ahead."""
    common = {
        "autocast": functools.partial(
            torch.autocast, args.device, dtype=torch.bfloat16, enabled=args.precision == "bf16"
        ),
        "memory_format": torch.channels_last if args.channels_last else torch.contiguous_format,
    }
    if args.device == "cpu":
        return Device(
            device=torch.device("cpu"), mark=time.perf_counter, wait=lambda: None,
            seconds=lambda earlier, later: later - earlier, peak_memory=lambda: 0, **common,
        )
    torch.cuda.set_device(LOCAL_RANK % torch.cuda.device_count())
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = (
        args.precision == "tf32"
    )

    def mark() -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    return Device(
        device=torch.device("cuda", torch.cuda.current_device()), mark=mark,
        seconds=lambda earlier, later: earlier.elapsed_time(later) / 1000,
        wait=torch.cuda.synchronize, peak_memory=torch.cuda.max_memory_allocated, **common,
    )


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


def leave_record(args: argparse.Namespace, need: float, free: float, step: str) -> None:
    """Write why this configuration cannot run, for the sweep, and end this process at once.

    No collective: the other ranks may sit in an all-reduce, where a further one would pair with
    their gradients or hang. torchrun ends them when it sees this rank's exit status.
    """
    limit = args.memory_limit if args.memory_limit is not None else ""
    reason = f"needs {need / GIB:.1f} of {free / GIB:.1f} GiB"
    record = {
        "num_devices": RANKS, "batch_size": args.batch_size, "scaling": args.scaling,
        "reason": reason, "needed_gib": need / GIB, "free_gib": free / GIB, "limit_gib": limit,
        "step": step, "rank": RANK, "micro_batches": args.micro_batches,
    }
    with args.output.with_suffix(f".skipped{RANK}").open("w", newline="") as file:
        writer = csv.DictWriter(file, record, lineterminator="\n")
        writer.writeheader()
        writer.writerow(record)
    message = f"error: does not fit: {reason} a GPU ({step}): see --on-oom"
    print(message, file=sys.stderr, flush=True)
    os._exit(DOES_NOT_FIT)


def fit_batch(args: argparse.Namespace, free: float) -> tuple[int, bool]:
    """Choose micro-batches and recomputation by prediction, alike on all ranks; or leave a record.

    Returns the predicted bytes and whether to recompute; args.micro_batches is set.
    """
    largest = batch_split(args.batch_size, RANKS)[0]
    need, micro_batches, checkpoint = fitting_memory(largest, args, free)
    if need > free:
        leave_record(args, need, free, "predicted before the run")
    choice = torch.tensor([micro_batches, int(checkpoint)])
    dist.all_reduce(choice, op=dist.ReduceOp.MAX)
    args.micro_batches, checkpoint = int(choice[0]), bool(choice[1])
    prediction = predict_memory(
        largest, args.image_size, args.precision, args.micro_batches, checkpoint
    )
    return prediction.total, checkpoint


def prefetch_batches(images: Images, args: argparse.Namespace) -> torch.utils.data.DataLoader:
    """The rank's batches of all steps, in order, decoded ahead into pinned memory."""
    steps = args.warmup + args.steps
    keys = rank_batches(RANK, RANKS, args.batch_size, len(images.samples), steps, args.seed)
    return torch.utils.data.DataLoader(
        images, batch_sampler=keys, num_workers=args.workers, worker_init_fn=die_with_parent,
        pin_memory=args.device == "cuda", prefetch_factor=4 if args.workers else None,
    )


def place_model(
    args: argparse.Namespace, timeline: Timeline, checkpoint: bool
) -> torch.nn.Module:
    """DenseNet121 with a head for 10 classes on the GPU, the same on each rank; in DDP if it talks.

    The weights are made on the CPU, so that they are those of the CPU experiment.
    """
    torch.manual_seed(args.seed)
    model = torchvision.models.densenet121(num_classes=10, memory_efficient=checkpoint)
    device = timeline.device
    model = model.to(device.device, memory_format=device.memory_format)
    if args.compile:
        model = torch.compile(model)
    if args.no_communication:
        return model
    # DDP's broadcast of batch-norm buffers would wait for rank 0 within the forward pass. The
    # argument has a newer name from torch 2.13 on and works under the old one, with a warning.
    warnings.filterwarnings("ignore", message=".*broadcast_buffers.*")
    model = DistributedDataParallel(
        model, broadcast_buffers=False, bucket_cap_mb=args.bucket_cap_mb
    )
    model.register_comm_hook((timeline, allreduce_hook), noting_hook)
    return model


def gpu_rows(
    args: argparse.Namespace, label: str, times: list[dict], peak: int, predicted: int, again: bool
) -> list[dict[str, Any]]:
    """The rows of this rank: what was measured in each step, and under which settings."""
    plain = vars(read_arguments([]))
    names = ["image_size", "seed", "lr", "compile", "share_gpu", "device", "memory_limit"]
    options = {name: getattr(args, name) for name in names if getattr(args, name) != plain[name]}
    options |= {"checkpoint": 1} if again else {}
    options |= {"nodes": RANKS // LOCAL_RANKS} if RANKS > LOCAL_RANKS else {}
    settings = {
        "run_id": args.run_id, "num_devices": RANKS, "batch_size": args.batch_size, "rank": RANK,
        "images": batch_split(args.batch_size, RANKS)[RANK],
        "mode": "no_communication" if args.no_communication else "ddp", "scaling": args.scaling,
        "threads": torch.get_num_threads(), "precision": args.precision,
        "channels_last": int(args.channels_last), "loader": args.loader, "workers": args.workers,
        "bucket_cap_mb": args.bucket_cap_mb, "micro_batches": args.micro_batches, "node": NODE,
        "dataset": label, "peak_memory_bytes": peak or "", "predicted_memory_bytes": predicted,
        "options": ";".join(f"{name}={value}" for name, value in options.items()),
    }
    return [
        {**settings, "step": step, "warmup": int(step < args.warmup), **step_times}
        for step, step_times in enumerate(times)
    ]


def describe_gpus(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """What identifies a measurement (results of two identities never mix), and what is recorded."""
    gpus = []
    if args.device == "cuda":
        check_gpus(args)
        gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    images = Images(args.data, args.image_size, args.seed, args.loader)
    block = Path(__file__).read_text().split("# ---- shared")[1]
    cpu = [line for line in Path("/proc/cpuinfo").open() if line.startswith("model name")]
    git = ["git", "-C", str(FOLDER), "describe", "--always", "--dirty", "--abbrev=40"]
    driver = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    run = functools.partial(subprocess.run, capture_output=True, text=True)
    return {
        "identity": {
            "gpu_model": gpus[0].name if gpus else "none (CPU, to test the program)",
            "gpu_memory_bytes": gpus[0].total_memory if gpus else 0,
            "gpus_granted": len(gpus),
            "cpu_model": cpu[0].split(":")[1].strip() if cpu else platform.machine(),
            "cores_granted": len(os.sched_getaffinity(0)),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "cuda": torch.version.cuda,
            "shared_block": hashlib.sha256(block.encode()).hexdigest(),
            "dataset": images.label,
            "dataset_images": len(images.samples),
            **{name: getattr(args, name) for name in ("image_size", "seed", "lr")},
        },
        "recorded": {
            "commit": run(git).stdout.strip(),
            "date": datetime.now().astimezone().isoformat(timespec="seconds"),
            "driver": run(driver).stdout.split("\n")[0] if gpus else None,
            "python": platform.python_version(),
            "kernel": platform.release(),
            "load_average": os.getloadavg(),
            "steps": args.steps,
            "warmup": args.warmup,
        },
    }


def measure_on_gpus(args: argparse.Namespace) -> None:
    """The run: prepare, see that it fits, train, write the rows; tell a sweep what it took."""
    uptime = Path("/proc/uptime").read_text  # by this clock the sweep tells the rank's beginning
    moments = [uptime()]
    if "TORCHELASTIC_RUN_ID" in os.environ:
        die_with_parent()
    own_images = batch_split(args.batch_size, RANKS)[RANK]
    check_gpus(args)
    images = Images(args.data, args.image_size, args.seed, args.loader)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    moments.append(uptime())
    timeline = Timeline(gpu_device(args))
    connect(args)
    moments.append(uptime())
    free = limit_memory(args)
    predicted, checkpoint = fit_batch(args, free)
    try:
        model = place_model(args, timeline, checkpoint)
        moments.append(uptime())
        times = run_steps(
            args.warmup + args.steps,
            prefetch_batches(images, args),
            timeline,
            model=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=args.lr),
            loss_scale=1 / own_images if args.no_communication else RANKS / args.batch_size,
            micro_batches=args.micro_batches,
        )
    except torch.OutOfMemoryError:
        step = sum(part == PARTS[-1] for part, _ in timeline.points)
        leave_record(args, predicted, free, f"out of memory in step {step}")
    peak = timeline.device.peak_memory()
    rows = write_rows(
        gpu_rows(args, images.label, times, peak, predicted, checkpoint), args.output
    )
    if rows:
        tell_rate(rows, args)
        if "RANK_BEGAN" in os.environ:
            print("moments:", os.environ["RANK_BEGAN"], *(m.split()[0] for m in moments))
    dist.destroy_process_group()


def tell_rate(rows: list[dict[str, Any]], args: argparse.Namespace) -> None:
    """One line for whoever watches; the statistics are gpu_plots_ex_2.py's."""
    whole_run = max(row["started_at"] + row["step_time"] for row in rows)
    timed = [sum(r["step_time"] for r in rows if r["rank"] == rank and not r["warmup"])
             for rank in range(RANKS)]  # fmt: skip
    rate = args.batch_size * args.steps / max(timed)
    print(f"run {args.run_id}: {rate:.2f} img/s, {whole_run:.1f} s in steps -> {args.output}")


def main() -> None:
    args = read_arguments()
    try:
        if args.predict_memory:
            print_memory_table(args)
        elif args.describe:
            print(json.dumps(describe_gpus(args), indent=2))
        else:
            measure_on_gpus(args)
    except RunError as error:
        # From a loader's process the message comes at the end of a traceback.
        if RANK == 0 or dist.is_initialized():
            print(f"error: {str(error).split('RunError: ')[-1].strip()}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        print(f"error: {error.filename or args.output}: {error.strerror}", file=sys.stderr)
        sys.exit(1)
    except RuntimeError as error:
        if "peer" not in str(error):
            raise
        print(f"error: rank {RANK} lost another rank, see what that one said", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
