"""Main effects and interactions against statsmodels' tables of variances, and what a design cannot give."""

from __future__ import annotations

import itertools
import math
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from statsmodels.stats.anova import anova_lm

from ablate_reports.factorial import NO_NOISE, Factorial, factorial
from ablate_reports.simultaneous import MaxT

LEVELS = {"a": ["a0", "a1", "a2"], "b": ["b0", "b1"], "c": ["c0", "c1"]}
Cells = dict[str, dict[str, str]]
Values = dict[str, dict[int, float]]


def grid(*names: str) -> Cells:
    return {"".join(c): dict(zip(names, c, strict=True)) for c in itertools.product(*(LEVELS[n] for n in names))}


def drawn(cells: Cells, seeds: int = 4, rng_seed: int = 0, lost: int = 0, effect: float = 0.0) -> Values:
    """Noise of spread 1 around a seed effect; level a1 adds `effect`; the last `lost` values of different arms miss."""
    rng = np.random.default_rng(rng_seed)
    block = rng.normal(0, 1, seeds)
    y = {
        arm: {s: float(block[s] + rng.normal() + effect * (at.get("a") == "a1")) for s in range(seeds)}
        for arm, at in cells.items()
    }
    for arm in list(y)[:lost]:
        del y[arm][int(rng.integers(seeds))]
    return y


def long(cells: Cells, values: Values) -> pd.DataFrame:
    return pd.DataFrame([{**cells[k], "seed": s, "y": y} for k, seeds in values.items() for s, y in seeds.items()])


def made(cells: Cells, values: Values, **more: Any) -> Factorial:
    found = factorial(cells, values, **more)
    assert found is not None
    return found


@pytest.mark.parametrize("typ", [2, 3])
@pytest.mark.parametrize("lost", [0, 3])
@pytest.mark.parametrize(("names", "error"), [("ab", "seeds"), ("abc", "model")])
def test_the_table_of_variances_is_that_of_statsmodels(typ: Literal[2, 3], lost: int, names: str, error: str) -> None:
    cells = grid(*names)
    values = drawn(cells, lost=lost, effect=1.0)
    found = made(cells, values, typ=typ, error=error)
    pairs = " + ".join(f"C({f}, Sum):C({g}, Sum)" for f, g in itertools.combinations(names, 2))
    mains = " + ".join(f"C({f}, Sum)" for f in names)
    oracle = smf.ols(f"y ~ C(seed, Sum) + {mains} + {pairs}", long(cells, values)).fit()
    table = anova_lm(oracle, typ=typ)
    assert found.sigma is not None
    assert found.sigma**2 == pytest.approx(oracle.mse_resid, rel=1e-8)
    assert found.df == oracle.df_resid
    for term in found.terms:
        line = table.loc[":".join(f"C({f}, Sum)" for f in term.factors)]
        assert (term.ss, term.df, term.f, term.p) == pytest.approx(
            (line["sum_sq"], line["df"], line["F"], line["PR(>F)"]), rel=1e-8
        )


@pytest.mark.parametrize("typ", [2, 3])
def test_estimates_and_intervals_are_those_of_statsmodels_contrasts(typ: Literal[2, 3]) -> None:
    cells = grid("a", "b")
    values = drawn(cells, lost=3, effect=1.0)
    found = made(cells, values, typ=typ)
    data = long(cells, values)
    full = smf.ols("y ~ C(seed, Sum) + C(a, Sum)*C(b, Sum)", data).fit()
    additive = smf.ols("y ~ C(seed, Sum) + C(a, Sum) + C(b, Sum)", data).fit()
    assert found.sigma is not None
    for effect in found.effects:
        fit = full if typ == 3 or len(effect.factors) == 2 else additive

        def at(a: str | None, b: str | None, fit: Any = fit) -> np.ndarray:
            """Mean of a cell, or over the levels of a factor that is not named, as a row of coefficients."""
            some = [(x, y) for x in LEVELS["a"] for y in LEVELS["b"] if a in (None, x) and b in (None, y)]
            rows = [fit.model.exog[np.flatnonzero((data["a"] == x) & (data["b"] == y))[0]] for x, y in some]
            of_seed = [name.startswith("C(seed") for name in fit.model.exog_names]  # they sum to nothing
            return np.where(of_seed, 0.0, np.mean(rows, axis=0))

        if effect.factors == ("a",):
            row = at(effect.levels[0], None) - at(effect.references[0], None)
        elif effect.factors == ("b",):
            row = at(None, effect.levels[0]) - at(None, effect.references[0])
        else:
            (a, b), (a0, b0) = effect.levels, effect.references
            row = at(a, b) - at(a0, b) - at(a, b0) + at(a0, b0)
        t = fit.t_test(row)
        scale = found.sigma / math.sqrt(fit.mse_resid)  # the noise is the full model's in both
        assert effect.estimate == pytest.approx(np.squeeze(t.effect), rel=1e-8)
        assert effect.se == pytest.approx(np.squeeze(t.sd) * scale, rel=1e-8)
        if fit is full:
            low, high = np.squeeze(t.conf_int())
            assert (effect.low_single, effect.high_single, effect.p) == pytest.approx(
                (low, high, float(np.squeeze(t.pvalue))), rel=1e-8
            )
        assert effect.low is not None
        assert effect.low_single is not None
        assert effect.low < effect.low_single


