"""Position, time and label embeddings that networks share."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ablate_core.architectures import ends_on_cpu
from ablate_core.architectures.pairs import Pair, linear, silu

TIME_FEATURES = 256
"""Width of the sinusoid that a time is turned into before its two-layer network."""


def sinusoid(t: Tensor, dim: int = TIME_FEATURES, max_period: float = 10_000.0) -> Tensor:
    """[cos(t f_k), sin(t f_k)] with f_k = max_period^(-k / (dim / 2)), (B,) -> (B, dim).

    Angles are computed in the dtype of `t`, at least float32. A hard float32 cast, as in the public code, makes the
    derivative by t wrong in the sixth digit of a float64 check (EDAPINENUT/ExplicitShortCut arch/sit.py:47-49).
    """
    t = t.to(torch.promote_types(t.dtype, torch.float32))
    return waves(Pair(t), frequencies(dim, max_period, t)).value


def frequencies(dim: int, max_period: float, like: Tensor, *, last: bool = False) -> Tensor:
    """Angular frequencies max_period^(-k / n), (dim / 2,), of the dtype and device of `like`.

    n is dim / 2, so that the last is above 1 / max_period; with `last`, dim / 2 - 1, and it is reached.
    """
    k = torch.arange(dim // 2, dtype=like.dtype, device=like.device)
    return torch.exp(k * (-math.log(max_period) / (dim // 2 - last)))


def waves(t: Pair, frequency: Tensor) -> Pair:
    """[cos(t f), sin(t f)], (B,) -> (B, 2 n) for frequencies (n,)."""
    angle = t.value[:, None] * frequency
    cos, sin = angle.cos(), angle.sin()

    def turning(dt: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        speed = dt[:, None] * frequency
        return torch.cat([-sin * speed, cos * speed], dim=1)

    return t.then(torch.cat([cos, sin], dim=1), turning, cos, sin)


def sincos_2d(dim: int, rows: int, columns: int) -> Tensor:
    """Fixed 2-D position embedding, (rows * columns, dim) float32, tokens row by row.

    The first half of the channels encodes the column, the second half the row; within each half sin, then cos.
    Computed in float64 and rounded once (facebookresearch/mae, EDAPINENUT/ExplicitShortCut arch/sit.py).
    """
    if dim % 4:
        raise ValueError(f"a 2-D sin-cos position embedding needs a width divisible by 4, got {dim}")
    frequency = 10_000.0 ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    row, column = torch.meshgrid(
        torch.arange(rows, dtype=torch.float64), torch.arange(columns, dtype=torch.float64), indexing="ij"
    )

    def encode(position: Tensor) -> Tensor:
        angle = position.reshape(-1, 1) * frequency
        return torch.cat([angle.sin(), angle.cos()], dim=1)

    return torch.cat([encode(column), encode(row)], dim=1).float()


def rotary(position: Tensor, dim: int) -> Tensor:
    """Angles position * 10000^(-2k / dim) of rotary embedding, (n,) -> (n, dim / 2) float64 (arXiv 2104.09864)."""
    return position.double()[:, None] * frequencies(dim, 10_000.0, position.double())


class TimeEmbedder(nn.Module):
    """A number (B,), a time or another condition, -> (B, width): sinusoid, linear, SiLU, linear."""

    def __init__(self, width: int, time_scale: float = 1.0) -> None:
        super().__init__()
        self.time_scale = time_scale
        self.inner = nn.Linear(TIME_FEATURES, width)
        self.outer = nn.Linear(width, width)

    def forward(self, t: Tensor) -> Tensor:
        if ends_on_cpu.suits_embedding(self, Pair(t)):
            return ends_on_cpu.embed(self, Pair(t), _time_frequencies(t.dtype)).value
        features = sinusoid(t * self.time_scale).to(self.inner.weight.dtype)
        out: Tensor = self.outer(F.silu(self.inner(features)))
        return out

    def embed(self, t: Pair) -> Pair:
        """The embedding and its derivative along the tangent of `t`."""
        if t.tangent is None:
            return Pair(self(t.value))
        if ends_on_cpu.suits_embedding(self, t):
            return ends_on_cpu.embed(self, t, _time_frequencies(t.value.dtype))
        scaled = t.map(lambda time: time * self.time_scale).to(torch.promote_types(t.value.dtype, torch.float32))
        features = waves(scaled, frequencies(TIME_FEATURES, 10_000.0, scaled.value))
        inner = linear(self.inner, features.to(self.inner.weight.dtype))
        return linear(self.outer, silu(inner))


@functools.cache
def _time_frequencies(dtype: torch.dtype) -> Tensor:
    """Those of `TimeEmbedder`, on a CPU, whatever the default device is at the first call."""
    return frequencies(TIME_FEATURES, 10_000.0, torch.empty(0, dtype=dtype, device="cpu"))


class LogVariance(nn.Module):
    """Linear read-out (B, width) -> (B,) of a log-variance; starts at zero and draws no random number.

    The shape is (B,): a (B, 1) head against a (B,) loss makes a (B, B) matrix and one weight for all times
    (EDAPINENUT/ExplicitShortCut arch/sit_adpt.py:182, design-space D1).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, features: Tensor) -> Tensor:
        return features.to(self.weight.dtype) @ self.weight + self.bias
