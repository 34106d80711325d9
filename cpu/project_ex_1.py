"""One measured run of data-parallel training on CPU cores.

Trains DenseNet121 on Imagenette for a few steps, one rank per physical core (gloo, one thread,
pinned), and writes one CSV row per rank and step: where the time of the step went, in parts that
add up to it. The total batch is split exactly over the ranks.

    python -m torch.distributed.run --standalone --nproc-per-node 4 project_ex_1.py \\
        --batch-size 32 --output times_run1.csv
    python project_ex_1.py --batch-size 32            # one rank needs no launcher

The parts of a step, in order: loading, forward, backward (until the last gradient is ready),
communication (what is exposed of the all-reduce after that), optimizer. Batch-norm takes the
statistics of a rank's own images, as DDP does; apart from that a step computes the same at every
number of ranks. The outline of the file: arguments, one run, devices, data, clock, step, model,
rows, plumbing.
"""

import argparse
import collections
import contextlib
import csv
import ctypes
import difflib
import functools
import inspect
import itertools
import json
import os
import re
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
import torchvision
from PIL import Image
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torchvision import transforms
from torchvision.transforms import v2

# ---- arguments


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = OneLineParser()
    add = parser.add_argument
    # What is computed.
    add("--batch-size", type=at_least(1), default=32, help="images per step, over all ranks")
    add("--steps", type=at_least(1), default=3, help="measured steps, after the warm-up")
    add("--warmup", type=at_least(0), default=2, help="first steps, kept but marked warmup=1")
    add("--model", type=network, default="densenet121", metavar="NAME", help="of torchvision")
    add("--image-size", type=at_least(32), default=224, help="pixels per side, after the crop")
    add("--seed", type=at_least(0), default=0, help="of weights, image order and augmentation")
    add("--mode", choices=MODES, default="ddp", help="the other two run the bare model")
    add(
        "--cycles",
        type=at_least(0),
        default=0,
        help="in place of measured steps: cycles of a rank alone, all together, data parallel",
    )
    # How it is computed.
    add(
        "--threads",
        type=at_least(0),
        default=1,
        help="threads, and pinned cores, per rank; 0: as the launcher leaves them, not pinned",
    )
    add("--precision", choices=["fp32", "bf16"], default="fp32", help="bf16: by autocast")
    add("--channels-last", action="store_true", help="NHWC memory format instead of NCHW")
    add("--micro-batches", type=at_least(1), default=1, help="parts of each rank's batch")
    add("--loader", choices=["tensor", "pil"], default="tensor", help="pil: the original's")
    add("--workers", type=at_least(0), default=0, help="loader processes per rank, on its core")
    # How DDP communicates.
    add("--bucket-cap-mb", type=at_least(1), help="of DDP's buckets (None: 1, then 25)")
    add("--gradients", choices=["fp32", "bf16"], default="fp32", help="type in the all-reduce")
    # The run.
    add("--data", type=Path, default=find_data(), help="folder that holds train/<class>/*.JPEG")
    add("--output", type=Path, default=Path("times_run1.csv"), help="CSV file of run 1")
    add("--oversubscribe", action="store_true", help="more threads than cores; the rows say so")
    add("--timeout", type=at_least(1), default=600, help="seconds to wait for another rank")
    add("--note", default="", help="k=v for the rows' column options; changes nothing")
    add("--describe", action="store_true", help="print machine and code as JSON, run nothing")
    # Only the GPU script recomputes activations, where they would not fit.
    parser.set_defaults(checkpoint=False)
    args = parser.parse_args(arguments)
    if args.cycles and args.mode != "ddp":
        parser.error("--cycles has its own modes: leave --mode out")
    if args.cycles and args.warmup < 2:
        # In the second step DDP orders its buckets anew, for which all ranks must take part.
        parser.error("--cycles needs two warm-up steps at least: --warmup 2")
    if args.mode == "single_process" and RANKS > 1:
        parser.error("--mode single_process is one process: start it without torchrun")
    return args


# ---- one run


