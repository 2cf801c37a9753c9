"""Every row counts the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor

from ablate_core.state import State
from ablate_core.weightings.base import Weighting


class NoWeighting(Weighting):
    """Weight 1."""

    name: Literal["none"] = "none"

    def weigh(
        self, loss: Tensor, state: State, log_variance: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        return loss, {}
