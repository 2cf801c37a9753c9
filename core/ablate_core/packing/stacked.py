"""N networks of equal shapes as one: each parameter becomes N parameters in one tensor, rows go member by member.

The module is a copy of the first network in which every parameter is a `Stacked`, which torch's functions take for a
tensor of the shape of one (``__torch_function__``). Its rows are member-major: N times as many, those of member 0
first. What has no parameters (norms, attention, activations) works on rows and notices nothing; what has is one
batched product. So a network needs not know that it is stacked, as long as it keeps its rows along the first axis and
in their order, and uses its parameters in the functions below; `fits` finds out by trying.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ablate_core.architectures.base import Network


class UnstackableError(Exception):
    """These networks cannot be called as one; they work one after another."""


class Stacked:
    """N parameters of one shape, `whole` (N, *shape), where a network expects a parameter of that shape."""

    def __init__(self, whole: Tensor) -> None:
        self.whole = whole

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function in ELEMENTWISE:
            return _elementwise(function, args, kwargs or {})
        if function not in FUNCTIONS:
            raise UnstackableError(f"a network applies {getattr(function, '__name__', function)} to its parameters")
        return FUNCTIONS[function](*args, **(kwargs or {}))

    @property
    def shape(self) -> torch.Size:
        return self.whole.shape[1:]

    @property
    def ndim(self) -> int:
        return self.whole.ndim - 1

    @property
    def dtype(self) -> torch.dtype:
        return self.whole.dtype

    @property
    def device(self) -> torch.device:
        return self.whole.device

    def __len__(self) -> int:
        return self.whole.shape[1]

    def __getitem__(self, index: Any) -> Stacked:
        index = index if isinstance(index, tuple) else (index,)
        return Stacked(self.whole[(slice(None), *index)])

    def to(self, *args: Any, **kwargs: Any) -> Stacked:
        return Stacked(self.whole.to(*args, **kwargs))

    def __add__(self, other: Any) -> Any:
        return torch.add(self, other)  # type: ignore[call-overload]

    def __mul__(self, other: Any) -> Any:
        return torch.mul(self, other)  # type: ignore[arg-type]


def _elementwise(function: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Rows (N B, *) against parameters that broadcast to (*)."""
    wholes = [a.whole for a in args if isinstance(a, Stacked)]
    rows = [a for a in args if isinstance(a, Tensor) and a.ndim]
    members, rank = len(wholes[0]), max((a.ndim for a in rows), default=max(w.ndim for w in wholes))

    def laid_out(a: Any) -> Any:
        if isinstance(a, Stacked):
            return a.whole.reshape(members, *[1] * (rank - a.ndim), *a.shape) if rows else a.whole
        return _by_member(a, members) if isinstance(a, Tensor) and a.ndim else a

    out = function(*map(laid_out, args), **kwargs)
    return out.flatten(0, 1) if rows else Stacked(out)


def _by_member(x: Tensor, members: int) -> Tensor:
    """(N B, *) as (N, B, *)."""
    if x.shape[0] % members:
        raise UnstackableError(f"{x.shape[0]} rows meet the parameters of {members} networks")
    return x.reshape(members, -1, *x.shape[1:])


def _linear(x: Tensor, weight: Stacked, bias: Stacked | None = None) -> Tensor:
    members, width = len(weight.whole), x.shape[-1]
    rows, matrix = x.reshape(members, -1, width), weight.whole.transpose(1, 2)
    out = torch.bmm(rows, matrix) if bias is None else torch.baddbmm(bias.whole[:, None], rows, matrix)
    return out.reshape(*x.shape[:-1], -1)


def _matmul(x: Tensor, weight: Stacked) -> Tensor:
    rows = _by_member(x, len(weight.whole))
    if weight.ndim == 1:
        return torch.matmul(rows, weight.whole[:, :, None]).squeeze(-1).flatten(0, 1)
    matrix = weight.whole.reshape(len(weight.whole), *[1] * (x.ndim - 2), *weight.shape)
    return torch.matmul(rows, matrix).flatten(0, 1)


