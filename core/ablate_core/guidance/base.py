"""The axis `guidance`: classifier-free guidance inside training (design-space 2.14)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from ablate_core.component import Component
from ablate_core.flow_map import FlowMap
from ablate_core.state import Rows, State


class Guidance(Component):
    """Guided velocity, guided two-step target, or neither. Both hooks do nothing by default."""

    name: str
    needs_labels: ClassVar[bool] = True
    """True where labels, a null class and label dropout are needed."""
    needs_velocity: ClassVar[bool] = False
    """True where u(x, t, t) must be trained, because it is evaluated."""
    needs_ladder: ClassVar[bool] = False
    """True where the time sampler must have a dyadic ladder of jumps."""
    trained: ClassVar[bool] = True
    """True where the trained model is already guided and is sampled without guidance."""

    @property
    def effective_scale(self) -> float | None:
        """The guidance scale w' of the fixed point w' v_c + (1 - w') v_u, where there is one."""
        return None

    def guide(self, target: FlowMap, state: State) -> Tensor:
        """The velocity of `state` after guidance, (B, *shape)."""
        return state.v

    def wrap(self, target: FlowMap, rows: Rows) -> FlowMap:
        """The map that the two-step target of `rows` is computed with."""
        return target
