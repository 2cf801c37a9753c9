"""Variance components against the table of variances, and what follows for draws per checkpoint."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from simulated_study import study
from statsmodels.stats.anova import anova_lm
from test_analysis import changed

from ablate_reports.analysis import analyse
from ablate_reports.draws import Components, components, costs, draws_of, plan_draws, sentence

Draws = dict[str, dict[int, dict[int, float]]]


def drawn(
    arms: int, seeds: int, draws: int, train: float, gen: float, rng_seed: int = 0, common: float = 0.02
) -> Draws:
    """Standard deviations `train` and `gen`; seeds and draws also have effects that all arms share."""
    rng = np.random.default_rng(rng_seed)
    of_seed, of_draw = rng.normal(0, common, seeds), rng.normal(0, common, draws)
    t = rng.normal(0, train, (arms, seeds))
    e = rng.normal(0, gen, (arms, seeds, draws))
    y = of_seed[None, :, None] + of_draw + t[:, :, None] + e
    return {f"a{i}": {s: {d: float(y[i, s, d]) for d in range(draws)} for s in range(seeds)} for i in range(arms)}


def found_in(values: Draws) -> Components:
    found = components(values)
    assert found is not None
    return found


def test_both_mean_squares_are_those_of_the_table_of_variances() -> None:
    values = drawn(5, 4, 3, 0.013, 0.004)
    rows = [(a, s, d, y) for a, x in values.items() for s, z in x.items() for d, y in z.items()]
    data = pd.DataFrame(rows, columns=["arm", "seed", "draw", "y"])
    table = anova_lm(smf.ols("y ~ C(arm) * C(seed) + C(draw)", data).fit(), typ=1)
    trial, rest = table.loc["C(arm):C(seed)"], table.loc["Residual"]
    found = found_in(values)
    assert found.common
    assert found.gen == pytest.approx(rest["mean_sq"], rel=1e-8)
    assert found.train == pytest.approx((trial["mean_sq"] - rest["mean_sq"]) / 3, rel=1e-8)
    assert (found.df_train, found.df_gen, found.draws) == (12.0, rest["df"], pytest.approx(3.0))


def test_trials_with_different_numbers_of_draws_count_by_their_harmonic_mean() -> None:
    values = drawn(3, 3, 3, 0.013, 0.004)
    values["a0"][0] = {0: values["a0"][0][0]}
    found = found_in(values)
    assert found.draws == pytest.approx(9 / (8 / 3 + 1))


def test_one_draw_or_one_seed_gives_nothing() -> None:
    assert components(drawn(3, 3, 1, 0.01, 0.01)) is None
    assert components(drawn(3, 1, 3, 0.01, 0.01)) is None
    assert components({}) is None
    assert components({"a": {0: {0: math.nan}}}) is None


def test_the_study_notes_example_of_three_draws() -> None:
    """s_train / s_gen = 3.2 and c_train / c_eval = 100: K* is about 3."""
    ratio = 3.2**2
    found = Components(ratio, 0, 0, 1.0, 0, 0, ratio, ratio / 4, ratio * 4, 10, 10, 3, True)
    plan = plan_draws(found, 100.0, 1.0)
    assert plan.best == 3
    assert math.sqrt(100 / ratio) == pytest.approx(3.125)
    assert (plan.low, plan.high) == (2, 6)
    text = sentence(found, plan)
    assert "3 draws per checkpoint make the most of a budget (2 to 6)" in text


@pytest.mark.parametrize("ratio", [0.05, 0.5, 4.0, 60.0])
@pytest.mark.parametrize("cost", [1.0, 30.0, 1000.0])
def test_the_best_integer_beats_every_other(ratio: float, cost: float) -> None:
    found = Components(ratio, 0, 0, 1.0, 0, 0, ratio, ratio, ratio, 10, 10, 3, True)
    plan = plan_draws(found, cost, 1.0)
    price = {k: (ratio + 1 / k) * (cost + k) for k in range(1, 400)}
    assert plan.best == min(price, key=lambda k: price[k])
    assert plan.gain == pytest.approx(price[plan.best] / price[1])


def test_without_training_noise_no_number_is_large_enough() -> None:
    found = Components(0.0, 0, 0, 1e-4, 0, 0, 0.0, 0.0, 0.5, 10, 10, 3, True)
    plan = plan_draws(found, 100.0, 1.0)
    assert (plan.best, plan.high, plan.gain) == (None, None, None)
    assert "not seen to move" in sentence(found, plan)
    with pytest.raises(ValueError, match="must be positive"):
        plan_draws(found, 0.0, 1.0)


@pytest.mark.parametrize(("train", "gen"), [(0.013, 0.004), (0.004, 0.013)])
def test_intervals_cover_the_true_variances(train: float, gen: float) -> None:
    """Williams and Tukey's interval covers at least its level by construction, and close to it; the others exactly."""
    runs, hits = 400, np.zeros(3)
    for rng_seed in range(runs):
        c = found_in(drawn(4, 3, 3, train, gen, rng_seed))
        hits += [
            c.train_low <= train**2 <= c.train_high,
            c.gen_low <= gen**2 <= c.gen_high,
            c.ratio_low <= (train / gen) ** 2 <= c.ratio_high,
        ]
    assert (hits / runs > 0.95 - 3 * math.sqrt(0.05 * 0.95 / runs)).all()
    assert (hits[1:] / runs < 0.95 + 3 * math.sqrt(0.05 * 0.95 / runs)).all()


def test_draws_and_costs_are_read_from_the_frames_at_the_step_that_counts() -> None:
    frames = study(noise=0.02)
    rng = np.random.default_rng(0)
    rows = [frames.measurements]
    for draw in (1, 2):
        more = frames.measurements.assign(draw=draw)
        rows.append(more.assign(value=more["value"] * np.exp(rng.normal(0, 0.01, len(more)))))
    a = analyse(changed(frames, measurements=pd.concat(rows)))
    assert a.primary is not None
    values = draws_of(a.frames, a.primary, a.scale)
    assert set(values["arm-esc"][0]) == {0, 1, 2}
    mean = sum(values["arm-esc"][0].values()) / 3
    assert a.model is not None
    assert mean == pytest.approx(a.model.values["arm-esc"][0])
    found = found_in(values)
    assert found.gen == pytest.approx(0.01**2, rel=0.5)
    spent = costs(a.frames, a.primary)
    assert spent is not None
    assert spent[1] == 1.0
    assert spent[0] == pytest.approx(frames.trials["wall_seconds"].mean())
