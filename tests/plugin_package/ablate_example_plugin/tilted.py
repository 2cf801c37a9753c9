"""Times of a power law: an example, from no publication."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ablate_core.random import Draws
from ablate_core.schedules.base import Schedule
from ablate_core.time_samplers.base import TimeSample, TimeSampler, meet


class Tilted(TimeSampler):
    """t has the density (1 + tilt) t^tilt on [0, 1], r is uniform on [0, t]; then r := t with probability p_eq."""

    name: Literal["tilted"] = "tilted"
    tilt: float = Field(1.0, gt=-1, description="exponent of the density of t; 0 is uniform, above 0 favours noise")
    p_eq: float = Field(0.5, ge=0, le=1, description="probability of r = t")

    @property
    def velocity_share(self) -> float:
        return self.p_eq

    def sample(
        self, n: int, draws: Draws, *, schedule: Schedule, noise_std: float, step: int, total_steps: int
    ) -> TimeSample:
        t = draws.uniform("time.t", n) ** (1 / (1 + self.tilt))
        return meet(t * draws.uniform("time.r", n), t, draws.uniform("time.equal", n) < self.p_eq)
