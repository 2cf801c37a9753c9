"""Arms that are measured from the same trained networks: oracles, coverage, and what a report makes of them."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from simulated_study import study
from statsmodels.stats.anova import anova_lm

from ablate_reports import render_html, render_json, render_markdown, statistics
from ablate_reports.analysis import Analysis, analyse
from ablate_reports.data import StudyFrames
from ablate_reports.figures import cost
from ablate_reports.shared import fit_shared
from ablate_reports.simultaneous import MaxT
from ablate_reports.statistics import Values, fit


def drawn(
    rng: np.random.Generator, networks: int, ways: int, seeds: int, tau: float, noise: float
) -> tuple[dict[str, dict[int, float]], dict[str, str]]:
    """``y = seed + t[network, seed] + e``: no arm differs from any other. Arms are called ``network/way``."""
    shared = rng.normal(0, 0.02, seeds) + rng.normal(0, tau, (networks, seeds))
    y = shared[:, None] + rng.normal(0, noise, (networks, ways, seeds))
    values = {f"{i}/{k}": {s: float(y[i, k, s]) for s in range(seeds)} for i in range(networks) for k in range(ways)}
    return values, {arm: arm.partition("/")[0] for arm in values}


def table(values: Values, networks: dict[str, str]) -> pd.DataFrame:
    rows = [(a, networks[a], s, f"{networks[a]}-{s}", y) for a, seeds in values.items() for s, y in seeds.items()]
    return pd.DataFrame(rows, columns=["arm", "network", "seed", "trial", "y"])


# -- oracles


@pytest.mark.parametrize("lost", [(), ("1-0",)])
def test_arms_of_one_network_are_compared_as_statsmodels_compares_them_within_trials(lost: tuple[str, ...]) -> None:
    values, networks = drawn(np.random.default_rng(1), 3, 4, 5, 0.05, 0.02)
    values = {a: {s: y for s, y in v.items() if f"{networks[a]}-{s}" not in lost} for a, v in values.items()}
    model = fit_shared(values, networks)
    assert model is not None
    ols = smf.ols("y ~ C(arm) + C(trial)", table(values, networks)).fit()
    (found,) = model.compare([("1/2", "1/0")])
    assert (found.method, found.df) == ("within", ols.df_resid)
    wanted = ols.t_test("C(arm)[T.1/2] - C(arm)[T.1/0] = 0")
    assert math.isclose(found.estimate, float(np.squeeze(wanted.effect)), rel_tol=1e-9)
    assert found.se is not None
    assert math.isclose(found.se, float(np.squeeze(wanted.sd)), rel_tol=1e-8)
    assert found.p is not None
    assert math.isclose(found.p, float(np.squeeze(wanted.pvalue)), rel_tol=1e-7)


def test_the_variance_between_networks_is_that_of_the_split_plot_table() -> None:
    """Balanced: (MS of network x seed + (K - 1) MS of what is left) / K, the textbook estimate of var(t + e)."""
    networks, ways, seeds = 4, 3, 5
    values, of = drawn(np.random.default_rng(4), networks, ways, seeds, 0.05, 0.03)
    model = fit_shared(values, of)
    assert model is not None
    frame = table(values, of).assign(way=lambda f: f["arm"].str.partition("/")[2])
    found = anova_lm(smf.ols("y ~ C(network) * C(way) + C(way) * C(seed) + C(network) * C(seed)", frame).fit())
    whole, rest = found.loc["C(network):C(seed)", "mean_sq"], found.loc["Residual", "mean_sq"]
    assert model.sigma is not None
    assert math.isclose(model.sigma**2, (whole + (ways - 1) * rest) / ways, rel_tol=1e-9)
    assert model.df == (networks - 1) * (seeds - 1), "not three times that: the networks are the same"
    (between,) = model.compare([("1/2", "0/0")])
    assert between.method == "pooled"
    assert between.se is not None
    assert math.isclose(between.se, model.sigma * math.sqrt(2 / seeds), rel_tol=1e-12)


def test_without_shared_networks_and_with_one_alone_the_model_is_the_usual_one() -> None:
    values, networks = drawn(np.random.default_rng(3), 4, 1, 3, 0.05, 0.01)
    usual, found = fit(values), fit_shared(values, networks)
    assert usual is not None
    assert found is not None
    assert (found.sigma, found.df, found.within, found.independent) == (usual.sigma, usual.df, {}, 4)
    values, networks = drawn(np.random.default_rng(3), 1, 4, 3, 0.05, 0.01)
    usual, found = fit(values), fit_shared(values, networks)
    assert usual is not None
    assert found is not None
    assert (found.sigma, found.df) == (usual.sigma, usual.df), "seeds as blocks are trials as blocks there"
    assert fit_shared({}, {}) is None


def test_ways_of_measuring_one_network_alone_do_not_pretend_to_be_networks() -> None:
    """One factor at a time: the base in three ways, two other trainings in one."""
    values, networks = drawn(np.random.default_rng(0), 3, 3, 4, 0.05, 0.01)
    values = {a: v for a, v in values.items() if a.startswith("0/") or a.endswith("/0")}
    model = fit_shared(values, networks)
    assert model is not None
    one_way = fit({a: v for a, v in values.items() if a.endswith("/0")})
    assert one_way is not None
    assert (model.sigma, model.df) == (one_way.sigma, one_way.df)
    methods = {c.arm: c.method for c in model.compare([(a, "0/0") for a in values if a != "0/0"])}
    assert methods == {"0/1": "within", "0/2": "within", "1/0": "pooled", "2/0": "pooled"}


def test_an_arm_of_odd_spread_is_met_by_its_own_differences() -> None:
    values, networks = drawn(np.random.default_rng(5), 2, 3, 8, 0.01, 0.01)
    rng = np.random.default_rng(6)
    values["0/1"] = {s: y + float(rng.normal(0, 0.5)) for s, y in values["0/1"].items()}
    model = fit_shared(values, networks)
    assert model is not None
    (found,) = model.compare([("0/1", "0/0")])
    d = np.array([values["0/1"][s] - values["0/0"][s] for s in range(8)])
    assert (found.method, found.df) == ("welch", 7.0)
    assert found.se is not None
    assert math.isclose(found.se, d.std(ddof=1) / math.sqrt(8), rel_tol=1e-12)


@pytest.mark.parametrize(("tau", "noise"), [(0.05, 0.0125), (0.03, 0.03)])
def test_intervals_hold_where_counting_every_way_as_a_network_fails(
    tau: float, noise: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three networks in three ways, three seeds: the family error stays below 5 %, the usual model's does not."""
    monkeypatch.setattr(statistics, "SPREAD_RATIO", math.inf)  # the guard of unequal spread would hide half of it
    monkeypatch.setattr(statistics, "SHARED_RATIO", math.inf)
    monkeypatch.setattr(MaxT, "adjusted_p", lambda self, t: 1.0)  # not looked at here, and half of the time
    rng, studies, wrong = np.random.default_rng(7), 150, {"shared": 0, "usual": 0}
    for _ in range(studies):
        values, networks = drawn(rng, 3, 3, 3, tau, noise)
        models = {"shared": fit_shared(values, networks)} | ({"usual": fit(values)} if tau > noise else {})
        for name, model in models.items():
            assert model is not None
            found = model.compare([(a, "0/0") for a in values if a != "0/0"])
            wrong[name] += any(c.low is not None and c.high is not None and (c.low > 0 or c.high < 0) for c in found)
    assert wrong["shared"] / studies < 0.05 + 3 * math.sqrt(0.05 * 0.95 / studies)
    if tau > noise:
        assert wrong["usual"] / studies > 0.08, "the test can see the defect"


