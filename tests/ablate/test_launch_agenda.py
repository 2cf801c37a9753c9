"""What is left to do of a plan."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from ablate.launch.agenda import agenda, chunks
from ablate.launch.attempt import Task
from ablate.launch.options import Placement, RunOptions
from ablate.store.status import TrialState


class Config:
    train = SimpleNamespace(steps=100)

    def resolved(self) -> dict[str, Any]:
        return {"plain": True}


def plan(seeds: int = 2, arms: str = "ab") -> Any:
    made = [SimpleNamespace(id=arm, label=f"arm {arm}") for arm in arms]
    trials = [
        SimpleNamespace(key=f"{arm}{seed}", eval_key=f"e-{arm}{seed}", arm_id=arm, seed=seed, config=Config())
        for arm in arms
        for seed in range(seeds)
    ]
    return SimpleNamespace(arms=made, baseline=made[0], trials=trials)


def states(**statuses: str) -> dict[str, TrialState]:
    return {key: TrialState(status) for key, status in statuses.items()}


def test_an_empty_store_means_everything_seed_by_seed() -> None:
    todo = agenda(plan(), {}, set())
    assert [task.key for task in todo.tasks] == ["a0", "b0", "a1", "b1"]
    assert {task.kind for task in todo.tasks} == {"train"}
    assert todo.tasks[0].label == "arm a"
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


def test_short_trials_are_chunked_and_long_ones_are_not() -> None:
    def tasks(count: int, steps: int) -> list[Task]:
        return [Task(str(i), "", {}, steps=steps) for i in range(count)]

    two = Placement(1, 0, 2)
    assert chunks(tasks(24, 100), two, RunOptions()) == [[i] for i in range(24)]
    assert max(map(len, chunks(tasks(1000, 100), two, RunOptions()))) == 8
    assert max(map(len, chunks(tasks(1000, 10_000), two, RunOptions()))) == 1
    assert chunks(tasks(5, 10_000), two, RunOptions(chunk=2)) == [[0, 1], [2, 3], [4]]
