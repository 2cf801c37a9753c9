"""The mathematics the objectives share: a network seen as a flow map."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ablate_core.architectures.base import Network
from ablate_core.parameterizations.base import Parameterization
from ablate_core.schedules.base import Schedule, expand, with_rates


@dataclass(frozen=True)
class FlowMap:
    """X_{t,r} as a network, a parameterisation and a schedule give it. All times are (B,), r <= t.

    States are (B, *shape); labels (B,) int64 with the null class as ``num_classes``, or None for unlabelled data;
    guidance inputs `g` (B, K), or None for a network that has none.
    """

    net: Network
    parameterization: Parameterization
    schedule: Schedule

    def raw(self, x: Tensor, r: Tensor, t: Tensor, y: Tensor | None, g: Tensor | None = None) -> Tensor:
        """F(c_in x, r, t, y), in the dtype of `x` also under autocast."""
        inputs = self._told(x, r, t)
        output: Tensor = self.net(*inputs, y) if g is None else self.net(*inputs, y, g)
        assert output.shape == x.shape, f"the network maps {tuple(x.shape)} to {tuple(output.shape)}"
        return output.to(x.dtype)

    def raw_heads(
        self, x: Tensor, r: Tensor, t: Tensor, y: Tensor | None, g: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """F and the raw output of the velocity head from one pass, each (B, *shape)."""
        u, v = self.net.forward_heads(*self._told(x, r, t), y, g)
        assert u.shape == v.shape == x.shape
        return u.to(x.dtype), v.to(x.dtype)

    def velocity(self, x: Tensor, r: Tensor, t: Tensor, y: Tensor | None, g: Tensor | None = None) -> Tensor:
        """V = c_skip x + c_out F; at r = t the network's estimate of the marginal velocity."""
        return self.scaled(self.raw(x, r, t, y, g), x, t, g)

    def marginal(self, x: Tensor, t: Tensor, y: Tensor | None, g: Tensor | None = None) -> Tensor:
        """The network's estimate of the marginal velocity, (B, *shape): its velocity head, or V at r = t."""
        if self.parameterization.needs_velocity_head:
            return self.scaled(self.raw_heads(x, t, t, y, g)[1], x, t, g)
        return self.velocity(x, t, t, y, g)

    def velocity_and_tangent(
        self,
        x: Tensor,
        r: Tensor,
        t: Tensor,
        y: Tensor | None,
        dx: Tensor,
        g: Tensor | None = None,
        *,
        explicit: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """V and its total derivative along (x, t) -> (x + dx, t + 1) with r fixed, each (B, *shape).

        The derivatives of c_in(t) x, of what the network is told of t, and of c_skip(t) x + c_out(t) F are taken here,
        that of F by the network: as it is written there, or by torch where not `explicit`.
        """
        d_told, d_time = self._d_told(x, t, dx)
        more = {} if g is None else {"g": g}
        forward = self.net.forward_and_tangent
        if not explicit:
            forward = functools.partial(Network.forward_and_tangent, self.net)
        both = forward(*self._told(x, r, t), y, d_told, d_time, **more)
        raw, d_raw = (out.to(x.dtype) for out in both)
        return self._d_scaled(raw, d_raw, x, t, dx, g)

    def raw_beside_tangent(
        self, x: Tensor, r: Tensor, t: Tensor, y: Tensor | None, dx: Tensor, g: Tensor | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """F of all rows, (B, *shape), with a graph; V and its derivative of the last R ones, without, from one pass.

        `dx` is (R, *shape), and the derivative that of `velocity_and_tangent`.
        """
        n = len(dx)
        with torch.no_grad():
            ends, end_times = x[-n:], t[-n:]
            d_told, d_time = self._d_told(ends, end_times, dx)
        both = self.net.forward_beside_tangent(*self._told(x, r, t), y, d_told, d_time, g)
        raw, d_raw = (out.to(x.dtype) for out in both)
        with torch.no_grad():
            own = None if g is None else g[-n:]
            return raw, self._d_scaled(raw[-n:].detach(), d_raw, ends, end_times, dx, own)

    def _d_told(self, x: Tensor, t: Tensor, dx: Tensor) -> tuple[Tensor, Tensor]:
        """Derivatives of c_in(t) x and of what the network is told of t, along (dx, 1)."""
        own, schedule = self.parameterization, self.schedule
        d_time = _rate(schedule.network_time, t)
        if own.input_scale(t, schedule) is None:
            return dx, d_time
        ((scale, rate),) = with_rates(lambda time: [own.input_scale(time, schedule)], t)
        return _d_product(scale, rate, x, dx), d_time

    def _d_scaled(
        self, raw: Tensor, d_raw: Tensor, x: Tensor, t: Tensor, dx: Tensor, g: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """V and its derivative from F and that of F, along (dx, 1)."""
        if self._is_raw(t, g):
            return raw, d_raw
        own, schedule = self.parameterization, self.schedule
        (scale, d_scale), (skip, d_skip) = with_rates(
            lambda time: [own.output_scale(time, schedule, g), own.skip_scale(time, schedule)], t
        )
        velocity = raw if scale is None else expand(scale, raw) * raw
        tangent = d_raw if scale is None else _d_product(scale, d_scale, raw, d_raw)
        if skip is not None:
            velocity, tangent = velocity + expand(skip, x) * x, tangent + _d_product(skip, d_skip, x, dx)
        return velocity, tangent

    def velocity_and_landing_tangent(
        self, x: Tensor, r: Tensor, t: Tensor, y: Tensor | None, g: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """V and its derivative by the landing time r, each (B, *shape), with a graph where the weights have one."""
        told, landing, time = self._told(x, r, t)
        rate = _rate(self.schedule.network_time, r)
        more = {} if g is None else {"g": g}
        both = self.net.forward_and_tangent(
            told, landing, time, y, torch.zeros_like(told), torch.zeros_like(time), dr=rate, **more
        )
        raw, d_raw = (out.to(x.dtype) for out in both)
        scale = self.parameterization.output_scale(t, self.schedule, g)
        return self.scaled(raw, x, t, g), d_raw if scale is None else expand(scale, d_raw) * d_raw

    def _told(self, x: Tensor, r: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the network is given of (x, r, t)."""
        return self._scaled_input(x, t), self.schedule.network_time(r), self.schedule.network_time(t)

    def _scaled_input(self, x: Tensor, t: Tensor) -> Tensor:
        scale = self.parameterization.input_scale(t, self.schedule)
        return x if scale is None else expand(scale, x) * x

    def _is_raw(self, t: Tensor, g: Tensor | None) -> bool:
        own = self.parameterization
        return own.output_scale(t, self.schedule, g) is None and own.skip_scale(t, self.schedule) is None

    def scaled(self, raw: Tensor, x: Tensor, t: Tensor, g: Tensor | None = None) -> Tensor:
        """V from F."""
        scale = self.parameterization.output_scale(t, self.schedule, g)
        skip = self.parameterization.skip_scale(t, self.schedule)
        velocity = raw if scale is None else expand(scale, raw) * raw
        return velocity if skip is None else velocity + expand(skip, x) * x

    def unscaled(self, velocity: Tensor, x: Tensor, t: Tensor, g: Tensor | None = None) -> Tensor:
        """F from V."""
        scale = self.parameterization.output_scale(t, self.schedule, g)
        skip = self.parameterization.skip_scale(t, self.schedule)
        raw = velocity if skip is None else velocity - expand(skip, x) * x
        return raw if scale is None else raw / expand(scale, raw)

    def compared(self, raw: Tensor, x: Tensor, t: Tensor, g: Tensor | None = None) -> Tensor:
        """What a regression compares, from F: F itself or V, as the parameterisation says."""
        return raw if self.parameterization.compares == "raw" else self.scaled(raw, x, t, g)

    def comparable(self, velocity: Tensor, x: Tensor, t: Tensor, g: Tensor | None = None) -> Tensor:
        """What a regression compares, from V."""
        return velocity if self.parameterization.compares == "velocity" else self.unscaled(velocity, x, t, g)

    def landed(self, velocity: Tensor, x: Tensor, r: Tensor, t: Tensor) -> Tensor:
        """X_{t,r}(x) from V."""
        if self.parameterization.moves_straight(self.schedule):
            return x + expand(r - t, x) * velocity
        keep, move = self.parameterization.jump(self.schedule, t, r)
        return expand(keep, x) * x + expand(move, x) * velocity

    def average(self, velocity: Tensor, x: Tensor, r: Tensor, t: Tensor) -> Tensor:
        """u_{t,r}(x) from V."""
        return self.parameterization.average(velocity, x, self.schedule, t, r)

    def jump(self, x: Tensor, r: Tensor, t: Tensor, y: Tensor | None, g: Tensor | None = None) -> Tensor:
        """X_{t,r}(x)."""
        return self.landed(self.velocity(x, r, t, y, g), x, r, t)


def _d_product(scale: Tensor | None, rate: Tensor | None, x: Tensor, dx: Tensor) -> Tensor:
    """d(c x) from c, c', x and dx; c' is None where c is constant."""
    assert scale is not None
    product = expand(scale, dx) * dx
    return product if rate is None else product + expand(rate, x) * x


def _rate(network_time: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    """Derivative of what the network is told of `t`, (B,)."""
    if network_time(t) is t:
        return torch.ones_like(t)
    ((_, rate),) = with_rates(lambda time: [network_time(time)], t)
    return torch.zeros_like(t) if rate is None else rate
