"""DDIM step with the velocity estimate: exact on any path for the conditional velocity (arXiv 2010.02502)."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from ablate_core.first_steps.base import FirstStep
from ablate_core.flow_map import FlowMap
from ablate_core.schedules.base import expand
from ablate_core.state import Rows


class Ddim(FirstStep):
    """x_s = abar x_t + bbar v. With the conditional velocity it is re-noising with the same noise (E3)."""

    name: Literal["ddim"] = "ddim"
    follows_velocity: ClassVar[bool] = True

    def step(self, target: FlowMap, rows: Rows) -> tuple[Tensor, Tensor]:
        keep, move = target.schedule.jump(rows.t, rows.s)
        x_s = expand(keep, rows.x) * rows.x + expand(move, rows.x) * rows.along
        return x_s, (x_s - rows.x) / expand(rows.s - rows.t, rows.x)
