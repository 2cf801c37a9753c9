"""The Frechet distance between two Gaussians, in float64 (Dowson and Landau, 1982; Heusel et al., 2017).

    d^2 = |mu1 - mu2|^2 + tr C1 + tr C2 - 2 tr (C1 C2)^(1/2)

With factors C = A^T A the last trace is the nuclear norm |A1 A2^T|_*, which needs no matrix square root and is real by
construction. Two forms of it are used:

* from moments: the reference's factor R once (kept on disk with the reference), then ``sqrt(eigvalsh(R C R^T))`` per
  evaluation. From `LARGE` dimensions on R is triangular, so LAPACK's ``sygst`` makes the product in a quarter of the
  operations of two matrix products;
* from features, when a side has no more samples than dimensions: singular values of the product of the centred
  features themselves. Eigenvalues of a rank-deficient product are zeros known only to machine precision, and their
  square roots put an error of 1e-7 into the first form (and into ``scipy.linalg.sqrtm``); singular values do not. They
  are taken from the N x N Gram matrix where a bound on its rounding says that this is as good, by SVD where not.

The textbook form, a matrix square root, is `frechet_by_square_root`: slow, for comparison.

The covariance is the unbiased one (divisor n - 1), as in clean-fid.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ablate_core.fid import MetricError

Array = NDArray[np.float64]

LARGE = 512
"""Dimensions from which LAPACK is asked directly: below, importing SciPy costs more than it saves."""

ROWS_AT_ONCE = 1024
"""Vectors that streamed moments take in at once from `LARGE` dimensions on."""

GRAM_ERROR = 1e-12
"""Relative rounding of a nuclear norm up to which a Gram matrix may stand in for the SVD."""

_NEGATIVE = 1e-4
"""A covariance whose smallest eigenvalue is below minus this share of its largest is not a rounded covariance."""


@dataclass(frozen=True)
class Moments:
    """Mean (D,) and unbiased covariance (D, D) of `count` feature vectors, both float64; count 0 means unknown."""

    mean: Array
    cov: Array
    count: int = 0

    def __post_init__(self) -> None:
        d = self.mean.shape[0] if self.mean.ndim == 1 else 0
        if d == 0 or self.cov.shape != (d, d):
            raise MetricError(
                f"feature moments need a mean (D,) and a covariance (D, D), got {self.mean.shape} and {self.cov.shape}"
            )
        if not (np.isfinite(self.mean).all() and np.isfinite(self.cov).all()):
            raise MetricError("feature moments are not finite; the samples or the extractor gave NaN or infinity")

    @cached_property
    def factor(self) -> Array:
        """R (K, D) with R^T R = cov; K is the numerical rank. Computed once per object.

        Upper triangular where cov has full rank and `LARGE` dimensions.
        """
        if not np.allclose(self.cov, self.cov.T, rtol=1e-5, atol=1e-8 * np.abs(self.cov).max()):
            raise MetricError("a feature covariance is not symmetric; the reference statistics are damaged")
        values, vectors = np.linalg.eigh(self.cov)
        top = max(values[-1], 0.0)
        if values[0] < -_NEGATIVE * top or values[-1] < 0:
            raise MetricError(f"a feature covariance has the negative eigenvalue {values[0]:.3g}; it is damaged")
        keep = values > top * len(values) * np.finfo(np.float64).eps
        if len(values) >= LARGE and keep.all():
            with contextlib.suppress(np.linalg.LinAlgError):  # of full rank, by less than its rounding
                return np.ascontiguousarray(np.linalg.cholesky(self.cov).T)
        root: Array = np.sqrt(values[keep])[:, None] * vectors[:, keep].T
        return root

    def is_factor(self, factor: Array) -> bool:
        """Whether a stored array is the factor of this covariance; one that is damaged or of another is not."""
        d = len(self.mean)
        if factor.ndim != 2 or factor.shape[1] != d or factor.dtype != np.float64 or len(factor) > d:
            return False
        probe = np.cos(np.arange(d))  # one product in place of D of them: against accidents, not against forgers
        expected = self.cov @ probe
        off = np.abs(factor.T @ (factor @ probe) - expected).max()
        return bool(off <= 1e-9 * np.abs(expected).max())  # false for NaN


class RunningMoments:
    """Exact streaming mean and covariance in float64 (Chan, Golub and LeVeque, 1979); memory O(D^2) whatever N."""

    def __init__(self, dims: int) -> None:
        self.count = 0
        self._mean: Array = np.zeros(dims)
        self._scatter: Array = np.zeros((dims, dims))
        self._held: list[Array] = []

    def update(self, features: NDArray[Any]) -> None:
        """Add a batch (B, D) of any float dtype. Raises MetricError on a wrong shape or non-finite values."""
        x = _features(features)
        if x.shape[1] != len(self._mean):
            raise MetricError(f"features have {x.shape[1]} dimensions, {len(self._mean)} were expected")
        self.count += len(x)
        self._held.append(x)
        # Every fold passes over (D, D) several times: in many dimensions small batches wait for each other.
        if len(self._mean) < LARGE or sum(map(len, self._held)) >= ROWS_AT_ONCE:
            self._fold()
        elif x is features or x.base is not None:  # the caller's memory, which may hold the next batch by then
            self._held[-1] = x.copy()

    def _fold(self) -> None:
        held, self._held = [x for x in self._held if len(x)], []
        if not held:
            return
        x = held[0] if len(held) == 1 else np.concatenate(held)
        n, total = len(x), self.count
        mean = x.mean(axis=0)
        centred, shift = x - mean, mean - self._mean
        self._scatter += centred.T @ centred + np.outer(shift, shift) * ((total - n) * n / total)
        self._mean = self._mean + shift * (n / total)

    def moments(self) -> Moments:
        """The moments so far. Raises MetricError below two vectors, where a covariance does not exist."""
        if self.count < 2:
            raise MetricError(f"a covariance needs at least 2 feature vectors, got {self.count}")
        self._fold()
        return Moments(self._mean.copy(), self._scatter / (self.count - 1), self.count)


def moments(features: NDArray[Any]) -> Moments:
    """Mean and covariance of features (N, D), N >= 2."""
    running = RunningMoments(np.shape(features)[-1])
    running.update(features)
    return running.moments()


def frechet_distance(a: Moments, reference: Moments) -> float:
    """Squared Frechet distance (what is called FID) from moments; the factor of `reference` is cached on it."""
    _same_dims(len(a.mean), len(reference.mean))
    values = _eigenvalues_of_product(a.cov, reference.factor)
    # True zeros are known only to machine precision; each would add its root, some 1e-8 of the largest.
    floor = max(float(values[-1]), 0.0) * len(values) * np.finfo(np.float64).eps
    nuclear = float(np.sqrt(values[values > floor]).sum())
    return _assemble(a.mean - reference.mean, float(np.trace(a.cov)), float(np.trace(reference.cov)), nuclear)


def frechet_from_features(a: NDArray[Any], reference: NDArray[Any] | Moments) -> float:
    """Squared Frechet distance of features (N, D) from other features (M, D) or from given reference moments.

    Takes the exact nuclear-norm form where a side has no more samples than dimensions, else the form from moments.
    """
    x = _features(a)
    if len(x) > x.shape[1] and (isinstance(reference, Moments) or len(reference) > np.shape(reference)[-1]):
        return frechet_distance(moments(x), reference if isinstance(reference, Moments) else moments(reference))
    mean, factor, trace = _centred(x)
    if isinstance(reference, Moments):
        other = (reference.mean, reference.factor, float(np.trace(reference.cov)))
    else:
        other = _centred(_features(reference))
    _same_dims(len(mean), len(other[0]))
    nuclear = _nuclear_norm(factor @ other[1].T, centred=len(x) <= x.shape[1])
    return _assemble(mean - other[0], trace, other[2], nuclear)


def frechet_by_square_root(a: Moments, reference: Moments) -> float:
    """The same distance by ``scipy.linalg.sqrtm`` of C1 C2, as the formula is usually coded: slow, and off by some
    1e-7 where a covariance is singular. For tests and benchmarks.
    """
    from scipy.linalg import sqrtm

    _same_dims(len(a.mean), len(reference.mean))
    root = float(np.trace(sqrtm(a.cov @ reference.cov)).real)
    return _assemble(a.mean - reference.mean, float(np.trace(a.cov)), float(np.trace(reference.cov)), root)


def _eigenvalues_of_product(cov: Array, root: Array) -> Array:
    """Eigenvalues of root cov root^T, ascending; (1,) of zero for a root without rows."""
    k, d = root.shape
    if k == 0:
        return np.zeros(1)
    if d >= LARGE:
        from scipy.linalg import eigh, lapack

        product = None
        if k == d and not np.tril(root, -1).any():
            # Fortran order of a symmetric matrix is its own transpose, so neither copy is turned around.
            product, info = lapack.dsygst(cov.copy().T, root.T, itype=2, lower=1, overwrite_a=1)
            product = None if info else product
        if product is None:
            product = (root @ cov @ root.T).T
        values = eigh(product, lower=True, eigvals_only=True, driver="evd", overwrite_a=True, check_finite=False)
        return np.asarray(values, dtype=np.float64)
    product = root @ cov @ root.T
    return np.asarray(np.linalg.eigvalsh((product + product.T) / 2), dtype=np.float64)


def _nuclear_norm(product: Array, centred: bool) -> float:
    """Sum of the singular values of a product (K, D). `centred`: its rows add up to zero, so one of them is zero."""
    if product.size == 0:
        return 0.0
    if centred and len(product) < product.shape[1]:
        values = np.linalg.eigvalsh(product @ product.T)[1:]  # the smallest is the zero of the centring
        roots = np.sqrt(np.maximum(values, 0))
        # An eigenvalue is off by some eps of the largest, its root by that over 2 root; all are zero where a generator
        # gives one image.
        with np.errstate(divide="ignore", invalid="ignore"):
            off = 4 * np.finfo(np.float64).eps * values[-1] / (2 * roots) if len(values) else np.zeros(0)
        if float(off.sum()) <= GRAM_ERROR * float(roots.sum()):
            return float(roots.sum())
    return float(np.linalg.svd(product, compute_uv=False).sum())


def _centred(x: Array) -> tuple[Array, Array, float]:
    """Mean (D,), a factor (min(N, D), D) of the covariance by QR of the centred features, and its trace."""
    if len(x) < 2:
        raise MetricError(f"a covariance needs at least 2 feature vectors, got {len(x)}")
    mean = x.mean(axis=0)
    centred = (x - mean) / np.sqrt(len(x) - 1)
    trace = float(np.square(centred).sum())
    if len(x) > x.shape[1]:
        centred = np.linalg.qr(centred, mode="r")
    return mean, centred, trace


def _features(features: NDArray[Any]) -> Array:
    x = np.asarray(features, dtype=np.float64)
    if x.ndim != 2 or x.shape[1] == 0:
        raise MetricError(f"features have the shape (N, D), got {x.shape}")
    if not np.isfinite(x).all():
        bad = int((~np.isfinite(x).all(axis=1)).sum())
        raise MetricError(f"{bad} of {len(x)} feature vectors are not finite; check the samples for NaN")
    return x


def _same_dims(a: int, b: int) -> None:
    if a != b:
        raise MetricError(f"features have {a} dimensions and the reference has {b}; they are of different extractors")


def _assemble(shift: Array, trace_a: float, trace_b: float, nuclear: float) -> float:
    # Rounding can take the distance of equal sets below zero by some 1e-13 of the traces; a distance is not negative.
    return max(0.0, float(shift @ shift) + trace_a + trace_b - 2 * nuclear)
