"""Lagrangian identity d/dr X_{t,r}(x) = v_r(X_{t,r}(x)) (terminal velocity matching, TVM; lumalabs/tvm)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from ablate_core.flow_map import FlowMap
from ablate_core.host import on_host, rows_where
from ablate_core.schedules.base import expand
from ablate_core.state import Rows, State, jump_rows, put_rows
from ablate_core.targets.base import Limit, Regression

if TYPE_CHECKING:
    from ablate_core.objective import Objective


class Lagrangian(Limit):
    """dX_{t,r}(x_t)/dr, with a graph through the derivative, against u^-(X, r, r) at the landed state X, detached.

    With X = keep x + move V, dX/dr = keep_r x + move_r V + move dV/dr. Flow matching rows compare F with v / c_out.
    Residuals count 1 / c_out(t), as those of raw outputs do.
    """

    name: Literal["lagrangian"] = "lagrangian"
    differentiates_target: ClassVar[bool] = True

    @property
    def needs_forward_ad(self) -> bool:
        return True

    def regress(self, slots: Objective, online: FlowMap, target: FlowMap, state: State, step: int) -> Regression:
        times = state.times
        prediction = torch.zeros_like(state.v)
        aim = torch.zeros_like(state.v)
        velocity = rows_where(on_host(times.fm), state.x.device)
        if len(velocity):
            x, t, y, g = state.x[velocity], times.t[velocity], _at(state.y, velocity), _at(state.g, velocity)
            output = online.compared(online.raw(x, t, t, y, g), x, t, g)
            prediction = put_rows(prediction, velocity, output)
            aim = put_rows(aim, velocity, online.comparable(state.v[velocity], x, t, g))
        index, rows = jump_rows(state)
        if len(index):
            landed, rate = self.landing(online, rows)
            with torch.no_grad():
                there = target.marginal(landed.detach(), rows.r, rows.y, rows.g)
            scale = None
            if online.parameterization.compares == "raw":
                scale = online.parameterization.output_scale(rows.t, online.schedule, rows.g)
            if scale is not None:
                rate, there = rate / expand(scale, rate), there / expand(scale, there)
            prediction = put_rows(prediction, index, rate)
            aim = put_rows(aim, index, there)
        return Regression(prediction, aim)

    def landing(self, online: FlowMap, rows: Rows) -> tuple[Tensor, Tensor]:
        """X_{t,r}(x_t) and dX_{t,r}(x_t)/dr, each (R, *shape), with graphs."""
        own, schedule = online.parameterization, online.schedule
        velocity, d_velocity = online.velocity_and_landing_tangent(rows.x, rows.r, rows.t, rows.y, rows.g)
        jump, by_r = own.jump(schedule, rows.t, rows.r), own.landing_rate(schedule, rows.t, rows.r)
        landed = online.landed(velocity, rows.x, rows.r, rows.t)
        moved = expand(by_r.keep, rows.x) * rows.x + expand(by_r.move, rows.x) * velocity
        return landed, moved + expand(jump.move, rows.x) * d_velocity


def _at(x: Tensor | None, index: Tensor) -> Tensor | None:
    return None if x is None else x[index]
