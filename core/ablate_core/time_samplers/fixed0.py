"""Landing always at the data (sCT on the linear path; EDAPINENUT/ExplicitShortCut loss/scm_linear_loss.py:58-83)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field

from ablate_core.random import Draws
from ablate_core.schedules.base import Schedule
from ablate_core.time_samplers.base import TimeSample, TimeSampler, logit_normal, meet


class Fixed0(TimeSampler):
    """t is the larger of two LN(mu, sd), r = 0; then r := t with probability p_eq."""

    name: Literal["fixed0"] = "fixed0"
    mu: float = Field(-1.0, description="mean of the logit")
    sd: float = Field(1.4, gt=0, description="standard deviation of the logit")
    p_eq: float = Field(0.75, ge=0, le=1, description="probability of r = t")
    random_landing_time: ClassVar[bool] = False

    @property
    def velocity_share(self) -> float:
        return self.p_eq

    def sample(
        self, n: int, draws: Draws, *, schedule: Schedule, noise_std: float, step: int, total_steps: int
    ) -> TimeSample:
        a = logit_normal(draws.normal("time.t", n), self.mu, self.sd)
        b = logit_normal(draws.normal("time.r", n), self.mu, self.sd)
        t = torch.maximum(a, b)
        return meet(torch.zeros_like(t), t, draws.uniform("time.equal", n) < self.p_eq)
