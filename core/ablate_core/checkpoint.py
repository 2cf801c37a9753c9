"""Checkpoints that survive a kill at any moment: written aside, forced to disk, then renamed into place.

The one before the newest is kept. A file that cannot be read (cut short, flipped bits, an empty file after a power
cut) is passed over for the other one. Only tensors, numbers and text are inside, and only those are ever unpickled.

Snapshots of averages (`posthoc_ema`) lie beside the checkpoint, one file per step, written the same way and before the
checkpoint of that step: a trial that resumes from a checkpoint has all snapshots up to it, and writes those after it
again, equal bit for bit.
"""

from __future__ import annotations

import os
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from torch import Tensor

from ablate_core.config import TrialConfig
from ablate_core.identity import content_id, same_as

CURRENT = "checkpoint.pt"
PREVIOUS = "checkpoint.previous.pt"
UNREADABLE = "checkpoint.unreadable.pt"
SNAPSHOTS = "snapshots"


def save_checkpoint(folder: Path, state: dict[str, Any]) -> Path:
    """Write `state` as the newest checkpoint of `folder`; the newest so far becomes the previous one."""
    return _write(folder / CURRENT, state, keep=folder / PREVIOUS)


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The newest readable checkpoint of `folder`, on the CPU; None where there is none.

    Warns (UserWarning, one line) about every file that is there and cannot be read.
    """
    for name in (CURRENT, PREVIOUS):
        path = folder / name
        if not path.exists():
            continue
        try:
            return _read(path)
        except UnreadableError as error:
            warnings.warn(f"cannot read the checkpoint {path} ({error}); going back to an older one", stacklevel=2)
            os.replace(path, folder / UNREADABLE)  # else the next save would put it over the good one
    return None


def save_snapshot(folder: Path, step: int, trial: str, averages: Mapping[str, Any]) -> Path:
    """Write the averages of `step` beside the checkpoint of the trial whose `training_id` is `trial`."""
    return _write(_snapshot(folder, step), {"format": 1, "trial": trial, "step": step, "averages": dict(averages)})


def load_snapshot(folder: Path, step: int, trial: str) -> dict[str, Any]:
    """The averages of `step`, on the CPU.

    Raises:
        ValueError: the file is missing, damaged or another trial's.
    """
    path = _snapshot(folder, step)
    try:
        state = _read(path)
    except UnreadableError as error:
        raise ValueError(
            f"{path}: cannot be read ({error}); only a new training of the trial makes it again"
        ) from error
    if state["trial"] != trial or state["step"] != step:
        raise ValueError(f"{path} holds averages of another trial; give every trial a folder of its own")
    averages: dict[str, Any] = state["averages"]
    return averages


class UnreadableError(Exception):
    """A file that is not there, or is not what was written."""


def _snapshot(folder: Path, step: int) -> Path:
    return folder / SNAPSHOTS / f"{step:08d}.pt"


def _write(path: Path, state: dict[str, Any], keep: Path | None = None) -> Path:
    """Write `state` so that `path` is the old file or the new one at any moment; the old one moves to `keep`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with aside.open("wb") as file:
            torch.save(_without_neighbours(state), file)
            file.flush()
            os.fsync(file.fileno())
        if keep is not None and path.exists():
            os.replace(path, keep)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    _sync_folder(path.parent)
    return path


def _without_neighbours(value: Any) -> Any:
    """`value` with parts of larger tensors copied: torch saves the whole tensor, of all trials of a pack, with them.

    Copies are on the CPU: a device may have no room for a second state.
    """
    if isinstance(value, Tensor):
        part = value.untyped_storage().nbytes() > value.numel() * value.element_size()
        return value.detach().to("cpu", copy=True) if part else value
    if isinstance(value, Mapping):
        return {name: _without_neighbours(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_without_neighbours(part) for part in value)
    return value


def _read(path: Path) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as archive:  # torch stores checksums and does not look at them
            if (damaged := archive.testzip()) is not None:
                raise zipfile.BadZipFile(f"wrong checksum of {damaged}")
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return state
    except MemoryError:
        raise
    except Exception as error:  # a flipped bit names another compression, offset or record: any reader's own error
        raise UnreadableError((str(error).splitlines() or [type(error).__name__])[0]) from error


def training_id(config: TrialConfig) -> str:
    """What must be equal for a checkpoint to be continued: the config without its evaluation and nuisance fields."""
    return content_id(_without_nuisance(config, config.resolved(), ("eval",)))


def require_same_trial(state: Mapping[str, Any], config: TrialConfig, folder: Path) -> None:
    """Raises ValueError where `state`, read from `folder`, belongs to another trial than `config`."""
    if state["trial"] != training_id(config):
        raise ValueError(f"{folder} holds the checkpoint of another trial; give every trial a folder of its own")


def _without_nuisance(model: BaseModel, dumped: dict[str, Any], drop: tuple[str, ...] = ()) -> dict[str, Any]:
    """`dumped` without fields marked as nuisance, and without those added later that stand at their neutral value."""
    kept = {}
    for name, field in type(model).model_fields.items():
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        value = getattr(model, name)
        neutral = "neutral" in extra and extra["neutral"] == value
        if name in drop or extra.get("nuisance") or neutral or name not in dumped:
            continue
        if isinstance(value, BaseModel):
            kept[name] = _without_nuisance(value, dumped[name])
        else:
            kept[name] = same_as(model, name) if "same" in extra else dumped[name]
    return kept


def _sync_folder(folder: Path) -> None:
    """Force the renames to disk where the system can (not on Windows)."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
