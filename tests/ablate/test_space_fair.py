"""Arms differ in what the study varies and in nothing else; a difference is shown as it is meant."""

from __future__ import annotations

from typing import Any

import pytest

from ablate.errors import SpaceError
from ablate.space import arm_diff, expand, resolve, space_from_text
from ablate.space.fair import undeclared
from ablate_core.config import TrialConfig

BASE = "base: {objective: meanflow}\n"


def config(**parts: Any) -> TrialConfig:
    raw = {"schedule": "linear", "objective": "meanflow", "architecture": "mlp", "data": "gaussians"}
    return TrialConfig.model_validate({**raw, "train": {"steps": 10, "batch_size": 8}, **parts})


def test_equal_arms_have_no_difference_whatever_their_seed() -> None:
    assert arm_diff(config(), config(seed=3)) == []


def test_an_exchanged_component_is_one_line() -> None:
    assert arm_diff(config(architecture={"name": "sit", "size": "S/2"}), config()) == [("architecture", "sit", "mlp")]


def test_fields_of_one_component_and_slots_of_an_objective_are_lines_of_their_own() -> None:
    a = config(architecture={"name": "mlp", "width": 64}, objective={"name": "meanflow", "velocity": "plugin"})
    assert arm_diff(a, config()) == [
        ("objective.velocity", "plugin", "conditional"),
        ("architecture.width", 64, 128),
    ]


def test_an_exchanged_objective_lists_the_slots_that_differ() -> None:
    found = {path: (a, b) for path, a, b in arm_diff(config(objective="esc"), config())}
    assert found["objective.name"] == ("esc", "meanflow")
    assert found["objective.time_sampler"] == ("esc_gradual", "ln_minmax")
    assert "objective.metric" not in found


def test_a_deep_difference_lists_every_field() -> None:
    found = [
        path
        for path, _, _ in arm_diff(config(objective={"name": "meanflow", "velocity": "plugin"}), config(), deep=True)
    ]
    assert set(found) == {f"objective.velocity.{f}" for f in ("name", "prob", "same_class", "eps")}


def test_what_nothing_declares_is_found_and_what_is_declared_is_not() -> None:
    a = config(train={"steps": 10, "batch_size": 8, "lr": 1e-3}, objective="ct")
    assert [d[0] for d in undeclared(a, config(), {("objective",)})] == ["train.lr"]
    assert undeclared(a, config(), {("objective",), ("train", "lr")}) == []
    assert undeclared(a, config(), {("objective",), ("train",)}) == []


def test_a_defect_of_the_expansion_that_changes_more_than_was_declared_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lay = resolve.Written.lay

    def leaky(self: Any, path: Any, value: Any, where: Any) -> None:
        lay(self, path, value, where)
        if value == "ct":
            lay(self, ("train", "lr"), 0.5, ("base",))

    monkeypatch.setattr(resolve.Written, "lay", leaky)
    with pytest.raises(SpaceError) as caught:
        expand(space_from_text(BASE + "plans: {p: {kind: list, arms: {x: {objective: ct}}}}"))
    assert str(caught.value).startswith("<space>:2:35: arm 'x' differs from the baseline in train.lr (0.5, not 0.002)")


def test_what_must_match_is_an_error_unless_it_is_excepted() -> None:
    arm = "plans: {p: {kind: list, arms: {x: {train.batch_size: 128}}}}\n"
    with pytest.raises(
        SpaceError, match=r"arm 'x' has train.batch_size 128, the baseline 64; if that is meant, list it in"
    ):
        expand(space_from_text(BASE + arm))
    assert len(expand(space_from_text(BASE + arm + "fair: {except: [train.batch_size]}")).arms) == 2
    (warning,) = expand(space_from_text(BASE + arm + "fair: {on_mismatch: warn}")).warnings
    assert "train.batch_size 128" in warning


def test_what_a_level_brings_along_must_match_too() -> None:
    text = BASE + "axes: {o: {levels: {mf: {}, ct: {objective: ct, train.steps: 7}}}}"
    with pytest.raises(SpaceError, match=r"arm 'ct' has train.steps 7, the baseline 1000"):
        expand(space_from_text(text))


def test_an_axis_over_a_matched_path_is_what_the_study_varies() -> None:
    found = expand(space_from_text(BASE + "axes: {b: {path: train.batch_size, levels: [64, 128]}}"))
    assert [arm.label for arm in found.arms] == ["64", "128"]
