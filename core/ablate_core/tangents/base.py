"""The axis `tangent`: how the tangent of a continuous target is shaped (design-space 2.8, 2.13)."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ablate_core.component import Component
from ablate_core.schedules.base import Schedule, expand


@dataclass(frozen=True)
class Slope:
    """The parts of dX_{t,r}(x_t)/dt = move' V + keep v + (keep' x_t + move dV/dt), for R rows, without a graph.

    Attributes:
        raw: F^-, (R, *shape), V = c_skip x + c_out F; where velocities are compared, V^- (then c_skip is 0, c_out 1).
        output_scale: c_out, (R,), or None where it is 1.
        d_move: move', (R,), or one number for all rows.
        straight: keep v + move' c_skip x, (R, *shape).
        curved: keep' x_t + move dV/dt, (R, *shape): what the warm-up multiplies.
        schedule: the flow path.
        t: times, (R,).
    """

    raw: Tensor
    output_scale: Tensor | None
    d_move: Tensor | float
    straight: Tensor
    curved: Tensor
    schedule: Schedule
    t: Tensor

    @property
    def alpha(self) -> Tensor:
        """alpha(t) of the path, (R,)."""
        return self.schedule.at(self.t).alpha


class Tangent(Component):
    """From a slope to the regression target of F."""

    name: str
    shapes: ClassVar[bool] = False
    """True where it changes the continuous target; such a choice has no meaning elsewhere (C15)."""

    @property
    def normalizes(self) -> bool:
        """True where the tangent's length is normalised (C14)."""
        return False

    @property
    def needs_circle(self) -> bool:
        """True where it is defined for alpha^2 + sigma^2 = 1 and landing at the data only."""
        return False

    @property
    def ramp_steps(self) -> int:
        """Optimiser steps of its warm-up; 0: none."""
        return 0

    @abc.abstractmethod
    def target(self, slope: Slope, step: int) -> Tensor:
        """Target of the raw output F, (R, *shape)."""


def unnormalized(slope: Slope, warmup: float, weight: Tensor | None = None) -> Tensor:
    """F^- + w [move' c_out F^- + keep v + warmup (keep' x + move dV/dt)] with w = `weight` / c_out (None: 1 / c_out).

    The coefficient of F^- is formed first: for an average velocity it is 1 - 1 = 0 exactly, and the target is
    v - warmup (t - r) du/dt bit for bit.
    """
    coefficient = 1 + (slope.d_move if weight is None else weight * slope.d_move)
    rest = slope.straight + (slope.curved if warmup == 1 else warmup * slope.curved)
    if weight is not None:
        rest = expand(weight, rest) * rest
    if slope.output_scale is not None:
        rest = rest / expand(slope.output_scale, rest)
    if isinstance(coefficient, float):
        return coefficient * slope.raw + rest if coefficient else rest
    return expand(coefficient, rest) * slope.raw + rest
