"""The exact continuous target: on an average velocity v - (t - r) du/dt (MeanFlow, arXiv 2505.13447, eq. 10)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from ablate_core.tangents.base import Slope, Tangent, unnormalized


class NoTangent(Tangent):
    """No warm-up, no normalisation."""

    name: Literal["none"] = "none"

    def target(self, slope: Slope, step: int) -> Tensor:
        return unnormalized(slope, 1.0)
