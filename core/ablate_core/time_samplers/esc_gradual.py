"""Ordered logit-normal times whose landing time is released from 0 gradually (ESC, arXiv 2512.11831).

EDAPINENUT/ExplicitShortCut loss/esc_loss.py:62-96. The paper says "cosine schedule", the code takes the arc cosine
(defect D23); `shape` holds both, the code's is the default.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from ablate_core.random import Draws
from ablate_core.schedules.base import Schedule
from ablate_core.time_samplers.base import TimeSample, TimeSampler, logit_normal, meet
from ablate_core.time_samplers.ln_minmax import LnMinmax


class EscGradual(TimeSampler):
    """As `ln_minmax`, but before the step r := t, r := 0 with a probability that falls from 1 to 0 over zero_steps."""

    name: Literal["esc_gradual"] = "esc_gradual"
    mu: float = Field(-0.4, description="mean of the logit")
    sd: float = Field(1.0, gt=0, description="standard deviation of the logit")
    p_eq: float = Field(0.75, ge=0, le=1, description="probability of r = t")
    zero_steps: int = Field(20_000, ge=0, description="optimiser steps until r is free; 0 is off (ln_minmax)")
    shape: Literal["arccos", "cosine", "half_cosine"] = Field("arccos", description="how P(r := 0) falls")

    @property
    def velocity_share(self) -> float:
        return self.p_eq

    @property
    def ramp_steps(self) -> int:
        return self.zero_steps

    def simplest(self) -> TimeSampler:
        return self if self.zero_steps else LnMinmax(mu=self.mu, sd=self.sd, p_eq=self.p_eq)

    def p_zero(self, step: int) -> float:
        """Probability of r := 0 at `step`, before the step r := t."""
        x = min(1.0, step / self.zero_steps) if self.zero_steps else 1.0
        if x >= 1:
            return 0.0
        if self.shape == "arccos":
            return 2 / math.pi * math.acos(x)
        return math.cos(math.pi * x / 2) if self.shape == "cosine" else (1 + math.cos(math.pi * x)) / 2

    def sample(
        self, n: int, draws: Draws, *, schedule: Schedule, noise_std: float, step: int, total_steps: int
    ) -> TimeSample:
        a = logit_normal(draws.normal("time.t", n), self.mu, self.sd)
        b = logit_normal(draws.normal("time.r", n), self.mu, self.sd)
        return self.released(a, b, draws, step)

    def released(self, a: Tensor, b: Tensor, draws: Draws, step: int) -> TimeSample:
        """The times from two candidates, (B,) each, of any distribution."""
        zero = draws.uniform("time.zero", len(a)) < self.p_zero(step)
        r = torch.where(zero, torch.zeros_like(a), torch.minimum(a, b))
        return meet(r, torch.maximum(a, b), draws.uniform("time.equal", len(a)) < self.p_eq)
