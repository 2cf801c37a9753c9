"""Logarithm of the loss with a learned scale (DMF, arXiv 2510.24474; kyungmnlee/dmf loss.py log_lv_loss).

The reference computes it from the mean squared error and so calls it a loss. It takes one number per row, whatever
metric that comes from, and needs the log-variance head, so it is a weighting here: `l2_mean` with `cauchy_lv` is DMF's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from ablate_core.state import State
from ablate_core.weightings.base import Weighting, log_variance_range


class CauchyLv(Weighting):
    """log(exp(-lv) L + c) + lv with lv = head(t), which is log(L + c exp(lv)).

    Its gradient is that of the `adaptive` metric at p = 1 with the learned constant c exp(lv). Unlike `variational` it
    has no optimum in lv: it falls towards log L as lv sinks, at the slow rate c exp(lv) / (L + c exp(lv)). The head of
    the reference is told r too, ours t only.
    """

    name: Literal["cauchy_lv"] = "cauchy_lv"
    c: float = Field(0.01, gt=0, description="added to the scaled loss")
    needs_log_variance: ClassVar[bool] = True
    per_row: ClassVar[bool] = True

    def weigh(
        self, loss: Tensor, state: State, log_variance: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        lv = log_variance(state.times.t).to(loss.dtype)
        assert lv.shape == loss.shape, f"the log-variance is {tuple(lv.shape)}, the loss {tuple(loss.shape)}"
        return torch.log(torch.exp(-lv) * loss + self.c) + lv, log_variance_range(lv)
