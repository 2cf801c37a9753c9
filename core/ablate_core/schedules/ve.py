"""Variance-exploding path, x_t = x0 + t e with the noise level itself as the time (EDM, arXiv 2206.00364)."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from ablate_core.schedules.base import Jump, PathPoint, Schedule, expand


class Ve(Schedule):
    """alpha = 1, sigma = t on [0, sigma_max]. The network is told ln(max(t, sigma_min)) / 4.

    A time in units of sigma_max, as in EDAPINENUT/ExplicitShortCut, shows the network [2.5e-5, 1] and makes all noise
    levels below 1 look alike (defect D30).
    """

    name: Literal["ve"] = "ve"
    sigma_min: float = Field(0.002, gt=0, description="noise levels below this look alike to the network")
    sigma_max: float = Field(80.0, gt=0, description="largest noise level; sampling starts there")
    straight: ClassVar[bool] = True
    exploding: ClassVar[bool] = True
    unit_time: ClassVar[bool] = False

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.sigma_min >= self.sigma_max:
            raise ValueError(f"ve needs sigma_min < sigma_max, got {self.sigma_min:g} and {self.sigma_max:g}")
        return self

    @property
    def end(self) -> float:
        return self.sigma_max

    def network_time(self, t: Tensor) -> Tensor:
        return torch.log(t.clamp(min=self.sigma_min)) / 4

    def at(self, t: Tensor) -> PathPoint:
        one = torch.ones_like(t)
        return PathPoint(one, t, torch.zeros_like(t), one)

    def interpolate(self, x0: Tensor, noise: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return x0 + expand(t, x0) * noise, noise

    def time_of_ratio(self, ratio: Tensor) -> Tensor:
        return ratio.clamp(max=self.sigma_max)

    def jump(self, t: Tensor, r: Tensor) -> Jump:
        return Jump(torch.ones_like(t), r - t)

    def d_jump(self, t: Tensor, r: Tensor) -> Jump:
        return Jump(torch.zeros_like(t), -torch.ones_like(t))
