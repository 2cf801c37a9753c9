"""Detectable differences against statsmodels, the planner against the definition."""

from __future__ import annotations

import math

import pytest
from scipy import stats
from statsmodels.stats.power import TTestIndPower

from ablate_reports import power


@pytest.mark.parametrize("n", [2, 3, 5, 20])
def test_the_detectable_difference_of_two_arms_is_statsmodels(n: int) -> None:
    df = 2 * n - 2
    ours = power.detectable(math.sqrt(2 / n), df, float(stats.t.isf(0.025, df)))
    assert TTestIndPower().power(ours, n, 0.05) == pytest.approx(0.8, abs=1e-8)


@pytest.mark.parametrize(("shift", "df"), [(0.0, 4.0), (2.0, 4.0), (3.5, 18.0), (1.0, 1.0)])
def test_power_is_that_of_the_noncentral_t(shift: float, df: float) -> None:
    c = float(stats.t.isf(0.025, df))
    oracle = stats.nct.sf(c, df, shift) + stats.nct.cdf(-c, df, shift) if shift else 0.05
    assert power.power_of_t(shift, df, c) == pytest.approx(oracle, abs=1e-8)


def test_power_stays_finite_where_scipys_noncentral_t_does_not() -> None:
    assert power.power_of_t(300.0, 5.0, 2.6) == pytest.approx(1.0)


def test_the_numbers_of_the_study_notes_are_reproduced() -> None:
    """CV 1.3 %, pooled over 12 cells, 11 comparisons: 4.3 % with 3 seeds and 3.2 % with 5."""
    three = 100 * math.expm1(power.detectable_with(0.013, 12, 3, blocked=False))
    five = 100 * math.expm1(power.detectable_with(0.013, 12, 5, blocked=False))
    assert three == pytest.approx(4.3, abs=0.15)
    assert five == pytest.approx(3.2, abs=0.15)


def test_the_planner_returns_the_smallest_number_of_seeds() -> None:
    n = power.seeds_needed(0.03, 0.013, 10)
    assert n is not None
    assert power.detectable_with(0.013, 10, n) <= 0.03 < power.detectable_with(0.013, 10, n - 1)


def test_a_hopeless_effect_has_no_plan_and_a_negative_one_is_refused() -> None:
    assert power.seeds_needed(1e-9, 1.0, 3) is None
    with pytest.raises(ValueError, match="must be positive"):
        power.seeds_needed(0.0, 1.0, 3)


def test_the_upper_limit_of_sigma_covers_at_its_level() -> None:
    assert power.upper_sigma(1.0, 10) == pytest.approx(math.sqrt(10 / stats.chi2.ppf(0.2, 10)))
    assert power.upper_sigma(1.0, 10) > 1
