"""How much of the samples lies on the data, and of the data on the samples: precision, recall, density, coverage.

A set is surrounded by balls: around each of its points, as far as its k-th nearest other point of the same set.

* precision: share of samples in some ball of the data; recall: share of the data in some ball of the samples
  (Kynkaanniemi et al., 2019; k = 3, the edge of a ball belongs to it);
* density: how many balls of the data a sample lies in, over k; coverage: share of the balls of the data with a sample
  inside (Naeem et al., 2020; k = 5, the edge is outside). One far-off point makes recall large; these two count balls
  of the data only.

All four depend on k and on the numbers of points on both sides; none has a meaning without them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ablate_core.fid import MetricError

_CHUNK_ELEMENTS = 4_000_000
Array = NDArray[np.float64]


class PrecisionRecall(NamedTuple):
    """Both in [0, 1], higher is better."""

    precision: float
    recall: float


class DensityCoverage(NamedTuple):
    """Density is at least 0 and about 1 for samples of the data's distribution; coverage is in [0, 1]."""

    density: float
    coverage: float


def precision_recall(samples: NDArray[Any], data: NDArray[Any], k: int) -> PrecisionRecall:
    """Improved precision and recall of samples (N, D) against data (M, D).

    Raises:
        MetricError: no k + 1 points on a side, other dimensions, or a feature that is not finite.
    """
    x, y = _checked(samples, data, k)
    inside = _squared_radii(y, k)
    around = _squared_radii(x, k)
    precise = np.zeros(len(x), dtype=bool)
    recalled = np.zeros(len(y), dtype=bool)
    for rows, distances in _blocks(x, y):
        precise[rows] = (distances <= inside).any(axis=1)
        recalled |= (distances <= around[rows, None]).any(axis=0)
    return PrecisionRecall(float(precise.mean()), float(recalled.mean()))


def density_coverage(samples: NDArray[Any], data: NDArray[Any], k: int) -> DensityCoverage:
    """Density and coverage of samples (N, D) against data (M, D). Raises MetricError as `precision_recall` does."""
    x, y = _checked(samples, data, k)
    inside = _squared_radii(y, k)
    balls, covered = 0, np.zeros(len(y), dtype=bool)
    for _, distances in _blocks(x, y):
        within = distances < inside
        balls += int(within.sum())
        covered |= within.any(axis=0)
    return DensityCoverage(balls / (k * len(x)), float(covered.mean()))


def _squared_radii(x: Array, k: int) -> Array:
    """Squared distance of every point to its k-th nearest other point, (N,)."""
    radii = np.empty(len(x))
    for rows, distances in _blocks(x, x):
        own = np.arange(rows.start, rows.stop)
        distances[own - rows.start, own] = np.inf  # by its place: another point at distance 0 counts
        radii[rows] = np.partition(distances, k - 1, axis=1)[:, k - 1]
    return radii


def _blocks(x: Array, y: Array) -> Any:
    """Squared distances (rows of x, M), block by block: memory does not grow with N."""
    size = max(1, _CHUNK_ELEMENTS // len(y))
    squares = np.square(y).sum(axis=1)
    for start in range(0, len(x), size):
        rows = slice(start, min(start + size, len(x)))
        part = x[rows]
        distances = np.square(part).sum(axis=1)[:, None] + squares - 2 * (part @ y.T)
        yield rows, np.maximum(distances, 0, out=distances)


def _checked(samples: NDArray[Any], data: NDArray[Any], k: int) -> tuple[Array, Array]:
    if samples.ndim != 2 or data.ndim != 2 or samples.shape[1] != data.shape[1]:
        raise MetricError(f"neighbours are sought among features (N, D) and (M, D), got {samples.shape}, {data.shape}")
    if min(len(samples), len(data)) <= k:
        raise MetricError(f"the {k}-th neighbour needs {k + 1} points on a side, got {len(samples)} and {len(data)}")
    x, y = samples.astype(np.float64), data.astype(np.float64)
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise MetricError("neighbours: some features are not finite; check the samples for NaN")
    # Distances by |x|^2 + |y|^2 - 2 x.y lose digits where the mean is large; it is in neither answer.
    centre = y.mean(axis=0)
    return x - centre, y - centre
