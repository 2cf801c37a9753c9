"""Weights in the noise level, made for distances of clean samples (consistency models, arXiv 2303.01469).

openai/consistency_models cm/karras_diffusion.py get_weightings. EDM's lambda (sigma^2 + sd^2) / (sigma sd)^2 is
``karras`` written in another way, so it has no name of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from pydantic import Field
from torch import Tensor

from ablate_core.state import State
from ablate_core.weightings.base import Weighting, noise_level


class Snr(Weighting):
    """snr: 1 / sigma^2; snr_plus_1: 1 / sigma^2 + 1; karras: 1 / sigma^2 + 1 / sigma_data^2; truncated: max(1, snr).

    sigma = s0 sigma(t) / alpha(t) is the noise level in units of the data, the time of the path `ve`.
    """

    name: Literal["snr"] = "snr"
    kind: Literal["snr", "snr_plus_1", "karras", "truncated"] = Field("snr", description="which of the four")
    sigma_data: float = Field(1.0, gt=0, description="standard deviation of the data, for kind: karras")
    floor: float = Field(0.002, gt=0, description="smaller noise levels count as this one; 0 would weigh infinitely")

    def simplest(self) -> Weighting:
        if self.kind == "karras":
            return self
        return self.model_copy(update={"sigma_data": type(self).model_fields["sigma_data"].default})

    def weight(self, sigma: Tensor) -> Tensor:
        """The weight of noise levels, (B,)."""
        snr = sigma.clamp(min=self.floor) ** -2
        if self.kind == "truncated":
            return snr.clamp(min=1)
        offsets = {"snr": 0.0, "snr_plus_1": 1.0, "karras": self.sigma_data**-2}
        return snr + offsets[self.kind]

    def weigh(
        self, loss: Tensor, state: State, log_variance: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        return loss * self.weight(noise_level(state)), {}
