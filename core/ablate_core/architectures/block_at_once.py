"""Modulated blocks of narrow networks on a CPU: forwards one call of C, backwards another (`cpu_kernels`).

What `block_on_cpu` does call by call. In one call a few samples after the others pass through the whole block, and what
one product has left is still in a cache for the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ablate_core.architectures import native
from ablate_core.architectures.native import Native, Written, longs
from ablate_core.cpu_kernels import MOST_TOKENS, whole_blocks

if TYPE_CHECKING:
    from ablate_core.architectures.sit_blocks import ModulatedBlock

Tangents = tuple[Tensor, Tensor, Tensor]
"""dh (K, tokens, width), dc (K, width), and the K samples they belong to, int64."""


def suits(block: ModulatedBlock, h: Tensor) -> bool:
    """Whether `run` computes this block, for which `block_on_cpu.suits` is true."""
    return h.shape[1] <= MOST_TOKENS and native.suits(block.qkv.weight, h, h.shape[0] * h.shape[1])


def run(block: ModulatedBlock, h: Tensor, c: Tensor, tangents: Tangents | None) -> tuple[Tensor, Tensor | None]:
    """Tokens h (B, tokens, width), to the same shape, and their tangent (K, tokens, width)."""
    more = (None, None, None) if tangents is None else (x.contiguous() for x in tangents)
    return _Block(block, h, tangents).apply(h.contiguous(), c.contiguous(), *more)


class _Block(Native):
    def __init__(self, block: ModulatedBlock, h: Tensor, tangents: Tangents | None) -> None:
        layers = (block.modulation, block.qkv, block.project, block.expand, block.contract)
        weights = [weight for layer in layers for weight in (layer.weight, layer.bias)]
        super().__init__(weights, len(h), 0 if tangents is None else len(tangents[0]))
        self.sizes = h.shape[1], h.shape[2], block.heads, block.contract.weight.shape[1]

    def forward(self, *given: Tensor | None) -> tuple[Tensor, Tensor | None, Sequence[Tensor]]:
        h, c, dh, dc, samples = given
        assert h is not None
        assert c is not None
        library: Any = whole_blocks(h.dtype)
        (tokens, width, _, hidden), networks = self.sizes, self.networks
        used = [library.used_by_forward(batch, *self.sizes, self.keeps) for batch in networks.batches]
        kept = h.new_empty(sum(used) if self.keeps else max(used))
        out = torch.empty_like(h)
        own = len(networks.places), kept.data_ptr(), out.data_ptr()
        if dh is None or dc is None or samples is None:
            more: list[int | None] = [None] * 5
            library.blocks_forward(
                h.data_ptr(), c.data_ptr(), *self.where(), None, *own, *more, *self.sizes, self.keeps
            )
            return out, None, (c, kept)
        d_out = torch.empty_like(dh)
        scratch = h.new_empty(library.used_by_tangent(max(networks.counts), tokens, width, hidden))
        more = [x.data_ptr() for x in (dh, dc, samples, scratch, d_out)]
        counts = longs(networks.counts)
        library.blocks_forward(h.data_ptr(), c.data_ptr(), *self.where(), counts, *own, *more, *self.sizes, self.keeps)
        return out, d_out, (c, kept)

    def backward(self, slope: Tensor, written: Written, *kept: Tensor) -> Sequence[Tensor | None]:
        c, inside = kept
        library: Any = whole_blocks(c.dtype)
        tokens, width, _, hidden = self.sizes
        of_h, of_c = torch.empty_like(slope), torch.empty_like(c)
        # Not that of the largest batch: 17 samples may go in two groups of 9, which take less than one of 16.
        scratch = c.new_empty(max(library.used_by_back(b, tokens, width, hidden) for b in self.networks.batches))
        library.blocks_back(
            slope.data_ptr(), c.data_ptr(), *self.where(), len(self.networks.places), inside.data_ptr(), *written,
            scratch.data_ptr(), of_h.data_ptr(), of_c.data_ptr(), *self.sizes,
        )  # fmt: skip
        return of_h, of_c, None, None, None
