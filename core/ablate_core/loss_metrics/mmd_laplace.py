"""Maximum mean discrepancy with a Laplace kernel inside groups (IMM, arXiv 2503.07565).

rosinality/inductive-moment-matching src/imm/loss.py. One bandwidth and one number per group: the reference of ESC
applied every group's bandwidth to every group (defect D7).
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from ablate_core.loss_metrics.base import LossMetric


class MmdLaplace(LossMetric):
    """1/M^2 sum_jk [k(y_j, y_k) + k(y'_j, y'_k) - 2 k(y_j, y'_k)], k(a, b) = exp(-w max(|a - b|, floor) / D).

    w = 1 / (reach + eps). It is a V-statistic: positive also at the exact map.
    """

    name: Literal["mmd_laplace"] = "mmd_laplace"
    floor: float = Field(1e-8, gt=0, description="smallest distance; the reference of ESC has 1e-4")
    eps: float = Field(1e-6, ge=0, description="added to the length of the jump in the bandwidth")
    needs_groups: ClassVar[bool] = True

    def kernel(self, a: Tensor, b: Tensor, w: Tensor) -> Tensor:
        """Gram matrices of (G, M, D) against (G, N, D) with bandwidths (G,): (G, M, N)."""
        square = (a[:, :, None] - b[:, None]).square().sum(-1)
        distance = square.clamp(min=self.floor**2).sqrt()
        return torch.exp(-w[:, None, None] * distance / a.shape[-1])

    def distance(self, prediction: Tensor, target: Tensor, *, group: int, reach: Tensor) -> Tensor:
        y, aim = (x.reshape(-1, group, x.shape[1:].numel()) for x in (prediction, target))
        w = 1 / (reach[::group] + self.eps)
        both = self.kernel(y, torch.cat([y, aim], 1), w)
        gram = both[:, :, :group] + self.kernel(aim, aim, w) - 2 * both[:, :, group:]
        return gram.mean((1, 2)).repeat_interleave(group)
