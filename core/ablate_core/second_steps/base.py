"""The axis `second_step`: how the two-step target goes from s to r (design-space 2.6)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from ablate_core.component import Component
from ablate_core.flow_map import FlowMap
from ablate_core.state import Rows


class SecondStep(Component):
    """A step from (x_s, s) to r, and the mean velocity over it."""

    name: str
    takes_step: ClassVar[bool] = True
    """False for the choice that is none."""
    moves: ClassVar[bool] = True
    """False where it stays at s, which is right only for time samplers with s = r (C2)."""

    def step(self, target: FlowMap, x_s: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
        """x_r and (x_r - x_s) / (r - s), each (R, *shape), without a graph."""
        raise TypeError(f"second_step {self.name} takes no step")
