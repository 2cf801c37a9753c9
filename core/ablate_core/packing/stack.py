"""N networks of equal shapes as one module, their weights in one tensor."""

from __future__ import annotations

import copy
from collections.abc import Sequence, Set
from typing import Any

import torch
from torch import Tensor, nn

from ablate_core.architectures.base import Network
from ablate_core.flat import Flat
from ablate_core.host import sent
from ablate_core.packing.stacked import Rows, Slot, Stacked, UnstackableError


class Stack:
    """The networks of `flats` as one.

    Their parameters are moved into `weights`, (N, P), so that whatever is done to them (an optimiser's step, a
    checkpoint that is read) is done to the stack, and a network may still be called alone.
    """

    def __init__(self, flats: Sequence[Flat]) -> None:
        """Raises UnstackableError where the networks differ in more than the values of their parameters."""
        require_alike([flat.net for flat in flats])
        self.flats, self.place = list(flats), {flat: place for place, flat in enumerate(flats)}
        first = flats[0]
        trained = first.whole.requires_grad
        self.weights = first.whole.detach().new_empty(len(flats), len(first.whole))
        for flat, own in zip(flats, self.weights, strict=True):
            flat.move(own)
        self.gradient = torch.zeros_like(self.weights) if trained else None
        self._own_gradients = [] if self.gradient is None else list(self.gradient.unbind(0))
        self.slots = [
            Slot(self._cut(self.weights, *part).requires_grad_(trained), self._cut(self.gradient, *part))
            for part in first.parts.values()
        ]
        self._stacked = [Stacked(slot.leaf, slot) for slot in self.slots]
        parameters = dict(first.net.named_parameters())
        memo: dict[int, Any] = {id(parameters[n]): s for n, s in zip(first.parts, self._stacked, strict=True)}
        self._module: nn.Module = copy.deepcopy(first.net, memo)

    def module(
        self, members: Sequence[int], counts: Sequence[int] | None = None, tangents: Sequence[int] | None = None
    ) -> Network:
        """The networks at `members` as one; used until the next call of this.

        Args:
            members: places of the networks that are called, rising.
            counts: rows of each of them; None: all have equally many. Without a graph only.
            tangents: rows of each that have a tangent, in a call that carries those of some rows; not with `counts`.
        """
        every = len(members) == len(self.flats)
        whole = every or counts is not None
        rows = Rows(len(members), members if whole and not every else None, counts, tangents)
        index = None if whole else sent(torch.tensor(members), self.weights.device)
        for stacked, slot in zip(self._stacked, self.slots, strict=True):
            stacked.rows, stacked.slot = rows, slot if whole else None
            stacked.whole = slot.leaf if index is None else slot.leaf.index_select(0, index)
        assert isinstance(self._module, Network)
        return self._module

    @torch.no_grad()
    def hand_out_gradients(self, flats: Set[Flat | None]) -> Set[str]:
        """After a backward pass: give those of its networks that are in `flats` their part of the gradient.

        Returns:
            The names of the parameters that got none, in no network.
        """
        if self.gradient is None:
            return set()
        unmet = {name for name, slot in zip(self.flats[0].parts, self.slots, strict=True) if not slot.settle()}
        for flat, own in zip(self.flats, self._own_gradients, strict=True):
            if flat in flats:
                flat.whole.grad = own if flat.whole.grad is None else flat.whole.grad + own
        return unmet

    def _cut(self, whole: Tensor | None, at: int, shape: torch.Size) -> Any:
        """One parameter of all networks, (N, *shape), out of (N, P): a view."""
        return None if whole is None else whole[:, at : at + shape.numel()].view(len(whole), *shape)


def require_alike(nets: Sequence[nn.Module]) -> None:
    """Raises UnstackableError where networks differ in more than the values of their parameters, or drop units."""
    first = nets[0]
    if not isinstance(first, Network) or first.drops:
        raise UnstackableError("dropout masks are drawn for the rows of one network")
    for net in nets:
        alike = type(net) is type(first) and _described(net) == _described(first)
        if not alike or any(not torch.equal(a, b) for a, b in zip(net.buffers(), first.buffers(), strict=True)):
            raise UnstackableError("the networks differ in more than the values of their parameters")


def _described(net: nn.Module) -> list[tuple[Any, ...]]:
    return [(name, p.shape, p.dtype, p.device, p.requires_grad) for name, p in net.named_parameters()]
