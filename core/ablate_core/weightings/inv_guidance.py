"""beta^2 = 1 / w^2: errors count in units of the guidance scale (TVM, arXiv 2511.19797; lumalabs/tvm)."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

from torch import Tensor

from ablate_core.state import State
from ablate_core.weightings.base import Weighting


class InvGuidance(Weighting):
    """beta^2 per row, on both terms of the loss; `scaled_u` has the same weight inside its squared error."""

    name: Literal["inv_guidance"] = "inv_guidance"
    per_row: ClassVar[bool] = True
    needs_guidance_scale: ClassVar[bool] = True

    def weigh(
        self, loss: Tensor, state: State, log_variance: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        assert state.g is not None, "checked by legality: needs_guidance_scale"
        return loss * state.g[:, 0].to(loss.dtype) ** 2, {}
