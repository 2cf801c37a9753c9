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
from ablate_core.state import Rows, State

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
    """A network whose raw output makes its parameterisation's one-step map the exact flow map of a world.

    It is told what any network is told, c_in x and the schedule's network times, and undoes that first. `zero` is
    a weight for tests of gradients. On the VE path landing times up to sigma_min look alike; they are taken as 0.
    """

    def __init__(self, world: Any, parameterization: Parameterization) -> None:
        super().__init__()
        self.world, self.parameterization = world, parameterization
        self.zero = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor, r: Tensor, t: Tensor, y: Tensor | None, g: Tensor | None = None) -> Tensor:
        state, landing, time = self._undone(x, r, t)
        return self._raw(self._jump_velocity(state, landing, time), state, time, g)

    def forward_heads(
        self, x: Tensor, r: Tensor, t: Tensor, y: Tensor | None, g: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        state, _, time = self._undone(x, r, t)
        return self(x, r, t, y, g), self._raw(self.world.velocity(state, time), state, time, g)

    def log_variance(self, t: Tensor) -> Tensor:
        return 0 * t

    def _undone(self, x: Tensor, r: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(x, r, t) from what the network is told."""
        schedule = self.world.schedule
        if schedule.exploding:
            lowest = schedule.network_time(torch.zeros_like(r))
            r = torch.where(r <= lowest, torch.zeros_like(r), torch.exp(4 * r))
            t = torch.exp(4 * t)
        scale = self.parameterization.input_scale(t, schedule)
        return (x if scale is None else x / expand(scale, x)), r, t

    def _jump_velocity(self, x: Tensor, r: Tensor, t: Tensor) -> Tensor:
        """V such that keep x + move V is the exact landing; the marginal velocity at r = t."""
        schedule, own = self.world.schedule, self.parameterization
        keep, move = own.jump(schedule, t, r)
        if own.fixed_landing:
            return self.world.flow(x, torch.full_like(r, own.sigma_min), t) - keep[:, None] * x  # type: ignore[attr-defined]
        same = r == t
        safe = torch.where(same, torch.ones_like(move), move)
        jump = (self.world.flow(x, r, t) - keep[:, None] * x) / safe[:, None]
        return torch.where(same[:, None], self.world.velocity(x, t), jump)

    def _raw(self, velocity: Tensor, x: Tensor, t: Tensor, g: Tensor | None) -> Tensor:
        """F from V; 0 where c_out is 0, whatever V is."""
        schedule, own = self.world.schedule, self.parameterization
        skip, out = own.skip_scale(t, schedule), own.output_scale(t, schedule, g)
        velocity = velocity if skip is None else velocity - skip[:, None] * x
        if out is not None:
            safe = torch.where(out == 0, torch.ones_like(out), out)[:, None]
            velocity = torch.where(out[:, None] == 0, torch.zeros_like(velocity), velocity / safe)
        return velocity + self.zero


class ExactStep:
    """Stands in for the slot `first_step`: the world's exact flow from t to s."""

    takes_step, euler = True, False

    def __init__(self, world: Any) -> None:
        self.world = world

    def step(self, target: Any, rows: Rows) -> tuple[Tensor, Tensor]:
        x_s = self.world.flow(rows.x, rows.s, rows.t)
        return x_s, (x_s - rows.x) / expand(rows.s - rows.t, rows.x)


class MarginalVelocity:
    """Stands in for the slot `velocity`: the world's exact marginal velocity."""

    uses_network = False

    def __init__(self, world: Any) -> None:
        self.world = world

    def direction(self, target: Any, state: State) -> None:
        return None

    def estimate(self, state: State, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        return self.world.velocity(state.x, state.times.t), {}


def gaussian(path: Any = "linear", noise_std: float = 1.0) -> Gaussian:
    """A world G in three dimensions."""
    mean = torch.tensor([0.4, -1.0, 0.2], dtype=torch.float64)
    std = torch.tensor([0.5, 1.5, 0.1], dtype=torch.float64)
    return Gaussian(Schedule.model_validate(path), mean, std, noise_std)


def mixture(path: str = "linear", dim: int = 1) -> Mixture:
    """A world M of three components; in one dimension world Q."""
    centres = torch.tensor([[-1.5, 0.3], [0.2, -1.0], [1.7, 0.8]], dtype=torch.float64)[:, :dim]
    shares = torch.tensor([0.3, 0.5, 0.2], dtype=torch.float64)
    return Mixture(Schedule.model_validate(path), centres, shares, 0.25)
