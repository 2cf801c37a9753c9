"""Two neighbouring noise levels of a grid that is refined while training (consistency training, arXiv 2303.01469)."""

from __future__ import annotations

from functools import lru_cache
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from ablate_core.random import Draws
from ablate_core.schedules.base import Schedule
from ablate_core.time_samplers.base import TimeSample, TimeSampler
from ablate_core.time_samplers.noise_grid import beyond_the_path, ct_scale, karras_grid


class CtProgressive(TimeSampler):
    """t and s are neighbours on a grid of N(k) noise levels, chosen uniformly; r = 0."""

    name: Literal["ct_progressive"] = "ct_progressive"
    sigma_min: float = Field(0.002, gt=0, description="smallest noise level")
    sigma_max: float = Field(80.0, gt=0, description="largest noise level")
    rho: float = Field(7.0, gt=0, description="exponent of the grid")
    s0: int = Field(2, ge=1, description="grid intervals at the start")
    s1: int = Field(150, ge=1, description="grid intervals at the end")
    intermediate: ClassVar[bool] = True
    random_landing_time: ClassVar[bool] = False
    any_path: ClassVar[bool] = True

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.sigma_min >= self.sigma_max or self.s0 > self.s1:
            raise ValueError("ct_progressive needs sigma_min < sigma_max and s0 <= s1")
        return self

    def levels(self, step: int, total_steps: int) -> int:
        """N(k), the number of grid points at `step`; at least 2."""
        return ct_scale(step, total_steps, self.s0, self.s1) + 1

    def scales(self) -> tuple[int, int]:
        return self.s0, self.s1

    def path_problem(self, schedule: Schedule, noise_std: float) -> tuple[str, str] | None:
        return beyond_the_path(self.sigma_max, schedule, noise_std)

    def start_time(self, schedule: Schedule, noise_std: float) -> float:
        return float(schedule.time_of_ratio(torch.tensor(self.sigma_max / noise_std)))

    def sample(
        self, n: int, draws: Draws, *, schedule: Schedule, noise_std: float, step: int, total_steps: int
    ) -> TimeSample:
        levels = self.levels(step, total_steps)
        index = draws.integers("time.index", levels - 1, n)
        grid = time_grid(self, levels, schedule, noise_std, index.device, draws.dtype)
        t, s = grid[index], grid[index + 1]
        return TimeSample(r=torch.zeros_like(t), s=s, t=t, fm=torch.zeros_like(t, dtype=torch.bool))


@lru_cache(maxsize=64)
def time_grid(
    own: CtProgressive, levels: int, schedule: Schedule, noise_std: float, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """Times of the noise levels, (levels,), descending; kept, since many steps have the same."""
    sigma = karras_grid(levels, own.sigma_min, own.sigma_max, own.rho, torch.empty(0, device=device, dtype=dtype))
    return schedule.time_of_ratio(sigma / noise_std)
