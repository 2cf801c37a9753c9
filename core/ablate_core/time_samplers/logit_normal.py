"""One logit-normal time, r = s = t: plain flow matching (arXiv 2403.03206)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field

from ablate_core.random import Draws
from ablate_core.schedules.base import Schedule
from ablate_core.time_samplers.base import TimeSample, TimeSampler, logit_normal


class LogitNormal(TimeSampler):
    """t ~ LN(mu, sd), r = s = t: every row regresses on the velocity."""

    name: Literal["logit_normal"] = "logit_normal"
    mu: float = Field(-0.4, description="mean of the logit")
    sd: float = Field(1.0, gt=0, description="standard deviation of the logit")
    jumps: ClassVar[bool] = False

    @property
    def velocity_share(self) -> float:
        return 1.0

    def sample(
        self, n: int, draws: Draws, *, schedule: Schedule, noise_std: float, step: int, total_steps: int
    ) -> TimeSample:
        t = logit_normal(draws.normal("time.t", n), self.mu, self.sd)
        return TimeSample(r=t, s=t, t=t, fm=torch.ones_like(t, dtype=torch.bool))
