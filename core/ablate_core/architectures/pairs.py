"""Operations on pairs: a tensor and its derivative along one direction, carried through a network side by side.

A network written in these is its own forward mode: without tangents it computes the output alone. That is faster than
torch's forward mode, which takes a slow path wherever a tensor with a tangent meets one without (every bias).

Gradients flow through the tangents (reverse over forward), and are right where torch's own are not: those through the
forward mode of `layer_norm` take its mean and deviation for constants (pytorch issue 196700). The backward kernel of a
LayerNorm without affine is its tangent, since the Jacobian is symmetric, and so it is for a softmax and for elementwise
maps; that of SiLU is the exception that cannot be differentiated again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.forward_ad import unpack_dual
from torch.nn import functional as F


class Pair(NamedTuple):
    """A tensor and its tangent of the same shape; None is zero, or not asked for."""

    value: Tensor
    tangent: Tensor | None = None

    def map(self, function: Callable[[Tensor], Tensor]) -> Pair:
        """A linear map, which takes the tangent along."""
        return Pair(function(self.value), None if self.tangent is None else function(self.tangent))

    def parts(self, cut: Callable[[Tensor], Sequence[Tensor]]) -> list[Pair]:
        """The pieces of a tensor, such as chunks."""
        values = cut(self.value)
        if self.tangent is None:
            return [Pair(value) for value in values]
        return [Pair(*both) for both in zip(values, cut(self.tangent), strict=True)]

    def chunk(self, count: int, dim: int = -1) -> list[Pair]:
        return self.parts(lambda x: x.chunk(count, dim))

    def to(self, dtype: torch.dtype) -> Pair:
        return self.map(lambda x: x.to(dtype))


def add(a: Pair, b: Pair) -> Pair:
    return Pair(a.value + b.value, _sum(a.tangent, b.tangent))


def subtract(a: Pair, b: Pair) -> Pair:
    return Pair(a.value - b.value, _sum(a.tangent, None if b.tangent is None else -b.tangent))


def multiply(a: Pair, b: Pair) -> Pair:
    left = None if a.tangent is None else a.tangent * b.value
    right = None if b.tangent is None else a.value * b.tangent
    return Pair(a.value * b.value, _sum(left, right))


def concatenate(parts: list[Pair], dim: int) -> Pair:
    value = torch.cat([part.value for part in parts], dim)
    if all(part.tangent is None for part in parts):
        return Pair(value)
    tangents = [torch.zeros_like(part.value) if part.tangent is None else part.tangent for part in parts]
    return Pair(value, torch.cat(tangents, dim))


def linear(layer: nn.Linear, x: Pair) -> Pair:
    return Pair(layer(x.value), None if x.tangent is None else F.linear(x.tangent, layer.weight))


def silu(x: Pair) -> Pair:
    return Pair(F.silu(x.value), None if x.tangent is None else silu_tangent(x.value, x.tangent))


def silu_tangent(x: Tensor, dx: Tensor) -> Tensor:
    """Derivative of SiLU at x along dx."""
    if torch.is_grad_enabled():  # the kernel below has no derivative
        gate = x.sigmoid()
        return dx * gate * (1 + x * (1 - gate))
    out: Tensor = torch.ops.aten.silu_backward(dx, x)
    return out


def gelu(x: Pair) -> Pair:
    """GELU in its tanh form."""
    value = F.gelu(x.value, approximate="tanh")
    if x.tangent is None:
        return Pair(value)
    return Pair(value, torch.ops.aten.gelu_backward(x.tangent, x.value, approximate="tanh"))


def layer_norm(x: Pair, eps: float = 1e-6) -> Pair:
    """(x - mean) / sqrt(variance + eps) over the last axis, without affine."""
    h, dh = x
    shape = [h.shape[-1]]
    if dh is None:
        return Pair(F.layer_norm(h, shape, eps=eps))
    normal, mean, rstd = torch.native_layer_norm(h, shape, None, None, eps)
    slope, _, _ = torch.ops.aten.native_layer_norm_backward(dh, h, shape, mean, rstd, None, None, [True, False, False])
    return Pair(normal, slope)


def rms_norm(x: Pair, eps: float = 1e-6) -> Pair:
    """x / sqrt(mean(x^2) + eps) over the last axis, without affine; in float32 at least."""
    x = x.to(torch.promote_types(x.value.dtype, torch.float32))
    rstd = (x.value.square().mean(dim=-1, keepdim=True) + eps).rsqrt()
    normal = x.value * rstd
    if x.tangent is None:
        return Pair(normal)
    across = (normal * x.tangent).mean(dim=-1, keepdim=True)
    return Pair(normal, rstd * (x.tangent - normal * across))


def modulate(x: Pair, shift: Pair, scale: Pair) -> Pair:
    """x (1 + scale) + shift with factors that broadcast to x. Where x carries no tangent, nothing does."""
    by = 1 + scale.value
    out = torch.addcmul(shift.value, x.value, by)
    if x.tangent is None:
        return Pair(out)
    if shift.tangent is None or scale.tangent is None:
        return Pair(out, x.tangent * by)
    return Pair(out, torch.addcmul(shift.tangent, x.value, scale.tangent) + x.tangent * by)


def gated(h: Pair, gate: Pair, branch: Pair) -> Pair:
    """h + gate branch with a gate that broadcasts to h. Where h carries no tangent, nothing does."""
    out = torch.addcmul(h.value, gate.value, branch.value)
    if h.tangent is None or branch.tangent is None:
        return Pair(out, h.tangent)
    slope = h.tangent if gate.tangent is None else torch.addcmul(h.tangent, gate.tangent, branch.value)
    return Pair(out, torch.addcmul(slope, gate.value, branch.tangent))


def attention(q: Pair, k: Pair, v: Pair, fused: bool) -> Pair:
    """softmax(q k' / sqrt(d)) v over the last two axes, (..., tokens, d).

    `fused` kernels are used where no derivative is carried: they have no forward-mode rule (pytorch issue 128971).
    """
    if q.tangent is None and fused and _has_no_tangent(q.value):
        return Pair(F.scaled_dot_product_attention(q.value, k.value, v.value))
    factor = q.value.shape[-1] ** -0.5
    scaled, keys = q.value * factor, k.value.transpose(-2, -1)
    weights = (scaled @ keys).softmax(dim=-1)
    out = weights @ v.value
    if q.tangent is None or k.tangent is None or v.tangent is None:
        return Pair(out)
    scores = (q.tangent * factor) @ keys + scaled @ k.tangent.transpose(-2, -1)
    slope = torch.ops.aten._softmax_backward_data(scores.to(weights.dtype), weights, -1, weights.dtype)
    return Pair(out, slope @ v.value + weights @ v.tangent)


def _has_no_tangent(x: Tensor) -> bool:
    """False inside torch's forward mode where it reaches `x`."""
    return unpack_dual(x).tangent is None  # type: ignore[no-untyped-call]


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None:
        return b
    return a if b is None else a + b
