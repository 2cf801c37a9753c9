"""A guidance scale that the network is told as 1 / w (TVM; lumalabs/tvm training/loss.py)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from ablate_core.flow_map import FlowMap
from ablate_core.guidance.base import Guidance, null_labels, replaced
from ablate_core.host import on_host, rows_where
from ablate_core.random import Draws
from ablate_core.state import State


class Tvm(Guidance):
    """v_g = w v + (1 - w) u^-(x_t, t, t, null), w ~ U(w_min, w_max) per row; rows without their class have w = 1.

    The network is told beta = 1 / w. The fixed point is classifier-free guidance of scale w.
    """

    name: Literal["tvm"] = "tvm"
    w_min: float = Field(1.0, ge=1, description="smallest scale")
    w_max: float = Field(2.0, ge=1, description="largest scale; equal to w_min: one fixed scale")
    needs_velocity: ClassVar[bool] = True
    inputs: ClassVar[tuple[str, ...]] = ("beta",)

    @model_validator(mode="after")
    def _ordered(self) -> Tvm:
        if self.w_min > self.w_max:
            raise ValueError(f"tvm needs w_min <= w_max, got {self.w_min:g} and {self.w_max:g}")
        return self

    @property
    def effective_scale(self) -> float | None:
        return self.w_min if self.w_min == self.w_max else None

    def draw(self, kept: Tensor, fm: Tensor, draws: Draws) -> Tensor:
        w = self.w_min + (self.w_max - self.w_min) * draws.uniform("time.w", len(kept))
        return torch.where(kept, 1 / w, torch.ones_like(w))[:, None]

    def sampling_inputs(self, count: int, scale: float, window: tuple[float, float]) -> Tensor:
        return torch.full((count, 1), 1 / scale)

    def guide(self, target: FlowMap, state: State) -> Tensor:
        assert state.g is not None
        beta = state.g[:, 0]
        rows = rows_where(state.kept & (on_host(state.g)[:, 0] < 1), state.x.device)
        if len(rows) == 0:
            return state.v
        assert state.y is not None
        x, t, y = state.x[rows], state.times.t[rows], state.y[rows]
        with torch.no_grad():
            v_null = target.marginal(x, t, null_labels(y, state.null), torch.ones_like(state.g[rows]))
        w = (1 / beta[rows]).reshape(-1, *[1] * (x.ndim - 1))
        return replaced(state.v, rows, w * state.v[rows] + (1 - w) * v_null)
