"""A modulated block of `sit` on a CPU as one node of the graph: value, tangents of some rows and gradient, written out.

Between matrix products everything is one pass in C (`cpu_kernels`). Nothing is computed or kept twice, weight
gradients are added where they are wanted by the products themselves, and GELU gives its derivative together with its
value, so that gradient and tangent only multiply. Where this does not apply, `ModulatedBlock.forward` does the same
operation by operation. Notation is as there; a slope is a gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ablate_core.architectures import block_at_once
from ablate_core.architectures.mix_on_cpu import Mix, mix
from ablate_core.architectures.native import available, differentiable_once, samples_of
from ablate_core.architectures.pairs import Pair, rows_at
from ablate_core.architectures.products import Products, products
from ablate_core.cpu_kernels import kernels, pointer

if TYPE_CHECKING:
    from ablate_core.architectures.sit_blocks import ModulatedBlock, Rotation


def suits(block: ModulatedBlock, h: Pair, c: Pair) -> bool:
    """Whether `run` computes this block: that of DiT, where C is `native.available`."""
    return block.plain and available(h, c)


def run(block: ModulatedBlock, h: Pair, c: Pair, rotation: Rotation | None) -> Pair:
    """Tokens h (B, tokens, width) to the same shape; c (B, width) after its SiLU."""
    rows = None if h.tangent is None else samples_of(h)
    if rotation is None and block_at_once.suits(block, h.value):
        tangents = None
        if h.tangent is not None and c.tangent is not None and rows is not None:
            tangents = h.tangent, c.tangent, rows
        value, tangent = block_at_once.run(block, h.value, c.value, tangents)
        return Pair(value, tangent, None if tangent is None else h.rows)
    layers = [products(layer) for layer in (block.modulation, block.qkv, block.project, block.expand, block.contract)]
    if torch.is_grad_enabled():
        weights = [weight for layer in layers for weight in layer.weights]
        value, tangent = _Block.apply(block, layers, rotation, rows, *h[:2], *c[:2], *weights)
    else:
        loops = _passed(block, layers, rotation, rows, Pair(*h[:2]), Pair(*c[:2]), graph=False)[0]
        value, tangent = loops.h, loops.dh
    return Pair(value, tangent, None if tangent is None else h.rows)


class _Block(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        block: ModulatedBlock,
        layers: Sequence[Products],
        rotation: Rotation | None,
        rows: Tensor | None,
        h: Tensor,
        dh: Tensor | None,
        c: Tensor,
        dc: Tensor | None,
        *weights: Tensor,
    ) -> tuple[Tensor, Tensor | None]:
        loops, mixed, saved = _passed(block, layers, rotation, rows, Pair(h, dh), Pair(c, dc), graph=True)
        ctx.layers, ctx.mixed = layers, mixed
        ctx.save_for_backward(c, loops.factors, *saved)
        if loops.dh is not None:
            ctx.mark_non_differentiable(loops.dh)
        return loops.h, loops.dh

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Any, ...]:
        modulation, qkv, project, expand, contract = ctx.layers
        c, factors, *attention = ctx.saved_tensors
        attention, mlp, (hidden, derivative) = attention[:4], attention[4:8], attention[8:]
        back = _Back(slopes[0].contiguous(), factors)

        inner, sums = back.end(3, *mlp)
        inner, of_contract = contract.pull_back(inner, hidden, sums)
        inner, of_expand = expand.pull_back(inner, mlp[2], back.gelu(inner, derivative))
        back.begin(3, inner, *mlp)

        inner, sums = back.end(0, *attention)
        inner, of_project = project.pull_back(inner, ctx.mixed.out, sums)
        inner, of_qkv = qkv.pull_back(ctx.mixed.pull_back(inner), attention[2])
        back.begin(0, inner, *attention)

        of_c, of_modulation = modulation.pull_back(back.of_factors, c)
        weights = (*of_modulation, *of_qkv, *of_project, *of_expand, *of_contract)
        return None, None, None, None, back.slope, None, of_c, None, *weights


def _passed(
    block: ModulatedBlock,
    layers: Sequence[Products],
    rotation: Rotation | None,
    rows: Tensor | None,
    h: Pair,
    c: Pair,
    graph: bool,
) -> tuple[_Loops, Mix, Sequence[Tensor]]:
    """The block's forward pass: its loops, its attention, and what the backward pass needs beside the two."""
    modulation, qkv, project, expand, contract = layers
    loops = _Loops(h.value.contiguous(), modulation.forward(c.value))
    if rows is not None and h.tangent is not None and c.tangent is not None:
        loops.follow(rows, h.tangent.contiguous(), modulation.tangent(c.tangent))

    loops.begin(0)
    given = qkv.forward(loops.modulated)
    d_given = None if loops.d_modulated is None else qkv.tangent(loops.d_modulated)
    mixed = mix(block, Pair(given, d_given, rows), rotation, graph)
    loops.end(project.forward(mixed.out), None if mixed.d_out is None else project.tangent(mixed.d_out))
    attention = loops.saved()

    loops.begin(3)
    hidden, derivative = loops.gelu(expand.forward(loops.modulated))
    d_out = None
    if loops.d_modulated is not None and rows is not None:
        d_out = contract.tangent(expand.tangent(loops.d_modulated).mul_(rows_at(derivative, rows)))
    loops.end(contract.forward(hidden), d_out)
    return loops, mixed, (*attention, *loops.saved(), hidden, derivative)


