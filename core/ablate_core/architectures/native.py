"""Calls of C for a part of one network or, one network after another, of a stack (`packing.stacked`).

The part is a node of the graph: `Native.apply` makes the call, with a graph where torch wants one. What it computes is
the subclass' affair; whose weights it needs, where they lie and where their gradients go is this module's.
"""

from __future__ import annotations

import abc
import contextlib
import ctypes
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ablate_core.architectures.pairs import Pair
from ablate_core.cpu_kernels import kernels, pointers, whole_blocks
from ablate_core.flat import in_place_gradients

_enabled = True
NARROW = 384
"""Width up to which the parts of a network are calls of C. Measured on whole steps: they take 0.90 of the time at a
width of 192 and 0.97 at 384, but 1.02 at 512 and 1.03 at 768, where oneDNN's products make up for more calls."""
LARGEST = 160_000_000
"""Rows of a network's batch times the square of its width, up to which they are whatever the width: 256 rows at 768
gain."""


@contextlib.contextmanager
def written_out(on: bool) -> Iterator[None]:
    """Within, networks are computed by what is written out for CPUs (as always where that can be), or by operations."""
    global _enabled
    before, _enabled = _enabled, on
    try:
        yield
    finally:
        _enabled = before


def differentiable_once(backward: Callable[..., Any]) -> Callable[..., Any]:
    """For the ``backward`` of a node whose gradients carry no graph: it raises where one is asked of it.

    Torch's own ``once_differentiable`` raises only where the gradient of the output has a graph too. That of a sum has
    none, and gradients that depend on weights and inputs would then pass for constants.
    """

    @functools.wraps(backward)
    def checked(ctx: Any, *slopes: Tensor) -> Any:
        if torch.is_grad_enabled():  # with create_graph=True, else never
            raise RuntimeError(
                "create_graph=True: these gradients are written out and cannot be differentiated again; call the "
                "network alone, within ablate_core.architectures.native.written_out(False)"
            )
        return backward(ctx, *slopes)

    return checked


def available(*given: Pair) -> bool:
    """Whether C may compute with these: on one thread of a CPU, with no transform, cast or compiler around.

    Tangents must be those of some rows, which carry no graph, and all of these have one or none. C knows neither dtypes
    nor lengths: they must be equal, where torch would promote and broadcast.
    """
    x, _, rows = given[0]
    if not _enabled or torch.compiler.is_compiling() or x.device.type != "cpu":
        return False
    dtype, length, count = x.dtype, len(x), len(rows) if isinstance(rows, Tensor) else rows
    for pair in given:
        if pair.value.dtype != dtype or len(pair.value) != length:
            return False
        if pair.tangent is not None and (pair.tangent.dtype != dtype or len(pair.tangent) != count):
            return False
    followed = [pair.tangent is not None for pair in given]
    return (
        (not any(followed) or (all(followed) and given[0].rows is not None))
        and torch.get_num_threads() == 1
        and not torch.is_autocast_enabled("cpu")
        and torch._C._functorch.peek_interpreter_stack() is None
        and torch.autograd.forward_ad._current_level < 0
        and kernels(x.dtype) is not None
    )


def suits(weight: Any, x: Tensor, rows: int) -> bool:
    """Whether a part with such a weight, of as many rows, is to be a call of C, where that is `available`."""
    networks: int = 1 if isinstance(weight, Tensor) else weight.rows.number
    width: int = weight.shape[-1]
    small = width <= NARROW or rows * width**2 <= LARGEST * networks
    return small and weight.dtype == x.dtype and whole_blocks(x.dtype) is not None


def samples_of(x: Pair) -> Tensor:
    """Which samples have a tangent, (K,) int64, contiguous."""
    assert x.tangent is not None
    if isinstance(x.rows, Tensor):
        return x.rows.to(torch.int64).contiguous()
    return _last(len(x.value), len(x.tangent))


@functools.lru_cache(maxsize=512)
def _last(batch: int, count: int) -> Tensor:
    return torch.arange(batch - count, batch, device="cpu")  # whatever the default is at the first call


