"""Loops in C for networks on a CPU: what lies between matrix products, in one pass each.

Torch's operators are good for large tensors; in the small networks of a sweep most of the time goes into calling
them, into reading and writing what one pass could do, and into a slow tanh. The loops are compiled when they are first
needed, with the machine's own C compiler (`CC`, else cc), for its own processor, and kept in
``$ABLATE_CACHE/kernels``. Without a compiler, or with ``ABLATE_KERNELS=0``, torch's operators do the same.

The compiled files are run: whoever can write the cache folder can run code as its readers.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor

from ablate_core.compile_cache import processor
from ablate_core.fid.files import LOCK_TIMEOUT, cache_dir

PARTS = ("attention", "block", "ends", "products", "update")
SOURCES = [Path(__file__).parent / name for name in ("common.h", *(f"{part}.c" for part in PARTS))]
FLAGS = [
    *("-O3", "-march=native", "-std=gnu11", "-shared", "-fPIC"),
    *("-fno-math-errno", "-fno-trapping-math", "-fassociative-math", "-fno-signed-zeros", "-freciprocal-math"),
    *(["-Wl,-Bsymbolic"] if sys.platform == "linux" else []),
]
"""Not -ffast-math: NaN must stay NaN, and it would round denormals to 0 in the whole process. Symbolic: a function of
such a name as `add` that another library has loaded for all does not take the place of ours."""
REAL = {torch.float32: "float", torch.float64: "double"}
MOST_TOKENS = 128
"""The most tokens whose attention C computes: its weights are kept for the gradient. common.h has the same number."""

SIGNATURES = {
    "begin": "pppNpppNNN", "add": "pppNpNNN", "begin_tangent": "ppppNppppNNN",
    "add_tangent": "pppNppppNNN", "add_back": "pppNpppNNN", "begin_back": "pppppNpppNNN", "gelu": "pppN",
    "gelu_back": "pppNNN",
    "attention": "pppNNNN", "attention_tangent": "pppppNNNN", "attention_back": "ppppNNNN",
    "blocks_forward": "pppppppNpppppppNNNNN",
    "blocks_back": "ppppppNpppppppNNNN",
    "embed_forward": "pppppppNppppppNN", "embed_back": "pppppNpppppNN",
    "finish_forward": "pppppppNpppppppNNN", "finish_back": "ppppppNpppppppNNN",
    "norm": "ppN", "adam": "ppppddddddNddNppNN",
}  # fmt: skip
"""What a function takes: p a pointer, N a whole number, d a number."""
KINDS = {"p": ctypes.c_void_p, "N": ctypes.c_long, "d": ctypes.c_double}

SEAL = hashlib.sha256().digest_size
"""Bytes that follow a library in its file: the SHA-256 of it."""


@functools.cache
def kernels(dtype: torch.dtype) -> ctypes.CDLL | None:
    """The functions of the sources for tensors of `dtype`; None where there is no compiler or no such dtype.

    A compiler that fails is reported by one warning. The first call on a machine takes two seconds.
    """
    compiler = _compiler()
    if os.environ.get("ABLATE_KERNELS") == "0" or compiler is None or dtype not in REAL:
        return None
    try:
        library = _library(compiler, REAL[dtype])
        for name, takes in SIGNATURES.items():
            getattr(library, name).argtypes = [KINDS[letter] for letter in takes]
            getattr(library, name).restype = None
        for name, count in {"used_by_forward": 6, "used_by_tangent": 4, "used_by_back": 4}.items():
            getattr(library, name).argtypes = [ctypes.c_long] * count
            getattr(library, name).restype = ctypes.c_long
    except (OSError, subprocess.SubprocessError, AttributeError) as error:  # the last: a library without a function
        said = getattr(error, "stderr", None) or str(error)
        warnings.warn(f"no C loops on this machine, torch's operators are used: {said.strip()[:300]}", stacklevel=2)
        return None
    return library


@functools.cache
def whole_blocks(dtype: torch.dtype) -> ctypes.CDLL | None:
    """`kernels` where `blocks_forward` and `blocks_back` may be called: with the products of torch's own library."""
    library = kernels(dtype)
    torch_cpu = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    try:
        product = getattr(ctypes.CDLL(str(torch_cpu)), {"float": "sgemm_", "double": "dgemm_"}[REAL[dtype]])
    except (OSError, AttributeError, KeyError):
        return None
    if library is not None:
        library.use_product.argtypes, library.use_product.restype = [ctypes.c_void_p], None
        library.use_product(ctypes.cast(product, ctypes.c_void_p))
    return library


def prepare() -> None:
    """Compile or load what trials use, before they are forked."""
    whole_blocks(torch.float32)


def pointer(x: Tensor, index: int = 0) -> int:
    """Where number `index` of a contiguous tensor lies."""
    return x.data_ptr() + index * x.element_size()


def pointers(tensors: Sequence[Tensor | None]) -> Any:
    """Where contiguous tensors lie, as C takes them; NULL for None."""
    return (ctypes.c_void_p * len(tensors))(*(None if x is None else x.data_ptr() for x in tensors))


def _compiler() -> list[str] | None:
    """The words of the command that `CC` names, with its program's path; None where there is no such program."""
    given = os.environ.get("CC", "cc")
    if shutil.which(given) is not None:  # also a path with spaces
        first, *more = [given]
    else:
        try:
            first, *more = shlex.split(given)
        except ValueError:  # no word, or an open quotation
            return None
    path = shutil.which(first)
    return None if path is None else [path, *more]


def _library(compiler: list[str], real: str) -> ctypes.CDLL:
    texts = [source.read_bytes() for source in SOURCES]
    made_by = [*compiler, real, processor(), *FLAGS]
    key = hashlib.sha256(b"\n".join([*texts, *map(str.encode, made_by)])).hexdigest()[:24]
    path = cache_dir() / "kernels" / f"{key}.so"
    if _whole(path):
        try:
            return ctypes.CDLL(str(path))
        except OSError:  # of another system that shares the folder
            path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock", timeout=LOCK_TIMEOUT):
        if not _whole(path):
            with tempfile.TemporaryDirectory(dir=path.parent) as folder:
                made = Path(folder) / path.name
                command = [*compiler, *FLAGS, f"-DREAL={real}", *map(str, SOURCES[1:]), "-o", str(made), "-lm"]
                subprocess.run(command, check=True, capture_output=True, text=True, errors="replace", timeout=300)
                _seal(made)
                made.replace(path)
    return ctypes.CDLL(str(path))


def _seal(path: Path) -> None:
    """Append the SHA-256 of a library to it, which a loader passes over, and have all of it on the disk."""
    with path.open("r+b") as file:
        digest = hashlib.sha256(file.read()).digest()
        file.write(digest)
        file.flush()
        os.fsync(file.fileno())


def _whole(path: Path) -> bool:
    """Whether a file is there and ends with the SHA-256 of the rest: to load half a library ends the process."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return False
    return hashlib.sha256(content[:-SEAL]).digest() == content[-SEAL:]
