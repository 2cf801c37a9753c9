"""Closed-form worlds (design-space 6.1): data distributions whose flow map is known, and networks that return it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ablate_core.architectures.base import Network
from ablate_core.parameterizations import Parameterization
from ablate_core.random import Draws
from ablate_core.schedules import Schedule
from ablate_core.schedules.base import expand
from ablate_core.state import State

Map = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(x, r, t) -> X_{t,r}(x) with x (B, D), r and t (B,)."""


class Gaussian:
    """World G: x0 ~ N(mean, std^2) with a diagonal covariance; the flow map is closed on every path."""

    def __init__(self, schedule: Schedule, mean: Tensor, std: Tensor, noise_std: float = 1.0) -> None:
        self.schedule, self.mean, self.std, self.noise_std = schedule, mean, std, noise_std

    def spread(self, t: Tensor) -> Tensor:
        """Standard deviation of x_t, (B, D)."""
        point = self.schedule.at(t)
        return torch.sqrt((point.alpha[:, None] * self.std) ** 2 + (point.sigma[:, None] * self.noise_std) ** 2)

    def flow(self, x: Tensor, r: Tensor, t: Tensor) -> Tensor:
        a_t, a_r = self.schedule.at(t).alpha[:, None], self.schedule.at(r).alpha[:, None]
        return a_r * self.mean + self.spread(r) / self.spread(t) * (x - a_t * self.mean)

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        a, b, da, db = (c[:, None] for c in self.schedule.at(t))
        slope = (a * da * self.std**2 + b * db * self.noise_std**2) / self.spread(t) ** 2
        return da * self.mean + slope * (x - a * self.mean)

    def posterior(self, x: Tensor, t: Tensor, z: Tensor) -> Tensor:
        """x0 given x_t = x, from standard normal z."""
        a, b = self.schedule.at(t).alpha[:, None], self.schedule.at(t).sigma[:, None]
        spread = self.spread(t)
        mean = self.mean + a * self.std**2 / spread**2 * (x - a * self.mean)
        return mean + self.std * b * self.noise_std / spread * z


class Mixture:
    """World M: x0 ~ sum_k pi_k N(mu_k, width^2 I); closed velocity; in 1-D (world Q) the flow map too."""

    def __init__(self, schedule: Schedule, centres: Tensor, shares: Tensor, width: float) -> None:
        self.schedule, self.centres, self.shares, self.width = schedule, centres, shares, width

    def spread(self, t: Tensor) -> Tensor:
        point = self.schedule.at(t)
        return torch.sqrt((point.alpha * self.width) ** 2 + point.sigma**2)

    def denoised(self, x: Tensor, t: Tensor) -> Tensor:
        """E[x0 | x_t = x], (B, D)."""
        alpha, spread = self.schedule.at(t).alpha, self.spread(t)
        off = x[:, None] - alpha[:, None, None] * self.centres  # [B, K, D]
        weights = torch.softmax(self.shares.log() - off.square().sum(-1) / (2 * spread[:, None] ** 2), dim=1)
        pull = (alpha * self.width**2 / spread**2)[:, None, None]
        return (weights[..., None] * (self.centres + pull * off)).sum(1)

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        a, b, da, db = (c[:, None] for c in self.schedule.at(t))
        x0 = self.denoised(x, t)
        return da * x0 + db * (x - a * x0) / b

    def cdf(self, x: Tensor, t: Tensor) -> Tensor:
        """World Q: P(x_t <= x) for D = 1, (B,) and (B,) -> (B,)."""
        alpha, spread = self.schedule.at(t).alpha, self.spread(t)
        z = (x[:, None] - alpha[:, None] * self.centres[:, 0]) / spread[:, None]
        return (self.shares * torch.special.ndtr(z)).sum(1)

    def flow(self, x: Tensor, r: Tensor, t: Tensor) -> Tensor:
        """World Q: the PF-ODE is monotone in one dimension, so it keeps quantiles. (B, 1) -> (B, 1)."""
        level = self.cdf(x[:, 0], t)
        low, high = torch.full_like(level, -60.0), torch.full_like(level, 60.0)
        for _ in range(70):
            middle = (low + high) / 2
            below = self.cdf(middle, r) < level
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return ((low + high) / 2)[:, None]


class ExactNetwork(Network):
    """A network whose raw output makes its parameterisation's one-step map the exact flow map of a world."""

    def __init__(self, world: Any, parameterization: Parameterization) -> None:
        super().__init__()
        self.world, self.parameterization = world, parameterization
        self.zero = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor, r: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        schedule, own = self.world.schedule, self.parameterization
        scale, out = own.input_scale(t, schedule), own.output_scale(t, schedule)
        x = x if scale is None else x / expand(scale, x)
        keep, move = own.jump(schedule, t, r)
        same = r == t
        safe = torch.where(same, torch.ones_like(move), move)
        jump = (self.world.flow(x, r, t) - keep[:, None] * x) / safe[:, None]
        velocity = torch.where(same[:, None], self.world.velocity(x, t), jump)
        return (velocity if out is None else velocity / out[:, None]) + self.zero

    def log_variance(self, t: Tensor) -> Tensor:
        return 0 * t


class MarginalVelocity:
    """Stands in for the slot `velocity`: the world's exact marginal velocity."""

    uses_network = False

    def __init__(self, world: Any) -> None:
        self.world = world

    def direction(self, target: Any, state: State) -> None:
        return None

    def estimate(self, state: State, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        return self.world.velocity(state.x, state.times.t), {}


def gaussian(path: str = "linear", noise_std: float = 1.0) -> Gaussian:
    """A world G in three dimensions."""
    mean = torch.tensor([0.4, -1.0, 0.2], dtype=torch.float64)
    std = torch.tensor([0.5, 1.5, 0.1], dtype=torch.float64)
    return Gaussian(Schedule.model_validate(path), mean, std, noise_std)


def mixture(path: str = "linear", dim: int = 1) -> Mixture:
    """A world M of three components; in one dimension world Q."""
    centres = torch.tensor([[-1.5, 0.3], [0.2, -1.0], [1.7, 0.8]], dtype=torch.float64)[:, :dim]
    shares = torch.tensor([0.3, 0.5, 0.2], dtype=torch.float64)
    return Mixture(Schedule.model_validate(path), centres, shares, 0.25)
