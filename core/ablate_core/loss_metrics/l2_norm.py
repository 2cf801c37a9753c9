"""Euclidean norm of the error, softened (ECT, arXiv 2406.14548; locuslab/ect training/loss.py)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from ablate_core.loss_metrics.base import LossMetric, squared


class L2Norm(LossMetric):
    """sqrt(L + c^2) - c with L = sum err^2; c > 0 keeps the gradient finite at a zero error."""

    name: Literal["l2_norm"] = "l2_norm"
    c: float = Field(0.06, gt=0, description="length below which the error counts squared")

    def distance(self, prediction: Tensor, target: Tensor, *, group: int, reach: Tensor) -> Tensor:
        loss = squared(prediction, target)
        return loss / ((loss + self.c**2).sqrt() + self.c)
