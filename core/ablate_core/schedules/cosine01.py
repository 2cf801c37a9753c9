"""Cosine path x_t = cos(pi t / 2) x0 + sin(pi t / 2) e on [0, 1] (TrigFlow in unit time, arXiv 2410.11081)."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ablate_core.schedules.base import Jump, PathPoint, Schedule

HALF_PI = math.pi / 2


class Cosine01(Schedule):
    """alpha = cos(pi t / 2), sigma = sin(pi t / 2); the network's velocity is per unit t, pi / 2 times TrigFlow's."""

    name: Literal["cosine01"] = "cosine01"
    circular: ClassVar[bool] = True

    def at(self, t: Tensor) -> PathPoint:
        cos, sin = torch.cos(HALF_PI * t), torch.sin(HALF_PI * t)
        return PathPoint(cos, sin, -HALF_PI * sin, HALF_PI * cos)

    def time_of_ratio(self, ratio: Tensor) -> Tensor:
        return torch.arctan(ratio) / HALF_PI

    def jump(self, t: Tensor, r: Tensor) -> Jump:
        angle = HALF_PI * (r - t)
        return Jump(torch.cos(angle), torch.sin(angle) / HALF_PI)

    def d_jump(self, t: Tensor, r: Tensor) -> Jump:
        angle = HALF_PI * (r - t)
        return Jump(HALF_PI * torch.sin(angle), -torch.cos(angle))
