"""What a person or a program sees of a run."""

from __future__ import annotations

import io
import json
import math
import os
import time
from typing import Any

import pytest

from ablate.errors import ExitCode
from ablate.launch.options import RunSummary
from ablate.launch.view import JsonView, LiveView, PlainView, Running, RunState, choose_view, duration, opening

OUTCOME = {
    "key": "k", "status": "failed", "step": 3, "wall_seconds": 61.0, "reason": "", "error_type": "SIGSEGV",
    "error_head": "killed",
}  # fmt: skip


def state() -> RunState:
    made = RunState("toy", trials=10, skipped=2, slots=2, cpus_per_trial=1, waiting=5, steps_waiting=500, done=1)
    running = Running("k", "arm \x5bbold]", 0, 100)
    running.started -= 10
    running.advance(0, "train")
    running._first = (time.monotonic() - 10, 0)
    running.advance(50, "train")
    made.running["k"] = running
    return made


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0s"), (59.6, "1m00s"), (200, "3m20s"), (18420, "5h07m"), (183600, "2d03h"), (math.nan, "?")],
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_time_left_follows_from_the_seconds_a_step_has_cost() -> None:
    made = state()
    assert made.rate == pytest.approx(5, rel=0.05)
    assert made.running["k"].eta == pytest.approx(10, rel=0.05)
    assert made.eta == pytest.approx((50 + 500) * 0.2 / 2, rel=0.05)  # 0.2 s a step, two slots
    assert math.isnan(RunState("new", 1, 0, slots=2).eta)


def test_a_resumed_trial_is_not_credited_with_the_steps_of_its_checkpoint() -> None:
    running = Running("k", "arm", 0, 100)
    running.advance(90, "train")
    running._first = (time.monotonic() - 1, 90)
    running.advance(95, "train")
    assert running.rate == pytest.approx(5, rel=0.1)
    running.advance(40, "train")  # tried again from an older checkpoint
    assert running.first_step == 40


def test_plain_lines_say_counts_now_and_then_and_every_end() -> None:
    stream = io.StringIO()
    view = PlainView(stream, every=0)
    view.start(state())
    view.update(state())
    view.ended(state(), Running("k", "arm", 1, 100), OUTCOME)
    view.every = 60
    view.update(state())
    view.finish(RunSummary(done=1, wall_seconds=3))
    lines = stream.getvalue().splitlines()
    assert lines[0] == "toy: 5 trials to run, 2 at once (1 CPU each)"
    one = RunState("toy", trials=2, skipped=0, slots=2, cpus_per_trial=1, waiting=2, evaluations=1)
    assert opening(one) == "toy: 1 trial to run and 1 evaluation to make, 2 at once (1 CPU each)"
    assert lines[1].startswith("3 of 10 done, 1 running, 5 waiting; 5 steps/s")
    assert lines[2] == "failed      arm seed 1 in 1m01s: SIGSEGV: killed"
    assert lines[3] == "1 done in 3 s"
    assert len(lines) == 4


@pytest.mark.parametrize("kind", [PlainView, JsonView])
def test_a_run_goes_on_when_the_reader_of_its_lines_goes_away(kind: Any) -> None:
    """``ablate run --json | head -2``."""
    read, write = os.pipe()
    os.close(read)
    with open(write, "w") as stream:
        view = kind(stream, every=0)
        view.start(state())
        view.ended(state(), Running("k", "arm", 1, 100), OUTCOME)
        view.finish(RunSummary(done=1, wall_seconds=3))
        assert not view.read
        os.dup2(os.open(os.devnull, os.O_WRONLY), write)  # what is left in the buffer goes there


def test_json_lines_are_one_object_each_and_hold_no_nan() -> None:
    stream = io.StringIO()
    view = JsonView(stream, every=0)
    empty = RunState("toy", 1, 0)
    view.start(empty)
    view.update(empty)
    view.ended(empty, Running("k", "arm", 1, 100), OUTCOME)
    view.finish(RunSummary(failed=1, exit_code=ExitCode.FAILED_TRIALS))
    start, status, end, summary = (json.loads(line) for line in stream.getvalue().splitlines())
    assert (start["event"], start["trials"]) == ("start", 1)
    assert status["eta"] is None
    assert (end["label"], end["seed"], end["status"], end["error"]) == ("arm", 1, "failed", "SIGSEGV: killed")
    assert (summary["event"], summary["exit_code"]) == ("summary", 3)


def test_the_live_table_shows_each_running_trial_and_takes_no_markup_from_labels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    stream = io.StringIO()
    view = LiveView(stream)
    made = state()
    view.start(made)
    view.console.print(view._table(made))
    view.ended(made, made.running["k"], OUTCOME)
    view.finish(RunSummary(done=1, wall_seconds=3))
    text = stream.getvalue()
    assert "50/100" in text
    assert "arm [bold]" in text
    assert "failed      arm [bold] seed 0" in text
    assert "\x1b[" not in text


def test_the_view_suits_the_output() -> None:
    assert isinstance(choose_view(stream=io.StringIO()), PlainView)
    assert isinstance(choose_view(as_json=True, stream=io.StringIO()), JsonView)
