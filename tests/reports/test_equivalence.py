"""Equivalence against statsmodels, and what it claims when the difference is exactly the margin."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import ttost_ind, ttost_paired

from ablate_reports.equivalence import equivalences, sentence, tost
from ablate_reports.simultaneous import MaxT
from ablate_reports.statistics import Model, fit

MARGIN = math.log1p(0.02)
Data = dict[str, dict[int, float]]


def draw(arms: int, seeds: int, sd: float = 0.013, rng_seed: int = 0, shift: float = 0.0, block: float = 0.0) -> Data:
    """Values around zero; every arm but the first is shifted. Without a block, no seed is common to two arms."""
    rng = np.random.default_rng(rng_seed)
    of_seed = rng.normal(0, block, seeds) if block else np.zeros(seeds)
    return {
        f"a{i}": {
            s + (0 if block else 100 * i): float((i > 0) * shift + of_seed[s] + rng.normal(0, sd)) for s in range(seeds)
        }
        for i in range(arms)
    }


def model_of(data: Data) -> Model:
    model = fit(data)
    assert model is not None
    return model


def test_two_arms_agree_with_ttost_ind_and_two_blocked_ones_with_ttost_paired() -> None:
    for block, oracle in ((0.0, ttost_ind), (0.05, ttost_paired)):
        data = draw(2, 8, rng_seed=3, block=block)
        x, y = (np.array(list(data[a].values())) for a in ("a1", "a0"))
        p, _, (_, p_high, _) = oracle(x, y, -MARGIN, MARGIN)
        (e,) = equivalences(model_of(data), [("a1", "a0")], MARGIN)
        assert (e.p, e.p_family, e.p_inferior) == pytest.approx((p, p, p_high), rel=1e-8)


@pytest.mark.parametrize("higher", [False, True])
def test_the_interval_of_level_90_decides_as_the_two_tests_do(higher: bool) -> None:
    for rng_seed in range(20):
        data = draw(2, 4, rng_seed=rng_seed)
        (e,) = equivalences(model_of(data), [("a1", "a0")], MARGIN, lower_is_better=not higher)
        assert e.low is not None and e.high is not None and e.p is not None  # noqa: PT018
        assert (e.p <= 0.05) == (-MARGIN < e.low and e.high < MARGIN)
        assert e.limit == (e.low if higher else e.high)
        assert e.p_inferior is not None
        assert (e.p_inferior <= 0.05) == (e.low > -MARGIN if higher else e.high < MARGIN)


def test_the_family_p_is_holms_and_the_limits_are_dunnetts_one_sided() -> None:
    data = draw(6, 10, rng_seed=5)
    model = model_of(data)
    found = equivalences(model, [(f"a{i}", "a0") for i in range(1, 6)], MARGIN)
    holm = multipletests([e.p for e in found], method="holm")
    np.testing.assert_allclose([e.p_family for e in found], holm[1], rtol=1e-10)
    assert [e.equivalent for e in found] == holm[0].tolist()
    control = list(data["a0"].values())
    others = [list(data[f"a{i}"].values()) for i in range(1, 6)]
    oracle = stats.dunnett(*others, control=control, alternative="less", rng=np.random.default_rng(0))
    np.testing.assert_allclose(
        [e.limit_family for e in found], oracle.confidence_interval(0.95).high, atol=1e-4
    )  # scipy simulates


def test_one_sided_quantiles_are_those_of_a_direct_simulation() -> None:
    rng = np.random.default_rng(0)
    corr = 0.5 + 0.5 * np.eye(4)
    bent = corr.copy()
    bent[0, 1] = bent[1, 0] = 0.5 + 1e-6
    t = rng.multivariate_normal(np.zeros(4), corr, 400_000) / np.sqrt(rng.chisquare(9, 400_000) / 9)[:, None]
    for law in (MaxT(corr, 9.0), MaxT(bent, 9.0)):
        assert law.upper_critical(0.05) == pytest.approx(np.quantile(t.max(axis=1), 0.95), abs=0.02)
        for c in (-1.0, 0.0, 1.5):
            assert law.upper_cdf(c) == pytest.approx((t.max(axis=1) <= c).mean(), abs=4e-3)
    assert MaxT(np.eye(1), 9.0).upper_critical(0.05) == pytest.approx(stats.t.isf(0.05, 9), rel=1e-12)


def test_a_noisy_arm_has_its_own_test_and_a_single_seed_none() -> None:
    data = draw(6, 6, rng_seed=2)
    data["a1"] = {s: 20 * y for s, y in data["a1"].items()}
    data["a2"] = {200: 0.0}
    found = {e.arm: e for e in equivalences(model_of(data), [(f"a{i}", "a0") for i in range(1, 6)], MARGIN)}
    assert found["a2"].p is None
    assert found["a2"].note == "no interval: one seed"
    assert not found["a1"].equivalent
    assert found["a1"].p_inferior_family is not None
    assert "cannot be tested: no interval: one seed" in sentence(found["a2"], "A", "B", "2%")


def test_no_margin_gives_no_test() -> None:
    assert equivalences(model_of(draw(2, 3)), [("a1", "a0")], None) == []


def test_sentences_say_what_holds() -> None:
    sure = {f"a{i}": {s: 1e-4 * ((s * 7 + i * 3) % 5) for s in range(5)} for i in range(3)}
    (e, _) = equivalences(model_of(sure), [("a1", "a0"), ("a2", "a0")], MARGIN)
    assert e.equivalent
    assert sentence(e, "A", "B", "2%").startswith("A is equivalent to B within 2% (TOST, p = ")
    better = {a: {s: y - (a == "a1") for s, y in seeds.items()} for a, seeds in sure.items()}
    (e, _) = equivalences(model_of(better), [("a1", "a0"), ("a2", "a0")], MARGIN)
    assert not e.equivalent
    assert e.not_inferior
    assert "A is not worse than B by 2% or more" in sentence(e, "A", "B", "2%")
    worse = {a: {s: y + (a == "a1") for s, y in seeds.items()} for a, seeds in sure.items()}
    (e, _) = equivalences(model_of(worse), [("a1", "a0"), ("a2", "a0")], MARGIN)
    assert not e.not_inferior
    assert "is not shown to be equivalent" in sentence(e, "A", "B", "2%")


def test_tost_is_the_larger_of_two_tails() -> None:
    assert tost(0.0, 1.0, 10.0, 1.0) == pytest.approx(stats.t.sf(1.0, 10.0))
    assert tost(0.9, 1.0, 10.0, 1.0) == pytest.approx(stats.t.cdf(-0.1, 10.0))


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_equivalence_and_non_inferiority_at_the_margin_err_at_most_5_percent_over_the_family(seeds: int) -> None:
    """Nine arms, each exactly the margin worse: any claim is an error. Small noise, so that claims are possible."""
    runs, alone, family, inferior = 1500, 0, 0, 0
    for rng_seed in range(runs):
        data = draw(10, seeds, 0.004, rng_seed, MARGIN, block=0.004)
        found = equivalences(model_of(data), [(f"a{i}", "a0") for i in range(1, 10)], MARGIN)
        alone += found[0].p is not None and found[0].p <= 0.05
        family += any(e.equivalent for e in found)
        inferior += any(e.not_inferior for e in found)
    print(f"n={seeds}: TOST {alone / runs}, over the family {family / runs}, non-inferiority {inferior / runs}")
    limit = 0.05 + 2 * math.sqrt(0.05 * 0.95 / runs)
    assert alone / runs <= limit
    assert family / runs <= limit
    assert inferior / runs <= limit
