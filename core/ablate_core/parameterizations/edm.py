"""F in EDM's preconditioner with the boundary of consistency models: X = c_skip x + c_out F (arXiv 2303.01469).

openai/consistency_models cm/karras_diffusion.py get_scalings_for_boundary_condition; locuslab/ect
training/networks.py:678-718 has no sigma_min while it trains.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from ablate_core.parameterizations.base import Parameterization, average_of_jump
from ablate_core.schedules.base import Jump, Schedule


class Edm(Parameterization):
    """c_skip = sd^2 / ((sigma - sigma_min)^2 + sd^2), c_out = (sigma - sigma_min) sd / sqrt(sigma^2 + sd^2).

    The map always lands at sigma_min and ignores r (C3); there c_skip is 1 and c_out is 0, exactly. V is c_out F, keep
    is c_skip and move is 1. The network sees x / sqrt(sigma^2 + sd^2).
    """

    name: Literal["edm"] = "edm"
    sigma_data: float = Field(1.0, gt=0, description="standard deviation of the data")
    sigma_min: float = Field(0.002, ge=0, description="noise level the map lands at; 0 in ECT")
    fixed_landing: ClassVar[bool] = True
    paths: ClassVar[Literal["any", "exploding", "circular", "unit_time"]] = "exploding"

    @property
    def claimed_data_std(self) -> float | None:
        return self.sigma_data

    def lands_at(self, r: float) -> float:
        return self.sigma_min

    def input_scale(self, t: Tensor, schedule: Schedule) -> Tensor:
        return torch.rsqrt(schedule.at(t).sigma ** 2 + self.sigma_data**2)

    def output_scale(self, t: Tensor, schedule: Schedule, g: Tensor | None = None) -> Tensor:
        sigma = schedule.at(t).sigma
        return (sigma - self.sigma_min) * self.sigma_data * torch.rsqrt(sigma**2 + self.sigma_data**2)

    def jump(self, schedule: Schedule, t: Tensor, r: Tensor) -> Jump:
        sigma = schedule.at(t).sigma
        keep = self.sigma_data**2 / ((sigma - self.sigma_min) ** 2 + self.sigma_data**2)
        return Jump(keep, torch.ones_like(t))

    def average(self, velocity: Tensor, x: Tensor, schedule: Schedule, t: Tensor, r: Tensor) -> Tensor:
        return average_of_jump(self.jump(schedule, t, r), velocity, x, t, r)
