"""A modulated block of few rows on a CPU: forwards one call of C, backwards another (`cpu_kernels`).

What `block_on_cpu` does call by call, where calling takes longer than computing: the blocks of a small network.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ablate_core.cpu_kernels import MOST_CHANNELS, MOST_TOKENS, whole_blocks
from ablate_core.flat import in_place_gradients

if TYPE_CHECKING:
    from ablate_core.architectures.sit_blocks import ModulatedBlock

MOST_ROWS = 1024
"""Tokens of a batch up to which a block is one call; above, oneDNN's products make up for the calls."""

Tangents = tuple[Tensor, Tensor, Tensor]
"""dh (K, tokens, width), dc (K, width), and the K samples they belong to, int64."""


def suits(block: ModulatedBlock, h: Tensor) -> bool:
    """Whether `run` computes this block, for which `block_on_cpu.suits` is true."""
    batch, tokens, width = h.shape
    return (
        batch * tokens <= MOST_ROWS
        and tokens <= MOST_TOKENS
        and width // block.heads <= MOST_CHANNELS
        and isinstance(block.qkv.weight, Tensor)
        and block.qkv.weight.dtype == h.dtype
        and whole_blocks(h.dtype) is not None
    )


def run(block: ModulatedBlock, h: Tensor, c: Tensor, tangents: Tangents | None) -> tuple[Tensor, Tensor | None]:
    """Tokens h (B, tokens, width), to the same shape, and their tangent (K, tokens, width)."""
    weights: list[Tensor | None] = []
    for layer in (block.modulation, block.qkv, block.project, block.expand, block.contract):
        weights += layer.weight, layer.bias
    if torch.is_grad_enabled():
        out: tuple[Tensor, Tensor | None] = _Block.apply(block.heads, tangents, h, c, *weights)
        return out
    return _forward(block.heads, tangents, h, c, weights)[:2]


class _Block(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, heads: int, tangents: Tangents | None, h: Tensor, c: Tensor, *weights: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        out, d_out, kept, sizes = _forward(heads, tangents, h, c, weights)
        ctx.sizes, ctx.weights = sizes, weights
        ctx.save_for_backward(c, kept)
        if d_out is not None:
            ctx.mark_non_differentiable(d_out)
        return out, d_out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Any, ...]:
        slope, (c, kept), weights = slopes[0].contiguous(), ctx.saved_tensors, ctx.weights
        batch, tokens, width, _, hidden = ctx.sizes
        to = [_written(weight) for weight in weights]
        library: Any = whole_blocks(c.dtype)
        scratch = c.new_empty(library.used_by_back(batch, tokens, width, hidden))
        of_h, of_c = torch.empty_like(slope), torch.empty_like(c)
        library.block_back(
            slope.data_ptr(), c.data_ptr(), _pointers(weights), kept.data_ptr(), _pointers(to),
            scratch.data_ptr(), of_h.data_ptr(), of_c.data_ptr(), *ctx.sizes,
        )  # fmt: skip
        own = (
            None if weight is None or gradient is weight.grad else gradient
            for weight, gradient in zip(weights, to, strict=True)
        )
        return None, None, of_h, of_c, *own


def _forward(
    heads: int, tangents: Tangents | None, h: Tensor, c: Tensor, weights: Sequence[Tensor | None]
) -> tuple[Tensor, Tensor | None, Tensor, tuple[int, ...]]:
    """Value, tangent, what the backward pass needs, and the sizes."""
    contract = weights[8]
    assert contract is not None
    h, c = h.contiguous(), c.contiguous()
    batch, tokens, width = h.shape
    sizes = (batch, tokens, width, heads, contract.shape[1])
    library: Any = whole_blocks(h.dtype)
    kept, out = h.new_empty(library.kept_by_forward(*sizes)), torch.empty_like(h)
    own = h.data_ptr(), c.data_ptr(), _pointers(weights), kept.data_ptr(), out.data_ptr()
    if tangents is None:
        library.block_forward(*own, None, None, None, None, None, 0, *sizes)
        return out, None, kept, sizes
    dh, dc, samples = tangents[0].contiguous(), tangents[1].contiguous(), tangents[2]
    count = len(dh)
    scratch, d_out = h.new_empty(library.used_by_tangent(count, tokens, width, sizes[4])), torch.empty_like(dh)
    more = dh.data_ptr(), dc.data_ptr(), samples.data_ptr(), scratch.data_ptr(), d_out.data_ptr()
    library.block_forward(*own, *more, count, *sizes)
    return out, d_out, kept, sizes


def _written(weight: Tensor | None) -> Tensor | None:
    """Where the gradient of a weight is added: its ``grad`` while that is allowed, else a tensor of zeros."""
    if weight is not None and in_place_gradients() and weight.grad is not None:
        torch.autograd.graph.increment_version(weight.grad)  # torch does not see what C writes
        return weight.grad
    if weight is None:
        return None
    return torch.zeros_like(weight)


def _pointers(tensors: Sequence[Tensor | None]) -> Any:
    return (ctypes.c_void_p * len(tensors))(*(None if x is None else x.data_ptr() for x in tensors))
