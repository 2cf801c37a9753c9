"""Jumps that are powers of two, next to flow matching rows (shortcut models, arXiv 2410.12557).

kvfrans/shortcut-models targets_shortcut.py:9-33; EDAPINENUT/ExplicitShortCut loss/scd_loss.py:89-125.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import ClassVar, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor

from ablate_core.random import Draws
from ablate_core.schedules.base import Schedule
from ablate_core.time_samplers.base import TimeSample, TimeSampler


class Dyadic(TimeSampler):
    """The first rows are jumps d = 2^-k, k = log2(M) - 1 .. 0 equally often (the remainder has d = 1), s = t - d/2.

    The other rows are flow matching with t on the 1/M grid and r = s = t - 1/M. Rows are told apart by position, so
    batches must be shuffled; labels are dropped on flow matching rows only (defect D17).
    """

    name: Literal["dyadic"] = "dyadic"
    M: int = Field(128, ge=4, description="finest grid; a power of two")
    bootstrap: float = Field(0.25, gt=0, lt=1, description="share of the batch that learns jumps")
    grid: Literal["any", "multiples"] = Field("any", description="t on the 1/M grid, or on multiples of its own jump")
    intermediate: ClassVar[bool] = True
    label_rows: ClassVar[Literal["all", "fm"]] = "fm"
    ladder: ClassVar[bool] = True
    straight_only: ClassVar[bool] = True

    @field_validator("M")
    @classmethod
    def _power_of_two(cls, m: int) -> int:
        if m & (m - 1):
            raise ValueError(f"M is a power of two of at least 4, got {m}; the nearest is {1 << round(math.log2(m))}")
        return m

    @property
    def velocity_share(self) -> float:
        return 1 - self.bootstrap

    def bootstrap_rows(self, batch_size: int) -> int:
        """Number of rows that learn jumps."""
        return math.floor(batch_size * self.bootstrap + 1e-9)

    def batch_problem(self, batch_size: int) -> tuple[str, str] | None:
        rows, rungs = self.bootstrap_rows(batch_size), self.M.bit_length() - 1
        if rows >= rungs:
            return None
        return (
            f"{rows} of {batch_size} rows learn jumps, but M = {self.M} has {rungs} jump sizes: every jump would be 1",
            f"train.batch_size: {math.ceil(rungs / self.bootstrap)}",
        )

    def allows_jump(self, t: float, r: float) -> bool:
        """Jumps of 1/M, 2/M, 4/M .. 1 from the 1/M grid, or from multiples of themselves; u(t, t) is never asked."""
        start, jump = t * self.M, (t - r) * self.M
        if abs(start - round(start)) > 1e-6 or abs(jump - round(jump)) > 1e-6:
            return False
        rung = round(jump)
        on_grid = self.grid == "any" or round(start) % max(rung, 1) == 0
        return rung > 0 and rung & (rung - 1) == 0 and on_grid

    def exponents(self, batch_size: int, device: torch.device | str) -> Tensor:
        """k of each row that learns a jump, (bootstrap_rows,) int64; the jump is 2^-k. Zeros fill the remainder."""
        rows, rungs = self.bootstrap_rows(batch_size), self.M.bit_length() - 1
        ladder = torch.arange(rungs - 1, -1, -1, device=device).repeat_interleave(rows // rungs)
        return torch.cat([ladder, ladder.new_zeros(rows - len(ladder))])

    def sample(
        self, n: int, draws: Draws, *, schedule: Schedule, noise_std: float, step: int, total_steps: int
    ) -> TimeSample:
        u = draws.uniform("time.t", self.bootstrap_rows(n))
        d, bottom, fm = ladder(self, n, u.device, u.dtype)
        if self.grid == "any":
            t_jump = d + torch.floor(u * (self.M * (1 - d) + 1)) / self.M
        else:
            t_jump = 1 - torch.floor(u / d) * d
        count = n - len(u)
        t_fm = (draws.integers("time.fm", self.M, count) + 1).to(u.dtype) / self.M
        t, s = torch.cat([t_jump, t_fm]), torch.cat([t_jump - d / 2, t_fm - 1 / self.M])
        return TimeSample(r=torch.cat([t_jump - d, t_fm - 1 / self.M]), s=s, t=t, fm=fm, ladder_bottom=bottom)


@lru_cache(maxsize=64)
def ladder(own: Dyadic, n: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """What is the same in every batch of `n` rows: the jumps of its first rows, (bootstrap_rows,), and two masks, (n,).

    The masks are `TimeSample.ladder_bottom` and `TimeSample.fm`.
    """
    k = own.exponents(n, device)
    fm = torch.arange(n, device=device) >= len(k)
    bottom = torch.zeros_like(fm)
    bottom[: len(k)] = k == own.M.bit_length() - 2
    return torch.exp2(-k.to(dtype)), bottom, fm
