"""What the tests share: the scripts loaded by their paths, a small dataset, ways to start runs."""

import atexit
import csv
import importlib.util
import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
# A machine runs one sweep at a time, by a lock on its folder for temporary files: each worker of
# pytest-xdist is a machine of its own here, and leaves nothing in the real folder.
os.environ["TMPDIR"] = tempfile.tempdir = tempfile.mkdtemp(prefix="tests-")
# Started in the background of a script, this process and its sweeps would ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)
atexit.register(shutil.rmtree, os.environ["TMPDIR"], ignore_errors=True)
sys.path += [str(REPOSITORY / name) for name in ("common", "gpu")]  # as the scripts find them
INJECTED = REPOSITORY / "tests" / "injected.py"
# Files that take minutes: two workers share the tests by files, and these must not come last.
LONG = ["test_faults", "test_training", "test_sweep", "test_gpu", "test_advise", "test_runner"]


def pytest_collection_modifyitems(items: list) -> None:
    items.sort(key=lambda item: item.path.stem not in LONG)  # stable


def load(path: str):
    """A script of the repository as a module; importing one does no work."""
    name = Path(path).stem
    if Path(path).parent.name == "studies":
        name = f"study_{name}"  # one is called like a module of common/
    spec = importlib.util.spec_from_file_location(name, REPOSITORY / path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # errors from loader processes are found there
    spec.loader.exec_module(module)
    return module


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def launch(ranks: int, *command: str | Path, **environment: str) -> subprocess.CompletedProcess:
    """Start a script under torchrun as the sweep does (or plainly, for one rank) and wait."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    return subprocess.run(
        [sys.executable, *(torchrun if ranks > 1 else []), *map(str, command)],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """A few hundred stand-in images, made as a user without network would."""
    output = tmp_path_factory.mktemp("data")
    script = REPOSITORY / "data" / "prepare_imagenette.py"
    command = [sys.executable, script, "--synthetic", "--size", "224", "--output", output]
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    return output / "imagenette2-224-synthetic"


@pytest.fixture(scope="session")
def committed(tmp_path_factory) -> Path:
    """The repository as it was committed: a user's own sweep changes the working tree."""
    command = ["git", "-C", str(REPOSITORY), "archive", "HEAD"]
    archive = subprocess.run(command, capture_output=True)
    if archive.returncode:
        pytest.skip("not a git checkout")
    folder = tmp_path_factory.mktemp("committed")
    tarfile.open(fileobj=io.BytesIO(archive.stdout)).extractall(folder, filter="data")
    return folder
