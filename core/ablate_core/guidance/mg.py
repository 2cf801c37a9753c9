"""Model guidance: the network's own difference of classes added to the data velocity (DMF; kyungmnlee/dmf loss.py)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from ablate_core.flow_map import FlowMap
from ablate_core.guidance.base import Guidance
from ablate_core.guidance.none import NoGuidance
from ablate_core.guidance.omega_kappa import OmegaKappa
from ablate_core.state import State


class Mg(Guidance):
    """v_g = v + om (u(x_t, t, t, y) - u(x_t, t, t, null)) where t_min <= t <= t_max; the fixed point has 1 / (1 - om).

    It is `omega_kappa` with omega 1 and kappa `om`.
    """

    name: Literal["mg"] = "mg"
    om: float = Field(0.6, ge=0, lt=1, description="weight of the difference; 0 is off")
    t_min: float = Field(0.0, description="smallest guided time, inclusive")
    t_max: float = Field(1.0, description="largest guided time, inclusive; below t_min: never")
    needs_velocity: ClassVar[bool] = True

    @property
    def effective_scale(self) -> float:
        return 1 / (1 - self.om)

    @property
    def mixture(self) -> tuple[float, float, float, float]:
        return self._as_omega_kappa().mixture

    def _as_omega_kappa(self) -> OmegaKappa:
        return OmegaKappa(omega=1.0, kappa=self.om, t_min=self.t_min, t_max=self.t_max)

    def simplest(self) -> Guidance:
        plain = self._as_omega_kappa().simplest()
        return plain if isinstance(plain, NoGuidance) else self

    def guide(self, target: FlowMap, state: State) -> Tensor:
        return self._as_omega_kappa().guide(target, state)

    def guide_beside(self, target: FlowMap, state: State, own: Tensor) -> tuple[Tensor, Tensor | None]:
        return self._as_omega_kappa().guide_beside(target, state, own)
