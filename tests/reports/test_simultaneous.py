"""The law of the largest |t|: exact where an oracle is, close where it is simulated."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate, special, stats

from ablate_reports import simultaneous
from ablate_reports.simultaneous import MaxT, scale_nodes


def equal(m: int, rho: float = 0.5) -> np.ndarray:
    return np.full((m, m), rho) + (1 - rho) * np.eye(m)


@pytest.mark.parametrize("df", [1.0, 3.0, 20.0, 400.0])
def test_one_contrast_is_the_t_distribution(df: float) -> None:
    law = MaxT(np.eye(1), df)
    assert law.critical(0.05) == pytest.approx(stats.t.isf(0.025, df), rel=1e-12)
    assert law.adjusted_p(1.7) == pytest.approx(2 * stats.t.sf(1.7, df), rel=1e-10)


@pytest.mark.parametrize(
    ("m", "df", "simulated"), [(2, 5, 3.0261), (9, 20, 2.9452), (5, 10, 2.9900), (3, 60, 2.4103), (9, 12, 3.1414)]
)
def test_critical_values_are_those_of_a_direct_simulation(m: int, df: int, simulated: float) -> None:
    """Quantiles of the largest of m |t| that share a baseline, from 2,000,000 draws (numpy PCG64, seed 1), +-0.004."""
    assert MaxT(equal(m), float(df)).critical(0.05) == pytest.approx(simulated, abs=0.006)


def test_two_contrasts_agree_with_direct_integration() -> None:
    df, rho, c = 4.0, 0.5, 2.7

    def inside(s: float) -> float:
        both = stats.multivariate_normal([0, 0], [[1, rho], [rho, 1]])
        a = c * s
        corners = both.cdf([a, a]) - 2 * both.cdf([a, -a]) + both.cdf([-a, -a])
        return float(corners * stats.chi2.pdf(df * s * s, df) * 2 * df * s)

    oracle = integrate.quad(inside, 0, 6, epsabs=1e-11)[0]
    assert MaxT(equal(2), df).cdf(c) == pytest.approx(oracle, abs=1e-8)


def test_unequal_loadings_agree_with_direct_simulation() -> None:
    loads = np.array([0.3, 0.6, 0.8, 0.9])
    corr = np.outer(loads, loads)
    np.fill_diagonal(corr, 1)
    law = MaxT(corr, 7.0)
    assert law.exact
    rng = np.random.default_rng(0)
    z = rng.multivariate_normal(np.zeros(4), corr, 400_000) / np.sqrt(rng.chisquare(7, 400_000) / 7)[:, None]
    assert law.cdf(2.5) == pytest.approx((np.abs(z).max(axis=1) <= 2.5).mean(), abs=2.5e-3)


def test_the_simulated_law_is_close_to_the_integrated_one() -> None:
    corr = equal(9)
    bent = corr.copy()
    bent[0, 1] = bent[1, 0] = 0.5 + 1e-6  # no longer a product of loadings, and yet the same law
    assert MaxT(corr, 18.0).exact
    assert not MaxT(bent, 18.0).exact
    assert MaxT(bent, 18.0).critical(0.05) == pytest.approx(MaxT(corr, 18.0).critical(0.05), abs=3e-3)


def test_negative_correlations_are_simulated_and_deterministic() -> None:
    corr = np.array([[1.0, -0.5, 0.2], [-0.5, 1.0, 0.1], [0.2, 0.1, 1.0]])
    a, b = MaxT(corr, 10.0).critical(0.05), MaxT(corr.copy(), 10.0).critical(0.05)
    assert a == b
    assert stats.t.isf(0.025, 10) < a < stats.t.isf(0.025 / 3, 10)


def test_a_singular_family_does_not_fail() -> None:
    corr = np.ones((2, 2))  # the same contrast twice
    assert MaxT(corr, 6.0).critical(0.05) == pytest.approx(stats.t.isf(0.025, 6), abs=2e-3)


@pytest.mark.parametrize("df", [1.0, 2.0, 8.0, 1000.0])
def test_the_scale_nodes_integrate_the_moments_of_s(df: float) -> None:
    s, weight = scale_nodes(df)
    assert weight @ s**2 == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize(("m", "df"), [(249, 740.0), (9, 4.0)])
def test_many_p_values_from_a_polynomial_are_those_of_one_by_one(m: int, df: float) -> None:
    law = MaxT(equal(m), df)
    t = np.concatenate([np.linspace(-9, 9, 80), [0.0, 14.0, -60.0]])
    one_by_one = [law.adjusted_p(float(c)) for c in t]
    assert law.adjusted_many(t) == pytest.approx(one_by_one, abs=1e-9)
    assert law.adjusted_many(t[:5]).tolist() == one_by_one[:5]


def test_where_the_polynomial_does_not_fit_every_p_value_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simultaneous, "DEGREE", 4)
    law, t = MaxT(equal(9), 20.0), np.linspace(0, 6, 30)
    assert law.adjusted_many(t).tolist() == [law.adjusted_p(float(c)) for c in t]


def product(loads: list[float]) -> np.ndarray:
    corr = np.outer(loads, loads)
    np.fill_diagonal(corr, 1.0)
    return corr


@pytest.mark.parametrize("loads", [[0.9, 0.95, 0.97], [0.99, 0.992, 0.5], [0.9999, 0.99995, 0.99999]])
@pytest.mark.parametrize("df", [2.0, 20.0])
def test_loadings_near_one_agree_with_adaptive_integration(loads: list[float], df: float) -> None:
    """The baseline of a study is far noisier than its arms: the integrand steps within a hundredth of z."""
    loading, c = np.array(loads), 2.2
    rest, (nodes, weights) = np.sqrt(1 - loading**2), scale_nodes(df)

    def given(s: float, both: bool) -> float:
        def integrand(z: float) -> float:
            below = special.ndtr((-c * s + loading * z) / rest) if both else 0.0
            return float(stats.norm.pdf(z) * np.prod(special.ndtr((c * s + loading * z) / rest) - below))

        steps = sorted({float(np.clip(sign * c * s / x, -9, 9)) for x in loading for sign in (-1, 1)})
        return float(integrate.quad(integrand, -9.001, 9.001, points=steps, limit=200, epsabs=1e-11)[0])

    law = MaxT(product(loads), df)
    assert law.exact
    for found, both in ((law.cdf(c), True), (law.upper_cdf(c), False)):
        oracle = sum(w * given(s, both) for s, w in zip(nodes, weights, strict=True))
        assert found == pytest.approx(oracle, abs=1e-8)


@pytest.mark.parametrize("m", [2, 9, 400])
def test_critical_values_fall_to_that_of_one_contrast(m: int) -> None:
    """...as the baseline becomes noisier: never below, and with no step between how the two cases are computed."""
    one, all_of_them = stats.t.isf(0.025, 2), stats.t.isf(0.025 / m, 2)
    found = [
        MaxT(product([load] * m), 2.0).critical(0.05) for load in (0.9, 0.98, 0.99, 0.9935, 0.999, 0.99999, 1 - 1e-9)
    ]
    assert found == sorted(found, reverse=True)
    assert all(one <= c <= all_of_them for c in found)
    assert found[-1] == pytest.approx(one, rel=2e-4)
    assert found[2] - found[3] < found[1] - found[2]


def test_a_family_that_is_all_but_one_contrast_has_its_critical_value() -> None:
    """By quasi-random numbers, which are good to 1e-3, there would be no root between t and Bonferroni's value."""
    rng, t = np.random.default_rng(0), stats.t.isf(0.025, 4)
    for _ in range(20):
        noise = 1e-4 * rng.normal(size=(5, 8))
        corr = np.corrcoef(rng.normal(size=8) + noise)
        assert t <= MaxT(corr, 4.0).critical(0.05) == pytest.approx(t, abs=0.02)
        assert MaxT(corr, 4.0).upper_critical(0.05) == pytest.approx(stats.t.isf(0.05, 4), abs=0.02)
