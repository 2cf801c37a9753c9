"""Warm-up, normalisation and pre-weight of the tangent (sCM, arXiv 2410.11081; ESC, arXiv 2512.11831)."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from ablate_core.schedules.base import expand
from ablate_core.tangents.base import Slope, Tangent, unnormalized
from ablate_core.tangents.none import NoTangent


class Shaped(Tangent):
    """F_target = F^- + normalise(w [move' V + keep v + rho (keep' x_t + move dV/dt)]).

    rho = min(1, step / warmup_steps). Warm-up 0 is off (the reference divides by it, defect D5). ``rms`` gives
    g / (||g|| / sqrt(D) + c), ``l2`` gives g / (||g|| + c), ``clip`` clamps every entry to +-1.

    With warmup ``rcm`` (NVlabs/rcm t2v_model_distill_rcm.py) the other part, move' V + keep v, is multiplied by
    sqrt(1 - rho^2 sigma^2) / alpha besides: on the circle, landing at the data, it starts at V's own length and shrinks
    to the exact cos.
    """

    name: Literal["shaped"] = "shaped"
    warmup_steps: int = Field(10_000, ge=0, description="optimiser steps until rho = 1; 0 is off")
    normalize: Literal["none", "rms", "l2", "clip"] = Field("none", description="how its length is bounded")
    c: float = Field(0.1, gt=0, description="added to the length before dividing; for rms and l2")
    weight: Literal["one", "alpha"] = Field("one", description="w: one: 1 / c_out; alpha: alpha(t), as in sCM")
    warmup: Literal["curved", "rcm"] = Field(
        "curved",
        json_schema_extra={"neutral": "curved"},
        description="what is warmed up: the curved part alone, or as in rCM the other part too",
    )
    shapes: ClassVar[bool] = True

    @property
    def needs_circle(self) -> bool:
        return self.warmup == "rcm"

    @property
    def normalizes(self) -> bool:
        return self.normalize in ("rms", "l2")

    @property
    def ramp_steps(self) -> int:
        return self.warmup_steps

    def simplest(self) -> Tangent:
        if self.warmup_steps == 0 and self.normalize == "none" and self.weight == "one":
            return NoTangent()
        unused = [] if self.normalizes else ["c"]
        unused += [] if self.warmup_steps else ["warmup"]
        return self.model_copy(update={name: Shaped.model_fields[name].default for name in unused})

    def rho(self, step: int) -> float:
        """Share of the curved part at `step`."""
        return min(1.0, step / self.warmup_steps) if self.warmup_steps else 1.0

    def target(self, slope: Slope, step: int) -> Tensor:
        weight = None
        if self.weight == "alpha":
            weight = slope.alpha if slope.output_scale is None else slope.alpha * slope.output_scale
        rho = self.rho(step)
        if self.warmup == "rcm" and rho < 1:
            factor = torch.sqrt(1 - rho**2 * (1 - slope.alpha**2)) / slope.alpha
            slope = replace(
                slope, d_move=factor * slope.d_move, straight=expand(factor, slope.straight) * slope.straight
            )
        target = unnormalized(slope, rho, weight)
        if self.normalize == "none":
            return target
        g = target - slope.raw
        if self.normalize == "clip":
            return slope.raw + g.clamp(-1, 1)
        length = torch.linalg.vector_norm(g.flatten(1), dim=1)
        if self.normalize == "rms":
            length = length / g.shape[1:].numel() ** 0.5
        return slope.raw + g / expand(length + self.c, g)
