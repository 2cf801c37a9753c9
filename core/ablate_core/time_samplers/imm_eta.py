"""Times of inductive moment matching, shared inside groups (IMM, arXiv 2503.07565).

lumalabs/imm training/preconds.py; rosinality/inductive-moment-matching src/imm/loss.py. The reference of ESC lacks
s = max(s, r) (defect D8), which put 12 % of the rows at r > s.
"""

from __future__ import annotations

from functools import lru_cache
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from ablate_core.random import Draws
from ablate_core.schedules.base import Schedule
from ablate_core.time_samplers.base import TimeSample, TimeSampler


class ImmEta(TimeSampler):
    """t ~ U(t_min, t_max), r ~ U(t_min, t); s is one decrement of eta = sigma / alpha below t, but not below r."""

    name: Literal["imm_eta"] = "imm_eta"
    t_max: float = Field(0.994, gt=0, lt=1, description="largest start time")
    t_min: float = Field(0.0, ge=0, lt=1, description="smallest time")
    k: float = Field(12.0, gt=0, description="the decrement is (eta_max - eta_min) / 2^k")
    group: int = Field(4, ge=2, description="rows that share their times; M of the kernel")
    gap: float = Field(1e-4, ge=0, description="smallest t - s where r allows it")
    intermediate: ClassVar[bool] = True

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.t_min >= self.t_max:
            raise ValueError("imm_eta needs t_min < t_max")
        return self

    @property
    def group_size(self) -> int:
        return self.group

    def batch_problem(self, batch_size: int) -> tuple[str, str] | None:
        if batch_size % self.group == 0:
            return None
        nearest = max(1, round(batch_size / self.group)) * self.group
        return f"groups of {self.group} do not divide a batch of {batch_size}", f"train.batch_size: {nearest}"

    def start_time(self, schedule: Schedule, noise_std: float) -> float:
        return self.t_max

    @property
    def last_time(self) -> float:
        return self.t_min

    def intermediate_time(self, r: Tensor, t: Tensor, schedule: Schedule) -> Tensor:
        """s = max(r, min(t - gap, eta^-1(eta_t - decrement))), (G,)."""
        lower = schedule.ratio(t) - decrement(self, schedule, t.dtype)
        s = schedule.time_of_ratio(lower.clamp(min=0))
        return torch.maximum(r, torch.minimum(t - self.gap, s))

    def sample(
        self, n: int, draws: Draws, *, schedule: Schedule, noise_std: float, step: int, total_steps: int
    ) -> TimeSample:
        groups = n // self.group
        share = draws.uniform("time.t", groups)
        share = share.clamp(min=torch.finfo(share.dtype).eps / 2)  # 0 is drawn too, and nothing is below t_min
        t = self.t_min + (self.t_max - self.t_min) * share
        if self.t_min > 0:
            t = torch.maximum(t, torch.nextafter(torch.full_like(t, self.t_min), torch.ones_like(t)))
        r = self.t_min + (t - self.t_min) * draws.uniform("time.r", groups)
        below = torch.nextafter(t, torch.zeros_like(t))
        r = torch.minimum(r, below)  # rounding may have met t; what steps from t to s divides by t - s
        s = torch.minimum(self.intermediate_time(r, t, schedule), below)
        r, s, t = torch.stack([r, s, t]).repeat_interleave(self.group, 1)
        return TimeSample(r=r, s=s, t=t, fm=torch.zeros_like(t, dtype=torch.bool), group=self.group)


@lru_cache(maxsize=64)
def decrement(own: ImmEta, schedule: Schedule, dtype: torch.dtype) -> float:
    """(eta_max - eta_min) / 2^k, computed in `dtype`."""
    low, high = schedule.ratio(torch.tensor([own.t_min, own.t_max], dtype=dtype))
    return float((high - low) / 2**own.k)
