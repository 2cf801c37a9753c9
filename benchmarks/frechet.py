"""Frechet distance of 2048 features: ours against clean-fid's, interleaved; run ``python benchmarks/frechet.py``.

Prints per case the median CPU seconds of each form, its ratio to clean-fid and its error against the exact value (the
nuclear norm of the product of the centred features, by SVD, in float64). Takes a few minutes; not part of the tests.
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

from ablate_core.fid.frechet import frechet_distance, frechet_from_features, moments

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


def clean_fid(x: Features, y: Features) -> float:
    from cleanfid.fid import frechet_distance as theirs

    mu_x, mu_y = x.mean(axis=0), y.mean(axis=0)
    return float(theirs(mu_x, np.cov(x, rowvar=False), mu_y, np.cov(y, rowvar=False)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dims", type=int, default=2048)
    parser.add_argument("--counts", type=int, nargs="+", default=[10_000, 1_000])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    warnings.simplefilter("ignore", DeprecationWarning)  # clean-fid calls sqrtm(disp=False)
    for count in options.counts:
        x, y = features(count, options.dims, 1), features(count, options.dims, 2) * 1.02
        reference = moments(y)
        _ = reference.factor  # once per data set, not once per evaluation
        forms: dict[str, Callable[[], float]] = {
            "clean-fid": lambda x=x, y=y: clean_fid(x, y),  # type: ignore[misc]
            "ours, no cache": lambda x=x, y=y: frechet_distance(moments(x), moments(y)),  # type: ignore[misc]
            "ours, cached reference": lambda x=x, r=reference: frechet_distance(moments(x), r),  # type: ignore[misc]
            "ours, from features": lambda x=x, y=y: frechet_from_features(x, y),  # type: ignore[misc]
        }
        if count > options.dims:
            del forms["ours, from features"]  # the same computation as "no cache" there
        truth, seconds, values = exact(x, y), {name: [] for name in forms}, dict.fromkeys(forms, 0.0)
        for _round in range(options.rounds):
            for name, form in forms.items():  # interleaved, so that a busy machine slows all alike
                began = time.process_time()
                values[name] = form()
                seconds[name].append(time.process_time() - began)
        base = statistics.median(seconds["clean-fid"])
        print(f"\nN = {count}, D = {options.dims}, exact {truth:.9f}, medians of {options.rounds}")
        print(f"{'form':24} {'CPU s':>8} {'speed':>7} {'relative error':>15}")
        for name in forms:
            median = statistics.median(seconds[name])
            print(f"{name:24} {median:8.2f} {base / median:6.1f}x {abs(values[name] / truth - 1):15.1e}")


if __name__ == "__main__":
    main()
