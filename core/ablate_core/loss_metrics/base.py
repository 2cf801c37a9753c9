"""The axis `metric`: the distance of prediction and target (design-space 2.11). Evaluated numbers are another thing."""

from __future__ import annotations

import abc
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from ablate_core.component import Component


class LossMetric(Component):
    """A distance, one number per row."""

    name: str
    needs_groups: ClassVar[bool] = False
    """True where rows that share their times are compared as a set of states (C6)."""
    needs_images: ClassVar[bool] = False
    """True where prediction and target must be clean images in pixels (C5)."""
    needs_weights: ClassVar[bool] = False
    """True where it reads trained weights from a file."""

    @property
    def self_normalizing(self) -> bool:
        """True where the loss of every row is divided by (a power of) itself (C13, C14)."""
        return False

    def preflight(self) -> None:
        """Cheap look whether its files can be there; nothing to do for most. Raises ValueError, one line."""

    def prepare(self) -> None:
        """Read its files, before any training is paid for. Raises ValueError, one line."""

    @abc.abstractmethod
    def distance(self, prediction: Tensor, target: Tensor, *, group: int, reach: Tensor) -> Tensor:
        """Distance per row.

        Args:
            prediction: (B, *shape), with a graph.
            target: (B, *shape), without one.
            group: number of neighbouring rows that share their times; divides B.
            reach: |move(t, r)| c_out, (B,), the length of the jump in units of the network's output; t - r for `u`.

        Returns:
            (B,), each at least 0 up to rounding. A metric of a group gives every row of it the group's number.
        """


def squared(prediction: Tensor, target: Tensor) -> Tensor:
    """L = sum of squared errors per row, (B, *shape) x 2 -> (B,)."""
    return F.mse_loss(prediction, target, reduction="none").flatten(1).sum(1)
