"""Mean absolute error (one of the metrics of consistency models, arXiv 2303.01469)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from ablate_core.loss_metrics.base import LossMetric


class L1Mean(LossMetric):
    """sum |err| / D."""

    name: Literal["l1_mean"] = "l1_mean"

    def distance(self, prediction: Tensor, target: Tensor, *, group: int, reach: Tensor) -> Tensor:
        return (prediction - target).abs().flatten(1).mean(1)
