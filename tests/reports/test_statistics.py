"""The model against scipy and statsmodels, and its behaviour where no textbook applies."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from scipy import stats

from ablate_reports.statistics import NO_SPREAD, ONE_SEED, fit

Data = dict[str, dict[int, float]]


def draw(arms: int, seeds: int, *, seed_sd: float = 0.0, sd: float = 1.0, rng_seed: int = 0) -> Data:
    """Normal values around zero for arms ``a0, a1, ...``."""
    rng = np.random.default_rng(rng_seed)
    of_seed = rng.normal(0, seed_sd, seeds) if seed_sd else np.zeros(seeds)
    return {f"a{i}": {s: float(of_seed[s] + rng.normal(0, sd)) for s in range(seeds)} for i in range(arms)}


def long(data: Data) -> pd.DataFrame:
    return pd.DataFrame(
        [(a, s, y) for a, seeds in data.items() for s, y in seeds.items()], columns=["arm", "seed", "y"]
    )


def apart(data: Data) -> Data:
    """The same values with no seed common to two arms: a one-way layout."""
    return {a: {100 * i + s: y for s, y in seeds.items()} for i, (a, seeds) in enumerate(data.items())}


def pairs(data: Data) -> list[tuple[str, str]]:
    return [(a, "a0") for a in data if a != "a0"]


@pytest.mark.parametrize("missing", [[], [("a1", 0)], [("a0", 2), ("a3", 1)]])
def test_blocked_contrasts_agree_with_statsmodels(missing: list[tuple[str, int]]) -> None:
    data = draw(6, 4, seed_sd=2.0, rng_seed=3)
    for arm, seed in missing:
        del data[arm][seed]
    model = fit(data)
    assert model is not None
    assert model.blocked
    oracle = smf.ols("y ~ 0 + C(arm) + C(seed, Sum)", long(data)).fit()
    names = list(oracle.params.index)
    for c in model.compare(pairs(data)):
        row = np.zeros(len(names))
        row[names.index(f"C(arm)[{c.arm}]")], row[names.index("C(arm)[a0]")] = 1, -1
        t = oracle.t_test(row)
        low, high = np.ravel(t.conf_int())
        ours = [c.estimate, c.se, c.p, c.df, c.low_single, c.high_single]
        theirs = [np.ravel(t.effect)[0], np.ravel(t.sd)[0], np.ravel(t.pvalue)[0], oracle.df_resid, low, high]
        np.testing.assert_allclose(np.array(ours, dtype=float), np.array(theirs, dtype=float), rtol=1e-8)


def test_the_block_f_agrees_with_statsmodels() -> None:
    from statsmodels.stats.anova import anova_lm

    data = draw(5, 4, seed_sd=1.0, rng_seed=8)
    del data["a2"][1]
    model = fit(data)
    assert model is not None
    table = anova_lm(smf.ols("y ~ C(arm) + C(seed)", long(data)).fit(), typ=2)
    assert model.block_f == pytest.approx(table.loc["C(seed)", "F"], rel=1e-8)


def test_unblocked_family_agrees_with_scipy_dunnett() -> None:
    data = draw(5, 6, rng_seed=3)
    data["a2"] = {s: y + 2 for s, y in data["a2"].items()}
    model = fit(apart(data))
    assert model is not None
    assert not model.blocked
    control = list(data["a0"].values())
    oracle = stats.dunnett(
        *(list(v.values()) for a, v in data.items() if a != "a0"), control=control, rng=np.random.default_rng(0)
    )
    ours = model.compare(pairs(data))
    np.testing.assert_allclose([c.estimate / c.se for c in ours if c.se], oracle.statistic, rtol=1e-8)
    np.testing.assert_allclose([c.p_family for c in ours], oracle.pvalue, atol=2e-3)
    between = oracle.confidence_interval(0.95)
    np.testing.assert_allclose([c.low for c in ours], between.low, atol=5e-3)
    np.testing.assert_allclose([c.high for c in ours], between.high, atol=5e-3)


def test_one_comparison_is_the_ordinary_t_test() -> None:
    data = draw(2, 5, rng_seed=5)
    model = fit(apart(data))
    assert model is not None
    [c] = model.compare([("a1", "a0")])
    oracle = stats.ttest_ind(list(data["a1"].values()), list(data["a0"].values()))
    assert c.p == pytest.approx(oracle.pvalue, rel=1e-8)
    assert c.p_family == pytest.approx(oracle.pvalue, rel=1e-8)
    assert (c.low, c.high) == pytest.approx((c.low_single, c.high_single), rel=1e-8)


def test_two_blocked_arms_are_the_paired_t_test() -> None:
    data = draw(2, 6, seed_sd=3.0, rng_seed=2)
    model = fit(data)
    assert model is not None
    assert model.blocked
    oracle = stats.ttest_rel(list(data["a1"].values()), list(data["a0"].values()))
    [c] = model.compare([("a1", "a0")])
    assert c.p == pytest.approx(oracle.pvalue, rel=1e-8)


def test_an_arm_of_triple_spread_is_tested_by_welch() -> None:
    data = draw(8, 6, sd=0.1, rng_seed=4)
    data["a3"] = {s: y * 12 for s, y in data["a3"].items()}
    model = fit(data)
    assert model is not None
    assert list(model.own) == ["a3"]
    c = next(c for c in model.compare(pairs(data)) if c.arm == "a3")
    oracle = stats.ttest_ind(list(data["a3"].values()), list(data["a0"].values()), equal_var=False)
    assert c.method == "welch"
    assert (c.p, c.df) == pytest.approx((oracle.pvalue, oracle.df), rel=1e-8)
    others = [c for c in model.compare(pairs(data)) if c.arm != "a3"]
    assert all(c.method == "pooled" for c in others)
    assert c.low is not None
    assert c.low_single is not None
    assert c.low < c.low_single


def test_a_baseline_of_triple_spread_makes_every_comparison_welch() -> None:
    data = draw(6, 6, sd=0.1, rng_seed=4)
    data["a0"] = {s: y * 12 for s, y in data["a0"].items()}
    model = fit(data)
    assert model is not None
    found = model.compare(pairs(data))
    assert {c.method for c in found} == {"welch"}
    from statsmodels.stats.multitest import multipletests

    np.testing.assert_allclose(
        [c.p_family for c in found], multipletests([c.p for c in found], method="holm")[1], rtol=1e-8
    )
    for c in found:
        assert c.low is not None and c.high is not None and c.p_family is not None  # noqa: PT018
        assert (c.p_family < 0.05) == (not c.low <= 0 <= c.high)


def test_the_brown_forsythe_p_is_scipys() -> None:
    data = draw(4, 5, rng_seed=1)
    model = fit(data)
    assert model is not None
    oracle = stats.levene(*(list(v.values()) for v in data.values()), center="median")
    assert model.brown_forsythe_p == pytest.approx(oracle.pvalue, rel=1e-10)


def test_the_seed_block_stays_even_when_it_explains_nothing() -> None:
    data = {"a0": {0: 1.0, 1: 2.0, 2: 3.0}, "a1": {0: 3.0, 1: 2.0, 2: 1.0}, "a2": {0: 2.0, 1: 1.9, 2: 2.1}}
    model = fit(data)
    assert model is not None
    assert model.block_f is not None
    assert model.block_f < 1
    assert model.blocked
    assert (model.df, model.seed_sd) == (4, 0.0)


def test_arms_on_disjoint_seeds_are_compared_without_blocks() -> None:
    data = {"a0": {0: 1.0, 1: 1.2, 2: 0.9}, "a1": {3: 2.0, 4: 2.2, 5: 1.9}}
    model = fit(data)
    assert model is not None
    assert not model.blocked
    [c] = model.compare([("a1", "a0")])
    oracle = stats.ttest_ind(list(data["a1"].values()), list(data["a0"].values()))
    assert c.p == pytest.approx(oracle.pvalue, rel=1e-8)


def test_one_seed_gives_a_value_and_no_interval() -> None:
    model = fit({"a0": {0: 1.0, 1: 1.1}, "a1": {0: 3.0}})
    assert model is not None
    mean = model.mean("a1")
    assert (mean.mean, mean.low, mean.note) == (3.0, None, ONE_SEED)
    [c] = model.compare([("a1", "a0")])
    assert (c.estimate, c.low, c.note) == (2.0, None, ONE_SEED)  # paired with the baseline's seed 0


def test_a_study_of_one_seed_has_no_interval_anywhere() -> None:
    model = fit({f"a{i}": {0: float(i)} for i in range(4)})
    assert model is not None
    assert model.sigma is None
    assert all(c.low is None and c.note == ONE_SEED for c in model.compare([(f"a{i}", "a0") for i in range(1, 4)]))


def test_identical_seeds_give_no_interval() -> None:
    model = fit({"a0": {0: 1.0, 1: 1.0}, "a1": {0: 2.0, 1: 2.0}})
    assert model is not None
    assert model.no_spread
    [c] = model.compare([("a1", "a0")])
    assert (c.estimate, c.low, c.note) == (1.0, None, NO_SPREAD)
    assert model.mean("a0").low is None


def test_values_that_are_not_finite_are_left_out() -> None:
    model = fit({"a0": {0: 1.0, 1: float("nan")}, "a1": {0: float("inf")}})
    assert model is not None
    assert model.arms == ["a0"]
    assert fit({"a0": {0: float("nan")}}) is None


def test_the_order_of_the_arms_does_not_matter() -> None:
    data = draw(5, 3, seed_sd=1.0, rng_seed=9)
    forward, backward = fit(data), fit(dict(reversed(list(data.items()))))
    assert forward is not None
    assert backward is not None
    a = {c.arm: c for c in forward.compare(pairs(data))}
    b = {c.arm: c for c in backward.compare(pairs(data)[::-1])}
    for arm in a:
        assert a[arm].low == pytest.approx(b[arm].low, abs=1e-8)


def test_a_mean_without_blocks_is_the_pooled_t_interval() -> None:
    data = {"a0": {0: 1.0, 1: 2.0, 2: 3.0}, "a1": {0: 3.0, 1: 2.0, 2: 1.0}, "a2": {0: 2.0, 1: 1.9, 2: 2.1}}
    model = fit(apart(data))
    assert model is not None
    pooled = math.sqrt(np.mean([np.var(list(v.values()), ddof=1) for v in data.values()]))
    half = stats.t.isf(0.025, 6) * pooled / math.sqrt(3)
    mean = model.mean("a0")
    assert (mean.low, mean.high) == pytest.approx((2 - half, 2 + half), rel=1e-10)


def test_the_satterthwaite_mean_of_a_balanced_study_is_the_textbook_one() -> None:
    data = draw(4, 5, seed_sd=2.0, rng_seed=6)
    model = fit(data)
    assert model is not None
    assert model.blocked
    table = np.array([list(v.values()) for v in data.values()])
    a, n = table.shape
    seeds, arms = table.mean(axis=0), table.mean(axis=1)
    ms_seed = a * seeds.var(ddof=1)
    residual = table - arms[:, None] - seeds[None, :] + table.mean()
    ms_error = (residual**2).sum() / ((a - 1) * (n - 1))
    variance = (ms_seed + (a - 1) * ms_error) / (a * n)
    df = (ms_seed + (a - 1) * ms_error) ** 2 / (ms_seed**2 / (n - 1) + (a - 1) * ms_error**2 / (n - 1))
    mean = model.mean("a1")
    assert mean.high is not None
    assert mean.high - mean.mean == pytest.approx(stats.t.isf(0.025, df) * math.sqrt(variance), rel=1e-8)
    assert model.seed_sd == pytest.approx(math.sqrt((ms_seed - ms_error) / a), rel=1e-8)


def test_the_surest_welch_contrast_is_judged_at_holms_first_level() -> None:
    data = draw(6, 6, sd=0.1, rng_seed=4)
    data["a0"] = {s: y * 12 for s, y in data["a0"].items()}
    model = fit(data)
    assert model is not None
    surest = min(model.compare(pairs(data)), key=lambda c: c.p or 1.0)
    assert surest.se is not None
    assert surest.high is not None
    half = stats.t.isf(0.05 / 5 / 2, surest.df) * surest.se
    assert surest.high - surest.estimate == pytest.approx(half, rel=1e-10)
