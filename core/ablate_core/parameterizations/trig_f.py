"""F is sCM's output: X = cos(th - th_r) x - sin(th - th_r) sigma_data F(x / sigma_data) (arXiv 2410.11081)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from ablate_core.parameterizations.base import DdimVelocity
from ablate_core.schedules.base import Schedule


class TrigF(DdimVelocity):
    """V = sigma_data dth/dt F with the angle th = arctan(sigma / alpha): F is a velocity per radian on every circle.

    On `trig` it equals `v_ddim`; on `cosine01`, whose velocity is per unit of time, F is 2 / pi times that of `v_ddim`.
    """

    name: Literal["trig_F"] = "trig_F"
    sigma_data: float = Field(1.0, gt=0, description="standard deviation of data and of noise")
    paths: ClassVar[Literal["any", "exploding", "circular", "unit_time"]] = "circular"

    @property
    def noise_std(self) -> float:
        return self.sigma_data

    @property
    def claimed_data_std(self) -> float | None:
        return self.sigma_data

    def input_scale(self, t: Tensor, schedule: Schedule) -> Tensor | None:
        return None if self.sigma_data == 1 else torch.full_like(t, 1 / self.sigma_data)

    def output_scale(self, t: Tensor, schedule: Schedule, g: Tensor | None = None) -> Tensor:
        return self.sigma_data * schedule.at(t).wronskian  # dth/dt, since alpha^2 + sigma^2 = 1
