"""A random split of the interval (SplitMeanFlow, arXiv 2507.16884; clcarwin/SplitMeanFlow_MNIST)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field

from ablate_core.random import Draws
from ablate_core.schedules.base import Schedule
from ablate_core.time_samplers.base import TimeSample, TimeSampler, apart, logit_normal, meet


class LambdaSplit(TimeSampler):
    """t and r are two ordered times, s = (1 - l) t + l r with l ~ U(0, 1); r := t with probability p_eq.

    A fixed `split` of 1/2 gives the midpoint of shortcut models.
    """

    name: Literal["lambda_split"] = "lambda_split"
    pair: Literal["logit_normal", "uniform"] = Field("logit_normal", description="distribution of both times")
    mu: float = Field(-0.4, description="mean of the logit, for pair: logit_normal")
    sd: float = Field(1.0, gt=0, description="standard deviation of the logit, for pair: logit_normal")
    split: float | None = Field(None, gt=0, le=1, description="l; null: drawn from U(0, 1), 1: s = r")
    p_eq: float = Field(0.5, ge=0, le=1, description="probability of r = t; the publication needs at least 0.5")
    intermediate: ClassVar[bool] = True

    @property
    def velocity_share(self) -> float:
        return self.p_eq

    @property
    def lands_at_intermediate(self) -> bool:
        return self.split == 1

    def simplest(self) -> TimeSampler:
        if self.pair == "logit_normal":
            return self
        unused = {name: type(self).model_fields[name].default for name in ("mu", "sd")}
        return self.model_copy(update=unused)

    def sample(
        self, n: int, draws: Draws, *, schedule: Schedule, noise_std: float, step: int, total_steps: int
    ) -> TimeSample:
        if self.pair == "uniform":
            a, b = draws.uniform("time.t", n), draws.uniform("time.r", n)
        else:
            a, b = (logit_normal(draws.normal(name, n), self.mu, self.sd) for name in ("time.t", "time.r"))
        r, t = torch.minimum(a, b), torch.maximum(a, b)
        share = 1 - draws.uniform("time.split", n) if self.split is None else torch.full_like(t, self.split)
        times = meet(r, t, draws.uniform("time.equal", n) < self.p_eq)
        s = torch.lerp(t, times.r, share)
        return TimeSample(r=times.r, s=torch.where(times.fm, t, apart(s, t)), t=t, fm=times.fm)
