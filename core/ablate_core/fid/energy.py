"""`energy_distance`: two-sample distance of point sets, for low-dimensional data that has no images to extract from."""

from __future__ import annotations

import torch
from torch import Tensor

from ablate_core.fid import MetricError

_CHUNK_ELEMENTS = 4_000_000


def energy_distance(x: Tensor, y: Tensor) -> float:
    """2 E|X - Y| - E|X - X'| - E|Y - Y'| over all pairs, in float64 (Szekely and Rizzo, 2013).

    The V-statistic: pairs of a point with itself count, so the value is never negative and is 0 only for equal sets;
    its expectation for samples of one distribution is of order 1/N. Cost grows with N^2, memory does not.

    Args:
        x: (N, D) floating.
        y: (M, D) floating, same D.

    Raises:
        MetricError: wrong shapes, an empty set, or a value that is not finite.
    """
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or len(x) == 0 or len(y) == 0:
        raise MetricError(
            f"energy_distance compares points (N, D) and (M, D), got {tuple(x.shape)} and {tuple(y.shape)}"
        )
    if not (torch.isfinite(x).all() and torch.isfinite(y).all()):
        raise MetricError("energy_distance: some points are not finite; check the samples for NaN")
    x, y = x.detach().double().cpu(), y.detach().double().cpu()
    value = 2 * _mean_distance(x, y) - _mean_distance(x, x) - _mean_distance(y, y)
    return max(0.0, value)  # rounding only: the V-statistic is a squared norm


def _mean_distance(x: Tensor, y: Tensor) -> float:
    rows = max(1, _CHUNK_ELEMENTS // len(y))
    # Differences, not |x|^2 + |y|^2 - 2 x.y: that form loses half the digits of small distances.
    total = 0.0
    for part in torch.split(x, rows):
        total += float(torch.cdist(part, y, compute_mode="donot_use_mm_for_euclid_dist").sum())
    return total / (len(x) * len(y))
