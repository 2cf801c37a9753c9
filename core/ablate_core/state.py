"""What one training step knows about its batch; the argument the slots have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from ablate_core.host import on_host, picked, rows_where
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
        """True where the network is told the class, (B,) bool on the host (`ablate_core.host`).

        Raises:
            ValueError: the data are unlabelled.
        """
        if self.y is None:
            raise ValueError("guidance needs labelled data; set objective.guidance: none for this data set")
        return on_host(self.y) != self.null

    def with_velocity(self, v: Tensor) -> State:
        assert v.shape == self.x.shape
        return self if v is self.v else replace(self, v=v)


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

    def last(self, n: int) -> Rows:
        """The last `n` rows, without a copy."""
        ends: dict[str, Any] = {name: x[-n:] for name, x in vars(self).items() if isinstance(x, Tensor)}
        return replace(self, **ends)


def jump_index(state: State) -> Tensor:
    """Indices of the rows that are not flow matching, (R,) int64, in order."""
    return rows_where(~on_host(state.times.fm), state.x.device)


def jump_rows(state: State) -> tuple[Tensor, Rows]:
    """Indices of the rows that are not flow matching, (R,) int64, in order, and those rows."""
    index = jump_index(state)
    return index, all_rows(state) if len(index) == len(state.x) else rows_at(state, index)


def all_rows(state: State) -> Rows:
    """All rows of the batch, in its order and without a copy."""
    return _rows(state, lambda x: x)


def rows_at(state: State, index: Tensor) -> Rows:
    """The rows at `index`, (R,) int64."""
    return _rows(state, lambda x: picked(x, index))


def put_rows(into: Tensor, index: Tensor, rows: Tensor) -> Tensor:
    """`into` (B, *shape) with `rows` (R, *shape) at `index` (R,) int64, in order; `rows` itself where that is all."""
    return rows if len(index) == len(into) else into.index_copy(0, index, rows)


def _rows(state: State, take: Callable[[Tensor], Tensor]) -> Rows:
    times = state.times
    t = take(times.t)
    return Rows(
        x=take(state.x),
        v=take(state.v),
        r=take(times.r),
        s=t if times.s is times.t else take(times.s),
        t=t,
        y=None if state.y is None else take(state.y),
        ladder_bottom=None if times.ladder_bottom is None else take(times.ladder_bottom),
        null=state.null,
        g=None if state.g is None else take(state.g),
        direction=None if state.direction is None else take(state.direction),
    )
