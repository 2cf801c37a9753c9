"""Modulated blocks of few rows on a CPU: forwards one call of C, backwards another (`cpu_kernels`).

What `block_on_cpu` does call by call, where calling takes longer than computing: the blocks of small networks, of one
or, one after another, of a stack (`packing.stacked`).
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ablate_core.cpu_kernels import MOST_CHANNELS, MOST_TOKENS, whole_blocks
from ablate_core.flat import in_place_gradients

if TYPE_CHECKING:
    from ablate_core.architectures.sit_blocks import ModulatedBlock

MOST_ROWS = 1024
"""Tokens of a network's batch up to which its block is one call; above, oneDNN's products make up for the calls."""

Tangents = tuple[Tensor, Tensor, Tensor]
"""dh (K, tokens, width), dc (K, width), and the K samples they belong to, int64."""


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
        if in_place_gradients() and self.tensor.grad is not None:
            torch.autograd.graph.increment_version(self.tensor.grad)  # torch does not see what C writes
            return self.tensor.grad, True, True
        return torch.empty_like(self.tensor), False, False


def suits(block: ModulatedBlock, h: Tensor) -> bool:
    """Whether `run` computes this block, for which `block_on_cpu.suits` is true."""
    (batch, tokens, width), weight = h.shape, block.qkv.weight
    networks: int = 1 if isinstance(weight, Tensor) else weight.rows.number
    return (
        batch * tokens <= MOST_ROWS * networks
        and tokens <= MOST_TOKENS
        and width // block.heads <= MOST_CHANNELS
        and weight.dtype == h.dtype
        and whole_blocks(h.dtype) is not None
    )


def run(block: ModulatedBlock, h: Tensor, c: Tensor, tangents: Tangents | None) -> tuple[Tensor, Tensor | None]:
    """Tokens h (B, tokens, width), to the same shape, and their tangent (K, tokens, width)."""
    layers = (block.modulation, block.qkv, block.project, block.expand, block.contract)
    given: list[Any] = [weight for layer in layers for weight in (layer.weight, layer.bias)]
    count = 0 if tangents is None else len(tangents[0])
    if isinstance(given[0], Tensor):
        networks = Networks([0], [len(h)], [count])
        weights: list[Weight | None] = [None if x is None else OneWeight(x) for x in given]
    else:
        networks = Networks(*given[0].rows.divided(len(h), count))
        weights = [None if x is None else x.weight() for x in given]
    call = _Call(block, networks, weights)
    if torch.is_grad_enabled():
        tensors = (None if weight is None else weight.tensor for weight in weights)
        out: tuple[Tensor, Tensor | None] = _Block.apply(call, tangents, h, c, *tensors)
        return out
    return call.forward(h.contiguous(), c.contiguous(), tangents)[:2]


class _Block(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, call: _Call, tangents: Tangents | None, h: Tensor, c: Tensor, *weights: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        c = c.contiguous()
        out, d_out, kept = call.forward(h.contiguous(), c, tangents)
        ctx.call = call
        ctx.save_for_backward(c, kept)
        if d_out is not None:
            ctx.mark_non_differentiable(d_out)
        return out, d_out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Any, ...]:
        of_h, of_c, own = ctx.call.backward(slopes[0].contiguous(), *ctx.saved_tensors)
        return None, None, of_h, of_c, *own


class _Call:
    """One call of a block: of which networks, with which weights."""

    def __init__(self, block: ModulatedBlock, networks: Networks, weights: Sequence[Weight | None]) -> None:
        self.networks, self.weights = networks, weights
        width = block.contract.weight.shape[0]
        self.sizes = width, block.heads, block.contract.weight.shape[1]
        self._strides = _longs([0 if weight is None else weight.stride for weight in weights])
        self._places, self._batches = _longs(networks.places), _longs(networks.batches)

    def _given(self) -> Any:
        """Where the weights lie now: a stack may have moved them between the two passes."""
        return _pointers([None if weight is None else weight.tensor for weight in self.weights])

    def forward(self, h: Tensor, c: Tensor, tangents: Tangents | None) -> tuple[Tensor, Tensor | None, Tensor]:
        """Value, tangent, and what the backward pass needs."""
        library: Any = whole_blocks(h.dtype)
        (width, heads, hidden), tokens, networks = self.sizes, h.shape[1], self.networks
        each = (library.kept_by_forward(batch, tokens, width, heads, hidden) for batch in networks.batches)
        kept, out = h.new_empty(sum(each)), torch.empty_like(h)
        where = self._given(), self._strides, self._places, self._batches
        own = len(networks.places), kept.data_ptr(), out.data_ptr()
        sizes = tokens, width, heads, hidden
        if tangents is None:
            more: list[int | None] = [None] * 5
            library.blocks_forward(h.data_ptr(), c.data_ptr(), *where, None, *own, *more, *sizes)
            return out, None, kept
        dh, dc, samples = (x.contiguous() for x in tangents)
        d_out = torch.empty_like(dh)
        scratch = h.new_empty(library.used_by_tangent(max(networks.counts), tokens, width, hidden))
        more = [x.data_ptr() for x in (dh, dc, samples, scratch, d_out)]
        library.blocks_forward(h.data_ptr(), c.data_ptr(), *where, _longs(networks.counts), *own, *more, *sizes)
        return out, d_out, kept

    def backward(self, slope: Tensor, c: Tensor, kept: Tensor) -> tuple[Tensor, Tensor, list[Tensor | None]]:
        """Gradients of h, of c, and of the weights where they are not where they are wanted."""
        library: Any = whole_blocks(c.dtype)
        (width, heads, hidden), tokens = self.sizes, slope.shape[1]
        to = [None if weight is None else weight.gradient() for weight in self.weights]
        several = not isinstance(self.weights[0], OneWeight)
        written = [None if found is None else found[0] for found in to]
        strides = _longs([x.stride(0) if several and x is not None else 0 for x in written])
        keep = (ctypes.c_int * len(to))(*(found is not None and found[1] for found in to))
        of_h, of_c = torch.empty_like(slope), torch.empty_like(c)
        scratch = c.new_empty(library.used_by_back(max(self.networks.batches), tokens, width, hidden))
        library.blocks_back(
            slope.data_ptr(), c.data_ptr(), self._given(), self._strides, self._places, self._batches,
            len(self.networks.places), kept.data_ptr(), _pointers(written), strides, keep,
            scratch.data_ptr(), of_h.data_ptr(), of_c.data_ptr(), tokens, width, heads, hidden,
        )  # fmt: skip
        torch.autograd.graph.increment_version([found[0] for found in to if found is not None and found[2]])
        return of_h, of_c, [None if found is None or found[2] else found[0] for found in to]


def _pointers(tensors: Sequence[Tensor | None]) -> Any:
    return (ctypes.c_void_p * len(tensors))(*(None if x is None else x.data_ptr() for x in tensors))


def _longs(numbers: Sequence[int]) -> Any:
    return (ctypes.c_long * len(numbers))(*numbers)
