"""Where members meet: calls of the same kind are made as one call of the stack, all losses differentiated at once.

So are features of their samples extracted, when several measure at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any

import torch
from torch import Tensor

from ablate_core.architectures.base import Network
from ablate_core.compute import PackError
from ablate_core.flat import Flat
from ablate_core.host import sent
from ablate_core.packing.calls import BY_YOURSELF, Backward, Call, Extract, Kind, called
from ablate_core.packing.lockstep import Player
from ablate_core.packing.stack import Stack
from ablate_core.packing.stacked import UnstackableError

MOST_IMAGES = 1024
"""Images whose features are extracted in one call, where no member alone has more: an extractor's memory grows so."""


class Rendezvous:
    """Answers what the members ask: the largest possible part of them at a time."""

    def __init__(self) -> None:
        self._stacks: dict[str, Stack] = {}  # by role
        self._in_use: dict[tuple[str, int], Flat] = {}  # by role and member: the network it called last
        self._owed: set[Stack] = set()  # had a part in a graph that is not differentiated yet
        self._lonely: set[Flat] = set()  # likewise, by calls of their own
        self._never: set[Kind] = set()

    def serve(self, living: Sequence[Player[Any]]) -> Sequence[Player[Any]]:
        """Answer the members that are furthest from the end of their step, and among these the largest group.

        All members wait. A backward pass is made when nothing else is asked for, so that it is one for all; a call
        without a graph goes before one with a graph (guidance comes before the prediction), so that predictions meet;
        and before features are extracted, so that the samples of all who measure meet.
        """
        groups: dict[Kind, list[Player[Any]]] = {}
        for player in living:
            if isinstance(player.asked, Call):
                groups.setdefault(player.asked.kind, []).append(player)
                self._in_use[player.asked.kind.role, player.number] = player.asked.flat
        measure = [player for player in living if isinstance(player.asked, Extract)]
        if measure and all(kind.graph for kind in groups):
            _extract(measure)
            return measure
        if not groups:
            self._differentiate(living)
            return living
        kind = min(groups, key=lambda kind: (kind.graph, -len(groups[kind])))
        self._call(groups[kind], {player.number for player in living})
        return groups[kind]

    def _call(self, group: Sequence[Player[Any]], living: Set[int]) -> None:
        calls: list[Call] = [player.asked for player in group]
        answers: Sequence[Any] = [BY_YOURSELF] * len(group)
        if len(group) > 1 and calls[0].kind not in self._never:
            try:
                answers = self._made_as_one(self._stack(calls, living), calls)
            except UnstackableError:
                self._never.add(calls[0].kind)
            except Exception:  # somebody asks for what cannot be done: all try alone, and it fails alone
                answers = [BY_YOURSELF] * len(group)
        if answers[0] is BY_YOURSELF and calls[0].kind.graph:
            self._lonely |= {call.flat for call in calls}
        for player, answer in zip(group, answers, strict=True):
            player.answer = answer

    def _made_as_one(self, stack: Stack, calls: Sequence[Call]) -> Sequence[Any]:
        places, counts = [stack.place[call.flat] for call in calls], [call.rows for call in calls]
        kind = calls[0].kind
        if kind.graph:
            self._owed.add(stack)
        tangents = evened([call.tangents for call in calls], min(counts), calls[0].inputs["t"].device)
        if min(counts) == max(counts) or kind.graph or kind.autocast is not None or any(tangents):
            return made_as_one(stack.module(places, tangents=tangents), calls, max(counts), tangents)
        return made_as_one(stack.module(places, counts), calls, None)

    def _stack(self, calls: Sequence[Call], living: Set[int]) -> Stack:
        """The stack of the role: of those who call and of those in it who still live; another only where they change.

        Members may differ in what they call and when. A stack that grew with everybody who calls serves a part of
        them by picking; one made anew for every group would move all weights back and forth.
        """
        role = calls[0].kind.role
        stack, callers = self._stacks.get(role), {call.flat for call in calls}
        old = set() if stack is None else set(stack.flats)
        in_use = {number: flat for (of, number), flat in self._in_use.items() if of == role and number in living}
        flats = [flat for _, flat in sorted(in_use.items()) if flat in callers or flat in old]
        if stack is None or stack.flats != flats:
            stack = self._stacks[role] = Stack(flats)
        return stack

    def _differentiate(self, members: Sequence[Player[Any]]) -> None:
        asked: list[Backward] = [player.asked for player in members]
        losses = [question.loss for question in asked if question.loss.requires_grad]
        failed: Exception | None = None
        try:
            torch.autograd.backward(losses)
        except Exception as error:
            failed = error
            if len(losses) > 1 and not isinstance(error, MemoryError | torch.OutOfMemoryError):
                failed = PackError(f"the backward pass of {len(losses)} trials as one: {type(error).__name__}: {error}")
                failed.__cause__ = error  # part of the graph is gone: no loss can be differentiated by itself any more
        flats = {question.flat for question in asked}
        unmet: dict[Flat | None, Set[str]] = {}
        for stack in self._owed:
            names = stack.hand_out_gradients(flats)
            unmet.update({flat: names & unmet.get(flat, names) for flat in stack.flats})
        for flat in self._lonely & flats:
            names = flat.gather_gradients()
            unmet[flat] = names & unmet.get(flat, names)
        self._owed.clear()
        self._lonely.clear()
        for player, question in zip(members, asked, strict=True):
            constant = None if question.loss.requires_grad else RuntimeError("the loss does not depend on the weights")
            player.answer = constant or failed or _left_out(unmet.get(question.flat))


