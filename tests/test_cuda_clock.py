"""Does project_ex_2.py read a GPU's time right? On a simulated device, in virtual time.

A stream is the time until which it is busy; a kernel starts when its stream is free and the host
has launched it; an event has passed when its stream gets there. The script's own CUDA path runs on
that: its marks, hook, timeline, DDP and steps. Nothing sleeps, so results are exact. It proves the
order of marks and waits, not what a real driver, NCCL or the caching allocator do; tests named
on_a_gpu do.
"""

import contextlib
import threading
import types

import pytest
import torch
from conftest import REPOSITORY

SOURCE = REPOSITORY / "gpu" / "project_ex_2.py"
# Seconds of the kernels of a step.
COPY, FORWARD, LAYER, REDUCE, UNPACK, UPDATE = 0.001, 0.020, 0.010, 0.005, 0.0005, 0.002
LAYERS, WARMUP, STEPS = 3, 2, 4
EXPECTED = {
    "loading": COPY,
    "forward": FORWARD,
    "backward": LAYERS * LAYER,
    "communication": REDUCE + UNPACK,  # of the last bucket; the others are hidden
    "ddp": UNPACK,
    "optimizer": UPDATE,
}


class Simulated:
    """A GPU and its host in virtual time (s)."""

    def __init__(self, launch: float) -> None:
        self.now, self.launch, self.waits = 0.0, launch, 0
        self.busy_until: list[float] = []
        self.compute, self.nccl = self.new_stream(), self.new_stream()
        self.thread = threading.local()  # DDP calls its hook from a thread of autograd

    def new_stream(self) -> int:
        self.busy_until.append(0.0)
        return len(self.busy_until) - 1

    @property
    def stream(self) -> int:
        return getattr(self.thread, "stream", self.compute)

    @contextlib.contextmanager
    def use(self, stream: int):
        before, self.thread.stream = self.stream, stream
        yield
        self.thread.stream = before

    def run_kernel(self, seconds: float, stream: int | None = None) -> None:
        self.now += self.launch
        stream = self.stream if stream is None else stream
        self.busy_until[stream] = max(self.busy_until[stream], self.now) + seconds

    def synchronize(self) -> None:
        self.waits += 1
        self.now = max(self.now, *self.busy_until)


def event_class(gpu: Simulated) -> type:
    class Event:
        def __init__(self, enable_timing: bool = False) -> None:
            self.has_time, self.passed_at = enable_timing, 0.0

        def record(self, stream: int | None = None) -> None:
            stream = gpu.stream if stream is None else stream
            self.passed_at = max(gpu.busy_until[stream], gpu.now)

        def hold(self, stream: int) -> None:
            """The stream waits for the event; the host goes on."""
            gpu.busy_until[stream] = max(gpu.busy_until[stream], self.passed_at)

        def elapsed_time(self, end: "Event") -> float:
            assert self.has_time and end.has_time, "an event was made without timing"
            assert max(self.passed_at, end.passed_at) <= gpu.now, "an event has not passed yet"
            return 1000 * (end.passed_at - self.passed_at)

    return Event


class Reduction:
    """What NCCL gives back at once: a future whose callbacks run on a stream that waits for it."""

    def __init__(self, gpu: Simulated, tensor: torch.Tensor, pending: list) -> None:
        self.gpu, self.tensor, self.pending = gpu, tensor, pending
        self.done = torch.cuda.Event()
        self.done.record(gpu.nccl)

    def value(self) -> torch.Tensor:
        return self.tensor

    def then(self, callback) -> torch.futures.Future:
        result, called = torch.futures.Future(), torch.cuda.Event()
        stream = self.gpu.new_stream()
        self.done.hold(stream)
        with self.gpu.use(stream):
            result.set_result(callback(self))
            called.record()
        self.pending.append(called)  # what DDP waits for before it copies the bucket back
        return result


@pytest.fixture(scope="module")
def process_group():
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def module_of(source: str) -> types.ModuleType:
    module = types.ModuleType("project_ex_2_simulated")
    module.__file__ = str(SOURCE)
    exec(compile(source, SOURCE, "exec"), module.__dict__)
    return module


def put_in_place(gpu: Simulated, script, patch) -> None:
    """torch.cuda and the script's clock, as the simulated device has them."""
    card = types.SimpleNamespace(name="simulated", major=9, minor=0)
    for name, value in {
        "init": lambda: None,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda _: None,
        "get_device_properties": lambda _: card,
        "get_arch_list": lambda: ["sm_90"],
        "synchronize": gpu.synchronize,
        "Event": event_class(gpu),
    }.items():
        patch.setattr(torch.cuda, name, value)
    clock = types.SimpleNamespace(monotonic=lambda: gpu.now, perf_counter=lambda: gpu.now)
    patch.setattr(script, "time", clock)