def measure(args: argparse.Namespace) -> None:
    """Take cores, connect the ranks, train, write the rows."""
    # Each rank and micro-batch has an image, or it is an error, before anything is started.
    batch_split(args.batch_size, RANKS * args.micro_batches)
    take_cores(args)
    images = Images(args.data, args.image_size, args.seed, args.loader)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    join_ranks("gloo", args.timeout)
    train(args, Timeline(build_device(args)), images)
    dist.destroy_process_group()


# ---- devices


def take_cores(args: argparse.Namespace) -> None:
    """Pin this rank to cores of its own, each of its computing threads to one of them."""
    if args.threads == 0:
        args.pinned = 0  # for the rows
        return
    cores = granted_cores()
    needed = LOCAL_RANKS * args.threads
    # Ranks that have a share of a core each take turns on it.
    takes_turns = args.oversubscribe or "CPU_SHARE" in os.environ
    if needed > len(cores) and not takes_turns:
        raise RunError(
            f"{LOCAL_RANKS} ranks of {args.threads} threads need {needed} physical cores, "
            f"{len(cores)} are available here: use fewer, or --oversubscribe"
        )
    first = LOCAL_RANK * args.threads
    taken = [cores[place % len(cores)] for place in range(first, first + args.threads)]
    before = set(os.listdir("/proc/self/task"))
    for thread in before:
        os.sched_setaffinity(int(thread), taken)
    torch.set_num_threads(args.threads)
    # A first parallel operation starts the other computing threads.
    torch.ones(2**20).exp()
    started = sorted(set(os.listdir("/proc/self/task")) - before)
    # 0 is this thread, which computes too.
    for thread, core in zip([0, *started], taken, strict=False):
        os.sched_setaffinity(int(thread), [core])


def take_share() -> None:
    """Enter the control group that the sweep made for this rank: its share of a core."""
    # Not before: on a share the warm-up would take six times as long.
    if "CPU_SHARE" in os.environ:
        group = Path(os.environ.get("CPU_GROUPS", ""), str(RANK), "cgroup.procs")
        group.write_text(str(os.getpid()))