def _embedding(index: Tensor, weight: Stacked, *options: Any, **more: Any) -> Tensor:
    members, entries = weight.whole.shape[:2]
    first = torch.arange(members, device=index.device) * entries
    moved = _by_member(index, members) + first.reshape(members, *[1] * index.ndim)
    return F.embedding(moved.flatten(0, 1), weight.whole.flatten(0, 1))


FUNCTIONS: dict[Any, Callable[..., Any]] = {
    F.linear: _linear,
    F.embedding: _embedding,
    torch.matmul: _matmul,
    torch.Tensor.matmul: _matmul,
    torch.Tensor.__matmul__: _matmul,
}
"""What a network may do with its parameters, beside the elementwise."""

ELEMENTWISE = {
    torch.add, torch.Tensor.add, torch.Tensor.__add__, torch.Tensor.__radd__,
    torch.sub, torch.Tensor.sub, torch.Tensor.__sub__,
    torch.mul, torch.Tensor.mul, torch.Tensor.__mul__, torch.Tensor.__rmul__,
    torch.addcmul, torch.Tensor.addcmul,
}  # fmt: skip


class Stack:
    """Networks of equal shapes as one module, their parameters in common tensors.

    The parameters of the networks are moved: they become views of `leaves`, so that whatever is done to them (an
    optimiser's step, a checkpoint that is read) is done to the stack.
    """

    def __init__(self, nets: Sequence[Network]) -> None:
        """Raises UnstackableError where the networks differ in more than the values of their parameters."""
        require_alike(nets)
        self.nets = list(nets)
        self.parameters = [list(net.parameters()) for net in nets]
        self.leaves = [torch.stack([p.detach() for p in same]) for same in zip(*self.parameters, strict=True)]
        for leaf, first in zip(self.leaves, self.parameters[0], strict=True):
            leaf.requires_grad_(first.requires_grad)
        for index, own in enumerate(self.parameters):
            for leaf, parameter in zip(self.leaves, own, strict=True):
                parameter.data = leaf.detach()[index]
        self._stacked = [Stacked(leaf) for leaf in self.leaves]
        memo: dict[int, Any] = {id(p): s for p, s in zip(self.parameters[0], self._stacked, strict=True)}
        self._module: Network = copy.deepcopy(nets[0], memo)

    def module(self, members: Sequence[int]) -> Network:
        """The networks at `members` as one; used until the next call of this."""
        every = list(members) == list(range(len(self.nets)))
        index = None if every else torch.tensor(members, device=self.leaves[0].device)
        for stacked, leaf in zip(self._stacked, self.leaves, strict=True):
            stacked.whole = leaf if index is None else leaf.index_select(0, index)
        return self._module

    def hand_out_gradients(self, members: Sequence[int]) -> None:
        """Give each network at `members` its part of the gradient, and forget the rest."""
        for number, leaf in enumerate(self.leaves):
            if leaf.grad is None:
                continue
            gradients, leaf.grad = leaf.grad.unbind(0), None
            for index in members:
                parameter = self.parameters[index][number]
                own = gradients[index]
                parameter.grad = own if parameter.grad is None else parameter.grad + own


def require_alike(nets: Sequence[Network]) -> None:
    """Raises UnstackableError where networks differ in more than the values of their parameters, or drop units."""
    first = nets[0]
    if type(first).use_dropout is not Network.use_dropout:
        raise UnstackableError("dropout masks are drawn for the rows of one network")
    for net in nets:
        alike = type(net) is type(first) and _described(net) == _described(first)
        if not alike or any(not torch.equal(a, b) for a, b in zip(net.buffers(), first.buffers(), strict=True)):
            raise UnstackableError("the networks differ in more than the values of their parameters")


def _described(net: nn.Module) -> list[tuple[Any, ...]]:
    return [(name, p.shape, p.dtype, p.device, p.requires_grad) for name, p in net.named_parameters()]
