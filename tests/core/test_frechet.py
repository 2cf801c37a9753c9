"""The Frechet distance against closed forms, recorded exact values and clean-fid's own function.

``golden/fid_resize.npz`` holds, for features made from the seeds below: ``fid_cleanfid``, clean-fid's function with
SciPy 1.17.1, and ``fid_exact_svd``, the nuclear-norm value; and for images of seeded noise the pixels of clean-fid's
resize (Pillow 13).
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ablate_core.fid import MetricError
from ablate_core.fid import frechet as frechet_module
from ablate_core.fid.frechet import (
    Moments,
    RunningMoments,
    frechet_by_square_root,
    frechet_distance,
    frechet_from_features,
    moments,
)

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "fid_resize.npz")
CASES = {
    "fid_d64": (1001, 300, 250, 64),
    "fid_d512": (1002, 700, 640, 512),
    "fid_d2048_rank_deficient": (1003, 200, 150, 2048),
}


def features(seed: int, n1: int, n2: int, d: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The two feature sets of the recorded values: rectified, correlated, of different mean and spread."""
    rs = np.random.RandomState(seed)
    w = rs.randn(8, d)
    x1 = np.maximum(0.4 + 0.3 * rs.randn(n1, d) + 0.1 * rs.randn(n1, 8) @ w, 0)
    x2 = np.maximum(0.45 + 0.28 * rs.randn(n2, d) + 0.12 * rs.randn(n2, 8) @ w, 0)
    return x1, x2


@pytest.mark.parametrize("case", CASES)
def test_features_give_the_exact_value(case: str) -> None:
    x1, x2 = features(*CASES[case])
    assert frechet_from_features(x1, x2) == pytest.approx(float(GOLDEN[f"{case}/fid_exact_svd"]), rel=1e-11)


@pytest.mark.parametrize("case", CASES)
def test_moments_give_the_exact_value(case: str) -> None:
    x1, x2 = features(*CASES[case])
    exact = float(GOLDEN[f"{case}/fid_exact_svd"])
    assert frechet_distance(moments(x1), moments(x2)) == pytest.approx(exact, rel=1e-11)


@pytest.mark.parametrize(("case", "rel"), [("fid_d64", 1e-6), ("fid_d512", 1e-6), ("fid_d2048_rank_deficient", 1e-5)])
def test_recorded_clean_fid_values_agree(case: str, rel: float) -> None:
    x1, x2 = features(*CASES[case])
    assert frechet_from_features(x1, x2) == pytest.approx(float(GOLDEN[f"{case}/fid_cleanfid"]), rel=rel)


def test_on_rank_deficient_features_ours_is_closer_to_the_exact_value_than_clean_fid() -> None:
    case = "fid_d2048_rank_deficient"
    exact, theirs = float(GOLDEN[f"{case}/fid_exact_svd"]), float(GOLDEN[f"{case}/fid_cleanfid"])
    ours = frechet_from_features(*features(*CASES[case]))
    assert abs(ours - exact) < 1e-3 * abs(theirs - exact)


def truth(x1: NDArray[np.float64], x2: NDArray[np.float64]) -> float:
    """The distance in 50 digits: the nuclear norm of the product of the centred features, by mpmath."""
    from mpmath import mp, mpf

    with mp.workdps(50):

        def centred(x: NDArray[np.float64]) -> tuple[Any, Any]:
            m = mp.matrix(x.tolist())
            mean = [sum(m[i, j] for i in range(m.rows)) / m.rows for j in range(m.cols)]
            scale = mp.sqrt(mpf(m.rows - 1))
            return mean, mp.matrix([[(m[i, j] - mean[j]) / scale for j in range(m.cols)] for i in range(m.rows)])

        (mean1, a1), (mean2, a2) = centred(x1), centred(x2)
        shift = sum((p - q) ** 2 for p, q in zip(mean1, mean2, strict=True))
        traces = sum(v**2 for v in a1) + sum(v**2 for v in a2)
        nuclear = sum(mp.svd_r(a1 * a2.T, compute_uv=False))
        return float(shift + traces - 2 * nuclear)


@pytest.mark.parametrize("large", [1, 512])
@pytest.mark.parametrize(("n1", "n2"), [(20, 18), (6, 18), (5, 4)])
def test_every_form_gives_the_value_in_fifty_digits(
    n1: int, n2: int, large: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frechet_module, "LARGE", large)  # 1: the forms of thousands of dimensions, on few
    x1, x2 = features(11, n1, n2, 8)
    exact = truth(x1, x2)
    assert frechet_from_features(x1, x2) == pytest.approx(exact, rel=1e-13)
    assert frechet_from_features(x1, moments(x2)) == pytest.approx(exact, rel=1e-13)
    assert frechet_distance(moments(x1), moments(x2)) == pytest.approx(exact, rel=1e-13)
    assert frechet_by_square_root(moments(x1), moments(x2)) == pytest.approx(exact, rel=1e-12 if n2 > 8 < n1 else 1e-6)


