"""Weights files in the format of `lpips`, with random numbers: the real ones are not shipped."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ablate_core.fid.files import file_sha256
from ablate_core.loss_metrics.lpips import BLOCKS

PUBLISHED = (64, 128, 256, 512, 512)
_KEPT: list[tempfile.TemporaryDirectory[str]] = []


def random_weights(widths: tuple[int, ...] = PUBLISHED, seed: int = 0) -> dict[str, Tensor]:
    """VGG16 features of the given widths per block, and their heads, which are not negative."""
    g, channels, stored = torch.Generator().manual_seed(seed), 3, {}
    for i, (block, width) in enumerate(zip(BLOCKS, widths, strict=True)):
        for place in block:
            stored[f"features.{place}.weight"] = torch.randn(width, channels, 3, 3, generator=g) / (3 * channels**0.5)
            stored[f"features.{place}.bias"] = 0.1 * torch.randn(width, generator=g)
            channels = width
        stored[f"lin{i}.model.1.weight"] = torch.rand(1, width, 1, 1, generator=g)
    return stored


def save(stored: dict[str, Any], path: Path) -> dict[str, Any]:
    """The file, and the fields that name it."""
    torch.save(stored, path)
    return {"weights": str(path), "sha256": file_sha256(path)}


@cache
def narrow_lpips() -> dict[str, Any]:
    """`lpips` on a small network of its format, in a file that lives as long as this process."""
    _KEPT.append(tempfile.TemporaryDirectory())
    return {"name": "lpips", "size": 16, **save(random_weights((4, 4, 6, 6, 8)), Path(_KEPT[-1].name) / "narrow.pt")}
