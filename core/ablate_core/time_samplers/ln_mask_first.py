"""Two logit-normal times, equal on the first rows of the batch (pMF; Lyy-iiis/pMF pmf.py:160-181).

The reference also drops the labels of the first rows, so that null labels only ever meet r = t (defect D16). Here
labels are dropped row by row, whatever r is; only r = t goes by position, so batches must be shuffled.
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


class LnMaskFirst(TimeSampler):
    """r := t on the first B rho rows and only then ordered: those rows follow LN itself, not the larger of two LN."""

    name: Literal["ln_mask_first"] = "ln_mask_first"
    mu: float = Field(0.8, description="mean of the logit")
    sd: float = Field(0.8, gt=0, description="standard deviation of the logit")
    rho: float = Field(0.5, ge=0, le=1, description="share of the batch, its first rows, with r = t")
    uniform: float = Field(0.0, ge=0, le=1, description="probability that a row's times are U(0, 1) instead")

    @property
    def velocity_share(self) -> float:
        return self.rho

    def sample(
        self, n: int, draws: Draws, *, schedule: Schedule, noise_std: float, step: int, total_steps: int
    ) -> TimeSample:
        a = logit_normal(draws.normal("time.t", n), self.mu, self.sd)
        b = logit_normal(draws.normal("time.r", n), self.mu, self.sd)
        if self.uniform:
            flat = draws.uniform("time.uniform", n) < self.uniform
            a = torch.where(flat, draws.uniform("time.uniform_t", n), a)
            b = torch.where(flat, draws.uniform("time.uniform_r", n), b)
        first = torch.arange(n, device=a.device) < math.floor(n * self.rho + 1e-9)
        return self.masked(a, b, first)

    @staticmethod
    def masked(a: Tensor, b: Tensor, first: Tensor) -> TimeSample:
        """The times from two candidates and the mask of rows with r = t, (B,) each."""
        b = torch.where(first, a, b)
        return meet(torch.minimum(a, b), torch.maximum(a, b), first)
