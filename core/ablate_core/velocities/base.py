"""The axis `velocity`: the velocity estimate used in targets and tangents (design-space 2.10)."""

from __future__ import annotations

import abc
from typing import ClassVar

from torch import Tensor

from ablate_core.component import Component
from ablate_core.flow_map import FlowMap
from ablate_core.random import Draws
from ablate_core.state import State


class Velocity(Component):
    """An estimate of the marginal velocity E[v | x_t] at the batch's own states."""

    name: str
    min_batch: ClassVar[int] = 1
    """Smallest batch it is defined on."""

    @property
    def ignores_labels(self) -> bool:
        """True where rows with a class get the velocity of all classes together (C8)."""
        return False

    uses_network: ClassVar[bool] = False
    """True where the path is followed along the network's own velocity, which must then be trained (p_eq > 0)."""
    needs_independent_noise: ClassVar[bool] = False
    """True where x0 and e must be drawn independently (C7)."""

    def direction(self, target: FlowMap, state: State) -> Tensor | None:
        """The velocity (B, *shape) along which tangents and first steps follow the path; None: that of the target."""
        return None

    @abc.abstractmethod
    def estimate(self, state: State, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        """The velocity (B, *shape) and scalars for the log."""
