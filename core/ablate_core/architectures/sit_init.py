"""Initial weights of `sit` (design-space 7.3)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ablate_core.architectures.embeddings import TimeEmbedder

Fill = Callable[[Tensor], object]


def _scaled_normal(gain: float) -> Fill:
    """N(0, gain^2 / fan_in); for a table or tokens, fan_in is their width."""
    return lambda weight: nn.init.normal_(weight, std=gain / math.sqrt(weight.shape[-1]))


def _spectral(weight: Tensor) -> None:
    """Xavier normal over its largest singular value: a linear layer that stretches nothing by more than 1."""
    nn.init.xavier_normal_(weight)
    with torch.no_grad():
        weight.div_(torch.linalg.matrix_norm(weight, 2))


def _small_normal(weight: Tensor) -> None:
    nn.init.normal_(weight, std=0.02)


LINEAR: dict[str, Fill] = {"xavier": nn.init.xavier_uniform_, "imf": _scaled_normal(0.32), "spectral": _spectral}
PATCH: dict[str, Fill] = {"imf": nn.init.xavier_uniform_}  # where it is another than that of linear layers
TIME: dict[str, Fill] = {"xavier": _small_normal, "imf": _scaled_normal(1.0), "spectral": _spectral}
TABLE: dict[str, Fill] = {"xavier": _small_normal, "imf": _scaled_normal(1.0), "spectral": _small_normal}


def fill_linear(module: nn.Module, init: str) -> None:
    """Every linear layer of `module`; biases are zero."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            LINEAR[init](layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def fill_time(embedder: TimeEmbedder, init: str) -> None:
    for layer in (embedder.inner, embedder.outer):
        TIME[init](layer.weight)
        nn.init.zeros_(layer.bias)
