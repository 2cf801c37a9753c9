"""Parabolic path x_t = (1 - t^2) x0 + t e: an example, from no publication."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ablate_core.schedules.base import PathPoint, Schedule


class Parabola(Schedule):
    """alpha = 1 - t^2, sigma = t; the wronskian is 1 + t^2, the signal goes late and the noise comes evenly."""

    name: Literal["parabola"] = "parabola"

    def at(self, t: Tensor) -> PathPoint:
        return PathPoint(1 - t**2, t, -2 * t, torch.ones_like(t))

    def time_of_ratio(self, ratio: Tensor) -> Tensor:
        """The root in [0, 1] of t = ratio (1 - t^2), written with 1 / ratio so that 0 and infinity need no case."""
        inverse = 1 / ratio
        return 2 / (inverse + torch.sqrt(inverse**2 + 4))
