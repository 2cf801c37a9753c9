"""Guidance of consistency training: guided maps (EDAPINENUT/ExplicitShortCut loss/consistency_loss.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from ablate_core.flow_map import FlowMap
from ablate_core.guidance.base import Guidance, null_labels
from ablate_core.guidance.none import NoGuidance
from ablate_core.host import on_host, rows_where
from ablate_core.state import Rows, State


class CtCfg(Guidance):
    """Every V is V_u + scale (V_c - V_u), in the prediction and in the target; rows without their class keep V_u.

    The guided map is the one that becomes consistent: V_u + scale (V_c - V_u) ends at the velocity v of the class. The
    trained network then holds V_c = V_u + (v - V_u) / scale, and `eval.guidance` w guides with w / scale. The reference
    unpacks the halves of its doubled batch the wrong way round and takes class 0 for the null class, so that guidance
    pushes towards class 0 (defect D10).
    """

    name: Literal["ct_cfg"] = "ct_cfg"
    scale: float = Field(1.5, gt=0, description="guidance scale; 1 is off")
    trained: ClassVar[bool] = False
    guides_maps: ClassVar[bool] = True

    @property
    def effective_scale(self) -> float:
        return 1 / self.scale

    def simplest(self) -> Guidance:
        return NoGuidance() if self.scale == 1 else self

    def wrap(self, target: FlowMap, rows: Rows) -> FlowMap:
        return BothMaps(target.net, target.parameterization, target.schedule, rows.null, self.scale)

    def wrap_online(self, online: FlowMap, state: State) -> FlowMap:
        return BothMaps(online.net, online.parameterization, online.schedule, state.null, self.scale)


@dataclass(frozen=True)
class BothMaps(FlowMap):
    """A flow map whose raw output is guided on every row that has its class, in one pass of a longer batch."""

    null: int
    scale: float

    def raw(self, x: Tensor, r: Tensor, t: Tensor, y: Tensor | None, g: Tensor | None = None) -> Tensor:
        if y is None:
            raise ValueError("guidance needs labelled data; set objective.guidance: none for this data set")
        kept = rows_where(on_host(y) != self.null, y.device)
        if len(kept) == 0:
            return FlowMap.raw(self, x, r, t, y)
        x2, r2, t2 = (torch.cat([part, part[kept]]) for part in (x, r, t))
        both = FlowMap.raw(self, x2, r2, t2, torch.cat([y, null_labels(y[kept], self.null)]))
        own, without = both[: len(x)], both[len(x) :]
        return own.index_copy(0, kept, torch.lerp(without, own[kept], self.scale))
