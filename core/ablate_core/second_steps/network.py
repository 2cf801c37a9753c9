"""The target network's own jump from s to r, with the coefficients of s (defect D9 of the reference: those of t)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from ablate_core.flow_map import FlowMap
from ablate_core.second_steps.base import SecondStep
from ablate_core.state import Rows


class NetworkSecondStep(SecondStep):
    """x_r = X^-_{s,r}(x_s), in the objective's own parameterisation."""

    name: Literal["network"] = "network"

    def step(self, target: FlowMap, x_s: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
        velocity = target.velocity(x_s, rows.r, rows.s, rows.y, rows.g)
        return target.landed(velocity, x_s, rows.r, rows.s), target.average(velocity, x_s, rows.r, rows.s)