class _Loops:
    """The loops of one forward pass, and the tokens that go through them."""

    def __init__(self, h: Tensor, factors: Tensor) -> None:
        self.h, self.factors = h, factors
        self.dh: Tensor | None = None
        self.modulated: Tensor
        self.d_modulated: Tensor | None = None
        self.c = _kernels(h)
        self.size = h.shape
        self.stride = factors.shape[-1]

    def follow(self, rows: Tensor, dh: Tensor, d_factors: Tensor) -> None:
        """Carry the tangents of the samples at `rows` from here on."""
        self.rows, self.dh, self.d_factors = rows, dh, d_factors

    def begin(self, first: int) -> None:
        """Norm and modulation by the factors from `first` on."""
        (batch, tokens, width), h = self.size, self.h
        self.first, shift = first, first * width
        self.normal, self.modulated = torch.empty_like(h), torch.empty_like(h)
        self.rstd = h.new_empty(batch, tokens)
        shift_at, scale_at = pointer(self.factors, shift), pointer(self.factors, shift + width)
        own = (self.normal.data_ptr(), self.rstd.data_ptr(), self.modulated.data_ptr())
        self.c.begin(h.data_ptr(), shift_at, scale_at, self.stride, *own, *self.size)
        if self.dh is not None:
            self.d_modulated = torch.empty_like(self.dh)
            d_shift, d_scale = pointer(self.d_factors, shift), pointer(self.d_factors, shift + width)
            self.c.begin_tangent(
                self.dh.data_ptr(), d_shift, d_scale, scale_at, self.stride,
                own[0], own[1], self.rows.data_ptr(), self.d_modulated.data_ptr(), len(self.dh), tokens, width,
            )  # fmt: skip

    def end(self, out: Tensor, d_out: Tensor | None) -> None:
        """h + gate out."""
        self.out, total = out, torch.empty_like(self.h)
        gate = (self.first + 2) * self.size[2]
        gate_at = pointer(self.factors, gate)
        self.c.add(self.h.data_ptr(), gate_at, out.data_ptr(), self.stride, total.data_ptr(), *self.size)
        self.h = total
        if self.dh is not None and d_out is not None:
            d_total = torch.empty_like(self.dh)
            self.c.add_tangent(
                self.dh.data_ptr(), gate_at, pointer(self.d_factors, gate), self.stride, out.data_ptr(),
                d_out.data_ptr(), self.rows.data_ptr(), d_total.data_ptr(), len(d_total), *self.size[1:],
            )  # fmt: skip
            self.dh = d_total

    def gelu(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """GELU of x, and its derivative in the place of x."""
        out = torch.empty_like(x)
        self.c.gelu(x.data_ptr(), out.data_ptr(), x.data_ptr(), x.numel())
        return out, x

    def saved(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What `_Back` needs of the branch that just ended."""
        return self.normal, self.rstd, self.modulated, self.out


class _Back:
    """The loops of one backward pass, and the slope that goes through them. `saved` is that of the branch."""

    def __init__(self, slope: Tensor, factors: Tensor) -> None:
        self.slope, self.factors, self.of_factors = slope, factors, torch.empty_like(factors)
        self.c, self.size, self.stride = _kernels(slope), slope.shape, factors.shape[-1]

    def end(self, first: int, *saved: Tensor) -> tuple[Tensor, Tensor]:
        """The slope of what the branch gave, and its sums over the tokens of each sample, (B, width)."""
        inner, out, gate = torch.empty_like(self.slope), saved[3], (first + 2) * self.size[2]
        sums = inner.new_empty(self.size[0], self.size[2])
        self.c.add_back(
            self.slope.data_ptr(), pointer(self.factors, gate), out.data_ptr(), self.stride,
            inner.data_ptr(), sums.data_ptr(), pointer(self.of_factors, gate), *self.size,
        )  # fmt: skip
        return inner, sums

    def gelu(self, slope: Tensor, derivative: Tensor) -> Tensor:
        """Through GELU, in place; the sums over the tokens of each sample, (B, hidden)."""
        batch, tokens, hidden = slope.shape
        sums = slope.new_empty(batch, hidden)
        self.c.gelu_back(slope.data_ptr(), derivative.data_ptr(), sums.data_ptr(), batch, tokens, hidden)
        return sums

    def begin(self, first: int, inner: Tensor, *saved: Tensor) -> None:
        """Through modulation and norm: `inner` is the slope of what the branch got."""
        normal, rstd, *_ = saved
        shift, of_h = first * self.size[2], torch.empty_like(self.slope)
        scale = shift + self.size[2]
        self.c.begin_back(
            self.slope.data_ptr(), inner.data_ptr(), normal.data_ptr(), rstd.data_ptr(), pointer(self.factors, scale),
            self.stride, of_h.data_ptr(), pointer(self.of_factors, shift), pointer(self.of_factors, scale), *self.size,
        )  # fmt: skip
        self.slope = of_h


def _kernels(like: Tensor) -> Any:
    return kernels(like.dtype)
