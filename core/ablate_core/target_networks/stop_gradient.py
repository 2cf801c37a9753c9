"""Targets use the online weights, without a graph (MeanFlow, ESC, iCT, ECT, IMM)."""

from __future__ import annotations

from typing import Literal

from ablate_core.target_networks.base import TargetNetwork


class StopGradient(TargetNetwork):
    """theta^- = theta; no copy is made."""

    name: Literal["stop_gradient"] = "stop_gradient"

    def decay(self, step: int, total_steps: int) -> None:
        return None
