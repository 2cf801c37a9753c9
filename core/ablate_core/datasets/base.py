"""The axis `data`: where samples come from and how they are shown."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ablate_core.component import Component


@dataclass(frozen=True)
class Samples:
    """A data set as tensors that can be indexed.

    Attributes:
        x: (N, *shape) float32, in the units the network is trained in. A data set read from disk piece by piece may
            keep it raw; `Dataset.batch` always gives network units.
        y: (N,) int64 class indices, or None for unlabelled data.
        num_classes: number of real classes; 0 for unlabelled data.
        identity: what this data set is, for keys and metric identity (name, version, split, count, sha256).
        log_variance: (N, *shape) where each sample is a Gaussian around x that `Dataset.batch` draws from.
    """

    x: Tensor
    y: Tensor | None
    num_classes: int
    identity: dict[str, str | int | float]
    log_variance: Tensor | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.x.shape[1:])


class Dataset(Component):
    """A data set's description. `load` reads it; the object itself is only its parameters."""

    name: str
    kind: ClassVar[str]
    """"images" or "points": decides which evaluation metrics and galleries make sense."""

    classes: ClassVar[int | None] = None
    """Number of real classes where the type alone decides it, 0 for unlabelled; None: known after `load`."""
    known_std: ClassVar[float | None] = None
    """Standard deviation in network units where the type alone decides it; None: measured after `load`."""

    coupled: ClassVar[bool] = False
    """True where each sample comes with a noise of its own (reflow), so that data and noise are not independent."""
    dimension: ClassVar[int | None] = None
    """Entries of one sample where the type alone decides it; None: known after `load`."""

    def preflight(self) -> None:
        """Cheap look whether the files can be there, before anything is started; nothing to do for embedded data.

        Raises:
            DataError: with one line that names the folder at fault.
        """

    @abc.abstractmethod
    def load(self) -> Samples:
        """All samples. Raises `DataError` with one line that names the folder or file at fault."""

    def batch(self, samples: Samples, index: Tensor, generator: torch.Generator) -> Tensor:
        """The samples at `index` (B,) int64, as (B, *shape) float32 in network units.

        `generator` (CPU) feeds augmentations; a data set without any leaves it alone.
        """
        return samples.x[index]

    @abc.abstractmethod
    def to_uint8(self, x: Tensor) -> Tensor:
        """Network units (B, C, H, W) -> displayable uint8 (B, C, H, W), rounded half up and clipped to 0..255."""


class DataError(ValueError):
    """A data set cannot be read; the message is one line that says what, where and how to mend it."""


def round_to_uint8(pixels: Tensor) -> Tensor:
    """Grey values -> uint8, rounded half up and clipped to 0..255."""
    return (pixels + 0.5).floor().clamp(0, 255).to(torch.uint8)