def _left_out(unmet: Set[str] | None) -> PackError | None:
    """What a member is told whose `unmet` parameters got no gradient: a trial alone leaves those as they are."""
    if not unmet:
        return None
    return PackError(
        f"{', '.join(sorted(unmet))}: no gradient at this step, and a pack updates every parameter at every step;"
        " an architecture of which that is so is not stackable"
    )


def _extract(members: Sequence[Player[Any]]) -> None:
    """Answer members that want features: those of one extractor together, no more images at a time than is usual."""
    waiting = list(members)
    while waiting:
        first: Extract = waiting[0].asked
        most, group, count = max(MOST_IMAGES, len(first.images)), list[Player[Any]](), 0
        for player in waiting:
            asked: Extract = player.asked
            if _alike(asked, first) and count + len(asked.images) <= most:
                group.append(player)
                count += len(asked.images)
        waiting = [player for player in waiting if player not in group]
        try:
            features = first.extractor.on_device(torch.cat([player.asked.images for player in group]))
            answers: Sequence[Any] = torch.split(features, [len(player.asked.images) for player in group])
        except Exception as error:  # of images that the extractor does not take: they are all alike
            answers = [error] * len(group)
        for player, answer in zip(group, answers, strict=True):
            player.answer = answer


def _alike(a: Extract, b: Extract) -> bool:
    kinds = [(asked.images.shape[1:], asked.images.dtype, asked.images.device) for asked in (a, b)]
    return a.extractor is b.extractor and kinds[0] == kinds[1]


def evened(tangents: Sequence[int], most: int, device: torch.device) -> Sequence[int]:
    """How many rows of each network carry a tangent: on a CPU those that want one, elsewhere all networks as many.

    A product for networks that differ in it is one for each of them. That is cheapest where the arithmetic counts, and
    where launches count tangents that nobody wants are. `most` is how many rows the smallest has.
    """
    largest = max(tangents)
    return tangents if device.type == "cpu" or largest > most else [largest] * len(tangents)


def made_as_one(
    net: Network, calls: Sequence[Call], rows: int | None, tangents: Sequence[int] | None = None
) -> Sequence[Any]:
    """The results of `calls`, which are of one kind, from one call of their networks' stack.

    Args:
        net: the stack.
        calls: those of its networks.
        rows: how many each is filled up to; None: they stay as many as they are.
        tangents: how many rows of each carry a tangent, at least as many as it wants; None: just as many.
    """
    kind = calls[0].kind
    inputs = {name: _joined([call.inputs[name] for call in calls], rows) for name in calls[0].inputs}
    device = inputs["t"].device.type
    with (
        torch.set_grad_enabled(kind.graph),
        torch.autocast(device, kind.autocast, enabled=kind.autocast is not None, cache_enabled=False),
    ):
        if rows is not None and any(call.tangents for call in calls):
            return _beside_tangents(net, calls, inputs, rows, tangents or [call.tangents for call in calls])
        out = called(net, kind.method, inputs)
        parts = [_divided(whole, calls, rows) for whole in (out if isinstance(out, tuple) else (out,))]
    return list(zip(*parts, strict=True)) if isinstance(out, tuple) else parts[0]


def _beside_tangents(
    net: Network, calls: Sequence[Call], inputs: Mapping[str, Tensor], rows: int, tangents: Sequence[int]
) -> Sequence[Any]:
    """What `forward` gives each, and beside it to those who want one the tangent of their last rows.

    The rows before those, where `tangents` says more, carry some tangent that is thrown away.
    """
    ends = [i * rows + call.rows for i, call in enumerate(calls)]
    index = [at for end, count in zip(ends, tangents, strict=True) for at in range(end - count, end)]
    some = next(call.beside for call in calls if call.beside is not None)
    parts: list[list[Tensor]] = [[], []]
    for call, count in zip(calls, tangents, strict=True):
        for direction, any_row, joined in zip(call.beside or (None, None), some, parts, strict=True):
            if count > call.tangents:
                joined.append(any_row[:1].expand(count - call.tangents, *any_row.shape[1:]))
            if direction is not None:
                joined.append(direction)
    directions = torch.cat(parts[0]), torch.cat(parts[1])
    value, tangent = called(net, "forward", inputs, directions, sent(torch.tensor(index), directions[0].device))
    values, found = _divided(value, calls, rows), torch.split(tangent, list(tangents))
    return [
        one if call.beside is None else (one, its[len(its) - call.tangents :])
        for call, one, its in zip(calls, values, found, strict=True)
    ]


def _joined(tensors: Sequence[Tensor], rows: int | None) -> Tensor:
    """(rows_i, *) each -> one after another, (sum, *); those below `rows` are filled up with their first row."""
    parts = []
    for x in tensors:
        parts.append(x)
        if rows is not None and len(x) < rows:
            parts.append(x[:1].expand(rows - len(x), *x.shape[1:]))
    return torch.cat(parts)


def _divided(whole: Tensor, calls: Sequence[Call], rows: int | None) -> Sequence[Tensor]:
    """The opposite of `_joined`."""
    if rows is None:
        return torch.split(whole, [call.rows for call in calls])
    parts = whole.reshape(len(calls), rows, *whole.shape[1:]).unbind(0)
    return [part if call.rows == rows else part[: call.rows] for part, call in zip(parts, calls, strict=True)]
