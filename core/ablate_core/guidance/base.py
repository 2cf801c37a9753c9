"""The axis `guidance`: classifier-free guidance inside training (design-space 2.14)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from ablate_core.component import Component
from ablate_core.flow_map import FlowMap
from ablate_core.host import sent
from ablate_core.random import Draws
from ablate_core.schedules.base import expand
from ablate_core.state import Rows, State

Share = float | Tensor
"""What a velocity is multiplied by: a number, or one per row, (B,)."""


class Guidance(Component):
    """Guided velocity, guided two-step target, guided maps, or none of it. All hooks do nothing by default."""

    name: str
    needs_labels: ClassVar[bool] = True
    """True where labels, a null class and label dropout are needed."""
    needs_velocity: ClassVar[bool] = False
    """True where u(x, t, t) must be trained, because it is evaluated."""
    needs_ladder: ClassVar[bool] = False
    """True where the time sampler must have a dyadic ladder of jumps."""
    guides_maps: ClassVar[bool] = False
    """True where the maps themselves are guided, in prediction and target: for two-step targets only."""
    trained: ClassVar[bool] = True
    """True where the trained model is already guided and is sampled without guidance."""
    inputs: ClassVar[tuple[str, ...]] = ()
    """Names of the numbers per row that the network is told: the columns of g. Their scale is chosen at sampling."""

    told_window: ClassVar[bool] = False
    """True where those numbers have the window of times in which guidance acts; it is chosen at sampling too."""

    @property
    def effective_scale(self) -> float | None:
        """The guidance scale w' of the fixed point w' v_c + (1 - w') v_u, where there is one."""
        return None

    @property
    def mixture(self) -> tuple[float, float, float, float] | None:
        """(om, ka, t_min, t_max) where v_g = om v + ka u_c + (1 - om - ka) u_null at t_min <= t <= t_max (E9)."""
        return None

    def draw(self, kept: Tensor, fm: Tensor, draws: Draws) -> Tensor | None:
        """The guidance inputs of a batch, (B, len(inputs)), or None where there are none.

        Args:
            kept: True where the network is told the class, (B,) bool.
            fm: True on flow matching rows, (B,) bool.
            draws: random numbers of this step. All three are the host's, and so is the result.
        """
        return None

    def sampling_inputs(self, count: int, scale: float, window: tuple[float, float]) -> Tensor | None:
        """The guidance inputs of `count` samples at a guidance `scale` inside a `window` of times; None: no inputs."""
        return None

    def allows_window(self, window: tuple[float, float]) -> bool:
        """Whether the network was trained to be told this window, where it is told one."""
        return True

    def guide(self, target: FlowMap, state: State) -> Tensor:
        """The velocity of `state` after guidance, (B, *shape)."""
        return state.v

    def guide_beside(self, target: FlowMap, state: State, own: Tensor) -> tuple[Tensor, Tensor | None]:
        """The velocity after guidance without what the prediction of a row will give; nothing is left out by default.

        Args:
            target: the map whose velocity guides.
            state: the batch.
            own: True on rows whose prediction is the velocity of `target` that guides them, (B,) bool, on the host
                as `State.kept` is.

        Returns:
            The velocity, (B, *shape), and the share of the prediction's velocity that is still to be added, (B,), 0
            where not `own`; None: nothing.
        """
        return self.guide(target, state), None

    def wrap(self, target: FlowMap, rows: Rows) -> FlowMap:
        """The map that the two-step target of `rows` is computed with."""
        return target

    def wrap_online(self, online: FlowMap, state: State) -> FlowMap:
        """The map that predictions are made with."""
        return online


def replaced(v: Tensor, rows: Tensor, guided: Tensor) -> Tensor:
    """`v` with `guided` (R, *shape) on `rows` (R,)."""
    v = v.clone()
    v[rows] = guided
    return v


def null_labels(y: Tensor, null: int) -> Tensor:
    """Labels of nobody, as many as `y`; the null class is the one after the last, never a real one (defect D10)."""
    return torch.full_like(y, null)


def mixed_in(
    v: Tensor, target: FlowMap, state: State, without: tuple[Tensor, Share], within: tuple[Tensor, Share]
) -> Tensor:
    """`v` with the network's velocities of nobody and of the row's class added, from one call without a graph.

    `without` and `within` are each the rows that get theirs, (B,) bool, on the host as `State.kept` is, and its
    share: a number, or (B,). Told to the network are the guidance inputs of the batch, with 0 as the first, the scale,
    where the class is left out.
    """
    assert state.y is not None
    nobody, class_ = (torch.nonzero(rows).squeeze(1) for rows in (without[0], within[0]))
    asked, n = sent(torch.cat([nobody, class_]), v.device), len(nobody)
    if len(asked) == 0:  # defect D2 of the reference: this case called the network with foreign arguments
        return v
    y, g = state.y[asked], None if state.g is None else state.g[asked]
    y[:n] = state.null
    if g is not None:
        g[:n, 0] = 0
    with torch.no_grad():
        velocity = target.marginal(state.x[asked], state.times.t[asked], y, g)
    for rows, part, share in ((asked[:n], velocity[:n], without[1]), (asked[n:], velocity[n:], within[1])):
        if isinstance(share, Tensor):
            v = v.index_add(0, rows, expand(share[rows], part) * part)
        else:
            v = v.index_add(0, rows, part, alpha=share)
    return v
