"""The axis `data`: where samples come from and how they are shown."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ablate_core.component import Component


@dataclass(frozen=True)
class Samples:
    """A data set as tensors that can be indexed.

    Attributes:
        x: (N, *shape) float32, in the units the network is trained in.
        y: (N,) int64 class indices, or None for unlabelled data.
        num_classes: number of real classes; 0 for unlabelled data.
        identity: what this data set is, for keys and metric identity (name, version, split, count, sha256).
    """

    x: Tensor
    y: Tensor | None
    num_classes: int
    identity: dict[str, str | int | float]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.x.shape[1:])


class Dataset(Component):
    """A data set's description. `load` reads it; the object itself is only its parameters."""

    name: str
    kind: ClassVar[str]
    """"images" or "points": decides which evaluation metrics and galleries make sense."""

    @abc.abstractmethod
    def load(self) -> Samples:
        """All samples. Raises `DataError` with one line that names the folder or file at fault."""

    @abc.abstractmethod
    def to_uint8(self, x: Tensor) -> Tensor:
        """Network units (B, C, H, W) -> displayable uint8 (B, C, H, W), rounded half up and clipped to 0..255."""


class DataError(ValueError):
    """A data set cannot be read; the message is one line that says what, where and how to mend it."""
