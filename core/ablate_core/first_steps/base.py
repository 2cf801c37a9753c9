"""The axis `first_step`: how the two-step target goes from t to s (design-space 2.5)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from ablate_core.component import Component
from ablate_core.flow_map import FlowMap
from ablate_core.state import Rows


class FirstStep(Component):
    """A step from (x_t, t) to s, and the mean velocity over it."""

    name: str
    takes_step: ClassVar[bool] = True
    """False for the choice that is none."""
    follows_velocity: ClassVar[bool] = False
    """True where it steps along the velocity estimate, rather than with a network's jump."""
    euler: ClassVar[bool] = False
    """True where a given velocity is used as if the path were straight (C19)."""

    def step(self, target: FlowMap, rows: Rows) -> tuple[Tensor, Tensor]:
        """x_s and (x_s - x_t) / (s - t), each (R, *shape), without a graph."""
        raise TypeError(f"first_step {self.name} takes no step")
