"""SiT: the diffusion transformer with two time inputs, t and t - r.

arXiv 2401.08740 (SiT), 2212.09748 (DiT); two times as in EDAPINENUT/ExplicitShortCut arch/sit.py.
"""

from __future__ import annotations

import re
from typing import ClassVar, Literal, NamedTuple

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn
from torch.autograd.forward_ad import unpack_dual
from torch.nn import functional as F

from ablate_core.architectures.base import Architecture, Network
from ablate_core.architectures.embeddings import LogVariance, TimeEmbedder, silu_tangent, sincos_2d


class Size(NamedTuple):
    depth: int
    width: int
    heads: int


SIZES = {
    "tiny": Size(3, 64, 4),  # ours: 8x8 images on one CPU core
    "S": Size(12, 384, 6),
    "B": Size(12, 768, 12),
    "M": Size(16, 1024, 16),
    "L": Size(24, 1024, 16),
    "XL": Size(28, 1152, 16),
}


class SiT(Architecture):
    """Transformer on patches; each block is modulated by emb(t) + emb(t - r) + emb(y) (adaLN-zero).

    The output is exactly 0 at initialisation. Width, depth and heads come from `size` unless they are given.
    """

    name: Literal["sit"] = "sit"
    size: str = Field("B/2", description="tiny, S, B, M, L or XL, a slash, and the patch edge in pixels")
    depth: int | None = Field(None, gt=0, description="number of blocks; null: that of `size`")
    width: int | None = Field(None, gt=0, description="channels of a token; null: that of `size`")
    heads: int | None = Field(None, gt=0, description="attention heads; null: those of `size`")
    mlp_ratio: float = Field(4.0, gt=0, description="hidden width of a block's MLP over its width")
    time_scale: Literal[1, 1000] = Field(1, description="times are multiplied by this before the sinusoid")
    fused_attention: bool = Field(True, description="fused attention wherever no forward-mode derivative is taken")

    jvp_safe: ClassVar[bool] = True
    accepts_log_variance: ClassVar[bool] = True

    @field_validator("size")
    @classmethod
    def _known_size(cls, size: str) -> str:
        match = re.fullmatch(r"(\w+)/([1-9]\d*)", size)
        if match is None or match[1] not in SIZES:
            raise ValueError(f"a SiT size is one of {', '.join(SIZES)}, a slash and the patch, as in B/2; got {size!r}")
        return size

    @property
    def patch(self) -> int:
        return int(self.size.split("/")[1])

    @property
    def resolved_size(self) -> Size:
        """Depth, width and heads after the explicit fields."""
        default = SIZES[self.size.split("/")[0]]
        return Size(self.depth or default.depth, self.width or default.width, self.heads or default.heads)

    def build(
        self,
        shape: tuple[int, ...],
        num_classes: int,
        *,
        log_variance: bool = False,
        velocity_head: bool = False,
        guidance_inputs: int = 0,
    ) -> SiTNetwork:
        """Raises ValueError where the shape does not fit the patch or the width does not fit the heads."""
        _, width, heads = self.resolved_size
        if len(shape) != 3 or shape[1] % self.patch or shape[2] % self.patch:
            raise ValueError(f"sit needs images (C, H, W) with sides divisible by its patch {self.patch}, got {shape}")
        if width % heads or width % 4:
            raise ValueError(f"the width of a sit is divisible by 4 and by its heads, got width {width}, heads {heads}")
        network = SiTNetwork(
            shape=(shape[0], shape[1], shape[2]),
            num_classes=num_classes,
            size=self.resolved_size,
            patch=self.patch,
            mlp_ratio=self.mlp_ratio,
            time_scale=self.time_scale,
            fused_attention=self.fused_attention,
            log_variance=log_variance,
        )
        network.reset_parameters()
        return network


