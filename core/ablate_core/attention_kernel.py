"""Attention and its derivative along a direction in one pass over the keys, as a Triton kernel for CUDA devices.

Scores are never in memory: with s = q k' / sqrt(d), ds = (dq k' + q dk') / sqrt(d) and P = softmax(s), the value is P v
and the tangent (P ds) v + P dv - rowsum(P ds) P v, whose four sums are rescaled together as the running maximum rises
(online softmax, arXiv 2205.14135). It has no derivative itself: targets need none.

Imported where it is used only (`pairs.attention`): Triton is not there on every machine. Interpreted on the CPU, with
``TRITON_INTERPRET=1`` before the import, it is tested without a device.
"""

# mypy: disable-error-code="import-untyped, untyped-decorator, no-untyped-def, no-untyped-call, no-any-return"
# Arguments of a kernel are of the compiler's own types: it reads their annotations.

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

LARGEST_HEAD = 128
"""Channels of a head, d; with more, the tiles of seven operands leave the registers."""
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@triton.jit
def _attend(
    q_at, k_at, v_at, dq_at, dk_at, dv_at, out_at, d_out_at, heads, tokens, scale,
    by_sample, by_head, by_token, d_by_sample, d_by_head, d_by_token,
    D: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    sample, head = (tl.program_id(1) // heads).to(tl.int64), (tl.program_id(1) % heads).to(tl.int64)
    start, d_start = sample * by_sample + head * by_head, sample * d_by_sample + head * d_by_head
    rows, channels = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, WIDTH)
    mine = (rows[:, None] < tokens) & (channels[None, :] < D)
    place, d_place = rows[:, None] * by_token + channels[None, :], rows[:, None] * d_by_token + channels[None, :]
    q = tl.load(q_at + start + place, mask=mine, other=0.0)
    dq = tl.load(dq_at + d_start + d_place, mask=mine, other=0.0)

    largest = tl.full([ROWS], float("-inf"), tl.float32)
    total, drift = tl.zeros([ROWS], tl.float32), tl.zeros([ROWS], tl.float32)
    value, slope = tl.zeros([ROWS, WIDTH], tl.float32), tl.zeros([ROWS, WIDTH], tl.float32)
    for first in range(0, tokens, KEYS):
        keys = first + tl.arange(0, KEYS)
        there = (keys[:, None] < tokens) & (channels[None, :] < D)
        at = start + keys[:, None] * by_token + channels[None, :]
        d_at = d_start + keys[:, None] * d_by_token + channels[None, :]
        k, dk = tl.load(k_at + at, mask=there, other=0.0), tl.load(dk_at + d_at, mask=there, other=0.0)
        v, dv = tl.load(v_at + at, mask=there, other=0.0), tl.load(dv_at + d_at, mask=there, other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        scores = tl.where(keys[None, :] < tokens, scores, float("-inf"))
        d_scores = tl.dot(dq, tl.trans(k), input_precision="ieee") + tl.dot(q, tl.trans(dk), input_precision="ieee")

        higher = tl.maximum(largest, tl.max(scores, 1))
        p, fade = tl.exp(scores - higher[:, None]), tl.exp(largest - higher)
        dp = p * (d_scores * scale)
        total, drift = total * fade + tl.sum(p, 1), drift * fade + tl.sum(dp, 1)
        p, dp = p.to(v.dtype), dp.to(v.dtype)
        value = value * fade[:, None] + tl.dot(p, v, input_precision="ieee")
        slope = slope * fade[:, None] + tl.dot(dp, v, input_precision="ieee") + tl.dot(p, dv, input_precision="ieee")
        largest = higher

    value = value / total[:, None]
    slope = slope / total[:, None] - (drift / total)[:, None] * value
    # Written token by token, all heads of one beside each other: so the layer that follows reads them.
    to = (sample * tokens + rows[:, None]) * heads * D + head * D + channels[None, :]
    tl.store(out_at + to, value.to(q.dtype), mask=mine)
    tl.store(d_out_at + to, slope.to(q.dtype), mask=mine)


def suits(*tensors: Tensor) -> bool:
    """True where the kernel can take q, k, v and their tangents: one dtype of `DTYPES`, one shape, small heads."""
    first = tensors[0]
    alike = all(x.dtype == first.dtype and x.shape == first.shape for x in tensors)
    return alike and first.dtype in DTYPES and first.shape[-1] <= LARGEST_HEAD


def attention_tangent(q: Tensor, k: Tensor, v: Tensor, dq: Tensor, dk: Tensor, dv: Tensor) -> tuple[Tensor, Tensor]:
    """softmax(q k' / sqrt(d)) v and its derivative along (dq, dk, dv), each (..., heads, tokens, d), without a graph.

    Heads that are views of one product, (..., tokens, heads, d) transposed, are read where they lie, and both results
    are such views.
    """
    shape = q.shape
    *values, heads, tokens, d = _laid_out(q, k, v)
    tangents = _laid_out(dq, dk, dv)[:3]
    out, d_out = (values[0].new_empty(len(values[0]), tokens, heads, d).transpose(1, 2) for _ in range(2))
    width = max(16, triton.next_power_of_2(d))
    rows = 64 if width <= 64 else 32
    grid: Any = (triton.cdiv(tokens, rows), len(out) * heads)
    _attend[grid](
        *values, *tangents, out, d_out, heads, tokens, d**-0.5, *values[0].stride()[:3], *tangents[0].stride()[:3],
        D=d, WIDTH=width, ROWS=rows, KEYS=32, num_warps=4,
    )  # fmt: skip
    return out.reshape(shape), d_out.reshape(shape)


def _laid_out(*given: Tensor) -> tuple[Any, ...]:
    """Three tensors as (samples, heads, tokens, d), copied unless they have the same strides; and the last three."""
    heads, tokens, d = given[0].shape[-3:] if given[0].ndim > 2 else (1, *given[0].shape)
    parts = [x.reshape(-1, heads, tokens, d) for x in given]
    first = parts[0].stride()
    if first[3] != 1 or any(x.stride() != first for x in parts):
        parts = [x.contiguous() for x in parts]
    return *parts, heads, tokens, d
