"""The ends of a small SiT on a CPU: the embedding of a time, and its last layer, a call of C each way (`native`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ablate_core.architectures import native
from ablate_core.architectures.native import Native, Written, longs, samples_of
from ablate_core.architectures.pairs import Pair
from ablate_core.cpu_kernels import whole_blocks

if TYPE_CHECKING:
    from ablate_core.architectures.embeddings import TimeEmbedder
    from ablate_core.architectures.sit_blocks import Modulation


def suits_embedding(embedder: TimeEmbedder, t: Pair) -> bool:
    """Whether `embed` computes this embedding, through which no gradient of the times may be asked."""
    return (
        native.available(t) and not t.value.requires_grad and native.suits(embedder.inner.weight, t.value, len(t.value))
    )


def embed(embedder: TimeEmbedder, t: Pair, frequencies: Tensor) -> Pair:
    """A number (B,) -> (B, width) by waves of `frequencies` (n,), and its tangent, as `TimeEmbedder.embed` has it."""
    scale = embedder.time_scale
    value, dt = t.value * scale, None if t.tangent is None else t.tangent * scale
    out, tangent = _Embedding(embedder, t, frequencies).apply(value, dt, None if dt is None else samples_of(t))
    return Pair(out, tangent, None if tangent is None else t.rows)


def suits_finish(modulation: Modulation, h: Pair, c: Pair) -> bool:
    """Whether `finish` computes a last layer after LayerNorm without affine."""
    batch, tokens, _ = h.value.shape
    plain = not modulation.normalised
    return plain and native.available(h, c) and native.suits(modulation.weight, h.value, batch * tokens)


def finish(modulation: Modulation, output: torch.nn.Linear, h: Pair, c: Pair) -> Pair:
    """Tokens h (B, tokens, width), c (B, width) -> (B, tokens, pixels), and its tangent."""
    samples = None if h.tangent is None else samples_of(h)
    given = (None if x is None else x.contiguous() for x in (h.value, c.value, h.tangent, c.tangent, samples))
    out, tangent = _Finish(modulation, output, h).apply(*given)
    return Pair(out, tangent, None if tangent is None else h.rows)


class _Embedding(Native):
    def __init__(self, embedder: TimeEmbedder, t: Pair, frequencies: Tensor) -> None:
        inner, outer = embedder.inner, embedder.outer
        weights = [inner.weight, inner.bias, outer.weight, outer.bias]
        super().__init__(weights, len(t.value), 0 if t.tangent is None else len(t.tangent))
        self.frequencies, self.sizes = frequencies, (len(frequencies), outer.weight.shape[0])

    def forward(self, *given: Tensor | None) -> tuple[Tensor, Tensor | None, Sequence[Tensor]]:
        t, dt, samples = given
        assert t is not None
        library: Any = whole_blocks(t.dtype)
        (count, width), networks = self.sizes, self.networks
        kept, out = t.new_empty(len(t) * 2 * (count + width)), t.new_empty(len(t), width)
        start = t.data_ptr(), self.frequencies.data_ptr(), *self.where()
        own = len(networks.places), kept.data_ptr(), out.data_ptr()
        if dt is None or samples is None:
            library.embed_forward(*start, None, *own, None, None, None, None, *self.sizes)
            return out, None, (kept,)
        d_out, scratch = t.new_empty(len(dt), width), t.new_empty(max(networks.counts) * (2 * count + width))
        more = (x.data_ptr() for x in (dt, samples, scratch, d_out))
        counts = longs(networks.counts)
        library.embed_forward(*start, counts, *own, *more, *self.sizes)
        return out, d_out, (kept,)

    def backward(self, slope: Tensor, written: Written, *kept: Tensor) -> Sequence[Tensor | None]:
        library: Any = whole_blocks(slope.dtype)
        scratch = slope.new_empty(max(self.networks.batches) * self.sizes[1])
        count = len(self.networks.places)
        library.embed_back(
            slope.data_ptr(), *self.where(), count, kept[0].data_ptr(), *written, scratch.data_ptr(), *self.sizes
        )
        return None, None, None


class _Finish(Native):
    def __init__(self, modulation: Modulation, output: torch.nn.Linear, h: Pair) -> None:
        weights = [modulation.weight, modulation.bias, output.weight, output.bias]
        super().__init__(weights, len(h.value), 0 if h.tangent is None else len(h.tangent))
        self.sizes = h.value.shape[1], h.value.shape[2], output.weight.shape[0]

    def forward(self, *given: Tensor | None) -> tuple[Tensor, Tensor | None, Sequence[Tensor]]:
        h, c, dh, dc, samples = given
        assert h is not None
        assert c is not None
        library: Any = whole_blocks(h.dtype)
        (tokens, width, pixels), networks = self.sizes, self.networks
        kept = h.new_empty(len(h) * (2 * width + tokens * (2 * width + 1)))
        out = h.new_empty(len(h), tokens, pixels)
        start = h.data_ptr(), c.data_ptr(), *self.where()
        own = len(networks.places), kept.data_ptr(), out.data_ptr()
        if dh is None or dc is None or samples is None:
            library.finish_forward(*start, None, *own, None, None, None, None, None, *self.sizes)
            return out, None, (c, kept)
        d_out = h.new_empty(len(dh), tokens, pixels)
        scratch = h.new_empty(max(networks.counts) * (2 + tokens) * width)
        more = (x.data_ptr() for x in (dh, dc, samples, scratch, d_out))
        counts = longs(networks.counts)
        library.finish_forward(*start, counts, *own, *more, *self.sizes)
        return out, d_out, (c, kept)

    def backward(self, slope: Tensor, written: Written, *kept: Tensor) -> Sequence[Tensor | None]:
        c, inside = kept
        library: Any = whole_blocks(c.dtype)
        tokens, width, _ = self.sizes
        of_h, of_c = slope.new_empty(len(slope), tokens, width), torch.empty_like(c)
        scratch = c.new_empty(max(self.networks.batches) * (2 + tokens) * width)
        library.finish_back(
            slope.data_ptr(), c.data_ptr(), *self.where(), len(self.networks.places), inside.data_ptr(), *written,
            scratch.data_ptr(), of_h.data_ptr(), of_c.data_ptr(), *self.sizes,
        )  # fmt: skip
        return of_h, of_c, None, None, None
