"""The axis `weighting`: what the per-row loss is multiplied with (design-space 2.12)."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import ClassVar

from torch import Tensor

from ablate_core.component import Component
from ablate_core.state import State


class Weighting(Component):
    """A weight per row, fixed or learned."""

    name: str
    needs_log_variance: ClassVar[bool] = False
    """True where the network must have a log-variance head (C12)."""
    per_row: ClassVar[bool] = False
    """True where rows of one group may get different weights (C6)."""
    between: ClassVar[bool] = False
    """True where it divides by t - s (needs the discrete limit)."""
    one_without_gap: ClassVar[bool] = False
    """True where it is exactly 1 on rows with s = t (E4)."""
    needs_gap: ClassVar[bool] = False
    """True where it is infinite at s = t."""
    needs_guidance_scale: ClassVar[bool] = False
    """True where it depends on the guidance input ``beta``."""

    @abc.abstractmethod
    def weigh(
        self, loss: Tensor, state: State, log_variance: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted loss (B,) from the loss (B,), and scalars for the log; `log_variance` maps t (B,) to (B,)."""


def log_variance_range(lv: Tensor) -> dict[str, Tensor]:
    """Mean, smallest and largest learned log-variance (B,) of a batch, for the log."""
    lv = lv.detach()
    smallest, largest = lv.aminmax()
    return {"log_variance": lv.mean(), "log_variance_min": smallest, "log_variance_max": largest}


def noise_level(state: State) -> Tensor:
    """s0 sigma(t) / alpha(t), (B,): the noise level in units of the data; infinite, not negative, at t = 1."""
    point = state.schedule.at(state.times.t)
    return state.noise_std * point.sigma / point.alpha.abs()
