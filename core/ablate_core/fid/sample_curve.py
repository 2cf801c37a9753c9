"""A Frechet distance by number of samples, and where the curve ends: ``E[FID_N] = FID_inf + B / N``.

B differs from model to model, so an equal N does not cancel it (Chong and Forsyth, 2020). The sizes are the first
samples of one draw: FID_n on the curve is what `eval.samples: n` would have measured, under the same identity.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ablate_core.fid import MetricError

LEAST = 5000
"""Samples below which the bias is no line in 1/N: nothing is extrapolated from them."""

LEAST_SIZES = 3
USUAL_SIZES = 10
TOO_FEW = f"a limit needs {LEAST_SIZES} sizes of at least {LEAST:,} samples"


class Limit(NamedTuple):
    """FID_inf, B, and the standard error of FID_inf, were the sizes independent; they are not: it is too small."""

    value: float
    slope: float
    standard_error: float


def usual_sizes(samples: int, least: int = 2) -> tuple[int, ...]:
    """Ten sizes evenly spaced up to `samples`, none below `least`."""
    return tuple(sorted({n for i in range(1, USUAL_SIZES + 1) if (n := samples * i // USUAL_SIZES) >= least}))


def extrapolates(sizes: Sequence[int]) -> bool:
    """Whether a line may be fitted: three sizes or more of at least 5,000 samples."""
    return len({n for n in sizes if n >= LEAST}) >= LEAST_SIZES


def extrapolate(curve: Mapping[int, float]) -> Limit:
    """Least squares of FID_n on 1/n over the sizes of at least `LEAST`, weighted by n (the variance falls like 1/n).

    Raises:
        MetricError: fewer than three such sizes.
    """
    used = {n: v for n, v in sorted(curve.items()) if n >= LEAST and math.isfinite(v)}
    if not extrapolates(list(used)):
        raise MetricError(f"not extrapolated: {TOO_FEW}, got {', '.join(map(str, used)) or 'none'}")
    n, y = np.array(list(used), dtype=np.float64), np.array(list(used.values()))
    design = np.stack([np.ones_like(n), 1 / n], axis=1)
    inverse = np.linalg.inv(design.T @ (n[:, None] * design))
    beta = inverse @ design.T @ (n * y)
    variance = float((n * (y - design @ beta) ** 2).sum()) / (len(n) - 2)
    return Limit(float(beta[0]), float(beta[1]), math.sqrt(variance * float(inverse[0, 0])))
