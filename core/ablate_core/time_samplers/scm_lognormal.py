"""Log-normal noise level, landing at the data (sCM, arXiv 2410.11081; ESC loss/scm_cos_loss.py:80-88)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field

from ablate_core.random import Draws
from ablate_core.schedules.base import Schedule
from ablate_core.time_samplers.base import TimeSample, TimeSampler


class ScmLognormal(TimeSampler):
    """sigma = exp(mu + sd z); t is where the path's noise-to-signal ratio equals sigma; r = 0, s = t.

    On the cosine path this is sCM's theta = arctan(sigma / sigma_data); on any other path it is the same noise level.
    """

    name: Literal["scm_lognormal"] = "scm_lognormal"
    mu: float = Field(-1.0, description="mean of log sigma")
    sd: float = Field(1.4, gt=0, description="standard deviation of log sigma")
    random_landing_time: ClassVar[bool] = False
    any_path: ClassVar[bool] = True

    def sample(
        self, n: int, draws: Draws, *, schedule: Schedule, noise_std: float, step: int, total_steps: int
    ) -> TimeSample:
        sigma = torch.exp(self.mu + self.sd * draws.normal("time.t", n))
        t = schedule.time_of_ratio(sigma / noise_std)
        return TimeSample(r=torch.zeros_like(t), s=t, t=t, fm=torch.zeros_like(t, dtype=torch.bool))
