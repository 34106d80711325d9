"""One measured run of data-parallel training on CPU cores.

Trains DenseNet121 on Imagenette for a few steps, one rank a physical core (gloo, one thread,
pinned), and writes one CSV row a rank a step: where the time of the step went, in parts that add
up to it. The total batch is split exactly over the ranks.

    python -m torch.distributed.run --standalone --nproc-per-node 4 project_ex_1.py \\
        --batch-size 32 --run-id 1 --output times_run1.csv
    python project_ex_1.py --batch-size 32            # one rank needs no launcher

The parts of a step, in order: loading, forward, backward (until the last gradient is ready),
communication (what is exposed of the all-reduce after that: waiting for slower ranks, then
transfer), optimizer. Batch-norm takes the statistics of a rank's own images, as DDP does; apart
from that a step computes the same at every number of ranks.
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
import resource
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
import torchvision
from PIL import Image
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import (
    allreduce_hook,
    bf16_compress_hook,
)
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

HERE = Path(__file__).resolve().parent
RANK = int(os.environ.get("RANK", 0))  # torchrun's names; without a launcher there is one rank
RANKS = int(os.environ.get("WORLD_SIZE", 1))
LOCAL_RANK = int(os.environ.get("LOCAL_RANK", 0))
LOCAL_RANKS = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
NODE = int(os.environ.get("GROUP_RANK", 0))
NODES = RANKS // LOCAL_RANKS
# Settings that a sweep keeps equal within a results folder; the others are in the rows' key.
IDENTITY_SETTINGS = ["image_size", "seed", "lr"]


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong with the arguments in one line, once, not with the usage at each rank."""

    def error(self, message: str) -> None:
        if RANK == 0:
            print(f"error: {message} (--help lists the options)", file=sys.stderr)
        sys.exit(2)


def at_least(smallest: int) -> Callable[[str], int]:
    """An argument type: the whole numbers from smallest on."""

    def whole_number(text: str) -> int:
        if not text.isdecimal() or int(text) < smallest:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {smallest} on")
        return int(text)

    return whole_number


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    found = sorted((HERE.parent / "data").glob("imagenette2*/"))
    parser = OneLineParser(
        description=__doc__.split("\n\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--batch-size", type=at_least(1), default=32, help="images a step, all ranks together")
    add("--run-id", type=at_least(1), default=1, help="number of the run, a column of its rows")
    add("--data", type=Path, default=found[0] if found else HERE.parent / "data" / "imagenette2",
        help="folder that holds train/<class>/*.JPEG")  # fmt: skip
    add("--output", type=Path, default=Path("times_run1.csv"), help="CSV file to write")
    add("--steps", type=at_least(1), default=3, help="measured steps, after the warm-up")
    add("--warmup", type=at_least(0), default=2, help="first steps, kept but marked warmup=1")
    add("--seed", type=at_least(0), default=0, help="of weights, image order and augmentation")
    add("--image-size", type=at_least(32), default=224, help="pixels a side, after the crop")
    add("--lr", type=float, default=0.001, help="learning rate of SGD")
    add("--threads", type=at_least(0), default=1,
        help="threads, and pinned cores, a rank; 0: as the launcher leaves them, not pinned")
    add("--precision", choices=["fp32", "bf16"], default="fp32", help="bf16: by autocast")
    add("--channels-last", action="store_true", help="NHWC memory format instead of NCHW")
    add("--loader", choices=["tensor", "pil"], default="tensor",
        help="decoding and augmentation by torchvision.io on uint8, or by PIL as in the original")
    add("--workers", type=at_least(0), default=0, help="loader processes a rank, on its own core")
    add("--bucket-cap-mb", type=at_least(1), default=None,
        help="size of DDP's gradient buckets in MB; None: DDP's own, a first one of 1 and then 25")
    add("--ddp", nargs="+", default=[], metavar="SETTING",
        choices=["bucket-view", "static-graph", "bf16-gradients"],
        help="of DDP: gradients are views of the buckets; the graph never changes; gradients "
        "travel as bf16")
    add("--tune", nargs="+", default=[], metavar="SETTING",
        choices=["keep-memory", "foreach", "fused", "compile"],
        help="of the process: freed memory is kept, not faulted in anew; how SGD loops over the "
        "parameters; torch.compile the model (needs a C++ compiler and minutes of warm-up)")
    add("--timeout", type=at_least(1), default=600,
        help="seconds that a rank waits for another before the run ends")
    add("--note", default="", help="k=v for the rows' options, like network=1gbit; changes nothing")
    add("--scaling", choices=["strong", "weak"], default="strong",
        help="which series the run belongs to; goes to the rows and changes nothing")
    add("--no-communication", action="store_true",
        help="ranks that do not talk: the same step without DDP, an upper bound")
    add("--single-process", action="store_true",
        help="one process without DDP, with --threads threads: what data parallelism must beat")
    add("--oversubscribe", action="store_true",
        help="allow more threads than physical cores; the rows say so")
    add("--describe", action="store_true",
        help="print what identifies this machine and this code as JSON, and measure nothing")
    args = parser.parse_args(arguments)
    if args.single_process and (RANKS > 1 or args.no_communication):
        parser.error("--single-process is one process: start it without torchrun")
    return args


def granted_cores() -> list[int]:
    """One logical CPU of each physical core that this process may use, within the CPU quota."""
    cores = {}
    for cpu in sorted(os.sched_getaffinity(0)):
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        cores.setdefault(siblings.read_text() if siblings.is_file() else cpu, cpu)
    return list(cores.values())[: max(1, int(min(cpu_quota(), len(cores))))]


def cpu_quota() -> float:
    """Cores that the control group (version 2 or 1) lets this process keep busy, or infinity."""
    root = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError, ValueError):
        quota, period = (root / "cpu.max").read_text().split()
        return float(quota) / float(period)
    with contextlib.suppress(OSError, ValueError):
        quota, period = ((root / f"cpu/cpu.cfs_{n}_us").read_text() for n in ("quota", "period"))
        return float(quota) / float(period) if float(quota) > 0 else float("inf")
    return float("inf")


