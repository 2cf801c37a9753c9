"""Signal-to-noise ratio with an upper bound (min-SNR, arXiv 2303.09556)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from pydantic import Field
from torch import Tensor

from ablate_core.state import State
from ablate_core.weightings.base import Weighting


class MinSnr(Weighting):
    """min(SNR, gamma) on a squared error of clean samples, SNR = (alpha / sigma)^2, converted to what is compared.

    At a given state an error of the clean sample is sigma / alpha times one of the noise and sigma / W times one of the
    velocity, W the Wronskian of the path. ``eps`` is therefore min(SNR, gamma) / SNR on every path, and ``v``
    min(SNR, gamma) (sigma / W)^2: the published min(SNR, gamma) / (SNR + 1) on `trig`, t^2 min(SNR, gamma) on `linear`.
    """

    name: Literal["min_snr"] = "min_snr"
    gamma: float = Field(5.0, gt=0, description="largest SNR that counts")
    kind: Literal["x0", "eps", "v"] = Field("v", description="what the metric compares: samples, noise or velocities")

    def weigh(
        self, loss: Tensor, state: State, log_variance: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        point = state.schedule.at(state.times.t)
        snr = (point.alpha / point.sigma) ** 2
        if self.kind == "eps":
            return loss * (self.gamma / snr).clamp(max=1), {}
        weight = snr.clamp(max=self.gamma)
        return loss * (weight if self.kind == "x0" else weight * (point.sigma / point.wronskian) ** 2), {}
