"""Space files: found by path or name, laid over each other, with every place kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from ablate.errors import SpaceError
from ablate.space import builtin_names, expand, find_space, load_space, space_from_text

PARENT = """name: parent
question: the parent's
base:
  objective: {name: esc, velocity: {prob: 0.2}}
  train: {steps: 50, batch_size: 32}
presets: {small: {train.steps: 10, train.lr: 1e-2}}
axes: {schedule: [linear, cosine01]}
plans: {grid: {kind: grid}, old: {kind: ofat}}
fidelity: {levels: {smoke: {train.steps: 5, train.lr: 1e-3}}}
seeds: [0, 1]
"""


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)


def test_a_space_is_named_after_its_file_unless_it_says_otherwise(tmp_path: Path) -> None:
    write(tmp_path, one="base: {objective: fm}\naxes: {schedule: [linear, cosine01]}")
    assert load_space(tmp_path / "one.yaml").name == "one"
    write(tmp_path, two=PARENT)
    assert load_space(tmp_path / "two.yaml").name == "parent"


@pytest.mark.parametrize("stem", ["my study", "étude", "_x", "a" * 81])
def test_a_file_whose_name_cannot_name_its_space_is_told_to_say_a_name(tmp_path: Path, stem: str) -> None:
    file = tmp_path / f"{stem}.yaml"
    file.write_text("base: {objective: fm}\naxes: {schedule: [linear]}\nfoo: 1\n", encoding="utf-8")
    with pytest.raises(SpaceError) as caught:
        load_space(file)
    first, second = caught.value.problems
    assert first.startswith(f"{file}:1:1: the file's name {stem!r} cannot name the space; add `name:` (a name has")
    assert second.startswith(f"{file}:3:1: no key is named 'foo'")
    file.write_text("name: mine\nbase: {objective: fm}\naxes: {schedule: [linear]}\n", encoding="utf-8")
    assert load_space(file).name == "mine"


def test_overrides_per_arm_merge_by_their_expression_which_may_hold_dots(tmp_path: Path) -> None:
    level = "fidelity:\n  levels:\n    smoke:\n      per_arm:\n        train.steps == 50: {%s}\n"
    base = "base: {objective: esc, train: {steps: 50, batch_size: 32}}\naxes: {schedule: [linear]}\n"
    parent = base + level % "train.lr: 0.5, train.steps: 7"
    child = "extends: parent.yaml\n" + level % "train.lr: 0.25"
    child += "        objective.tangent == 'shaped': {objective.tangent.warmup_steps: 3}\n"
    write(tmp_path, parent=parent, child=child)
    merged = load_space(tmp_path / "child.yaml").fidelity.levels["smoke"]
    assert merged == {
        "per_arm": {
            "train.steps == 50": {"train": {"lr": 0.25, "steps": 7}},
            "objective.tangent == 'shaped'": {"objective.tangent.warmup_steps": 3},
        }
    }
    (arm,) = expand(load_space(tmp_path / "child.yaml"), fidelity="smoke").arms
    assert (arm.config.train.steps, arm.config.train.lr) == (7, 0.25)


def test_errors_name_the_file_as_it_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, one="bas: 1")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpaceError, match=r"^one.yaml:1:1: "):
        load_space("one.yaml")


def test_a_child_is_laid_over_its_parent(tmp_path: Path) -> None:
    child = """extends: parent.yaml
