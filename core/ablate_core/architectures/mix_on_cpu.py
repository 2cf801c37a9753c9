"""Attention inside a block that is written out (`block_on_cpu`): value, tangent of some rows, and gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from ablate_core.architectures.pairs import Pair, rows_at
from ablate_core.cpu_kernels import MOST_CHANNELS, MOST_TOKENS, kernels

if TYPE_CHECKING:
    from ablate_core.architectures.sit_blocks import Block, Rotation

MOST_WEIGHTS = 128
"""Tokens up to which the weights of attention, (tokens, tokens) of each head and sample, are kept for the gradient."""


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
    """By the number of tokens: few, all of it in C; more, products of matrices; many, or turned ones, torch's own."""
    tokens, width = qkv.value.shape[1], qkv.value.shape[2] // 3
    if rotation is not None or tokens > MOST_WEIGHTS:
        return OwnGraph(block, qkv, rotation, graph)
    if tokens <= MOST_TOKENS and width // block.heads <= MOST_CHANNELS:
        return InLoops(qkv, block.heads)
    return ByProducts(qkv, block.heads)


class InLoops:
    """Attention over few tokens, in C."""

    def __init__(self, qkv: Pair, heads: int) -> None:
        given, d_given, rows = qkv
        batch, tokens, width = given.shape[0], given.shape[1], given.shape[2] // 3
        self._given, self._sizes, self._c = given, (tokens, heads, width // heads), _kernels(given)
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


class ByProducts:
    """Attention by products of matrices, whose weights are kept: the gradient need not compute them again."""

    def __init__(self, qkv: Pair, heads: int) -> None:
        given, d_given, rows = qkv
        self._heads, self._c = heads, _kernels(given)
        self._q, self._k, self._v = q, k, v = self._split(given, 3)
        self._factor: float = q.shape[-1] ** -0.5
        self._weights = torch.bmm(q, k.transpose(1, 2))
        self._c.softmax(self._weights.data_ptr(), self._factor, *self._rows(self._weights))
        self.out = self._joined(torch.bmm(self._weights, v)[None])
        self.d_out: Tensor | None = None
        if d_given is not None and rows is not None:
            q, k, v, p = (self._of_rows(x, rows) for x in (q, k, v, self._weights))
            dq, dk, dv = self._split(d_given, 3)
            slope = torch.bmm(dq, k.transpose(1, 2)).baddbmm_(q, dk.transpose(1, 2))
            self._differentiate(slope, p)
            self.d_out = self._joined(torch.bmm(slope, v).baddbmm_(p, dv)[None])

    def pull_back(self, slope: Tensor) -> Tensor:
        (slope,) = self._split(slope, 1)
        scores = torch.bmm(slope, self._v.transpose(1, 2))
        self._differentiate(scores, self._weights)
        out = slope.new_empty(3, *slope.shape)
        torch.bmm(scores, self._k, out=out[0])
        torch.bmm(scores.transpose(1, 2), self._q, out=out[1])
        torch.bmm(self._weights.transpose(1, 2), slope, out=out[2])
        return self._joined(out)

    def _differentiate(self, scores: Tensor, weights: Tensor) -> None:
        """The derivative of the softmax at `weights` along `scores`, in the place of these."""
        self._c.softmax_slope(scores.data_ptr(), weights.data_ptr(), self._factor, *self._rows(scores))

    def _rows(self, x: Tensor) -> tuple[int, int]:
        return x.shape[0] * x.shape[1], x.shape[2]

    def _of_rows(self, x: Tensor, rows: int | Tensor) -> Tensor:
        """Those of the samples at `rows`, of (B heads, *)."""
        return rows_at(x.view(-1, self._heads, *x.shape[1:]), rows).flatten(0, 1)

    def _split(self, x: Tensor, parts: int) -> Tensor:
        """(B, tokens, parts width) -> (parts, B heads, tokens, d)."""
        (batch, tokens, _), d = x.shape, x.shape[2] // (parts * self._heads)
        out = x.new_empty(parts, batch * self._heads, tokens, d)
        self._c.split_heads(x.data_ptr(), out.data_ptr(), batch, tokens, parts, self._heads, d)
        return out

    def _joined(self, x: Tensor) -> Tensor:
        """The opposite."""
        parts, batch, tokens, d = x.shape[0], x.shape[1] // self._heads, x.shape[2], x.shape[3]
        out = x.new_empty(batch, tokens, parts * self._heads * d)
        self._c.join_heads(x.data_ptr(), out.data_ptr(), batch, tokens, parts, self._heads, d)
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


def _kernels(like: Tensor) -> Any:
    return kernels(like.dtype)
