"""Arms that compute the same: one arm under every name, trained once; arms that nearly do are named and kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ablate.space import Plan, arm_id, builtin_names, expand, load_space, space_from_text
from ablate_core.equivalence import EQUIVALENCES, canonical

OWN = "own: {path: objective.parameterization, levels: [u, v_ddim]}"
GRID = f"base: {{objective: meanflow}}\naxes: {{{OWN}, schedule: [linear, cosine01]}}\n"
LIST = """
base: {objective: meanflow}
plans:
  p:
    kind: list
    arms:
      A: {}
      B: {objective.parameterization: v_ddim}
      C:
        objective: {name: alphaflow, time_sampler: {shape: constant, alpha: 0, p_eq: 0.75}, metric: adaptive}
        objective.metric: {reduce: sum, c: 1e-3}
      D: {objective.guidance: {name: omega_kappa, omega: 2, kappa: 0}}
      E: {objective.guidance: {name: mg, om: 0.5}}
      F: {objective.guidance: {name: omega_kappa, omega: 1, kappa: 0.5}}
"""  # fmt: skip


def plan(text: str, **arguments: Any) -> Plan:
    return expand(space_from_text(text), **arguments)


def once(found: Plan) -> dict[tuple[str, ...], tuple[tuple[str, ...], int]]:
    return {e.arms: (e.codes, e.saves) for e in found.equivalences if e.trained_once}


def test_two_cells_of_a_grid_that_compute_the_same_are_one_arm_in_both_places() -> None:
    found = plan(GRID)
    assert [arm.label for arm in found.arms] == ["u/linear", "u/cosine01", "v_ddim/cosine01"]
    assert len(found.trials) == 9
    assert once(found) == {("u/linear", "v_ddim/linear"): (("E1",), 3)}
    places = [(m.position, m.label, m.choice) for m in found.arms[0].memberships if m.plan == "grid"]
    assert places == [
        (0, "u/linear", {"own": "u", "schedule": "linear"}),
        (2, "v_ddim/linear", {"own": "v_ddim", "schedule": "linear"}),
    ]
    assert found.arm("v_ddim/linear") is found.arms[0]
    assert found.arms[0].choice == {"own": "u", "schedule": "linear"}
    assert found.skips == ()


def test_no_key_changes_the_first_config_stands_for_the_others() -> None:
    found = plan(GRID)
    alone = plan("base: {objective: meanflow}\naxes: {schedule: [linear, cosine01]}")
    assert {t.key for t in alone.trials} < {t.key for t in found.trials}
    turned = plan(GRID.replace("objective: meanflow", "objective: {name: meanflow, parameterization: v_ddim}"))
    assert turned.arms[0].config.objective.parameterization.name == "v_ddim"
    assert turned.arms[0].id == arm_id(turned.arms[0].config)
    assert once(turned) == {("v_ddim/linear", "u/linear"): (("E1",), 3)}


def test_named_arms_keep_their_names_whatever_asks_for_them() -> None:
    text = LIST + "compare: {baseline: B}\nseeds: {list: [0, 1], extra: {B: [5], D: [6]}}\n"
    text += "published: [{arm: C, metric: fid, value: 3, source: a paper}]\n"
    found = plan(text)
    assert [arm.label for arm in found.arms] == ["A", "D", "E"]
    assert found.baseline.label == "A"
    assert found.published[0]["arm"] == "A"
    assert {t.seed for t in found.trials if t.arm_id == found.arms[0].id} == {0, 1, 5}
    assert once(found) == {("A", "B"): (("E1",), 2), ("A", "C"): (("E4",), 2), ("E", "F"): (("E10",), 2)}
    only = plan(text, only=["C"])
    assert {t.arm_id for t in only.trials} == {found.arms[0].id}


def test_arms_that_are_expected_to_be_equal_are_named_and_all_trained() -> None:
    found = plan(LIST)
    (expectation,) = [e for e in found.equivalences if not e.trained_once]
    assert (expectation.codes, expectation.arms, expectation.exactness) == (("E9",), ("D", "E"), "fixed point")
    assert expectation.saves == 0
    assert len({t.arm_id for t in found.trials}) == 3


def test_a_step_that_computes_the_same_is_skipped_and_the_next_is_compared_with_what_was_before() -> None:
    axes = f"axes: {{{OWN}, lr: {{path: train.lr, levels: [2e-3, 1e-3]}},"
    axes += " clip: {path: train.grad_clip, levels: [1, 2]}}\n"
    plans = "plans: {w: {kind: cumulative, order: [{lr: 1e-3}, {own: v_ddim}, {clip: 2}]}, o: {kind: ofat}}"
    found = plan("base: {objective: meanflow}\n" + axes + plans)
    steps = {(m.plan, m.label): m.baseline_label for arm in found.arms for m in arm.memberships}
    assert steps["w", "+lr=0.001 +own=v_ddim +clip=2"] == "+lr=0.001"
    skipped = {(s.plan, s.label): s.reason for s in found.skips}
    assert set(skipped) == {("w", "+lr=0.001 +own=v_ddim"), ("o", "own=v_ddim")}
    assert skipped["w", "+lr=0.001 +own=v_ddim"].startswith("the same as +lr=0.001: on a straight path")
    assert skipped["o", "own=v_ddim"].endswith("(E1)")
    assert len(found.arms) == 4  # base, lr, clip, and all three
    assert not any(m.label == m.baseline_label for arm in found.arms for m in arm.memberships)


def test_a_leave_one_out_without_effect_is_no_arm() -> None:
    axes = f"axes: {{{OWN}, lr: {{path: train.lr, levels: [2e-3, 1e-3]}}}}\n"
    found = plan(
        "base: {objective: meanflow}\n" + axes + "plans: {l: {kind: leave_one_out, full: {own: v_ddim, lr: 1e-3}}}"
    )
    assert [(s.label, s.reason[:16]) for s in found.skips] == [("-own=v_ddim", "the same as full")]
    assert len(found.arms) == 2


def test_equal_arms_that_are_measured_differently_are_two_arms_of_one_training() -> None:
    text = """