def test_below_full_rank_ours_is_closer_to_fifty_digits_than_clean_fid() -> None:
    from cleanfid.fid import frechet_distance as theirs

    x1, x2 = features(12, 7, 40, 12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        other = theirs(x1.mean(0), np.cov(x1, rowvar=False), x2.mean(0), np.cov(x2, rowvar=False))
    exact = truth(x1, x2)
    assert abs(frechet_from_features(x1, moments(x2)) - exact) < 1e-3 * abs(other - exact)


@pytest.mark.parametrize("repeated", [1, 2])
def test_a_gram_matrix_stands_in_for_the_svd_only_where_it_is_as_good(
    repeated: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x1, x2 = features(13, 24, 500, 64)
    x1 = np.concatenate([x1] * repeated)  # repeated rows make eigenvalues of zero beyond the centring's
    reference, asked = moments(x2), []
    svd = np.linalg.svd
    monkeypatch.setattr(np.linalg, "svd", lambda *a, **k: (asked.append(1), svd(*a, **k))[1])
    value = frechet_from_features(x1, reference)
    assert len(asked) == repeated - 1
    factor = (x1 - x1.mean(axis=0)) / np.sqrt(len(x1) - 1)
    nuclear = svd(factor @ reference.factor.T, compute_uv=False).sum()
    shift = x1.mean(axis=0) - reference.mean
    expected = shift @ shift + np.square(factor).sum() + np.trace(reference.cov) - 2 * nuclear
    assert value == pytest.approx(expected, rel=1e-13)


def test_a_factor_of_full_rank_is_triangular_from_many_dimensions_on(monkeypatch: pytest.MonkeyPatch) -> None:
    full, lacking = moments(features(14, 40, 2, 16)[0]), moments(features(14, 10, 2, 16)[0])
    assert np.tril(full.factor, -1).any()
    monkeypatch.setattr(frechet_module, "LARGE", 16)
    again = Moments(full.mean, full.cov)
    assert not np.tril(again.factor, -1).any()
    np.testing.assert_allclose(again.factor.T @ again.factor, full.cov, atol=1e-14)
    assert lacking.factor.shape == (9, 16), "below full rank it is the one of the eigenvalues, whatever the size"
    x = moments(features(15, 50, 2, 16)[0])
    assert frechet_distance(x, again) == pytest.approx(frechet_distance(x, full), rel=1e-13)


def test_a_stored_factor_is_known_from_a_wrong_one() -> None:
    m = moments(features(16, 60, 2, 12)[0])
    assert m.is_factor(m.factor)
    for wrong in (m.factor * 1.001, m.factor[:5], m.factor[:, :5], m.factor.astype(np.float32), m.factor * np.nan):
        assert not m.is_factor(wrong)


@pytest.mark.parametrize("seed", range(3))
def test_clean_fids_own_function_agrees_on_full_rank_features(seed: int) -> None:
    from cleanfid.fid import frechet_distance as theirs

    x1, x2 = features(seed, 400, 300, 48)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # clean-fid calls sqrtm(disp=False)
        expected = theirs(x1.mean(0), np.cov(x1, rowvar=False), x2.mean(0), np.cov(x2, rowvar=False))
    assert frechet_distance(moments(x1), moments(x2)) == pytest.approx(expected, rel=1e-9)
    assert frechet_from_features(x1, x2) == pytest.approx(expected, rel=1e-9)


def test_diagonal_gaussians_have_the_closed_form() -> None:
    rs = np.random.RandomState(0)
    a, b, shift = rs.rand(20), rs.rand(20), rs.randn(20)
    expected = shift @ shift + np.square(np.sqrt(a) - np.sqrt(b)).sum()
    value = frechet_distance(Moments(shift, np.diag(a)), Moments(np.zeros(20), np.diag(b)))
    assert value == pytest.approx(expected, rel=1e-13)


def test_a_shift_of_the_same_set_costs_its_square() -> None:
    x, _ = features(3, 200, 2, 16)
    shift = np.linspace(-1, 1, 16)
    assert frechet_from_features(x + shift, x) == pytest.approx(shift @ shift, rel=1e-10)


def test_a_rotation_of_feature_space_changes_nothing() -> None:
    x1, x2 = features(4, 200, 150, 24)
    rotation = np.linalg.qr(np.random.RandomState(0).randn(24, 24))[0]
    assert frechet_from_features(x1 @ rotation, x2 @ rotation) == pytest.approx(
        frechet_from_features(x1, x2), rel=1e-11
    )


@pytest.mark.parametrize(("n", "d"), [(500, 32), (20, 32), (33, 32), (32, 32)])
def test_identical_sets_are_at_distance_zero(n: int, d: int) -> None:
    x, _ = features(5, n, 2, d)
    scale = float(x.var(axis=0).sum())
    assert 0 <= frechet_from_features(x, x) < 1e-12 * scale
    assert 0 <= frechet_distance(moments(x), moments(x)) < 1e-12 * scale


@pytest.mark.parametrize("n1", [10, 31, 32, 33, 64])
@pytest.mark.parametrize("n2", [12, 100])
def test_the_form_from_features_and_the_form_from_moments_agree_around_full_rank(n1: int, n2: int) -> None:
    x1, x2 = features(6, n1, n2, 32)
    from_moments = frechet_distance(moments(x1), moments(x2))
    assert frechet_from_features(x1, x2) == pytest.approx(from_moments, rel=1e-10)
    assert frechet_from_features(x1, moments(x2)) == pytest.approx(from_moments, rel=1e-10)


def test_constant_features_have_the_distance_of_a_point() -> None:
    x, _ = features(8, 100, 2, 12)
    point = np.full((50, 12), 0.3)
    expected = np.square(x.mean(axis=0) - 0.3).sum() + x.var(axis=0, ddof=1).sum()
    assert frechet_from_features(point, x) == pytest.approx(expected, rel=1e-13)
    assert frechet_from_features(x, point) == pytest.approx(expected, rel=1e-13)
    assert frechet_distance(moments(point), moments(x)) == pytest.approx(expected, rel=1e-13)
    assert frechet_distance(moments(x), moments(point)) == pytest.approx(expected, rel=1e-13)
    assert frechet_from_features(point, point) < 1e-30


@pytest.mark.parametrize("large", [1, 512])
def test_streamed_moments_equal_those_of_all_features_at_once(large: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frechet_module, "LARGE", large)
    monkeypatch.setattr(frechet_module, "ROWS_AT_ONCE", 300)  # the batches of many dimensions wait for each other
    x = features(9, 1000, 2, 20)[0].astype(np.float32) + 1000  # a large mean: raw float32 moments would lose it all
    running = RunningMoments(20)
    for part in np.split(x, [1, 17, 17, 400, 999]):
        running.update(part)
    streamed, wide = running.moments(), x.astype(np.float64)
    assert streamed.count == 1000
    np.testing.assert_allclose(streamed.mean, wide.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(streamed.cov, np.cov(wide, rowvar=False), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("d", [4, 512])
def test_streamed_moments_do_not_change_with_the_array_they_were_given(d: int) -> None:
    batches = np.random.RandomState(3).randn(4, 8, d)
    running, given = RunningMoments(d), np.empty((8, d))
    for batch in batches:
        given[:] = batch  # as who fills one array again and again
        running.update(given)
    np.testing.assert_allclose(running.moments().mean, batches.reshape(-1, d).mean(0), rtol=0, atol=1e-12)


def test_a_generator_of_one_image_gives_a_distance_without_a_warning() -> None:
    reference = moments(np.random.RandomState(4).randn(200, 48))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = frechet_from_features(np.ones((20, 48)), reference)
    shift = np.ones(48) - reference.mean
    assert found == pytest.approx(shift @ shift + np.trace(reference.cov))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_features_that_are_not_finite_are_refused_and_counted(bad: float) -> None:
    x = np.zeros((10, 3))
    x[[2, 5], 1] = bad
    for call in (
        lambda: moments(x),
        lambda: frechet_from_features(x, np.eye(3)),
        lambda: frechet_from_features(x[:3], x),
    ):
        with pytest.raises(MetricError, match=r"^[12] of \d+ feature vectors are not finite"):
            call()


def test_moments_that_are_not_finite_are_refused() -> None:
    with pytest.raises(MetricError, match="not finite"):
        Moments(np.zeros(2), np.array([[1.0, np.nan], [np.nan, 1.0]]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: moments(np.zeros((1, 3))), "at least 2 feature vectors, got 1"),
        (lambda: frechet_from_features(np.zeros((1, 3)), np.eye(3)), "at least 2 feature vectors, got 1"),
        (lambda: RunningMoments(3).moments(), "at least 2 feature vectors, got 0"),
        (lambda: moments(np.zeros((4, 3, 2))), r"shape \(N, D\), got \(4, 3, 2\)"),
        (lambda: RunningMoments(3).update(np.zeros((4, 2))), "2 dimensions, 3 were expected"),
        (lambda: Moments(np.zeros(3), np.eye(2)), r"got \(3,\) and \(2, 2\)"),
        (lambda: frechet_distance(moments(np.eye(3)), moments(np.eye(4))), "3 dimensions and the reference has 4"),
        (lambda: frechet_from_features(np.eye(3), np.eye(4)), "3 dimensions and the reference has 4"),
        (lambda: Moments(np.zeros(2), np.array([[1.0, 0.5], [0.0, 1.0]])).factor, "not symmetric"),
        (lambda: Moments(np.zeros(2), np.diag([1.0, -0.5])).factor, "negative eigenvalue -0.5"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_line(call: Any, message: str) -> None:
    with pytest.raises(MetricError, match=message) as refused:
        call()
    assert "\n" not in str(refused.value)


def test_a_covariance_rounded_to_float32_is_accepted() -> None:
    x1, x2 = features(10, 60, 50, 40)
    rounded = moments(x2)
    rounded = Moments(rounded.mean, rounded.cov.astype(np.float32).astype(np.float64))
    assert frechet_distance(moments(x1), rounded) == pytest.approx(frechet_from_features(x1, x2), rel=1e-5)
