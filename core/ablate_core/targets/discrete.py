"""Finite distance t - s: the one-step map against two target steps (CT arXiv 2303.01469, shortcut arXiv 2410.12557)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from ablate_core.flow_map import FlowMap
from ablate_core.schedules.base import expand
from ablate_core.state import Rows, State, jump_rows, put_rows
from ablate_core.targets.base import Limit, Regression, raw_outputs, velocity_aim

if TYPE_CHECKING:
    from ablate_core.objective import Objective


class Discrete(Limit):
    """X_{t,r}(x_t) against X_{s,r}(X_{t,s}(x_t)), as states or as average velocities.

    ``states``: the states x_r (CT, IMM). ``velocities``: u against [(t - s) u_1 + (s - r) u_2] / (t - r) (shortcut),
    which differs from the states by the factor t - r. Flow matching rows compare V with v in both.
    """

    name: Literal["discrete"] = "discrete"
    compare: Literal["states", "velocities"] = Field("states", description="what is compared")
    clamp_state: float = Field(0.0, ge=0, description="bound of the intermediate state's entries; 0 is off")
    clamp_target: float = Field(0.0, ge=0, description="bound of the target's entries; 0 is off")
    two_steps: ClassVar[bool] = True

    @property
    def shares_prediction(self) -> bool:
        return True

    @property
    def compares_states(self) -> bool:
        return self.compare == "states"

    def regress(self, slots: Objective, online: FlowMap, target: FlowMap, state: State, step: int) -> Regression:
        times, x = state.times, state.x
        raw, head = raw_outputs(online, state, times.r, times.t)
        velocity = online.scaled(raw, x, times.t, state.g)
        if self.compare == "states":
            jump = online.landed(velocity, x, times.r, times.t)
        else:
            jump = online.average(velocity, x, times.r, times.t)
        prediction = jump if jump is velocity else torch.where(expand(times.fm, x), velocity, jump)
        regressand = velocity_aim(online, raw, state)
        index, rows = jump_rows(state)
        if len(index):
            with torch.no_grad():
                aim = self.two_step_target(slots, slots.guidance.wrap(target, rows), rows)
            regressand = put_rows(regressand, index, aim)
        return Regression(prediction, regressand, head)

    def two_step_target(self, slots: Objective, target: FlowMap, rows: Rows) -> Tensor:
        """The target of `rows`, (R, *shape). Call it without gradients."""
        x_s, u_first = slots.first_step.step(target, rows)
        x_s = _clamp(x_s, self.clamp_state)
        x_r, u_second = slots.second_step.step(target, x_s, rows)
        if self.compare == "states":
            return _clamp(x_r, self.clamp_target)
        return _clamp(mean_velocity(rows, u_first, u_second), self.clamp_target)


def mean_velocity(rows: Rows, first: Tensor, second: Tensor) -> Tensor:
    """[(t - s) u_1 + (s - r) u_2] / (t - r), (R, *shape)."""
    steps = (rows.t - rows.s, rows.s - rows.r, rows.t - rows.r)
    one, two, whole = (expand(gap, first) for gap in steps)
    return (one * first + two * second) / whole


def _clamp(x: Tensor, bound: float) -> Tensor:
    return x.clamp(-bound, bound) if bound else x
