"""The memory that a training step frees is needed again by the next: the C library is told to keep it.

As Python starts it, glibc asks the system for each large block and gives it back: the tensors of a step are new pages
each time, which the system clears one fault at a time. What stays in the process is at most what a step needs at its
peak. Nothing is done where the C library is not glibc, or another allocator stands in its place, and what the user has
set (``MALLOC_TRIM_THRESHOLD_`` and the like, ``GLIBC_TUNABLES``) is left as it is.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import gc
import os
import sys

KEEPING = {"trim_threshold": -1, "mmap_threshold": -3, "top_pad": -2}
SHARING = {"arena_max": -8}
"""Parameters of `mallopt` by their names as tunables; the numbers are those of malloc.h."""
LARGEST = (2**31 - 1, 2**30, 2**25)
"""Bytes. Before 2.35, glibc refuses more than the last for the size from which a block is apart from the others."""
PAD = 2**26
"""Bytes by which memory grows at a time; pages that nothing was written to take up nothing."""


@functools.cache
def keep_memory() -> bool:
    """Let this process keep what it frees, from now on. True where the C library does so."""
    if (library := _glibc(*KEEPING)) is None:
        return False
    kept = [_set(library, KEEPING[name], *LARGEST) for name in ("trim_threshold", "mmap_threshold")]
    return _set(library, KEEPING["top_pad"], PAD) and all(kept)


@functools.cache
def share_memory() -> bool:
    """Let threads that begin from now on use what the others have freed, as is best where one of them runs at a time.

    Otherwise each keeps what it needs at its own peak. True where the C library does so.
    """
    return (library := _glibc(*SHARING)) is not None and _set(library, SHARING["arena_max"], 1)


@functools.cache
def pass_over_modules() -> None:
    """Let the collector of cycles pass over all objects there are now, once per process: nearly all belong to modules.

    Those of torch are 200,000 that live as long as the process; to look through them takes a tenth of a second of every
    full collection and half a second of the process' end. What is garbage by now and in a cycle is not freed either.
    """
    gc.freeze()
    atexit.register(_end_as_python_does)


def _end_as_python_does() -> None:
    """Where triton was imported: its bindings print the name of everything that is not freed at the end."""
    if "triton" in sys.modules:
        gc.unfreeze()


def give_back_memory() -> None:
    """Give all that is free to the system: after what needed more than a training step does. Milliseconds."""
    if keep_memory() and (library := _glibc(*KEEPING)) is not None:
        library.malloc_trim(0)


def _glibc(*parameters: str) -> ctypes.CDLL | None:
    """The C library, where it is one whose `parameters` are ours to set."""
    tunables, loaded = os.environ.get("GLIBC_TUNABLES", ""), os.environ.get("LD_PRELOAD", "")
    for name in parameters:
        variables = {f"MALLOC_{name.upper()}", f"MALLOC_{name.upper()}_"}
        if variables & os.environ.keys() or f"glibc.malloc.{name}" in tunables:
            return None
    if any(allocator in loaded for allocator in ("jemalloc", "tcmalloc", "mimalloc")):
        return None
    try:
        library = ctypes.CDLL(None)
        return library if library.gnu_get_libc_version and library.mallopt and library.malloc_trim else None
    except (OSError, TypeError, AttributeError):  # no library by that name, or no such function in it
        return None


def _set(library: ctypes.CDLL, parameter: int, *values: int) -> bool:
    """Set a parameter to the first of `values` that is accepted."""
    return any(library.mallopt(parameter, value) == 1 for value in values)
