"""Weight of inductive moment matching (IMM, arXiv 2503.07565; rosinality/inductive-moment-matching src/imm/loss.py)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

from pydantic import Field
from torch import Tensor

from ablate_core.schedules.base import PathPoint
from ablate_core.state import State
from ablate_core.weightings.base import Weighting


class Imm(Weighting):
    """1/2 sigmoid(b - lambda) (-lambda') alpha^a / (alpha^2 + sigma^2), lambda = 2 log(alpha / sigma)."""

    name: Literal["imm"] = "imm"
    a: int = Field(2, ge=1, description="power of alpha")
    b: float = Field(4.0, description="offset of the log-SNR")

    def weight(self, point: PathPoint) -> Tensor:
        """The weight at times (B,), in a form with no singularity: NaN at t = 0 in the textbook form, 0 here.

        sigmoid(b - lambda) = sigma^2 / (sigma^2 + alpha^2 e^-b) and -lambda' = 2 W / (alpha sigma).
        """
        alpha, sigma = point.alpha, point.sigma
        snr_part = sigma**2 + alpha**2 * math.exp(-self.b)
        return point.wronskian * sigma * alpha ** (self.a - 1) / (snr_part * (alpha**2 + sigma**2))

    def weigh(
        self, loss: Tensor, state: State, log_variance: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        return loss * self.weight(state.schedule.at(state.times.t)), {}
