"""What a feature extractor is, and its canary: a fixed batch whose features show a drift that no hash shows."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ablate_core.fid import MetricError
from ablate_core.fid.canary import CANARY_RTOL


class Extractor(Protocol):
    """Maps uint8 images to features; `definition` says which network on which pixels, for the metric's identity."""

    @property
    def dims(self) -> int: ...

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """A shape (C, H, W) of images it takes; the canary has it."""
        ...

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        ...

    @property
    def canary(self) -> NDArray[np.float32]:
        """Features of the canary batch when it was loaded, (4, dims)."""
        ...

    def definition(self) -> dict[str, Any]: ...

    def on_device(self, images: Tensor) -> Tensor:
        """As `features`, left on `device`: uint8 images (B, C, H, W) -> float32 (B, dims)."""
        ...

    def features(self, images: Tensor) -> NDArray[np.float32]:
        """uint8 images (B, C, H, W) -> features (B, dims). Raises MetricError on images it does not take."""
        ...


def canary_batch(shape: tuple[int, int, int], count: int = 4) -> Tensor:
    """The fixed synthetic uint8 images (count, *shape): slanted ramps, the same on every machine."""
    c, h, w = shape
    b, ch, y, x = np.ogrid[:count, :c, :h, :w]
    return torch.from_numpy(((y * (17 + 6 * b) + x * (11 + 4 * b) + 53 * ch + 29 * b) % 256).astype(np.uint8))


def canary(extractor: Extractor) -> NDArray[np.float32]:
    """Features of the canary batch, (4, dims)."""
    return extractor.features(canary_batch(extractor.image_shape))


def check_canary(extractor: Extractor, expected: NDArray[np.float32], where: str) -> NDArray[np.float32]:
    """Compare today's canary with a stored one, relative to the size of the features.

    Args:
        extractor: the extractor about to be used.
        expected: features of the canary batch from the time the stored numbers were made, (4, dims).
        where: what the stored canary belongs to, for the message.

    Returns:
        Today's.

    Raises:
        MetricError: the features differ by more than `CANARY_RTOL`: TF32, a driver, Pillow or the weights changed.
    """
    now = canary(extractor)
    if now.shape != expected.shape:
        raise MetricError(
            f"{where}: the canary has features of shape {expected.shape}, the extractor gives {now.shape}"
        )
    scale = float(np.abs(expected).max())
    off = float(np.abs(now.astype(np.float64) - expected).max()) / (scale or 1.0)
    if not off <= CANARY_RTOL:  # also true for NaN
        raise MetricError(
            f"{where}: features of the fixed test images moved by {off:.1e} (allowed {CANARY_RTOL:.0e}); "
            "numbers would not be comparable: check TF32, Pillow and torch versions, or use a new cache folder"
        )
    return now
