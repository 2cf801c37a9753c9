"""The shipped spaces: every one expands at every fidelity, says what it is, and compares what it should."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ablate.space import builtin_names, estimate, expand, find_space, load_space, space_from_text
from ablate.space.schema import KINDS, Budget
from ablate_core import legality

NAMES = builtin_names()
LEVELS = [(name, level) for name in NAMES for level in (None, *load_space(name).fidelity.levels)]


@pytest.mark.parametrize(("name", "level"), LEVELS)
def test_a_shipped_space_expands_at_every_fidelity(name: str, level: str | None) -> None:
    plan = expand(load_space(name), fidelity=level)
    assert len(plan.arms) >= 2
    assert plan.baseline in plan.arms
    assert (
        len({t.key for t in plan.trials})
        == len(plan.trials)
        == sum(t.arm_id in {a.trained for a in plan.arms} for t in plan.trials)
    )
    for arm in plan.arms:
        assert not [p for p in legality.check(arm.config) if p.level == "error"]
        assert not [p for p in legality.check(arm.config) if p.code == "C27"], "a ramp is longer than the training"


def examples(document: str) -> list[str]:
    text = (Path(__file__).parents[2] / "docs" / document).read_text()
    return re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)


@pytest.mark.parametrize("text", examples("space-file.md"), ids=range(len(examples("space-file.md"))))
def test_the_examples_of_the_documentation_expand(text: str) -> None:
    space = space_from_text(text)
    for level in (None, *space.fidelity.levels):
        assert len(expand(space, fidelity=level).trials) > 2


def test_the_keys_of_a_budget_are_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "space-file.md").read_text()
    section = text[text.index("### Budget") : text.index("### Published numbers")]
    assert {key for key in Budget.model_fields if f"`{key}`" in section} == set(Budget.model_fields)


def test_the_documented_tour_shows_every_kind_of_plan_and_skips_for_every_reason() -> None:
    plan = expand(space_from_text(examples("space-file.md")[-1]))
    assert {m.kind for arm in plan.arms for m in arm.memberships} == {"base", *KINDS}
    assert {s.reason for s in plan.skips} >= {"it diverged in the pilot", "the optimiser does not exist yet"}
    assert len([t for t in plan.trials if t.arm_id == plan.baseline.id]) == 5


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_space_opens_with_its_question_its_cost_its_command_and_what_it_reproduces(name: str) -> None:
    text = find_space(name).read_text()
    header = text[: text.index("\nname:")]
    assert all(line.startswith("#") for line in header.splitlines())
    assert "?" in header.splitlines()[0]
    assert re.search(r"# Cost: ", header)
    assert f"ablate run {name}" in header
    assert re.search(r"reproduces", header, re.IGNORECASE)
    assert load_space(name).question


def test_the_demo_compares_the_published_methods_with_three_seeds() -> None:
    plan = expand(load_space("objectives"))
    assert [arm.label for arm in plan.arms] == ["FM", "CT", "SCD", "IMM", "sCT", "sCT-linear", "MeanFlow", "ESC"]
    assert plan.baseline.label == "FM"
    assert plan.fidelity == "demo"
    assert len({t.seed for t in plan.trials}) >= 3
    assert plan.metric.name == "fd_digits"
    assert {arm.config.eval.nfe for arm in plan.arms} == {1}
    assert plan.arm("sCT").config.schedule.name == "cosine01"


def test_the_full_study_is_the_published_setting() -> None:
    plan = expand(load_space("objectives"), fidelity="full")
    for arm in plan.arms:
        config = arm.config
        assert (config.data.name, config.train.steps, config.train.batch_size) == ("latents", 600_000, 256)
        assert (config.eval.metric, config.eval.samples) == ("fid", 50_000)
        assert config.architecture.model_dump()["size"] == "B/2"
    assert {row["value"] for row in plan.published} == {47.76, 44.94, 41.03, 34.56, 33.05}
    assert {row["arm"] for row in plan.published} < {arm.label for arm in plan.arms}


def test_the_rows_of_esc_are_the_papers() -> None:
    plan = expand(load_space("esc"), fidelity="full")
    rows = ["MeanFlow", "A1", "A2", "B1", "B2", "C", "D", "ESC"]
    assert [m.label for a in plan.arms for m in a.memberships if m.plan == "paper"] == rows
    parts = {}
    for row in rows:
        o = plan.arm(row).config.objective
        velocity = o.velocity.model_dump()
        parts[row] = (velocity.get("prob"), o.batching.name, o.time_sampler.name, o.weighting.name, o.tangent.name)
    assert parts == {
        "MeanFlow": (None, "iid", "ln_minmax", "none", "none"),
        "A1": (1.0, "iid", "ln_minmax", "none", "none"),
        "A2": (0.5, "iid", "ln_minmax", "none", "none"),
        "B1": (1.0, "class_consistent", "ln_minmax", "none", "none"),
        "B2": (0.5, "class_consistent", "ln_minmax", "none", "none"),
        "C": (None, "iid", "esc_gradual", "none", "none"),
        "D": (None, "iid", "ln_minmax", "variational", "shaped"),
        "ESC": (0.5, "class_consistent", "esc_gradual", "variational", "shaped"),
    }
    published = {row["arm"]: row["value"] for row in plan.published}
    assert published == dict(zip(rows, (6.09, 6.01, 5.98, 6.08, 5.96, 5.99, 5.95, 5.77), strict=True))
    ramps = plan.arm("ESC").config.objective.model_dump()
    assert (ramps["time_sampler"]["zero_steps"], ramps["tangent"]["warmup_steps"]) == (20_000, 10_000)


def test_the_walk_of_esc_shares_its_arms_with_the_papers_rows() -> None:
    plan = expand(load_space("esc"))
    walk = [(m.position, arm.label) for arm in plan.arms for m in arm.memberships if m.plan == "walk"]
    assert [label for position, label in sorted(walk) if position != 3] == ["MeanFlow", "A2", "B2", "ESC"]
    assert len(plan.arms) == 9


def test_the_schedules_say_which_objective_has_one_path_only() -> None:
    plan = expand(load_space("schedules"))
    assert [(s.label, s.reason.split(" ")[0]) for s in plan.skips] == [("SCD/cosine", "C16")]
    assert len(plan.arms) == 15


def test_spaces_share_the_trials_they_have_in_common() -> None:
    keys = {name: {t.key for t in expand(load_space(name)).trials} for name in ("objectives", "schedules", "esc")}
    assert len(keys["objectives"] & keys["schedules"]) == 8 * 3  # every arm of the demo is a cell of the grid
    assert len(keys["objectives"] & keys["esc"]) >= 3  # MeanFlow, whose ramps no fidelity touches


def test_what_is_left_is_counted_and_seconds_come_from_measurements_only() -> None:
    plan = expand(load_space("objectives"))
    steps = plan.baseline.config.train.steps
    first = estimate(plan)
    assert (first["trials"], first["to_train"], first["steps"]) == (24, 24, 24 * steps)
    assert first["trial_seconds"] is None
    assert "duration unknown until a first trial has run" in first["text"]
    done = {t.key: "done" for t in plan.trials[:3]} | {t.key: "failed" for t in plan.trials[3:6]}
    known = estimate(plan, done, {plan.baseline.id: 0.01}, slots=2)
    assert known["to_train"] == 21
    assert known["trial_seconds"] == pytest.approx(21 * steps * 0.01)
    assert known["wall_seconds"] == pytest.approx(21 * steps * 0.01 / 2)
    assert (
        estimate(plan, {t.key: "diverged" for t in plan.trials})["text"]
        == "nothing to train: all 24 trials are finished"
    )


def test_the_speed_of_one_network_says_nothing_about_another() -> None:
    axes = "axes: {width: {path: architecture.width, levels: [128, 64]}, lr: {path: train.lr, levels: [2e-3, 1e-4]}}"
    text = "base: {objective: fm, data: gaussians, architecture: {name: mlp, width: 128}}\n"
    plan = expand(space_from_text(text + axes))
    found = estimate(plan, {}, {plan.baseline.id: 0.01})
    assert (found["to_train"], found["known"]) == (12, 6)  # both learning rates of the width that has run
    assert found["trial_seconds"] == pytest.approx(6 * 1000 * 0.01)
    assert found["wall_seconds"] is None
    assert "6 of unknown speed" in found["text"]


def test_the_table_of_spaces_has_every_shipped_one_with_its_cost_and_its_result() -> None:
    folder = Path(__file__).parents[2]
    lines = [line for line in (folder / "spaces" / "README.md").read_text().splitlines() if line.startswith("| `")]
    rows = {cells[0].strip("`"): cells[1:] for cells in ([c.strip() for c in line.split("|")[1:-1]] for line in lines)}
    assert sorted(rows) == NAMES
    assert {len(cells) for cells in rows.values()} == {5}
    assert [name for name, (_, _, cost, result, _) in rows.items() if not cost or not result] == ["smoke"]
    assert (
        f"has {'ten' if len(NAMES) == 11 else len(NAMES) - 1} studies to start from"
        in (folder / "README.md").read_text()
    )
