"""Target EMA that follows the grid of consistency training (openai/consistency_models cm/script_util.py:186-197)."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

from pydantic import Field

from ablate_core.target_networks.base import TargetNetwork
from ablate_core.time_samplers.noise_grid import ct_scale


class CtAdaptive(TargetNetwork):
    """mu(k) = exp(s0 ln mu0 / N(k)), with N before its + 1."""

    name: Literal["ct_adaptive"] = "ct_adaptive"
    separate: ClassVar[bool] = True
    mu0: float = Field(0.95, gt=0, lt=1, description="decay while the grid has s0 intervals")
    s0: int = Field(2, ge=1, description="grid intervals at the start; those of the time sampler")
    s1: int = Field(150, ge=1, description="grid intervals at the end; those of the time sampler")

    def scales(self) -> tuple[int, int]:
        return self.s0, self.s1

    def decay(self, step: int, total_steps: int) -> float:
        return math.exp(self.s0 * math.log(self.mu0) / ct_scale(step, total_steps, self.s0, self.s1))
