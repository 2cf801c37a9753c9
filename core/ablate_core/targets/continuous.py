"""Continuous-time limit s -> t: regression on F^- + g, g along dX/dt (sCM arXiv 2410.11081, MeanFlow arXiv 2505.13447).

With X_{t,r}(x) = keep x + move V and V = c_skip x + c_out F, the total derivative along (v, 1) is
dX/dt = move' V + keep v + (keep' x + move dV/dt) on every path and in every parameterisation; the whole preconditioner
is inside the differentiated function, so d(c_in)/dt and d(c_out)/dt are part of dV/dt. Only rows that are not flow
matching are differentiated, and without a graph (defect D20).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from ablate_core.flow_map import FlowMap
from ablate_core.host import on_host, sent
from ablate_core.schedules.base import expand
from ablate_core.state import Rows, State, all_rows, jump_index, put_rows, rows_at
from ablate_core.tangents.base import Slope
from ablate_core.targets.base import Limit, Regression, raw_outputs, same_outputs, velocity_aim

if TYPE_CHECKING:
    from ablate_core.objective import Objective

JvpBackend = Literal["explicit", "forward_ad", "finite_diff"]
BACKEND: Any = Field(
    "explicit",
    description="how dV/dt is computed: by the tangents that the architecture has written out (torch's forward mode "
    "where it has none), beside the prediction where both use the same weights; by torch's forward mode in a pass of "
    "its own; by a central difference",
    json_schema_extra={"same": {"explicit": "forward_ad"}},  # one derivative, to rounding: one key
)


class Continuous(Limit):
    """Raw outputs are compared: F against v / c_out on flow matching rows, against F^- + g on the others."""

    name: Literal["continuous"] = "continuous"
    jvp_backend: JvpBackend = BACKEND
    h: float = Field(5e-3, gt=0, description="step of the central difference, in the path's own time; for finite_diff")
    shapes_tangent: ClassVar[bool] = True

    @property
    def needs_forward_ad(self) -> bool:
        return self.jvp_backend != "finite_diff"

    @property
    def shares_prediction(self) -> bool:
        return self.jvp_backend == "explicit"

    def simplest(self) -> Limit:
        return self if self.jvp_backend == "finite_diff" else Continuous(jvp_backend=self.jvp_backend)

    def regress(self, slots: Objective, online: FlowMap, target: FlowMap, state: State, step: int) -> Regression:
        times = state.times
        index = jump_index(state)
        head, found = None, None
        if len(index) and self.shares_prediction and same_outputs(online, target):
            raw, found, rows = beside_tangent(online, state, ~on_host(times.fm), index)
        else:
            rows = rows_at(state, index)
            raw, head = raw_outputs(online, state, times.r, times.t)
        prediction = online.compared(raw, state.x, times.t, state.g)
        regressand = online.comparable(velocity_aim(online, raw, state), state.x, times.t, state.g)
        scalars = {}
        if len(index):
            with torch.no_grad():
                slope = self.slope(target, rows, found)
                aim = slots.tangent.target(slope, step)
                scalars["jvp_ratio"] = torch.linalg.vector_norm(slope.curved) / torch.linalg.vector_norm(aim)
            regressand = put_rows(regressand, index, aim)
        return Regression(prediction, regressand, head, scalars)

    def slope(self, target: FlowMap, rows: Rows, found: tuple[Tensor, Tensor] | None = None) -> Slope:
        """The parts of dX/dt of `rows`; `found`: V and dV/dt, where they are known. Call it without gradients."""
        own, schedule = target.parameterization, target.schedule
        velocity, d_velocity = self.derivative(target, rows) if found is None else found
        d_move: Tensor | float
        if own.moves_straight(schedule):
            d_move, straight, curved = -1.0, rows.v, expand(rows.r - rows.t, rows.x) * d_velocity
        else:
            jump, d_jump = own.jump(schedule, rows.t, rows.r), own.d_jump(schedule, rows.t, rows.r)
            d_move, straight = d_jump.move, expand(jump.keep, rows.v) * rows.v
            curved = expand(d_jump.keep, rows.x) * rows.x + expand(jump.move, rows.x) * d_velocity
        scale = None
        if own.compares == "raw":
            scale, skip = own.output_scale(rows.t, schedule, rows.g), own.skip_scale(rows.t, schedule)
            if skip is not None:
                straight = straight + expand(d_move * skip, rows.x) * rows.x
        return Slope(
            raw=target.comparable(velocity, rows.x, rows.t, rows.g),
            output_scale=scale,
            d_move=d_move,
            straight=straight,
            curved=curved,
            schedule=schedule,
            t=rows.t,
        )

    def derivative(self, target: FlowMap, rows: Rows) -> tuple[Tensor, Tensor]:
        """V and its total derivative along (x, t) -> (x + v dt, t + dt) with r fixed, each (R, *shape)."""

        def velocity(x: Tensor, t: Tensor) -> Tensor:
            return target.velocity(x, rows.r, t, rows.y, rows.g)

        if self.jvp_backend != "finite_diff":
            explicit = self.jvp_backend == "explicit"
            return target.velocity_and_tangent(rows.x, rows.r, rows.t, rows.y, rows.along, rows.g, explicit=explicit)
        # One-sided within h of either end: no path is asked for times that it does not have.
        forward = (target.schedule.end - rows.t).clamp(max=self.h)
        backward = rows.t.clamp(max=self.h)
        ahead = velocity(rows.x + expand(forward, rows.x) * rows.along, rows.t + forward)
        behind = velocity(rows.x - expand(backward, rows.x) * rows.along, rows.t - backward)
        return velocity(rows.x, rows.t), (ahead - behind) / expand(forward + backward, rows.x)


def beside_tangent(
    online: FlowMap, state: State, chosen: Tensor, index: Tensor
) -> tuple[Tensor, tuple[Tensor, Tensor], Rows]:
    """F of a batch with a graph, V and dV/dt of the rows at `index` without one, from one pass, and those rows.

    The network gets these rows last, so that their tangents meet their values in slices; `chosen` (B,) is True on them.
    """
    if len(index) == len(chosen):
        rows = all_rows(state)
        raw, found = online.raw_beside_tangent(rows.x, rows.r, rows.t, rows.y, rows.along, rows.g)
        return raw, found, rows
    order = chosen.argsort(stable=True)
    back = order.argsort()
    ordered = rows_at(state, sent(order, state.x.device))
    rows = ordered.last(len(index))
    raw, found = online.raw_beside_tangent(ordered.x, ordered.r, ordered.t, ordered.y, rows.along, ordered.g)
    return raw.index_select(0, sent(back, raw.device)), found, rows
