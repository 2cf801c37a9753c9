"""The axis `limit`: how prediction and target are formed from the slots (design-space 1.3)."""

from __future__ import annotations

import abc
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from ablate_core.component import Component
from ablate_core.flow_map import FlowMap
from ablate_core.schedules.base import expand
from ablate_core.state import State

if TYPE_CHECKING:
    from ablate_core.objective import Objective


@dataclass(frozen=True)
class Regression:
    """What is pulled towards what; (B, *shape) each.

    Attributes:
        prediction: with a graph.
        target: without one. Rows of flow matching regress on ``state.v`` itself.
        velocity_head: output of the velocity head from the same pass, with a graph; None where there is none.
        scalars: detached numbers for the log, each of shape ().
    """

    prediction: Tensor
    target: Tensor
    velocity_head: Tensor | None = None
    scalars: dict[str, Tensor] = field(default_factory=dict)


class Limit(Component):
    """Distance of the intermediate time: finite (discrete), vanishing (continuous), or no two-step target (none)."""

    name: str
    learns_jumps: ClassVar[bool] = True
    """False where the network only learns the velocity; it is then asked at r = t also when it jumps further."""
    two_steps: ClassVar[bool] = False
    """True where first and second step are taken, at a time s between."""
    closes_gap: ClassVar[bool] = False
    """True where rows with s = t are legal beside rows with s < t, and take the limit."""
    shapes_tangent: ClassVar[bool] = False
    """True where the slot `tangent` has a meaning."""
    differentiates_target: ClassVar[bool] = False
    """True where the loss is differentiated through a derivative of the network (C20)."""

    @property
    def shares_prediction(self) -> bool:
        """True where a network output that a prediction holds already may be taken from there."""
        return False

    @property
    def needs_forward_ad(self) -> bool:
        """True where the network must have a forward-mode derivative (C1)."""
        return False

    @property
    def compares_states(self) -> bool:
        """True where states x_r are compared rather than velocities."""
        return False

    @abc.abstractmethod
    def regress(self, slots: Objective, online: FlowMap, target: FlowMap, state: State, step: int) -> Regression:
        """Prediction and target of a batch at optimiser step `step`."""


def same_outputs(online: FlowMap, target: FlowMap) -> bool:
    """True where a prediction is what the target's network gives for the same inputs: it then need not be asked."""
    plain = type(online) is type(target) is FlowMap and not online.parameterization.needs_velocity_head
    return plain and online.net is target.net and not online.net.drops


def velocity_aim(online: FlowMap, raw: Tensor, state: State) -> Tensor:
    """The velocity that rows of flow matching regress on, (B, *shape): `state.v` and what it still lacks."""
    if state.own is None:
        return state.v
    velocity = online.scaled(raw.detach(), state.x, state.times.t, state.g)
    return torch.addcmul(state.v, expand(state.own, velocity), velocity)


def raw_outputs(online: FlowMap, state: State, r: Tensor, t: Tensor) -> tuple[Tensor, Tensor | None]:
    """F and, where there is one, what the velocity head gives in compared units, from one pass of the whole batch."""
    if not online.parameterization.needs_velocity_head:
        return online.raw(state.x, r, t, state.y, state.g), None
    raw, head = online.raw_heads(state.x, r, t, state.y, state.g)
    return raw, online.compared(head, state.x, t, state.g)
