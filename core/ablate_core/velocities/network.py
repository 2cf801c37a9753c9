"""The network's own velocity as direction of the tangent, the data's in the target (iMF; Lyy-iiis/imeanflow imf.py)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from ablate_core.flow_map import FlowMap
from ablate_core.random import Draws
from ablate_core.state import State, jump_index
from ablate_core.velocities.base import Velocity


class NetworkVelocity(Velocity):
    """Targets hold v of the row's pair, guided or not; tangents and first steps follow the network's own estimate.

    That estimate is the velocity head where there is one, else the map's own u^-(x_t, t, t).
    """

    name: Literal["network"] = "network"
    uses_network: ClassVar[bool] = True

    def direction(self, target: FlowMap, state: State) -> Tensor:
        rows = jump_index(state)
        if len(rows) == 0:
            return state.v
        y = None if state.y is None else state.y[rows]
        g = None if state.g is None else state.g[rows]
        with torch.no_grad():
            own = target.marginal(state.x[rows], state.times.t[rows], y, g)
        return state.v.index_copy(0, rows, own)

    def estimate(self, state: State, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        return state.v, {}
