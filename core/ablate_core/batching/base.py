"""The axis `batching`: which samples share a batch (design-space 2.15)."""

from __future__ import annotations

import abc
from typing import ClassVar

import torch
from torch import Tensor

from ablate_core.component import Component


class Batching(Component):
    """A rule that orders one pass over the data."""

    name: str
    one_class: ClassVar[bool] = False
    """True where every batch holds one class only."""

    @abc.abstractmethod
    def epoch(self, n: int, y: Tensor | None, batch_size: int, generator: torch.Generator) -> Tensor:
        """Indices of one pass, (batches, batch_size) int64 on the CPU, at least one batch.

        Args:
            n: number of samples.
            y: their classes, (n,) int64, or None for unlabelled data.
            batch_size: samples per batch.
            generator: CPU generator of this pass, derived from (seed, "data", pass).

        Raises:
            ValueError: where the data cannot be batched this way.
        """
