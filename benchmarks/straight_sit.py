"""The network as public code writes it, on the weights of ours: the other side of `step.py` and `pack.py`.

Our network computes less of everything even operation by operation (one SiLU of the condition for all blocks, fused
multiply-and-add, fused attention where no derivative is carried), so its own operations under ``torch.func.jvp`` are
not what anyone starts from. This one does what EDAPINENUT/ExplicitShortCut arch/sit.py and timm's attention and patches
do, as their training script sets them up: attention written out in every pass (``fused_attn=False``, train.py), since
the fused one has no forward-mode derivative.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ablate_core.architectures.base import Network
from ablate_core.architectures.embeddings import TIME_FEATURES, TimeEmbedder
from ablate_core.architectures.sit_blocks import Block, ModulatedBlock
from ablate_core.architectures.sit_network import SiTNetwork


class StraightSiT(Network):
    """A `SiTNetwork` of plain blocks, told t and t - r, computed the usual way."""

    def __init__(self, net: Network) -> None:
        super().__init__()
        assert isinstance(net, SiTNetwork)
        self.net = net

    def forward(self, x: Tensor, r: Tensor, t: Tensor, y: Tensor | None, g: Tensor | None = None) -> Tensor:
        net, width = self.net, self.net.embed_patch.out_features
        assert net.embed_t is not None
        assert net.embed_gap is not None
        assert net.embed_label is not None
        assert net.modulation is not None
        assert net.position is not None
        assert y is not None
        kernel = net.embed_patch.weight.view(width, net.shape[0], net.patch, net.patch)
        h = F.conv2d(x, kernel, net.embed_patch.bias, stride=net.patch).flatten(2).transpose(1, 2)
        h = h + net.position
        c = embedded(net.embed_t, t) + embedded(net.embed_gap, t - r) + net.embed_label(y)
        for block in net.blocks:
            assert isinstance(block, ModulatedBlock)
            h = through(block, h, c)
        shift, scale = net.modulation(F.silu(c)).chunk(2, dim=-1)
        h = net.output(modulated(normed(h), shift, scale))
        (rows, columns), p = net.grid, net.patch
        h = torch.einsum("nhwpqc->nchpwq", h.reshape(len(h), rows, columns, p, p, net.shape[0]))
        return h.reshape(len(h), *net.shape)

    def log_variance(self, t: Tensor) -> Tensor:
        return self.net.log_variance(t)


def embedded(embedder: TimeEmbedder, t: Tensor) -> Tensor:
    half = TIME_FEATURES // 2
    frequencies = torch.exp(-math.log(10_000) * torch.arange(half, dtype=torch.float32) / half).to(t.device)
    angles = t[:, None].float() * frequencies[None]
    features = torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1)
    out: Tensor = embedder.outer(F.silu(embedder.inner(features)))
    return out


def through(block: ModulatedBlock, h: Tensor, c: Tensor) -> Tensor:
    shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = block.modulation(F.silu(c)).chunk(6, dim=-1)
    h = h + gate_a.unsqueeze(1) * attended(block, modulated(normed(h), shift_a, scale_a))
    hidden = F.gelu(block.expand(modulated(normed(h), shift_m, scale_m)), approximate="tanh")
    return h + gate_m.unsqueeze(1) * block.contract(hidden)


def attended(block: Block, h: Tensor) -> Tensor:
    batch, tokens, width = h.shape
    q, k, v = block.qkv(h).reshape(batch, tokens, 3, block.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
    weights = (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(dim=-1)
    out: Tensor = block.project((weights @ v).transpose(1, 2).reshape(batch, tokens, width))
    return out


def modulated(h: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return h * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)


def normed(h: Tensor) -> Tensor:
    return F.layer_norm(h, h.shape[-1:], eps=1e-6)
