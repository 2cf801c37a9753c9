"""Guidance of shortcut models: on the smallest jumps only (arXiv 2410.12557; targets_shortcut.py:48-69)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from ablate_core.flow_map import FlowMap
from ablate_core.guidance.base import Guidance
from ablate_core.guidance.none import NoGuidance
from ablate_core.host import on_host, rows_where
from ablate_core.state import Rows


class Bootstrap(Guidance):
    """Both half steps of the smallest jump use v_u + scale (v_c - v_u); larger jumps inherit it by self-consistency.

    Published criticism: the scale compounds from level to level (arXiv 2510.21250).
    """

    name: Literal["bootstrap"] = "bootstrap"
    scale: float = Field(1.5, gt=0, description="guidance scale; 1 is off")
    needs_ladder: ClassVar[bool] = True

    @property
    def effective_scale(self) -> float:
        return self.scale

    def simplest(self) -> Guidance:
        return NoGuidance() if self.scale == 1 else self

    def wrap(self, target: FlowMap, rows: Rows) -> FlowMap:
        if rows.y is None:
            raise ValueError("guidance needs labelled data; set objective.guidance: none for this data set")
        assert rows.ladder_bottom is not None, "checked by legality: needs_ladder"
        guided = rows_where(on_host(rows.ladder_bottom), rows.x.device)
        return GuidedMap(target.net, target.parameterization, target.schedule, guided, rows.null, self.scale)


@dataclass(frozen=True)
class GuidedMap(FlowMap):
    """A flow map whose velocity output is guided on some rows of the batch it is called with."""

    rows: Tensor
    null: int
    scale: float

    def velocity(self, x: Tensor, r: Tensor, t: Tensor, y: Tensor | None, g: Tensor | None = None) -> Tensor:
        assert y is not None
        i = self.rows
        v = FlowMap.velocity(self, x, r, t, y)
        if len(i):
            v_null = FlowMap.velocity(self, x[i], r[i], t[i], torch.full_like(y[i], self.null))
            v = v.index_copy(0, i, v_null + self.scale * (v[i] - v_null))
        return v