def test_an_interaction_is_the_change_of_a_change_in_per_cent_on_the_log_scale() -> None:
    cells = grid("b", "c")
    exact = {"b0c0": 1.0, "b1c0": 0.9, "b0c1": 0.8, "b1c1": 0.9 * 0.8 * 1.1}
    noise = {s: 0.001 * (-1) ** s for s in range(4)}
    values = {a: {s: math.log(v) + noise[s] * (-1) ** i for s in range(4)} for i, (a, v) in enumerate(exact.items())}
    [effect] = made(cells, values).interactions()
    assert effect.estimate is not None
    assert math.expm1(effect.estimate) == pytest.approx(0.1, rel=1e-9)
    assert effect.low is not None
    assert effect.low > 0


def test_one_factor_at_a_time_gives_main_effects_and_no_interaction() -> None:
    cells = {"base": {}, "a1": {"a": "a1"}, "a2": {"a": "a2"}, "b1": {"b": "b1"}}
    found = made(cells, drawn(cells))
    assert {t.factors: t.why for t in found.terms} == {
        ("a",): "",
        ("b",): "",
        ("a", "b"): "not estimable: no arms change both",
    }
    assert [e.estimate is None for e in found.effects] == [False] * 3 + [True] * 2
    assert [e.note for e in found.interactions()] == ["not estimable from these arms"] * 2
    assert all(t.aliases == () for t in found.terms)


def test_a_missing_cell_is_said_and_the_other_contrasts_stay() -> None:
    cells = {k: v for k, v in grid("a", "b").items() if k != "a2b1"}
    found = made(cells, drawn(cells))
    [term] = [t for t in found.terms if t.factors == ("a", "b")]
    assert term.why == "not estimable: 1 of 6 combinations are missing"
    assert [(e.levels, e.estimate is None) for e in found.interactions()] == [
        (("a1", "b1"), False),
        (("a2", "b1"), True),
    ]


def test_a_half_fraction_names_what_each_main_effect_is_aliased_with() -> None:
    """Resolution III: c = a b."""
    names = ("x", "y", "z")
    cells = {}
    for x, y in itertools.product((-1, 1), repeat=2):
        cells[f"{x}{y}"] = dict(zip(names, ("+" if v > 0 else "-" for v in (x, y, x * y)), strict=True))
    found = made(cells, drawn(cells))
    aliases = {t.factors: (t.aliases, t.why) for t in found.terms}
    assert aliases["x",] == (("y × z",), "")
    assert aliases["z",] == (("x × y",), "")
    assert aliases["x", "y"] == ((), "not estimable: aliased with z")
    assert found.main()[0].note == "aliased with y × z"
    assert found.main()[0].estimate is not None


def test_interactions_aliased_with_each_other_are_not_estimable_and_main_effects_are_clear() -> None:
    """Resolution IV: d = a b c."""
    cells = {}
    for signs in itertools.product((-1, 1), repeat=3):
        levels = (*signs, math.prod(signs))
        cells["".join(f"{v:+d}" for v in levels)] = {n: f"{v:+d}" for n, v in zip("wxyz", levels, strict=True)}
    found = made(cells, drawn(cells))
    why = {t.factors: t.why for t in found.terms}
    assert all(t.aliases == () and t.estimable for t in found.terms if len(t.factors) == 1)
    assert why["w", "x"] == "not estimable: aliased with y × z"


def test_with_one_seed_the_noise_is_what_the_model_leaves_and_without_any_there_is_no_interval() -> None:
    cells = grid("a", "b", "c")
    found = made(cells, drawn(cells, seeds=1))
    assert (found.error, found.df, found.blocked) == ("model", 2, False)
    two = grid("a", "b")
    bare = made(two, drawn(two, seeds=1))
    assert bare.sigma is None
    assert {e.note for e in bare.effects} == {NO_NOISE}
    assert all(e.estimate is not None and e.low is None for e in bare.effects)
    assert all(t.p is None and t.ss is not None for t in bare.terms)