def put_training_in_place(gpu: Simulated, script, patch, peer: float) -> None:
    """A network of three layers, each a bucket, whose work is kernels of known length."""
    pending: list = []
    layers = [torch.nn.Linear(600, 600, bias=False) for _ in range(LAYERS)]  # 1.4 MB each
    for layer in layers:
        layer.weight.register_hook(lambda _: gpu.run_kernel(LAYER))
    network = torch.nn.Sequential(*layers)
    network.register_forward_pre_hook(lambda *_: gpu.run_kernel(FORWARD))

    def reduce_bucket(_, bucket) -> Reduction:
        ready = torch.cuda.Event()
        ready.record()
        ready.hold(gpu.nccl)
        gpu.run_kernel(REDUCE + peer * bucket.is_last(), gpu.nccl)
        return Reduction(gpu, bucket.buffer(), pending)

    backward, step = torch.Tensor.backward, torch.optim.SGD.step

    def backward_and_unpack(self, *arguments, **settings) -> None:
        backward(self, *arguments, **settings)
        while pending:
            pending.pop(0).hold(gpu.compute)
            gpu.run_kernel(UNPACK)

    def update(self, *arguments):
        gpu.run_kernel(UPDATE)
        return step(self, *arguments)

    def copy(batch, _):
        gpu.run_kernel(COPY)
        return batch

    patch.setattr(torch.Tensor, "backward", backward_and_unpack)
    patch.setattr(torch.optim.SGD, "step", update)
    patch.setattr(script.torchvision.models, "get_model", lambda *_, **__: network)
    patch.setattr(script.default_hooks, "allreduce_hook", reduce_bucket)
    patch.setattr(script, "to_device", copy)


def train(source: str, *, launch=1e-5, load=0.0, peer=0.0) -> tuple[list[dict], int]:
    """The measured steps of a simulated run, and how often its host waited for the device."""
    script, gpu = module_of(source), Simulated(launch)

    def batches():
        while True:
            gpu.now += load
            yield [torch.randn(2, 600), torch.zeros(2, dtype=torch.int64)]

    with pytest.MonkeyPatch.context() as patch:
        put_in_place(gpu, script, patch)
        put_training_in_place(gpu, script, patch, peer)
        options = ["--bucket-cap-mb", "1", "--steps", str(STEPS), "--warmup", str(WARMUP)]
        args = script.parse_arguments(options)
        device = script.build_device(args)._replace(device=torch.device("cpu"))
        timeline = script.Timeline(device)
        model = script.build_model(args, timeline)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        learner = script.Learner(model, optimizer, 1.0, 1)
        times = script.run_steps(args, learner, batches(), timeline)
    return times[WARMUP:], gpu.waits


def check(times: list[dict], expected: dict[str, float], tolerance: float = 2e-4) -> None:
    for step in times:
        for part, seconds in expected.items():
            assert step[f"{part}_time"] == pytest.approx(seconds, abs=tolerance), (part, step)


pytestmark = pytest.mark.usefixtures("process_group")


def test_where_the_host_runs_ahead():
    times, waits = train(SOURCE.read_text())
    check(times, EXPECTED)
    assert waits == 2  # before the first step and after the last one: none within a step
    # The host launched six steps within a millisecond: it is ahead by nearly all of them.
    whole = sum(EXPECTED[part] for part in EXPECTED if part != "ddp")
    assert times[-1]["host_ahead_time"] == pytest.approx((WARMUP + STEPS) * whole, rel=0.02)


def test_a_slow_loader():
    """The device waits for the host, which has loaded while the device computed the step before."""
    times, _ = train(SOURCE.read_text(), load=0.1)
    rest = sum(EXPECTED[part] for part in EXPECTED if part not in ("ddp", "loading"))
    check(times, EXPECTED | {"loading": 0.1 - rest}, 1e-3)


def test_a_late_peer():
    times, _ = train(SOURCE.read_text(), peer=0.03)
    check(times, EXPECTED | {"communication": 0.03 + REDUCE + UNPACK})


def test_where_launches_take_longer_than_kernels():
    """Copy, forward, three layers with a reduction each, three buckets copied back, update: 12."""
    times, _ = train(SOURCE.read_text(), launch=0.05)
    mean = sum(step["step_time"] for step in times) / len(times)
    assert mean == pytest.approx(12 * 0.05, rel=0.02)
    assert max(step["host_ahead_time"] for step in times) < 0.05 * mean  # the device waits for it


FAULTS = {
    "marks of the host's clock": [
        ("mark=mark,", "mark=time.perf_counter,"),
        ("seconds=lambda earlier, later: earlier.elapsed_time(later) / 1000,", ""),
    ],
    "loading ends before the copy": [
        ('    timeline.note("loading")\n', ""),
        (
            "    images, labels = to_device(",
            '    timeline.note("loading")\n    images, labels = to_device(',
        ),
    ],
    "a reduction noted when it is launched": [
        (
            "return reduce_bucket(None, bucket).then(timeline.note_reduction)",
            "future = reduce_bucket(None, bucket)\n    timeline.note_reduction(future)\n"
            "    return future.then(lambda done: done.value())",
        )
    ],
    "a hook without its mark": [
        (
            "    # Backward goes on beside the reduction: with the last bucket this note ends it.\n"
            '    timeline.note("backward")\n',
            "",
        )
    ],
    "no wait at the end": [("    device.wait()\n    if args.cycles:", "    if args.cycles:")],
    "a wait within the step": [
        (
            '            timeline.note("forward")\n',
            '            timeline.note("forward")\n            timeline.device.wait()\n',
        )
    ],
    "the optimizer noted early": [
        (
            "    timeline.device.scaler.step(",
            '    timeline.note("optimizer")\n    timeline.device.scaler.step(',
        ),
        ('        timeline.note("optimizer")\n    device.wait()', "    device.wait()"),
    ],
    "events without timing": [("enable_timing=True", "enable_timing=False")],
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_script_is_found(fault):
    source = SOURCE.read_text()
    for found, put in FAULTS[fault]:
        assert source.count(found) == 1, found
        source = source.replace(found, put)
    with pytest.raises(Exception) as caught:
        times, waits = train(source)
        check(times, EXPECTED)
        assert waits == 2
    # By this test, by the script's own check, or for want of an end to measure from.
    found = type(caught.value).__name__
    assert found in ("AssertionError", "RunError") or "has_time" in str(caught.value)
