"""Attention inside a block that is written out (`block_on_cpu`): value, tangent of some rows, and gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from torch import Tensor

from ablate_core.architectures.pairs import Pair
from ablate_core.cpu_kernels import MOST_TOKENS, whole_blocks

if TYPE_CHECKING:
    from ablate_core.architectures.sit_blocks import Block, Rotation


class Mix(Protocol):
    """Attention of one call.

    Attributes:
        out: its value, (B, tokens, width).
        d_out: its tangent, (K, tokens, width), or None.
    """

    out: Tensor
    d_out: Tensor | None

    def pull_back(self, slope: Tensor) -> Tensor:
        """The gradient of queries, keys and values, (B, tokens, 3 width), from that of `out`."""


def mix(block: Block, qkv: Pair, rotation: Rotation | None, graph: bool) -> Mix:
    """In C where tokens are not too many, nor turned; else torch's own."""
    if rotation is not None or qkv.value.shape[1] > MOST_TOKENS or whole_blocks(qkv.value.dtype) is None:
        return OwnGraph(block, qkv, rotation, graph)
    return InLoops(qkv, block.heads)


class InLoops:
    """Attention in C, of one head and sample after another."""

    def __init__(self, qkv: Pair, heads: int) -> None:
        given, d_given, rows = qkv
        batch, tokens, width = given.shape[0], given.shape[1], given.shape[2] // 3
        self._given, self._sizes = given, (tokens, heads, width // heads)
        self._c = cast(Any, whole_blocks(given.dtype))
        self._weights, self.out = given.new_empty(batch, heads, tokens, tokens), given.new_empty(batch, tokens, width)
        self.d_out: Tensor | None = None
        at, weights = given.data_ptr(), self._weights.data_ptr()
        self._c.attention(at, weights, self.out.data_ptr(), batch, *self._sizes)
        if d_given is not None and isinstance(rows, Tensor):
            self.d_out = given.new_empty(len(d_given), tokens, width)
            more = d_given.data_ptr(), rows.data_ptr(), self.d_out.data_ptr()
            self._c.attention_tangent(at, weights, *more, len(d_given), *self._sizes)

    def pull_back(self, slope: Tensor) -> Tensor:
        out = torch.empty_like(self._given)
        given = self._given.data_ptr(), self._weights.data_ptr(), slope.data_ptr()
        self._c.attention_back(*given, out.data_ptr(), len(slope), *self._sizes)
        return out


class OwnGraph:
    """Attention as the block has it, with a graph of its own."""

    def __init__(self, block: Block, qkv: Pair, rotation: Rotation | None, graph: bool) -> None:
        self._given = qkv.value.requires_grad_(graph)
        with torch.set_grad_enabled(graph):
            mixed = block.mix(qkv, rotation)
        self._mixed, self.out, self.d_out = mixed.value, mixed.value.detach().contiguous(), mixed.tangent

    def pull_back(self, slope: Tensor) -> Tensor:
        (out,) = torch.autograd.grad(self._mixed, self._given, slope, retain_graph=True)
        return out.contiguous()