# -- a report

CHOICE = '{"objective": "%s", "nfe": "%s"}'


def conditions() -> pd.DataFrame:
    usual = {"guidance": 1.0, "sampler": "one_step", "ema": 0.999}
    parts = {"one": {"nfe": 1, **usual}, "four": {"nfe": 4, **usual, "sampler": "pushforward"}, "two": {"nfe": 2}}
    return pd.DataFrame([(c, json.dumps(d)) for c, d in parts.items()], columns=["cond_id", "definition"])


def measured_twice(declared: Any = True, **more: Any) -> StudyFrames:
    """fm and ct, each measured at 1 and at 4 steps; a number at 2 steps that no arm asked for."""
    plain = study({"fm": 0.0, "ct": -1.0}, seeds=3, every=2000, **more)
    arms, measurements = plain.arms, plain.measurements.assign(cond_id="one", declared=declared)
    halves = measurements["value"] * np.exp(np.random.default_rng(8).normal(-0.7, 0.01, len(measurements)))
    four = measurements.assign(cond_id="four", value=halves, arm_id=measurements["arm_id"] + "-4")
    two = measurements.assign(cond_id="two", value=7.77, declared=False if declared is not None else None)
    usual = arms.assign(trained_id=arms["arm_id"], trained_label=arms["label"], label=arms["label"] + "/1")
    more_arms = usual.assign(arm_id=arms["arm_id"] + "-4", label=arms["label"] + "/4")
    plans = [
        (f"arm-{name}{suffix}", "g", "grid", i, f"{name}/{nfe}", None, None, CHOICE % (name, nfe))
        for i, (name, suffix, nfe) in enumerate((n, s, k) for n in ("fm", "ct") for s, k in (("", "1"), ("-4", "4")))
    ]  # fmt: skip
    parts = {name: getattr(plain, name) for name in ("trials", "curves", "attempts", "metric_defs", "skips")}
    return StudyFrames.from_mapping({
        **parts, "study": plain.study, "arms": pd.concat([usual, more_arms]), "conditions": conditions(),
        "study_arms": pd.DataFrame(plans, columns=plain.study_arms.columns[:8]),
        "measurements": pd.concat([measurements, four, two]),
    })  # fmt: skip


