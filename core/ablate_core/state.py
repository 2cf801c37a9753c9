"""What one training step knows about its batch; the argument the slots have in common."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ablate_core.schedules.base import Schedule
from ablate_core.time_samplers.base import TimeSample


@dataclass(frozen=True)
class Batch:
    """One batch of data.

    Attributes:
        x0: samples, (B, *shape), floating.
        y: class index, (B,) int64 in 0 .. num_classes - 1, or None for unlabelled data.
        num_classes: number of real classes, and so the index of the null class; 0 for unlabelled data.
    """

    x0: Tensor
    y: Tensor | None = None
    num_classes: int = 0

    def __post_init__(self) -> None:
        if (self.y is None) != (self.num_classes == 0):
            raise ValueError(f"labels and num_classes = {self.num_classes} do not fit: give both or neither")


@dataclass(frozen=True)
class State:
    """Noisy states of a batch and everything that belongs to them; all leading axes are B.

    Attributes:
        schedule: the flow path.
        noise_std: standard deviation s0 of the noise.
        x0: data, (B, *shape).
        noise: noise, (B, *shape), standard deviation `noise_std`.
        x: state x_t, (B, *shape).
        v: velocity the targets use, (B, *shape); conditional until a slot replaces it.
        times: r, s, t.
        labels: true classes, (B,) int64, or None for unlabelled data.
        y: what the network is told, `labels` with the dropped ones replaced by `null`; or None.
        null: index of the null class.
        g: guidance inputs that the network is told, (B, K), or None.
        own: share of the network's own velocity at (x, t) that `v` still lacks, (B,); None: nothing. Where it is not 0
            the row's prediction is that velocity (`targets.base.velocity_aim` adds it).
        direction: velocity along which the path is followed in tangents and first steps, (B, *shape); None: `v`.
    """

    schedule: Schedule
    noise_std: float
    x0: Tensor
    noise: Tensor
    x: Tensor
    v: Tensor
    times: TimeSample
    labels: Tensor | None
    y: Tensor | None
    null: int
    g: Tensor | None = None
    direction: Tensor | None = None
    own: Tensor | None = None

    @property
    def kept(self) -> Tensor:
        """True where the network is told the class, (B,) bool; raises ValueError for unlabelled data."""
        if self.y is None:
            raise ValueError("guidance needs labelled data; set objective.guidance: none for this data set")
        return self.y != self.null

    def with_velocity(self, v: Tensor) -> State:
        assert v.shape == self.x.shape
        return replace(self, v=v)


@dataclass(frozen=True)
class Rows:
    """The rows of a batch that learn a jump: what the two-step target is computed from. All leading axes are R <= B.

    `v` is the velocity that targets use, `direction` the one along which the path is followed; None: `v` too.
    """

    x: Tensor
    v: Tensor
    r: Tensor
    s: Tensor
    t: Tensor
    y: Tensor | None
    ladder_bottom: Tensor | None
    null: int
    g: Tensor | None = None
    direction: Tensor | None = None

    @property
    def along(self) -> Tensor:
        """The velocity along which tangents and first steps follow the path, (R, *shape)."""
        return self.v if self.direction is None else self.direction


def jump_rows(state: State) -> tuple[Tensor, Rows]:
    """Indices (R,) int64 of the rows that are not flow matching, and those rows."""
    index = torch.nonzero(~state.times.fm).squeeze(1)
    return index, rows_at(state, index)


def rows_at(state: State, index: Tensor) -> Rows:
    """The rows at `index`, (R,) int64."""
    times = state.times

    def taken(x: Tensor | None) -> Tensor | None:
        return None if x is None else x[index]

    return Rows(
        x=state.x[index],
        v=state.v[index],
        r=times.r[index],
        s=times.s[index],
        t=times.t[index],
        y=taken(state.y),
        ladder_bottom=taken(times.ladder_bottom),
        null=state.null,
        g=taken(state.g),
        direction=taken(state.direction),
    )
