"""The adaptive metric on L^2 (zhuyu-cs/MeanFlow loss.py:222; "adaptive" in the ESC consistency and sCM losses).

Its gradient at p = 1 is 2L / (L^2 + c): twice that of `adaptive` for L >> .03, far smaller below (defect D14).
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from ablate_core.loss_metrics.base import LossMetric, squared


class AdaptiveSq(LossMetric):
    """L^2 / sg(L^2 + c)^p with L = sum err^2."""

    name: Literal["adaptive_sq"] = "adaptive_sq"
    p: float = Field(1.0, ge=0, description="power")
    c: float = Field(1e-3, gt=0, description="added to L^2")

    @property
    def self_normalizing(self) -> bool:
        return self.p >= 1

    def distance(self, prediction: Tensor, target: Tensor, *, group: int, reach: Tensor) -> Tensor:
        square = squared(prediction, target).square()
        return square / (square.detach() + self.c) ** self.p
