"""Targets use an exponential moving average (shortcut models: .999, TVM: .99)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from ablate_core.target_networks.base import TargetNetwork
from ablate_core.target_networks.stop_gradient import StopGradient


class Ema(TargetNetwork):
    """theta^- <- mu theta^- + (1 - mu) theta after every optimiser step."""

    name: Literal["ema"] = "ema"
    separate: ClassVar[bool] = True
    mu: float = Field(0.999, ge=0, lt=1, description="decay; 0 is stop_gradient")

    def simplest(self) -> TargetNetwork:
        return self if self.mu else StopGradient()

    def decay(self, step: int, total_steps: int) -> float:
        return self.mu
