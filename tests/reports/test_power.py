"""Detectable differences against statsmodels, the planner against the definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import TTestIndPower

from ablate_reports import power
from ablate_reports.simultaneous import MaxT
from ablate_reports.statistics import fit


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
    three = 100 * math.expm1(power.detectable_with(0.013, 12, 3, blocked=False, guarded=False))
    five = 100 * math.expm1(power.detectable_with(0.013, 12, 5, blocked=False, guarded=False))
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


@pytest.mark.parametrize("seeds", [3, 5])
def test_the_price_of_the_guard_is_what_a_direct_simulation_pays(seeds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Power at the detectable difference with the guard of `Model.compare`, equal spreads, one true effect."""
    monkeypatch.setattr(MaxT, "adjusted_p", lambda self, t: 1.0)  # not looked at here, and half of the time
    arms, runs, sigma = 6, 200, 0.013
    effect = power.detectable_with(sigma, arms, seeds)
    assert effect > power.detectable_with(sigma, arms, seeds, guarded=False)
    rng, found = np.random.default_rng(seeds), 0
    for _ in range(runs):
        y = rng.normal(0, sigma, (arms, seeds)) + rng.normal(0, sigma, seeds)
        y[1] += effect
        model = fit({f"a{i}": dict(enumerate(map(float, row))) for i, row in enumerate(y)})
        assert model is not None
        c = model.compare([(f"a{i}", "a0") for i in range(1, arms)])[0]
        assert c.low is not None
        found += c.low > 0
    assert found / runs == pytest.approx(0.8, abs=3 * math.sqrt(0.8 * 0.2 / runs))


def test_with_three_arms_no_baseline_is_leant_on_by_more_than_two_and_the_guard_costs_nothing() -> None:
    assert power.detectable_with(1.0, 3, 4) == pytest.approx(power.detectable_with(1.0, 3, 4, guarded=False), rel=1e-6)


def test_a_seed_plan_uses_the_upper_limit_of_a_pilot_and_says_what_it_costs() -> None:
    plan = power.seed_plan(math.log1p(0.02), 10, (0.013, 18.0), hours_per_trial=2.0)
    assert plan.sigma == pytest.approx(power.upper_sigma(0.013, 18.0))
    assert plan.seeds == power.seeds_needed(math.log1p(0.02), plan.sigma, 10)
    assert plan.seeds is not None
    assert (plan.trials, plan.hours) == (10 * plan.seeds, 20.0 * plan.seeds)
    assert plan.sentence() == (
        f"To find a difference of 2.0% with 80% power with seed noise of 1.5% (upper 80% limit of the pilot's 1.3%): "
        f"{plan.seeds} seeds per arm, {plan.trials} trials, about {plan.hours:.0f} hours."
    )
    assert power.seed_plan(0.05, 4).sigma == power.ASSUMED_CV
    assert "out of reach" in power.seed_plan(1e-9, 4).sentence()
