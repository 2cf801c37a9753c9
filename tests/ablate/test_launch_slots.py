"""What a slot writes down for an attempt whose process ended without a word."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from ablate.launch.attempt import Context, Task
from ablate.launch.slots import ProcessRunner, SlotSettings
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
