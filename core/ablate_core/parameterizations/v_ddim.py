"""F is the velocity of a DDIM jump: X_{t,r}(x) = abar x + bbar sigma_data F(x / sigma_data, r, t).

On the linear path with ``sigma_data = 1`` it computes exactly what `u` does.
Source: EDAPINENUT/ExplicitShortCut utils/scheduler.py:27-51 (c_out applied everywhere, defect D6 mended);
``input_scale: unit_variance`` is the preconditioner of lumalabs/imm (arXiv 2503.07565).
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from ablate_core.parameterizations.base import DdimVelocity
from ablate_core.schedules.base import Schedule


class VDdim(DdimVelocity):
    """The network's output times `sigma_data` is a velocity that is used in a DDIM jump."""

    name: Literal["v_ddim"] = "v_ddim"
    sigma_data: float = Field(1.0, gt=0, description="standard deviation of data and of noise")
    scale_input: Literal["constant", "unit_variance"] = Field(
        "constant", description="constant: 1/sigma_data; unit_variance: 1/(sigma_data sqrt(alpha^2 + sigma^2))"
    )

    def is_average_velocity(self, schedule: Schedule) -> bool:
        return schedule.straight and self.sigma_data == 1 and self.scale_input == "constant"

    @property
    def noise_std(self) -> float:
        return self.sigma_data

    @property
    def claimed_data_std(self) -> float | None:
        return self.sigma_data

    def input_scale(self, t: Tensor, schedule: Schedule) -> Tensor | None:
        if self.scale_input == "constant":
            return None if self.sigma_data == 1 else torch.full_like(t, 1 / self.sigma_data)
        point = schedule.at(t)
        return 1 / (self.sigma_data * torch.sqrt(point.alpha**2 + point.sigma**2))

    def output_scale(self, t: Tensor, schedule: Schedule, g: Tensor | None = None) -> Tensor | None:
        return None if self.sigma_data == 1 else torch.full_like(t, self.sigma_data)