base: {train.steps: 70, objective: {velocity: {prob: 0.4}}}
presets: {small: {train: {steps: 11}}}
fidelity: {run: smoke, levels: {smoke: {train: {steps: 6}}}}
seeds: 3
"""
    write(tmp_path, parent=PARENT, child=child)
    space = load_space(tmp_path / "child.yaml")
    assert (space.name, space.question) == ("child", None)
    assert space.base["train"] == {"steps": 70, "batch_size": 32}
    assert space.base["objective"] == {"name": "esc", "velocity": {"prob": 0.4}}
    assert space.presets["small"] == {"train": {"steps": 11, "lr": 1e-2}}
    assert space.fidelity.levels["smoke"] == {"train": {"steps": 6, "lr": 1e-3}}
    assert space.seeds.list_ == [0, 1, 2]
    assert list(space.plans) == ["grid", "old"]


def test_another_component_takes_nothing_of_the_parents(tmp_path: Path) -> None:
    write(tmp_path, parent=PARENT, child="extends: parent.yaml\nbase: {objective: ct}")
    assert load_space(tmp_path / "child.yaml").base["objective"] == "ct"


def test_a_plan_of_another_kind_replaces_the_parents_and_an_empty_key_takes_it_back(tmp_path: Path) -> None:
    child = "extends: parent.yaml\nplans:\n  grid: {kind: list, arms: {x: {objective: ct}}}\n  old:\n"
    write(tmp_path, parent=PARENT, child=child)
    space = load_space(tmp_path / "child.yaml")
    assert {name: plan.kind for name, plan in space.plans.items()} == {"grid": "list"}


def test_of_several_parents_the_last_one_wins_and_grandparents_count(tmp_path: Path) -> None:
    write(
        tmp_path,
        parent=PARENT,
        a="extends: parent.yaml\nbase: {train.steps: 60}",
        b="base: {train.lr: 0.5, train.steps: 61}",
        child="extends: [a.yaml, b.yaml]\nbase: {train.lr: 0.25}",
    )
    assert load_space(tmp_path / "child.yaml").base["train"] == {"steps": 61, "batch_size": 32, "lr": 0.25}


def test_a_mistake_in_a_parent_is_placed_in_the_parent(tmp_path: Path) -> None:
    write(tmp_path, parent=PARENT.replace("steps: 50", "stepz: 50"), child="extends: parent.yaml\nbase: {train.lr: -1}")
    with pytest.raises(SpaceError) as caught:
        expand(load_space(tmp_path / "child.yaml"))
    places = [line.removeprefix(str(tmp_path)).split(": ")[0] for line in caught.value.problems]
    assert places == ["/child.yaml:2:18", "/parent.yaml:5:11"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"child": "extends: no.yaml"}, r"child.yaml:1:10: extends: no such file: .*no.yaml"),
        (
            {"child": "extends: child.yaml"},
            r"child.yaml:1:10: extends: a file cannot extend itself \(child.yaml -> child.yaml\)",
        ),
        (
            {"child": "extends: [a.yaml]", "a": "extends: child.yaml"},
            r"a.yaml:1:10: extends: a file cannot extend itself",
        ),
        ({"child": "extends: {a: b}"}, r"child.yaml:1:10: extends: a file, or a list of files"),
        ({"child": "extends: a.yaml", "a": "- 1"}, r"a.yaml:1:1: the top level of a space is a mapping"),
    ],
)
def test_a_wrong_parent_is_one_line(tmp_path: Path, files: dict[str, str], message: str) -> None:
    write(tmp_path, **files)
    with pytest.raises(SpaceError, match=message):
        load_space(tmp_path / "child.yaml")


def test_text_cannot_extend_a_file() -> None:
    with pytest.raises(SpaceError, match="<space>:1:1: extends: needs a file"):
        space_from_text("extends: a.yaml\nbase: {objective: fm}")


def test_the_text_of_a_space_is_kept_and_that_of_a_child_is_the_whole(tmp_path: Path) -> None:
    write(tmp_path, parent=PARENT, child="extends: parent.yaml\nbase: {train.steps: 70}")
    assert expand(load_space(tmp_path / "parent.yaml")).space_yaml == PARENT
    whole = expand(load_space(tmp_path / "child.yaml"))
    again = expand(space_from_text(whole.space_yaml.replace("extends: parent.yaml\n", "")))
    assert [t.key for t in again.trials] == [t.key for t in whole.trials]


def test_a_built_in_space_is_found_by_its_name_but_a_file_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert {"objectives", "schedules", "esc", "smoke"} <= set(builtin_names())
    assert find_space("objectives").name == "objectives.yaml"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "objectives").write_text("base: {objective: fm}")
    assert find_space("objectives") == Path("objectives")
    (tmp_path / "esc").mkdir()  # a folder of results does not hide the space
    assert find_space("esc").name == "esc.yaml"
