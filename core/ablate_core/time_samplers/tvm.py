"""A gap and a landing time that leaves room for it (TVM, arXiv 2511.19797; lumalabs/tvm training/loss.py:39-64)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field

from ablate_core.random import Draws
from ablate_core.schedules.base import Schedule
from ablate_core.time_samplers.base import TimeSample, TimeSampler, logit_normal


class TvmTimes(TimeSampler):
    """g ~ LN(mu_gap, sd_gap), r ~ LN(mu, sd) truncated to [0, 1 - g], t = r + g; a second term at LN(mu, sd).

    No row has r = t: the velocity is learned by the second, flow matching term, which has half of the loss (the
    publication adds both terms, twice that).
    """

    name: Literal["tvm"] = "tvm"
    mu: float = Field(-0.4, description="mean of the logit of r, and of the second term's time")
    sd: float = Field(1.0, gt=0, description="standard deviation of that logit")
    mu_gap: float = Field(-0.8, description="mean of the logit of the gap t - r")
    sd_gap: float = Field(1.0, gt=0, description="standard deviation of that logit")
    velocity_weight: ClassVar[float] = 0.5

    def sample(
        self, n: int, draws: Draws, *, schedule: Schedule, noise_std: float, step: int, total_steps: int
    ) -> TimeSample:
        logit_gap = self.mu_gap + self.sd_gap * draws.normal("time.gap", n)
        room = torch.special.ndtr((-logit_gap - self.mu) / self.sd)  # P(LN <= 1 - g), as logit(1 - g) = -logit(g)
        r = logit_normal(torch.special.ndtri(room * draws.uniform("time.r", n)), self.mu, self.sd)
        t = (r + torch.sigmoid(logit_gap)).clamp(max=1)
        velocity_t = logit_normal(draws.normal("time.velocity", n), self.mu, self.sd)
        return TimeSample(r=r, s=t, t=t, fm=r == t, velocity_t=velocity_t)
