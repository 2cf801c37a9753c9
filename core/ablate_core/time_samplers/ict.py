"""Grid of improved consistency training (iCT, arXiv 2310.14189; Kinyugo/consistency_models)."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from ablate_core.random import Draws
from ablate_core.schedules.base import Schedule
from ablate_core.time_samplers.base import TimeSample, TimeSampler
from ablate_core.time_samplers.noise_grid import beyond_the_path, ict_scale, karras_grid


class Ict(TimeSampler):
    """As `ct_progressive`, but the grid doubles and intervals are drawn from a discretised log-normal; r = 0."""

    name: Literal["ict"] = "ict"
    sigma_min: float = Field(0.002, gt=0, description="smallest noise level")
    sigma_max: float = Field(80.0, gt=0, description="largest noise level")
    rho: float = Field(7.0, gt=0, description="exponent of the grid")
    s0: int = Field(10, ge=1, description="grid intervals at the start")
    s1: int = Field(1280, ge=1, description="grid intervals at the end")
    mu: float = Field(-1.1, description="mean of log sigma")
    sd: float = Field(2.0, gt=0, description="standard deviation of log sigma")
    intermediate: ClassVar[bool] = True
    random_landing_time: ClassVar[bool] = False
    any_path: ClassVar[bool] = True

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.sigma_min >= self.sigma_max or self.s0 > self.s1:
            raise ValueError("ict needs sigma_min < sigma_max and s0 <= s1")
        return self

    def levels(self, step: int, total_steps: int) -> int:
        """N(k), the number of grid points at `step`."""
        return ict_scale(step, total_steps, self.s0, self.s1) + 1

    def scales(self) -> tuple[int, int]:
        return self.s0, self.s1

    def path_problem(self, schedule: Schedule, noise_std: float) -> tuple[str, str] | None:
        return beyond_the_path(self.sigma_max, schedule, noise_std)

    def start_time(self, schedule: Schedule, noise_std: float) -> float:
        return float(schedule.time_of_ratio(torch.tensor(self.sigma_max / noise_std)))

    def pdf(self, sigma: Tensor) -> Tensor:
        """Probability of each interval of the ascending grid `sigma`, (N,) -> (N - 1,)."""
        z = torch.erf((torch.log(sigma) - self.mu) / (self.sd * math.sqrt(2)))
        return (z[1:] - z[:-1]) / (z[-1] - z[0])

    def sample(
        self, n: int, draws: Draws, *, schedule: Schedule, noise_std: float, step: int, total_steps: int
    ) -> TimeSample:
        u = draws.uniform("time.index", n)
        grid, cdf = time_grid(self, self.levels(step, total_steps), schedule, noise_std, u.device, u.dtype)
        index = torch.searchsorted(cdf, u).clamp(max=len(grid) - 2)
        s, t = grid[index], grid[index + 1]
        return TimeSample(r=torch.zeros_like(t), s=s, t=t, fm=torch.zeros_like(t, dtype=torch.bool))


@lru_cache(maxsize=64)
def time_grid(
    own: Ict, levels: int, schedule: Schedule, noise_std: float, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Times of the noise levels, (levels,), ascending, and the distribution function of the intervals, (levels - 1,).

    Kept, since many steps have the same.
    """
    like = torch.empty(0, device=device, dtype=dtype)
    sigma = karras_grid(levels, own.sigma_min, own.sigma_max, own.rho, like).flip(0)
    return schedule.time_of_ratio(sigma / noise_std), own.pdf(sigma).cumsum(0)
