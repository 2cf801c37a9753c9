"""Matrix products of a linear layer, forwards and backwards, for what computes its own gradients (`block_on_cpu`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ablate_core.flat import in_place_gradients

MANY = 512
"""Rows from which oneDNN's product in float32 is faster than that of torch's default library: a tenth, on Zen 4."""

_AVAILABLE = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
_ONE_DNN = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if _AVAILABLE else None


class Products(Protocol):
    """A linear layer as it is at one call, without a graph.

    Attributes:
        weights: what gradients belong to: the weight and, where there is one, the bias.
    """

    weights: Sequence[Tensor]

    def forward(self, x: Tensor) -> Tensor:
        """x W' + b, (..., in) -> (..., out)."""

    def tangent(self, dx: Tensor) -> Tensor:
        """dx W', likewise, of few rows."""

    def pull_back(self, slope: Tensor, x: Tensor, sums: Tensor | None = None) -> tuple[Tensor, Sequence[Tensor | None]]:
        """From the gradient of the output, (..., out): that of x, and those of `weights`.

        None stands for the gradient of a weight that was added where it is wanted. `sums`: what is known of the sums
        of the slope, those of equal parts of its rows, (parts, out).
        """


def products(layer: nn.Linear) -> Products:
    """Those of an ordinary layer, or of that of several networks at once (`packing.stacked`)."""
    weight: Any = layer.weight
    if isinstance(weight, Tensor):
        return OneLayer(weight, layer.bias)
    found: Products = weight.products(layer.bias)
    return found


class OneLayer:
    """The products of one network's layer."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weights: Sequence[Tensor] = [weight] if bias is None else [weight, bias]
        self._bias = bias

    def forward(self, x: Tensor) -> Tensor:
        return _product(x, self.weights[0], self._bias)

    def tangent(self, dx: Tensor) -> Tensor:
        return _product(dx, self.weights[0], None)

    def pull_back(self, slope: Tensor, x: Tensor, sums: Tensor | None = None) -> tuple[Tensor, Sequence[Tensor | None]]:
        weight, slopes, rows = self.weights[0], slope.flatten(0, -2), x.flatten(0, -2)
        in_place = in_place_gradients()
        found: list[Tensor | None] = [None] * len(self.weights)
        if in_place and weight.requires_grad and weight.grad is not None:
            weight.grad.addmm_(slopes.t(), rows)
        else:
            found[0] = slopes.t() @ rows
        if self._bias is not None:
            total = (slopes if sums is None else sums).sum(0)
            if in_place and self._bias.requires_grad and self._bias.grad is not None:
                self._bias.grad.add_(total)
            else:
                found[1] = total
        return _product(slope, weight.t(), None), found


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if _ONE_DNN is None or x.dtype != torch.float32 or x.numel() < MANY * x.shape[-1]:
        return F.linear(x, weight, bias)
    out: Tensor = _ONE_DNN(x.flatten(0, -2), weight, bias, "none", [], "")
    return out.view(*x.shape[:-1], -1)
