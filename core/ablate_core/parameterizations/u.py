"""F is the average velocity: X_{t,r}(x) = x + (r - t) F(x, r, t) on any path (MeanFlow, arXiv 2505.13447, eq. 3)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ablate_core.parameterizations.base import Parameterization
from ablate_core.schedules.base import Jump, Schedule


class U(Parameterization):
    """The network's output is the average velocity itself; no scaling anywhere."""

    name: Literal["u"] = "u"

    def input_scale(self, t: Tensor, schedule: Schedule) -> None:
        return None

    def output_scale(self, t: Tensor) -> None:
        return None

    def jump(self, schedule: Schedule, t: Tensor, r: Tensor) -> Jump:
        return Jump(torch.ones_like(t), r - t)

    def d_jump(self, schedule: Schedule, t: Tensor, r: Tensor) -> Jump:
        return Jump(torch.zeros_like(t), -torch.ones_like(t))

    def average(self, velocity: Tensor, x: Tensor, schedule: Schedule, t: Tensor, r: Tensor) -> Tensor:
        return velocity
