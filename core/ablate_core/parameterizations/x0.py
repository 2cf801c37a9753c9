"""F is the denoised sample: u = (x - F) / max(t, clip) on the linear path (pMF; Lyy-iiis/pMF models/pmfDiT.py)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from ablate_core.parameterizations.base import AverageVelocity
from ablate_core.schedules.base import Schedule, expand


class X0(AverageVelocity):
    """V = (sigma' x - W F) / sigma is the average velocity, W the Wronskian; sigma is bounded below by `clip` (C23).

    The velocities of the targets are bounded alike, (x_t - x0) / max(t, clip) on the linear path, so that a perfect F
    has no error at any t. Velocities are compared: an error of F counts 1 / sigma.
    """

    name: Literal["x0"] = "x0"
    clip: float = Field(0.05, gt=0, le=1, description="smallest sigma(t) that is divided by")
    paths: ClassVar[Literal["any", "exploding", "circular", "unit_time"]] = "unit_time"
    compares: ClassVar[Literal["raw", "velocity"]] = "velocity"

    @property
    def smallest_divisor(self) -> float:
        return self.clip

    def output_scale(self, t: Tensor, schedule: Schedule, g: Tensor | None = None) -> Tensor:
        point = schedule.at(t)
        return -point.wronskian / point.sigma.clamp(min=self.clip)

    def skip_scale(self, t: Tensor, schedule: Schedule) -> Tensor:
        point = schedule.at(t)
        return point.d_sigma / point.sigma.clamp(min=self.clip)

    def data_velocity(self, v: Tensor, t: Tensor, schedule: Schedule) -> Tensor:
        return v * expand((schedule.at(t).sigma / self.clip).clamp(max=1), v)
