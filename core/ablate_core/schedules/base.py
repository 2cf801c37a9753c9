"""The axis `schedule`: the flow path x_t = alpha(t) x0 + sigma(t) e, with t = 0 data and t = 1 noise."""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from ablate_core.component import Component


class PathPoint(NamedTuple):
    """Coefficients of the path at times t; each of t's shape and dtype."""

    alpha: Tensor
    sigma: Tensor
    d_alpha: Tensor
    d_sigma: Tensor

    @property
    def wronskian(self) -> Tensor:
        """alpha sigma' - sigma alpha', positive on every usable path."""
        return self.alpha * self.d_sigma - self.sigma * self.d_alpha


class Jump(NamedTuple):
    """Coefficients of the DDIM jump x_r = keep * x_t + move * v (abar and bbar in the papers)."""

    keep: Tensor
    move: Tensor


class Schedule(Component):
    """A flow path. A concrete schedule gives `at` and `time_of_ratio`; the rest follows (design-space 1.2).

    `jump` and `d_jump` have general implementations; a schedule overrides them where the closed form is simpler.
    """

    name: str
    straight: ClassVar[bool] = False
    """True where an Euler step with the conditional velocity is exact (linear, VE)."""
    exploding: ClassVar[bool] = False
    """True where alpha is 1 and sigma is the noise level."""
    circular: ClassVar[bool] = False
    """True where alpha^2 + sigma^2 = 1."""
    unit_time: ClassVar[bool] = True
    """True where t runs over [0, 1] from data to noise, so that samplers of such times mean something on it (C17)."""

    @property
    def end(self) -> float:
        """The largest time, where the state is taken to be noise of standard deviation sigma(end) s0."""
        return 1.0

    def network_time(self, t: Tensor) -> Tensor:
        """What the network is told of the time `t`, (B,) -> (B,); the time itself on unit paths."""
        return t

    @abc.abstractmethod
    def at(self, t: Tensor) -> PathPoint:
        """alpha, sigma and d/dt of both at `t` (any shape, floating, in [0, end])."""

    @abc.abstractmethod
    def time_of_ratio(self, ratio: Tensor) -> Tensor:
        """The time t in [0, end] at which sigma(t) / alpha(t) equals `ratio` >= 0: the map of equal log-SNR."""

    def ratio(self, t: Tensor) -> Tensor:
        """Noise-to-signal ratio sigma(t) / alpha(t), in [0, inf]; ``log_snr = -2 log(ratio)``."""
        point = self.at(t)
        return point.sigma / point.alpha

    def landing_rate(self, t: Tensor, r: Tensor) -> Jump:
        """d/dr of both coefficients of `jump`, t fixed."""
        return rate_of_jump(lambda time: self.jump(t, time), r)

    def jump(self, t: Tensor, r: Tensor) -> Jump:
        """Coefficients that carry (x_t, v) to x_r, exact for the conditional velocity of one (x0, e) pair."""
        at_t, at_r = self.at(t), self.at(r)
        w = at_t.wronskian
        keep = (at_r.alpha * at_t.d_sigma - at_r.sigma * at_t.d_alpha) / w
        move = (at_r.sigma * at_t.alpha - at_t.sigma * at_r.alpha) / w
        return Jump(keep, move)

    def d_jump(self, t: Tensor, r: Tensor) -> Jump:
        """d/dt of both coefficients of `jump`, r fixed."""
        return rate_of_jump(lambda time: self.jump(time, r), t)

    def interpolate(self, x0: Tensor, noise: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """State and conditional velocity of the pair (x0, noise) at `t`.

        Args:
            x0: data, (B, *shape).
            noise: noise, (B, *shape), already scaled to the standard deviation of the path's end.
            t: (B,), in [0, end].

        Returns:
            x_t = alpha x0 + sigma e and v = alpha' x0 + sigma' e, each (B, *shape).
        """
        point = self.at(t)
        alpha, sigma, d_alpha, d_sigma = (expand(c, x0) for c in point)
        return alpha * x0 + sigma * noise, d_alpha * x0 + d_sigma * noise

    def endpoints(self, x_t: Tensor, v: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The pair (x0, e) whose state and velocity at `t` are (x_t, v); the inverse of `interpolate`."""
        point = self.at(t)
        alpha, sigma, d_alpha, d_sigma = (expand(c, x_t) for c in point)
        w = expand(point.wronskian, x_t)
        return (d_sigma * x_t - sigma * v) / w, (alpha * v - d_alpha * x_t) / w


def expand(coefficient: Tensor, like: Tensor) -> Tensor:
    """A per-sample coefficient (B,) as (B, 1, ..., 1), to multiply `like` of shape (B, *shape).

    Defect D1 of the reference (a (B, 1) tensor meeting a (B,) one) cannot happen behind this check.
    """
    assert coefficient.ndim == 1, f"a per-sample coefficient is (B,), got {tuple(coefficient.shape)}"
    return coefficient.reshape(-1, *[1] * (like.ndim - 1))


Coefficients = Callable[[Tensor], Sequence[Tensor | None]]
"""Functions of the row's time, each (B,) -> (B,), or None for one that there is not."""


def with_rates(coefficients: Coefficients, time: Tensor) -> list[tuple[Tensor | None, Tensor | None]]:
    """Each coefficient at `time` and its derivative, (B,) each; no derivative (None) of one that is constant.

    They depend on their own row's time alone, so the backward pass gives each row its own derivative. torch's forward
    mode takes ten times as long for vectors as short as these.
    """
    with torch.enable_grad():
        time = time.detach().requires_grad_()
        values, pairs = coefficients(time), []
        for value in values:
            rate = None
            if value is not None and value.requires_grad:
                (rate,) = torch.autograd.grad(value, time, torch.ones_like(value), retain_graph=True)
                value = value.detach()
            pairs.append((value, rate))
    return pairs


def rate_of_jump(jump: Callable[[Tensor], Jump], time: Tensor) -> Jump:
    """Derivatives of both coefficients of a jump by one of its times, (B,)."""
    keep, move = (torch.zeros_like(time) if rate is None else rate for _, rate in with_rates(jump, time))
    return Jump(keep, move)
