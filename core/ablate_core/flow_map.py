"""The mathematics the objectives share: a network seen as a flow map."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ablate_core.architectures.base import Network
from ablate_core.parameterizations.base import Parameterization
from ablate_core.schedules.base import Schedule, expand


@dataclass(frozen=True)
class FlowMap:
    """X_{t,r} as a network, a parameterisation and a schedule give it. All times are (B,), r <= t.

    States are (B, *shape); labels (B,) int64 with the null class as ``num_classes``, or None for unlabelled data.
    """

    net: Network
    parameterization: Parameterization
    schedule: Schedule

    def raw(self, x: Tensor, r: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        """F(c_in x, r, t, y), in the dtype of `x` also under autocast."""
        scale = self.parameterization.input_scale(t, self.schedule)
        output: Tensor = self.net(x if scale is None else expand(scale, x) * x, r, t, y)
        assert output.shape == x.shape, f"the network maps {tuple(x.shape)} to {tuple(output.shape)}"
        return output.to(x.dtype)

    def velocity(self, x: Tensor, r: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        """V = c_out F; at r = t the network's estimate of the marginal velocity."""
        return self.scaled(self.raw(x, r, t, y), t)

    def velocity_and_tangent(
        self, x: Tensor, r: Tensor, t: Tensor, y: Tensor | None, dx: Tensor
    ) -> tuple[Tensor, Tensor]:
        """V and its total derivative along (x, t) -> (x + dx, t + 1) with r fixed, each (B, *shape).

        The derivatives of c_in(t) x and of c_out(t) F are taken here, that of F by the network.
        """
        one = torch.ones_like(t)
        if self.parameterization.input_scale(t, self.schedule) is not None:
            dual = torch.func.jvp(self._scaled_input, (x, t), (dx, one))
            x, dx = dual[0], dual[1]
        raw, d_raw = (out.to(x.dtype) for out in self.net.forward_and_tangent(x, r, t, y, dx, one))
        if self.parameterization.output_scale(t) is None:
            return raw, d_raw
        dual = torch.func.jvp(self.scaled, (raw, t), (d_raw, one))
        return dual[0], dual[1]

    def _scaled_input(self, x: Tensor, t: Tensor) -> Tensor:
        scale = self.parameterization.input_scale(t, self.schedule)
        return x if scale is None else expand(scale, x) * x

    def scaled(self, raw: Tensor, t: Tensor) -> Tensor:
        """V from F."""
        scale = self.parameterization.output_scale(t)
        return raw if scale is None else expand(scale, raw) * raw

    def unscaled(self, velocity: Tensor, t: Tensor) -> Tensor:
        """F from V."""
        scale = self.parameterization.output_scale(t)
        return velocity if scale is None else velocity / expand(scale, velocity)

    def landed(self, velocity: Tensor, x: Tensor, r: Tensor, t: Tensor) -> Tensor:
        """X_{t,r}(x) from V."""
        keep, move = self.parameterization.jump(self.schedule, t, r)
        return expand(keep, x) * x + expand(move, x) * velocity

    def average(self, velocity: Tensor, x: Tensor, r: Tensor, t: Tensor) -> Tensor:
        """u_{t,r}(x) from V."""
        return self.parameterization.average(velocity, x, self.schedule, t, r)

    def jump(self, x: Tensor, r: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        """X_{t,r}(x)."""
        return self.landed(self.velocity(x, r, t, y), x, r, t)
