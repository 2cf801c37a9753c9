"""No target network: plain regression on data."""

from __future__ import annotations

from typing import ClassVar, Literal

from ablate_core.target_networks.base import TargetNetwork


class NoTargetNetwork(TargetNetwork):
    """For objectives whose targets hold no network output."""

    name: Literal["none"] = "none"
    used: ClassVar[bool] = False

    def decay(self, step: int, total_steps: int) -> None:
        return None
