"""The model against scipy and statsmodels, and its behaviour where no textbook applies."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from scipy import stats

from ablate_reports import statistics
from ablate_reports.simultaneous import MaxT
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


@pytest.fixture
def one_variance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every arm by the pooled variance, however its few seeds happen to lie."""
    monkeypatch.setattr(statistics, "SPREAD_RATIO", math.inf)
    monkeypatch.setattr(statistics, "SHARED_RATIO", math.inf)


@pytest.mark.usefixtures("one_variance")
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


@pytest.mark.usefixtures("one_variance")
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


def test_two_arms_of_their_own_variance_are_compared_by_welch() -> None:
    data = apart(draw(8, 6, sd=0.1, rng_seed=4))
    for arm in ("a3", "a4"):
        data[arm] = {s: y * 12 for s, y in data[arm].items()}
    model = fit(data)
    assert model is not None
    assert list(model.own) == ["a3", "a4"]
    [c] = model.compare([("a3", "a4")])
    oracle = stats.ttest_ind(list(data["a3"].values()), list(data["a4"].values()), equal_var=False)
    assert c.method == "welch"
    assert (c.p, c.df) == pytest.approx((oracle.pvalue, oracle.df), rel=1e-8)
    others = [c for c in model.compare(pairs(data)) if c.arm not in model.own]
    assert {c.method for c in others} == {"pooled"}


@pytest.mark.parametrize("missing", [[], [("a1", 0)], [("a3", 1)]])
def test_own_variances_in_blocks_are_those_of_a_sandwich(missing: list[tuple[str, int]]) -> None:
    """``L (X'X)^-1 X' diag(variance of each arm) X (X'X)^-1 L'`` with the design of statsmodels; Satterthwaite's df."""
    data = with_a_noisy_arm(2.5)
    for arm, seed in missing:
        del data[arm][seed]
    model = fit(data)
    assert model is not None
    assert list(model.own) == ["a3"]
    assert "a3" in model.pooled
    frame = long(data)
    ols = smf.ols("y ~ 0 + C(arm) + C(seed, Sum)", frame).fit()
    inverse, design = ols.normalized_cov_params.to_numpy(), ols.model.exog
    mine = (frame["arm"] == "a3").to_numpy()
    leverage = np.diag(design @ inverse @ design.T)
    variance = float((ols.resid[mine] ** 2).sum() / (1 - leverage[mine]).sum())
    names = list(ols.params.index)
    row = np.zeros(len(names))
    row[names.index("C(arm)[a3]")], row[names.index("C(arm)[a0]")] = 1, -1
    weights = row @ inverse @ design.T
    of_own, of_pool = (weights[mine] ** 2).sum() * variance, (weights[~mine] ** 2).sum() * ols.mse_resid
    df = (of_own + of_pool) ** 2 / (of_own**2 / (mine.sum() - 1) + of_pool**2 / ols.df_resid)
    [c] = model.compare([("a3", "a0")])
    assert c.method == "welch"
    assert (c.estimate, c.se, c.df) == pytest.approx((row @ ols.params, math.sqrt(of_own + of_pool), df), rel=1e-8)


def test_an_arm_far_out_of_line_leaves_the_pooled_variance_and_the_seed_effects() -> None:
    data = with_a_noisy_arm(60.0)
    model = fit(data)
    assert model is not None
    assert list(model.own) == ["a3"]
    assert "a3" not in model.pooled
    frame = long(data)
    rest = smf.ols("y ~ 0 + C(arm) + C(seed, Sum)", frame[frame["arm"] != "a3"]).fit()
    assert model.sigma == pytest.approx(math.sqrt(rest.mse_resid), rel=1e-10)
    of_seed = rest.predict(pd.DataFrame([("a0", s) for s in range(6)], columns=["arm", "seed"]))
    less = np.array(list(data["a3"].values())) - of_seed.to_numpy() + of_seed.mean()
    [c] = model.compare([("a3", "a0")])
    assert c.estimate == pytest.approx(less.mean() - rest.params["C(arm)[a0]"], rel=1e-9)
    assert c.se == pytest.approx(math.sqrt((less.var(ddof=1) + rest.mse_resid) / 6), rel=1e-8)
    others = model.compare([(a, "a0") for a in data if a not in ("a0", "a3")])
    assert {(c.method, c.df) for c in others} == {("pooled", rest.df_resid)}


def with_a_noisy_arm(factor: float) -> Data:
    """Eight arms over six seeds with seed effects; the residual of a3 is `factor` times the others'."""
    rng = np.random.default_rng(21)
    of_seed = rng.normal(0, 0.3, 6)
    sd = {f"a{i}": 0.1 * (factor if i == 3 else 1.0) for i in range(8)}
    return {a: {s: float(of_seed[s] + rng.normal(0, scale)) for s in range(6)} for a, scale in sd.items()}


def test_a_baseline_of_a_little_more_spread_is_judged_by_its_own_as_all_lean_on_it() -> None:
    data = draw(6, 6, sd=0.1, rng_seed=6)
    model = fit(data)
    assert model is not None
    assert model.own == {}
    assert 1.1 < model.spread["a0"].ratio < 2
    assert {c.method for c in model.compare(pairs(data))} == {"welch"}
    assert {c.method for c in model.compare(pairs(data)[:2])} == {"pooled"}, "two comparisons do not make a baseline"


def test_the_family_of_a_noisy_baseline_uses_its_joint_law_with_the_degrees_of_freedom_of_each() -> None:
    data = apart(draw(6, 6, sd=0.1, rng_seed=4))
    data["a0"] = {s: y * 12 for s, y in data["a0"].items()}
    model = fit(data)
    assert model is not None
    found = model.compare(pairs(data))
    assert {c.method for c in found} == {"welch"}
    own = model.spread["a0"].variance
    rho = own / (own + (model.sigma or 0) ** 2)
    for c in found:
        assert c.df is not None and c.se is not None and c.high is not None and c.low is not None  # noqa: PT018
        law = MaxT(np.full((5, 5), rho) + (1 - rho) * np.eye(5), c.df)
        assert (c.high - c.estimate) / c.se == pytest.approx(law.critical(0.05), rel=1e-6)
        assert c.p_family == pytest.approx(law.adjusted_p(c.estimate / c.se), abs=1e-6)
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


@pytest.mark.parametrize("seeds", [(0, 7), (1, 9), (2, 5)])
@pytest.mark.filterwarnings("error::RuntimeWarning")  # nobody wants numpy's remarks in a terminal
def test_an_arm_that_shares_one_of_its_two_seeds_tells_nothing_of_its_spread(seeds: tuple[int, int]) -> None:
    """Its residuals are zero whatever its values are; by rounding it would vary endlessly more than the others."""
    for trial in range(50):
        rest = draw(4, 3, rng_seed=trial)
        apart = dict(zip(seeds, (float(trial), 100.0), strict=True))
        model, without = fit({**rest, "apart": apart}), fit(rest)
        assert model is not None
        assert without is not None
        assert "apart" not in model.own
        assert "apart" in model.pooled
        assert (model.sigma, model.df) == (pytest.approx(without.sigma, rel=1e-9), without.df)
        spread = model.spread["apart"]
        assert (spread.ratio, spread.p) == (1.0, 1.0)
        assert 0 < spread.variance < 100
