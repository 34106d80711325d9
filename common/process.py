"""One run as a process: started so that it ends with the sweep, within its time limit."""

import contextlib
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

# What the MEMORY of a configuration stands for: an allocator, by the environment alone.
MEMORIES = {
    "glibc": {},
    "kept": {"GLIBC_TUNABLES": "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=4000000000"},
    "hugetlb": {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"},
    "thp": {"THP_MEM_ALLOC_ENABLE": "1"},
    "tcmalloc": {"LD_PRELOAD": "libtcmalloc_minimal.so.4"},
    "jemalloc": {"LD_PRELOAD": "libjemalloc.so.2"},
    "jemalloc_kept": {
        "LD_PRELOAD": "libjemalloc.so.2",
        "MALLOC_CONF": "dirty_decay_ms:-1,muzzy_decay_ms:-1",
    },
    # As torch.backends.xeon.run_cpu configures it.
    "jemalloc_launcher": {
        "LD_PRELOAD": "libjemalloc.so.2",
        "MALLOC_CONF": "oversize_threshold:1,background_thread:true,metadata_thp:auto",
    },
    "mimalloc": {"LD_PRELOAD": "libmimalloc.so.2.0"},
    "mimalloc_kept": {"LD_PRELOAD": "libmimalloc.so.2.0", "MIMALLOC_ALLOW_DECOMMIT": "0"},
}
# Asks the library that is preloaded for its version, whichever of the three it is.
ASK_VERSION = """
import ctypes
library = ctypes.CDLL(None)
text = ctypes.c_char_p()
if hasattr(library, "mallctl"):
    size = ctypes.c_size_t(ctypes.sizeof(text))
    library.mallctl(b"version", ctypes.byref(text), ctypes.byref(size), None, ctypes.c_size_t(0))
elif hasattr(library, "tc_version"):
    library.tc_version.restype = ctypes.c_char_p
    text.value = library.tc_version(None, None, None)
elif hasattr(library, "mi_version"):
    text.value = str(library.mi_version()).encode()
print((text.value or b"").decode())
"""
GRACE_S = 10  # between being asked to end and being killed

# The kernel kills what follows when its parent dies, even of SIGKILL: torchrun alone would leave
# its ranks running. It holds for one process only, so it stands before each link of the chain.
BOUND = ["setpriv", "--pdeathsig", "KILL"]
# The parent may have died before that: then do not begin. Arguments: its number, the command.
IF_PARENT = 'test "$PPID" = "$0" && exec "$@"'
# The same for timeout and for what it starts. --foreground: a signal reaches that process alone.
IF_PARENT_WITH_LIMIT = f"""
test "$PPID" = "$0" || exit 1
limit=$1
shift
exec timeout --foreground --kill-after={GRACE_S} "$limit" \
  {" ".join(BOUND)} sh -c '{IF_PARENT}' "$$" "$@"
"""
# On several nodes the launcher starts the same line on each: this tells it which one it is on.
NUMBER_NODE = 'export PET_NODE_RANK="${PET_NODE_RANK:-${SLURM_NODEID:-0}}"; exec "$@"'


class Stopped(Exception):
    """SIGINT, SIGTERM or SIGHUP: the sweep ends in order."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Job(NamedTuple):
    """What to run, and how."""

    program: list[str]  # Python, the training script, its arguments
    ranks: int
    variables: dict[str, str]  # for the environment of the training script
    limit_s: float
    nodes: int = 1
    launcher: list[str] = []  # starts what follows on each node
    address: str = ""  # of node 0


def stop_on_signals() -> None:
    """Raise Stopped wherever the program is when it is asked to end."""

    def stop(number: int, _: object) -> None:
        raise Stopped(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores SIGHUP for us
            signal.signal(number, stop)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """A block that no signal breaks off: cleaning up."""
    numbers = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def command_of(job: Job) -> list[str]:
    """The command line of a run. The variables reach the training script alone: torchrun itself is
    not to run with another allocator."""
    # torchrun for several ranks only: one rank by itself needs no network.
    python = job.program[0]
    torchrun = []
    if job.ranks > 1:
        torchrun = [python, "-m", "torch.distributed.run", "--no-python"]
        torchrun += ["--nproc-per-node", str(job.ranks // job.nodes)]
        if job.nodes > 1:
            # A port of its own for each run: no late rank joins the next one.
            torchrun += ["--nnodes", str(job.nodes), "--master-addr", job.address]
            torchrun += ["--master-port", str(free_port())]
            torchrun = ["sh", "-c", NUMBER_NODE, "sh", *torchrun]
        else:
            torchrun += ["--standalone"]
        # The ranks are bound to torchrun, which is bound to timeout, which is bound to the sweep.
        torchrun += BOUND
    # By env, behind torchrun and on whichever node the rank is.
    assignments = [f"{name}={value}" for name, value in job.variables.items()]
    with_limit = ["sh", "-c", IF_PARENT_WITH_LIMIT, str(os.getpid()), f"{job.limit_s:.3f}"]
    return [*BOUND, *with_limit, *job.launcher, *torchrun, "env", *assignments, *job.program]


def environment_of(job: Job, temporary: Path) -> dict[str, str]:
    """This process's environment without a user's own allocator, which would stand in for glibc.
    The configuration's variables are for the launcher; an allocator is not among them."""
    allocators = set().union(*MEMORIES.values())
    dropped = allocators | {"OMP_NUM_THREADS", "CPU_SHARE"}
    kept = {}
    for name, value in os.environ.items():
        other_preload = name == "LD_PRELOAD" and "malloc" not in value
        if name not in dropped or other_preload:
            kept[name] = value
    given = {name: value for name, value in job.variables.items() if name not in allocators}
    return kept | given | {"NNODES": str(job.nodes), "TMPDIR": str(temporary)}


def run(command: list[str], environment: dict[str, str], log: Path) -> int:
    """Run a command, its output into a log; its exit status. Whatever ends the wait ends it too."""
    with log.open("w") as file:
        # A session of its own: a Ctrl-C in the terminal reaches the sweep alone.
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            return process.wait()
        finally:
            end(process)


def end(process: subprocess.Popen) -> None:
    """Ask a process to end, then kill it; a second Ctrl-C does not wait."""
    if process.poll() is None:
        process.terminate()
        try:
            # timeout kills what does not end within GRACE_S; this is for timeout itself.
            process.wait(GRACE_S + 2)
        except (subprocess.TimeoutExpired, Stopped):
            process.kill()
            process.wait()


def why_it_failed(status: int, log: str) -> str:
    """One line: what a rank said, which signal ended it, or the last words of its output."""
    said = [line.removeprefix("error: ") for line in log.splitlines() if line.startswith("error: ")]
    # A rank that lost another one knows nothing: the other one's word counts.
    said = [line for line in said if "lost another rank" not in line]
    # torchrun's report of what it took for the first failure.
    cause = re.search(r"Root Cause.*?rank +: (\d+).*?exitcode +: -(\d+)", log, re.DOTALL)
    if cause:
        said.append(f"rank {cause[1]} ended by signal {cause[2]}")
    # timeout reports a signal as a shell does; timeout itself may have been killed.
    if status < 0 or status > 128:
        said.append(f"the run was ended by signal {-status if status < 0 else status - 128}")
    said += [line for line in log.splitlines() if re.search(r"\w", line)][-1:]
    return [*said, f"it ended with status {status} and said nothing"][0]


def missing_library(memory: str) -> str:
    """The allocator's library if it is not installed: the loader would only warn, and glibc be
    measured in its place."""
    library = MEMORIES[memory].get("LD_PRELOAD", "")
    if not library:
        return ""
    environment = {**os.environ, "LD_PRELOAD": library}
    done = subprocess.run([shutil.which("true") or "true"], env=environment, capture_output=True)
    return library if done.stderr else ""


def library_versions(memories: list[str]) -> dict[str, str]:
    """What the libraries behind these allocators say that they are; glibc too."""
    versions = {"glibc": platform.libc_ver()[1]}
    for memory in memories:
        library = MEMORIES[memory].get("LD_PRELOAD")
        if library and library not in versions:
            environment = {**os.environ, "LD_PRELOAD": library}
            command = [sys.executable, "-c", ASK_VERSION]
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            versions[library] = done.stdout.strip()
    return versions
