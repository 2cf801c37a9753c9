"""Weights that were trained elsewhere and are read from a file: found, checked, read. Every fault is one line.

A file's path says where it lies on one machine; its SHA-256 says which weights it holds, and is what keys are made of.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from ablate_core.fid.files import file_sha256


def find(where: str, path: str | None, sha256: str | None, what: str) -> Path:
    """The file at `path`, without reading it.

    Args:
        where: dotted path of the field that names the file; its neighbour is ``sha256``.
        path: the file; a relative path counts from the working folder.
        sha256: which weights are meant, 64 hex digits.
        what: the kind of file, to end the sentence "give the path of".

    Raises:
        ValueError: no file is named or found, or nothing says which weights are meant.
    """
    if path is None:
        raise ValueError(f"{where}: no file is named; give the path of {what}")
    file = Path(path).expanduser()
    if not file.is_file():
        raise ValueError(f"{where}: there is no file {path!r}; give the path of {what}")
    if sha256 is None:
        hashed = file_sha256(file)
        raise ValueError(f"{_neighbour(where)}: say which weights are meant; {path!r} has {hashed}")
    return file


def read(where: str, path: str | None, sha256: str | None, what: str) -> dict[str, Any]:
    """What torch saved in the file, on the CPU; only tensors, numbers and text are ever unpickled.

    Raises:
        ValueError: as `find`; or the file holds other weights than `sha256`, or is no such file.
    """
    file = find(where, path, sha256, what)
    hashed = file_sha256(file)
    if hashed != sha256:
        raise ValueError(f"{_neighbour(where)}: {path!r} has {hashed}, other weights than the {sha256} that are meant")
    try:
        stored = torch.load(file, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, EOFError, ValueError, pickle.UnpicklingError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{where}: {path!r} is not {what} ({reason})") from error
    if not isinstance(stored, dict):
        raise ValueError(f"{where}: {path!r} is not {what}, it holds a {type(stored).__name__}")
    return stored


def _neighbour(where: str) -> str:
    return f"{where.rpartition('.')[0]}.sha256"
