"""A power of alpha = (t - s) / (t - r): a finite limit as s -> t for velocities (AlphaFlow; snap-research/alphaflow).

The published objective divides by alpha. The code multiplies by it, next to a metric that has divided by the loss.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from ablate_core.state import State
from ablate_core.weightings.base import Weighting


class InvRatio(Weighting):
    """((t - s) / (t - r))^power; 1 on rows with s = t, which take the limit, and on flow matching rows, with s = r."""

    name: Literal["inv_ratio"] = "inv_ratio"
    power: Literal[-1, 1] = Field(-1, description="-1 as published, 1 as in the code")
    between: ClassVar[bool] = True
    one_without_gap: ClassVar[bool] = True

    def weigh(
        self, loss: Tensor, state: State, log_variance: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        times = state.times
        one = torch.ones_like(times.t)
        apart = times.s < times.t
        step, whole = (torch.where(apart, gap, one) for gap in (times.t - times.s, times.t - times.r))
        return loss * (whole / step if self.power == -1 else step / whole), {}
