"""Distance on features of a random convolutional network: a perceptual distance that needs no weights.

It stands in for `lpips` where its weights are not at hand, as in the offline tests. It is another metric: it weighs
edges and coarse structure by chance, knows nothing of how people see, and its numbers mean nothing beside LPIPS's.
"""

from __future__ import annotations

from functools import lru_cache
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from ablate_core.loss_metrics.base import LossMetric
from ablate_core.random import generator


class RandomFeatures(LossMetric):
    """Mean squared difference of the pixels plus that of each of `depth` layers of random 3 x 3 convolutions.

    A layer is conv(x) / sqrt(9 C), a leaky ReLU and, where there is room, a 2 x 2 average. Its weights are N(0, 2) from
    `seed` and the same in every arm.
    """

    name: Literal["random_features"] = "random_features"
    width: int = Field(32, gt=0, description="channels of a layer")
    depth: int = Field(3, gt=0, description="number of layers")
    seed: int = Field(0, ge=0, description="seed of the weights, common to all arms")
    needs_images: ClassVar[bool] = True

    def distance(self, prediction: Tensor, target: Tensor, *, group: int, reach: Tensor) -> Tensor:
        a, b = _pictures(prediction), _pictures(target)
        parts = [_mean_square(a, b)]
        with torch.autocast(a.device.type, enabled=False):
            for weight in _weights(a.shape[1], self.width, self.depth, self.seed, a.device, a.dtype):
                a, b = _layer(a, weight), _layer(b, weight)
                parts.append(_mean_square(a, b))
        return torch.stack(parts).sum(0)


def _pictures(x: Tensor) -> Tensor:
    """(B, *shape) as (B, C, H, W): missing axes have length 1."""
    if x.ndim > 4:
        raise ValueError(f"objective.metric: random_features compares pictures (B, C, H, W), got {tuple(x.shape)}")
    return x.reshape(len(x), *[1] * (4 - x.ndim), *x.shape[1:])


def _layer(x: Tensor, weight: Tensor) -> Tensor:
    x = F.leaky_relu(F.conv2d(x, weight, padding=1), 0.2)
    return F.avg_pool2d(x, 2) if min(x.shape[-2:]) > 1 else x


def _mean_square(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().flatten(1).mean(1)


@lru_cache(maxsize=4)
def _weights(
    channels: int, width: int, depth: int, seed: int, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, ...]:
    """The same numbers on every device and in every precision."""
    draw = generator(seed, "init.random_features")
    weights = []
    for _ in range(depth):
        drawn = torch.randn(width, channels, 3, 3, generator=draw, dtype=torch.float64)
        weights.append((drawn * (2 / (9 * channels)) ** 0.5).to(device, dtype))
        channels = width
    return tuple(weights)
