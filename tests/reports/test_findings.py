"""From frames to findings: each statistic gets what it is about, and `report.json` has all of them."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from simulated_study import GRID, rich_study, study, study_of
from test_analysis import changed

from ablate_reports import render_json, sections
from ablate_reports.analysis import analyse
from ablate_reports.choices import beside_axes, choices
from ablate_reports.data import COLUMNS, StudyFrames
from ablate_reports.factorial import factorial
from ablate_reports.findings import confirmation
from ablate_reports.luck import Luck


def findings_of(frames: StudyFrames) -> dict[str, object]:
    found = json.loads(render_json(frames))["findings"]
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("seeds", [0, 1, 2, 4])
def test_every_finding_is_in_the_json_of_every_study(seeds: int) -> None:
    frames = StudyFrames.from_mapping({}) if seeds == 0 else study(seeds=seeds)
    found = findings_of(frames)
    assert sorted(found) == sorted([
        "claims", "confirmed", "equivalence", "importances", "levels", "luck", "noise", "plans", "rungs", "samples",
        "seeds", "single_runs", "speeds",
    ])  # fmt: skip
    assert found["claims"] == {"comparisons": 0, "judged": []}
    assert (found["luck"] is None) == (seeds < 2)


def test_a_grid_is_read_as_a_factorial_and_a_path_is_not() -> None:
    a = analyse(rich_study())
    plans = a.findings.plans
    assert list(plans) == ["design"]
    found = plans["design"].factorial
    assert found.factors == {"schedule": ["linear", "cosine", "trig"], "loss": ["l2", "huber"]}
    cells = {f"arm-{k}": dict(zip(("schedule", "loss"), k.split("-"), strict=True)) for k in GRID}
    assert a.model is not None
    direct = factorial(cells, a.model.values)
    assert direct is not None
    assert [(e.levels, e.estimate) for e in found.main()] == [(e.levels, e.estimate) for e in direct.main()]
    rows = a.frames.measurements
    less = analyse(changed(a.frames, measurements=rows[rows["arm_id"] != "arm-trig-huber"])).findings.plans["design"]
    [lost] = [t for t in less.factorial.terms if len(t.factors) == 2]
    assert lost.why == "not estimable: 1 of 6 combinations are missing"


def test_one_factor_at_a_time_has_its_base_and_no_interaction() -> None:
    rows = [
        ("arm-fm", "one", "base", 0, "base", None, None, "{}"),
        ("arm-ct", "one", "ofat", 1, "ct", "objective", "ct", '{"objective": "ct"}'),
        ("arm-esc", "one", "ofat", 2, "huber", "loss", "huber", '{"loss": "huber"}'),
    ]
    frames = study({"fm": 0.0, "ct": -1.0, "esc": -0.3})
    plans = pd.DataFrame([(*r[:3], *r[3:]) for r in rows], columns=list(COLUMNS["study_arms"]))
    plans["kind"] = "ofat"
    found = analyse(changed(frames, study_arms=plans)).findings.plans["one"].factorial
    assert [t.why for t in found.terms] == ["", "", "not estimable: no arms change both"]
    assert [(e.levels, e.references) for e in found.main()] == [(("ct",), ("(as base)",)), (("huber",), ("(as base)",))]


LISTED = """
name: listed
axes: {plug: [off, half], batches: [iid, cc]}
plans:
  rows:
    kind: list
    arms:
      MF: {}
      A: {plug: half}
      B: {plug: half, batches: cc}
      C: {train.lr: 2e-3}
      D: {batches: cc, train.lr: 2e-3}
