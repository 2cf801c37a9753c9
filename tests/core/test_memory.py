"""The allocator: kept where it is glibc's and nobody has set it, and untouched anywhere else."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import subprocess
import sys
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from ablate_core import memory

FAULTS = """
import resource
from ablate_core.memory import give_back_memory, keep_memory, share_memory
def faults(mib=64):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    bytearray(mib * 2**20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() // 2**20
fresh, began = min(faults() for _ in range(3)), resident()
kept = keep_memory(), share_memory()
faults()
again, held = faults(), resident()
give_back_memory()
print(*kept, fresh > 1000, again < 10, held - began > 50, resident() - began < 10)
"""


@pytest.fixture(autouse=True)
def _as_at_the_start() -> Iterator[None]:
    functions = memory.keep_memory, memory.share_memory
    for function in functions:
        function.cache_clear()
    yield
    for function in functions:
        function.cache_clear()


def asked(**environ: str) -> list[str]:
    """What a process of its own prints about 64 MiB that are taken and freed again and again."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    run = subprocess.run([sys.executable, "-c", FAULTS], env=own | environ, capture_output=True, text=True, check=True)
    return run.stdout.split()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="there is no glibc on this system")
@pytest.mark.parametrize(
    ("environ", "answers"),
    [
        ({}, ["True", "True", "True", "True", "True", "True"]),
        ({"MALLOC_TOP_PAD_": "131072"}, ["False", "True", "True", "False", "False", "True"]),
        (
            {"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=131072", "MALLOC_ARENA_MAX": "4"},
            ["False", "False", "True", "False", "False", "True"],
        ),
    ],
)
def test_what_is_freed_is_kept_until_it_is_given_back_unless_the_user_has_said_otherwise(
    environ: dict[str, str], answers: list[str]
) -> None:
    assert asked(**environ) == answers


class Library:
    """A C library that refuses values above `largest`."""

    def __init__(self, largest: int) -> None:
        self.largest = largest
        self.set: dict[int, int] = {}
        self.gnu_get_libc_version = self.malloc_trim = lambda *arguments: 1

    def mallopt(self, what: int, value: int) -> int:
        if value > self.largest:
            return 0
        self.set[what] = value
        return 1


def test_the_largest_value_that_is_accepted_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library(2**26)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    monkeypatch.setattr(os, "environ", {})
    assert memory.keep_memory()
    assert library.set == {-1: 2**25, -2: 2**26, -3: 2**25}
    memory.keep_memory.cache_clear()
    library.largest = 2**20
    assert not memory.keep_memory()


@pytest.mark.parametrize("missing", ["gnu_get_libc_version", "mallopt", "malloc_trim", "everything"])
def test_another_c_library_is_left_alone(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"gnu_get_libc_version", "mallopt", "malloc_trim"} - {missing}

    def found(name: Any) -> Any:
        if missing == "everything":
            raise TypeError(name)  # as on Windows
        return type("Other", (), {name: staticmethod(lambda *a: pytest.fail("called")) for name in names})()

    monkeypatch.setattr(ctypes, "CDLL", found)
    monkeypatch.setattr(os, "environ", {})
    assert not memory.keep_memory()
    assert not memory.share_memory()
    memory.give_back_memory()


class Ring:
    """Garbage that only the collector of cycles frees."""

    def __init__(self) -> None:
        self.own = self


def test_the_collector_passes_over_what_is_there_before_the_first_trial_and_over_nothing_later() -> None:
    gc.unfreeze()
    memory.pass_over_modules.cache_clear()
    old = Ring()
    memory.pass_over_modules()
    counted, new = gc.get_freeze_count(), Ring()
    memory.pass_over_modules()
    assert gc.get_freeze_count() == counted > 10_000
    seen = weakref.ref(old), weakref.ref(new)
    del old, new
    gc.collect()
    assert [ref() is None for ref in seen] == [False, True]
    gc.unfreeze()
    gc.collect()
    assert seen[0]() is None


@pytest.mark.parametrize("triton", [True, False])
def test_at_the_end_all_is_looked_through_where_bindings_would_tell_of_it(
    triton: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "modules", {"triton": None} if triton else {})
    gc.freeze()
    memory._end_as_python_does()
    assert (gc.get_freeze_count() == 0) == triton
    gc.unfreeze()
