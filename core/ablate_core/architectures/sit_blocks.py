"""Blocks of `sit`: norms, attention, MLP, and the two ways in which a condition reaches them."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from ablate_core.architectures import block_on_cpu
from ablate_core.architectures.pairs import (
    Pair,
    attention,
    gated,
    gelu,
    layer_norm,
    linear,
    modulate,
    multiply,
    rms_norm,
    silu,
)

if TYPE_CHECKING:
    from ablate_core.architectures.sit import SiT

NORMS = {"layer": layer_norm, "rms": rms_norm}


class Norm(nn.Module):
    """A norm over the last axis with eps 1e-6 and, where `affine`, a learned scale (LayerNorm: and offset)."""

    def __init__(self, width: int, kind: str, affine: bool) -> None:
        super().__init__()
        self.normalise = NORMS[kind]
        self.plain = kind == "layer" and not affine
        self.weight = nn.Parameter(torch.ones(width)) if affine else None
        self.bias = nn.Parameter(torch.zeros(width)) if affine and kind == "layer" else None

    def forward(self, x: Pair) -> Pair:
        out = self.normalise(x)
        if self.weight is not None:
            out = multiply(out, Pair(self.weight))
        return out if self.bias is None else out._replace(value=out.value + self.bias)


class Modulation(nn.Linear):
    """Factors of a condition after its SiLU: (B, width) -> `count` times (B, 1, width)."""

    def __init__(self, width: int, count: int, normalised: bool) -> None:
        super().__init__(width, count * width)
        self.count, self.normalised = count, normalised

    def factors(self, c: Pair) -> list[Pair]:
        chunks = linear(self, c).map(lambda x: x[:, None]).chunk(self.count)
        return [rms_norm(chunk) for chunk in chunks] if self.normalised else chunks


class Rotation(NamedTuple):
    """Cosines and sines of rotary position embedding, each (tokens, d / 2); token i turns pair k by angle(i, k)."""

    cos: Tensor
    sin: Tensor

    def turn(self, x: Pair) -> Pair:
        """x (..., tokens, d) with channels (2k, 2k + 1) turned; a linear map, so the tangent turns alike."""
        return x.map(self._turned)

    def _turned(self, x: Tensor) -> Tensor:
        even, odd = x.reshape(*x.shape[:-1], -1, 2).unbind(-1)
        cos, sin = self.cos.to(x.dtype), self.sin.to(x.dtype)
        return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)


class Block(nn.Module, abc.ABC):
    """h + gate attention(...), h + gate MLP(...), each on normed h; how it is conditioned is the subclass' affair."""

    def __init__(self, config: SiT) -> None:
        super().__init__()
        _, width, heads = config.resolved_size
        swiglu = config.mlp == "swiglu"
        hidden = config.hidden_width
        self.heads, self.fused_attention = heads, config.fused_attention
        self.qkv = nn.Linear(width, 3 * width, bias=config.attention_bias)
        self.project = nn.Linear(width, width, bias=config.attention_bias)
        self.expand = nn.Linear(width, 2 * hidden if swiglu else hidden, bias=not swiglu)
        self.contract = nn.Linear(hidden, width, bias=not swiglu)
        self.activate = _swiglu if swiglu else gelu
        self.norm_attention = Norm(width, config.norm, config.norm_affine)
        self.norm_mlp = Norm(width, config.norm, config.norm_affine)
        self.norm_q = Norm(width // heads, "rms", affine=True) if config.qk_norm else None
        self.norm_k = Norm(width // heads, "rms", affine=True) if config.qk_norm else None

    @abc.abstractmethod
    def forward(self, h: Pair, c: Pair | None, rotation: Rotation | None) -> Pair:
        """Tokens h (B, tokens, width) to the same shape; c (B, width) after its SiLU, or None where it is in h."""

    def attend(self, h: Pair, rotation: Rotation | None) -> Pair:
        return linear(self.project, self.mix(linear(self.qkv, h), rotation))

    def mix(self, qkv: Pair, rotation: Rotation | None) -> Pair:
        """Attention of queries, keys and values in one, (B, tokens, 3 width) -> (B, tokens, width)."""
        q, k, v = qkv.parts(self._heads)
        if self.norm_q is not None and self.norm_k is not None:
            q, k = self.norm_q(q).to(v.value.dtype), self.norm_k(k).to(v.value.dtype)
        if rotation is not None:
            q, k = rotation.turn(q), rotation.turn(k)
        return attention(q, k, v, self.fused_attention).map(lambda x: x.transpose(1, 2).flatten(2))

    def transform(self, h: Pair) -> Pair:
        return linear(self.contract, self.activate(linear(self.expand, h)))

    def _heads(self, qkv: Tensor) -> Sequence[Tensor]:
        """(B, tokens, 3 width) -> queries, keys and values, each (B, heads, tokens, width / heads)."""
        return qkv.reshape(*qkv.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind()


class ModulatedBlock(Block):
    """adaLN-zero (arXiv 2212.09748): shift and scale after each norm and a gate on each branch, all from c."""

    def __init__(self, config: SiT) -> None:
        super().__init__(config)
        self.modulation = Modulation(config.resolved_size.width, 6, config.modulation_norm)
        plain = config.norm == "layer" and config.mlp == "gelu"
        self.plain = plain and not (config.norm_affine or config.qk_norm or config.modulation_norm)

    def forward(self, h: Pair, c: Pair | None, rotation: Rotation | None) -> Pair:
        assert c is not None
        if block_on_cpu.suits(self, h, c):
            return block_on_cpu.run(self, h, c, rotation)
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulation.factors(c)
        h = gated(h, gate_a, self.attend(modulate(self.norm_attention(h), shift_a, scale_a), rotation))
        return gated(h, gate_m, self.transform(modulate(self.norm_mlp(h), shift_m, scale_m)))


class GatedBlock(Block):
    """The condition is among the tokens; a learned gate per channel on each branch, 0 at first (iMF, imfDiT.py)."""

    def __init__(self, config: SiT) -> None:
        super().__init__(config)
        self.gate_attention = nn.Parameter(torch.zeros(config.resolved_size.width))
        self.gate_mlp = nn.Parameter(torch.zeros(config.resolved_size.width))

    def forward(self, h: Pair, c: Pair | None, rotation: Rotation | None) -> Pair:
        h = gated(h, Pair(self.gate_attention), self.attend(self.norm_attention(h), rotation))
        return gated(h, Pair(self.gate_mlp), self.transform(self.norm_mlp(h)))


def _swiglu(x: Pair) -> Pair:
    """silu(a) b of the two halves a, b of the last axis (arXiv 2002.05202)."""
    a, b = x.chunk(2)
    return multiply(silu(a), b)