def analysis(**more: Any) -> Analysis:
    return analyse(measured_twice(**more))


def test_arms_that_share_trials_are_arms_of_their_own() -> None:
    found = analysis()
    assert [r.label for r in found.rows] == ["fm/1", "fm/4", "ct/1", "ct/4"]
    assert [r.n for r in found.rows] == [3, 3, 3, 3]
    by = {r.label: r for r in found.rows}
    assert by["fm/1"].value is not None
    assert by["fm/4"].value is not None
    assert math.isclose(by["fm/4"].value, by["fm/1"].value / 2, rel_tol=0.05)
    methods = {label: r.contrast.method for label, r in by.items() if r.contrast is not None}
    assert methods == {"fm/4": "within", "ct/1": "pooled", "ct/4": "pooled"}
    assert found.situation.planned == 6, "six trials, however often they are measured"


def test_numbers_that_no_arm_asked_for_stay_apart() -> None:
    found = analysis()
    assert found.primary is not None
    assert 7.77 not in set(found.primary.values["value"])
    (other,) = [g for g in found.groups if g is not found.primary]
    assert other.condition == {"nfe": 2}
    text = render_markdown(found.frames)
    assert "condition.nfe" in text
    rows = [line for line in text.splitlines() if "7.77" in line]
    assert len(rows) == 2
    assert all("/1" not in row for row in rows), "named after what was trained: the label of an arm says one step"


def test_a_study_recorded_before_arms_asked_is_grouped_by_condition() -> None:
    found = analysis(declared=None)
    assert found.primary is not None
    assert "," not in found.primary.cond_id


def test_a_study_of_which_nothing_is_measured_yet_borrows_no_other_number() -> None:
    frames = measured_twice()
    rows = frames.measurements.assign(declared=False)
    object.__setattr__(frames, "measurements", rows)
    found = analyse(frames)
    assert found.primary is None
    assert "No value" in found.headline


def test_a_report_says_that_arms_share_trials_and_under_what_they_are_measured() -> None:
    found = analysis()
    assert any("4 arms are measured from 2 trainings" in note for note in found.notes)
    assert any("differ in nfe, sampler" in note for note in found.notes)
    document = json.loads(render_json(found.frames))
    assert document["primary"]["condition"]["nfe"] == [1, 4]
    assert [arm["cond_id"] for arm in document["arms"]] == ["one", "four", "one", "four"]
    page = render_html(found.frames)
    for label in ("fm/1", "fm/4", "ct/1", "ct/4"):
        assert page.count(label) > 1
    assert "4 conditions" not in page
    assert page.count('class="panel"') == 2, "one loss for each training"


def test_a_grid_over_a_way_of_measuring_has_its_heat_map() -> None:
    page = render_html(measured_twice())
    assert "nfe × objective" in page or "objective × nfe" in page


def test_a_failed_training_is_one_failure_whatever_was_to_be_measured() -> None:
    frames = measured_twice(status={("ct", 1): "failed"})
    found = analyse(frames)
    assert (found.situation.failed, found.situation.planned) == (1, 6)
    text = render_markdown(frames)
    assert text.count("RuntimeError: out of memory") == 1
    assert [r.n for r in found.rows] == [3, 3, 2, 2]


def test_ways_of_measuring_one_training_cost_the_same_and_are_held_against_each_other_within_trials() -> None:
    """4 steps are 4 % better in every trial: far less than trainings differ, and yet told apart."""
    frames = measured_twice(noise=0.3)
    rows = frames.measurements
    at = rows.set_index(["trial_id", "cond_id", "step"])["value"]
    better = [
        at[r.trial_id, "one", r.step] * math.exp(-0.04 + 0.002 * r.seed) if r.cond_id == "four" else r.value
        for r in rows.itertuples()
    ]
    object.__setattr__(frames, "measurements", rows.assign(value=better))
    found = analyse(frames)
    _, timed = cost.times(found)
    price = {p.row.label: p.cost for p in timed}
    assert price["fm/1"] == price["fm/4"]
    placed = {p.row.label: (p.place, p.against) for p in cost.placed(found, timed, cost.SAME_TIME)}
    assert placed["fm/4"] == ("front", "") or placed["fm/4"][1].startswith("ct")
    assert placed["ct/1"] == ("behind", "ct/4")
    assert found.model is not None
    (inside,) = found.model.compare([("arm-ct", "arm-ct-4")])
    assert (inside.method, inside.low is not None and inside.low > 0) == ("within", True)
    usual = fit(found.model.values)
    assert usual is not None
    (apart,) = usual.compare([("arm-ct", "arm-ct-4")])
    assert apart.low is not None
    assert apart.low < 0, "the usual model cannot tell them apart"
