"""The driver's decisions, told by hand what Ray Tune would tell it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ablate.errors import ExitCode
from ablate.launch.agenda import Agenda
from ablate.launch.attempt import Outcome, Task
from ablate.launch.driver import Driver, Job
from ablate.launch.options import RunOptions
from ablate.launch.view import RunState
from ablate.store import Journal, StorePaths, read_events


class Quiet:
    def __init__(self) -> None:
        self.messages: list[str] = []
        self.ends: list[dict[str, Any]] = []

    def start(self, state: RunState) -> None: ...

    def update(self, state: RunState) -> None: ...

    def ended(self, state: RunState, trial: Any, outcome: dict[str, Any]) -> None:
        self.ends.append(outcome)

    def message(self, text: str) -> None:
        self.messages.append(text)

    def finish(self, summary: Any) -> None: ...


class NoIndex:
    def ingest(self) -> int:
        return 0

    def publish_snapshot(self) -> bool:
        return True


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(StorePaths(tmp_path), "test") as opened:
        yield opened


def driver(
    journal: Journal,
    trials: int = 4,
    budget: dict[str, Any] | None = None,
    failed: tuple[str, ...] = (),
    evaluations: int = 0,
    **options: Any,
) -> Driver:
    """A driver of `trials` trainings, each followed by some further evaluations of its network."""
    tasks: list[Task] = []
    for i in range(trials):
        tasks.append(Task(f"key{i}", f"eval{i}", {}, label="arm", seed=i, steps=100))
        tasks += [Task(f"key{i}", f"eval{i}-{n}", {}, "eval", "arm", i, 100) for n in range(evaluations)]
    job = Job("toy", Agenda(tuple(tasks), (), failed), len(tasks), trials, budget=budget or {})
    index: Any = NoIndex()
    made = Driver(job, journal.paths, RunOptions(report_seconds=0, **options), Quiet(), index, journal)
    made.state.slots, made.state.cpus_per_trial, made.state.gpus_per_trial = 2, 1.0, 0.5
    made.stop_file.parent.mkdir(parents=True, exist_ok=True)
    return made


def news(**found: Any) -> dict[str, Any]:
    return {"started": [], "progress": [], "ended": [], "retried": [], "lost": [], "held": 0, **found}


def progress(key: str, step: int, held: int = 1) -> dict[str, Any]:
    report = {"key": key, "attempt": f"uid-{key}", "phase": "train", "step": step, "steps": 100, "task": key}
    return news(progress=[report], held=held)


def end(key: str, status: Any = "done", seconds: float = 1.0, task: str = "", **fields: Any) -> dict[str, Any]:
    outcome = Outcome(key, status, step=100, wall_seconds=seconds, **fields)
    return news(ended=[{**outcome.to_dict(), "task": task or key}])


def test_every_trial_is_in_exactly_one_count(journal: Journal) -> None:
    made = driver(journal, trials=5)
    made.report(progress("key0", 10))
    assert (made.state.waiting, len(made.state.running), made.state.steps_waiting) == (4, 1, 400)
    for key, status in (("key0", "done"), ("key1", "diverged"), ("key2", "failed"), ("key3", "interrupted")):
        made.report(end(key, status))
    summary = made.summary()
    counts = (summary.done, summary.diverged, summary.failed, summary.interrupted, summary.waiting)
    assert counts == (1, 1, 1, 1, 1)
    assert not made.state.running


def test_a_late_report_of_an_ended_trial_does_not_bring_it_back(journal: Journal) -> None:
    made = driver(journal)
    made.report(end("key0"))
    made.report(progress("key0", 50))
    made.report(end("key0"))
    assert not made.state.running
    assert (made.state.done, made.state.waiting) == (1, 3)


def test_exit_codes_follow_from_what_happened(journal: Journal) -> None:
    made = driver(journal, trials=1)
    made.report(end("key0"))
    assert made.summary().exit_code is ExitCode.COMPLETE
    assert made.summary().reason == ""
    failed = driver(journal, trials=1)
    failed.report(end("key0", "failed", cause="error"))
    assert failed.summary().exit_code is ExitCode.FAILED_TRIALS
    preempted = driver(journal, trials=1)
    preempted.report(end("key0", "interrupted"))
    assert preempted.summary().exit_code is ExitCode.PREEMPTED


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_preemption_stops_cleanly_with_its_own_exit_code(journal: Journal, number: signal.Signals) -> None:
    made = driver(journal)
    before = signal.getsignal(number)
    with made._signals():
        os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before
    assert made.stop_file.read_text() == "stop"
    summary = made.summary()
    assert summary.exit_code is ExitCode.PREEMPTED
    assert number.name in summary.reason


def test_the_second_ctrl_c_kills(journal: Journal) -> None:
    made = driver(journal)
    reached = []
    with made._signals():
        os.kill(os.getpid(), signal.SIGINT)
        reached.append(1)
        os.kill(os.getpid(), signal.SIGINT)
        reached.append(2)
    assert reached == [1]
    assert made.summary().exit_code is ExitCode.INTERRUPTED
    assert made.summary().reason.startswith("killed")


def test_a_stop_that_came_after_the_last_trial_changes_nothing(journal: Journal) -> None:
    made = driver(journal, trials=1)
    made.report(end("key0"))
    made.stop(ExitCode.INTERRUPTED, "late")
    assert made.summary().exit_code is ExitCode.COMPLETE


def test_a_run_is_over_when_what_was_running_at_the_stop_has_ended(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = driver(journal, stop_grace=10)
    made.report(progress("key0", 10))
    assert not made.over()
    made.stop(ExitCode.LIMIT, "time")
    assert not made.over()
    made.stopped_at -= 1  # slots have had the time to see it
    assert not made.over()
    made.report(end("key0", "interrupted"))
    assert made.over()
    hanging = driver(journal, stop_grace=10)
    hanging.report(progress("key0", 10))
    hanging.stop(ExitCode.LIMIT, "time")
    hanging.stopped_at -= 41
    assert hanging.over()


def test_the_time_limit_stops_the_run_with_its_exit_code(journal: Journal) -> None:
    made = driver(journal, time_limit=5)
    made.tick()
    assert made.stop_code is None
    made.state.started -= 6
    made.tick()
    assert made.summary().exit_code is ExitCode.LIMIT
    assert "5 s" in made.summary().reason


def test_a_used_up_budget_lets_running_trials_end_unless_it_says_stop(journal: Journal) -> None:
    made = driver(journal, budget={"gpu_hours": 1.0, "on_exhausted": "finish_running"})
    made.report(end("key0", seconds=7100.0))  # half a GPU each
    made.tick()
    assert made.stop_code is None
    made.report(end("key1", seconds=200.0))
    made.tick()
    assert made.stop_file.read_text() == "drain"
    assert made.summary().exit_code is ExitCode.LIMIT
    strict = driver(journal, budget={"cpu_hours": 0.01, "on_exhausted": "stop"})
    strict.report(end("key0", seconds=40.0))
    strict.tick()
    assert strict.stop_file.read_text() == "stop"


def test_a_budget_is_used_by_what_runs_and_by_what_is_tried_again(journal: Journal) -> None:
    made = driver(journal, budget={"cpu_hours": 0.02, "on_exhausted": "stop"})
    made.report(progress("key0", 1))
    made.state.running["key0"].started -= 40
    made.tick()
    assert made.stop_code is None
    failed = end("key0", "failed", seconds=40.0)["ended"]
    made.report(news(retried=failed, held=1))
    made.tick()
    assert made.stop_code is None, "its seconds count once"
    made.state.running["key0"].started -= 40
    made.tick()
    assert made.stop_code is ExitCode.LIMIT
    assert made.stop_file.read_text() == "stop"


@pytest.mark.parametrize("reason", ["limit", "signal"])
def test_a_run_that_lets_trials_end_still_heeds_its_limit_and_preemption(journal: Journal, reason: str) -> None:
    made = driver(journal, budget={"cpu_hours": 0.001}, time_limit=60.0)
    made.report(end("key0", seconds=40.0))
    made.report(progress("key1", 1))
    made.tick()
    assert made.stop_file.read_text() == "drain"
    if reason == "limit":
        made.state.started -= 100
        made.tick()
    else:
        made._preempted(signal.SIGTERM, None)
    assert made.stop_file.read_text() == "stop"
    assert made.summary().exit_code is (ExitCode.LIMIT if reason == "limit" else ExitCode.PREEMPTED)


def test_more_failures_than_allowed_stop_the_run(journal: Journal) -> None:
    made = driver(journal, max_failures=1)
    made.report(end("key0", "failed"))
    assert made.stop_code is None
    made.report(end("key1", "failed"))
    assert made.stop_code is ExitCode.TOO_MANY_FAILURES


def test_a_trial_whose_workers_died_too_often_is_lost_and_counts_as_failed(journal: Journal) -> None:
    made = driver(journal)
    made.report(end("key0"))
    made.report(progress("key1", 30))
    made.report(news(lost=[{"task": name, "error": "the node is gone"} for name in ("key0", "key1", "key2")]))
    assert (made.state.done, made.state.failed, made.state.waiting) == (1, 2, 1)
    (lost,) = [e for e in read_events(journal.paths) if e["kind"] == "attempt_ended"]
    assert (lost["status"], lost["attempt"], lost["error_head"]) == ("lost", "uid-key1", "the node is gone")


def test_members_of_a_pack_share_what_their_slot_costs(journal: Journal) -> None:
    made = driver(journal)
    made.report(news(started=[{"task": f"key{n}", "packed": 4} for n in range(4)]))
    assert [running.packed for running in made.state.running.values()] == [4] * 4
    for n in range(4):
        made.state.running[f"key{n}"].started -= 100
        made.report(progress(f"key{n}", 0))
        made.report(progress(f"key{n}", 50))
    assert made.state.eta == pytest.approx(100, rel=0.01)  # half of it took 100 s; one slot of two does all of it
    for n in range(4):
        made.report(end(f"key{n}", seconds=200.0, packed=4))
    assert made.state.slot_seconds == pytest.approx(200)


def test_a_run_is_over_as_soon_as_everything_is_accounted_for(journal: Journal) -> None:
    made = driver(journal, trials=2)
    made.report(end("key0"))
    assert not made.over()
    made.report(end("key1", "failed"))
    assert made.over()


@pytest.mark.parametrize("status", ["failed", "diverged"])
def test_a_network_that_does_not_exist_is_not_waited_for(journal: Journal, status: str) -> None:
    made = driver(journal, trials=2, evaluations=2)
    assert (made.state.waiting, made.state.evaluations, made.state.steps_waiting) == (6, 4, 200)
    made.report(end("key0", status))
    assert (made.state.waiting, made.state.evaluations, made.state.dropped) == (3, 2, 2)
    made.report(end("key1"))
    for n in range(2):
        made.report(end("key1", task=f"key1-eval1-{n}"))
    summary = made.summary()
    assert (summary.done, getattr(summary, status), summary.dropped, summary.waiting) == (3, 1, 2, 0)
    assert summary.exit_code is (ExitCode.FAILED_TRIALS if status == "failed" else ExitCode.COMPLETE)
    assert "2 not evaluated" in summary.line()


def test_evaluations_of_an_interrupted_training_wait_for_the_next_run(journal: Journal) -> None:
    made = driver(journal, trials=1, evaluations=2)
    made.report(end("key0", "interrupted"))
    summary = made.summary()
    assert (summary.interrupted, summary.dropped, summary.waiting) == (1, 0, 2)


def test_failures_of_an_earlier_run_are_named(journal: Journal) -> None:
    assert driver(journal, trials=0, failed=("old",)).summary().reason == (
        "1 failed in an earlier run, try them again with --retry failed"
    )
