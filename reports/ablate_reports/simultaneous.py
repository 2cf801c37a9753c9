"""Simultaneous intervals: the distribution of the largest |t| among correlated contrasts with one pooled variance.

When every contrast shares a baseline and there are no missing seeds, the correlations are products
``R_ij = l_i l_j`` and the probability is a two-dimensional integral (Dunnett 1955), computed here to about 1e-10.
Otherwise the normal part is the distribution of a seeded, scrambled Sobol sequence and the variance part is integrated;
the critical value is then good to about 1e-3. Both are deterministic.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import optimize, special, stats

Array = npt.NDArray[np.float64]

SOBOL_LOG2 = 15
NODES_S, FEWER_S, FROM_DF = 96, 48, 8.0
"""Nodes of the variance part; half of them are as good (1e-12) from so many degrees of freedom on."""
Z, STEP_Z, GRADED = 9.0, 0.1, 12
"""The normal part reaches to Z in steps of STEP_Z; where the integrand has a step of its own that is narrower (loadings
near 1: a baseline much noisier than the arms), in intervals that shrink towards it, with GRADED nodes each."""
DEGREE, CHECKED, AGREE = 48, 6, 1e-9
FAR = 12.0
"""A |t| beyond this is computed by itself: there are few, and a polynomial would have to reach far for them."""


_CRITICAL: dict[tuple[bytes, float, float], float] = {}
"""Critical values already solved for: a report asks for the same family several times."""


@lru_cache(maxsize=2)
def _legendre(nodes: int) -> tuple[Array, Array]:
    x, w = np.polynomial.legendre.leggauss(nodes)
    return x, w


@lru_cache(maxsize=64)
def scale_nodes(df: float) -> tuple[Array, Array]:
    """Gauss-Legendre nodes and weights for ``E[f(S)]`` with ``S = sqrt(chi2_df / df)``."""
    low, high = np.sqrt(stats.chi2.ppf([1e-15, 1 - 1e-15], df) / df)
    x, w = _legendre(NODES_S if df < FROM_DF else FEWER_S)
    s = low + (high - low) * (x + 1) / 2
    weights = w * (high - low) / 2 * stats.chi2.pdf(df * s * s, df) * 2 * df * s
    return s, weights / weights.sum()


def _normal_nodes(low: float, step: Array, width: float) -> tuple[Array, Array]:
    """Nodes (n or 1, k) and weights of the integral over a standard normal from `low` on: 0 (twice that) or -Z.

    Args:
        step: (n,) where the n integrands have a step.
        width: how wide that is.
    """
    if width > 1.2 * STEP_Z:  # the trapezoidal rule is then exact to 1e-12
        z: Array = np.linspace(low, Z, round((Z - low) / STEP_Z) + 1)[None]
        weights: Array = np.full(z.shape, STEP_Z)
        weights[:, [0, -1]] /= 2
    else:
        at = np.clip(step, low, Z)[:, None]
        shares = 2.0 ** np.arange(-np.ceil(np.log2(4 * Z / max(width, 1e-7))), 1)
        edges = np.hstack([at - (at - low) * shares[::-1], at, at + (Z - at) * shares])
        x, w = _legendre(GRADED)
        halves = np.diff(edges)[..., None] / 2
        z = (edges[:, :-1, None] + halves * (x + 1)).reshape(len(at), -1)
        weights = (halves * w).reshape(len(at), -1)
    return z, weights * np.exp(-z * z / 2) * np.sqrt((2 if low == 0 else 0.5) / np.pi)


def _loadings(corr: Array) -> Array | None:
    """``l`` with ``corr_ij = l_i l_j`` for all i != j, each strictly between 0 and 1; None when there is none."""
    m = len(corr)
    off = ~np.eye(m, dtype=bool)
    if m < 2 or (corr[off] <= 0).any():
        return None
    logs = np.where(off, np.log(np.where(off, corr, 1.0)), 0.0)
    if m == 2:
        found = np.exp(np.full(2, logs[0, 1] / 2))
    else:
        total = logs.sum() / (2 * (m - 1))  # the sum of all log loadings
        found = np.exp((logs.sum(axis=1) - total) / (m - 2))
    close = np.allclose(np.outer(found, found)[off], corr[off], rtol=0, atol=1e-9)
    return found if close and (found < 1).all() else None


@lru_cache(maxsize=16)
def _largest(corr: bytes, m: int, signed: bool = False) -> Array:
    """The largest of m correlated normals, quasi-randomly, in order; asked with several degrees of freedom."""
    points = stats.qmc.Sobol(m, scramble=True, rng=np.random.default_rng(20260703)).random_base2(SOBOL_LOG2)
    values, vectors = np.linalg.eigh(np.frombuffer(corr).reshape(m, m))
    root = vectors * np.sqrt(np.clip(values, 0, None))
    normal = special.ndtri(np.clip(points, 1e-12, 1 - 1e-12)) @ root.T
    return np.sort((normal if signed else np.abs(normal)).max(axis=1))


def _share(largest: Array, c: Array) -> Array:
    """The distribution function of an ordered sample, made continuous."""
    return np.interp(c, largest, (np.arange(len(largest)) + 0.5) / len(largest), left=0.0, right=1.0)


@dataclass(frozen=True)
class MaxT:
    """Distribution of ``max_i |t_i|`` for m contrasts.

    Attributes:
        corr: (m, m) correlation of the estimates.
        df: degrees of freedom of the pooled variance, > 0.
    """

    corr: Array
    df: float

    def __post_init__(self) -> None:
        m = len(self.corr)
        found = _loadings(self.corr)
        object.__setattr__(self, "_loads", None if found is None else np.unique(found.round(12), return_counts=True))
        if m > 1 and found is None:
            object.__setattr__(self, "_largest", _largest(np.round(self.corr, 12).tobytes(), m))

    @property
    def exact(self) -> bool:
        """True when the value comes from numerical integration, not from the quasi-random sequence."""
        return len(self.corr) == 1 or self.__dict__["_loads"] is not None

    @property
    def _narrowest(self) -> float:
        """How wide the narrowest step of the integrand is in z; narrower where more contrasts have it."""
        loads, _ = self.__dict__["_loads"]
        return float(np.sqrt(1 - loads.max() ** 2) / np.sqrt(max(1.0, 2 * np.log(len(self.corr)))))

    def cdf(self, c: float) -> float:
        """``P(max |t| <= c)``."""
        if c <= 0:
            return 0.0
        if len(self.corr) == 1:
            return float(1 - 2 * stats.t.sf(c, self.df))
        s, weight = scale_nodes(self.df)
        if self.__dict__["_loads"] is None:
            return float(weight @ _share(self.__dict__["_largest"], c * s))
        z, density = _normal_nodes(0.0, c * s, self._narrowest)  # the integrand is even in z
        inside = np.ones((len(s), z.shape[1]))
        for load, count in zip(*self.__dict__["_loads"], strict=True):
            rest = np.sqrt(1 - load**2)
            with np.errstate(divide="ignore"):  # a load of 1 decides alone: infinity is right
                upper, lower = (c * s[:, None] + load * z) / rest, (-c * s[:, None] + load * z) / rest
            inside *= np.clip(special.ndtr(upper) - special.ndtr(lower), 0, 1) ** count
        return float(weight @ (inside * density).sum(axis=1))

    def critical(self, alpha: float) -> float:
        """The c with ``P(max |t| > c) = alpha``; between the ordinary t and the Bonferroni value."""
        key = (np.round(self.corr, 12).tobytes(), self.df, alpha)
        if key not in _CRITICAL:
            if len(_CRITICAL) > 256:
                _CRITICAL.clear()
            _CRITICAL[key] = self._solve(alpha)
        return _CRITICAL[key]

    def _solve(self, alpha: float) -> float:
        m = len(self.corr)
        return _root(
            self.cdf, alpha, float(stats.t.isf(alpha / 2, self.df)), float(stats.t.isf(alpha / (2 * m), self.df))
        )

    def adjusted_p(self, t: float) -> float:
        """The family-wise p value of one contrast's t statistic."""
        return float(min(1.0, max(0.0, 1 - self.cdf(abs(t)))))

    def adjusted_many(self, t: Array) -> Array:
        """(k,) family-wise p values of k contrasts; many of them from a polynomial through a few.

        The integral is a smooth function of c: `DEGREE` + 1 values determine it to about 1e-10, the accuracy of each;
        `CHECKED` of the contrasts are computed one by one, and all of them where these do not agree.
        """
        size = np.abs(np.asarray(t, dtype=np.float64))
        near = np.flatnonzero(size <= FAR)
        if not self.exact or len(near) <= DEGREE + CHECKED:
            return np.array([self.adjusted_p(float(c)) for c in size])
        inner = size[near]
        through = np.polynomial.Chebyshev.interpolate(
            lambda cs: np.array([self.cdf(float(c)) for c in cs]), DEGREE, domain=[inner.min(), inner.max()]
        )
        found = np.ones(len(size))
        found[near] = np.clip(1 - through(inner), 0, 1)
        checked = near[np.argsort(inner)[:: max(1, len(near) // CHECKED)]]
        if any(abs(found[i] - self.adjusted_p(float(size[i]))) > AGREE for i in checked):
            return np.array([self.adjusted_p(float(c)) for c in size])
        for i in np.flatnonzero(size > FAR):
            found[i] = self.adjusted_p(float(size[i]))
        return found

    def upper_cdf(self, c: float) -> float:
        """``P(max t <= c)``, one-sided."""
        if len(self.corr) == 1:
            return float(stats.t.cdf(c, self.df))
        s, weight = scale_nodes(self.df)
        if self.__dict__["_loads"] is None:
            return float(
                weight @ _share(_largest(np.round(self.corr, 12).tobytes(), len(self.corr), signed=True), c * s)
            )
        z, density = _normal_nodes(-Z, c * s, self._narrowest)
        inside = np.ones((len(s), z.shape[1]))
        for load, count in zip(*self.__dict__["_loads"], strict=True):
            with np.errstate(divide="ignore"):
                inside *= special.ndtr((c * s[:, None] - load * z) / np.sqrt(1 - load**2)) ** count
        return float(weight @ (inside * density).sum(axis=1))

    def upper_critical(self, alpha: float) -> float:
        """The c with ``P(max t > c) = alpha``."""
        m = len(self.corr)
        return _root(self.upper_cdf, alpha, float(stats.t.isf(alpha, self.df)), float(stats.t.isf(alpha / m, self.df)))

    def upper_p(self, t: float) -> float:
        """The family-wise p value of one contrast's t statistic, one-sided."""
        return float(min(1.0, max(0.0, 1 - self.upper_cdf(t))))


def _root(cdf: Callable[[float], float], alpha: float, low: float, high: float) -> float:
    """The c with ``cdf(c) = 1 - alpha``, which lies between the ordinary t and Bonferroni's.

    It is one of these where the family is all but one contrast, or all but independent: the distribution function, good
    to 1e-3 at worst, may then have no root between.
    """
    if cdf(low) >= 1 - alpha or low >= high:
        return low
    if cdf(high) <= 1 - alpha:
        return high
    return float(optimize.brentq(lambda c: cdf(c) - (1 - alpha), low, high, xtol=1e-10))
