"""The axis `time_sampler`: the distribution of the times r <= s <= t (design-space 2.4)."""

from __future__ import annotations

import abc
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ablate_core.component import Component
from ablate_core.host import sent
from ablate_core.random import Draws
from ablate_core.schedules.base import Schedule


@dataclass(frozen=True)
class TimeSample:
    """Times of one batch. All tensors are (B,).

    Attributes:
        r: landing time.
        s: intermediate time of the two-step target; equal to t for continuous limits.
        t: start time, 0 <= r <= s <= t <= the end of the path.
        fm: True on rows that regress on the velocity itself (flow matching), whatever r is.
        group: number of neighbouring rows that share (r, s, t).
        ladder_bottom: True on rows with the smallest jump of a dyadic ladder; all False elsewhere.
        velocity_t: times of a second, flow matching term that every row has beside its own; None: no such term.
    """

    r: Tensor
    s: Tensor
    t: Tensor
    fm: Tensor
    group: int = 1
    ladder_bottom: Tensor | None = None
    velocity_t: Tensor | None = None

    def __post_init__(self) -> None:
        assert self.r.shape == self.s.shape == self.t.shape == self.fm.shape
        assert self.t.ndim == 1

    def sent(self, device: torch.device | str) -> TimeSample:
        """The same times on `device`, where what is one tensor here is one."""
        if torch.device(device).type == "cpu":
            return self
        there = {id(x): sent(x, device) for x in vars(self).values() if isinstance(x, Tensor)}
        return TimeSample(**{name: there.get(id(x), x) for name, x in vars(self).items()})

    def up_to(self, end: float) -> TimeSample:
        """The same times, none beyond `end`; for paths that are singular at t = 1."""
        r, s, t = (time.clamp(max=end) for time in (self.r, self.s, self.t))
        velocity_t = None if self.velocity_t is None else self.velocity_t.clamp(max=end)
        fm = self.fm | (r == t)
        s = torch.where((self.s < self.t) & ~fm, apart(s, t), s)
        return replace(self, r=r, s=s, t=t, fm=fm, velocity_t=velocity_t)


class TimeSampler(Component):
    """A distribution of (r, s, t). Its capabilities are attributes; legality is decided on them, never on names."""

    name: str
    intermediate: ClassVar[bool] = False
    """True where s lies strictly between on the rows that are not flow matching: made for the discrete limit."""
    closes_gap: ClassVar[bool] = False
    """True where s = t on some rows that learn a jump, at some steps: made for a limit that takes both."""
    jumps: ClassVar[bool] = True
    """False where every row is flow matching, r = s = t."""
    random_landing_time: ClassVar[bool] = True
    """False where r is 0 on every row that learns a jump: few-step sampling must then restart from noise."""
    label_rows: ClassVar[Literal["all", "fm"]] = "all"
    """The rows on which label dropout acts."""
    ladder: ClassVar[bool] = False
    """True where some rows carry the smallest jump of a dyadic ladder."""
    straight_only: ClassVar[bool] = False
    """True where the method is defined on straight paths only."""
    any_path: ClassVar[bool] = False
    """True where noise levels are drawn and mapped to the path by equal log-SNR; else times in [0, 1] (C17)."""
    velocity_weight: ClassVar[float] = 0.0
    """Share in the loss of a second, flow matching term at times of its own (`TimeSample.velocity_t`)."""

    @property
    def velocity_share(self) -> float:
        """Expected share of the rows that train u(x, t, t), the velocity."""
        return 0.0

    @property
    def lands_at_intermediate(self) -> bool:
        """True where s = r on every row."""
        return False

    def closed(self) -> TimeSampler | None:
        """The sampler that draws the same r and t with s = t, where that is so on every row at every step (E4)."""
        return None

    @property
    def group_size(self) -> int:
        """Number of neighbouring rows that share their times."""
        return 1

    @property
    def ramp_steps(self) -> int:
        """Optimiser steps until the distribution stops changing, where it is given in steps; 0: no such ramp."""
        return 0

    def scales(self) -> tuple[int, int] | None:
        """(s0, s1): intervals of its grid at the start and at the end, where it is refined while training."""
        return None

    def batch_problem(self, batch_size: int) -> tuple[str, str] | None:
        """Why `batch_size` rows cannot be drawn and the nearest legal choice, or None."""
        return None

    def path_problem(self, schedule: Schedule, noise_std: float) -> tuple[str, str] | None:
        """Why the times do not fit on the path and the nearest legal choice, or None."""
        return None

    def allows_jump(self, t: float, r: float) -> bool:
        """Whether a sampler may ask for the jump from t to r, or the velocity where they are equal."""
        return True

    @property
    def last_time(self) -> float:
        """The smallest landing time that is trained, where sampling ends."""
        return 0.0

    def start_time(self, schedule: Schedule, noise_std: float) -> float:
        """The largest t that is trained, where sampling may start; the state there is taken to be pure noise."""
        return schedule.end

    @abc.abstractmethod
    def sample(
        self, n: int, draws: Draws, *, schedule: Schedule, noise_std: float, step: int, total_steps: int
    ) -> TimeSample:
        """Times of `n` rows at optimiser step `step` of `total_steps` (counted from 0)."""


def logit_normal(z: Tensor, mu: float, sd: float) -> Tensor:
    """LN(mu, sd) = sigmoid(mu + sd z) from standard normal `z`; at least float32, since bf16 saturates at |z| > 6."""
    assert z.dtype in (torch.float32, torch.float64)
    return (sd * z).add_(mu).sigmoid_()


def meet(r: Tensor, t: Tensor, equal: Tensor) -> TimeSample:
    """Times of a continuous limit: s = t, and r := t where `equal`; those rows are flow matching."""
    r = torch.where(equal, t, r)
    return TimeSample(r=r, s=t, t=t, fm=r == t)


def apart(s: Tensor, t: Tensor) -> Tensor:
    """`s`, but strictly below `t` > 0 also where rounding made them equal; a two-step target divides by t - s."""
    return torch.minimum(s, torch.nextafter(t, torch.zeros_like(t)))
