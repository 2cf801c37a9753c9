"""What a slot writes down for an attempt whose process ended without a word."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ablate.launch import runners
from ablate.launch.attempt import Context, Outcome, Task
from ablate.launch.queue import Queue
from ablate.launch.runners import ActorRunner, ProcessRunner, SlotSettings
from ablate.launch.slots import Slot
from ablate.store import Journal, StorePaths, read_events

KEY = "0123456789abcdef"


class Ended:
    """A fork server that says how its one attempt ended."""

    def __init__(self, code: int | None, signal: str | None, *before: dict[str, Any]) -> None:
        self.exited = {"code": code, "signal": signal, "cpu_seconds": 1.0, "peak_mem_mb": 2.0}
        self.before = before

    def poll(self, timeout: float) -> list[dict[str, Any]]:
        return [*self.before, {"exited": self.exited}]


def runner(folder: Path, server: Ended, keys: Sequence[str] = (KEY,)) -> ProcessRunner:
    """A runner in the middle of its work, without the processes around it."""
    made = ProcessRunner.__new__(ProcessRunner)
    made.settings = SlotSettings(Context(str(folder), gpus=0.5), "process", "", 1.0, 1.0, ())
    made.paths = StorePaths(folder)
    made.journal = Journal(made.paths, "worker")
    made.server = server  # type: ignore[assignment]
    made.open = {key: Task(key, "eval-key", {}, "train", "arm", 0, 10) for key in keys}
    made.last = {keys[0]: {"attempt": "uid-of-its-start", "step": 7}}
    made.packed, made.killed = len(keys), False
    made.started = time.monotonic() - 8
    return made


def ended(folder: Path) -> list[dict[str, Any]]:
    return [e for e in read_events(StorePaths(folder)) if e["kind"] == "attempt_ended"]


@pytest.mark.parametrize(("code", "signal", "error"), [(9, None, "exit 9"), (None, "SIGSEGV", "SIGSEGV")])
def test_a_crash_of_the_attempt_is_written_down_for_it(tmp_path: Path, code: Any, signal: Any, error: str) -> None:
    message, free = runner(tmp_path, Ended(code, signal)).poll(0)
    assert (message["outcome"]["status"], message["outcome"]["error_type"]) == ("failed", error)
    assert (message["outcome"]["task"], free) == (KEY, {"free": True})
    (end,) = ended(tmp_path)
    assert (end["status"], end["error_type"], end["step"]) == ("failed", error, 7)


def test_a_worker_that_cannot_write_down_what_it_does_says_so_and_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as on a full disk: the slot waited for ever."""

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(runners, "run_work", full)
    made = ActorRunner(SlotSettings(Context(str(tmp_path)), "actor", "", 1.0, 1.0, ()))
    made.start([Task(key, "eval-key", {}) for key in (KEY, KEY[::-1])])
    found: list[dict[str, Any]] = []
    deadline = time.monotonic() + 10
    while not (found and "free" in found[-1]) and time.monotonic() < deadline:
        found += made.poll(0.1)
    made.close()
    *outcomes, free = found
    assert free == {"free": True}
    assert [(m["outcome"]["task"], m["outcome"]["status"]) for m in outcomes] == [
        (KEY, "failed"),
        (KEY[::-1], "failed"),
    ]
    assert "No space left" in outcomes[0]["outcome"]["error_head"]


def test_a_crash_of_a_pack_is_written_down_for_each_of_its_open_members(tmp_path: Path) -> None:
    """The second had not begun when it died; the third had ended before."""
    server = Ended(None, "SIGSEGV", {"report": {"outcome": {"task": "third", "status": "done"}}})
    made = runner(tmp_path, server, (KEY, "second", "third"))
    messages = [*made.poll(0)]
    outcomes = [message["outcome"] for message in messages if "outcome" in message]
    assert [outcome["task"] for outcome in outcomes] == ["third", KEY, "second"]
    assert {(o["packed"], o["cause"], o["error_type"]) for o in outcomes[1:]} == {(3, "crash", "SIGSEGV")}
    ends = ended(tmp_path)
    assert [(end["trial_id"], end["status"]) for end in ends] == [(KEY, "lost"), ("second", "lost")]
    assert ends[0]["attempt"] == "uid-of-its-start"
    (start,) = [e for e in read_events(StorePaths(tmp_path)) if e["kind"] == "attempt_started"]
    assert (start["trial_id"], start["packed"], ends[1]["attempt"]) == ("second", 3, start["uid"])
    for end in ends:  # each its part of what the process cost
        assert end["cpu_seconds"] == pytest.approx(1 / 3)
        assert end["gpu_seconds"] == pytest.approx(end["wall_seconds"] * 0.5 / 3)


def test_the_end_of_the_forking_process_is_not_blamed_on_the_trial(tmp_path: Path) -> None:
    """It looks so when the driver was killed: a trial that is written down as failed would never be resumed."""
    message, _ = runner(tmp_path, Ended(None, None)).poll(0)
    assert (message["outcome"]["status"], message["outcome"]["error_type"]) == ("failed", "WorkerDied")
    assert ended(tmp_path) == []


