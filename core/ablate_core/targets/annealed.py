"""From discrete to continuous while training: two steps where s < t, their limit where s = t (AlphaFlow).

snap-research/alphaflow src/training/loss.py.

The velocity target is alpha v + (1 - alpha) u^-(x_s, r, s), alpha = (t - s) / (t - r); divided by alpha its residual
converges to the continuous one as alpha -> 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from ablate_core.flow_map import FlowMap
from ablate_core.host import on_host, rows_where
from ablate_core.state import Rows, State, put_rows, rows_at
from ablate_core.targets.base import Limit, Regression, raw_outputs, same_outputs, velocity_aim
from ablate_core.targets.continuous import BACKEND, Continuous, JvpBackend, beside_tangent
from ablate_core.targets.discrete import Discrete

if TYPE_CHECKING:
    from ablate_core.objective import Objective


class Annealed(Limit):
    """Average velocities are compared on every row, whichever way its target is made."""

    name: Literal["annealed"] = "annealed"
    jvp_backend: JvpBackend = BACKEND
    h: float = Field(5e-3, gt=0, description="step of the central difference, in the path's own time; for finite_diff")
    clamp_target: float = Field(0.0, ge=0, description="bound of a discrete target's entries; 0 is off")
    two_steps: ClassVar[bool] = True
    closes_gap: ClassVar[bool] = True
    shapes_tangent: ClassVar[bool] = True

    @property
    def needs_forward_ad(self) -> bool:
        return self.jvp_backend != "finite_diff"

    @property
    def shares_prediction(self) -> bool:
        return self.jvp_backend == "explicit"

    def simplest(self) -> Limit:
        if self.jvp_backend == "finite_diff":
            return self
        return self.model_copy(update={"h": Annealed.model_fields["h"].default})

    def regress(self, slots: Objective, online: FlowMap, target: FlowMap, state: State, step: int) -> Regression:
        times, x = state.times, state.x
        fm, s, t = (on_host(of) for of in (times.fm, times.s, times.t))
        apart, near = (where & ~fm for where in (s < t, s >= t))
        index = rows_where(near, x.device)
        head, found = None, None
        if len(index) and self.shares_prediction and same_outputs(online, target):
            raw, found, rows = beside_tangent(online, state, near, index)
        else:
            rows = rows_at(state, index)
            raw, head = raw_outputs(online, state, times.r, times.t)
        velocity = online.scaled(raw, x, times.t, state.g)
        prediction = online.average(velocity, x, times.r, times.t)
        regressand = velocity_aim(online, raw, state)
        if len(index):
            with torch.no_grad():
                aim = self._limit(slots, target, rows, step, found)
            regressand = put_rows(regressand, index, aim)
        index = rows_where(apart, x.device)
        if len(index):
            with torch.no_grad():
                aim = self._two_steps(slots, target, rows_at(state, index), step)
            regressand = put_rows(regressand, index, aim)
        return Regression(prediction, regressand, head)

    def _two_steps(self, slots: Objective, target: FlowMap, rows: Rows, step: int) -> Tensor:
        discrete = Discrete(compare="velocities", clamp_target=self.clamp_target)
        return discrete.two_step_target(slots, slots.guidance.wrap(target, rows), rows)

    def _limit(
        self, slots: Objective, target: FlowMap, rows: Rows, step: int, found: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """u^- + dX/dt, the limit of the residual of `_two_steps` over alpha, in every parameterisation."""
        slope = Continuous(jvp_backend=self.jvp_backend, h=self.h).slope(target, rows, found)
        velocity, aim = slope.raw, slots.tangent.target(slope, step)
        if target.parameterization.compares == "raw":
            velocity, aim = (target.scaled(raw, rows.x, rows.t, rows.g) for raw in (velocity, aim))
        mean = target.average(velocity, rows.x, rows.r, rows.t)
        return aim if mean is velocity else mean + (aim - velocity)
