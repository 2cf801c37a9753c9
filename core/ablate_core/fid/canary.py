"""What is kept of a canary (`extractor`) beside every number, and how far two of them are apart. Needs no torch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CANARY_RTOL = 1e-3
"""Far above rounding (1e-6 between machines), far below TF32, another resize filter or other weights."""

CANARY_KEPT = 16


def canary_sample(features: NDArray[np.float32]) -> list[float]:
    """Sixteen of the canary's features, evenly spread, with six digits each.

    Features, not their norm: what moves each of a thousand by a part in a thousand hardly moves the norm.
    """
    every = features.reshape(-1)
    picked = every[:: max(1, len(every) // CANARY_KEPT)][:CANARY_KEPT]
    return [float(f"{value:.6g}") for value in picked.tolist()]


def canary_drift(a: list[float], b: list[float]) -> float:
    """The largest difference of two samples relative to the largest of `a`; infinite where they are not comparable."""
    scale = max(map(abs, a), default=0.0)
    if len(a) != len(b) or not scale:
        return 0.0 if a == b else math.inf
    return max(abs(p - q) for p, q in zip(a, b, strict=True)) / scale
