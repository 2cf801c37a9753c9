"""Pseudo-Huber distance of improved consistency training (iCT, arXiv 2310.14189, eq. 7), on the norm (defect D26)."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field
from torch import Tensor

from ablate_core.loss_metrics.base import LossMetric, squared


class PseudoHuber(LossMetric):
    """sqrt(L + c^2) - c with L = sum err^2 and c = factor sqrt(D)."""

    name: Literal["pseudo_huber"] = "pseudo_huber"
    factor: float = Field(0.00054, gt=0, description="c / sqrt(D)")

    def distance(self, prediction: Tensor, target: Tensor, *, group: int, reach: Tensor) -> Tensor:
        loss, c = squared(prediction, target), self.factor * math.sqrt(prediction.shape[1:].numel())
        return loss / ((loss + c**2).sqrt() + c)  # equals sqrt(L + c^2) - c without the cancellation
