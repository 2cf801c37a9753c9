"""Squared error divided by a power of itself (MeanFlow, arXiv 2505.13447, eq. 22; ECT's form for p = 1/2).

For p > 0 it does not estimate a mean: it minimises about E log(L + c), which matters in low dimension.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from ablate_core.loss_metrics.base import LossMetric, squared
from ablate_core.loss_metrics.l2_sum import L2Sum


class Adaptive(LossMetric):
    """L / sg(L + c)^p with L = sum err^2."""

    name: Literal["adaptive"] = "adaptive"
    p: float = Field(1.0, ge=0, description="power; 0 is l2_sum")
    c: float = Field(1e-3, gt=0, description="added to L")

    @property
    def self_normalizing(self) -> bool:
        return self.p >= 1

    def simplest(self) -> LossMetric:
        return self if self.p else L2Sum()

    def distance(self, prediction: Tensor, target: Tensor, *, group: int, reach: Tensor) -> Tensor:
        loss = squared(prediction, target)
        return loss / (loss.detach() + self.c) ** self.p
