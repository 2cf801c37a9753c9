"""The axis `parameterization`: what the raw network output F means (design-space 2.2)."""

from __future__ import annotations

import abc

from torch import Tensor

from ablate_core.component import Component
from ablate_core.schedules.base import Jump, Schedule


class Parameterization(Component):
    """From raw output F to velocity-like output V = c_out F, and from V to the jump X_{t,r}(x) = keep x + move V."""

    name: str

    @property
    def noise_std(self) -> float:
        """Standard deviation s0 of the noise end of the path."""
        return 1.0

    @property
    def claimed_data_std(self) -> float | None:
        """The standard deviation the data must have for the scalings to be right; None: no claim (C25)."""
        return None

    @abc.abstractmethod
    def input_scale(self, t: Tensor, schedule: Schedule) -> Tensor | None:
        """c_in(t), (B,): the network sees c_in x. None where it is 1 for every t."""

    @abc.abstractmethod
    def output_scale(self, t: Tensor) -> Tensor | None:
        """c_out(t), (B,): V = c_out F. None where it is 1 for every t."""

    @abc.abstractmethod
    def jump(self, schedule: Schedule, t: Tensor, r: Tensor) -> Jump:
        """keep and move, each (B,), of the one-step map from t to r."""

    @abc.abstractmethod
    def d_jump(self, schedule: Schedule, t: Tensor, r: Tensor) -> Jump:
        """d/dt of keep and move, r fixed."""

    @abc.abstractmethod
    def average(self, velocity: Tensor, x: Tensor, schedule: Schedule, t: Tensor, r: Tensor) -> Tensor:
        """The average velocity u = (X_{t,r}(x) - x) / (r - t) that V stands for; V itself where r = t."""
