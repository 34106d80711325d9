"""What identifies a measurement: machine, code, data. Results of two identities never mix."""

import ast
import hashlib
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any


class DescriptionError(Exception):
    """The training script cannot say what it would measure, and why."""


def code_hash(paths: list[Path]) -> str:
    """Of what code does: its syntax trees without docstrings and help texts. It is the same on
    Python 3.10 to 3.14, whose trees differ in fields that are empty here."""
    def parts(part: Any) -> Iterator[str]:
        if isinstance(part, list):
            for item in part:
                text = isinstance(item, ast.Expr) and isinstance(item.value, ast.Constant)
                if not text and getattr(item, "arg", None) != "help":
                    yield from parts(item)
        elif isinstance(part, ast.AST):
            yield type(part).__name__
            for name, value in ast.iter_fields(part):
                if value is not None and value != []:
                    yield name
                    yield from parts(value)
        else:
            yield repr(part)

    digest = hashlib.sha256()
    for path in paths:
        digest.update("\n".join(parts(ast.parse(path.read_text()))).encode())
    return digest.hexdigest()


def with_imports(script: Path) -> list[Path]:
    """A script and the modules beside it that it imports."""
    tree = ast.walk(ast.parse(script.read_text()))
    names = sorted({item.module or "" for item in tree if isinstance(item, ast.ImportFrom)})
    return [script, *(p for n in names if (p := script.with_name(f"{n}.py")).is_file())]


def output(*words: str) -> str:
    """What a command says; nothing where it is not installed."""
    found = shutil.which(words[0])
    return subprocess.run(words, capture_output=True, text=True).stdout.strip() if found else ""


def describe(python: str, script: Path, options: list[str]) -> dict[str, dict[str, Any]]:
    """The identity, and what is recorded beside it; raises DescriptionError if the script cannot
    run with these options."""
    command = [python, str(script), "--describe", *options]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode or not done.stdout.startswith("{"):
        reason = (done.stderr.strip().splitlines() or ["no answer"])[-1].removeprefix("error: ")
        if reason.startswith("ModuleNotFoundError"):
            reason = f"{reason.split(': ')[-1]} for {python}: run 'make .venv', or set PYTHON"
        raise DescriptionError(reason)
    pairs = (line.split(":", 1) for line in Path("/proc/cpuinfo").open() if ":" in line)
    cpu = {name.strip(): value.strip() for name, value in pairs}
    git = ["git", "-C", str(script.parent), "describe", "--always", "--dirty", "--abbrev=40"]
    identity = {
        "cpu_model": cpu.get("model name", platform.machine()),
        "cpu": [cpu.get(name) for name in ("vendor_id", "cpu family", "model", "stepping")],
        "smt": output("cat", "/sys/devices/system/cpu/smt/active") == "1",
        "huge_pages": output("cat", "/sys/kernel/mm/transparent_hugepage/enabled"),
        **json.loads(done.stdout), "code": code_hash(with_imports(script)),
    }
    return {"identity": identity, "recorded": {
        "commit": output(*git), "python": platform.python_version(), "kernel": platform.release(),
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "driver": output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "load_average": os.getloadavg(),
    }}
