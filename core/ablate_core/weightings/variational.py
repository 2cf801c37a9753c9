"""Learned log-variance per time (EDM2, arXiv 2312.02696; sCM, arXiv 2410.11081; ESC, arXiv 2512.11831)."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ablate_core.state import State
from ablate_core.weightings.base import Weighting, log_variance_range


class Variational(Weighting):
    """exp(-lv) L + lv with lv = head(t); its optimum is lv = log E[L | t].

    The head gives (B,). In the reference it gives (B, 1), the product is (B, B) and the weight one number for all t
    (defect D1).
    """

    name: Literal["variational"] = "variational"
    needs_log_variance: ClassVar[bool] = True
    per_row: ClassVar[bool] = True

    def weigh(
        self, loss: Tensor, state: State, log_variance: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        lv = log_variance(state.times.t).to(loss.dtype)
        assert lv.shape == loss.shape, f"the log-variance is {tuple(lv.shape)}, the loss {tuple(loss.shape)}"
        return torch.exp(-lv) * loss + lv, log_variance_range(lv)
