"""The U-Net of small images: DDPM++ and NCSN++ (arXiv 2011.13456) as EDM writes them, told two times.

NVlabs/edm training/networks.py (SongUNet); t and t - r are embedded side by side as in Gsunshine/py-meanflow, whose
CIFAR-10 network (PMF10) is the default here.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from ablate_core.architectures.base import Architecture, Network
from ablate_core.architectures.embeddings import LogVariance, frequencies, waves
from ablate_core.architectures.pairs import Pair, add, concatenate, linear, silu, subtract
from ablate_core.architectures.unet_blocks import (
    SKIP_SCALE,
    TINY_GAIN,
    Conv,
    Dropout,
    GroupNorm,
    Resample,
    UNetBlock,
    xavier,
)
from ablate_core.random import stream_seed

EMBEDDING_MULT = 4
FOURIER_SCALE = 16.0


class UNet(Architecture):
    """Residual blocks down and up with skips between them; embeddings of t, t - r and the class shift every block.

    The output of a fresh network is about 1e-5, not 0. With 6 guidance inputs, embedded as EDM embeds the labels of its
    augmentation, the default has on unlabelled 3x32x32 images the 55,932,419 parameters of PMF10; with none 55,929,347.
    """

    name: Literal["unet"] = "unet"
    model_channels: int = Field(128, gt=0, description="channels that the multipliers count in")
    channel_mult: tuple[int, ...] = Field((2, 2, 2), min_length=1, description="channels of a level; each halves sides")
    blocks: int = Field(4, gt=0, description="residual blocks of a level, one more on the way up")
    attention: tuple[int, ...] = Field((16,), description="heights, in pixels, of levels with self-attention")
    dropout: float = Field(0.2, ge=0, lt=1, description="inside every block, while training")
    embedding: Literal["positional", "fourier"] = Field("positional", description="of times; fourier: NCSN++")
    noise_mult: int = Field(2, gt=0, description="features of a time, in model_channels; EDM's DDPM++ has 1")
    encoder: Literal["standard", "residual"] = Field(
        "standard", description="residual: the image enters at every level"
    )
    resample: tuple[int, ...] = Field((1, 3, 3, 1), description="filter taps, an even number; EDM's DDPM++ has [1, 1]")
    time_scale: Literal[1, 1000] = Field(1, description="times are multiplied by this before their features")

    jvp_safe: ClassVar[bool] = True
    accepts_log_variance: ClassVar[bool] = True
    accepts_velocity_head: ClassVar[bool] = True
    accepts_guidance: ClassVar[bool] = True
    zero_at_init: ClassVar[bool] = False

    @field_validator("resample")
    @classmethod
    def _even(cls, taps: tuple[int, ...]) -> tuple[int, ...]:
        if len(taps) % 2 or sum(taps) <= 0 or not taps:
            raise ValueError(f"resample is an even number of taps with a positive sum, got {list(taps)}")
        return taps

    def build(
        self,
        shape: tuple[int, ...],
        num_classes: int,
        *,
        log_variance: bool = False,
        velocity_head: bool = False,
        guidance_inputs: int = 0,
    ) -> UNetNetwork:
        """Raises ValueError where the sides cannot be halved as often as there are levels, or channels not grouped."""
        divisor = 2 ** (len(self.channel_mult) - 1)
        if len(shape) != 3 or shape[1] % divisor or shape[2] % divisor:
            levels = len(self.channel_mult)
            raise ValueError(
                f"unet of {levels} levels needs images (C, H, W), sides divisible by {divisor}, got {shape}"
            )
        return UNetNetwork(self, shape, num_classes, log_variance, velocity_head, guidance_inputs)


class UNetNetwork(Network):
    """The module of `UNet`."""

    fourier: Tensor | None

    def __init__(
        self,
        config: UNet,
        shape: tuple[int, ...],
        num_classes: int,
        log_variance: bool,
        velocity_head: bool,
        guidance_inputs: int,
    ) -> None:
        super().__init__()
        self.time_scale = config.time_scale
        self.features = config.model_channels * config.noise_mult
        width = config.model_channels * EMBEDDING_MULT
        self.embed_inner = xavier(nn.Linear(2 * self.features, width))
        self.embed_outer = xavier(nn.Linear(width, width))
        self.embed_label = nn.Embedding(num_classes + 1, 2 * self.features) if num_classes else None
        if self.embed_label is not None:  # the scale of a linear layer on one-hot labels times sqrt(num_classes)
            bound = math.sqrt(6 * num_classes / (num_classes + 2 * self.features))
            nn.init.uniform_(self.embed_label.weight, -bound, bound)
        random = FOURIER_SCALE * torch.randn(self.features // 2) if config.embedding == "fourier" else None
        self.register_buffer("fourier", random)

        self.encoder = Encoder(config, shape, width)
        self.decoder = Decoder(config, shape, width, list(self.encoder.skips))
        self.output = Ending(self.decoder.channels, shape[0])
        self.log_variance_head = LogVariance(self.features) if log_variance else None
        # What depends on the objective is made last: the common weights then start alike for one seed.
        own = nn.Linear(guidance_inputs, 2 * self.features, bias=False) if guidance_inputs else None
        self.embed_guidance = None if own is None else xavier(own)
        self.velocity_output = Ending(self.decoder.channels, shape[0]) if velocity_head else None

    @property
    def drops(self) -> bool:
        return any(module.p > 0 for module in self.modules() if isinstance(module, Dropout))

    def use_dropout(self, seed: int | None) -> None:
        layers = (module for module in self.modules() if isinstance(module, Dropout))
        for index, layer in enumerate(layers):
            layer.seed = None if seed is None else stream_seed(seed, "dropout.layer", index)

    def forward(self, x: Tensor, r: Tensor, t: Tensor, y: Tensor | None, g: Tensor | None = None) -> Tensor:
        out: Pair = self.output(self._trunk(Pair(x), Pair(r), Pair(t), y, g))
        return out.value.to(x.dtype)

    def forward_heads(
        self, x: Tensor, r: Tensor, t: Tensor, y: Tensor | None, g: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        if self.velocity_output is None:
            return super().forward_heads(x, r, t, y, g)
        h = self._trunk(Pair(x), Pair(r), Pair(t), y, g)
        return self.output(h).value.to(x.dtype), self.velocity_output(h).value.to(x.dtype)

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
        out: Pair = self.output(self._trunk(Pair(x, dx), Pair(r, dr), Pair(t, dt), y, g)).to(x.dtype)
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
        if self.drops:  # a mask is of a whole batch
            return super().forward_beside_tangent(x, r, t, y, dx, dt, g, index=index)
        rows = len(dx) if index is None else index
        out: Pair = self.output(self._trunk(Pair(x, dx, rows), Pair(r), Pair(t, dt, rows), y, g)).to(x.dtype)
        assert out.tangent is not None
        return out.value, out.tangent

    def log_variance(self, t: Tensor) -> Tensor:
        if self.log_variance_head is None:
            return super().log_variance(t)
        out: Tensor = self.log_variance_head(self._features(Pair(t)).value)
        return out

    def _trunk(self, x: Pair, r: Pair, t: Pair, y: Tensor | None, g: Tensor | None) -> Pair:
        """(B, channels, H, W) before the last norm."""
        h = concatenate([self._features(t), self._features(subtract(t, r))], dim=1)
        if self.embed_label is not None:
            if y is None:
                raise ValueError("this network was built for labelled data: pass labels, or the null class")
            h = h._replace(value=h.value + self.embed_label(y))
        if self.embed_guidance is not None:
            if g is None:
                raise ValueError("this network was built with guidance inputs: pass g")
            h = h._replace(value=h.value + self.embed_guidance(g))
        h = h.to(self.embed_inner.weight.dtype)
        embedding = silu(linear(self.embed_outer, silu(linear(self.embed_inner, h))))
        out: Pair = self.decoder(self.encoder(x, embedding), embedding)
        return out

    def _features(self, t: Pair) -> Pair:
        """(B,) -> (B, features): [cos, sin] at frequencies from 1 down to 1 / 10000, or at random ones."""
        t = t.to(torch.promote_types(t.value.dtype, torch.float32)).map(lambda time: time * self.time_scale)
        if self.fourier is not None:
            return waves(t, 2 * torch.pi * self.fourier.to(t.value.dtype))
        return waves(t, frequencies(self.features, 10_000.0, t.value, last=True))


class Encoder(nn.Module):
    """The way down. Gives the outputs of all its layers, the last one first to be used."""

    def __init__(self, config: UNet, shape: tuple[int, ...], width: int) -> None:
        super().__init__()
        channels = config.model_channels
        self.enter = Conv(shape[0], channels, 3)
        self.skips = [channels]
        self.down, self.images, self.levels = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        image = shape[0]
        for level, mult in enumerate(config.channel_mult):
            if level:
                half = Resample(config.resample, up=False)
                self.down.append(UNetBlock(channels, channels, width, config.dropout, resample=half))
                self.skips.append(channels)
                if config.encoder == "residual":
                    self.images.append(ImageDown(image, channels, config.resample))
                    image = channels
            attend = shape[1] >> level in config.attention
            blocks = nn.ModuleList()
            for _ in range(config.blocks):
                blocks.append(UNetBlock(channels, config.model_channels * mult, width, config.dropout, attend=attend))
                channels = config.model_channels * mult
                self.skips.append(channels)
            self.levels.append(blocks)

    def forward(self, x: Pair, embedding: Pair) -> list[Pair]:
        image, h = x, self.enter.carry(x)
        outputs = [h]
        for level, blocks in enumerate(_lists(self.levels)):
            if level:
                h = self.down[level - 1](h, embedding)
                if len(self.images):
                    h = image = add(h, self.images[level - 1](image)).map(lambda p: p * SKIP_SCALE)
                outputs.append(h)
            for block in blocks:
                h = block(h, embedding)
                outputs.append(h)
        return outputs


class ImageDown(nn.Module):
    """The image, convolved and halved, for the residual encoder (NCSN++)."""

    def __init__(self, inputs: int, outputs: int, taps: tuple[int, ...]) -> None:
        super().__init__()
        self.conv = Conv(inputs, outputs, 3, extra_padding=(len(taps) - 1) // 2)
        self.shrink = Resample(taps, up=False, padded=False)

    def forward(self, x: Pair) -> Pair:
        out: Pair = self.shrink(self.conv.carry(x))
        return out


class Decoder(nn.Module):
    """The way up. Every block but those that start a level also gets the output of the encoder that mirrors it."""

    def __init__(self, config: UNet, shape: tuple[int, ...], width: int, skips: list[int]) -> None:
        super().__init__()
        channels = skips[-1]
        self.starts, self.levels = nn.ModuleList(), nn.ModuleList()
        last = len(config.channel_mult) - 1
        for level in range(last, -1, -1):
            if level == last:
                first = UNetBlock(channels, channels, width, config.dropout, attend=True)
                self.starts.append(nn.ModuleList([first, UNetBlock(channels, channels, width, config.dropout)]))
            else:
                twice = Resample(config.resample, up=True)
                up = UNetBlock(channels, channels, width, config.dropout, resample=twice)
                self.starts.append(nn.ModuleList([up]))
            blocks, outputs = nn.ModuleList(), config.model_channels * config.channel_mult[level]
            for index in range(config.blocks + 1):
                attend = index == config.blocks and shape[1] >> level in config.attention
                blocks.append(UNetBlock(channels + skips.pop(), outputs, width, config.dropout, attend=attend))
                channels = outputs
            self.levels.append(blocks)
        self.channels = channels

    def forward(self, encoded: list[Pair], embedding: Pair) -> Pair:
        h = encoded[-1]
        for start, blocks in zip(_lists(self.starts), _lists(self.levels), strict=True):
            for block in start:
                h = block(h, embedding)
            for block in blocks:
                h = block(concatenate([h, encoded.pop()], dim=1), embedding)
        return h


class Ending(nn.Module):
    """Norm, SiLU and the convolution to the image."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.norm = GroupNorm(channels)
        self.conv = Conv(channels, outputs, 3, TINY_GAIN)

    def forward(self, h: Pair) -> Pair:
        return self.conv.carry(silu(self.norm(h)))


def _lists(modules: nn.ModuleList) -> list[nn.ModuleList]:
    return [module for module in modules if isinstance(module, nn.ModuleList)]
