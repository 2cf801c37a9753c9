"""Trigonometric path in radians, x_t = cos(t) x0 + sin(t) e on [0, pi / 2] (TrigFlow, arXiv 2410.11081)."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ablate_core.schedules.base import Jump, PathPoint, Schedule


class Trig(Schedule):
    """alpha = cos t, sigma = sin t; the states of `cosine01`, velocities per radian, 2 / pi times as large."""

    name: Literal["trig"] = "trig"
    circular: ClassVar[bool] = True
    unit_time: ClassVar[bool] = False

    @property
    def end(self) -> float:
        return math.pi / 2

    def at(self, t: Tensor) -> PathPoint:
        cos, sin = torch.cos(t), torch.sin(t)
        return PathPoint(cos, sin, -sin, cos)

    def time_of_ratio(self, ratio: Tensor) -> Tensor:
        return torch.arctan(ratio)

    def jump(self, t: Tensor, r: Tensor) -> Jump:
        return Jump(torch.cos(r - t), torch.sin(r - t))

    def d_jump(self, t: Tensor, r: Tensor) -> Jump:
        return Jump(torch.sin(r - t), -torch.cos(r - t))