"""
"""Rows of a table: plug-in velocity 10 % better, batches of one class 11 %, and another learning rate twice as bad."""


def listed_study(**more: Any) -> StudyFrames:
    effects = {"MF": 0.0, "A": -0.1, "B": -0.21, "C": 0.7, "D": 0.59}
    own = {"A": {"plug": "half"}, "B": {"plug": "half", "batches": "cc"}, "D": {"batches": "cc"}}
    members = [("MF", "base", "base", 0, "MF", {"plug": "off", "batches": "iid"})]
    members += [(arm, "rows", "list", i, arm, own.get(arm, {})) for i, arm in enumerate(effects)]
    frames = study(effects, noise=0.005, members=members, **more)
    return changed(frames, study_arms=frames.study_arms[frames.study_arms["plan"] != "methods"])


def test_an_arm_that_changes_more_than_axes_is_no_cell_of_a_factorial() -> None:
    a = analyse(listed_study(space_yaml=LISTED))
    found = a.findings.plans["rows"]
    assert found.left_out == ("arm-C", "arm-D")
    assert {e.factors: e.estimate for e in found.factorial.main()} == {
        ("plug",): pytest.approx(-0.1, abs=0.02),
        ("batches",): pytest.approx(-0.11, abs=0.02),
    }
    assert findings_of(a.frames)["plans"]["rows"]["left_out"] == ["arm-C", "arm-D"]  # type: ignore[index]


def test_an_arm_that_changes_more_than_axes_says_nothing_of_an_axis_speed() -> None:
    frames = listed_study(space_yaml=LISTED)
    rows = frames.measurements
    value = rows["value"] * np.exp(np.random.default_rng(0).normal(0, 0.003, len(rows)))
    late = rows["arm_id"].isin(["arm-C", "arm-D"]) & (rows["step"] < 2000)
    found = analyse(changed(frames, measurements=rows.assign(value=value.mask(late, 3 * value)))).findings.speeds
    assert {s.axis for s in found} == {"plug", "batches"}
    assert all(abs(s.gain) < 0.02 for s in found)


def test_where_the_space_is_not_known_an_arm_with_the_levels_of_another_is_none_either() -> None:
    frames = listed_study()
    assert beside_axes(frames) == {"arm-C"}
    assert beside_axes(changed(frames, study=dict(frames.study) | {"space_yaml": "axes: ["})) == {"arm-C"}
    rows = frames.study_arms
    again = rows[rows["label"] == "C"].assign(plan="cross", kind="grid", choice='{"plug": "off", "batches": "cc"}')
    assert beside_axes(changed(frames, study_arms=pd.concat([rows, again]))) == {"arm-D"}, "C has D's levels by a grid"


def test_around_the_base_is_around_it_also_where_another_arm_is_the_baseline() -> None:
    """The baseline is B: it is no arm of a plan that changes one axis at a time, and the base is."""
    frames = listed_study(baseline_arm_id="arm-B")
    rows = frames.study_arms
    one = rows[rows["label"].isin(["A", "D"])].assign(plan="one", kind="ofat")
    found = analyse(changed(frames, study_arms=pd.concat([rows, one]))).findings.plans["one"].factorial
    assert {e.factors: e.estimate for e in found.main()} == {
        ("plug",): pytest.approx(0.1, abs=0.02),
        ("batches",): pytest.approx(-0.59, abs=0.02),
    }, "against the baseline's levels, half and cc"


def test_without_a_base_among_the_arms_what_is_not_named_is_not_the_baselines() -> None:
    frames = listed_study(baseline_arm_id="arm-B")
    rows = frames.study_arms[frames.study_arms["kind"] != "base"]
    assert choices(changed(frames, study_arms=rows))["arm-A"] == {"plug": "half"}


def test_a_half_fraction_says_what_it_aliases() -> None:
    signs = {"fm": "---", "ct": "+-+", "esc": "-++", "imm": "++-"}
    names = ("plug", "gradual", "stable")
    members = [
        (arm, "screen", "fractional", i, arm, dict(zip(names, ("on" if c == "+" else "off" for c in s), strict=True)))
        for i, (arm, s) in enumerate(signs.items())
    ]
    frames = study(dict.fromkeys(signs, 0.0), members=members)
    rows = frames.study_arms[frames.study_arms["plan"] == "screen"]
    plan = analyse(changed(frames, study_arms=rows)).findings.plans["screen"]
    assert plan.aliases is not None
    assert (plan.aliases.resolution, [str(w) for w in plan.aliases.words]) == (3, ["I = −plug × gradual × stable"])
    assert [str(c) for c in plan.chains] == [
        "plug − gradual × stable",
        "gradual − plug × stable",
        "stable − plug × gradual",
    ]
    assert all(c.estimate is not None for c in plan.chains)
    found = findings_of(changed(frames, study_arms=rows))["plans"]
    assert isinstance(found, dict)
    assert found["screen"]["aliases"]["words"] == ["I = −plug × gradual × stable"]


def test_draws_give_the_noise_of_training_and_of_sampling() -> None:
    frames = study(noise=0.03)
    rng = np.random.default_rng(0)
    more = [
        frames.measurements.assign(
            draw=d, value=frames.measurements["value"] * np.exp(rng.normal(0, 0.01, len(frames.measurements)))
        )
        for d in (0, 1, 2)
    ]
    noise = analyse(changed(frames, measurements=pd.concat(more))).findings.noise
    assert noise is not None
    assert noise.components.gen == pytest.approx(0.01**2, rel=0.4)
    assert noise.plan is not None
    assert noise.sentence.startswith("Retraining moves the metric by ")
    assert analyse(frames).findings.noise is None


def confirmed_study() -> StudyFrames:
    """Seven arms over three seeds; esc and the baseline on three seeds more, to confirm."""
    frames = study(seeds=6, noise=0.02)
    late = frames.trials["seed"] >= 3
    keep = ~late | frames.trials["arm_id"].isin(["arm-fm", "arm-esc"])
    trials = frames.trials[keep].assign(confirm=late[keep])
    rows = frames.measurements[frames.measurements["trial_id"].isin(trials["trial_id"])]
    return changed(frames, trials=trials, measurements=rows)


def test_confirming_trials_stand_apart_from_the_exploration() -> None:
    a = analyse(confirmed_study())
    plain = study(seeds=6, noise=0.02)
    first = plain.measurements["seed"] < 3
    three = analyse(
        changed(plain, trials=plain.trials[plain.trials["seed"] < 3], measurements=plain.measurements[first])
    )
    assert [r.value for r in a.rows] == [r.value for r in three.rows], "nothing of the confirmation is in the table"
    assert [r.n for r in a.rows] == [3] * 7
    assert not any("without a usable value" in r.note for r in a.rows)
    confirmed = a.findings.confirmed
    assert confirmed is not None
    [one] = confirmed.found
    assert (one.arm, one.verdict, confirmed.stale) == ("arm-esc", "better", [])
    assert one.contrast is not None
    assert one.contrast.n == 3
    assert one.explored == pytest.approx(three.by_id["arm-esc"].contrast.estimate)  # type: ignore[union-attr]
    text = findings_of(confirmed_study())["confirmed"]
    assert isinstance(text, dict)
    assert text["arms"][0]["verdict"] == "better"


def test_a_fresh_value_that_is_not_positive_counts() -> None:
    """Two of five were dropped, and what was left was confirmed as 51 % better."""
    explored = {arm: {s: level + 1e-4 * s for s in range(3)} for arm, level in (("b", 0.01), ("x", 0.005))}
    fresh = {"b": [0.0101, 0.0099, 0.01, 0.0102, 0.0098], "x": [0.004, -0.001, 0.005, -0.002, 0.0045]}
    frames = study_of({arm: explored[arm] | {3 + i: v for i, v in enumerate(fresh[arm])} for arm in fresh})
    a = analyse(changed(frames, trials=frames.trials.assign(confirm=frames.trials["seed"] >= 3)))
    assert a.scale == "log"
    confirmed = confirmation(a)
    assert confirmed is not None
    [one] = confirmed.found
    assert confirmed.scale == "linear"
    assert one.contrast is not None
    assert (one.contrast.n, one.contrast.n_reference) == (5, 5)
    assert one.contrast.estimate == pytest.approx(np.mean(fresh["x"]) - np.mean(fresh["b"]))
    assert one.explored == pytest.approx(-0.005)
    said = sections.confirmed(a, confirmed)
    assert "%" not in " ".join(said)
    assert "A fresh value is not positive, so these differences are in the metric's own units." in said


def test_what_is_said_of_luck_and_noise_follows_the_scale_and_the_direction() -> None:
    values = {f"x{i}": {s: [0.001 * (i - 2) + 1e-4 * (s + d) for d in (0, 1)] for s in range(4)} for i in range(5)}
    values["x1"][0] = [-0.002, -0.001]
    a = analyse(study_of(values))
    found = findings_of(a.frames)
    assert a.scale == "linear"
    assert "%" not in json.dumps(found["luck"])
    assert "%" not in json.dumps(found["noise"])
    known = Luck(10, 3.0, 0.07, 0.0688, 0.1)
    assert f"{100 * math.expm1(0.0688):.1f}% better" in known.sentence("log", lower_is_better=False)
    assert f"{-100 * math.expm1(-0.0688):.1f}% better" in known.sentence("log")


def test_claims_of_the_study_are_judged_with_its_margin() -> None:
    claims = [
        "esc is better than fm.",
        "ct is better than esc",
        "meanflow is equivalent to meanflow",
        {"better": ["imm", "ct"]},
    ]
    found = analyse(study(claims=claims)).findings.claims
    assert [c.status for c in found.judged] == ["holds", "fails", "not understood", "holds"]
    assert found.comparisons == 3
    text = findings_of(study(claims=claims))["claims"]
    assert isinstance(text, dict)
    assert [c["status"] for c in text["judged"]] == ["holds", "fails", "not understood", "holds"]
    assert text["judged"][0]["pairs"][0]["contrast"]["low"] < 0


def test_published_single_runs_are_judged_against_the_baseline() -> None:
    published = [
        {"arm": a, "metric": "fid50k", "value": v, "source": "p"}
        for a, v in (("fm", 6.09), ("esc", 5.77), ("ct", 6.01))
    ]
    [found] = analyse(study(parts={"published": published})).findings.single_runs
    assert {s.name: s.resolved for s in found.steps} == {"esc": True, "ct": False}


def test_equivalence_rungs_luck_levels_and_seeds_are_of_this_study() -> None:
    a = analyse(study(status={("esc", 0): "diverged"}))
    f = a.findings
    assert {e.arm for e in f.equivalence} == {r.arm_id for r in a.rows if not r.baseline}
    assert not any(e.equivalent for e in f.equivalence)
    assert [r.step for r in f.rungs] == [500, 1000, 1500]
    assert f.speeds == [], "the simulated curves leave no noise to test speed by"
    assert f.luck is not None
    assert f.luck.arms == 7
    assert [c.lost for c in f.levels if c.level == "esc"] == [1]
    assert f.seeds is not None
    assert f.seeds.effect == pytest.approx(math.log1p(0.02))
    assert f.seeds.hours is not None
