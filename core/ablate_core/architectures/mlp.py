"""A small multilayer perceptron for 2-D toys; it flattens whatever it is given."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ablate_core.architectures.base import Architecture, Network
from ablate_core.architectures.embeddings import LogVariance


class MLP(Architecture):
    """Fully connected SiLU layers on x with Fourier features of t and t - r and a label embedding added."""

    name: Literal["mlp"] = "mlp"
    width: int = Field(128, gt=0, description="hidden units per layer")
    depth: int = Field(3, gt=0, description="hidden layers")
    frequencies: int = Field(4, ge=0, description="Fourier features cos(pi k t), sin(pi k t) for k = 1..frequencies")

    jvp_safe: ClassVar[bool] = True
    accepts_log_variance: ClassVar[bool] = True
    accepts_velocity_head: ClassVar[bool] = True
    accepts_guidance: ClassVar[bool] = True
    stackable: ClassVar[bool] = True

    def build(
        self,
        shape: tuple[int, ...],
        num_classes: int,
        *,
        log_variance: bool = False,
        velocity_head: bool = False,
        guidance_inputs: int = 0,
    ) -> MLPNetwork:
        return MLPNetwork(self, shape, num_classes, log_variance, velocity_head, guidance_inputs)


class MLPNetwork(Network):
    """The module of `MLP`; its output is exactly 0 at initialisation."""

    def __init__(
        self,
        config: MLP,
        shape: tuple[int, ...],
        num_classes: int,
        log_variance: bool,
        velocity_head: bool,
        guidance_inputs: int,
    ) -> None:
        super().__init__()
        size = math.prod(shape)
        self.frequencies = config.frequencies
        features = 1 + 2 * config.frequencies
        self.embed_x = nn.Linear(size, config.width)
        self.embed_times = nn.Linear(2 * features, config.width)
        self.embed_label = nn.Embedding(num_classes + 1, config.width) if num_classes else None
        self.hidden = nn.ModuleList(nn.Linear(config.width, config.width) for _ in range(config.depth - 1))
        self.output = nn.Linear(config.width, size)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)
        self.log_variance_head = LogVariance(features) if log_variance else None
        # What is optional is made last: the common weights then start alike for one seed.
        self.embed_guidance = nn.Linear(guidance_inputs, config.width) if guidance_inputs else None
        self.velocity_output = nn.Linear(config.width, size) if velocity_head else None
        if self.velocity_output is not None:
            nn.init.zeros_(self.velocity_output.weight)
            nn.init.zeros_(self.velocity_output.bias)

    def forward(self, x: Tensor, r: Tensor, t: Tensor, y: Tensor | None, g: Tensor | None = None) -> Tensor:
        out: Tensor = self.output(self._trunk(x, r, t, y, g))
        return out.reshape(x.shape).to(x.dtype)

    def forward_heads(
        self, x: Tensor, r: Tensor, t: Tensor, y: Tensor | None, g: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        if self.velocity_output is None:
            return super().forward_heads(x, r, t, y, g)
        h = self._trunk(x, r, t, y, g)
        u, v = self.output(h), self.velocity_output(h)
        return u.reshape(x.shape).to(x.dtype), v.reshape(x.shape).to(x.dtype)

    def _trunk(self, x: Tensor, r: Tensor, t: Tensor, y: Tensor | None, g: Tensor | None) -> Tensor:
        """(B, width) after the last activation."""
        times = torch.cat([self._features(t), self._features(t - r)], dim=1)  # [B, 2 * features]
        h = self.embed_x(x.flatten(1)) + self.embed_times(times)
        if self.embed_label is not None:
            if y is None:
                raise ValueError("this network was built for labelled data: pass labels, or the null class")
            h = h + self.embed_label(y)
        if self.embed_guidance is not None:
            if g is None:
                raise ValueError("this network was built with guidance inputs: pass g")
            h = h + self.embed_guidance(g)
        for layer in self.hidden:
            h = layer(F.silu(h))
        return F.silu(h)

    def log_variance(self, t: Tensor) -> Tensor:
        if self.log_variance_head is None:
            return super().log_variance(t)
        out: Tensor = self.log_variance_head(self._features(t))
        return out

    def _features(self, t: Tensor) -> Tensor:
        """(B,) -> (B, 1 + 2 frequencies): t, cos(pi k t), sin(pi k t)."""
        k = torch.arange(1, self.frequencies + 1, dtype=t.dtype, device=t.device)
        angle = torch.pi * t[:, None] * k
        return torch.cat([t[:, None], angle.cos(), angle.sin()], dim=1)
