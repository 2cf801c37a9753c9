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
    q_at, k_at, v_at, dq_at, dk_at, dv_at, out_at, d_out_at, tokens, scale,
    D: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    start = tl.program_id(1).to(tl.int64) * tokens * D
    rows, channels = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, WIDTH)
    mine = (rows[:, None] < tokens) & (channels[None, :] < D)
    place = start + rows[:, None] * D + channels[None, :]
    q, dq = tl.load(q_at + place, mask=mine, other=0.0), tl.load(dq_at + place, mask=mine, other=0.0)

    largest = tl.full([ROWS], float("-inf"), tl.float32)
    total, drift = tl.zeros([ROWS], tl.float32), tl.zeros([ROWS], tl.float32)
    value, slope = tl.zeros([ROWS, WIDTH], tl.float32), tl.zeros([ROWS, WIDTH], tl.float32)
    for first in range(0, tokens, KEYS):
        keys = first + tl.arange(0, KEYS)
        there = (keys[:, None] < tokens) & (channels[None, :] < D)
        at = start + keys[:, None] * D + channels[None, :]
        k, dk = tl.load(k_at + at, mask=there, other=0.0), tl.load(dk_at + at, mask=there, other=0.0)
        v, dv = tl.load(v_at + at, mask=there, other=0.0), tl.load(dv_at + at, mask=there, other=0.0)
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
    tl.store(out_at + place, value.to(q.dtype), mask=mine)
    tl.store(d_out_at + place, slope.to(q.dtype), mask=mine)


def suits(*tensors: Tensor) -> bool:
    """True where the kernel can take q, k, v and their tangents: one dtype of `DTYPES`, one shape, small heads."""
    first = tensors[0]
    alike = all(x.dtype == first.dtype and x.shape == first.shape for x in tensors)
    return alike and first.dtype in DTYPES and first.shape[-1] <= LARGEST_HEAD


def attention_tangent(q: Tensor, k: Tensor, v: Tensor, dq: Tensor, dk: Tensor, dv: Tensor) -> tuple[Tensor, Tensor]:
    """softmax(q k' / sqrt(d)) v and its derivative along (dq, dk, dv), each (..., tokens, d), without a graph."""
    *_, tokens, d = q.shape
    given = [x.contiguous() for x in (q, k, v, dq, dk, dv)]
    out, d_out = torch.empty_like(given[0]), torch.empty_like(given[0])
    width = max(16, triton.next_power_of_2(d))
    rows = 64 if width <= 64 else 32
    grid: Any = (triton.cdiv(tokens, rows), q[..., 0, 0].numel())
    _attend[grid](*given, out, d_out, tokens, d**-0.5, D=d, WIDTH=width, ROWS=rows, KEYS=32, num_warps=4)
    return out, d_out
