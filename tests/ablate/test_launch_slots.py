"""What a slot writes down for an attempt whose process ended without a word."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from ablate.launch.attempt import Context, Outcome, Task
from ablate.launch.slots import ProcessRunner, SlotSettings, TrialSlot
from ablate.store import Journal, StorePaths, read_events

KEY = "0123456789abcdef"


class Ended:
    """A fork server that says how its one attempt ended."""

    def __init__(self, code: int | None, signal: str | None) -> None:
        self.exited = {"code": code, "signal": signal, "cpu_seconds": 1.0, "peak_mem_mb": 2.0}

    def poll(self, timeout: float) -> list[dict[str, Any]]:
        return [{"exited": self.exited}]


def runner(folder: Path, server: Ended) -> ProcessRunner:
    """A runner in the middle of an attempt, without the processes around it."""
    made = ProcessRunner.__new__(ProcessRunner)
    made.settings = SlotSettings(Context(str(folder)), "process", "", 1.0, 1.0, {}, ())
    made.paths = StorePaths(folder)
    made.journal = Journal(made.paths, "worker")
    made.server = server  # type: ignore[assignment]
    made.task = Task(KEY, "eval-key", {}, "train", "arm", 0, 10)
    made.last, made.outcome, made.killed = {"attempt": "uid-of-its-start", "step": 7}, None, False
    made.started = time.monotonic()
    return made


@pytest.mark.parametrize(("code", "signal", "error"), [(9, None, "exit 9"), (None, "SIGSEGV", "SIGSEGV")])
def test_a_crash_of_the_attempt_is_written_down_for_it(tmp_path: Path, code: Any, signal: Any, error: str) -> None:
    (message,) = runner(tmp_path, Ended(code, signal)).poll(0)
    assert (message["outcome"].status, message["outcome"].error_type) == ("failed", error)
    (ended,) = [e for e in read_events(StorePaths(tmp_path)) if e["kind"] == "attempt_ended"]
    assert (ended["status"], ended["error_type"], ended["step"]) == ("failed", error, 7)


def test_the_end_of_the_forking_process_is_not_blamed_on_the_trial(tmp_path: Path) -> None:
    """It looks so when the driver was killed: a trial that is written down as failed would never be resumed."""
    (message,) = runner(tmp_path, Ended(None, None)).poll(0)
    assert (message["outcome"].status, message["outcome"].error_type) == ("failed", "WorkerDied")
    assert [e for e in read_events(StorePaths(tmp_path)) if e["kind"] == "attempt_ended"] == []


class Scripted:
    """A runner whose attempts end as told, at once."""

    def __init__(self, statuses: dict[str, str]) -> None:
        self.statuses, self.started = statuses, list[str]()

    def start(self, task: Task) -> None:
        self.started.append(task.id)

    def poll(self, timeout: float) -> list[dict[str, Any]]:
        name = self.started[-1]
        key = name.partition("-")[0]
        outcome = Outcome(key, self.statuses.get(name, "done"))  # type: ignore[arg-type]
        return [{"progress": {"key": key, "attempt": "uid", "step": 1}}, {"outcome": outcome}]


def slot(folder: Path, tasks: list[Task], statuses: dict[str, str]) -> TrialSlot:
    """A slot with a scripted runner, without Ray."""
    made = TrialSlot.__new__(TrialSlot)
    made.settings = SlotSettings(Context(str(folder)), "process", str(folder / "stop"), 1.0, 5.0, {}, ())
    made.tasks = [task.to_dict() for task in tasks]
    made.runner = Scripted(statuses)  # type: ignore[assignment]
    made.reset_config({"chunk": list(range(len(tasks)))})
    return made


def work_through(made: TrialSlot) -> list[dict[str, Any]]:
    ended: list[dict[str, Any]] = []
    for _ in range(20):
        found = made.step()
        ended += found["ended"]
        if found["done"]:
            return ended
    raise AssertionError("the slot does not end")


CHUNK = [
    Task("a", "e", {}, "train"), Task("a", "e2", {}, "eval"), Task("a", "e4", {}, "eval"), Task("b", "f", {}, "train"),
]  # fmt: skip


def test_a_slot_trains_a_network_and_then_measures_it(tmp_path: Path) -> None:
    made = slot(tmp_path, CHUNK, {})
    ended = work_through(made)
    assert made.runner.started == ["a", "a-e2", "a-e4", "b"]  # type: ignore[attr-defined]
    assert [outcome["task"] for outcome in ended] == ["a", "a-e2", "a-e4", "b"]
    assert [outcome["key"] for outcome in ended] == ["a", "a", "a", "b"]


@pytest.mark.parametrize("status", ["failed", "diverged"])
def test_a_network_that_is_not_trained_to_its_end_is_not_measured_by_any_worker(tmp_path: Path, status: str) -> None:
    made = slot(tmp_path, CHUNK, {"a": status})
    assert [outcome["task"] for outcome in work_through(made)] == ["a", "b"]
    again = slot(tmp_path, CHUNK, {})  # another worker, given the chunk after this one died
    assert work_through(again) == []
    assert again.runner.started == []  # type: ignore[attr-defined]


def test_an_evaluation_that_fails_keeps_the_others(tmp_path: Path) -> None:
    made = slot(tmp_path, CHUNK, {"a-e2": "failed"})
    assert [(o["task"], o["status"]) for o in work_through(made)] == [
        ("a", "done"), ("a-e2", "failed"), ("a-e4", "done"), ("b", "done"),
    ]  # fmt: skip


def test_progress_says_of_which_task_it_is(tmp_path: Path) -> None:
    made = slot(tmp_path, CHUNK[1:2], {})
    assert made.step()["progress"]["task"] == "a-e2"
