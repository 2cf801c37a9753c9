"""The axis `parameterization`: what the raw network output F means (design-space 2.2)."""

from __future__ import annotations

import abc
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ablate_core.component import Component
from ablate_core.schedules.base import Jump, Schedule, rate_of_jump


class Parameterization(Component):
    """From raw output F to V = c_skip x + c_out F, and from V to the jump X_{t,r}(x) = keep x + move V.

    V at r = t is the velocity, except where `fixed_landing`.
    """

    name: str
    fixed_landing: ClassVar[bool] = False
    """True where the map lands at one time only, which its scalings encode: V is no velocity, r is ignored (C3)."""
    paths: ClassVar[Literal["any", "exploding", "circular", "unit_time"]] = "any"
    """The paths it is defined on: alpha = 1, alpha^2 + sigma^2 = 1, times in [0, 1] (C3, C17)."""
    compares: ClassVar[Literal["raw", "velocity"]] = "raw"
    """What a regression compares: raw outputs F, or V (where F is of another kind than a velocity)."""
    needs_velocity_head: ClassVar[bool] = False
    """True where the network has a second head for the velocity, trained beside the first."""
    needs_guidance_scale: ClassVar[bool] = False
    """True where V depends on the guidance input ``beta``."""

    def is_average_velocity(self, schedule: Schedule) -> bool:
        """True where it computes bit for bit what `u` does on `schedule`: V = F, X = x + (r - t) F, unit noise (E1)."""
        return False

    @property
    def smallest_divisor(self) -> float | None:
        """The smallest sigma(t) that an output is divided by; None: nothing is divided (C23)."""
        return None

    @property
    def noise_std(self) -> float:
        """Standard deviation s0 of the noise end of the path."""
        return 1.0

    @property
    def claimed_data_std(self) -> float | None:
        """The standard deviation the data must have for the scalings to be right; None: no claim (C25)."""
        return None

    def input_scale(self, t: Tensor, schedule: Schedule) -> Tensor | None:
        """c_in(t), (B,): the network sees c_in x. None where it is 1 for every t."""
        return None

    def output_scale(self, t: Tensor, schedule: Schedule, g: Tensor | None = None) -> Tensor | None:
        """c_out(t), (B,). None where it is 1 for every t. `g`: guidance inputs, (B, K)."""
        return None

    def skip_scale(self, t: Tensor, schedule: Schedule) -> Tensor | None:
        """c_skip(t), (B,). None where it is 0 for every t."""
        return None

    def data_velocity(self, v: Tensor, t: Tensor, schedule: Schedule) -> Tensor:
        """The velocity (B, *shape) that targets use for an estimate `v` from data; `v` itself by default."""
        return v

    def lands_at(self, r: float) -> float:
        """The time a jump to r really lands at; r itself unless `fixed_landing`."""
        return r

    def moves_straight(self, schedule: Schedule) -> bool:
        """True where keep is 1 and move is r - t, which then need not be multiplied out."""
        return False

    @abc.abstractmethod
    def jump(self, schedule: Schedule, t: Tensor, r: Tensor) -> Jump:
        """keep and move, each (B,), of the one-step map from t to r."""

    def d_jump(self, schedule: Schedule, t: Tensor, r: Tensor) -> Jump:
        """d/dt of keep and move, r fixed."""
        return rate_of_jump(lambda time: self.jump(schedule, time, r), t)

    def landing_rate(self, schedule: Schedule, t: Tensor, r: Tensor) -> Jump:
        """d/dr of keep and move, t fixed."""
        return rate_of_jump(lambda time: self.jump(schedule, t, time), r)

    @abc.abstractmethod
    def average(self, velocity: Tensor, x: Tensor, schedule: Schedule, t: Tensor, r: Tensor) -> Tensor:
        """The average velocity u = (X_{t,r}(x) - x) / (r - t) that V stands for; V itself where r = t."""


class AverageVelocity(Parameterization):
    """V is the average velocity: X_{t,r}(x) = x + (r - t) V on any path (MeanFlow, arXiv 2505.13447, eq. 3)."""

    shared: ClassVar[bool] = True

    def moves_straight(self, schedule: Schedule) -> bool:
        return True

    def jump(self, schedule: Schedule, t: Tensor, r: Tensor) -> Jump:
        return Jump(torch.ones_like(t), r - t)

    def d_jump(self, schedule: Schedule, t: Tensor, r: Tensor) -> Jump:
        return Jump(torch.zeros_like(t), -torch.ones_like(t))

    def landing_rate(self, schedule: Schedule, t: Tensor, r: Tensor) -> Jump:
        return Jump(torch.zeros_like(t), torch.ones_like(t))

    def average(self, velocity: Tensor, x: Tensor, schedule: Schedule, t: Tensor, r: Tensor) -> Tensor:
        return velocity


class DdimVelocity(Parameterization):
    """V is used in a DDIM jump: X_{t,r}(x) = abar x + bbar V with the coefficients of the path."""

    shared: ClassVar[bool] = True

    def moves_straight(self, schedule: Schedule) -> bool:
        return schedule.straight

    def jump(self, schedule: Schedule, t: Tensor, r: Tensor) -> Jump:
        return schedule.jump(t, r)

    def d_jump(self, schedule: Schedule, t: Tensor, r: Tensor) -> Jump:
        return schedule.d_jump(t, r)

    def average(self, velocity: Tensor, x: Tensor, schedule: Schedule, t: Tensor, r: Tensor) -> Tensor:
        if self.moves_straight(schedule):  # nothing to divide
            return velocity
        return average_of_jump(schedule.jump(t, r), velocity, x, t, r)


def average_of_jump(jump: Jump, velocity: Tensor, x: Tensor, t: Tensor, r: Tensor) -> Tensor:
    """(keep x + move V - x) / (r - t), (B, *shape); V where r = t, the mean over no time."""
    same = (r == t).reshape(-1, *[1] * (x.ndim - 1))
    gap = torch.where(r == t, torch.ones_like(t), r - t)
    keep, move = (c.reshape(same.shape) for c in ((jump.keep - 1) / gap, jump.move / gap))
    return torch.where(same, velocity, keep * x + move * velocity)
