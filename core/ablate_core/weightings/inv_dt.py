"""1 / (t - s): gives a distance of states a finite limit as s -> t (iCT, ECT)."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ablate_core.state import State
from ablate_core.weightings.base import Weighting


class InvDt(Weighting):
    """1 / (t - s) in the path's own time; flow matching rows keep weight 1."""

    name: Literal["inv_dt"] = "inv_dt"
    between: ClassVar[bool] = True
    needs_gap: ClassVar[bool] = True

    def weigh(
        self, loss: Tensor, state: State, log_variance: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        times = state.times
        gap = torch.where(times.fm, torch.ones_like(times.t), times.t - times.s)
        return loss / gap, {}
