"""Squared error divided by a power of itself (MeanFlow, arXiv 2505.13447, eq. 22; ECT's form for p = 1/2).

For p > 0 it does not estimate a mean: it minimises about E log(L + c), which matters in low dimension.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from ablate_core.loss_metrics.base import LossMetric, squared
from ablate_core.loss_metrics.l2_mean import L2Mean
from ablate_core.loss_metrics.l2_sum import L2Sum


class Adaptive(LossMetric):
    """L / sg(L + c)^p with L = sum err^2, or with its mean over the D entries."""

    name: Literal["adaptive"] = "adaptive"
    p: float = Field(1.0, ge=0, description="power; 0 is l2_sum or l2_mean")
    c: float = Field(1e-3, gt=0, description="added to L")
    reduce: Literal["sum", "mean"] = Field(
        "sum", json_schema_extra={"neutral": "sum"}, description="L: sum of squares, or their mean (AlphaFlow)"
    )

    @property
    def self_normalizing(self) -> bool:
        return self.p >= 1

    def simplest(self) -> LossMetric:
        if self.p:
            return self
        return L2Sum() if self.reduce == "sum" else L2Mean()

    def distance(self, prediction: Tensor, target: Tensor, *, group: int, reach: Tensor) -> Tensor:
        loss = squared(prediction, target)
        if self.reduce == "mean":
            loss = loss / prediction.shape[1:].numel()
        return loss / (loss.detach() + self.c) ** self.p
