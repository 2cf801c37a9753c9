"""`gaussians`: a 2-D mixture of equal Gaussians on a circle, whose density and flow have closed forms."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from ablate_core.datasets.base import Dataset, Samples


class Gaussians(Dataset):
    """Modes on a circle whose radius makes each coordinate's variance 1: radius^2 / 2 + width^2 = 1."""

    name: Literal["gaussians"] = "gaussians"
    modes: int = Field(5, ge=3, description="components of the mixture, equally likely; each is one class")
    width: float = Field(0.15, gt=0, lt=1, description="standard deviation of each component")
    size: int = Field(20_000, gt=1, description="samples in the data set; component i mod modes for sample i")
    seed: int = Field(0, ge=0, description="seed of the data set itself, not of a trial")

    kind: ClassVar[str] = "points"
    dimension: ClassVar[int] = 2
    known_std: ClassVar[float | None] = 1.0

    @property
    def means(self) -> Tensor:
        """Centres of the components, (modes, 2) float64."""
        angle = torch.arange(self.modes, dtype=torch.float64) * (2 * math.pi / self.modes)
        return math.sqrt(2 * (1 - self.width**2)) * torch.stack([angle.cos(), angle.sin()], dim=1)

    def load(self) -> Samples:
        generator = torch.Generator().manual_seed(self.seed)
        y = torch.arange(self.size) % self.modes
        noise = torch.randn(self.size, 2, generator=generator, dtype=torch.float64)
        return Samples(
            x=(self.means[y] + self.width * noise).float(),
            y=y,
            num_classes=self.modes,
            identity={"name": "gaussians", "version": 1, **self.model_dump(exclude={"name"})},
        )

    def log_density(self, x: Tensor) -> Tensor:
        """Log density of the mixture at x (B, 2) -> (B,)."""
        square = (x[:, None] - self.means.to(x)).square().sum(dim=2)  # [B, modes]
        log_normal = -square / (2 * self.width**2) - math.log(2 * math.pi * self.width**2)
        return log_normal.logsumexp(dim=1) - math.log(self.modes)

    def to_uint8(self, x: Tensor) -> Tensor:
        """Raises TypeError: points are no images."""
        raise TypeError("gaussians are points in the plane, not images")
