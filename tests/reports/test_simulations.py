"""Do the intervals keep their promises? Seeded simulations; the full ones are slow and quoted in docs/statistics.md."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest

from ablate_reports import statistics
from ablate_reports.simultaneous import MaxT
from ablate_reports.statistics import fit
from ablate_reports.verdicts import judge

pytestmark = pytest.mark.timeout(3600)  # the slow ones take a minute alone, and many where machines are shared


@pytest.fixture(autouse=True)
def _without_family_p(monkeypatch: pytest.MonkeyPatch) -> None:
    """Family-wise p values are not looked at here and cost half the time."""
    monkeypatch.setattr(MaxT, "adjusted_p", lambda self, t: 1.0)


@dataclass
class Tally:
    """Error rates over simulated studies in which nothing differs from the baseline unless `shift` says so."""

    mean_coverage: float
    contrast_coverage: float
    family_error: float
    equivalent: float


def simulate(
    runs: int,
    arms: int = 10,
    seeds: int = 3,
    *,
    seed_sd: float = 0.0,
    spread: dict[int, float] | None = None,
    lost: int = 0,
    shift: float = 0.0,
    margin: float = 0.02,
    sd: float = 0.013,
    rng_seed: int = 7,
) -> Tally:
    """Simulate studies of normal log values.

    Args:
        seed_sd: spread of the seed effect, in units of `sd`.
        spread: arm index -> its residual spread, in units of `sd`.
        lost: trials that are missing at random from arms other than the baseline (an arm keeps two).
        shift: true difference of every arm to the baseline.
    """
    rng = np.random.default_rng(rng_seed)
    scale = np.array([(spread or {}).get(i, 1.0) for i in range(arms)])
    mean_hits = mean_all = hits = judged = wrong = equivalent = 0
    for _ in range(runs):
        y = sd * (rng.normal(0, 1, (arms, seeds)) * scale[:, None] + seed_sd * rng.normal(0, 1, seeds))
        y[1:] += shift
        for _ in range(lost):
            arm = int(rng.integers(1, arms))
            if np.isfinite(y[arm]).sum() > 2:
                y[arm, rng.integers(seeds)] = np.nan
        model = fit({f"a{i}": dict(enumerate(map(float, row))) for i, row in enumerate(y)})
        assert model is not None
        truth = {f"a{i}": shift if i else 0.0 for i in range(arms)}
        for arm, true in truth.items():
            mean = model.mean(arm)
            assert mean.low is not None
            assert mean.high is not None
            mean_hits += mean.low <= true <= mean.high
            mean_all += 1
        found = model.compare([(a, "a0") for a in truth if a != "a0"])
        any_wrong = False
        for c in found:
            assert c.low is not None and c.high is not None and c.low_single is not None and c.high_single is not None  # noqa: PT018
            hits += c.low_single <= shift <= c.high_single
            judged += 1
            any_wrong |= not c.low <= shift <= c.high
            equivalent += judge(c.low, c.high, math.log1p(margin)) == "equivalent"
        wrong += any_wrong
    return Tally(mean_hits / mean_all, hits / judged, wrong / runs, equivalent / judged)


def test_a_short_simulation_keeps_coverage_and_family_error() -> None:
    """A tenth of the full one: limits are three standard errors wider."""
    tally = simulate(300, seed_sd=1.0)
    assert 0.93 <= tally.mean_coverage <= 0.975
    assert 0.935 <= tally.contrast_coverage <= 0.965
    assert tally.family_error <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 300)


@pytest.mark.parametrize("noisy", [0, 1])
def test_the_guard_holds_in_a_short_simulation(noisy: int) -> None:
    guarded = simulate(120, spread={noisy: 3.0}, seed_sd=1.0)
    assert guarded.family_error <= 0.07 + 3 * math.sqrt(0.07 * 0.93 / 120)


def test_a_short_simulation_without_the_guard_sees_what_it_is_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "SPREAD_RATIO", math.inf)
    monkeypatch.setattr(statistics, "SHARED_RATIO", math.inf)
    assert simulate(120, spread={0: 3.0}, seed_sd=1.0).family_error > 0.14


@pytest.mark.slow
@pytest.mark.parametrize("behind", [0.0, 0.02])
def test_the_best_arm_is_among_those_in_bold(behind: float) -> None:
    """Arm 0 is the best by `behind`, at worst by nothing: held against the best-looking arm it is rarely left out."""
    rng, left_out, runs = np.random.default_rng(3), 0, 400
    for _ in range(runs):
        y = 0.013 * (rng.normal(0, 1, (10, 3)) + rng.normal(0, 1, 3))
        y[1:] += behind
        best = int(y.mean(axis=1).argmin())
        model = fit({f"a{i}": dict(enumerate(map(float, row))) for i, row in enumerate(y)})
        assert model is not None
        if best:
            found = model.compare([(f"a{i}", f"a{best}") for i in range(10) if i != best])
            low = next(c.low for c in found if c.arm == "a0")
            left_out += low is not None and low > 0
    assert left_out / runs <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("seed_sd", [0.0, 1.0])
@pytest.mark.parametrize("lost", [0, 5])
def test_intervals_cover_95_percent(
    seeds: int, seed_sd: float, lost: int, record_property: pytest.RecordProperty
) -> None:
    tally = simulate(1500, seeds=seeds, seed_sd=seed_sd, lost=lost)
    print(f"n={seeds} seed_sd={seed_sd} lost={lost}: {tally}")
    assert 0.94 <= tally.contrast_coverage <= 0.96
    assert 0.94 <= tally.mean_coverage <= 0.96
    assert tally.family_error <= 0.055


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_equivalence_is_not_claimed_at_the_margin(seeds: int) -> None:
    tally = simulate(1000, seeds=seeds, shift=math.log1p(0.02))
    print(f"n={seeds} equivalence error: {tally.equivalent}")
    assert tally.equivalent <= 0.05


@pytest.mark.slow
@pytest.mark.parametrize("noisy", [1, 0])
@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("ratio", [2.0, 3.0, 10.0])
def test_family_error_with_one_arm_or_a_baseline_of_more_spread(noisy: int, seeds: int, ratio: float) -> None:
    """Under 7 % with three times the spread, whoever has it; other ratios are quoted and held to 8 %."""
    tally = simulate(1500 if ratio == 3.0 else 750, seeds=seeds, spread={noisy: ratio}, seed_sd=1.0)
    print(f"noisy={noisy} n={seeds} ratio={ratio}: {tally}")
    assert tally.family_error <= (0.07 if ratio == 3.0 else 0.08)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("effect", [2.5, 4.0])
def test_the_price_of_the_guard_in_power(seeds: int, effect: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal spreads, one arm that differs by so many standard deviations: how often it is found, with and without."""
    found = {}
    for guarded in (True, False):
        if not guarded:
            monkeypatch.setattr(statistics, "SPREAD_RATIO", math.inf)
            monkeypatch.setattr(statistics, "SHARED_RATIO", math.inf)
        rng, hits = np.random.default_rng(5), 0
        for _ in range(600):
            y = 0.013 * (rng.normal(0, 1, (10, seeds)) + rng.normal(0, 1, seeds))
            y[1] += 0.013 * effect
            model = fit({f"a{i}": dict(enumerate(map(float, row))) for i, row in enumerate(y)})
            assert model is not None
            c = model.compare([(f"a{i}", "a0") for i in range(1, 10)])[0]
            assert c.low is not None
            hits += c.low > 0
        found[guarded] = hits / 600
    print(f"n={seeds} effect={effect}: power {found[True]:.2f} with the guard, {found[False]:.2f} without")
    assert found[True] > 0.6 * found[False]