def take_cores(args: argparse.Namespace) -> None:
    """Pin this rank and all its threads to cores of its own."""
    if args.threads == 0:
        return
    cores, needed = granted_cores(), LOCAL_RANKS * args.threads
    if needed > len(cores) and not args.oversubscribe:
        raise RunError(
            f"{LOCAL_RANKS} ranks of {args.threads} threads need {needed} physical cores, "
            f"{len(cores)} are granted here: use fewer, or --oversubscribe"
        )
    first = LOCAL_RANK * args.threads
    own = {cores[i % len(cores)] for i in range(first, first + args.threads)}
    for thread in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(thread), own)
    torch.set_num_threads(args.threads)


def describe(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """What identifies a measurement (results of two identities never mix), and what is recorded."""
    model = [line for line in Path("/proc/cpuinfo").open() if line.startswith("model name")]
    smt = Path("/sys/devices/system/cpu/smt/active")
    block = Path(__file__).read_text().split("# ---- shared")[1]
    images = Images(args.data, args.image_size, args.seed, args.loader)
    git = ["git", "-C", str(HERE), "describe", "--always", "--dirty", "--abbrev=40"]
    return {
        "identity": {
            "cpu_model": model[0].split(":")[1].strip() if model else platform.machine(),
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "cores_granted": len(granted_cores()),
            "smt": bool(int(smt.read_text())) if smt.is_file() else False,
            "cpu_quota": None if cpu_quota() == float("inf") else cpu_quota(),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "shared_block": hashlib.sha256(block.encode()).hexdigest(),
            "dataset": images.label,
            "dataset_images": len(images.samples),
            **{name: getattr(args, name) for name in IDENTITY_SETTINGS},
        },
        "recorded": {
            "commit": subprocess.run(git, capture_output=True, text=True).stdout.strip(),
            "date": datetime.now().astimezone().isoformat(timespec="seconds"),
            "python": platform.python_version(),
            "kernel": platform.release(),
            "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
            "load_average": os.getloadavg(),
            "steps": args.steps,
            "warmup": args.warmup,
        },
    }


def join_ranks(patience: timedelta) -> None:
    """Connect the ranks over gloo; a single rank needs no network for that."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        dist.init_process_group("gloo", timeout=patience)
    else:
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)


def name_silent(waited: int) -> str:
    """After a wait in vain: which ranks do not answer; those that do leave word in the store."""
    patience = min(10, waited)
    try:
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = dist.TCPStore(address, port, timeout=timedelta(seconds=patience))
        store.set(f"rank {RANK} waited in vain", "")
        time.sleep(patience)
        silent = [r for r in range(RANKS) if not store.check([f"rank {r} waited in vain"])]
    except RuntimeError:
        silent = [0]  # torchrun keeps the store on its node
    ranks = ", ".join(f"rank {rank} on node {rank // LOCAL_RANKS}" for rank in silent)
    if not ranks:
        return f"the ranks waited {waited} s for each other (--timeout): too slow?"
    return f"no word from {ranks} for {waited} s (--timeout): hung, or cut off?"


def cpu_device(args: argparse.Namespace) -> Device:
    """How a CPU keeps time (it is done when the host is) and computes."""
    return Device(
        device=torch.device("cpu"),
        mark=time.perf_counter,
        seconds=lambda earlier, later: later - earlier,
        wait=lambda: None,
        autocast=functools.partial(
            torch.autocast, "cpu", dtype=torch.bfloat16, enabled=args.precision == "bf16"
        ),
        memory_format=torch.channels_last if args.channels_last else torch.contiguous_format,
        peak_memory=lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )


def load_batches(images: Images, args: argparse.Namespace) -> torch.utils.data.DataLoader:
    """The rank's batches of all steps, in order."""
    steps = args.warmup + args.steps
    size = len(images.samples)
    keys = rank_batches(RANK, RANKS, args.batch_size, size, steps, args.seed)
    return torch.utils.data.DataLoader(
        images, batch_sampler=keys, num_workers=args.workers, worker_init_fn=die_with_parent
    )


def keep_freed_memory() -> None:
    """Have malloc reuse what was freed: by default glibc returns large blocks to the kernel, which
    then zeroes a fresh page for each first touch, in every step anew."""
    trim_threshold, mmap_max = -1, -4  # glibc's M_TRIM_THRESHOLD and M_MMAP_MAX
    libc = ctypes.CDLL(None)
    if not (libc.mallopt(mmap_max, 0) and libc.mallopt(trim_threshold, 2**31 - 1)):
        raise RunError("malloc refuses --tune keep-memory: not glibc?")


def build_optimizer(args: argparse.Namespace, model: torch.nn.Module) -> torch.optim.Optimizer:
    loops = {name: True for name in ("foreach", "fused") if name in args.tune}
    return torch.optim.SGD(model.parameters(), lr=args.lr, **loops)


def build_model(args: argparse.Namespace, device: Device, timeline: Timeline) -> torch.nn.Module:
    """DenseNet121 with a head for 10 classes, the same weights on each rank; in DDP if it talks."""
    torch.manual_seed(args.seed)
    model = torchvision.models.densenet121(num_classes=10)
    model = model.to(device.device, memory_format=device.memory_format)
    if "compile" in args.tune:
        model = torch.compile(model)
    if args.no_communication or args.single_process:
        return model
    # DDP's broadcast of batch-norm buffers would wait for rank 0 within the forward pass. The
    # argument has a newer name from torch 2.13 on and works under the old one, with a warning.
    warnings.filterwarnings("ignore", message=".*broadcast_buffers.*")
    model = DistributedDataParallel(
        model, broadcast_buffers=False, bucket_cap_mb=args.bucket_cap_mb,
        gradient_as_bucket_view="bucket-view" in args.ddp, static_graph="static-graph" in args.ddp,
    )  # fmt: skip
    reduce = bf16_compress_hook if "bf16-gradients" in args.ddp else allreduce_hook
    model.register_comm_hook((timeline, reduce), noting_hook)
    return model


def make_rows(args: argparse.Namespace, images: Images, times: list[dict], memory: int) -> list:
    """The rows of this rank: what was measured in each step, and under which settings."""
    defaults = vars(parse_arguments([]))
    options = {name: getattr(args, name) for name in IDENTITY_SETTINGS}
    options = {name: value for name, value in options.items() if value != defaults[name]}
    options |= {"oversubscribe": 1} if args.oversubscribe else {}
    options |= {"pinned": 0} if args.threads == 0 else {}
    lists = {"ddp": args.ddp, "tune": args.tune}
    options |= {name: "+".join(words) for name, words in lists.items() if words}
    options |= {"nodes": NODES} if NODES > 1 else {}
    modes = {args.no_communication: "no_communication", args.single_process: "single_process"}
    settings = {
        "run_id": args.run_id,
        "num_devices": RANKS * max(1, args.threads),
        "batch_size": args.batch_size,
        "rank": RANK,
        "images": batch_split(args.batch_size, RANKS)[RANK],
        "mode": modes.get(True, "ddp"),
        "scaling": args.scaling,
        "threads": torch.get_num_threads(),
        "precision": args.precision,
        "channels_last": int(args.channels_last),
        "loader": args.loader,
        "workers": args.workers,
        "bucket_cap_mb": args.bucket_cap_mb,
        "micro_batches": 1,
        "node": NODE,
        "dataset": images.label,
        "peak_memory_bytes": memory,
        "options": ";".join([*(f"{k}={v}" for k, v in options.items()), *args.note.split()]),
    }
    return [
        {**settings, "step": step, "warmup": int(step < args.warmup), **step_times}
        for step, step_times in enumerate(times)
    ]


def measure(args: argparse.Namespace) -> None:
    """The run: prepare, train, write the rows. A sweep is told what passed before the steps."""
    uptime = Path("/proc/uptime").read_text  # by this clock the sweep tells the rank's beginning
    moments = [uptime()]
    if "TORCHELASTIC_RUN_ID" in os.environ:
        die_with_parent()
    batch_split(args.batch_size, RANKS)
    take_cores(args)
    if "keep-memory" in args.tune:
        keep_freed_memory()
    images = Images(args.data, args.image_size, args.seed, args.loader)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    moments.append(uptime())
    join_ranks(timedelta(seconds=args.timeout))
    moments.append(uptime())
    device = cpu_device(args)
    timeline = Timeline(device)
    model = build_model(args, device, timeline)
    talks = isinstance(model, DistributedDataParallel)
    own_images = batch_split(args.batch_size, RANKS)[RANK]
    moments.append(uptime())
    times = run_steps(
        args.warmup + args.steps,
        load_batches(images, args),
        timeline,
        model=model,
        optimizer=build_optimizer(args, model),
        loss_scale=RANKS / args.batch_size if talks else 1 / own_images,
        micro_batches=1,
    )
    rows = write_rows(make_rows(args, images, times, device.peak_memory()), args.output)
    if rows:
        print_rate(rows, args)
        if "RANK_BEGAN" in os.environ:
            print("moments:", os.environ["RANK_BEGAN"], *(m.split()[0] for m in moments))
    dist.destroy_process_group()


def print_rate(rows: list[dict[str, Any]], args: argparse.Namespace) -> None:
    """One line for whoever watches; the statistics are plot_cpu_results.py's."""
    seconds, timed = [0.0] * RANKS, [0.0] * RANKS
    for row in rows:
        seconds[row["rank"]] += row["step_time"]
        timed[row["rank"]] += row["step_time"] * (not row["warmup"])
    rate = args.batch_size * args.steps / max(timed)
    print(f"run {args.run_id}: {rate:.2f} img/s, {max(seconds):.1f} s in steps -> {args.output}")


def main() -> None:
    args = parse_arguments()
    try:
        if args.describe:
            print(json.dumps(describe(args), indent=2))
        else:
            measure(args)
    except RunError as error:
        # From a loader's process the message comes at the end of a traceback.
        if RANK == 0 or dist.is_initialized():
            print(f"error: {str(error).split('RunError: ')[-1].strip()}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        print(f"error: {error.filename or args.output}: {error.strerror}", file=sys.stderr)
        sys.exit(1)
    except RuntimeError as error:
        if "imed out" in str(error):
            print(f"error: {name_silent(args.timeout)}", file=sys.stderr)
        elif "peer" in str(error):
            print(f"error: rank {RANK} lost another rank, see what that one said", file=sys.stderr)
        else:
            raise
        sys.exit(1)


if __name__ == "__main__":
    main()
