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


def is_text(node: Any) -> bool:
    """Whether a part of a syntax tree is a docstring, or the help of an option: no code."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant)
    return getattr(node, "arg", None) == "help"


def tree_words(part: Any) -> Iterator[str]:
    """A syntax tree as words, with its nesting, without docstrings and help texts. They are the
    same on Python 3.10 to 3.14, whose trees differ in fields that are empty here."""
    if isinstance(part, list):
        # Brackets, or a statement that moves into or out of a block would change nothing.
        yield "["
        for item in part:
            if not is_text(item):
                yield from tree_words(item)
        yield "]"
    elif isinstance(part, ast.AST):
        yield type(part).__name__
        for name, value in ast.iter_fields(part):
            if value is not None and value != []:
                yield name
                yield from tree_words(value)
    else:
        yield repr(part)


def code_hash(paths: list[Path]) -> str:
    """SHA-256 of what the code in these files does."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update("\n".join(tree_words(ast.parse(path.read_text()))).encode())
    return digest.hexdigest()


def with_imports(script: Path) -> list[Path]:
    """A script and the modules beside it that it imports."""
    names = set()
    for node in ast.walk(ast.parse(script.read_text())):
        if isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    beside = [script.with_name(f"{name}.py") for name in sorted(names)]
    return [script, *filter(Path.is_file, beside)]


def output(*words: str) -> str:
    """What a command prints; nothing where it is not installed."""
    if not shutil.which(words[0]):
        return ""
    return subprocess.run(words, capture_output=True, text=True).stdout.strip()


def ask_script(command: list[str]) -> dict[str, Any]:
    """What the training script says of itself (--describe)."""
    # Bound to this process: it would run on for seconds if the sweep were killed.
    bound = ["setpriv", "--pdeathsig", "KILL", *command]
    done = subprocess.run(bound, capture_output=True, text=True)
    if done.returncode == 0 and done.stdout.startswith("{"):
        return json.loads(done.stdout)
    reason = (done.stderr.strip().splitlines() or ["no answer"])[-1].removeprefix("error: ")
    if reason.startswith("ModuleNotFoundError"):
        reason = f"{reason.split(': ')[-1]} for {command[0]}: run 'make .venv', or set PYTHON"
    raise DescriptionError(reason)


def describe(python: str, script: Path, options: list[str]) -> dict[str, dict[str, Any]]:
    """The identity, and what is recorded beside it; raises DescriptionError if the script cannot
    run with these options."""
    said = ask_script([python, str(script), "--describe", *options])
    cpu = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        cpu[name.strip()] = value.strip()
    identity = {
        "cpu_model": cpu.get("model name", platform.machine()),
        "cpu": [cpu.get(name) for name in ("vendor_id", "cpu family", "model", "stepping")],
        "smt": output("cat", "/sys/devices/system/cpu/smt/active") == "1",
        "huge_pages": output("cat", "/sys/kernel/mm/transparent_hugepage/enabled"),
        **said,
        "code": code_hash(with_imports(script)),
    }
    git = ["git", "-C", str(script.parent), "describe", "--always", "--dirty", "--abbrev=40"]
    fields = "name,driver_version,power.limit,persistence_mode,mig.mode.current,pcie.link.gen.max"
    gpus = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
    recorded = {
        "commit": output(*git),
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "gpus": output(*gpus).splitlines(),
        "gpu_links": output("nvidia-smi", "topo", "-m").splitlines(),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "load_average": os.getloadavg(),
    }
    return {"identity": identity, "recorded": recorded}