class Weight(Protocol):
    """A weight as it is at one call, of one network or of several.

    Attributes:
        tensor: what gradients belong to: the weight, (*shape), or those of several networks, (N, *shape).
        stride: numbers from one network's weight to the next.
    """

    tensor: Tensor
    stride: int

    def gradient(self) -> tuple[Tensor, bool, bool]:
        """Where its gradient is to be written, like `tensor`; whether it is added to what is there; whether that is
        where it is wanted, so that the backward pass need not return it."""


class Networks(NamedTuple):
    """Whose rows a batch holds: for each network its place among the weights, samples, and tangents."""

    places: Sequence[int]
    batches: Sequence[int]
    counts: Sequence[int]


class OneWeight:
    """The weight of one network."""

    stride = 0

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def gradient(self) -> tuple[Tensor, bool, bool]:
        wanted = in_place_gradients() and self.tensor.is_leaf and self.tensor.requires_grad
        if wanted and self.tensor.grad is not None:
            torch.autograd.graph.increment_version(self.tensor.grad)  # torch does not see what C writes
            return self.tensor.grad, True, True
        return torch.empty_like(self.tensor), False, False


class Native(abc.ABC):
    """One call: of which networks, with which weights.

    Attributes:
        networks: whose rows are given.
        strides: numbers from the weights of one network to those of the next, as C takes them.
        keeps: a backward pass may follow: what it needs is to be kept.
    """

    keeps = True

    def __init__(self, given: Sequence[Any], rows: int, tangents: int) -> None:
        """`given`: the weights, each a parameter, one of a stack, or None where there is none; the first is one."""
        if isinstance(given[0], Tensor):
            self.networks = Networks([0], [rows], [tangents])
            # A copy of what is not contiguous has a graph, by which its gradient finds the parameter.
            self.weights: list[Weight | None] = [None if x is None else OneWeight(x.contiguous()) for x in given]
        else:
            self.networks = Networks(*given[0].rows.divided(rows, tangents))
            self.weights = [None if x is None else x.weight() for x in given]
        self.strides = longs([0 if weight is None else weight.stride for weight in self.weights])
        self.places, self.batches = longs(self.networks.places), longs(self.networks.batches)

    @abc.abstractmethod
    def forward(self, *given: Tensor | None) -> tuple[Tensor, Tensor | None, Sequence[Tensor]]:
        """Value, tangent, and what the backward pass needs."""

    @abc.abstractmethod
    def backward(self, slope: Tensor, written: Written, *kept: Tensor) -> Sequence[Tensor | None]:
        """The gradients of what `forward` was given; those of the weights go where `written` says."""

    def apply(self, *given: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Value and tangent; what is given is contiguous. No gradient comes through the tangent."""
        self.keeps = torch.is_grad_enabled()
        if not self.keeps:
            return self.forward(*given)[:2]
        tensors = (None if weight is None else weight.tensor for weight in self.weights)
        out: tuple[Tensor, Tensor | None] = _Node.apply(self, len(given), *given, *tensors)
        return out

    def where(self) -> tuple[Any, Any, Any, Any]:
        """Where the weights lie now (a stack may have moved them between the two passes), and whose rows are given."""
        tensors = [None if weight is None else weight.tensor for weight in self.weights]
        return pointers(tensors), self.strides, self.places, self.batches


class Written(NamedTuple):
    """Where C writes the gradients of the weights: pointers, strides, and whether they are added to what is there."""

    to: Any
    strides: Any
    keep: Any


class _Node(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: Native, count: int, *tensors: Tensor | None) -> tuple[Tensor, Tensor | None]:
        value, tangent, kept = call.forward(*tensors[:count])
        ctx.call = call
        ctx.save_for_backward(*kept)
        if tangent is not None:
            ctx.mark_non_differentiable(tangent)
        return value, tangent

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Any, ...]:
        call: Native = ctx.call
        found = [None if weight is None else weight.gradient() for weight in call.weights]
        tensors = [None if own is None else own[0] for own in found]
        several = not isinstance(call.weights[0], OneWeight)
        strides = longs([x.stride(0) if several and x is not None else 0 for x in tensors])
        keep = (ctypes.c_int * len(found))(*(own is not None and own[1] for own in found))
        own = call.backward(slopes[0].contiguous(), Written(pointers(tensors), strides, keep), *ctx.saved_tensors)
        return None, None, *own, *(None if x is None or x[2] else x[0] for x in found)


def longs(numbers: Sequence[int]) -> Any:
    return (ctypes.c_long * len(numbers))(*numbers)
