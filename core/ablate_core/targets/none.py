"""No two-step target: every row regresses on the velocity (flow matching, arXiv 2210.02747)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from ablate_core.flow_map import FlowMap
from ablate_core.state import State
from ablate_core.targets.base import Limit, Regression, raw_outputs, velocity_aim

if TYPE_CHECKING:
    from ablate_core.objective import Objective


class NoLimit(Limit):
    """F(x_t, r, t) against v / c_out."""

    name: Literal["none"] = "none"
    learns_jumps: ClassVar[bool] = False

    @property
    def shares_prediction(self) -> bool:
        return True

    def regress(self, slots: Objective, online: FlowMap, target: FlowMap, state: State, step: int) -> Regression:
        r, t = state.times.r, state.times.t
        raw, head = raw_outputs(online, state, r, t)
        aim = online.comparable(velocity_aim(online, raw, state), state.x, t, state.g)
        return Regression(online.compared(raw, state.x, t, state.g), aim, head)
