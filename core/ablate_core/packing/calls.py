"""What a member of a pack asks for: calls of its networks, and the derivative of its loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ablate_core.architectures.base import Network
from ablate_core.compute import Compute
from ablate_core.fid.extractor import Extractor
from ablate_core.flat import Flat
from ablate_core.forwarding import ForwardingNetwork
from ablate_core.packing.lockstep import Player, Shares

BY_YOURSELF = object()
"""The answer to a call that nobody shares: the member makes it, in its own thread."""


Directions = tuple[Tensor, Tensor]
"""Those of a tangent: dx (K, *shape) and dt (K,), of K rows."""


@dataclass(frozen=True)
class Kind:
    """What calls must have in common to be made as one."""

    role: str
    method: str
    inputs: tuple[tuple[str, torch.dtype, torch.Size], ...]
    graph: bool
    autocast: torch.dtype | None


@dataclass(frozen=True)
class Call:
    """A call of a member's network: `method` with the `inputs` that are not None, each (rows, *).

    A `forward` may want a tangent of its last rows `beside` it: it is the same kind of call with or without.
    """

    flat: Flat
    kind: Kind
    inputs: Mapping[str, Tensor]
    rows: int
    beside: Directions | None = None

    @property
    def tangents(self) -> int:
        """How many rows have a tangent beside them."""
        return 0 if self.beside is None else len(self.beside[1])


@dataclass(frozen=True)
class Backward:
    """A member's loss, to be differentiated by the parameters of `flat`."""

    flat: Flat | None
    loss: Tensor


@dataclass(frozen=True)
class Extract:
    """Images of a measurement, (rows, C, H, W) uint8, whose features a member wants."""

    extractor: Extractor
    images: Tensor


class MemberCompute(Compute):
    """How a member of a pack computes: with the others."""

    def __init__(self, player: Player[Any], shares: Shares) -> None:
        self._player, self._shares = player, shares
        self._flats: dict[str, Flat] = {}

    def network(self, net: Network, role: str) -> Network:
        try:
            flat = self._flats[role] = Flat(net)
        except ValueError:
            return net
        return MemberNetwork(flat, role, self._player)

    def flat(self, net: Network) -> Flat | None:
        return next((flat for flat in self._flats.values() if flat.net is net), None)

    def backward(self, loss: Tensor, flat: Flat | None = None) -> None:
        self._player.ask(Backward(self._flats.get("net"), loss))

    def extract(self, extractor: Extractor, images: Tensor) -> Tensor:
        out: Tensor = self._player.ask(Extract(extractor, images))
        return out

    def cpu_seconds(self) -> float:
        return self._shares.seconds()


class MemberNetwork(ForwardingNetwork):
    """A member's network as its loop calls it: every call waits for those of the others."""

    def __init__(self, flat: Flat, role: str, player: Player[Any]) -> None:
        assert isinstance(flat.net, Network)
        super().__init__(flat.net)
        self.flat, self.role, self._player = flat, role, player

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
        if index is not None:
            return Network.forward_beside_tangent(self, x, r, t, y, dx, dt, g, index=index)  # two calls, each shared
        out: tuple[Tensor, Tensor] = self._ask("forward", (dx, dt), x=x, r=r, t=t, y=y, g=g)
        return out

    def log_variance(self, t: Tensor) -> Tensor:
        out: Tensor = self._ask("log_variance", t=t)
        return out

    def _call(self, method: str, **given: Tensor | None) -> Any:
        return self._ask(method, **given)

    def _ask(self, method: str, beside: Directions | None = None, /, **given: Tensor | None) -> Any:
        inputs = {name: value for name, value in given.items() if value is not None}
        rows = len(inputs["t"])
        answer = BY_YOURSELF
        if rows and torch._C._functorch.peek_interpreter_stack() is None:  # a transform belongs to its thread
            kind = Kind(
                self.role,
                method,
                tuple((name, value.dtype, value.shape[1:]) for name, value in inputs.items()),
                torch.is_grad_enabled(),
                _autocast(inputs["t"].device.type),
            )
            answer = self._player.ask(Call(self.flat, kind, inputs, rows, beside))
        return answer if answer is not BY_YOURSELF else called(self.net, method, inputs, beside)


def called(
    net: Network,
    method: str,
    inputs: Mapping[str, Tensor],
    beside: Directions | None = None,
    index: Tensor | None = None,
) -> Any:
    """The method of a network with these inputs; with a tangent `beside` a `forward`, of the rows at `index`."""
    if method == "log_variance":
        return net.log_variance(inputs["t"])
    given: dict[str, Any] = {"y": None, **inputs}
    if beside is not None:
        return net.forward_beside_tangent(**given, dx=beside[0], dt=beside[1], index=index)
    return net(**given) if method == "forward" else getattr(net, method)(**given)


def _autocast(device: str) -> torch.dtype | None:
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
