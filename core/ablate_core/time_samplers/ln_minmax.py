"""Two logit-normal times, ordered (MeanFlow, arXiv 2505.13447; ESC loss/meanflow_loss.py:93)."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from ablate_core.random import Draws
from ablate_core.schedules.base import Schedule
from ablate_core.time_samplers.base import TimeSample, TimeSampler, logit_normal, meet


class LnMinmax(TimeSampler):
    """t is the larger and r the smaller of two LN(mu, sd); then r := t with probability p_eq."""

    name: Literal["ln_minmax"] = "ln_minmax"
    mu: float = Field(-0.4, description="mean of the logit")
    sd: float = Field(1.0, gt=0, description="standard deviation of the logit")
    p_eq: float = Field(0.75, ge=0, le=1, description="probability of r = t")

    @property
    def velocity_share(self) -> float:
        return self.p_eq

    def sample(
        self, n: int, draws: Draws, *, schedule: Schedule, noise_std: float, step: int, total_steps: int
    ) -> TimeSample:
        a = logit_normal(draws.normal("time.t", n), self.mu, self.sd)
        b = logit_normal(draws.normal("time.r", n), self.mu, self.sd)
        return meet(torch.minimum(a, b), torch.maximum(a, b), draws.uniform("time.equal", n) < self.p_eq)
