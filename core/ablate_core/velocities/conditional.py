"""The velocity of the row's own pair (x0, e): unbiased, and as noisy as the posterior (arXiv 2210.02747)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from ablate_core.random import Draws
from ablate_core.state import State
from ablate_core.velocities.base import Velocity


class Conditional(Velocity):
    """v = alpha' x0 + sigma' e."""

    name: Literal["conditional"] = "conditional"

    def estimate(self, state: State, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        return state.v, {}
