"""The target network's own jump from t to s (shortcut models, arXiv 2410.12557; SplitMeanFlow, arXiv 2507.16884)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from ablate_core.first_steps.base import FirstStep
from ablate_core.flow_map import FlowMap
from ablate_core.state import Rows


class NetworkFirstStep(FirstStep):
    """x_s = X^-_{t,s}(x_t)."""

    name: Literal["network"] = "network"

    def step(self, target: FlowMap, rows: Rows) -> tuple[Tensor, Tensor]:
        velocity = target.velocity(rows.x, rows.s, rows.t, rows.y, rows.g)
        x_s = target.landed(velocity, rows.x, rows.s, rows.t)
        return x_s, target.average(velocity, rows.x, rows.s, rows.t)