def build_device(args: argparse.Namespace) -> "Device":
    """How a CPU keeps time and computes."""
    return Device(
        device=torch.device("cpu"),
        # A CPU is done when the host is: the host's clock is the device's.
        mark=time.perf_counter,
        seconds=lambda earlier, later: later - earlier,
        wait=lambda: None,
        begin=take_share,
        autocast=lambda: torch.autocast("cpu", torch.bfloat16, args.precision == "bf16"),
        scaler=torch.amp.GradScaler("cpu", enabled=False),
        memory_format=torch.channels_last if args.channels_last else torch.contiguous_format,
        # The kernel counts it in KiB.
        memory=lambda: {
            "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        },
        loading={},
    )


def machine(_: argparse.Namespace) -> dict[str, Any]:
    """What identifies the devices."""
    return {"devices_granted": len(granted_cores())}


# ---- shared: this block is byte for byte the same in cpu/project_ex_1.py and gpu/project_ex_2.py
HERE = Path(__file__).resolve().parent
# torchrun's names; without a launcher there is one rank.
RANK = int(os.environ.get("RANK", 0))
RANKS = int(os.environ.get("WORLD_SIZE", 1))
LOCAL_RANK = int(os.environ.get("LOCAL_RANK", 0))
LOCAL_RANKS = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
NODE = int(os.environ.get("GROUP_RANK", 0))
PARTS = ["loading", "forward", "backward", "communication", "optimizer"]
MODES = ["ddp", "no_communication", "single_process"]
# One after the other in each cycle of --cycles: one rank while the others sleep, all ranks without
# communication, data parallelism.
PHASES = ["alone", "together", "ddp"]
# The first six are the original study's, so that its tools read new files too.
COLUMNS = (
    "run_id num_devices batch_size loading_time compute_time rank "
    "step warmup images forward_time backward_time communication_time optimizer_time step_time "
    "ddp_time host_ahead_time started_at user_time system_time minor_faults "
    "communication_user_time communication_system_time mode cycle model threads precision "
    "channels_last memory loader workers bucket_cap_mb micro_batches cpu_share node dataset "
    "peak_memory_bytes reserved_memory_bytes predicted_memory_bytes options"
).split()
# Arguments that change no measurement, or have a column under another name.
NOT_OPTIONS = ["data", "output", "note", "timeout", "describe", "steps", "warmup"]
LEARNING_RATE = 0.001  # the original study's
# Mean and standard deviation of ImageNet's channels, as torchvision's documentation has them.
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


class RunError(Exception):
    """A run that cannot go on for a reason that its user can remove: one line, no traceback."""


class Device(NamedTuple):
    """All in which devices differ, as values: nothing in this block asks which one it is on."""

    device: torch.device
    mark: Callable[[], Any]  # notes a point in the device's time, without stalling the device
    seconds: Callable[[Any, Any], float]  # between two marks, once the device has passed both
    wait: Callable[[], None]  # returns when the device is done
    begin: Callable[[], None]  # called when the warm-up is over
    autocast: Callable[[], contextlib.AbstractContextManager]
    scaler: torch.amp.GradScaler  # keeps fp16's small gradients from zero; else it does nothing
    memory_format: torch.memory_format
    memory: Callable[[], dict[str, int]]  # columns on memory, in bytes
    loading: dict[str, Any]  # further arguments of DataLoader


# ---- data


def find_data() -> Path:
    """The images to train on by default: of the folders in data/, real ones before generated ones.
    A folder that a killed download left has no train/."""
    found = [path.parent for path in (HERE.parent / "data").glob("imagenette2*/train")]
    found.sort(key=lambda path: ("-synthetic" in path.name, path.name))
    return [*found, HERE.parent / "data" / "imagenette2"][0]


def batch_split(batch_total: int, ranks: int) -> list[int]:
    """Images of a step for each rank: they sum to batch_total and differ by one at most."""
    if batch_total < ranks:
        raise RunError(f"a batch of {batch_total} is too small for {ranks} ranks or micro-batches")
    # Nothing is dropped: 32 over 7 ranks is 5 5 5 5 4 4 4.
    return [batch_total // ranks + (rank < batch_total % ranks) for rank in range(ranks)]


def choose_images(batch_total: int, steps: int, dataset_size: int, seed: int) -> np.ndarray:
    """Indices of the images of each step [steps, batch_total]: one seeded permutation after the
    other. They do not depend on the number of ranks."""
    epochs = 1 + steps * batch_total // dataset_size
    orders = [
        np.random.default_rng((seed, epoch)).permutation(dataset_size) for epoch in range(epochs)
    ]
    return np.concatenate(orders)[: steps * batch_total].reshape(steps, batch_total)


def rank_batches(images: np.ndarray, rank: int, ranks: int) -> list[list[tuple[int, int]]]:
    """For each step the (step, image) keys of one rank: its part of the step's images."""
    borders = np.cumsum(batch_split(images.shape[1], ranks))[:-1]
    batches = []
    for step, part in enumerate(np.split(images, borders, axis=1)[rank].tolist()):
        batches.append([(step, image) for image in part])
    return batches


class Images(torch.utils.data.Dataset):
    """The training images; a (step, image) key gives that image as that step augments it. Seeded by
    (seed, step, image), the augmentation is the same on any rank and in any worker. Items: image
    [3, size, size], uint8 (tensor loader) or normalised float32 (PIL loader); label."""

    def __init__(self, data: Path, size: int, seed: int, loader: str) -> None:
        try:
            self.samples = torchvision.datasets.ImageFolder(str(data / "train")).samples
        except OSError as error:
            # No class folder, or one without an image: the message names it.
            reason = error.strerror or str(error).split(" Supported")[0]
            raise RunError(f"{data}: {reason}: run 'python data/prepare_imagenette.py'") from None
        # The label says what exactly these images are; prepare_imagenette.py writes it.
        label = data / "label.txt"
        self.label = label.read_text().strip() if label.is_file() else data.name
        self.seed = seed
        if loader == "pil":
            crop = [
                transforms.RandomResizedCrop(size),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        else:
            # uint8 until the images are on the device: a quarter of the bytes to handle.
            crop = [v2.PILToTensor(), v2.RandomResizedCrop(size), v2.RandomHorizontalFlip()]
        self.transform = transforms.Compose(crop)

    def __getitem__(self, key: tuple[int, int]) -> tuple[torch.Tensor, int]:
        path, label = self.samples[key[1]]
        # fork_rng: loading draws nothing from the generator that the model uses.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(np.random.SeedSequence((self.seed, *key)).generate_state(1)[0]))
            try:
                with Image.open(path) as image:
                    return self.transform(image.convert("RGB")), label
            except (OSError, RuntimeError, ValueError) as error:
                reason = str(error).splitlines()[0]
                raise RunError(f"cannot decode {path} ({reason}): replace or remove it") from None


class Turn(NamedTuple):
    """What a step of the run is."""

    mode: str  # one of MODES or PHASES
    batch: int  # which of the run's batches it takes
    cycle: int | str  # the number of its cycle; nothing without cycles

    @property
    def is_mine(self) -> bool:
        """Whether this rank computes in it. The ranks take turns to be alone."""
        return self.mode != "alone" or self.cycle % RANKS == RANK


def list_turns(args: argparse.Namespace) -> list[Turn]:
    """The steps of the run: warm-up, then measured ones, or cycles of phases. The phases of a cycle
    take the same images; their order rotates, so that no phase is always the first."""
    steps = args.warmup if args.cycles else args.warmup + args.steps
    turns = [Turn(args.mode, step, "") for step in range(steps)]
    for cycle in range(args.cycles):
        first = cycle % len(PHASES)
        for phase in [*PHASES[first:], *PHASES[:first]]:
            turns.append(Turn(phase, args.warmup + cycle, cycle))
    return turns


def load_batches(args: argparse.Namespace, images: Images, device: Device) -> Iterable:
    """The rank's batches of its turns, in order: images [b, 3, size, size] and labels [b]."""
    turns = list_turns(args)
    batches = 1 + max(turn.batch for turn in turns)
    chosen = choose_images(args.batch_size, batches, len(images.samples), args.seed)
    own = rank_batches(chosen, RANK, RANKS)
    return torch.utils.data.DataLoader(
        images,
        batch_sampler=[own[turn.batch] for turn in turns if turn.is_mine],
        num_workers=args.workers,
        worker_init_fn=die_with_parent,
        **device.loading,
    )


@functools.cache
def channel_statistics(device: torch.device) -> list[torch.Tensor]:
    """Mean and standard deviation of the channels [3, 1, 1], on the device once and for all: made
    from a list in each step they would be copied each time, and stall the host for that."""
    return [torch.tensor(values, device=device)[:, None, None] for values in (MEAN, STD)]


def to_device(batch: list[torch.Tensor], device: Device) -> tuple[torch.Tensor, torch.Tensor]:
    """A loaded batch as the model takes it: on the device, float32, normalised."""
    images, labels = (tensor.to(device.device, non_blocking=True) for tensor in batch)
    if images.dtype == torch.uint8:
        mean, deviation = channel_statistics(device.device)
        images = v2.functional.to_dtype(images, torch.float32, scale=True)
        images = images.sub_(mean).div_(deviation)
    return images.contiguous(memory_format=device.memory_format), labels


# ---- clock


class Point(NamedTuple):
    """The end of a part of a step, and what the kernel had done for this process by then."""

    part: str
    mark: Any  # of the device's clock
    host: float  # the host's clock, when it had given the device its work
    user_time: float
    system_time: float
    minor_faults: int


class Timeline:
    """Points in the device's time: each ends a part of a step and starts the next, so that
    nothing can hide between two parts. A part may come back within a step."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.points: list[Point] = []
        # For each step the marks at which an all-reduce was complete.
        self.reductions: list[list[Any]] = [[]]

    def note(self, part: str) -> None:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        kernel = usage.ru_utime, usage.ru_stime, usage.ru_minflt
        self.points.append(Point(part, self.device.mark(), time.perf_counter(), *kernel))
        if part == PARTS[-1]:
            self.reductions.append([])

    def note_reduction(self, future: torch.futures.Future) -> torch.Tensor:
        self.reductions[-1].append(self.device.mark())
        return future.value()

    def step_times(self) -> list[dict[str, float]]:
        """The columns of each step that are times (s) or counts of the kernel."""
        steps: list[dict[str, float]] = []
        pairs: list[tuple[Point, Point]] = []
        started_at = 0.0
        for before, after in itertools.pairwise(self.points):
            if after.part == "start":
                continue  # a barrier between two steps
            pairs.append((before, after))
            if after.part == PARTS[-1]:
                step = self.sum_step(pairs, self.reductions[len(steps)])
                steps.append(step | {"started_at": started_at})
                started_at += step["step_time"]
                pairs = []
        return steps

    def time_between_steps(self) -> float:
        """Seconds in barriers between steps."""
        gaps = itertools.pairwise(self.points)
        return sum(
            self.device.seconds(before.mark, after.mark)
            for before, after in gaps
            if after.part == "start"
        )

    def sum_step(self, pairs: list[tuple[Point, Point]], reductions: list) -> dict[str, float]:
        """One step: seconds of its parts and of the whole, what the kernel did, and ddp_time, the
        part of communication after the last all-reduce was complete."""
        kernel = ["user_time", "system_time", "minor_faults"]
        sums = collections.defaultdict(float)
        communicated = None
        for before, after in pairs:
            sums[f"{after.part}_time"] += self.device.seconds(before.mark, after.mark)
            for name in kernel:
                used = getattr(after, name) - getattr(before, name)
                sums[name] += used
                if after.part == "communication":
                    sums[f"communication_{name}"] += used
            if after.part == "communication":
                communicated = after.mark
        after_last = [self.device.seconds(mark, communicated) for mark in reductions]
        step_time = sum(sums[f"{part}_time"] for part in PARTS)
        times = {"step_time": step_time, "compute_time": step_time - sums["loading_time"]}
        times["ddp_time"] = min(after_last, default=0.0)
        # By how much the device lags behind the host at the end of the step: where it does not, it
        # waits for the host, and the step takes as long as its launches.
        first, last = self.points[0], pairs[-1][1]
        lag = self.device.seconds(first.mark, last.mark) - (last.host - first.host)
        times["host_ahead_time"] = max(0.0, lag)
        for name in COLUMNS:
            if name.endswith(("_time", "_faults")):
                times.setdefault(name, sums[name])
        return times


def noting_hook(
    state: tuple[Timeline, Callable], bucket: dist.GradBucket
) -> torch.futures.Future[torch.Tensor]:
    """DDP communication hook: note that a bucket is ready, reduce it, note that this is done."""
    timeline, reduce_bucket = state
    # Backward goes on beside the reduction: with the last bucket this note ends it.
    timeline.note("backward")
    return reduce_bucket(None, bucket).then(timeline.note_reduction)


# ---- step


class Learner(NamedTuple):
    """What takes a step: the network (in DDP if the ranks communicate) and its optimizer."""

    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    loss_scale: float  # of the sum over the rank's images
    micro_batches: int


def train_step(
    learner: Learner, batch: list[torch.Tensor], timeline: Timeline, communicates: bool = True
) -> None:
    """One step on the rank's images [b, 3, size, size] and labels [b]; notes where the time goes.
    If it does not communicate, DDP leaves each rank its own gradients.

    The loss is the sum over the rank's images times loss_scale: with ranks / batch_total DDP's
    average over the ranks is the mean over all images of the step, however uneven the split.
    """
    model, parts = learner.model, learner.micro_batches
    images, labels = to_device(batch, timeline.device)
    timeline.note("loading")
    micro = zip(images.tensor_split(parts), labels.tensor_split(parts), strict=True)
    for number, (micro_images, micro_labels) in enumerate(micro, start=1):
        # Only the last micro-batch reduces: the others add to the gradients of their own rank.
        reduces = communicates and number == parts
        is_bare = not isinstance(model, DistributedDataParallel)
        with contextlib.nullcontext() if reduces or is_bare else model.no_sync():
            with timeline.device.autocast():
                logits = model(micro_images)
                loss = cross_entropy(logits, micro_labels, reduction="sum") * learner.loss_scale
            timeline.note("forward")
            timeline.device.scaler.scale(loss).backward()
        # Once the hook has noted the last bucket, backward() only waits for reduced gradients.
        reduced = timeline.points[-1].part == "backward"
        timeline.note("communication" if reduced else "backward")
    timeline.device.scaler.step(learner.optimizer)
    timeline.device.scaler.update()
    learner.optimizer.zero_grad()


def run_steps(
    args: argparse.Namespace, learner: Learner, batches: Iterable, timeline: Timeline
) -> list[dict[str, float]]:
    """All steps of this rank after one barrier; from then on the ranks run freely, as in training,
    but for a barrier before each phase of a cycle. Returns each step's times in seconds; raises
    RunError if they miss the host's clock."""
    device, batches = timeline.device, iter(batches)
    dist.barrier()
    device.wait()
    timeline.note("start")
    barrier_left = time.monotonic()
    for number, turn in enumerate(list_turns(args)):
        if number == args.warmup:
            device.begin()
        if turn.mode in PHASES and turn.cycle != "":
            device.wait()
            dist.barrier()
        if not turn.is_mine:
            continue
        if turn.cycle != "":
            timeline.note("start")
        train_step(learner, next(batches), timeline, turn.mode not in ("alone", "together"))
        # Here, not in train_step: the step's tensors are released when it returns, within the step.
        timeline.note("optimizer")
    device.wait()
    if args.cycles:
        timeline.note("start")  # the last barrier has an end, too
    clock = time.monotonic() - barrier_left
    times = timeline.step_times()
    total = sum(step["step_time"] for step in times) + timeline.time_between_steps()
    # A tick of the scheduler may lie between the two clocks.
    if abs(total - clock) > 0.005 * clock + 0.005:
        raise RunError(f"the steps add up to {total:.4f} s, but the clock says {clock:.4f} s")
    return times


# ---- model


def build_model(args: argparse.Namespace, timeline: Timeline) -> torch.nn.Module:
    """A torchvision network with a head for 10 classes; in DDP if the ranks communicate. The
    weights are made on the CPU, so that they are the same on each rank and on every device."""
    torch.manual_seed(args.seed)
    device = timeline.device
    settings = {"memory_efficient": True} if args.checkpoint else {}
    model = torchvision.models.get_model(args.model, num_classes=10, **settings)
    model = model.to(device.device, memory_format=device.memory_format)
    if args.mode != "ddp":
        return model
    # DDP's broadcast of batch-norm buffers would wait for rank 0 within the forward pass. Its
    # argument has another name from torch 2.13 on.
    known = inspect.signature(DistributedDataParallel).parameters
    sync = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    model = DistributedDataParallel(model, bucket_cap_mb=args.bucket_cap_mb, **{sync: False})
    hooks = {"fp32": default_hooks.allreduce_hook, "bf16": default_hooks.bf16_compress_hook}
    model.register_comm_hook((timeline, hooks[args.gradients]), noting_hook)
    return model


def train(
    args: argparse.Namespace, timeline: Timeline, images: Images, predicted: int | str = ""
) -> None:
    """All steps of this rank, and their rows. predicted: bytes of memory, where that was done."""
    model = build_model(args, timeline)
    batch_rank = batch_split(args.batch_size, RANKS)[RANK]
    learner = Learner(
        model,
        torch.optim.SGD(model.parameters(), lr=LEARNING_RATE),
        # Without DDP nothing averages over ranks: the loss is the mean over the rank's own images.
        RANKS / args.batch_size if args.mode == "ddp" else 1 / batch_rank,
        args.micro_batches,
    )
    times = run_steps(args, learner, load_batches(args, images, timeline.device), timeline)
    columns = describe_run(args, images) | timeline.device.memory()
    columns |= {"images": batch_rank, "predicted_memory_bytes": predicted}
    rows = []
    own = [(number, turn) for number, turn in enumerate(list_turns(args)) if turn.is_mine]
    for (step, turn), step_times in zip(own, times, strict=True):
        settings = {"step": step, "warmup": int(step < args.warmup)}
        settings |= {"mode": turn.mode, "cycle": turn.cycle}
        rows.append(columns | settings | step_times)
    write_rows(rows, args.output)


# ---- rows


def describe_run(args: argparse.Namespace, images: Images) -> dict[str, Any]:
    """The columns that are the same in all rows of this rank: under which settings it ran."""
    settings = {}
    for name, value in vars(args).items():
        settings[name] = int(value) if isinstance(value, bool) else value
    # What differs from the defaults and has no column of its own goes into the column options.
    defaults = vars(parse_arguments([]))
    options = []
    for name, value in settings.items():
        if name not in [*COLUMNS, *NOT_OPTIONS] and value != defaults.get(name):
            options.append(f"{name}={value}")
    if RANKS > LOCAL_RANKS:
        options.append(f"nodes={RANKS // LOCAL_RANKS}")
    columns = {name: value for name, value in settings.items() if name in COLUMNS}
    # The file's name has the number of the run: times_run3.csv.
    number = re.search(r"\d+$", args.output.stem)
    return columns | {
        "run_id": number[0] if number else 1,
        "num_devices": RANKS * max(1, settings.get("threads", 1)),
        "rank": RANK,
        "node": NODE,
        "threads": torch.get_num_threads(),
        "dataset": images.label,
        "memory": memory_setting(),
        "cpu_share": os.environ.get("CPU_SHARE", ""),
        "options": ";".join([*options, *args.note.split()]),
    }


def memory_setting() -> str:
    """What malloc does with freed memory, as the environment has it: glibc; kept (glibc that never
    returns it to the kernel); or another allocator; then the settings that change it."""
    loaded = Path("/proc/self/maps").read_text()
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    names = [name for name in ("tcmalloc", "jemalloc", "mimalloc") if name in loaded]
    words = [[*names, "kept" if "mmap_max=0" in tunables else "glibc"][0]]
    if "hugetlb=1" in tunables:
        words.append("hugetlb=1")
    for variable in ("MALLOC_CONF", "MIMALLOC_ALLOW_DECOMMIT", "THP_MEM_ALLOC_ENABLE"):
        if os.environ.get(variable):
            words.append(f"{variable}={os.environ[variable]}")
    return " ".join(words)


def write_rows(rows: list[dict[str, Any]], path: Path) -> None:
    """Gather all ranks' rows at rank 0, which writes them."""
    gathered = [None] * RANKS if RANK == 0 else None
    dist.gather_object(rows, gathered)
    if gathered is None:
        return
    rows = list(itertools.chain(*gathered))
    part = path.with_name(path.name + ".tmp")
    with part.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    # Renamed when it is whole: a file of this name is always complete.
    part.replace(path)
    print("\n".join(result_lines(rows)))
    print(f"{len(rows)} rows are in {path}")


def result_lines(rows: list[dict[str, Any]]) -> list[str]:
    """The measured steps of a run in two lines: its rate, and where the time of a step goes."""
    # Of a run in cycles, its data-parallel steps.
    timed = [row for row in rows if not row["warmup"] and row["mode"] in MODES]
    by_step = collections.defaultdict(list)
    for row in timed:
        by_step[row["step"]].append(row["step_time"])
    seconds = sum(map(max, by_step.values()))
    rate, devices = sum(row["images"] for row in timed) / seconds, rows[0]["num_devices"]
    whole = sum(row["step_time"] for row in timed)
    parts = []
    for name in PARTS:
        share = 100 * sum(row[f"{name}_time"] for row in timed) / whole
        parts.append(f"{name} {share:.1f} %")
    return [
        f"{rate:.2f} img/s, {rate / devices:.2f} on each of {devices}, in {len(by_step)} steps",
        f"a step takes {1000 * seconds / len(by_step):.0f} ms: {', '.join(parts)}",
    ]


# ---- plumbing


def at_least(smallest: int) -> Callable[[str], int]:
    """An argument type: integers from smallest on."""

    def integer(text: str) -> int:
        if not text.isdecimal() or int(text) < smallest:
            raise argparse.ArgumentTypeError(f"expected an integer >= {smallest}, got {text!r}")
        return int(text)

    return integer


def network(text: str) -> str:
    """An argument type: networks of torchvision that classify images."""
    known = torchvision.models.list_models(module=torchvision.models)
    if text not in known:
        close = difflib.get_close_matches(text, known, n=1) or ["resnet18, say"]
        raise argparse.ArgumentTypeError(
            f"torchvision has no network {text!r}: did you mean {close[0]}?"
        )
    return text


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong with the arguments in one line, once, not at each rank."""

    def __init__(self) -> None:
        super().__init__(
            description=__doc__.split("\n\n")[0],
            allow_abbrev=False,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )

    def error(self, message: str) -> None:
        if RANK == 0:
            print(f"error: {message} (--help lists the options)", file=sys.stderr)
        sys.exit(2)


def join_ranks(backend: str, timeout: int) -> None:
    """Connect the ranks; a single rank needs no network for that."""
    single = {"store": dist.HashStore(), "rank": 0, "world_size": 1}
    if "TORCHELASTIC_RUN_ID" in os.environ:
        die_with_parent()
        single = {}
    dist.init_process_group(backend, timeout=timedelta(seconds=timeout), **single)


def die_with_parent(*_: Any) -> None:
    """Have the kernel end this process when its parent ends."""
    # torchrun starts its ranks in new sessions and, killed, leaves them running.
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # 1 is PR_SET_PDEATHSIG


def granted_cores() -> list[int]:
    """One logical CPU of each physical core that this process may use, within the CPU quota."""
    cores = {}
    for cpu in sorted(os.sched_getaffinity(0)):
        # Two SMT siblings share a core's units: only the first of them counts as a device.
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        cores.setdefault(siblings.read_text() if siblings.is_file() else cpu, cpu)
    return list(cores.values())[: max(1, int(min(cpu_quota(), len(cores))))]


def cpu_quota() -> float:
    """Cores that the control group (version 2 or 1) lets this process keep busy, or infinity."""
    for files in (["cpu.max"], ["cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"]):
        with contextlib.suppress(OSError, ValueError):
            texts = [Path("/sys/fs/cgroup", name).read_text() for name in files]
            quota, period = map(float, " ".join(texts).split())
            # Version 1 writes -1 for no limit; version 2 "max", which is no number.
            return quota / period if quota > 0 else float("inf")
    return float("inf")


def describe(args: argparse.Namespace) -> dict[str, Any]:
    """What this script knows of what identifies a measurement; sweep.py adds the rest."""
    images = Images(args.data, args.image_size, args.seed, args.loader)
    return machine(args) | {
        "cores_granted": len(granted_cores()),
        "cpu_quota": str(cpu_quota()),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "dataset": images.label,
        "dataset_images": len(images.samples),
        "image_size": args.image_size,
        "seed": args.seed,
        "lr": LEARNING_RATE,
    }


def run_error(error: Exception, args: argparse.Namespace) -> str:
    """What to say of an error that a user can do something about; others are raised again."""
    who = f"rank {RANK} on node {NODE}"
    if isinstance(error, RunError):
        # From a loader's process it comes at the end of a traceback.
        return str(error).split("RunError: ")[-1].strip()
    if isinstance(error, OSError):
        return f"{error.filename or args.output}: {error.strerror}"
    if "imed out" in str(error) or "timeout" in str(error):
        return f"{who} waited {args.timeout} s for another rank (--timeout): hung, or cut off?"
    if "shared memory" in str(error):
        return "the loader's processes ran out of /dev/shm: enlarge it (docker run --shm-size=2g)"
    if "peer" in str(error):
        return f"{who} lost another rank, see what that one said"
    raise error


def main() -> None:
    args = parse_arguments()
    try:
        if args.describe:
            print(json.dumps(describe(args), indent=2))
        else:
            measure(args)
    except (RunError, OSError, RuntimeError) as error:
        message = run_error(error, args)
        # Before the ranks are connected all of them meet the same error: one says it.
        if RANK == 0 or dist.is_initialized() or message.startswith("rank "):
            print(f"error: {message}", file=sys.stderr)
        sys.exit(1)


# ---- shared: end of the block


if __name__ == "__main__":
    main()
