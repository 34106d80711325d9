"""Starts a training script with something put into it; started by the tests, under torchrun too.

    injected.py SCRIPT KIND FOLDER -- arguments [-- arguments ...]

Runs the script's main() once for each list of arguments. KIND `record` sets batch-norm to eval
mode and saves to FOLDER what each rank trained on and what came out; KIND `sleep` makes each step
sleep somewhere, in turn through PLACES, so that a test knows what the clocks must say; KIND
`out_of_memory` makes the last rank run out of memory in step 1.
"""

import functools
import hashlib
import importlib.util
import itertools
import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

PLACES = [
    "nowhere",
    "loading_all",
    "loading_rank0",
    "loading_rank1",
    "forward",
    "backward",
    "last_bucket",
    "optimizer",
    "between",
]
# Seconds. Long against the noise of a step, which hides a wrong clock; or as short as is resolved.
SLEEP = float(os.environ.get("INJECTED_SLEEP", 0.8))


def load(path: str):
    spec = importlib.util.spec_from_file_location("training_script", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["training_script"] = module  # loader processes look the dataset up there
    sys.path.insert(0, str(Path(path).parent))  # as for a script
    spec.loader.exec_module(module)
    return module


def record(script, folder: Path) -> None:
    """Save a hash of each image of each step, and the parameters after the last step."""
    plain_model, plain_move, plain_write = (
        script.torchvision.models.get_model,
        script.to_device,
        script.write_rows,
    )
    models, hashes = [], []

    def model(name, **arguments):
        models.append(plain_model(name, **arguments).eval())
        return models[-1]

    def move(batch, device):
        images, labels = plain_move(batch, device)
        hashes.append([hashlib.sha256(i.cpu().numpy().tobytes()).hexdigest() for i in images])
        return images, labels

    def write(rows, path):
        saved = {"hashes": hashes.copy(), "parameters": models[-1].state_dict()}
        torch.save(saved, folder / f"{path.stem}_rank{script.RANK}.pt")
        hashes.clear()
        return plain_write(rows, path)

    script.torchvision.models.get_model = model
    script.to_device, script.write_rows = move, write


@functools.cache
def gpu_cycles_per_s() -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    for _ in range(2):  # the first one raises the clock
        begin.record()
        torch.cuda._sleep(10**9)
        end.record()
    torch.cuda.synchronize()
    return 10**12 / begin.elapsed_time(end)


def sleep(script, _: Path) -> None:
    """Make step s sleep at PLACES[s % 9]; the script itself knows nothing of it."""
    state, futures = {"place": PLACES[0]}, []

    def sleep_if(*places: str) -> None:
        if state["place"] not in places:
            return
        if torch.cuda.is_initialized():  # a kernel of this length: the host goes on
            torch.cuda._sleep(int(SLEEP * gpu_cycles_per_s()))
        else:
            time.sleep(SLEEP)

    plain_load, plain_model = script.load_batches, script.torchvision.models.get_model
    plain_reduce, plain_step, plain_train = (
        script.default_hooks.allreduce_hook,
        torch.optim.SGD.step,
        script.train_step,
    )

    def load_batches(*arguments):
        loader = plain_load(*arguments)
        for place, batch in zip(itertools.cycle(PLACES), loader):
            state["place"] = place
            sleep_if("loading_all", f"loading_rank{script.RANK}")
            yield batch

    def model(name, **arguments):
        built = plain_model(name, **arguments)
        built.register_forward_pre_hook(lambda *_: sleep_if("forward"))
        built.classifier.bias.register_hook(lambda _: sleep_if("backward"))
        return built

    def reduce_bucket(group, bucket):
        future = plain_reduce(group, bucket)
        futures.append(future)
        if not bucket.is_last():
            return future
        # Buckets are reduced side by side: sleep when all are done, or one would hide the sleep.
        done = torch.futures.collect_all(futures.copy())
        futures.clear()
        return done.then(lambda _: (sleep_if("last_bucket"), future.value())[1])

    def step(self, *arguments):
        sleep_if("optimizer")
        return plain_step(self, *arguments)

    def train_step(*arguments):
        sleep_if("between")
        return plain_train(*arguments)

    script.load_batches, script.torchvision.models.get_model = load_batches, model
    script.default_hooks.allreduce_hook, torch.optim.SGD.step = reduce_bucket, step
    script.train_step = train_step


def out_of_memory(script, _: Path) -> None:
    """The last rank runs out of memory in step 1, unless it runs it in micro-batches."""
    plain_train = script.train_step

    def train_step(learner, batch, timeline, *communicates):
        steps_done = sum(point.part == "optimizer" for point in timeline.points)
        last = script.RANK == script.RANKS - 1
        if last and steps_done == 1 and learner.micro_batches == 1:
            raise torch.OutOfMemoryError("out of memory, put in by a test")
        return plain_train(learner, batch, timeline, *communicates)

    script.train_step = train_step


def main() -> None:
    script_path, kind, folder = sys.argv[1:4]
    script = load(script_path)
    {"record": record, "sleep": sleep, "out_of_memory": out_of_memory}[kind](script, Path(folder))
    runs = [
        list(group)
        for is_mark, group in itertools.groupby(sys.argv[4:], lambda word: word == "--")
        if not is_mark
    ]
    # The ranks connect once for all runs: gloo cannot connect the same ranks a second time.
    init, end = dist.init_process_group, dist.destroy_process_group
    dist.init_process_group = lambda *a, **k: None if dist.is_initialized() else init(*a, **k)
    dist.destroy_process_group = lambda: None
    for arguments in runs:
        sys.argv = [script_path, *arguments]
        script.main()
    end()


if __name__ == "__main__":
    main()