def test_noise_within_cells_is_not_swollen_by_a_three_way_interaction_and_lack_of_fit_sees_it() -> None:
    cells = grid("a", "b", "c")
    values = drawn(cells)
    values["a1b1c1"] = {s: y + 12 for s, y in values["a1b1c1"].items()}
    seeds, model = made(cells, values), made(cells, values, error="model")
    assert seeds.sigma is not None
    assert model.sigma is not None
    assert seeds.sigma < 1.5 < model.sigma
    assert seeds.lack_of_fit is not None
    assert seeds.lack_of_fit < 1e-3
    assert made(cells, drawn(cells)).lack_of_fit > 0.01  # type: ignore[operator]


def test_lack_of_fit_is_the_f_test_of_nested_models() -> None:
    cells = grid("a", "b", "c")
    values = drawn(cells)
    data = long(cells, values)
    small = smf.ols("y ~ C(seed) + (C(a) + C(b) + C(c))**2", data).fit()
    large = smf.ols("y ~ C(seed) + C(a)*C(b)*C(c)", data).fit()
    assert made(cells, values).lack_of_fit == pytest.approx(large.compare_f_test(small)[1], rel=1e-8)


def test_simultaneous_intervals_hold_for_all_main_effects_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MaxT, "adjusted_p", lambda self, t: 1.0)  # not looked at here, and slow
    cells, wrong, runs = grid("a", "b", "c"), 0, 200
    for seed in range(runs):
        found = made(cells, drawn(cells, seeds=3, rng_seed=seed), interactions=False)
        wrong += any(e.low is None or e.high is None or not e.low <= 0 <= e.high for e in found.main())
    assert wrong / runs <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)
    assert wrong > 0


def test_nothing_to_read_gives_nothing() -> None:
    assert factorial({}, {}) is None
    assert factorial({"x": {"a": "a0"}, "y": {"a": "a0"}}, {"x": {0: 1.0}, "y": {0: 2.0}}) is None
    assert factorial(grid("a"), {"a0": {0: math.nan}, "a1": {0: 1.0}}) is None


def test_the_reference_level_is_the_one_asked_for() -> None:
    cells = grid("a")
    values = drawn(cells)
    first, second = made(cells, values), made(cells, values, reference={"a": "a1"})
    assert [e.references for e in second.main()] == [("a1",), ("a1",)]
    a1, a0 = first.main()[0].estimate, second.main()[0].estimate
    assert a1 is not None
    assert a0 == pytest.approx(-a1, rel=1e-10)


# -- arms that are measured from the same trainings


def measured(seeds: int = 5, rng_seed: int = 0) -> tuple[Cells, Values, dict[str, str]]:
    """Four trainings (b x c), each measured at a0, a1 and a2: a split plot."""
    cells = grid("b", "c", "a")
    networks = {arm: arm[:4] for arm in cells}
    rng = np.random.default_rng(rng_seed)
    seed = rng.normal(0, 0.5, seeds)
    trial = {(n, s): float(seed[s] + rng.normal(0, 1)) for n in set(networks.values()) for s in range(seeds)}
    values = {
        arm: {s: trial[networks[arm], s] + float(rng.normal(0, 0.2)) + 0.3 * (at["a"] == "a1") for s in range(seeds)}
        for arm, at in cells.items()
    }
    return cells, values, networks


def test_shared_trainings_are_a_split_plot_with_two_errors() -> None:
    cells, values, networks = measured()
    found = made(cells, values, networks=networks)
    data = long(cells, values).assign(trial=lambda f: f["b"] + f["c"] + f["seed"].astype(str))
    inner = smf.ols("y ~ C(trial) + C(a, Sum) + C(a, Sum):C(b, Sum) + C(a, Sum):C(c, Sum)", data).fit()
    pure = smf.ols("y ~ C(trial) + C(a, Sum)*C(b, Sum)*C(c, Sum)", data).fit()
    means = data.groupby(["b", "c", "seed"], as_index=False)["y"].mean()
    outer = smf.ols("y ~ C(seed, Sum) + C(b, Sum)*C(c, Sum)", means).fit()
    assert (found.within, found.df, found.df_within) == (("a",), outer.df_resid, pure.df_resid)
    assert found.sigma is not None
    assert found.sigma_within is not None
    assert found.sigma**2 == pytest.approx(outer.mse_resid, rel=1e-8)
    assert found.sigma_within**2 == pytest.approx(pure.mse_resid, rel=1e-8)
    between = anova_lm(outer, typ=2)
    by = {t.factors: t for t in found.terms}
    assert by["b",].p == pytest.approx(between.loc["C(b, Sum)", "PR(>F)"], rel=1e-8)
    assert by["b", "c"].f == pytest.approx(between.loc["C(b, Sum):C(c, Sum)", "F"], rel=1e-8)
    less = smf.ols("y ~ C(trial) + C(a, Sum) + C(a, Sum):C(b, Sum)", data).fit()
    ss = less.ssr - inner.ssr
    assert by["c", "a"].f == pytest.approx(ss / 2 / pure.mse_resid, rel=1e-8)
    [a1] = [e for e in found.main() if e.levels == ("a1",)]
    plain = data[data["a"] == "a1"]["y"].mean() - data[data["a"] == "a0"]["y"].mean()
    assert a1.estimate == pytest.approx(plain, rel=1e-8)
    assert a1.se == pytest.approx(math.sqrt(pure.mse_resid * 2 / 20), rel=1e-8)
    assert [e.factors for e in found.effects] == sorted(
        [e.factors for e in found.effects], key=[t.factors for t in found.terms].index
    )


