"""Two uniform times, ordered (EDAPINENUT/ExplicitShortCut loss/meanflow_loss.py:93-126, sampler ``uniform``)."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from ablate_core.random import Draws
from ablate_core.schedules.base import Schedule
from ablate_core.time_samplers.base import TimeSample, TimeSampler, meet


class UniformMinmax(TimeSampler):
    """t is the larger and r the smaller of two U(0, 1); then r := t with probability p_eq."""

    name: Literal["uniform_minmax"] = "uniform_minmax"
    p_eq: float = Field(0.75, ge=0, le=1, description="probability of r = t")

    @property
    def velocity_share(self) -> float:
        return self.p_eq

    def sample(
        self, n: int, draws: Draws, *, schedule: Schedule, noise_std: float, step: int, total_steps: int
    ) -> TimeSample:
        a, b = draws.uniform("time.t", n), draws.uniform("time.r", n)
        return meet(torch.minimum(a, b), torch.maximum(a, b), draws.uniform("time.equal", n) < self.p_eq)