class SiTNetwork(Network):
    """The module of `SiT`. Unlabelled data (num_classes 0) has no label table; others have num_classes + 1 rows."""

    position: Tensor

    def __init__(
        self,
        *,
        shape: tuple[int, int, int],
        num_classes: int,
        size: Size,
        patch: int,
        mlp_ratio: float,
        time_scale: float,
        fused_attention: bool,
        log_variance: bool,
    ) -> None:
        super().__init__()
        channels, height, width_px = shape
        self.shape, self.patch = shape, patch
        self.grid = (height // patch, width_px // patch)
        self.embed_patch = nn.Linear(channels * patch * patch, size.width)  # a patch convolution as a matrix product
        self.embed_t = TimeEmbedder(size.width, time_scale)
        self.embed_gap = TimeEmbedder(size.width, time_scale)
        self.embed_label = nn.Embedding(num_classes + 1, size.width) if num_classes else None
        hidden = int(size.width * mlp_ratio)
        self.blocks = nn.ModuleList(Block(size.width, size.heads, hidden, fused_attention) for _ in range(size.depth))
        self.modulation = nn.Linear(size.width, 2 * size.width)
        self.output = nn.Linear(size.width, channels * patch * patch)
        self.register_buffer("position", sincos_2d(size.width, *self.grid), persistent=False)
        self.log_variance_head = LogVariance(size.width) if log_variance else None

    def reset_parameters(self) -> None:
        """Xavier for linear layers, N(0, 0.02^2) for labels and times, zero where the output starts at zero."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        self.embed_t.reset_parameters()
        self.embed_gap.reset_parameters()
        if self.embed_label is not None:
            nn.init.normal_(self.embed_label.weight, std=0.02)
        for block in self.blocks:
            assert isinstance(block, Block)
            nn.init.zeros_(block.modulation.weight)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.output.weight)

    def forward(self, x: Tensor, r: Tensor, t: Tensor, y: Tensor | None, g: Tensor | None = None) -> Tensor:
        c = F.silu(self.embed_t(t) + self.embed_gap(t - r) + self._label(y))  # [B, width]
        h = self.embed_patch(self._patchify(x)) + self.position.to(x.dtype)  # [B, tokens, width]
        for block in self.blocks:
            h = block(h, c)
        shift, scale = self.modulation(c).chunk(2, dim=1)
        return self._unpatchify(self.output(modulate(h, shift, scale))).to(x.dtype)

    def forward_and_tangent(
        self,
        x: Tensor,
        r: Tensor,
        t: Tensor,
        y: Tensor | None,
        dx: Tensor,
        dt: Tensor,
        *,
        dr: Tensor | None = None,
        g: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        c, dc = self.embed_t.forward_and_tangent(t, dt)
        gap, d_gap = self.embed_gap.forward_and_tangent(t - r, dt if dr is None else dt - dr)
        c, dc = c + gap + self._label(y), dc + d_gap
        c, dc = F.silu(c), silu_tangent(c, dc)
        h = self.embed_patch(self._patchify(x)) + self.position.to(x.dtype)
        dh = F.linear(self._patchify(dx), self.embed_patch.weight).to(h.dtype)
        for block in self.blocks:
            assert isinstance(block, Block)
            h, dh = block.forward_and_tangent(h, dh, c, dc)
        shift, scale = self.modulation(c).chunk(2, dim=1)
        d_shift, d_scale = F.linear(dc, self.modulation.weight).chunk(2, dim=1)
        h, dh = modulate_tangent(h, dh, shift, d_shift, scale, d_scale)
        out, d_out = self.output(h), F.linear(dh, self.output.weight)
        return self._unpatchify(out).to(x.dtype), self._unpatchify(d_out).to(x.dtype)

    def _label(self, y: Tensor | None) -> Tensor | float:
        """Embedding of the classes (B,), or 0 for a network without labels."""
        if self.embed_label is None:
            return 0.0
        if y is None:
            raise ValueError("this network was built for labelled data: pass labels, or the null class")
        out: Tensor = self.embed_label(y)
        return out

    def log_variance(self, t: Tensor) -> Tensor:
        if self.log_variance_head is None:
            return super().log_variance(t)
        out: Tensor = self.log_variance_head(self.embed_t(t))
        return out

    def _patchify(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, tokens, C * patch * patch), channel first inside a patch."""
        (rows, columns), p = self.grid, self.patch
        x = x.reshape(len(x), self.shape[0], rows, p, columns, p)
        return x.permute(0, 2, 4, 1, 3, 5).reshape(len(x), rows * columns, -1)

    def _unpatchify(self, h: Tensor) -> Tensor:
        """(B, tokens, patch * patch * C), channel last inside a patch as in DiT -> (B, C, H, W)."""
        (rows, columns), p = self.grid, self.patch
        h = h.reshape(len(h), rows, columns, p, p, self.shape[0])
        return h.permute(0, 5, 1, 3, 2, 4).reshape(len(h), *self.shape)


class Block(nn.Module):
    """LayerNorm -> modulate -> attention x gate, LayerNorm -> modulate -> MLP x gate; no affine in the norms."""

    def __init__(self, width: int, heads: int, hidden: int, fused_attention: bool) -> None:
        super().__init__()
        self.heads, self.fused_attention = heads, fused_attention
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.expand = nn.Linear(width, hidden)
        self.contract = nn.Linear(hidden, width)
        self.modulation = nn.Linear(width, 6 * width)

    def forward(self, h: Tensor, c: Tensor) -> Tensor:
        """h (B, tokens, width), c (B, width) after its SiLU -> (B, tokens, width)."""
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulation(c).chunk(6, dim=1)
        h = torch.addcmul(h, gate_a[:, None], self._attend(modulate(h, shift_a, scale_a)))
        mlp = self.contract(F.gelu(self.expand(modulate(h, shift_m, scale_m)), approximate="tanh"))
        return torch.addcmul(h, gate_m[:, None], mlp)

    def forward_and_tangent(self, h: Tensor, dh: Tensor, c: Tensor, dc: Tensor) -> tuple[Tensor, Tensor]:
        """The block and its derivative along (dh, dc), each (B, tokens, width)."""
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulation(c).chunk(6, dim=1)
        d_modulation = F.linear(dc, self.modulation.weight).chunk(6, dim=1)
        d_shift_a, d_scale_a, d_gate_a, d_shift_m, d_scale_m, d_gate_m = d_modulation
        m, dm = modulate_tangent(h, dh, shift_a, d_shift_a, scale_a, d_scale_a)
        a, da = self._attend_tangent(m, dm)
        h, dh = gated_tangent(h, dh, gate_a, d_gate_a, a, da)
        m, dm = modulate_tangent(h, dh, shift_m, d_shift_m, scale_m, d_scale_m)
        z, dz = self.expand(m), F.linear(dm, self.expand.weight)
        dz = torch.ops.aten.gelu_backward(dz, z, approximate="tanh")
        z = self.contract(F.gelu(z, approximate="tanh"))
        return gated_tangent(h, dh, gate_m, d_gate_m, z, F.linear(dz, self.contract.weight))

    def _attend_tangent(self, h: Tensor, dh: Tensor) -> tuple[Tensor, Tensor]:
        batch, tokens, width = h.shape
        heads = (batch, tokens, 3, self.heads, -1)
        q, k, v = self.qkv(h).reshape(heads).permute(2, 0, 3, 1, 4)
        dq, dk, dv = F.linear(dh, self.qkv.weight).reshape(heads).permute(2, 0, 3, 1, 4)
        factor = (width // self.heads) ** -0.5
        q, dq = q * factor, dq * factor
        weights = (q @ k.transpose(-2, -1)).softmax(dim=-1)
        d_scores = (dq @ k.transpose(-2, -1) + q @ dk.transpose(-2, -1)).to(weights.dtype)
        d_weights = torch.ops.aten._softmax_backward_data(d_scores, weights, -1, weights.dtype)  # symmetric Jacobian
        out, d_out = weights @ v, d_weights @ v + weights @ dv
        out, d_out = (o.transpose(1, 2).reshape(batch, tokens, width) for o in (out, d_out))
        return self.project(out), F.linear(d_out, self.project.weight)

    def _attend(self, h: Tensor) -> Tensor:
        batch, tokens, width = h.shape
        q, k, v = self.qkv(h).reshape(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        if self.fused_attention and _has_no_tangent(q):
            out = F.scaled_dot_product_attention(q, k, v)
        else:  # fused kernels have no forward-mode rule (pytorch issue 128971)
            weights = ((q * (width // self.heads) ** -0.5) @ k.transpose(-2, -1)).softmax(dim=-1)
            out = weights @ v
        projected: Tensor = self.project(out.transpose(1, 2).reshape(batch, tokens, width))
        return projected


def _has_no_tangent(x: Tensor) -> bool:
    """False inside a forward-mode derivative that reaches `x`."""
    return unpack_dual(x).tangent is None  # type: ignore[no-untyped-call]


def modulate(h: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """LayerNorm without affine, then h (1 + scale) + shift: (B, tokens, width) with (B, width) factors."""
    return torch.addcmul(shift[:, None], F.layer_norm(h, h.shape[-1:], eps=1e-6), 1 + scale[:, None])


def modulate_tangent(
    h: Tensor, dh: Tensor, shift: Tensor, d_shift: Tensor, scale: Tensor, d_scale: Tensor
) -> tuple[Tensor, Tensor]:
    """`modulate` and its derivative along (dh, d_shift, d_scale), each (B, tokens, width)."""
    shape = [h.shape[-1]]
    normal, mean, rstd = torch.native_layer_norm(h, shape, None, None, 1e-6)
    # The Jacobian of a LayerNorm without affine is symmetric, so its backward kernel is its tangent.
    d_normal, _, _ = torch.ops.aten.native_layer_norm_backward(
        dh, h, shape, mean, rstd, None, None, [True, False, False]
    )
    out = torch.addcmul(shift[:, None], normal, 1 + scale[:, None])
    d_out = torch.addcmul(d_shift[:, None], normal, d_scale[:, None]) + d_normal * (1 + scale[:, None])
    return out, d_out


def gated_tangent(
    h: Tensor, dh: Tensor, gate: Tensor, d_gate: Tensor, branch: Tensor, d_branch: Tensor
) -> tuple[Tensor, Tensor]:
    """h + gate branch and its derivative, each (B, tokens, width); gate (B, width)."""
    out = torch.addcmul(h, gate[:, None], branch)
    return out, torch.addcmul(torch.addcmul(dh, d_gate[:, None], branch), gate[:, None], d_branch)
