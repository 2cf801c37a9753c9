"""The axis `schedule`: the flow path x_t = alpha(t) x0 + sigma(t) e, with t = 0 data and t = 1 noise."""

from __future__ import annotations

import abc
from typing import ClassVar, NamedTuple

from torch import Tensor

from ablate_core.component import Component


class PathPoint(NamedTuple):
    """Coefficients of the path at times t; each of t's shape and dtype."""

    alpha: Tensor
    sigma: Tensor
    d_alpha: Tensor
    d_sigma: Tensor


class Schedule(Component):
    """A flow path. Concrete schedules give `at`; everything else follows from it (design-space 1.2)."""

    name: str
    straight: ClassVar[bool] = False
    """True where an Euler step with the conditional velocity is exact (linear, VE)."""

    @abc.abstractmethod
    def at(self, t: Tensor) -> PathPoint:
        """alpha, sigma and d/dt of both at `t` (any shape, floating, in [0, 1])."""
