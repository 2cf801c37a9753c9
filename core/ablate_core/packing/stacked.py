"""A parameter of N networks where a network expects its own, and what torch's functions make of it.

A stacked network is a copy of an ordinary one in which every parameter is a `Stacked`. Torch's functions take it for a
tensor of the shape of one (``__torch_function__``). Sample rows are member-major: those of the first network, of the
second, and so on. What has no parameters (norms, attention, activations) works on rows and notices nothing; what has
becomes one batched product. So a network needs not know that it is stacked, as long as it keeps its rows along the
first axis, in their order, and uses its parameters in the functions below.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ablate_core.architectures.native import differentiable_once
from ablate_core.host import sent


class UnstackableError(Exception):
    """These networks cannot be called as one; they work one after another."""


class Rows:
    """Whose rows the networks are called with.

    Attributes:
        members: the networks that are called, as places in the stack; None: all.
        counts: rows of each of them where these differ; None: all have equally many.
        tangents: rows of each that have a tangent, where these differ and `counts` do not; None otherwise.
        number: how many are called.
    """

    def __init__(
        self,
        number: int,
        members: Sequence[int] | None = None,
        counts: Sequence[int] | None = None,
        tangents: Sequence[int] | None = None,
    ) -> None:
        self.number, self.members, self.counts = number, members, counts
        self.tangents = None if tangents is None or min(tangents) == max(tangents) else tangents
        self._with_tangent = -1 if self.tangents is None else sum(self.tangents)

    @property
    def places(self) -> Sequence[int]:
        return range(self.number) if self.members is None else self.members

    def divided(self, rows: int, tangents: int) -> tuple[Sequence[int], Sequence[int], Sequence[int]]:
        """Of `rows` samples and `tangents`: place, samples, and tangents of each network that is called."""
        number = self.number
        if rows % number if self.counts is None else rows != sum(self.counts):
            raise UnstackableError(f"{rows} rows meet the parameters of {number} networks")
        counts = [rows // number] * number if self.counts is None else self.counts
        return self.places, counts, [tangents // number] * number if self.tangents is None else self.tangents

    def counts_in(self, x: Tensor) -> Sequence[int] | None:
        """How many rows of `x` are of each network where that differs: values and tangents differ in their sum."""
        return self.tangents if len(x) == self._with_tangent else self.counts


class Slot:
    """One parameter of all networks of a stack.

    Attributes:
        leaf: all of them, (N, *shape); the leaf that gradients belong to.
        gradient: where the gradient is wanted, (N, *shape), or None.
        written: the gradient of the present backward pass has been begun there.
    """

    def __init__(self, leaf: Tensor, gradient: Tensor | None) -> None:
        self.leaf, self.gradient, self.written = leaf, gradient, False
        self.each = Slot.each_of(leaf)

    @staticmethod
    def each_of(whole: Tensor) -> list[Tensor]:
        """The parameters one by one, without a graph; matrices transposed, as products want them."""
        return [p.t() if p.ndim == 2 else p for p in whole.detach().unbind(0)]

    def settle(self) -> bool:
        """After a backward pass: all of the gradient is where it is wanted, and the next one begins anew.

        Returns:
            Whether there was one.
        """
        assert self.gradient is not None
        met = self.written or self.leaf.grad is not None
        if self.leaf.grad is not None:
            self.gradient.add_(self.leaf.grad) if self.written else self.gradient.copy_(self.leaf.grad)
            self.leaf.grad = None
        elif not self.written:
            self.gradient.zero_()
        self.written = False
        return met


class Stacked:
    """N parameters of one shape, `whole` (N, *shape), where a network expects a parameter of that shape."""

    def __init__(self, whole: Tensor, slot: Slot | None = None, rows: Rows | None = None) -> None:
        self.whole, self.slot = whole, slot
        self.rows = Rows(len(whole)) if rows is None else rows

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
        return Stacked(self.whole[(slice(None), *index)], rows=self.rows)

    def to(self, *args: Any, **kwargs: Any) -> Stacked:
        moved = self.whole.to(*args, **kwargs)
        return self if moved is self.whole else Stacked(moved, rows=self.rows)

    def __add__(self, other: Any) -> Any:
        return torch.add(self, other)  # type: ignore[call-overload]

    def __mul__(self, other: Any) -> Any:
        return torch.mul(self, other)  # type: ignore[arg-type]

    def weight(self) -> StackedWeight:
        """As it is now, as `architectures.native` wants it."""
        return StackedWeight(self.whole, self.slot)

    def products(self, bias: Stacked | None) -> StackedProducts:
        """Those of the layers with these weights, as `architectures.products` wants them."""
        return StackedProducts(self, bias)

    def grouped(self, x: Tensor) -> Tensor:
        """Rows (N B, *) as (N, B, *)."""
        if x.shape[0] % self.rows.number:
            raise UnstackableError(f"{x.shape[0]} rows meet the parameters of {self.rows.number} networks")
        return x.reshape(self.rows.number, -1, *x.shape[1:])

    def each(self) -> Sequence[Tensor]:
        """The parameter of each network without a graph, matrices transposed."""
        return Slot.each_of(self.whole) if self.slot is None else self.slot.each

    def owners(self, counts: Sequence[int]) -> Tensor:
        """Which of `whole` each row belongs to, (rows,), where the networks have different numbers of rows."""
        return sent(torch.tensor(self.rows.places).repeat_interleave(torch.tensor(counts)), self.whole.device)

    def per_row(self, counts: Sequence[int]) -> Tensor:
        """The parameter of each row, (rows, *shape), likewise."""
        return self.whole.index_select(0, self.owners(counts))


def _elementwise(function: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Rows against parameters that broadcast to one row."""
    first = next(a for a in args if isinstance(a, Stacked))
    tensors = [a for a in args if isinstance(a, Tensor) and a.ndim]
    if not tensors:
        return Stacked(function(*(a.whole if isinstance(a, Stacked) else a for a in args), **kwargs), rows=first.rows)
    highest = max(tensors, key=lambda a: a.ndim)
    rank, counts = highest.ndim, first.rows.counts_in(highest)

    def laid_out(a: Any) -> Any:
        if isinstance(a, Stacked):
            whole = a.whole if counts is None else a.per_row(counts)
            return whole.reshape(len(whole), *[1] * (rank - a.ndim - (counts is not None)), *a.shape)
        return first.grouped(a) if counts is None and isinstance(a, Tensor) and a.ndim else a

    out = function(*map(laid_out, args), **kwargs)
    return out.flatten(0, 1) if counts is None else out


