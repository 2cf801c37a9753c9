"""Calls of the members' networks, made as one call of the stack where they ask for the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ablate_core.architectures.base import Network
from ablate_core.compute import Compute
from ablate_core.packing.lockstep import Player, Shares
from ablate_core.packing.stacked import Stack, UnstackableError

BY_YOURSELF = object()
"""The answer to a call that nobody shares: the member makes it, in its own thread."""


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
    """A call of a member's network: `method` with the `inputs` that are not None, each (rows, *)."""

    net: Network
    kind: Kind
    inputs: Mapping[str, Tensor]
    rows: int


@dataclass(frozen=True)
class Backward:
    """A member's loss, to be differentiated."""

    loss: Tensor


class MemberCompute(Compute):
    """How a member of a pack computes: with the others."""

    def __init__(self, player: Player[Any], shares: Shares) -> None:
        self._player, self._shares = player, shares

    def network(self, net: Network, role: str) -> Network:
        return MemberNetwork(net, role, self._player)

    def backward(self, loss: Tensor) -> None:
        if self._player.ask(Backward(loss)) is BY_YOURSELF:
            super().backward(loss)

    def cpu_seconds(self) -> float:
        return self._shares.seconds()


class MemberNetwork(Network):
    """A member's network as its loop calls it: every call waits for those of the others."""

    def __init__(self, net: Network, role: str, player: Player[Any]) -> None:
        super().__init__()
        self.net, self.role, self._player = net, role, player

    def use_dropout(self, seed: int | None) -> None:
        self.net.use_dropout(seed)

    def forward(self, x: Tensor, r: Tensor, t: Tensor, y: Tensor | None, g: Tensor | None = None) -> Tensor:
        out: Tensor = self._ask("forward", x=x, r=r, t=t, y=y, g=g)
        return out

    def forward_heads(
        self, x: Tensor, r: Tensor, t: Tensor, y: Tensor | None, g: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        out: tuple[Tensor, Tensor] = self._ask("forward_heads", x=x, r=r, t=t, y=y, g=g)
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
        out: tuple[Tensor, Tensor] = self._ask("forward_and_tangent", x=x, r=r, t=t, y=y, dx=dx, dt=dt, dr=dr, g=g)
        return out

    def log_variance(self, t: Tensor) -> Tensor:
        out: Tensor = self._ask("log_variance", t=t)
        return out

    def _ask(self, method: str, **given: Tensor | None) -> Any:
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
            answer = self._player.ask(Call(self.net, kind, inputs, rows))
        return answer if answer is not BY_YOURSELF else _called(self.net, method, inputs)


class Rendezvous:
    """Answers what the members ask: the largest possible part of them at a time."""

    def __init__(self) -> None:
        self._stacks: dict[str, Stack] = {}
        self._homes: dict[Network, tuple[Stack, int]] = {}

    def serve(self, living: Sequence[Player[Any]]) -> Sequence[Player[Any]]:
        """Answer the members that are furthest from the end of their step, and among these the largest group.

        All members wait. A backward pass is made when nothing else is asked for, so that it is one for all; a call
        without a graph that comes before a member's prediction (guidance) goes first, so that predictions meet.
        """
        calls = [player for player in living if isinstance(player.asked, Call)]
        if not calls:
            self._differentiate(living)
            return living
        groups: dict[Kind, list[Player[Any]]] = {}
        for player in calls:
            groups.setdefault(player.asked.kind, []).append(player)
        kind = min(groups, key=lambda kind: (kind.graph, -len(groups[kind])))
        self._call(groups[kind])
        return groups[kind]

    def _call(self, group: Sequence[Player[Any]]) -> None:
        calls = [player.asked for player in group]
        answers: Sequence[Any] = [BY_YOURSELF] * len(group)
        if len(group) > 1:
            try:
                stack, places = self._stack(calls)
                answers = made_as_one(stack.module(places), calls)
            except UnstackableError:
                pass
        for player, answer in zip(group, answers, strict=True):
            player.answer = answer

    def _stack(self, calls: Sequence[Call]) -> tuple[Stack, list[int]]:
        homes = [self._homes.get(call.net) for call in calls]
        role = calls[0].kind.role
        stack = self._stacks.get(role)
        if stack is None or any(home is None or home[0] is not stack for home in homes):
            self._homes = {net: home for net, home in self._homes.items() if home[0] is not stack}
            stack = self._stacks[role] = Stack([call.net for call in calls])
            self._homes |= {net: (stack, place) for place, net in enumerate(stack.nets)}
        return stack, [self._homes[call.net][1] for call in calls]

    def _differentiate(self, members: Sequence[Player[Any]]) -> None:
        losses = [player.asked.loss for player in members]
        torch.autograd.backward(losses)
        for stack in self._stacks.values():
            stack.hand_out_gradients(range(len(stack.nets)))
        for player in members:
            player.answer = None


def made_as_one(net: Network, calls: Sequence[Call]) -> list[Any]:
    """The results of `calls`, which are of one kind, from one call of their networks' stack."""
    kind, longest = calls[0].kind, max(call.rows for call in calls)
    inputs = {name: _joined([call.inputs[name] for call in calls], longest) for name in calls[0].inputs}
    device = inputs["t"].device.type
    with (
        torch.set_grad_enabled(kind.graph),
        torch.autocast(device, kind.autocast, enabled=kind.autocast is not None, cache_enabled=False),
    ):
        out = _called(net, kind.method, inputs)
        parts = [_divided(whole, calls) for whole in (out if isinstance(out, tuple) else (out,))]
    return list(zip(*parts, strict=True)) if isinstance(out, tuple) else parts[0]


def _called(net: Network, method: str, inputs: Mapping[str, Tensor]) -> Any:
    if method == "log_variance":
        return net.log_variance(inputs["t"])
    given = {"y": None, **inputs}
    return net(**given) if method == "forward" else getattr(net, method)(**given)


def _joined(tensors: Sequence[Tensor], rows: int) -> Tensor:
    """(rows_i, *) each -> (N rows, *), the shorter ones filled up with their first row."""
    parts = []
    for x in tensors:
        parts.append(x)
        if len(x) < rows:
            parts.append(x[:1].expand(rows - len(x), *x.shape[1:]))
    return torch.cat(parts)


def _divided(whole: Tensor, calls: Sequence[Call]) -> list[Tensor]:
    """(N rows, *) -> (rows_i, *) each."""
    parts = whole.reshape(len(calls), -1, *whole.shape[1:]).unbind(0)
    return [part if len(part) == call.rows else part[: call.rows] for part, call in zip(parts, calls, strict=True)]


def _autocast(device: str) -> torch.dtype | None:
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
