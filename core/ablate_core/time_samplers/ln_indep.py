"""Two logit-normal times with their own parameters (Gsunshine/py-meanflow models/time_sampler.py:42-59, ``v1``)."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from ablate_core.random import Draws
from ablate_core.schedules.base import Schedule
from ablate_core.time_samplers.base import TimeSample, TimeSampler, logit_normal, meet


class LnIndep(TimeSampler):
    """t ~ LN(mu_t, sd_t), r ~ LN(mu_r, sd_r); r := t with probability p_eq and wherever r would exceed t.

    P(r = t) is therefore larger than p_eq: 0.30 with the defaults.
    """

    name: Literal["ln_indep"] = "ln_indep"
    mu_t: float = Field(-0.6, description="mean of the logit of t")
    sd_t: float = Field(1.6, gt=0, description="standard deviation of the logit of t")
    mu_r: float = Field(-4.0, description="mean of the logit of r")
    sd_r: float = Field(1.6, gt=0, description="standard deviation of the logit of r")
    p_eq: float = Field(0.25, ge=0, le=1, description="probability of r = t before ordering")

    @property
    def velocity_share(self) -> float:
        return self.p_eq

    def sample(
        self, n: int, draws: Draws, *, schedule: Schedule, noise_std: float, step: int, total_steps: int
    ) -> TimeSample:
        t = logit_normal(draws.normal("time.t", n), self.mu_t, self.sd_t)
        r = logit_normal(draws.normal("time.r", n), self.mu_r, self.sd_r)
        return meet(torch.minimum(r, t), t, draws.uniform("time.equal", n) < self.p_eq)