def _linear(x: Tensor, weight: Stacked, bias: Stacked | None = None) -> Tensor:
    counts = weight.rows.counts_in(x)
    if counts is not None:
        each = x.shape[1:-1].numel()
        out = _ragged_linear(x.reshape(-1, x.shape[-1]), [count * each for count in counts], weight, bias)
    else:
        rows = x.reshape(weight.rows.number, -1, x.shape[-1])
        out = _batched_linear(rows, weight, bias)
    return out.reshape(*x.shape[:-1], -1)


def _batched_linear(rows: Tensor, weight: Stacked, bias: Stacked | None) -> Tensor:
    """(N, R, in) -> (N, R, out)."""
    offset = None if bias is None else bias.whole
    slots = [weight.slot, None if bias is None else bias.slot]
    ours = slots[0] is not None and (bias is None or slots[1] is not None) and rows.dtype == weight.dtype
    if ours and torch.is_grad_enabled() and weight.whole.requires_grad and not _transformed_or_cast(rows):
        out: Tensor = StackedLinear.apply(rows, weight.whole, offset, *slots)
        return out
    matrix = weight.whole.transpose(1, 2)
    return torch.bmm(rows, matrix) if offset is None else torch.baddbmm(offset[:, None], rows, matrix)


class StackedLinear(torch.autograd.Function):
    """x W' + b for N networks. The gradients of W and b are written where they are wanted, with no copy in between."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None, to_weight: Slot, to_bias: Slot | None
    ) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.weight, ctx.slots = weight.detach(), (to_weight, to_bias)
        matrix = weight.transpose(1, 2)
        return torch.bmm(rows, matrix) if bias is None else torch.baddbmm(bias[:, None], rows, matrix)

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        (slope,), (rows,) = slopes, ctx.saved_tensors
        _write_gradients(slope, rows, *ctx.slots)
        return torch.bmm(slope, ctx.weight) if ctx.needs_input_grad[0] else None, None, None, None, None


def _write_gradients(
    slope: Tensor, rows: Tensor, to_weight: Slot, to_bias: Slot | None, sums: Tensor | None = None
) -> None:
    """Those of W and b, from the gradient (N, R, out) of the output and x (N, R, in); `sums`: of the former's rows."""
    assert to_weight.gradient is not None
    if to_weight.written:
        to_weight.gradient.baddbmm_(slope.transpose(1, 2), rows)
    else:
        torch.bmm(slope.transpose(1, 2), rows, out=to_weight.gradient)
    to_weight.written = True
    if to_bias is not None:
        assert to_bias.gradient is not None
        summed = slope if sums is None else sums
        if to_bias.written:
            to_bias.gradient.add_(summed.sum(1))
        else:
            torch.sum(summed, 1, out=to_bias.gradient)
        to_bias.written = True


