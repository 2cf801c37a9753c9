"""What is left to do of a plan."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from ablate.launch.agenda import agenda
from ablate.store.status import TrialState


class Config:
    train = SimpleNamespace(steps=100)

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def resolved(self) -> dict[str, Any]:
        return {"plain": True}


def plan(seeds: int = 2, arms: str = "ab", ways: tuple[str, ...] = ("",)) -> Any:
    """Arms of several trainings, each measured in every one of `ways`; the first way is the training's own."""
    made, trials, evaluations = [], [], []
    for arm in arms:
        for way in ways:
            names = {"id": arm + way, "label": f"arm {arm}{way}", "trained": arm, "trained_label": f"net {arm}"}
            made.append(SimpleNamespace(**names))
        for seed in range(seeds):
            key, config = f"{arm}{seed}", Config(seed)
            own = f"e-{key}{ways[0]}"
            trials.append(SimpleNamespace(key=key, eval_key=own, arm_id=arm, seed=seed, config=config))
            for way in ways:
                keys = {"trial": key, "arm_id": arm + way, "eval_key": f"e-{key}{way}"}
                evaluations.append(SimpleNamespace(**keys, seed=seed, config=config))
    return SimpleNamespace(arms=made, baseline=made[0], trials=trials, evaluations=evaluations)


def states(**statuses: str) -> dict[str, TrialState]:
    return {key: TrialState(status) for key, status in statuses.items()}


def test_an_empty_store_means_everything_seed_by_seed() -> None:
    todo = agenda(plan(), {}, set())
    assert [task.key for task in todo.tasks] == ["a0", "b0", "a1", "b1"]
    assert {task.kind for task in todo.tasks} == {"train"}
    assert todo.tasks[0].label == "net a"
    assert todo.tasks[0].steps == 100


def test_what_is_finished_is_skipped_and_what_was_interrupted_goes_on() -> None:
    known = states(a0="done", b0="diverged", a1="interrupted", b1="lost")
    todo = agenda(plan(), known, {("a0", "e-a0")})
    assert todo.skipped == ("a0", "b0")
    assert [(task.key, task.kind) for task in todo.tasks] == [("a1", "train"), ("b1", "train")]


def test_a_trained_trial_without_its_numbers_is_only_evaluated() -> None:
    todo = agenda(plan(), states(a0="done", b0="done"), {("a0", "another eval"), ("b0", "e-b0")})
    assert [(task.key, task.kind) for task in todo.tasks if task.seed == 0] == [("a0", "eval")]


@pytest.mark.parametrize(
    ("retry", "again"),
    [
        (None, set()),
        ("failed", {"a0", "b0", "a1"}),
        ("all", {"a0", "b0", "a1"}),
        ("oom", {"a0"}),
        ("crash", {"b0"}),
    ],
)
def test_failed_trials_are_only_tried_again_on_request_and_by_cause(retry: Any, again: set[str]) -> None:
    known = {
        "a0": TrialState("failed", error_type="OutOfMemoryError"),
        "b0": TrialState("failed", error_type="SIGSEGV"),
        "a1": TrialState("failed", error_type="RuntimeError"),
        "b1": TrialState("done"),
    }
    todo = agenda(plan(), known, {("b1", "e-b1")}, retry)
    assert {task.key for task in todo.tasks} == again
    assert set(todo.failed) == {"a0", "b0", "a1"} - again


WAYS = ("", "/nfe 2", "/nfe 4")


def test_a_network_is_trained_once_and_then_measured_in_every_further_way() -> None:
    todo = agenda(plan(seeds=1, ways=WAYS), {}, set())
    assert [(task.key, task.kind, task.eval_key) for task in todo.tasks[:3]] == [
        ("a0", "train", "e-a0"), ("a0", "eval", "e-a0/nfe 2"), ("a0", "eval", "e-a0/nfe 4"),
    ]  # fmt: skip
    assert [task.label for task in todo.tasks[:3]] == ["net a", "arm a/nfe 2", "arm a/nfe 4"]
    assert len({task.id for task in todo.tasks}) == len(todo.tasks) == 6


def test_a_way_of_measuring_that_is_added_later_trains_nothing() -> None:
    known = {("a0", "e-a0"), ("b0", "e-b0"), ("a0", "e-a0/nfe 2"), ("b0", "e-b0/nfe 2")}
    done = states(a0="done", b0="done")
    todo = agenda(plan(seeds=1, ways=WAYS), done, known)
    assert [(task.key, task.kind, task.label) for task in todo.tasks] == [
        ("a0", "eval", "arm a/nfe 4"), ("b0", "eval", "arm b/nfe 4"),
    ]  # fmt: skip
    assert todo.skipped == ("a0", "a0", "b0", "b0")
    assert agenda(plan(seeds=1, ways=WAYS[:2]), done, known).tasks == ()


def test_a_network_that_diverged_or_failed_is_measured_in_no_way() -> None:
    todo = agenda(plan(seeds=1, ways=WAYS), states(a0="diverged", b0="failed"), set())
    assert (todo.tasks, todo.skipped, todo.failed) == ((), ("a0",) * 3, ("b0",))
