"""The module of `SiT`: tokens in, blocks, one or two heads."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ablate_core.architectures import ends_on_cpu
from ablate_core.architectures.base import Network
from ablate_core.architectures.embeddings import (
    TIME_FEATURES,
    LogVariance,
    TimeEmbedder,
    rotary,
    sincos_2d,
    sinusoid,
)
from ablate_core.architectures.pairs import Pair, add, concatenate, linear, modulate, silu, subtract
from ablate_core.architectures.sit_blocks import Block, GatedBlock, ModulatedBlock, Modulation, Norm, Rotation
from ablate_core.architectures.sit_init import PATCH, TABLE, fill_linear, fill_time

if TYPE_CHECKING:
    from ablate_core.architectures.sit import SiT

HALVINGS = 7
"""The most halvings of [0, 1] that a step is told as: 128 steps, the grid of kvfrans/shortcut-models."""


def _landing(r: Pair, t: Pair) -> Pair:
    return r


def _gap(r: Pair, t: Pair) -> Pair:
    return subtract(t, r)


def _halvings(r: Pair, t: Pair) -> Pair:
    """log2(1 / (t - r)), at most `HALVINGS`, where it is flat."""
    gap = subtract(t, r)
    floor = 2.0**-HALVINGS

    def slope(change: Tensor, gap: Tensor) -> Tensor:
        falls = -change / (gap.clamp(min=floor) * math.log(2))
        return torch.where(gap > floor, falls, torch.zeros_like(falls))

    return gap.then(-torch.log2(gap.value.clamp(min=floor)), slope, gap.value)


SECOND_TIME: dict[str, Callable[[Pair, Pair], Pair]] = {
    "t_gap": _gap,
    "t_r": _landing,
    "gap": _gap,
    "t_log2_gap": _halvings,
}
"""What is told beside t, or alone, by `SiT.time_inputs`; nothing where it is missing."""


class Head(nn.Module):
    """The blocks that a velocity head does not share, its norm, modulation and output layer."""

    def __init__(self, config: SiT, pixels: int) -> None:
        super().__init__()
        width = config.resolved_size.width
        self.blocks = nn.ModuleList(_block(config) for _ in range(config.own_velocity_blocks))
        self.modulation = _last_modulation(config)
        self.output = nn.Linear(width, pixels)
        self.norm = Norm(width, config.norm, config.norm_affine)
        fill_linear(self, config.init)
        zero_outputs(self)


class SiTNetwork(Network):
    """The module of `SiT`. Unlabelled data (num_classes 0) has no label table; others have num_classes + 1 rows.

    The condition (B, width) is emb(times) + emb(y) + emb(guidance inputs). In context each of the three is added to
    learned tokens instead, which go before the patches: class, guidance inputs, times.
    """

    position: Tensor | None
    cos: Tensor | None
    sin: Tensor | None

    def __init__(
        self,
        config: SiT,
        shape: tuple[int, int, int],
        num_classes: int,
        log_variance: bool,
        velocity_head: bool,
        guidance_inputs: int,
    ) -> None:
        super().__init__()
        depth, width, _ = config.resolved_size
        pixels = shape[0] * config.patch * config.patch
        self.shape, self.patch = shape, config.patch
        self.grid = (shape[1] // config.patch, shape[2] // config.patch)
        self.early_blocks, self.own_velocity_blocks = config.early_blocks, config.own_velocity_blocks
        self.decoupled, self.in_context = config.conditioning == "decoupled", config.conditioning == "in_context"
        self.second_time = None if self.decoupled else SECOND_TIME.get(config.time_inputs)

        # A patch convolution as a matrix product, through a bottleneck where there is one.
        bottleneck, told_t = config.patch_bottleneck, config.time_inputs != "gap"
        self.squeeze_patch = nn.Linear(pixels, bottleneck, bias=False) if bottleneck else None
        self.embed_patch = nn.Linear(bottleneck or pixels, width)
        self.embed_t = TimeEmbedder(width, config.time_scale) if told_t else None
        self.embed_gap = TimeEmbedder(width, config.time_scale) if self.second_time else None
        self.embed_label = nn.Embedding(num_classes + 1, width) if num_classes else None
        self.blocks = nn.ModuleList(_block(config) for _ in range(depth))
        self.modulation = _last_modulation(config)
        self.output = nn.Linear(width, pixels)
        self.norm = Norm(width, config.norm, config.norm_affine)
        self.log_variance_head = LogVariance(width if told_t else TIME_FEATURES) if log_variance else None

        counts = _token_counts(config, num_classes, guidance_inputs)
        self.prefix = sum(counts)
        self.tokens = nn.ParameterList(nn.Parameter(torch.empty(count, width)) for count in counts)
        self._place(config)
        self._initialise(config.init)

        # What depends on the objective is made last: the common weights then start alike for one seed.
        guidance = [TimeEmbedder(width) for _ in range(guidance_inputs)]
        for embedder in guidance:
            fill_time(embedder, config.init)
        self.embed_guidance = nn.ModuleList(guidance)
        self.velocity_head = Head(config, pixels) if velocity_head else None

    def _place(self, config: SiT) -> None:
        """Where a token is: added to it (of patches only, unless learned), and how its queries and keys are turned."""
        _, width, heads = config.resolved_size
        (rows, columns), d = self.grid, width // heads
        self.position_learned = config.position == "learned"
        if self.position_learned:
            self.position = nn.Parameter(torch.empty(self.prefix + rows * columns, width))
        else:
            fixed = sincos_2d(width, rows, columns) if config.position == "sincos" else None
            self.register_buffer("position", fixed, persistent=False)
        angles = None
        if config.rope == "1d":
            angles = rotary(torch.arange(self.prefix + rows * columns), d)
        elif config.rope == "2d":  # the tokens of the condition have no place in the image and are not turned
            row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
            image = torch.cat([rotary(row.flatten(), d // 2), rotary(column.flatten(), d // 2)], dim=1)
            angles = torch.cat([image.new_zeros(self.prefix, d // 2), image])
        self.register_buffer("cos", None if angles is None else angles.cos().float(), persistent=False)
        self.register_buffer("sin", None if angles is None else angles.sin().float(), persistent=False)

    def _initialise(self, init: str) -> None:
        """As `init` says; zero where the output starts at zero. Norms and gates are made as they start."""
        fill_linear(self, init)
        if init in PATCH:
            PATCH[init](self.embed_patch.weight)
        for embedder in (self.embed_t, self.embed_gap):
            if embedder is not None:
                fill_time(embedder, init)
        if self.embed_label is not None:
            TABLE[init](self.embed_label.weight)
        for tokens in self.tokens:
            TABLE[init](tokens)
        if isinstance(self.position, nn.Parameter):
            nn.init.normal_(self.position, std=0.02)
        zero_outputs(self)

    def forward(self, x: Tensor, r: Tensor, t: Tensor, y: Tensor | None, g: Tensor | None = None) -> Tensor:
        return self._output(Pair(x), Pair(r), Pair(t), y, g).value

    def forward_heads(
        self, x: Tensor, r: Tensor, t: Tensor, y: Tensor | None, g: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        if self.velocity_head is None:
            return super().forward_heads(x, r, t, y, g)
        h, conditions = self._start(Pair(x), Pair(r), Pair(t), y, g)
        shared = len(self.blocks) - self.own_velocity_blocks
        h = self._through(h, self.blocks[:shared], conditions[:shared])
        u = self._through(h, self.blocks[shared:], conditions[shared:])
        v = self._through(h, self.velocity_head.blocks, conditions[shared:])
        u, v = self._finish(u, conditions[-1], self), self._finish(v, conditions[-1], self.velocity_head)
        return u.value.to(x.dtype), v.value.to(x.dtype)

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
        out = self._output(Pair(x, dx), Pair(r, dr), Pair(t, dt), y, g)
        assert out.tangent is not None
        return out.value, out.tangent

    def forward_beside_tangent(
        self,
        x: Tensor,
        r: Tensor,
        t: Tensor,
        y: Tensor | None,
        dx: Tensor,
        dt: Tensor,
        g: Tensor | None = None,
        *,
        index: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        rows = len(dx) if index is None else index
        out = self._output(Pair(x, dx, rows), Pair(r), Pair(t, dt, rows), y, g)
        assert out.tangent is not None
        return out.value, out.tangent

    def log_variance(self, t: Tensor) -> Tensor:
        if self.log_variance_head is None:
            return super().log_variance(t)
        features = sinusoid(t) if self.embed_t is None else self.embed_t(t)
        out: Tensor = self.log_variance_head(features)
        return out

    def _output(self, x: Pair, r: Pair, t: Pair, y: Tensor | None, g: Tensor | None) -> Pair:
        h, conditions = self._start(x, r, t, y, g)
        h = self._through(h, self.blocks, conditions)
        return self._finish(h, conditions[-1], self).to(x.value.dtype)

    def _start(
        self, x: Pair, r: Pair, t: Pair, y: Tensor | None, g: Tensor | None
    ) -> tuple[Pair, Sequence[Pair | None]]:
        """Tokens (B, tokens, width), and for each block its condition (B, width) after the SiLU."""
        patches = x.map(self._patchify)
        if self.squeeze_patch is not None:
            patches = linear(self.squeeze_patch, patches)
        h = linear(self.embed_patch, patches).to(x.value.dtype)
        times, others = self._times(r, t), self._label_and_guidance(y, g)
        if self.in_context:
            parts = zip([*others, times], self.tokens, strict=True)
            prefix = [Pair(tokens + part.value[:, None], _expanded(part, tokens), part.rows) for part, tokens in parts]
            return self._placed(h, prefix), [None] * len(self.blocks)
        early = late = silu(_total([times, *others]))
        if self.decoupled and self.embed_t is not None:
            late = silu(_total([self.embed_t.embed(r), *others]))
        conditions = [early] * self.early_blocks + [late] * (len(self.blocks) - self.early_blocks)
        return self._placed(h, []), conditions

    def _times(self, r: Pair, t: Pair) -> Pair:
        """Embedding of the times, (B, width)."""
        parts = [] if self.embed_t is None else [self.embed_t.embed(t)]
        if self.embed_gap is not None and self.second_time is not None:
            parts.append(self.embed_gap.embed(self.second_time(r, t)))
        return _total(parts)

    def _label_and_guidance(self, y: Tensor | None, g: Tensor | None) -> list[Pair]:
        """Embeddings (B, width) of the class and of each guidance input, where the network has them."""
        parts = []
        if self.embed_label is not None:
            if y is None:
                raise ValueError("this network was built for labelled data: pass labels, or the null class")
            parts.append(Pair(self.embed_label(y)))
        if len(self.embed_guidance):
            if g is None or g.shape[1] != len(self.embed_guidance):
                raise ValueError(
                    f"this network was built with {len(self.embed_guidance)} guidance inputs: pass them as g"
                )
            parts += [Pair(embed(column)) for embed, column in zip(self.embed_guidance, g.unbind(1), strict=True)]
        return parts

    def _placed(self, h: Pair, prefix: list[Pair]) -> Pair:
        """All tokens with their positions added."""
        everywhere = self.position_learned
        if self.position is not None and not everywhere:
            h = h._replace(value=h.value + self.position.to(h.value.dtype))
        if prefix:
            h = concatenate([*prefix, h], dim=1)
        if self.position is not None and everywhere:
            h = h._replace(value=h.value + self.position.to(h.value.dtype))
        return h

    def _through(self, h: Pair, blocks: Iterable[nn.Module], conditions: Iterable[Pair | None]) -> Pair:
        rotation = None if self.cos is None or self.sin is None else Rotation(self.cos, self.sin)
        for block, condition in zip(blocks, conditions, strict=True):
            h = block(h, condition, rotation)
        return h

    def _finish(self, h: Pair, c: Pair | None, head: Head | SiTNetwork) -> Pair:
        """Output of a head, (B, C, H, W)."""
        if head.norm.plain and not self.prefix and head.modulation is not None and c is not None:
            if ends_on_cpu.suits_finish(head.modulation, h, c):
                return ends_on_cpu.finish(head.modulation, head.output, h, c).map(self._unpatchify)
        h = head.norm(h.map(lambda tokens: tokens[:, self.prefix :]) if self.prefix else h)
        if head.modulation is not None and c is not None:
            shift, scale = head.modulation.factors(c)
            h = modulate(h, shift, scale)
        return linear(head.output, h).map(self._unpatchify)

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


def zero_outputs(head: Head | SiTNetwork) -> None:
    """What starts at zero: the output layer and, with adaLN, every modulation."""
    nn.init.zeros_(head.output.weight)
    for module in head.modules():
        if isinstance(module, Modulation):
            nn.init.zeros_(module.weight)


def _block(config: SiT) -> Block:
    return GatedBlock(config) if config.conditioning == "in_context" else ModulatedBlock(config)


def _last_modulation(config: SiT) -> Modulation | None:
    width = config.resolved_size.width
    return None if config.conditioning == "in_context" else Modulation(width, 2, config.modulation_norm)


def _token_counts(config: SiT, num_classes: int, guidance_inputs: int) -> list[int]:
    """Tokens of each part of the condition, in their order: class, guidance inputs, times."""
    if config.conditioning != "in_context":
        return []
    guidance = [config.guidance_tokens] + [config.window_tokens] * (guidance_inputs - 1)
    return [config.class_tokens] * (num_classes > 0) + guidance[:guidance_inputs] + [config.time_tokens]


def _total(parts: list[Pair]) -> Pair:
    total = parts[0]
    for part in parts[1:]:
        total = add(total, part)
    return total


def _expanded(part: Pair, tokens: Tensor) -> Tensor | None:
    """The tangent (B, width) of a condition, on each of its tokens: (B, count, width)."""
    return None if part.tangent is None else part.tangent[:, None].expand(-1, len(tokens), -1)
