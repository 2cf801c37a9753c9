"""Continuous-time limit s -> t: regression on F^- + g, g along dX/dt (sCM arXiv 2410.11081, MeanFlow arXiv 2505.13447).

With X_{t,r}(x) = keep x + move V and V = c_skip x + c_out F, the total derivative along (v, 1) is
dX/dt = move' V + keep v + (keep' x + move dV/dt) on every path and in every parameterisation; the whole preconditioner
is inside the differentiated function, so d(c_in)/dt and d(c_out)/dt are part of dV/dt. Only rows that are not flow
matching are differentiated, and without a graph (defect D20).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from ablate_core.flow_map import FlowMap
from ablate_core.schedules.base import expand
from ablate_core.state import Rows, State, jump_rows
from ablate_core.tangents.base import Slope
from ablate_core.targets.base import Limit, Regression, raw_outputs

if TYPE_CHECKING:
    from ablate_core.objective import Objective


class Continuous(Limit):
    """Raw outputs are compared: F against v / c_out on flow matching rows, against F^- + g on the others."""

    name: Literal["continuous"] = "continuous"
    jvp_backend: Literal["forward_ad", "finite_diff"] = Field("forward_ad", description="how dV/dt is computed")
    h: float = Field(5e-3, gt=0, description="step of the central difference, in the path's own time; for finite_diff")
    shapes_tangent: ClassVar[bool] = True

    @property
    def needs_forward_ad(self) -> bool:
        return self.jvp_backend == "forward_ad"

    def simplest(self) -> Limit:
        return self if self.jvp_backend == "finite_diff" else Continuous()

    def regress(self, slots: Objective, online: FlowMap, target: FlowMap, state: State, step: int) -> Regression:
        times = state.times
        raw, head = raw_outputs(online, state, times.r, times.t)
        prediction = online.compared(raw, state.x, times.t, state.g)
        regressand = online.comparable(state.v, state.x, times.t, state.g)
        index, rows = jump_rows(state)
        scalars = {}
        if len(index):
            with torch.no_grad():
                slope = self.slope(target, rows)
                aim = slots.tangent.target(slope, step)
                scalars["jvp_ratio"] = slope.curved.norm() / aim.norm()
            regressand = regressand.index_copy(0, index, aim)
        return Regression(prediction, regressand, head, scalars)

    def slope(self, target: FlowMap, rows: Rows) -> Slope:
        """The parts of dX/dt of `rows`. Call it without gradients."""
        own, schedule = target.parameterization, target.schedule
        velocity, d_velocity = self.derivative(target, rows)
        jump, d_jump = own.jump(schedule, rows.t, rows.r), own.d_jump(schedule, rows.t, rows.r)
        straight = expand(jump.keep, rows.v) * rows.v
        scale = None
        if own.compares == "raw":
            scale, skip = own.output_scale(rows.t, schedule, rows.g), own.skip_scale(rows.t, schedule)
            if skip is not None:
                straight = straight + expand(d_jump.move * skip, rows.x) * rows.x
        return Slope(
            raw=target.comparable(velocity, rows.x, rows.t, rows.g),
            output_scale=scale,
            d_move=d_jump.move,
            straight=straight,
            curved=expand(d_jump.keep, rows.x) * rows.x + expand(jump.move, rows.x) * d_velocity,
            alpha=schedule.at(rows.t).alpha,
        )

    def derivative(self, target: FlowMap, rows: Rows) -> tuple[Tensor, Tensor]:
        """V and its total derivative along (x, t) -> (x + v dt, t + dt) with r fixed, each (R, *shape)."""

        def velocity(x: Tensor, t: Tensor) -> Tensor:
            return target.velocity(x, rows.r, t, rows.y, rows.g)

        if self.jvp_backend == "forward_ad":
            return target.velocity_and_tangent(rows.x, rows.r, rows.t, rows.y, rows.along, rows.g)
        # One-sided within h of either end: no path is asked for times that it does not have.
        forward = (target.schedule.end - rows.t).clamp(max=self.h)
        backward = rows.t.clamp(max=self.h)
        ahead = velocity(rows.x + expand(forward, rows.x) * rows.along, rows.t + forward)
        behind = velocity(rows.x - expand(backward, rows.x) * rows.along, rows.t - backward)
        return velocity(rows.x, rows.t), (ahead - behind) / expand(forward + backward, rows.x)
