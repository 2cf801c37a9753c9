"""Operations on pairs: a tensor and its derivative along one direction, carried through a network side by side.

A network written in these is its own forward mode: without tangents it computes the output alone. That is faster than
torch's forward mode, which takes a slow path wherever a tensor with a tangent meets one without (every bias).

Gradients flow through the tangents (reverse over forward), and are right where torch's own are not: those through the
forward mode of `layer_norm` take its mean and deviation for constants (pytorch issue 196700). The backward kernel of a
LayerNorm without affine is its tangent, since the Jacobian is symmetric, and so it is for a softmax and for elementwise
maps; that of SiLU is the exception that cannot be differentiated again.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.forward_ad import unpack_dual
from torch.nn import functional as F


class Pair(NamedTuple):
    """A tensor and its tangent of the same shape; None is zero, or not asked for.

    With `rows` the tangent is that of these rows alone, (K, *), and carries no graph; the value keeps its own. They are
    the last K, or those at an index (K,).
    """

    value: Tensor
    tangent: Tensor | None = None
    rows: int | Tensor | None = None

    def then(self, value: Tensor, rule: Callable[..., Tensor], *beside: Tensor) -> Pair:
        """`value` with the tangent rule(tangent, *beside): `beside` are values that the rule needs, row by row.

        What has fewer axes than the tangent has no rows, such as a parameter.
        """
        tangent, rows = self.tangent, self.rows
        if tangent is None:
            return Pair(value)
        if rows is None:
            return Pair(value, rule(tangent, *beside))
        rank, graph = tangent.ndim, torch.is_grad_enabled()
        torch._C._set_grad_enabled(False)  # what torch.no_grad() does, which takes as long as a launch
        try:
            return Pair(value, rule(tangent, *[x if x.ndim < rank else rows_at(x, rows) for x in beside]), rows)
        finally:
            torch._C._set_grad_enabled(graph)

    def map(self, function: Callable[[Tensor], Tensor]) -> Pair:
        """A linear map, which takes the tangent along."""
        return self.then(function(self.value), function)

    def parts(self, cut: Callable[[Tensor], Sequence[Tensor]]) -> list[Pair]:
        """The pieces of a tensor, such as chunks."""
        values = cut(self.value)
        if self.tangent is None:
            return [Pair(value) for value in values]
        return [Pair(*both, self.rows) for both in zip(values, cut(self.tangent), strict=True)]

    def chunk(self, count: int, dim: int = -1) -> list[Pair]:
        return self.parts(lambda x: x.chunk(count, dim))

    def to(self, dtype: torch.dtype) -> Pair:
        return self.map(lambda x: x.to(dtype))


def rows_at(x: Tensor, rows: int | Tensor) -> Tensor:
    """The last K rows, or those at an index (K,)."""
    return x.index_select(0, rows) if isinstance(rows, Tensor) else x[-rows:]


def add(a: Pair, b: Pair) -> Pair:
    return Pair(a.value + b.value, _sum(a.tangent, b.tangent), _rows(a, b))


def subtract(a: Pair, b: Pair) -> Pair:
    return Pair(a.value - b.value, _sum(a.tangent, None if b.tangent is None else -b.tangent), _rows(a, b))


def multiply(a: Pair, b: Pair) -> Pair:
    value = a.value * b.value
    left, right = a.then(value, torch.mul, b.value), b.then(value, torch.mul, a.value)
    return Pair(value, _sum(left.tangent, right.tangent), _rows(a, b))


def concatenate(parts: list[Pair], dim: int) -> Pair:
    value = torch.cat([part.value for part in parts], dim)
    if all(part.tangent is None for part in parts):
        return Pair(value)
    rows = _rows(*parts)
    still = [part.value if rows is None else rows_at(part.value, rows) for part in parts]
    tangents = [torch.zeros_like(x) if p.tangent is None else p.tangent for x, p in zip(still, parts, strict=True)]
    return Pair(value, torch.cat(tangents, dim), rows)


def linear(layer: nn.Linear, x: Pair) -> Pair:
    return x.then(layer(x.value), lambda dx: F.linear(dx, layer.weight))


def silu(x: Pair) -> Pair:
    return x.then(F.silu(x.value), lambda dx, x: silu_tangent(x, dx), x.value)


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
    return x.then(value, lambda dx, x: torch.ops.aten.gelu_backward(dx, x, approximate="tanh"), x.value)


def layer_norm(x: Pair, eps: float = 1e-6) -> Pair:
    """(x - mean) / sqrt(variance + eps) over the last axis, without affine."""
    shape = [x.value.shape[-1]]
    if x.tangent is None:
        return Pair(F.layer_norm(x.value, shape, eps=eps))
    normal, mean, rstd = torch.native_layer_norm(x.value, shape, None, None, eps)

    def slope(dx: Tensor, h: Tensor, mean: Tensor, rstd: Tensor) -> Tensor:
        wanted = [True, False, False]
        out: Tensor = torch.ops.aten.native_layer_norm_backward(dx, h, shape, mean, rstd, None, None, wanted)[0]
        return out

    return x.then(normal, slope, x.value, mean, rstd)


def rms_norm(x: Pair, eps: float = 1e-6) -> Pair:
    """x / sqrt(mean(x^2) + eps) over the last axis, without affine; in float32 at least."""
    x = x.to(torch.promote_types(x.value.dtype, torch.float32))
    rstd = (x.value.square().mean(dim=-1, keepdim=True) + eps).rsqrt()
    normal = x.value * rstd
    return x.then(normal, lambda dx, n, by: by * (dx - n * (n * dx).mean(dim=-1, keepdim=True)), normal, rstd)


def modulate(x: Pair, shift: Pair, scale: Pair) -> Pair:
    """x (1 + scale) + shift with factors that broadcast to x. Where x carries no tangent, nothing does."""
    by = 1 + scale.value
    out = torch.addcmul(shift.value, x.value, by)
    d_shift, d_scale = shift.tangent, scale.tangent
    if d_shift is None or d_scale is None:
        return x.then(out, torch.mul, by)
    return x.then(out, lambda dx, x, by: torch.addcmul(torch.addcmul(d_shift, x, d_scale), dx, by), x.value, by)


def gated(h: Pair, gate: Pair, branch: Pair) -> Pair:
    """h + gate branch with a gate that broadcasts to h. Where h carries no tangent, nothing does."""
    out = torch.addcmul(h.value, gate.value, branch.value)
    d_gate, d_branch = gate.tangent, branch.tangent
    if d_branch is None:
        return h._replace(value=out)
    if d_gate is None:
        return h.then(out, lambda dh, gate: torch.addcmul(dh, gate, d_branch), gate.value)
    return h.then(
        out,
        lambda dh, gate, branch: torch.addcmul(torch.addcmul(dh, d_gate, branch), gate, d_branch),
        gate.value,
        branch.value,
    )


def attention(q: Pair, k: Pair, v: Pair, fused: bool) -> Pair:
    """softmax(q k' / sqrt(d)) v over the last two axes, (..., tokens, d).

    `fused` kernels are used where no derivative is carried: they have no forward-mode rule (pytorch issue 128971).
    """
    dq, dk, dv = q.tangent, k.tangent, v.tangent
    if dq is None or dk is None or dv is None:
        if fused and _has_no_tangent(q.value):
            return Pair(F.scaled_dot_product_attention(q.value, k.value, v.value))
        return Pair(_weights(q.value, k.value) @ v.value)
    if q.rows is None:
        return Pair(*_tangent_kernel(fused, q.value, k.value, v.value, dq, dk, dv))
    value = F.scaled_dot_product_attention if fused else _attention
    return q.then(
        value(q.value, k.value, v.value),
        lambda dq, q, k, v: _tangent_kernel(fused, q, k, v, dq, dk, dv)[1],
        q.value,
        k.value,
        v.value,
    )


def attention_tangent(q: Tensor, k: Tensor, v: Tensor, dq: Tensor, dk: Tensor, dv: Tensor) -> tuple[Tensor, Tensor]:
    """Attention and its derivative along (dq, dk, dv), each (..., tokens, d).

    The scores are a batch of matrices: one copy of what is strided, instead of one for every product it is in.
    """
    shape, factor = q.shape, q.shape[-1] ** -0.5
    q, k, v, dq, dk, dv = (x.flatten(0, -3) for x in (q, k, v, dq, dk, dv))
    keys = k.transpose(-2, -1)
    weights = torch.baddbmm(q.new_empty(()), q, keys, beta=0, alpha=factor).softmax(dim=-1)
    scores = torch.baddbmm(torch.bmm(dq, keys), q, dk.transpose(-2, -1), beta=factor, alpha=factor)
    slope = torch.ops.aten._softmax_backward_data(scores.to(weights.dtype), weights, -1, weights.dtype)
    out = torch.baddbmm(torch.bmm(slope, v), weights, dv)
    return torch.bmm(weights, v).reshape(shape), out.reshape(shape)


def _tangent_kernel(fused: bool, *given: Tensor) -> tuple[Tensor, Tensor]:
    """`attention_tangent` of (q, k, v, dq, dk, dv), by the kernel for CUDA where `fused` and nothing is differentiated.

    There must be neither a graph nor a transform around it, and no compiler, which makes kernels of its own.
    """
    plain = not (torch.is_grad_enabled() or torch.compiler.is_compiling()) and given[0].is_cuda
    if fused and plain and torch._C._functorch.peek_interpreter_stack() is None and (found := _cuda_kernel()):
        if found.suits(*given):
            both: tuple[Tensor, Tensor] = found.attention_tangent(*given)
            return both
    return attention_tangent(*given)


@functools.cache
def _cuda_kernel() -> ModuleType | None:
    """The module with the kernel, or None where Triton is not installed."""
    try:
        return importlib.import_module("ablate_core.attention_kernel")
    except ImportError:
        return None


def _weights(q: Tensor, k: Tensor) -> Tensor:
    scores: Tensor = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    return scores.softmax(dim=-1)


def _attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return _weights(q, k) @ v


def _has_no_tangent(x: Tensor) -> bool:
    """False inside torch's forward mode where it reaches `x`."""
    return unpack_dual(x).tangent is None  # type: ignore[no-untyped-call]


def _rows(*pairs: Pair) -> int | Tensor | None:
    return next((pair.rows for pair in pairs if pair.tangent is not None), None)


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None:
        return b
    return a if b is None else a + b
