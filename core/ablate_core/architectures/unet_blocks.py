"""Parts of `unet`: resampling, GroupNorm, residual blocks with attention, dropout whose masks can be drawn again."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ablate_core.architectures.pairs import Pair, add, attention, layer_norm, linear, multiply, silu

SKIP_SCALE = math.sqrt(0.5)
TINY_GAIN = 1e-5
"""What the weights of a branch's last layer are multiplied by at first, so that a fresh block is nearly its skip."""


class Conv(nn.Conv2d):
    """Convolution of odd width that keeps the size; xavier uniform weights times `gain`, zero biases."""

    def __init__(self, inputs: int, outputs: int, kernel: int, gain: float = 1.0, extra_padding: int = 0) -> None:
        super().__init__(inputs, outputs, kernel, padding=kernel // 2 + extra_padding)
        nn.init.xavier_uniform_(self.weight, gain)
        assert self.bias is not None
        nn.init.zeros_(self.bias)

    def carry(self, x: Pair) -> Pair:
        return x.then(self(x.value), lambda dx: F.conv2d(dx, self.weight, padding=self.padding))


class GroupNorm(nn.Module):
    """GroupNorm in min(32, C / 4) groups, eps 1e-6, as a LayerNorm of each group: that has a forward derivative."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.groups = min(32, channels // 4)
        if self.groups == 0 or channels % self.groups:
            raise ValueError(f"unet has {channels} channels somewhere, not {self.groups or 1} groups of 4 or more; "
                             "choose model_channels a multiple of 32, or of 4 where they are few")  # fmt: skip
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Pair) -> Pair:
        shape = x.value.shape[1:]
        normal = layer_norm(x.map(lambda h: h.reshape(len(h), self.groups, -1)))
        normal = normal.map(lambda h: h.reshape(len(h), *shape))
        out = multiply(normal, Pair(self.weight[:, None, None]))
        return out._replace(value=out.value + self.bias[:, None, None])


class Resample(nn.Module):
    """Halves or doubles the sides with a separable filter; linear, and the same for every channel."""

    kernel: Tensor

    def __init__(self, taps: tuple[int, ...], up: bool, padded: bool = True) -> None:
        super().__init__()
        row = torch.tensor(taps, dtype=torch.float32)
        kernel = torch.outer(row, row) / row.sum().square()
        self.up, self.padding = up, (len(taps) - 1) // 2 if padded else 0
        self.register_buffer("kernel", 4 * kernel if up else kernel, persistent=False)

    def forward(self, x: Pair) -> Pair:
        return x.map(self._resampled)

    def _resampled(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        kernel = self.kernel.to(x.dtype).expand(channels, 1, -1, -1)
        function = F.conv_transpose2d if self.up else F.conv2d
        return function(x, kernel, stride=2, padding=self.padding, groups=channels)


class Dropout(nn.Module):
    """Zeroes entries with probability p and scales the rest by 1 / (1 - p), wherever a seed was given; else nothing.

    The mask is that of the seed: every call between two seeds, forward or with tangents, drops the same entries of a
    batch of the same shape, and a resumed run drops what the uninterrupted one would.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.seed: int | None = None

    def forward(self, x: Pair) -> Pair:
        if self.p == 0 or self.seed is None:
            return x
        generator = torch.Generator(device=x.value.device).manual_seed(self.seed)
        kept = torch.rand(x.value.shape, generator=generator, device=x.value.device) >= self.p
        factor = kept.to(x.value.dtype) / (1 - self.p)
        return x.map(lambda h: h * factor)


class UNetBlock(nn.Module):
    """norm, SiLU, (resample), conv; + affine(emb); norm, SiLU, dropout, conv; + (resampled and projected) input.

    The sum is scaled by 1 / sqrt 2, and attended where `attend`.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        embedding: int,
        dropout: float,
        *,
        resample: Resample | None = None,
        attend: bool = False,
    ) -> None:
        super().__init__()
        self.resample = resample
        self.norm_in = GroupNorm(inputs)
        self.conv_in = Conv(inputs, outputs, 3)
        self.affine = xavier(nn.Linear(embedding, outputs))
        self.norm_out = GroupNorm(outputs)
        self.dropout = Dropout(dropout)
        self.conv_out = Conv(outputs, outputs, 3, TINY_GAIN)
        self.skip = Conv(inputs, outputs, 1) if inputs != outputs or resample is not None else None
        self.attention = SelfAttention(outputs) if attend else None

    def forward(self, x: Pair, embedding: Pair) -> Pair:
        """x (B, inputs, H, W), embedding (B, width) -> (B, outputs, H', W')."""
        h = silu(self.norm_in(x))
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        shift = linear(self.affine, embedding).map(lambda c: c[:, :, None, None])
        h = silu(self.norm_out(add(self.conv_in.carry(h), shift)))
        h = self.conv_out.carry(self.dropout(h))
        h = add(h, x if self.skip is None else self.skip.carry(x)).map(lambda out: out * SKIP_SCALE)
        out: Pair = h if self.attention is None else self.attention(h)
        return out


class SelfAttention(nn.Module):
    """(h + project(attention of all pixels, one head)) / sqrt 2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = GroupNorm(channels)
        self.qkv = Conv(channels, 3 * channels, 1, math.sqrt(0.2))
        self.project = Conv(channels, channels, 1, TINY_GAIN)

    def forward(self, h: Pair) -> Pair:
        shape = h.value.shape[1:]
        q, k, v = self.qkv.carry(self.norm(h)).map(lambda p: p.flatten(2).transpose(1, 2)).chunk(3)
        out = attention(q, k, v, fused=False).map(lambda p: p.transpose(1, 2).reshape(len(p), *shape))
        return add(h, self.project.carry(out)).map(lambda p: p * SKIP_SCALE)


def xavier(layer: nn.Linear) -> nn.Linear:
    """`layer` with xavier uniform weights and zero biases."""
    nn.init.xavier_uniform_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
