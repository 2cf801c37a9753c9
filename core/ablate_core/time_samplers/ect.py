"""Log-normal noise level and a step that shrinks in stages (ECT, arXiv 2406.14548; locuslab/ect training/loss.py)."""

from __future__ import annotations

import math
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from ablate_core.random import Draws
from ablate_core.schedules.base import Schedule
from ablate_core.time_samplers.base import TimeSample, TimeSampler, apart
from ablate_core.time_samplers.noise_grid import largest_ratio

SMALLEST_STEP = 1e-5
"""Smallest (t - s) / t in sigma that times in float32 still resolve."""


class Ect(TimeSampler):
    """sigma_t = exp(mu + sd z), sigma_s = max(0, sigma_t [1 - q^-(stage + 1) (1 + k sigmoid(-b sigma_t))]), r = 0.

    The stage rises at equal parts of the training (every so many images in the original). At low noise sigma_s is 0
    and the target is the data itself. q = 256 with one stage is the original's fixed step.
    """

    name: Literal["ect"] = "ect"
    mu: float = Field(-1.1, description="mean of log sigma")
    sd: float = Field(2.0, gt=0, description="standard deviation of log sigma")
    q: float = Field(2.0, gt=1, description="factor by which the step shrinks from one stage to the next")
    stages: int = Field(8, ge=1, description="equal parts of the training")
    k: float = Field(8.0, ge=0, description="widening of the step at low noise")
    b: float = Field(1.0, gt=0, description="how fast the widening ends as sigma grows")
    intermediate: ClassVar[bool] = True
    random_landing_time: ClassVar[bool] = False
    any_path: ClassVar[bool] = True

    @model_validator(mode="after")
    def _resolved(self) -> Self:
        if self.q**-self.stages < SMALLEST_STEP:
            most = max(1, math.floor(-math.log(SMALLEST_STEP) / math.log(self.q)))
            raise ValueError(
                f"ect: a step of q^-{self.stages} = {self.q**-self.stages:.1g} is lost to rounding;"
                f" with q = {self.q:g} at most {most} stages"
            )
        return self

    def stage(self, step: int, total_steps: int) -> int:
        """The stage at `step`, from 0."""
        return min(self.stages - 1, self.stages * step // total_steps)

    def lower(self, sigma: Tensor, stage: int) -> Tensor:
        """sigma_s of noise levels sigma_t, (B,)."""
        widened = 1 + self.k * torch.sigmoid(-self.b * sigma)
        return (sigma * (1 - self.q ** -(stage + 1) * widened)).clamp(min=0)

    def sample(
        self, n: int, draws: Draws, *, schedule: Schedule, noise_std: float, step: int, total_steps: int
    ) -> TimeSample:
        sigma = torch.exp(self.mu + self.sd * draws.normal("time.t", n))
        sigma = sigma.clamp(max=largest_ratio(schedule) * noise_std)  # else t and s would both end at the path's end
        lower = self.lower(sigma, self.stage(step, total_steps))
        t, s = (schedule.time_of_ratio(level / noise_std) for level in (sigma, lower))
        fm = torch.zeros_like(t, dtype=torch.bool)
        return TimeSample(r=torch.zeros_like(t), s=apart(s, t), t=t, fm=fm)
