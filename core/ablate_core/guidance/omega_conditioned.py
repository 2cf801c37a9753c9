"""A guidance scale and window per row, told to the network and chosen at sampling (iMF; Lyy-iiis/imeanflow imf.py)."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from ablate_core.flow_map import FlowMap
from ablate_core.guidance.base import Guidance, mixed_in
from ablate_core.host import on_host, sent
from ablate_core.random import Draws
from ablate_core.state import State


class OmegaConditioned(Guidance):
    """v_g = v + (1 - 1/omega) (v_c - v_u) inside the row's window; the fixed point is omega v_c + (1 - omega) v_u.

    omega has a density proportional to omega^-beta on [1, 1 + s_max], the window is U(0, 1/2) to U(1/2, 1), on flow
    matching rows [0, 1]. The network is told (1 - 1/omega, t_min, t_max). Rows without their class have omega 1.
    """

    name: Literal["omega_conditioned"] = "omega_conditioned"
    s_max: float = Field(7.0, gt=0, description="the largest omega is 1 + s_max")
    beta: float = Field(1.0, ge=0, description="exponent of the density of omega; 0 is uniform")
    needs_velocity: ClassVar[bool] = True
    inputs: ClassVar[tuple[str, ...]] = ("one_minus_inverse_omega", "t_min", "t_max")
    told_window: ClassVar[bool] = True

    def omega(self, u: Tensor) -> Tensor:
        """Quantiles of the density at u in [0, 1]."""
        top = 1 + self.s_max
        if self.beta == 1:
            return torch.exp(u * math.log(top))
        power = 1 - self.beta
        return torch.pow(1 + u * (top**power - 1), 1 / power)

    def draw(self, kept: Tensor, fm: Tensor, draws: Draws) -> Tensor:
        n = len(kept)
        omega = self.omega(draws.uniform("time.omega", n))
        first = draws.uniform("time.window_min", n) / 2
        last = 0.5 + draws.uniform("time.window_max", n) / 2
        share = torch.where(kept, 1 - 1 / omega, torch.zeros_like(omega))
        return torch.stack([share, first.masked_fill(fm, 0.0), last.masked_fill(fm, 1.0)], dim=1)

    def allows_window(self, window: tuple[float, float]) -> bool:
        return window[0] <= 0.5 <= window[1]

    def sampling_inputs(self, count: int, scale: float, window: tuple[float, float]) -> Tensor:
        if scale < 1:
            raise ValueError(f"eval.guidance: omega is at least 1, got {scale:g}")
        return torch.tensor([1 - 1 / scale, *window]).expand(count, 3)

    def guide(self, target: FlowMap, state: State) -> Tensor:
        return self.guide_beside(target, state, torch.zeros_like(state.kept))[0]

    def guide_beside(self, target: FlowMap, state: State, own: Tensor) -> tuple[Tensor, Tensor | None]:
        assert state.g is not None
        t, (share, first, last) = on_host(state.times.t), on_host(state.g).unbind(1)
        guided = state.kept & (share > 0) & (t >= first) & (t <= last)
        scale = state.g[:, 0]
        v = mixed_in(state.v, target, state, (guided, -scale), (guided & ~own, scale))
        return v, sent((guided & own) * share, v.device)