class Scripted:
    """A runner whose work ends as told, at once."""

    def __init__(self, statuses: dict[str, str]) -> None:
        self.statuses, self.started, self.stops = statuses, list[str](), 0

    def start(self, work: Sequence[Task]) -> None:
        self.work = work
        self.started.append("+".join(task.id for task in work))

    def poll(self, timeout: float) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for task in self.work:
            status: Any = self.statuses.get(task.id, "done")
            found.append({"progress": {"key": task.key, "task": task.id, "attempt": "uid", "step": 1}})
            found.append({"outcome": {**Outcome(task.key, status).to_dict(), "task": task.id}})
        return [*found, {"free": True}]

    def stop(self) -> None:
        self.stops += 1

    def kill(self) -> None: ...

    def close(self) -> None: ...


class Endless(Scripted):
    """A runner whose work goes on until it is asked to stop."""

    def poll(self, timeout: float) -> list[dict[str, Any]]:
        if self.stops:
            self.statuses = {task.id: "interrupted" for task in self.work}
            return super().poll(timeout)
        time.sleep(0.01)
        return [{"progress": {"key": task.key, "task": task.id, "attempt": "uid", "step": 1}} for task in self.work]


WORKS = [
    [Task("a", "e", {}, "train")], [Task("a", "e2", {}, "eval")], [Task("a", "e4", {}, "eval")],
    [Task("b", "f", {}, "train"), Task("c", "g", {}, "train")],
]  # fmt: skip


def slot(folder: Path, runner: Scripted, works: list[list[Task]] = WORKS) -> Slot:
    """A slot with a scripted runner and a queue at hand, without Ray."""
    tasks = [task for work in works for task in work]
    places = iter(range(len(tasks)))
    queue = Queue([task.to_dict() for task in tasks], [[next(places) for _ in work] for work in works], {}, 0)
    settings = SlotSettings(Context(str(folder)), "process", str(folder / "stop"), 1.0, 0.2, ())
    return Slot("one", settings, queue, runner)


def work_through(made: Slot) -> list[tuple[str, str]]:
    for _ in range(20):
        if made.step():
            return [(outcome["task"], outcome["status"]) for outcome in news(made)["ended"]]
    raise AssertionError("the slot does not end")


def news(made: Slot) -> dict[str, Any]:
    assert isinstance(made.desk, Queue)
    return made.desk.news()


def test_a_slot_trains_a_network_then_measures_it_then_trains_a_pack(tmp_path: Path) -> None:
    runner = Scripted({})
    ended = work_through(slot(tmp_path, runner))
    assert runner.started == ["a", "a-e2", "a-e4", "b+c"]
    assert ended == [(name, "done") for name in ("a", "a-e2", "a-e4", "b", "c")]


@pytest.mark.parametrize("status", ["failed", "diverged"])
def test_a_network_that_is_not_trained_to_its_end_is_not_measured(tmp_path: Path, status: str) -> None:
    runner = Scripted({"a": status})
    assert work_through(slot(tmp_path, runner)) == [("a", status), ("b", "done"), ("c", "done")]
    assert runner.started == ["a", "b+c"]


def test_an_evaluation_that_fails_keeps_the_others(tmp_path: Path) -> None:
    ended = work_through(slot(tmp_path, Scripted({"a-e2": "failed"}), WORKS[:3]))
    assert ended == [("a", "done"), ("a-e2", "failed"), ("a-e4", "done")]


def test_a_step_reports_the_progress_of_what_goes_on_and_a_stop_ends_it(tmp_path: Path) -> None:
    runner = Endless({})
    made = slot(tmp_path, runner, WORKS[3:])
    assert not made.step()
    assert [report["task"] for report in news(made)["progress"]] == ["b", "c"]
    assert runner.stops == 0
    (tmp_path / "stop").write_text("drain")
    assert not made.step()
    assert runner.stops == 0  # what runs is let end
    (tmp_path / "stop").write_text("stop")
    assert work_through(made) == [("b", "interrupted"), ("c", "interrupted")]
    assert runner.stops == 1


def test_a_slot_takes_nothing_new_after_a_stop(tmp_path: Path) -> None:
    (tmp_path / "stop").write_text("drain")
    runner = Scripted({})
    assert work_through(slot(tmp_path, runner)) == []
    assert runner.started == []


class Handing:
    """A desk that hands out a handful, once."""

    def __init__(self, *names: str) -> None:
        self.works = [[Task(name, "e", {}).to_dict()] for name in names]
        self.asked: list[tuple[list[str], bool, bool]] = []

    def exchange(self, slot: str, ended: Any, progress: Any, wants: bool, stopping: bool) -> dict[str, Any]:
        self.asked.append(([outcome["task"] for outcome in ended], wants, stopping))
        works, self.works = self.works if not stopping else [], []
        return {"works": works, "over": not works}


def test_a_slot_works_through_a_handful_before_it_asks_again(tmp_path: Path) -> None:
    made = slot(tmp_path, runner := Scripted({}))
    made.desk = desk = Handing("a", "b", "c")
    assert made.step()
    assert runner.started == ["a", "b", "c"]
    assert desk.asked == [([], True, False), (["a", "b", "c"], True, False)]


def test_a_slot_leaves_the_rest_of_a_handful_after_a_stop(tmp_path: Path) -> None:
    made = slot(tmp_path, runner := Endless({}))
    made.desk = desk = Handing("a", "b", "c")
    assert not made.step()
    (tmp_path / "stop").write_text("stop")
    assert made.step()
    assert runner.started == ["a"]
    assert desk.asked[-1] == (["a"], True, True)


def test_a_slot_that_is_ended_asks_what_it_runs_for_a_checkpoint(tmp_path: Path) -> None:
    runner = Endless({})
    made = slot(tmp_path, runner, WORKS[3:])
    made.step()
    made.close()
    assert runner.stops == 1
