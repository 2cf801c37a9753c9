"""Variance-preserving path with sigma = t: x_t = sqrt(1 - t^2) x0 + t e (design-space 2.1)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from ablate_core.schedules.base import Jump, PathPoint, Schedule


class VpSqrt(Schedule):
    """alpha = sqrt(1 - t^2), sigma = t on [0, t_max].

    alpha' = -t / alpha is singular at t = 1, so times end at `t_max` and sampling starts there. The DDIM coefficients
    are written in a form without the singularity: with W = 1 / alpha_t, keep = alpha_t alpha_r + sigma_t sigma_r and
    move = alpha_t (sigma_r alpha_t - sigma_t alpha_r).
    """

    name: Literal["vp_sqrt"] = "vp_sqrt"
    t_max: float = Field(0.99995, gt=0, lt=1, description="largest time; sigma / alpha is 100 there")

    circular: ClassVar[bool] = True

    @property
    def end(self) -> float:
        return self.t_max

    def at(self, t: Tensor) -> PathPoint:
        alpha = torch.sqrt((1 - t) * (1 + t))
        return PathPoint(alpha, t, -t / alpha, torch.ones_like(t))

    def time_of_ratio(self, ratio: Tensor) -> Tensor:
        return torch.sin(torch.arctan(ratio)).clamp(max=self.t_max)

    def jump(self, t: Tensor, r: Tensor) -> Jump:
        at_t, at_r = self.at(t), self.at(r)
        keep = at_t.alpha * at_r.alpha + at_t.sigma * at_r.sigma
        return Jump(keep, at_t.alpha * (at_r.sigma * at_t.alpha - at_t.sigma * at_r.alpha))
