"""Two terms with times of their own (DMF, arXiv 2510.24474; kyungmnlee/dmf loss.py:135-140)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field

from ablate_core.random import Draws
from ablate_core.schedules.base import Schedule
from ablate_core.time_samplers.base import TimeSample, TimeSampler, logit_normal


class DmfTimes(TimeSampler):
    """t is the larger and r the smaller of LN(mu_t, sd_t) and LN(mu_r, sd_r); a second term at LN(mu, sd).

    No row has r = t: the velocity is learned by the second, flow matching term, which has half of the loss.
    """

    name: Literal["dmf"] = "dmf"
    mu: float = Field(-0.4, description="mean of the logit of the second term's time")
    sd: float = Field(1.0, gt=0, description="standard deviation of that logit")
    mu_t: float = Field(-0.2, description="mean of the logit of the first candidate; 0.4 for XL/2")
    sd_t: float = Field(1.0, gt=0, description="standard deviation of that logit")
    mu_r: float = Field(0.2, description="mean of the logit of the second candidate; -1.2 for XL/2")
    sd_r: float = Field(1.0, gt=0, description="standard deviation of that logit")
    velocity_weight: ClassVar[float] = 0.5

    def sample(
        self, n: int, draws: Draws, *, schedule: Schedule, noise_std: float, step: int, total_steps: int
    ) -> TimeSample:
        a = logit_normal(draws.normal("time.t", n), self.mu_t, self.sd_t)
        b = logit_normal(draws.normal("time.r", n), self.mu_r, self.sd_r)
        velocity_t = logit_normal(draws.normal("time.velocity", n), self.mu, self.sd)
        r, t = torch.minimum(a, b), torch.maximum(a, b)
        return TimeSample(r=r, s=t, t=t, fm=r == t, velocity_t=velocity_t)
