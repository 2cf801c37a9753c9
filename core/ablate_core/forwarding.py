"""A network that stands before another and sees each of its calls."""

from __future__ import annotations

import abc
from typing import Any

from torch import Tensor

from ablate_core.architectures.base import Network


class ForwardingNetwork(Network):
    """Every call of a network, made by `_call`; a subclass says how. `net` is the network behind it."""

    def __init__(self, net: Network) -> None:
        super().__init__()
        self.net = net

    @abc.abstractmethod
    def _call(self, method: str, **given: Tensor | None) -> Any:
        """What `method` of `net` returns; inputs that were not given are None."""

    @property
    def drops(self) -> bool:
        return self.net.drops

    def use_dropout(self, seed: int | None) -> None:
        self.net.use_dropout(seed)

    def forward(self, x: Tensor, r: Tensor, t: Tensor, y: Tensor | None, g: Tensor | None = None) -> Tensor:
        out: Tensor = self._call("forward", x=x, r=r, t=t, y=y, g=g)
        return out

    def forward_heads(
        self, x: Tensor, r: Tensor, t: Tensor, y: Tensor | None, g: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        out: tuple[Tensor, Tensor] = self._call("forward_heads", x=x, r=r, t=t, y=y, g=g)
        return out

    def forward_and_tangent(
        self,
        x: Tensor,
        r: Tensor,
        t: Tensor,
        y: Tensor | None,
        dx: Tensor,
        dt: Tensor,
        *,
        dr: Tensor | None = None,
        g: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        out: tuple[Tensor, Tensor] = self._call("forward_and_tangent", x=x, r=r, t=t, y=y, dx=dx, dt=dt, dr=dr, g=g)
        return out
