"""Mean squared error. Its minimiser is the mean of the targets, unlike that of `adaptive`."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from ablate_core.loss_metrics.base import LossMetric, squared


class L2Mean(LossMetric):
    """sum err^2 / D."""

    name: Literal["l2_mean"] = "l2_mean"

    def distance(self, prediction: Tensor, target: Tensor, *, group: int, reach: Tensor) -> Tensor:
        return squared(prediction, target) / prediction.shape[1:].numel()
