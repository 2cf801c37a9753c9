"""Average velocity in units of the guidance scale: u = w F (TVM, `do_scale_param`; lumalabs/tvm)."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from ablate_core.parameterizations.base import AverageVelocity
from ablate_core.schedules.base import Schedule


class ScaledU(AverageVelocity):
    """V = F / beta, beta = 1 / w the first guidance input of the row.

    Raw outputs are compared, so an error of V counts 1 / w: a squared metric then has the weight 1 / w^2 of the paper.
    """

    name: Literal["scaled_u"] = "scaled_u"
    needs_guidance_scale: ClassVar[bool] = True

    def output_scale(self, t: Tensor, schedule: Schedule, g: Tensor | None = None) -> Tensor:
        if g is None:
            raise ValueError("scaled_u needs the guidance input beta; set objective.guidance: tvm")
        return 1 / g[:, 0].to(t.dtype)
