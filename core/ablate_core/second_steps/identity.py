"""No movement where s = r: the target is the first step alone (trajectory flow matching, AlphaFlow with alpha = 1)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from ablate_core.flow_map import FlowMap
from ablate_core.second_steps.base import SecondStep
from ablate_core.state import Rows


class IdentityStep(SecondStep):
    """x_r = x_s; for time samplers whose s is always r."""

    name: Literal["identity"] = "identity"
    moves: ClassVar[bool] = False

    def step(self, target: FlowMap, x_s: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
        return x_s, torch.zeros_like(x_s)
