"""One measured run of data-parallel training on GPUs.

Trains DenseNet121 on Imagenette for a few steps, one rank per GPU (nccl), and writes one CSV row
per rank and step: where the GPU's time went, by CUDA events, in parts that add up to the step. The
total batch is split exactly over the ranks.

    python -m torch.distributed.run --standalone --nproc-per-node 2 project_ex_2.py \\
        --batch-size 64 --run-id 1 --output times_run1.csv
    python project_ex_2.py --batch-size 64            # one GPU needs no launcher

A run knows whether its batch fits before it starts (predict_memory.py): see --on-oom. The outline
of the file: arguments, measure, parts of a step, plumbing.
"""

import argparse
import contextlib
import csv
import ctypes
import inspect
import itertools
import json
import os
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
from predict_memory import fit_batch, give_up, limit_memory
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torchvision import transforms
from torchvision.transforms import v2


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser, cores = OneLineParser(), len(os.sched_getaffinity(0))
    add = parser.add_argument
    add("--steps", type=at_least(1), default=20, help="measured steps, after the warm-up")
    add("--warmup", type=at_least(0), default=5, help="first steps, kept but marked warmup=1")
    add("--precision", choices=["fp32", "tf32", "bf16"], default="fp32", help="bf16: by autocast")
    add("--workers", type=at_least(0), default=max(1, min(8, cores // LOCAL_RANKS - 1)),
        help="loader processes per rank, which prefetch; 0: the original's serial loading")
    add("--on-oom", choices=["skip", "accumulate", "checkpoint"], default="skip",
        help="a batch that does not fit: leave it, run it in micro-batches, or recompute")
    add("--memory-limit", type=float, default=None, help="GiB of a smaller card to re-create")
    add("--device", choices=["cuda", "cpu"], default="cuda", help="cpu: only to test the program")
    add("--share-gpu", action="store_true", help="several ranks on one GPU, over gloo: for tests")
    return parser.parse_args(arguments)


def measure(args: argparse.Namespace) -> None:
    """The run: see that it fits, connect the ranks, train, write the rows."""
    batch_split(args.batch_size, RANKS * args.micro_batches)  # each has an image, or it is an error
    timeline = Timeline(build_device(args))
    images = Images(args.data, args.image_size, args.seed, args.loader)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    own_gpus = args.device == "cuda" and not args.share_gpu
    join_ranks("cpu:gloo,cuda:nccl" if own_gpus else "gloo", args.timeout)  # gloo gathers the rows
    available = limit_memory(args)
    predicted = fit_batch(args, RANKS, available)
    try:
        train(args, timeline, images, predicted_memory_bytes=predicted)
    except torch.OutOfMemoryError:
        give_up(args, predicted, available, f"out of memory in step {len(timeline.reductions) - 1}")
    dist.destroy_process_group()


def build_device(args: argparse.Namespace) -> "Device":
    """How a GPU keeps time: events on its stream, so that the host can run ahead. Refuses what
    cannot work, with the reason that the driver gives."""
    plain = Device(
        device=torch.device("cpu"), mark=time.perf_counter, wait=lambda: None, begin=lambda: None,
        seconds=lambda earlier, later: later - earlier, memory=dict,
        autocast=lambda: torch.autocast(args.device, torch.bfloat16, args.precision == "bf16"),
        memory_format=torch.channels_last if args.channels_last else torch.contiguous_format,
        loading={"prefetch_factor": 4 if args.workers else None},
    )
    if args.device == "cpu":
        return plain
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:  # none, no driver, or one that is too old
        reason = str(error).splitlines()[0].rstrip(".")
        raise RunError(f"no GPU is available ({reason}): --device cpu tests the program") from None
    gpus = torch.cuda.device_count()
    if LOCAL_RANKS > gpus and not args.share_gpu:
        raise RunError(f"{LOCAL_RANKS} ranks need {LOCAL_RANKS} GPUs, {gpus} are here: use fewer")
    torch.cuda.set_device(LOCAL_RANK % gpus)
    for backend in (torch.backends.cuda.matmul, torch.backends.cudnn):
        backend.allow_tf32 = args.precision == "tf32"

    def mark() -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    return plain._replace(
        device=torch.device("cuda", torch.cuda.current_device()), mark=mark,
        seconds=lambda earlier, later: earlier.elapsed_time(later) / 1000,
        wait=torch.cuda.synchronize, loading={**plain.loading, "pin_memory": True},
        memory=lambda: {"peak_memory_bytes": torch.cuda.max_memory_allocated(),
                        "reserved_memory_bytes": torch.cuda.max_memory_reserved()},
    )


def machine(args: argparse.Namespace) -> dict[str, Any]:
    """What identifies the devices."""
    if args.device == "cpu":
        return {"devices_granted": len(granted_cores()), "gpu_model": "none (CPU, for a test)"}
    build_device(args)
    gpu = torch.cuda.get_device_properties(0)
    return {"devices_granted": torch.cuda.device_count(), "gpu_model": gpu.name,
            "gpu_memory_bytes": gpu.total_memory, "cuda": torch.version.cuda}


# ---- shared: this block is byte for byte the same in cpu/project_ex_1.py and gpu/project_ex_2.py
HERE = Path(__file__).resolve().parent
RANK = int(os.environ.get("RANK", 0))  # torchrun's names; without a launcher there is one rank
RANKS = int(os.environ.get("WORLD_SIZE", 1))
LOCAL_RANK = int(os.environ.get("LOCAL_RANK", 0))
LOCAL_RANKS = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
NODE = int(os.environ.get("GROUP_RANK", 0))
PARTS = ["loading", "forward", "backward", "communication", "optimizer"]
COLUMNS = (
    "run_id num_devices batch_size loading_time compute_time rank "  # the original study's six
    "step warmup images forward_time backward_time communication_time optimizer_time step_time "
    "ddp_time started_at user_time system_time minor_faults communication_user_time "
    "communication_system_time communication_minor_faults mode model threads precision "
    "channels_last memory loader workers bucket_cap_mb micro_batches cpu_share node dataset "
    "peak_memory_bytes reserved_memory_bytes predicted_memory_bytes options"
).split()
NOT_OPTIONS = ["data", "output", "note", "timeout", "describe", "steps", "warmup", "on_oom"]
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # of ImageNet, as everybody uses them


class RunError(Exception):
    """A run that cannot go on for a reason that its user can remove: one line, no traceback."""


class Device(NamedTuple):
    """All in which devices differ, as values: nothing in this block asks which one it is on."""
    device: torch.device
    mark: Callable[[], Any]  # notes a point in the device's time, without stalling the device
    seconds: Callable[[Any, Any], float]  # what lay between two marks, once the device is done
    wait: Callable[[], None]  # returns when the device is done
    begin: Callable[[], None]  # called when the warm-up is over
    autocast: Callable[[], contextlib.AbstractContextManager]
    memory_format: torch.memory_format
    memory: Callable[[], dict[str, int]]  # columns on memory, in bytes
    loading: dict[str, Any]  # further arguments of DataLoader


def batch_split(batch_total: int, ranks: int) -> list[int]:
    """Images of a step for each rank: they sum to batch_total and differ by one at most."""
    if batch_total < ranks:
        raise RunError(f"a batch of {batch_total} is too small for {ranks} ranks or micro-batches")
    return [batch_total // ranks + (rank < batch_total % ranks) for rank in range(ranks)]


def rank_batches(
    rank: int, ranks: int, batch_total: int, dataset_size: int, steps: int, seed: int
) -> list[list[tuple[int, int]]]:
    """For each step the (step, image) keys of one rank: its part of the step's batch_total images,
    which are the same at every number of ranks."""
    epochs = range(1 + steps * batch_total // dataset_size)
    orders = [np.random.default_rng((seed, epoch)).permutation(dataset_size) for epoch in epochs]
    steps_images = np.concatenate(orders)[: steps * batch_total].reshape(steps, batch_total)
    borders = np.cumsum(batch_split(batch_total, ranks))[:-1]
    part = np.split(steps_images, borders, axis=1)[rank].tolist()
    return [[(step, image) for image in images] for step, images in enumerate(part)]


class Images(torch.utils.data.Dataset):
    """The training images; a (step, image) key gives that image as that step augments it. Seeded by
    (seed, step, image), the augmentation is the same on any rank and in any worker. Items: image
    [3, size, size], uint8 (tensor loader) or normalised float32 (PIL loader); label."""
    def __init__(self, data: Path, size: int, seed: int, loader: str) -> None:
        try:
            self.samples = torchvision.datasets.ImageFolder(str(data / "train")).samples
        except OSError as error:  # no class folder, or one without an image: the message names it
            reason = str(error).split(" Supported")[0]
            raise RunError(f"{data}: {reason}: run 'python data/prepare_imagenette.py'") from None
        label = data / "label.txt"  # from data/prepare_imagenette.py: what exactly this is
        self.label, self.seed = label.read_text().strip() if label.is_file() else data.name, seed
        crop = [v2.PILToTensor(), v2.RandomResizedCrop(size), v2.RandomHorizontalFlip()]
        if loader == "pil":
            crop = [transforms.RandomResizedCrop(size), transforms.RandomHorizontalFlip(),
                    transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
        self.transform = transforms.Compose(crop)

    def __getitem__(self, key: tuple[int, int]) -> tuple[torch.Tensor, int]:
        path, label = self.samples[key[1]]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(np.random.SeedSequence((self.seed, *key)).generate_state(1)[0]))
            try:
                with Image.open(path) as image:
                    return self.transform(image.convert("RGB")), label
            except (OSError, RuntimeError, ValueError) as error:
                reason = str(error).splitlines()[0]
                raise RunError(f"cannot decode {path} ({reason}): replace or remove it") from None


def load_batches(args: argparse.Namespace, images: Images, device: Device) -> Iterable:
    """The rank's batches of all steps, in order: images [b, 3, size, size] and labels [b]."""
    steps, size = args.warmup + args.steps, len(images.samples)
    keys = rank_batches(RANK, RANKS, args.batch_size, size, steps, args.seed)
    return torch.utils.data.DataLoader(images, batch_sampler=keys, num_workers=args.workers,
                                       worker_init_fn=die_with_parent, **device.loading)


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
        self.device, self.points = device, []
        self.reductions = [[]]  # for each step, when each all-reduce was complete

    def note(self, part: str) -> None:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        kernel = np.array([usage.ru_utime, usage.ru_stime, usage.ru_minflt])
        self.points.append((part, self.device.mark(), kernel))
        if part == PARTS[-1]:
            self.reductions.append([])

    def note_reduction(self, future: torch.futures.Future) -> torch.Tensor:
        self.reductions[-1].append(self.device.mark())
        return future.value()

    def step_times(self) -> list[dict[str, float]]:
        """For each step: seconds of its parts and of the whole, when it started, what the kernel
        did, and ddp_time: the part of communication after the last all-reduce was complete."""
        steps, started_at, spent = [], 0.0, {part: np.zeros(4) for part in PARTS}
        for (_, before, used_before), (part, point, used) in itertools.pairwise(self.points):
            spent[part] += [self.device.seconds(before, point), *(used - used_before)]
            if part == "communication":
                communicated = point
            if part != PARTS[-1]:
                continue
            after = (self.device.seconds(r, communicated) for r in self.reductions[len(steps)])
            step = {"started_at": started_at, "ddp_time": min(after, default=0.0)}
            step |= {f"{name}_time": float(own[0]) for name, own in spent.items()}
            step["step_time"] = sum(step[f"{name}_time"] for name in PARTS)
            step["compute_time"] = step["step_time"] - step["loading_time"]
            for prefix, own in (("", sum(spent.values())), ("communication_", spent[PARTS[3]])):
                names = (prefix + name for name in ("user_time", "system_time", "minor_faults"))
                step |= dict(zip(names, own[1:].tolist(), strict=True))
            steps.append(step)
            started_at, spent = started_at + step["step_time"], {p: np.zeros(4) for p in PARTS}
        return steps


def noting_hook(
    state: tuple[Timeline, Callable], bucket: dist.GradBucket
) -> torch.futures.Future[torch.Tensor]:
    """DDP communication hook: note that a bucket is ready, reduce it, note that this is done."""
    timeline, reduce_bucket = state
    timeline.note("backward")
    return reduce_bucket(None, bucket).then(timeline.note_reduction)


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
        reduces = number == micro_batches or not isinstance(model, DistributedDataParallel)
        with contextlib.nullcontext() if reduces else model.no_sync():
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


def run_steps(
    steps: int, warmup: int, batches: Iterable, timeline: Timeline, **step: Any
) -> list[dict[str, float]]:
    """All steps of this rank after one barrier; from then on the ranks run freely, as in training.
    Returns each step's times in seconds; raises RunError if they miss the host's clock."""
    device, batches = timeline.device, iter(batches)
    dist.barrier()
    device.wait()
    timeline.note("start")
    barrier_left = time.monotonic()
    for number in range(steps):
        if number == warmup:
            device.begin()
        train_step(batch=next(batches), timeline=timeline, **step)
        timeline.note("optimizer")  # here, so that the step's tensors are released within it
    device.wait()
    clock = time.monotonic() - barrier_left
    times = timeline.step_times()
    total = sum(step["step_time"] for step in times)
    if abs(total - clock) > 0.005 * clock + 0.005:  # a tick of the scheduler may lie between them
        raise RunError(f"the steps add up to {total:.4f} s, but the clock says {clock:.4f} s")
    return times


def build_model(args: argparse.Namespace, timeline: Timeline) -> torch.nn.Module:
    """A torchvision network with a head for 10 classes; in DDP if the ranks communicate. The
    weights are made on the CPU, so that they are the same on each rank and on every device."""
    torch.manual_seed(args.seed)
    device, settings = timeline.device, {"memory_efficient": True} if args.checkpoint else {}
    model = torchvision.models.get_model(args.model, num_classes=10, **settings)
    model = model.to(device.device, memory_format=device.memory_format)
    model = torch.compile(model) if args.compile else model
    if args.mode != "ddp":
        return model
    # DDP's broadcast of batch-norm buffers would wait for rank 0 within the forward pass. Its
    # argument has another name from torch 2.13 on.
    known = inspect.signature(DistributedDataParallel).parameters
    sync = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    settings = {sync: False} | ({"batched_grad_copy": True} if args.batched_grad_copy else {})
    model = DistributedDataParallel(model, bucket_cap_mb=args.bucket_cap_mb, **settings)
    hook = "bf16_compress_hook" if args.gradients == "bf16" else "allreduce_hook"
    reduce = getattr(default_hooks, hook)
    model.register_comm_hook((timeline, reduce), noting_hook)
    return model


def train(args: argparse.Namespace, timeline: Timeline, images: Images, **columns: Any) -> None:
    """All steps of this rank, and their rows: what was measured, and under which settings."""
    model, batch_rank = build_model(args, timeline), batch_split(args.batch_size, RANKS)[RANK]
    times = run_steps(
        args.warmup + args.steps, args.warmup, load_batches(args, images, timeline.device),
        timeline, model=model, optimizer=torch.optim.SGD(model.parameters(), lr=args.lr),
        loss_scale=RANKS / args.batch_size if args.mode == "ddp" else 1 / batch_rank,
        micro_batches=args.micro_batches,
    )
    settings = {k: int(v) if isinstance(v, bool) else v for k, v in vars(args).items()}
    defaults = vars(parse_arguments([]))  # what differs has a column of its own, or is an option
    options = {k: v for k, v in settings.items()
               if k not in [*COLUMNS, *NOT_OPTIONS] and v != defaults.get(k)}
    options |= {"nodes": RANKS // LOCAL_RANKS} if RANKS > LOCAL_RANKS else {}
    columns |= {k: v for k, v in settings.items() if k in COLUMNS} | timeline.device.memory()
    columns |= {
        "num_devices": RANKS * max(1, settings.get("threads", 1)), "rank": RANK, "node": NODE,
        "threads": torch.get_num_threads(), "images": batch_rank, "dataset": images.label,
        "memory": memory_setting(), "cpu_share": os.environ.get("CPU_SHARE", ""),
        "options": ";".join([*(f"{k}={v}" for k, v in options.items()), *args.note.split()]),
    }
    rows = [columns | {"step": step, "warmup": int(step < args.warmup)} | step_times
            for step, step_times in enumerate(times)]
    write_rows(rows, args.output)


def memory_setting() -> str:
    """What malloc does with freed memory, as the environment has it: glibc; kept (glibc that never
    returns it to the kernel); or another allocator."""
    loaded, knobs = Path("/proc/self/maps").read_text(), ["MALLOC_CONF", "THP_MEM_ALLOC_ENABLE"]
    kept = "mmap_max=0" in os.environ.get("GLIBC_TUNABLES", "")
    names = [name for name in ("tcmalloc", "jemalloc") if name in loaded]
    names.append("kept" if kept else "glibc")
    return " ".join([names[0], *(f"{k}={os.environ[k]}" for k in knobs if os.environ.get(k))])


def write_rows(rows: list[dict[str, Any]], path: Path) -> None:
    """Gather all ranks' rows at rank 0, which writes them."""
    gathered = [None] * RANKS if RANK == 0 else None
    dist.gather_object(rows, gathered)
    if gathered is None:
        return
    rows, part = list(itertools.chain(*gathered)), path.with_name(path.name + ".tmp")
    with part.open("w", newline="") as file:
        values = ([row.get(name, "") for name in COLUMNS] for row in rows)
        csv.writer(file).writerows([COLUMNS, *values])
    part.replace(path)  # so that a file of this name is always complete
    print(f"{len(rows)} rows are in {path}")


def at_least(smallest: int) -> Callable[[str], int]:
    """An argument type: integers from smallest on."""
    def integer(text: str) -> int:
        if not text.isdecimal() or int(text) < smallest:
            raise argparse.ArgumentTypeError(f"expected an integer >= {smallest}, got {text!r}")
        return int(text)
    return integer


class OneLineParser(argparse.ArgumentParser):
    """The options of both scripts; says what is wrong in one line, once, not at each rank."""
    def __init__(self) -> None:
        super().__init__(description=__doc__.split("\n\n")[0], allow_abbrev=False,
                         formatter_class=argparse.ArgumentDefaultsHelpFormatter)
        add, found = self.add_argument, sorted((HERE.parent / "data").glob("imagenette2*/"))
        networks = torchvision.models.list_models(module=torchvision.models)
        modes = ["ddp", "no_communication", "single_process"]
        add("--batch-size", type=at_least(1), default=32, help="images per step, over all ranks")
        add("--run-id", type=at_least(1), default=1, help="number of the run, a column of its rows")
        add("--data", type=Path, default=[*found, HERE.parent / "data" / "imagenette2"][0],
            help="folder that holds train/<class>/*.JPEG")
        add("--output", type=Path, default=Path("times_run1.csv"), help="CSV file to write")
        add("--seed", type=at_least(0), default=0, help="of weights, image order and augmentation")
        add("--image-size", type=at_least(32), default=224, help="pixels per side, after the crop")
        add("--lr", type=float, default=0.001, help="learning rate of SGD")
        add("--model", choices=networks, default="densenet121", metavar="NAME", help="network")
        add("--mode", choices=modes, default="ddp", help="the other two run the bare model")
        add("--channels-last", action="store_true", help="NHWC memory format instead of NCHW")
        add("--compile", action="store_true", help="torch.compile the model: minutes of warm-up")
        add("--checkpoint", action="store_true", help="recompute DenseNet's concatenations")
        add("--micro-batches", type=at_least(1), default=1, help="parts of each rank's batch")
        add("--loader", choices=["tensor", "pil"], default="tensor", help="pil: the original's")
        add("--bucket-cap-mb", type=at_least(1), default=None, help="of DDP; None: 1, then 25")
        add("--gradients", choices=["fp32", "bf16"], default="fp32", help="type in the all-reduce")
        add("--batched-grad-copy", action="store_true", help="of DDP: fewer copies into buckets")
        add("--timeout", type=at_least(1), default=600, help="seconds to wait for another rank")
        add("--note", default="", help="k=v for the rows' options; changes nothing")
        add("--describe", action="store_true", help="print machine and code as JSON, run nothing")

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
    """Have the kernel end this process when its parent ends: torchrun alone leaves its ranks."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # 1 is PR_SET_PDEATHSIG


def granted_cores() -> list[int]:
    """One logical CPU of each physical core that this process may use, within the CPU quota."""
    cores = {}
    for cpu in sorted(os.sched_getaffinity(0)):
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        cores.setdefault(siblings.read_text() if siblings.is_file() else cpu, cpu)
    return list(cores.values())[: max(1, int(min(cpu_quota(), len(cores))))]


def cpu_quota() -> float:
    """Cores that the control group (version 2 or 1) lets this process keep busy, or infinity."""
    for files in (["cpu.max"], ["cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"]):
        with contextlib.suppress(OSError, ValueError):
            texts = (Path("/sys/fs/cgroup", name).read_text() for name in files)
            quota, period = map(float, " ".join(texts).split())
            return quota / period if quota > 0 else float("inf")
    return float("inf")


def describe(args: argparse.Namespace) -> dict[str, Any]:
    """What this script knows of what identifies a measurement; sweep.py adds the rest."""
    images = Images(args.data, args.image_size, args.seed, args.loader)
    return machine(args) | {
        "cores_granted": len(granted_cores()), "cpu_quota": str(cpu_quota()),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(), "torch": torch.__version__,
        "torchvision": torchvision.__version__, "dataset": images.label, "seed": args.seed,
        "dataset_images": len(images.samples), "image_size": args.image_size, "lr": args.lr,
    }


def main() -> None:
    args, who = parse_arguments(), f"rank {RANK} on node {NODE}"
    try:
        print(json.dumps(describe(args), indent=2)) if args.describe else measure(args)
        return
    except RunError as error:  # from a loader's process it comes at the end of a traceback
        says = str(error).split("RunError: ")[-1].strip()
    except OSError as error:
        says = f"{error.filename or args.output}: {error.strerror}"
    except RuntimeError as error:
        says = f"{who} lost another rank, see what that one said"
        if "imed out" in str(error) or "timeout" in str(error):
            says = f"{who} waited {args.timeout} s for another rank (--timeout): hung, or cut off?"
        elif "peer" not in str(error):
            raise
    if RANK == 0 or dist.is_initialized() or says.startswith(who):  # else all would say the same
        print(f"error: {says}", file=sys.stderr)
    sys.exit(1)
# ---- shared: end of the block


if __name__ == "__main__":
    main()
