"""A residual network for points and small images, modulated by its times (FiLM, arXiv 1709.07871)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ablate_core.architectures.base import Architecture, Network


class Film(Architecture):
    """Residual layers h + W silu(h (1 + scale) + shift); scale and shift are a function of t, t - r and the class."""

    name: Literal["film"] = "film"
    width: int = Field(64, gt=0, description="hidden units")
    depth: int = Field(3, gt=0, description="residual layers")

    def build(self, shape: tuple[int, ...], num_classes: int, *, log_variance: bool = False) -> FilmNetwork:
        if log_variance:
            raise ValueError("film has no log-variance head; set objective.weighting: none")
        return FilmNetwork(self, math.prod(shape), num_classes)


class FilmNetwork(Network):
    """The module of `Film`; its output is exactly 0 at initialisation. No hand-written tangent: torch's is right."""

    def __init__(self, config: Film, size: int, num_classes: int) -> None:
        super().__init__()
        self.inner = nn.Linear(size, config.width)
        self.label = nn.Embedding(num_classes + 1, 4) if num_classes else None
        told = 4 + (4 if num_classes else 0)
        self.modulation = nn.ModuleList(nn.Linear(told, 2 * config.width) for _ in range(config.depth))
        self.layers = nn.ModuleList(nn.Linear(config.width, config.width) for _ in range(config.depth))
        self.outer = nn.Linear(config.width, size)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, x: Tensor, r: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        told = torch.stack([t, t - r, torch.cos(math.pi * t), torch.cos(math.pi * (t - r))], dim=1)  # [B, 4]
        if self.label is not None:
            if y is None:
                raise ValueError("this network was built for labelled data: pass labels, or the null class")
            told = torch.cat([told, self.label(y)], dim=1)
        h = self.inner(x.flatten(1))
        for layer, modulate in zip(self.layers, self.modulation, strict=True):
            scale, shift = modulate(told).chunk(2, dim=1)
            h = h + layer(F.silu(h * (1 + scale) + shift))
        out: Tensor = self.outer(h)
        return out.reshape(x.shape).to(x.dtype)
