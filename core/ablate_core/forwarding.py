"""Networks of which every call is one method, and those that stand so before another and see each of its calls."""

from __future__ import annotations

import abc
from typing import Any

from torch import Tensor

from ablate_core.architectures.base import Network


class CalledNetwork(Network):
    """Every call of a network, made by `_call`; a subclass says how."""

    @abc.abstractmethod
    def _call(self, method: str, **given: Tensor | None) -> Any:
        """What `method` returns; inputs that were not given are None."""

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

    def forward_beside_tangent(
        self,
        x: Tensor,
        r: Tensor,
        t: Tensor,
        y: Tensor | None,
        dx: Tensor,
        dt: Tensor,
        g: Tensor | None = None,
        *,
        index: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        given = {"x": x, "r": r, "t": t, "y": y, "dx": dx, "dt": dt, "g": g, "index": index}
        out: tuple[Tensor, Tensor] = self._call("forward_beside_tangent", **given)
        return out


class ForwardingNetwork(CalledNetwork):
    """One whose calls are those of another network, `net`."""

    def __init__(self, net: Network) -> None:
        super().__init__()
        self.net = net

    @property
    def drops(self) -> bool:
        return self.net.drops

    def use_dropout(self, seed: int | None) -> None:
        self.net.use_dropout(seed)
