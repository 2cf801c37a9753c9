"""The bias of a Frechet distance by number of samples: against distances of real samples, and where it is refused."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from simulated_study import METRIC, study
from test_analysis import changed

from ablate_reports.data import COLUMNS
from ablate_reports.sample_bias import ONE_SET, TOO_SMALL, sample_bias, sample_families

SIZES = (5000, 10_000, 20_000, 50_000)


def frechet(mean: np.ndarray, cov: np.ndarray) -> float:
    """Distance of a Gaussian to the standard one."""
    root = np.sqrt(np.clip(np.linalg.eigvalsh(cov), 0, None)).sum()
    return float(mean @ mean + np.trace(cov) + len(mean) - 2 * root)


def measured(rng: np.random.Generator, shift: float = 0.3, dim: int = 24) -> dict[int, float]:
    """FID_N of growing prefixes of one set of samples from N(shift, diag); features as few as allow a fast test."""
    scale = np.linspace(0.6, 1.4, dim)
    x = shift / math.sqrt(dim) + scale * rng.normal(size=(SIZES[-1], dim))
    return {n: frechet(x[:n].mean(axis=0), np.cov(x[:n].T)) for n in SIZES}


def true(shift: float = 0.3, dim: int = 24) -> float:
    return frechet(np.full(dim, shift / math.sqrt(dim)), np.diag(np.linspace(0.6, 1.4, dim) ** 2))


def test_the_line_of_real_distances_meets_the_true_one() -> None:
    rng = np.random.default_rng(0)
    repeats = {str(i): measured(rng) for i in range(4)}
    found = sample_bias(repeats)
    assert found.low is not None and found.high is not None and found.infinity is not None  # noqa: PT018
    assert found.low <= true() <= found.high
    at_5k = np.mean([r[5000] for r in repeats.values()])
    bias = found.at(5000)
    assert bias is not None
    assert bias == pytest.approx(at_5k - true(), rel=0.35)
    assert (found.sizes, found.ignored, found.repeats, found.note) == (SIZES, (), 4, "")
    assert abs(found.infinity - true()) < at_5k - true()


def test_the_interval_covers_the_true_distance() -> None:
    """Lines with the noise of FID_N (sd as 1/sqrt N, sizes of one set correlated), three repeats."""
    rng, hits, runs = np.random.default_rng(1), 0, 400
    n = np.array(SIZES, dtype=float)
    for _ in range(runs):
        repeats = {}
        for i in range(3):
            steps = rng.normal(0, np.sqrt(np.diff(n, prepend=0.0)))  # sums over growing prefixes
            noise = 20 * np.cumsum(steps) / n
            repeats[str(i)] = dict(zip(SIZES, (3.0 + 2500 / n + noise).tolist(), strict=True))
        found = sample_bias(repeats)
        assert found.low is not None and found.high is not None  # noqa: PT018
        hits += found.low <= 3.0 <= found.high
    assert hits / runs == pytest.approx(0.95, abs=3 * math.sqrt(0.05 * 0.95 / runs))


def test_one_set_is_the_weighted_least_squares_of_statsmodels_and_says_what_it_assumes() -> None:
    rng = np.random.default_rng(2)
    values = {n: 3.0 + 2500 / n + float(rng.normal(0, 20 / math.sqrt(n))) for n in SIZES}
    n = np.array(SIZES, dtype=float)
    oracle = sm.WLS(np.array(list(values.values())), sm.add_constant(1 / n), weights=n).fit()
    found = sample_bias({"one": values})
    (low, high), (slope_low, slope_high) = oracle.conf_int()
    assert (found.infinity, found.slope) == pytest.approx(tuple(oracle.params), rel=1e-8)
    assert (found.low, found.high, found.slope_low, found.slope_high) == pytest.approx(
        (low, high, slope_low, slope_high), rel=1e-8
    )
    assert found.note == ONE_SET


def test_small_samples_are_never_extrapolated() -> None:
    few = sample_bias({"a": {500: 9.0, 1000: 6.0, 2000: 4.0, 5000: 3.5, 10_000: 3.2}})
    assert (few.infinity, few.note, few.ignored) == (None, TOO_SMALL, (500, 1000, 2000))
    assert few.at(5000) is None
    kept = sample_bias({"a": {1000: 99.0, **{n: 3.0 + 2500 / n for n in SIZES}}})
    assert kept.infinity == pytest.approx(3.0, rel=1e-9)
    assert sample_bias({}).note == TOO_SMALL


def test_families_are_metrics_that_differ_in_the_number_of_samples_alone() -> None:
    frames = study(every=1000)
    defs, rows = [], []
    for n in SIZES:
        defs.append((f"mid-{n}", "fd_digits", json.dumps(METRIC | {"samples": n}), False))
        same = frames.measurements.assign(metric_id=f"mid-{n}", n_samples=n)
        rows.append(same.assign(value=same["value"] + 2500 / n))
    defs.append(("mid-other", "fd_digits", json.dumps(METRIC | {"samples": 7000, "dtype": "float32"}), False))
    rows.append(frames.measurements.assign(metric_id="mid-other", n_samples=7000))
    wrong = rows[0].assign(n_samples=4999, value=1e6)
    many = changed(
        frames,
        metric_defs=pd.DataFrame(defs, columns=list(COLUMNS["metric_defs"])),
        measurements=pd.concat([*rows, wrong]),
    )
    [family] = sample_families(many)
    assert (family.name, list(family.metric_ids)) == ("fd_digits", list(SIZES))
    esc = family.arms["arm-esc"]
    assert esc.repeats == 3
    assert esc.slope == pytest.approx(2500, rel=1e-6)
    last = frames.measurements[(frames.measurements["arm_id"] == "arm-esc") & (frames.measurements["step"] == 2000)]
    assert esc.infinity == pytest.approx(last["value"].mean(), rel=1e-9)
    assert sample_families(frames) == []
