"""Euler step with the velocity estimate; equals the DDIM step on straight paths only."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from ablate_core.first_steps.base import FirstStep
from ablate_core.flow_map import FlowMap
from ablate_core.schedules.base import expand
from ablate_core.state import Rows


class Euler(FirstStep):
    """x_s = x_t + (s - t) v."""

    name: Literal["euler"] = "euler"
    follows_velocity: ClassVar[bool] = True
    euler: ClassVar[bool] = True

    def step(self, target: FlowMap, rows: Rows) -> tuple[Tensor, Tensor]:
        return rows.x + expand(rows.s - rows.t, rows.x) * rows.along, rows.along
