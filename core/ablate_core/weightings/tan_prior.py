"""Prior weight of sCM, 1 / (sigma_data tan theta) (arXiv 2410.11081, section 4.2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from pydantic import Field
from torch import Tensor

from ablate_core.state import State
from ablate_core.weightings.base import Weighting, noise_level


class TanPrior(Weighting):
    """1 / (s0 tan theta) with tan theta = sigma(t) / alpha(t): one over the noise level.

    xandergos/sCM-mnist leaves it out, because it made training unstable at low noise.
    """

    name: Literal["tan_prior"] = "tan_prior"
    floor: float = Field(0.002, gt=0, description="smaller noise levels count as this one; 0 would weigh infinitely")

    def weigh(
        self, loss: Tensor, state: State, log_variance: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        return loss / noise_level(state).clamp(min=self.floor), {}