def test_main_effects_of_a_trained_axis_are_as_sure_as_trainings_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """No trained axis has an effect here; counting every way of measuring as a training finds one far too often."""
    monkeypatch.setattr(MaxT, "adjusted_p", lambda self, t: 1.0)  # not looked at here, and slow
    runs, wrong, missed = 120, {"shared": 0, "usual": 0}, 0
    for seed in range(runs):
        cells, values, networks = measured(seeds=3, rng_seed=seed)
        for name, of in (("shared", networks), ("usual", None)):
            found = made(cells, values, networks=of, interactions=False)
            trained = [e for e in found.main() if e.factors != ("a",)]
            assert len(trained) == 2
            wrong[name] += any(e.low is None or e.high is None or not e.low <= 0 <= e.high for e in trained)
            inner = {e.levels[0]: e for e in found.main() if e.factors == ("a",)}
            truth = {"a1": 0.3, "a2": 0.0}
            if name == "shared":
                missed += any(not e.low <= truth[a] <= e.high for a, e in inner.items())  # type: ignore[operator]
    limit = 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)
    assert wrong["shared"] / runs <= limit
    assert missed / runs <= limit
    assert wrong["usual"] / runs > 0.2, "the test can see the defect"


def test_trainings_that_are_measured_in_different_ways_are_compared_in_those_they_share() -> None:
    cells, values, networks = measured()
    for arm in ("b0c0a2", "b1c1a1"):
        del cells[arm]
    found = made(cells, values, networks=networks)
    by = {t.factors: t for t in found.terms}
    assert by["b",].estimable
    [b1] = [e for e in found.main() if e.levels == ("b1",)]
    shared = {arm: values[arm] for arm in cells if arm.endswith("a0")}
    only = made({a: {"b": cells[a]["b"], "c": cells[a]["c"]} for a in shared}, shared)
    assert b1.estimate == pytest.approx(only.main()[0].estimate, rel=1e-9)
    nothing = {a: at for a, at in cells.items() if (at["a"] == "a0") == (at["b"] == "b0")}
    apart = made(nothing, values, networks=networks)
    assert {t.why for t in apart.terms if t.factors == ("b",)} == {"not estimable: trainings are not measured alike"}


def test_where_no_trial_was_measured_in_all_ways_trainings_are_not_compared() -> None:
    cells = grid("b", "a")
    networks = {arm: arm[:2] for arm in cells}
    lost = {arm: {int(at["a"][1]): 0.1 * i} for i, (arm, at) in enumerate(cells.items())}
    found = made(cells, lost, networks=networks)
    assert {t.factors: t.why for t in found.terms} == {
        ("b",): "not estimable: trainings are not measured alike",
        ("a",): "not estimable: too few trials were measured in several ways",
        ("b", "a"): "not estimable: too few trials were measured in several ways",
    }
    assert all(e.estimate is None for e in found.effects)
    one = {arm: {0: 0.3, 1: 0.2} if at["b"] == "b1" else lost[arm] for arm, at in cells.items()}
    by = {t.factors: t for t in made(cells, one, networks=networks).terms}
    assert by["b",].why == "not estimable: trainings are not measured alike"
    assert by["a",].estimable, "the trials of b1 have it"
    assert by["b", "a"].why == "not estimable: too few trials were measured in several ways"


def test_with_one_training_or_none_shared_nothing_is_split() -> None:
    cells = grid("a", "b")
    values = drawn(cells)
    usual = made(cells, values)
    assert made(cells, values, networks={a: a for a in cells}) == usual
    assert made(cells, values, networks=dict.fromkeys(cells, "one")) == usual
