"""Plug-in velocity: the batch's own samples as the data distribution (ESC, arXiv 2512.11831).

The reference (EDAPINENUT/ExplicitShortCut loss/esc_loss.py:134-170) forms a B x B x D tensor and raises at t = 0
(defect D21). Here: one B x B matrix of logits and one matrix product, and the conditional velocity where sigma is 0.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from ablate_core.host import on_host, rows_where
from ablate_core.random import Draws
from ablate_core.state import State, put_rows
from ablate_core.velocities.base import Velocity
from ablate_core.velocities.conditional import Conditional


class Plugin(Velocity):
    """With probability `prob` a row takes the posterior-mean velocity over the batch, otherwise its conditional one."""

    name: Literal["plugin"] = "plugin"
    prob: float = Field(0.5, ge=0, le=1, description="probability of the plug-in velocity; 0 is `conditional`")
    same_class: bool = Field(False, description="rows with a class only see samples of that class (our extension)")
    eps: float = Field(1e-5, gt=0, description="smallest sigma(t) / alpha(t) at which it is used")
    min_batch: ClassVar[int] = 2
    needs_independent_noise: ClassVar[bool] = True

    @property
    def ignores_labels(self) -> bool:
        return not self.same_class

    def simplest(self) -> Velocity:
        return self if self.prob > 0 else Conditional()

    def estimate(self, state: State, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        n = len(state.x)
        chosen = draws.on_host().uniform("dropout.plugin", n) < self.prob
        chosen &= state.schedule.ratio(on_host(state.times.t)) > self.eps
        rows = rows_where(chosen, state.x.device)
        velocity, weights = plugin_velocity(state, rows, same_class=self.same_class)
        share, ess = weights.new_full((), len(rows) / n), 1 / weights.square().sum(1)
        scalars = {"plugin_share": share, "plugin_ess": ess.mean() if len(rows) else ess.new_ones(())}
        return put_rows(state.v, rows, velocity), scalars


def plugin_velocity(state: State, rows: Tensor, *, same_class: bool = False) -> tuple[Tensor, Tensor]:
    """Posterior-mean velocity of `rows` when the data distribution is the batch.

    The logit of sample j for row i is -|x_t,i - alpha x0_j|^2 / (2 sigma^2 s0^2). Written with the row's own pair it is
    0 for j = i and -(alpha^2 |x0_i - x0_j|^2 / 2 + alpha sigma (x0_i - x0_j) . e_i) / (sigma^2 s0^2) for the others:
    nothing large cancels, so float32 suffices.

    Args:
        state: the batch; sigma(t) must be positive on `rows`.
        rows: row indices, (R,) int64.
        same_class: rows whose class the network is told only see samples of that class.

    Returns:
        The velocity (R, *shape) and the weights (R, B), whose rows sum to 1.
    """
    data, times, whole = state.x0.flatten(1), state.times.t.index_select(0, rows), state.noise_std
    own, unit = data.index_select(0, rows), state.noise.flatten(1).index_select(0, rows)
    if whole != 1:
        unit = unit / whole
    point = state.schedule.at(times)
    with torch.autocast(data.device.type, enabled=False):  # a half-precision logit would decide the weights by rounding
        ratio = (point.sigma / point.alpha)[:, None]
        if whole != 1:
            ratio = ratio * whole
        square = data.square().sum(1)
        apart = (square.index_select(0, rows)[:, None] + square).sub_((2 * own) @ data.T).clamp_(min=0)
        along = (own * unit).sum(1, keepdim=True) - unit @ data.T
        logits = (apart / (2 * ratio**2)).add_(along / ratio).neg_()
        if same_class and state.labels is not None:
            assert state.y is not None
            known = state.y.index_select(0, rows) != state.null
            other = (state.labels.index_select(0, rows)[:, None] != state.labels) & known[:, None]
            logits = logits.masked_fill_(other, -torch.inf)
        weights = torch.softmax(logits, dim=1)
        mean = weights @ data
    v = state.v.index_select(0, rows)
    pull = point.wronskian / point.sigma
    return v - (pull[:, None] * (mean - own)).view_as(v), weights
