"""Linear path x_t = (1 - t) x0 + t e (rectified flow, arXiv 2209.03003). DDIM and Euler steps coincide on it."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from ablate_core.schedules.base import Jump, PathPoint, Schedule, expand


class Linear(Schedule):
    """alpha = 1 - t, sigma = t."""

    name: Literal["linear"] = "linear"
    straight: ClassVar[bool] = True

    def at(self, t: Tensor) -> PathPoint:
        one = torch.ones_like(t)
        return PathPoint(1 - t, t, -one, one)

    def interpolate(self, x0: Tensor, noise: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return expand(1 - t, x0) * x0 + expand(t, x0) * noise, noise - x0

    def ratio(self, t: Tensor) -> Tensor:
        return t / (1 - t)

    def time_of_ratio(self, ratio: Tensor) -> Tensor:
        return (ratio / (1 + ratio)).masked_fill(torch.isinf(ratio), 1.0)

    def jump(self, t: Tensor, r: Tensor) -> Jump:
        return Jump(torch.ones_like(t), r - t)

    def d_jump(self, t: Tensor, r: Tensor) -> Jump:
        return Jump(torch.zeros_like(t), -torch.ones_like(t))
