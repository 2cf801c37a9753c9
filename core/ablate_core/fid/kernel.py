"""Kernel distance of two sets of features: the unbiased squared MMD with a cubic kernel (Binkowski et al., 2018).

    MMD^2 = mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{i, j} k(x_i, y_j)
    k(a, b) = (a.b / D + 1)^3

On Inception features it is KID. Its expectation does not depend on the number of samples, unlike a Frechet distance's.
The value is the mean over subsets, as everybody computes it, but the subsets come from a named seed: clean-fid draws
them from NumPy's global generator, so the same features give another value at every call.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ablate_core.fid import MetricError
from ablate_core.random import generator

SUBSETS = 100
SUBSET_SIZE = 1000
Indices = NDArray[np.intp]


def kernel_distance(
    x: NDArray[Any], y: NDArray[Any], subsets: Iterable[tuple[Indices, Indices]]
) -> tuple[float, float]:
    """Mean over subsets and its standard error, in float64.

    The standard error is the spread of the subsets / sqrt(their number): it says how well this many subsets stand for
    the two sets, not how the value would change with other samples. NaN for one subset.

    Args:
        x: (N, D), `y`: (M, D), any float dtype.
        subsets: index arrays into x and y, at least two of each.

    Raises:
        MetricError: the dimensions differ, a feature is not finite, or there is no subset of two.
    """
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise MetricError(f"kernel distance compares features (N, D) and (M, D), got {x.shape} and {y.shape}")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise MetricError("kernel distance: some features are not finite; check the samples for NaN")
    values = [_unbiased(x[i].astype(np.float64), y[j].astype(np.float64)) for i, j in subsets]
    if not values:
        raise MetricError("kernel distance: there is no subset")
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    return float(np.mean(values)), spread / math.sqrt(len(values))


def subset_size(n: int, m: int) -> int:
    """Vectors per subset of sets of n and m."""
    return min(SUBSET_SIZE, n, m)


def seeded_subsets(n: int, m: int, seed: int, count: int = SUBSETS) -> Iterator[tuple[Indices, Indices]]:
    """`count` pairs of subsets without replacement; stream ``eval.kernel`` of `seed`, one position per subset."""
    import torch

    size = subset_size(n, m)
    for number in range(count):
        random = generator(seed, "eval.kernel", number)
        i, j = (torch.randperm(total, generator=random)[:size].numpy() for total in (n, m))
        yield i, j


def _unbiased(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    if len(x) < 2 or len(y) < 2:
        raise MetricError(f"kernel distance needs two vectors of each set, got {len(x)} and {len(y)}")
    return _off_diagonal_mean(_cubic(x, x)) + _off_diagonal_mean(_cubic(y, y)) - 2 * float(_cubic(x, y).mean())


def _cubic(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    base = x @ y.T
    base /= x.shape[1]
    base += 1
    cubes: NDArray[np.float64] = base * base * base  # ** 3 is a call of pow per element
    return cubes


def _off_diagonal_mean(k: NDArray[np.float64]) -> float:
    return float(k.sum() - np.trace(k)) / (len(k) * (len(k) - 1))
