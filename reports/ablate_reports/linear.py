"""Ordinary least squares for small designs: what is estimable, what it is, and how sure.

Designs may be short of rank (missing cells, aliased factors): estimates then come from the pseudo-inverse, and
`LeastSquares.estimable` says which combinations of coefficients the data determine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from ablate_reports.simultaneous import MaxT

Array = npt.NDArray[np.float64]

TOLERANCE = 1e-9
KEPT = 16
MAX_FAMILY = 150
"""A family larger than this gets Bonferroni limits: the joint law would take longer than the answer is worth."""


@dataclass(frozen=True)
class LeastSquares:
    """The fit of ``y = design @ beta + noise``.

    Attributes:
        beta: (p,) coefficients, of minimal norm where they are not unique.
        inverse: (p, p) pseudo-inverse of ``design.T @ design``.
        projection: (p, p) onto the row space of the design.
        rank: rank of the design.
        rss: residual sum of squares.
        df: residual degrees of freedom.
    """

    beta: Array
    inverse: Array
    projection: Array
    rank: int
    rss: float
    df: int

    def estimable(self, row: Array) -> bool:
        """Whether ``row @ beta`` is determined by the data."""
        return bool(np.abs(row @ self.projection - row).max(initial=0.0) < 1e-7 * max(1.0, float(np.abs(row).max())))


_SVD: dict[tuple[bytes, int], tuple[Array, Array, Array]] = {}
"""Decompositions of the last designs: steps of training are asked with one design after the other."""


def _svd(design: Array) -> tuple[Array, Array, Array]:
    key = (np.ascontiguousarray(design).tobytes(), design.shape[1])
    if key not in _SVD:
        if len(_SVD) >= KEPT:
            del _SVD[next(iter(_SVD))]
        u, s, vt = np.linalg.svd(design, full_matrices=False)
        _SVD[key] = (u, s, vt)
    return _SVD[key]


def least_squares(design: Array, y: Array) -> LeastSquares:
    """Fit by the singular value decomposition of the design (n, p)."""
    u, s, vt = _svd(design)
    rank = int((s > TOLERANCE * max(design.shape) * (s[0] if len(s) else 0.0)).sum()) if s.size else 0
    u, s, vt = u[:, :rank], s[:rank], vt[:rank]
    scores = u.T @ y
    rss = float(((y - u @ scores) ** 2).sum())
    return LeastSquares(
        vt.T @ (scores / s), (vt.T / s**2) @ vt, vt.T @ vt, rank, rss, len(y) - rank
    )  # fmt: skip


def rank(*blocks: Array) -> int:
    """The rank of some columns side by side."""
    design = np.hstack(blocks)
    if design.shape[1] == 0:
        return 0
    s = np.linalg.svd(design, compute_uv=False)
    return int((s > TOLERANCE * max(design.shape) * s[0]).sum()) if s[0] > 0 else 0


def sum_coded(values: Sequence[object], levels: Sequence[object]) -> Array:
    """Effect coding: one column per level but the last, which is -1 in all of them; (n, len(levels) - 1)."""
    member = np.array([[float(v == level) for level in levels] for v in values]).reshape(len(values), len(levels))
    return np.asarray(member[:, :-1] - member[:, -1:], dtype=np.float64)


@dataclass(frozen=True)
class Estimate:
    """A combination of coefficients.

    Attributes:
        low, high, p_family: hold for all combinations of its family at once.
        low_single, high_single, p: hold for this one alone.
    """

    value: float
    se: float
    low: float
    high: float
    low_single: float
    high_single: float
    p: float
    p_family: float


def estimates(fit: LeastSquares, rows: Array, sigma: float, df: float, alpha: float) -> list[Estimate]:
    """Combinations ``rows @ beta`` (m, p), all estimable, as one family.

    Args:
        sigma, df: residual standard deviation to judge by and its degrees of freedom; > 0.
    """
    cov = rows @ fit.inverse @ rows.T
    scale, m = np.sqrt(np.diag(cov)), len(rows)
    law = MaxT(cov / np.outer(scale, scale), df) if m <= MAX_FAMILY else None
    critical = law.critical(alpha) if law else float(stats.t.isf(alpha / (2 * m), df))
    single = float(stats.t.isf(alpha / 2, df))
    found = []
    values = rows @ fit.beta
    alone = 2 * stats.t.sf(np.abs(values) / (sigma * scale), df)
    families = law.adjusted_many(values / (sigma * scale)) if law else np.minimum(1.0, alone * m)
    for value, root, p, family in zip(*(a.tolist() for a in (values, scale, alone, families)), strict=True):
        se = sigma * root
        found.append(
            Estimate(
                value,
                se,
                value - critical * se,
                value + critical * se,
                value - single * se,
                value + single * se,
                p,
                family,
            )
        )
    return found
