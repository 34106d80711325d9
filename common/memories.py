"""Allocators, by the environment alone: what the MEMORY of a configuration stands for."""

import os
import subprocess
from collections.abc import Mapping

MEMORIES = {
    "glibc": {},
    "kept": {"GLIBC_TUNABLES": "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=4000000000"},
    "thp": {"THP_MEM_ALLOC_ENABLE": "1"},
    "tcmalloc": {"LD_PRELOAD": "libtcmalloc_minimal.so.4"},
    "jemalloc": {"LD_PRELOAD": "libjemalloc.so.2"},
    "jemalloc_kept": {"LD_PRELOAD": "libjemalloc.so.2",
                      "MALLOC_CONF": "dirty_decay_ms:-1,muzzy_decay_ms:-1"},
}


def without(environment: Mapping[str, str], *more: str) -> dict[str, str]:
    """An environment without some variables, and without a user's own choice of allocator, which
    would stand in for glibc as it is."""
    names = {*more, *(name for variables in MEMORIES.values() for name in variables)}
    return {name: value for name, value in environment.items()
            if name not in names or (name == "LD_PRELOAD" and "malloc" not in value)}


def refusal(wanted: set[str]) -> str:
    """Why one of these memories cannot be had; nothing if all can. (Of a library that is not there
    the loader only warns, and glibc would be measured.)"""
    for memory in sorted(wanted):
        if memory not in MEMORIES:
            return f"MEMORIES: expected some of {', '.join(MEMORIES)}, got {memory!r}"
        if library := MEMORIES[memory].get("LD_PRELOAD"):
            environment = os.environ | {"LD_PRELOAD": library}
            if subprocess.run(["true"], env=environment, capture_output=True).stderr:
                return f"memory {memory} needs {library}, which is not installed"
    return ""