base: {objective: meanflow}
plans: {p: {kind: list, arms: {A: {}, B: {objective.parameterization: v_ddim, eval.nfe: 2}, C: {eval.nfe: 4}}}}
fair: {except: [eval.nfe]}
"""
    found = plan(text)
    assert [arm.label for arm in found.arms] == ["A", "B", "C"]
    assert len({arm.trained for arm in found.arms}) == 1
    assert (len(found.trials), len(found.evaluations)) == (3, 9)
    assert once(found) == {("A", "B"): (("E1",), 3)}


def test_a_plan_without_equal_arms_says_nothing() -> None:
    found = plan("base: {objective: meanflow}\naxes: {objective: [meanflow, ct], schedule: [linear, cosine01]}")
    assert found.equivalences == ()
    assert all(m.choice in (None, arm.choice) for arm in found.arms for m in arm.memberships)


@pytest.mark.parametrize("name", builtin_names())
def test_no_shipped_space_trains_two_arms_that_compute_the_same(name: str) -> None:
    trained = {arm.trained: arm.config for arm in expand(load_space(name)).arms}
    assert len({arm_id(canonical(config)[0]) for config in trained.values()}) == len(trained)


def test_a_plan_with_equal_arms_is_plain_json() -> None:
    document = json.loads(json.dumps(plan(LIST).to_dict()))
    first = document["equivalences"][0]
    assert first["arms"] == ["A", "B"]
    assert first["codes"] == ["E1"]
    assert first["trained_once"] is True
    assert "straight path" in first["because"]


def test_every_equivalence_is_in_the_documentation() -> None:
    text = (Path(__file__).parents[2] / "docs" / "objectives.md").read_text(encoding="utf-8")
    section = text[text.index("## What is the same") :].split("\n## ")[0]
    for rule in EQUIVALENCES:
        assert f"| {rule.code} |" in section


def test_plan_and_run_say_what_is_trained_once_and_what_is_only_expected_to_be_equal(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from ablate.cli import plan as planning
    from ablate.store import StorePaths

    found, paths = plan(LIST), StorePaths(tmp_path)
    planning.show(found, paths, json=False)
    lines = capsys.readouterr().out.splitlines()
    (row,) = [line for line in lines if "A = B" in line]
    assert "is the average velocity (E1)" in row
    assert "trained once, saves 3 trainings" in row
    (row,) = [line for line in lines if "D ~ E" in line]
    assert "at the fixed point only; both trained" in row
    planning.summary(found, paths)
    text = capsys.readouterr().out
    assert "arm B computes the same as arm A (on a straight path" in text
    assert "expected equal, at the fixed point only; both trained: D, E (mixtures" in text
    planning.show(found, paths, json=True)
    assert len(json.loads(capsys.readouterr().out)["equivalences"]) == len(found.equivalences)


def test_the_store_knows_both_places_of_an_arm_by_their_own_levels(tmp_path: Path) -> None:
    from ablate.store import StorePaths, open_frames
    from ablate.store.journal import Journal
    from ablate.store.record import record_plan
    from ablate_reports import StudyFrames, analyse

    paths = StorePaths(tmp_path)
    with Journal(paths, "driver") as journal:
        record_plan(journal, plan(GRID))
    frames = StudyFrames.from_mapping(open_frames(paths, "space"))
    rows = frames.study_arms[frames.study_arms["plan"] == "grid"]
    places = {row["label"]: (row["arm_id"], json.loads(row["choice"])) for row in rows.to_dict("records")}
    assert places["u/linear"][0] == places["v_ddim/linear"][0]
    assert places["u/linear"][1] == {"own": "u", "schedule": "linear"}
    assert places["v_ddim/linear"][1] == {"own": "v_ddim", "schedule": "linear"}
    assert len(frames.arms) == 3
    assert len(frames.trials) == 9
    assert any("u/linear = v_ddim/linear" in note for note in analyse(frames).notes)
