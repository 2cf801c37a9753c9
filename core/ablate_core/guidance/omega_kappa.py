"""Guided velocity of MeanFlow and ESC (arXiv 2505.13447, eq. 21; EDAPINENUT/ExplicitShortCut loss/esc_loss.py)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from ablate_core.flow_map import FlowMap
from ablate_core.guidance.base import Guidance, mixed_in
from ablate_core.guidance.none import NoGuidance
from ablate_core.host import on_host, sent
from ablate_core.schedules.base import expand
from ablate_core.state import State


class OmegaKappa(Guidance):
    """v_g = omega v + kappa u(x_t, t, t, y) + (1 - omega - kappa) u(x_t, t, t, null) where t_min <= t <= t_max.

    Rows whose label was dropped keep v. The fixed point is classifier-free guidance of scale omega / (1 - kappa).
    """

    name: Literal["omega_kappa"] = "omega_kappa"
    omega: float = Field(1.0, gt=0, description="weight of the data velocity")
    kappa: float = Field(0.5, ge=0, lt=1, description="weight of the network's conditional velocity")
    t_min: float = Field(0.0, description="smallest guided time, inclusive")
    t_max: float = Field(1.0, description="largest guided time, inclusive; below t_min: never")
    needs_velocity: ClassVar[bool] = True

    @property
    def effective_scale(self) -> float:
        return self.omega / (1 - self.kappa)

    @property
    def mixture(self) -> tuple[float, float, float, float]:
        return self.omega, self.kappa, self.t_min, self.t_max

    def simplest(self) -> Guidance:
        never = self.t_min > self.t_max or self.t_min > 1 or self.t_max < 0
        return NoGuidance() if never or (self.omega == 1 and self.kappa == 0) else self

    def guide(self, target: FlowMap, state: State) -> Tensor:
        return self.guide_beside(target, state, torch.zeros_like(state.kept))[0]

    def guide_beside(self, target: FlowMap, state: State, own: Tensor) -> tuple[Tensor, Tensor | None]:
        t, rest = on_host(state.times.t), 1 - self.omega - self.kappa
        guided = state.kept & (t >= self.t_min) & (t <= self.t_max)
        never = torch.zeros_like(guided)
        without, within = guided if abs(rest) > 1e-12 else never, guided & ~own if self.kappa else never
        v, device = state.v, state.v.device
        if self.omega != 1:
            v = torch.where(expand(sent(guided, device), v), self.omega * v, v)
        v = mixed_in(v, target, state, (without, rest), (within, self.kappa))
        return v, sent(self.kappa * (guided & own).to(v.dtype), device) if self.kappa else None
