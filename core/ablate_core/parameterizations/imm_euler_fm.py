"""Preconditioner `euler_fm` of inductive moment matching (arXiv 2503.07565; lumalabs/imm training/preconds.py)."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from ablate_core.parameterizations.base import AverageVelocity
from ablate_core.schedules.base import Schedule


class ImmEulerFm(AverageVelocity):
    """X_{t,r}(x) = x - (t - r) sigma_data F(x / (sigma_data sqrt(alpha^2 + sigma^2)), r, t)."""

    name: Literal["imm_euler_fm"] = "imm_euler_fm"
    sigma_data: float = Field(1.0, gt=0, description="standard deviation of data and of noise")

    @property
    def noise_std(self) -> float:
        return self.sigma_data

    @property
    def claimed_data_std(self) -> float | None:
        return self.sigma_data

    def input_scale(self, t: Tensor, schedule: Schedule) -> Tensor:
        point = schedule.at(t)
        return 1 / (self.sigma_data * torch.sqrt(point.alpha**2 + point.sigma**2))

    def output_scale(self, t: Tensor, schedule: Schedule, g: Tensor | None = None) -> Tensor | None:
        return None if self.sigma_data == 1 else torch.full_like(t, self.sigma_data)
