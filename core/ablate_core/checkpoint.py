"""Checkpoints that survive a kill at any moment: written aside, forced to disk, then renamed into place.

The one before the newest is kept. A file that cannot be read (cut short, flipped bits, an empty file after a power
cut) is passed over for the other one. Only tensors, numbers and text are inside, and only those are ever unpickled.
"""

from __future__ import annotations

import os
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel

from ablate_core.config import TrialConfig
from ablate_core.identity import content_id

CURRENT = "checkpoint.pt"
PREVIOUS = "checkpoint.previous.pt"
UNREADABLE = "checkpoint.unreadable.pt"


def save_checkpoint(folder: Path, state: dict[str, Any]) -> Path:
    """Write `state` as the newest checkpoint of `folder`; the newest so far becomes the previous one."""
    folder.mkdir(parents=True, exist_ok=True)
    current, aside = folder / CURRENT, folder / f"{CURRENT}.{os.getpid()}.tmp"
    try:
        with aside.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        if current.exists():
            os.replace(current, folder / PREVIOUS)
        os.replace(aside, current)
    finally:
        aside.unlink(missing_ok=True)
    _sync_folder(folder)
    return current


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The newest readable checkpoint of `folder`, on the CPU; None where there is none.

    Warns (UserWarning, one line) about every file that is there and cannot be read.
    """
    for name in (CURRENT, PREVIOUS):
        path = folder / name
        if not path.exists():
            continue
        try:
            with zipfile.ZipFile(path) as archive:  # torch stores checksums and does not look at them
                if (damaged := archive.testzip()) is not None:
                    raise zipfile.BadZipFile(f"wrong checksum of {damaged}")
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            return state
        except (zipfile.BadZipFile, RuntimeError, OSError, EOFError, ValueError, pickle.UnpicklingError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            warnings.warn(f"cannot read the checkpoint {path} ({reason}); going back to an older one", stacklevel=2)
            os.replace(path, folder / UNREADABLE)  # else the next save would put it over the good one
    return None


def training_id(config: TrialConfig) -> str:
    """What must be equal for a checkpoint to be continued: the config without its evaluation and nuisance fields."""
    return content_id(_without_nuisance(config, config.resolved(), ("eval",)))


def require_same_trial(state: Mapping[str, Any], config: TrialConfig, folder: Path) -> None:
    """Raises ValueError where `state`, read from `folder`, belongs to another trial than `config`."""
    if state["trial"] != training_id(config):
        raise ValueError(f"{folder} holds the checkpoint of another trial; give every trial a folder of its own")


def _without_nuisance(model: BaseModel, dumped: dict[str, Any], drop: tuple[str, ...] = ()) -> dict[str, Any]:
    """`dumped` without the fields that are marked as nuisance in the model's schema, at every level."""
    kept = {}
    for name, field in type(model).model_fields.items():
        extra = field.json_schema_extra
        if name in drop or (isinstance(extra, dict) and extra.get("nuisance")) or name not in dumped:
            continue
        value = getattr(model, name)
        kept[name] = _without_nuisance(value, dumped[name]) if isinstance(value, BaseModel) else dumped[name]
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
