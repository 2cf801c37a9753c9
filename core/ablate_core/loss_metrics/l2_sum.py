"""Summed squared error: `l2_mean` times D; the reference calls both "l2" (defect D14)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from ablate_core.loss_metrics.base import LossMetric, squared


class L2Sum(LossMetric):
    """sum err^2."""

    name: Literal["l2_sum"] = "l2_sum"

    def distance(self, prediction: Tensor, target: Tensor, *, group: int, reach: Tensor) -> Tensor:
        return squared(prediction, target)