class StackedWeight:
    """`architectures.native.Weight` of N networks, as the stack is at the time of the call."""

    def __init__(self, whole: Tensor, slot: Slot | None) -> None:
        self.tensor, self.stride, self._slot = whole, whole.stride(0), slot

    def gradient(self) -> tuple[Tensor, bool, bool]:
        slot = self._slot
        if slot is None or slot.gradient is None:
            return torch.empty_like(self.tensor, memory_format=torch.contiguous_format), False, False
        written, slot.written = slot.written, True
        return slot.gradient, written, True


class StackedProducts:
    """`architectures.products.Products` of N networks, as the stack is at the time of the call."""

    def __init__(self, weight: Stacked, bias: Stacked | None) -> None:
        self._weight, self._bias, self._number = weight, bias, weight.rows.number
        self.weights: Sequence[Tensor] = [weight.whole] if bias is None else [weight.whole, bias.whole]
        self._slots = weight.slot, None if bias is None else bias.slot
        self._written = weight.slot is not None and (bias is None or bias.slot is not None)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self._weight, self._bias)  # type: ignore[arg-type]

    def tangent(self, dx: Tensor) -> Tensor:
        return F.linear(dx, self._weight)  # type: ignore[arg-type]

    def pull_back(self, slope: Tensor, x: Tensor, sums: Tensor | None = None) -> tuple[Tensor, Sequence[Tensor | None]]:
        slopes, rows = self._parted(slope), self._parted(x)
        summed = None if sums is None else self._parted(sums)
        found: list[Tensor | None] = [None] * len(self.weights)
        to_weight, to_bias = self._slots
        if self._written and to_weight is not None:
            _write_gradients(slopes, rows, to_weight, to_bias, summed)
        else:
            found[0] = torch.bmm(slopes.transpose(1, 2), rows)
            if self._bias is not None:
                found[1] = (slopes if summed is None else summed).sum(1)
        return torch.bmm(slopes, self.weights[0].detach()).reshape(x.shape), found

    def _parted(self, x: Tensor) -> Tensor:
        """Rows (..., C) as (N, rows of one network, C)."""
        return x.reshape(self._number, -1, x.shape[-1])


def _ragged_linear(x: Tensor, counts: Sequence[int], weight: Stacked, bias: Stacked | None) -> Tensor:
    """(rows, in) -> (rows, out), network by network with so many rows of each; there is no graph."""
    places, parts = weight.rows.places, torch.split(x, list(counts))
    matrices, offsets = weight.each(), None if bias is None else bias.each()
    if _transformed_or_cast(x):
        each = [
            F.linear(part, matrices[place].t(), None if offsets is None else offsets[place])
            for part, place in zip(parts, places, strict=True)
        ]
        return torch.cat(each)
    out = x.new_empty(len(x), weight.shape[0])
    for place, part, to in zip(places, parts, torch.split(out, [len(part) for part in parts]), strict=True):
        if offsets is None:
            torch.mm(part, matrices[place], out=to)
        else:
            torch.addmm(offsets[place], part, matrices[place], out=to)
    return out


def _matmul(x: Tensor, weight: Stacked) -> Tensor:
    if (counts := weight.rows.counts_in(x)) is not None:
        rows, whole = x, weight.per_row(counts)
    else:
        rows, whole = weight.grouped(x), weight.whole
    if weight.ndim == 1:
        out = torch.matmul(rows.reshape(len(whole), -1, x.shape[-1]), whole[:, :, None])
        return out.reshape(x.shape[:-1])
    out = torch.matmul(rows.reshape(len(whole), -1, x.shape[-1]), whole)
    return out.reshape(*x.shape[:-1], -1)


def _embedding(index: Tensor, weight: Stacked, *options: Any, **more: Any) -> Tensor:
    entries = weight.shape[0]
    if (counts := weight.rows.counts_in(index)) is not None:
        moved = index + weight.owners(counts).reshape(-1, *[1] * (index.ndim - 1)) * entries
    else:
        first = torch.arange(weight.rows.number, device=index.device) * entries
        moved = (weight.grouped(index) + first.reshape(-1, *[1] * index.ndim)).flatten(0, 1)
    return F.embedding(moved, weight.whole.flatten(0, 1))


def _transformed_or_cast(x: Tensor) -> bool:
    return torch._C._functorch.peek_interpreter_stack() is not None or torch.is_autocast_enabled(x.device.type)


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
