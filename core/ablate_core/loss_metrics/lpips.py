"""Perceptual distance on VGG16 features (LPIPS, arXiv 1801.03924; openai/consistency_models trains with it).

The weights are not shipped and never downloaded. One file holds both parts under the names they have in public: the
features of torchvision's ``vgg16`` and the linear heads of the LPIPS repository (``weights/v0.1/vgg.pth``):

    torch.save({**torch.load("vgg16-397923af.pth"), **torch.load("vgg.pth")}, "lpips_vgg16.pt")
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from ablate_core import stored_weights
from ablate_core.loss_metrics.base import LossMetric

BLOCKS = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
"""Convolutions between two poolings, by their place in torchvision's ``vgg16().features``."""
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
WHAT = "a torch file of torchvision's vgg16 features and LPIPS's linear heads (see the component's documentation)"


class Lpips(LossMetric):
    """sum over 5 layers of the spatial mean of head . (f(a) - f(b))^2, f unit-normalised over channels.

    Pictures are resized to `size` first, bilinearly, as in openai/consistency_models.
    """

    name: Literal["lpips"] = "lpips"
    weights: str | None = Field(None, json_schema_extra={"nuisance": True}, description="path of the weights file")
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$", description="SHA-256 of that file: which weights")
    size: int = Field(224, ge=0, description="height and width the pictures are resized to; 0: as they are")
    scale: float = Field(1.0, gt=0, description="picture in [-1, 1] = offset + scale x; for data in other units")
    offset: float = Field(0.0, description="picture in [-1, 1] = offset + scale x; for data in other units")
    needs_images: ClassVar[bool] = True
    needs_weights: ClassVar[bool] = True

    def preflight(self) -> None:
        stored_weights.find("objective.metric.weights", self.weights, self.sha256, WHAT)

    def prepare(self) -> None:
        _network(self.weights, self.sha256, torch.device("cpu"), torch.float32)

    def distance(self, prediction: Tensor, target: Tensor, *, group: int, reach: Tensor) -> Tensor:
        network = _network(self.weights, self.sha256, prediction.device, prediction.dtype)
        with torch.autocast(prediction.device.type, enabled=False):  # small differences of features decide
            pairs = zip(*(network.features(self._picture(x)) for x in (prediction, target)), strict=True)
            parts = [
                F.conv2d((unit(a) - unit(b)).square(), head).flatten(1).mean(1)
                for (a, b), head in zip(pairs, network.heads, strict=True)
            ]
        return torch.stack(parts).sum(0)

    def _picture(self, x: Tensor) -> Tensor:
        """RGB in [-1, 1], (B, 3, size, size), from states (B, 1 or 3, H, W)."""
        if x.ndim != 4 or x.shape[1] not in (1, 3):
            raise ValueError(f"objective.metric: lpips compares pictures (B, 1 or 3, H, W), got {tuple(x.shape)}")
        x = (self.offset + self.scale * x).expand(-1, 3, -1, -1)
        if self.size and x.shape[-2:] != (self.size, self.size):
            x = F.interpolate(x, size=(self.size, self.size), mode="bilinear", align_corners=False)
        return x


class Vgg16:
    """The features before each pooling, and the weight (1, C, 1, 1) of each.

    Raises:
        ValueError: a tensor is missing or its shape does not fit its neighbours.
    """

    def __init__(self, stored: dict[str, Any], path: str, device: torch.device, dtype: torch.dtype) -> None:
        def tensor(name: str, *shape: int | None) -> Tensor:
            found = stored.get(name)
            got = tuple(found.shape) if isinstance(found, Tensor) else None
            fits = got is not None and len(got) == len(shape)
            if not fits or any(w is not None and g != w for g, w in zip(got or (), shape, strict=True)):
                wanted = " x ".join("any" if n is None else str(n) for n in shape)
                raise ValueError(f"objective.metric.weights: {path!r} needs {name} of {wanted}, has {got}")
            assert isinstance(found, Tensor)
            return found.to(device, dtype)

        self.blocks: list[list[tuple[Tensor, Tensor]]] = []
        self.heads: list[Tensor] = []
        channels = 3
        for i, block in enumerate(BLOCKS):
            layers = []
            for place in block:
                weight = tensor(f"features.{place}.weight", None, channels, 3, 3)
                channels = len(weight)
                layers.append((weight, tensor(f"features.{place}.bias", channels)))
            self.blocks.append(layers)
            self.heads.append(tensor(f"lin{i}.model.1.weight", 1, channels, 1, 1))
        self.shift, self.scale = (torch.tensor(c, device=device, dtype=dtype)[:, None, None] for c in (SHIFT, SCALE))

    def features(self, x: Tensor) -> list[Tensor]:
        """Five maps of features of RGB pictures in [-1, 1], (B, 3, H, W) with H, W >= 16."""
        x, found = (x - self.shift) / self.scale, []
        for i, layers in enumerate(self.blocks):
            if i:
                x = F.max_pool2d(x, 2)
            for weight, bias in layers:
                x = torch.relu(F.conv2d(x, weight, bias, padding=1))
            found.append(x)
        return found


def unit(features: Tensor) -> Tensor:
    """Features of length 1 over channels; the bound keeps the gradient finite where all of them are 0."""
    return features / (features.square().sum(1, keepdim=True).clamp(min=1e-20).sqrt() + 1e-10)


@lru_cache(maxsize=2)
def _network(path: str | None, sha256: str | None, device: torch.device, dtype: torch.dtype) -> Vgg16:
    stored = stored_weights.read("objective.metric.weights", path, sha256, WHAT)
    return Vgg16(stored, str(path), device, dtype)
