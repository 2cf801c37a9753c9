"""Frechet distance of 2048 features: ours against clean-fid's, interleaved; run ``python benchmarks/frechet.py``.

The reference's statistics are given to both sides, and its factor to ours: both are made once per data set. The new
samples come as moments (the distance alone) and as features (what an evaluation has). Prints the median CPU seconds of
each form, its ratio to clean-fid's, its error against the exact value (the nuclear norm of the product of the centred
features, by SVD, in float64) and its distance from clean-fid's value. Takes ten minutes; not part of the tests.
One thread:
``OMP_NUM_THREADS=1 python benchmarks/frechet.py``.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from ablate_core.fid.frechet import Moments, frechet_distance, frechet_from_features, moments

Features = NDArray[np.float64]


def features(count: int, dims: int, seed: int) -> Features:
    """Rectified and correlated, as an Inception pool layer's are."""
    rs = np.random.RandomState(seed)
    return np.maximum(0.4 + 0.3 * rs.randn(count, dims) + 0.1 * rs.randn(count, 8) @ rs.randn(8, dims), 0)


def exact(x: Features, y: Features) -> float:
    """|mu1 - mu2|^2 + tr C1 + tr C2 - 2 |A1 A2^T|_* with A = centred features / sqrt(n - 1), reduced by QR."""
    factors = [(z - z.mean(axis=0)) / np.sqrt(len(z) - 1) for z in (x, y)]
    a, b = (f if len(f) <= f.shape[1] else linalg.qr(f, mode="r")[0][: f.shape[1]] for f in factors)
    shift = x.mean(axis=0) - y.mean(axis=0)
    return float(shift @ shift + (a * a).sum() + (b * b).sum() - 2 * linalg.svdvals(a @ b.T).sum())


def clean_fid(x: Moments, y: Moments) -> float:
    from cleanfid.fid import frechet_distance as theirs

    return float(theirs(x.mean, x.cov, y.mean, y.cov))


def numpy_moments(x: Features) -> Moments:
    """As clean-fid makes its statistics."""
    return Moments(np.mean(x, axis=0), np.cov(x, rowvar=False), len(x))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dims", type=int, default=2048)
    parser.add_argument("--counts", type=int, nargs="+", default=[10_000, 1_000])
    parser.add_argument("--reference", type=int, default=10_000, help="features the reference is made of")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    warnings.simplefilter("ignore", DeprecationWarning)  # clean-fid calls sqrtm(disp=False)
    y = features(options.reference, options.dims, 2) * 1.02
    reference = moments(y)
    _ = reference.factor  # once per data set, not once per evaluation
    for count in options.counts:
        x = features(count, options.dims, 1)
        own = moments(x)
        forms: dict[str, Callable[[], float]] = {
            "clean-fid, from moments": lambda own=own: clean_fid(own, reference),  # type: ignore[misc]
            "ours, from moments": lambda own=own: frechet_distance(own, reference),  # type: ignore[misc]
            "clean-fid, from features": lambda x=x: clean_fid(numpy_moments(x), reference),  # type: ignore[misc]
            "ours, from features": lambda x=x: frechet_from_features(x, reference),  # type: ignore[misc]
        }
        truth, seconds, values = exact(x, y), {name: [] for name in forms}, dict.fromkeys(forms, 0.0)
        for _round in range(options.rounds):
            for name, form in forms.items():  # interleaved, so that a busy machine slows all alike
                began = time.process_time()
                values[name] = form()
                seconds[name].append(time.process_time() - began)
        print(f"\nN = {count}, D = {options.dims}, exact {truth:.9f}, medians of {options.rounds}")
        print(f"{'form':26} {'CPU s':>8} {'speed':>7} {'error':>9} {'from clean-fid':>15}")
        for name in forms:
            theirs = name.replace("ours", "clean-fid")
            median, base = statistics.median(seconds[name]), statistics.median(seconds[theirs])
            print(
                f"{name:26} {median:8.2f} {base / median:6.1f}x {abs(values[name] / truth - 1):9.1e} "
                f"{abs(values[name] / values[theirs] - 1):15.1e}"
            )


if __name__ == "__main__":
    main()
