"""The axis `limit`: how prediction and target are formed from the slots (design-space 1.3)."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from ablate_core.component import Component
from ablate_core.flow_map import FlowMap
from ablate_core.state import State

if TYPE_CHECKING:
    from ablate_core.objective import Objective


class Limit(Component):
    """Distance of the intermediate time: finite (discrete), vanishing (continuous), or no two-step target (none)."""

    name: str
    learns_jumps: ClassVar[bool] = True
    """False where the network only learns the velocity; it is then asked at r = t also when it jumps further."""
    two_steps: ClassVar[bool] = False
    """True where first and second step are taken, at a time s between."""
    shapes_tangent: ClassVar[bool] = False
    """True where the slot `tangent` has a meaning."""

    @property
    def needs_forward_ad(self) -> bool:
        """True where the network must have a forward-mode derivative (C1)."""
        return False

    @property
    def compares_states(self) -> bool:
        """True where states x_r are compared rather than velocities."""
        return False

    @abc.abstractmethod
    def regress(
        self, slots: Objective, online: FlowMap, target: FlowMap, state: State, step: int
    ) -> tuple[Tensor, Tensor]:
        """Prediction, with a graph, and target, without one; (B, *shape) each.

        Rows of flow matching regress on ``state.v`` itself.
        """
