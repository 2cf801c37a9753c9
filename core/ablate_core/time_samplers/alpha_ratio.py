"""An intermediate time that moves from r to t while training (AlphaFlow; snap-research/alphaflow src/training/loss.py).

The original gives the ramp in steps: 0 to 400k of 400k, 0 to 1.2M of 1.2M, or 600k to 1M of 1.2M. Shares of the
training say the same and need no shortening.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator

from ablate_core.random import Draws
from ablate_core.schedules.base import Schedule
from ablate_core.time_samplers.base import TimeSample, TimeSampler, logit_normal, meet
from ablate_core.time_samplers.ln_minmax import LnMinmax

CLAMP = 0.005
"""Below it alpha is 0, above 1 - CLAMP it is 1."""


class AlphaRatio(TimeSampler):
    """s = t - alpha (t - r); t and r as in `ln_minmax`. alpha = 1 is s = r, alpha = 0 is s = t: the continuous limit.

    ``sigmoid``: 1 - sigmoid(gamma (k - (k0 + k1) / 2) / (k1 - k0)) between k0 and k1, 1 before and 0 after, where k is
    the share of the training that is over. ``constant``: the value `alpha`.
    """

    name: Literal["alpha_ratio"] = "alpha_ratio"
    mu: float = Field(-0.4, description="mean of the logit")
    sd: float = Field(1.0, gt=0, description="standard deviation of the logit")
    p_eq: float = Field(0.5, ge=0, le=1, description="probability of r = t; 0.25 to 0.5 in the publication")
    shape: Literal["sigmoid", "constant"] = Field("sigmoid", description="how alpha changes while training")
    gamma: float = Field(25.0, gt=0, description="steepness, for shape: sigmoid")
    k0: float = Field(0.0, ge=0, le=1, description="share of the training where alpha leaves 1, for shape: sigmoid")
    k1: float = Field(1.0, ge=0, le=1, description="share of the training where alpha reaches 0, for shape: sigmoid")
    alpha: float = Field(0.5, ge=0, le=1, description="the constant, for shape: constant")
    intermediate: ClassVar[bool] = True
    closes_gap: ClassVar[bool] = True

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.k0 >= self.k1:
            raise ValueError(f"alpha_ratio needs k0 < k1, got {self.k0:g} and {self.k1:g}")
        return self

    @property
    def velocity_share(self) -> float:
        return self.p_eq

    @property
    def lands_at_intermediate(self) -> bool:
        return self.shape == "constant" and self.alpha_at(0, 1) == 1

    def closed(self) -> TimeSampler | None:
        if self.shape == "sigmoid" or self.alpha_at(0, 1) > 0:
            return None
        return LnMinmax(mu=self.mu, sd=self.sd, p_eq=self.p_eq)

    def simplest(self) -> TimeSampler:
        unused = ("alpha",) if self.shape == "sigmoid" else ("gamma", "k0", "k1")
        return self.model_copy(update={name: type(self).model_fields[name].default for name in unused})

    def alpha_at(self, step: int, total_steps: int) -> float:
        """alpha at `step`, in [0, 1]."""
        if self.shape == "constant":
            alpha = self.alpha
        else:
            k = step / total_steps
            middle, length = (self.k0 + self.k1) / 2, self.k1 - self.k0
            alpha = 1 / (1 + math.exp(min(self.gamma * (k - middle) / length, 700.0)))
            alpha = 1.0 if k < self.k0 else 0.0 if k > self.k1 else alpha
        if alpha < CLAMP:
            return 0.0
        return 1.0 if alpha > 1 - CLAMP else alpha

    def sample(
        self, n: int, draws: Draws, *, schedule: Schedule, noise_std: float, step: int, total_steps: int
    ) -> TimeSample:
        a = logit_normal(draws.normal("time.t", n), self.mu, self.sd)
        b = logit_normal(draws.normal("time.r", n), self.mu, self.sd)
        equal = draws.uniform("time.equal", n) < self.p_eq
        times = meet(torch.minimum(a, b), torch.maximum(a, b), equal)
        s = torch.lerp(times.t, times.r, self.alpha_at(step, total_steps))  # exact at both ends
        return TimeSample(r=times.r, s=s, t=times.t, fm=times.fm)
