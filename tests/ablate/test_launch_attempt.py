"""One attempt in this process: whatever happens in a trial is written down."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ablate.launch import attempt as attempts
from ablate.launch.attempt import Context, Outcome, Task, died, run_attempt
from ablate.store import Journal, StorePaths, measured, read_events, states

CONFIG = {
    "schedule": "linear",
    "objective": "fm",
    "architecture": {"name": "mlp", "width": 8, "depth": 1},
    "data": {"name": "gaussians", "size": 200},
    "train": {"steps": 20, "batch_size": 16, "log_every": 5, "checkpoint_every": 5},
    "eval": {"metric": "energy_distance", "samples": 50, "gallery": 4},
}
KEY = "0123456789abcdef"


@pytest.fixture(autouse=True)
def trainers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(StorePaths(tmp_path), "test") as opened:
        yield opened


def task(seed: int = 0, kind: Any = "train", **train: Any) -> Task:
    config = {**CONFIG, "seed": seed, "train": {**CONFIG["train"], **train}}
    return Task(KEY, "eval-key", config, kind, "arm", seed, config["train"]["steps"])


def run(journal: Journal, trainer: str = attempts.TRAINER, **arguments: Any) -> Outcome:
    context = Context(str(journal.paths.root), trainer=trainer)
    return run_attempt(arguments.pop("task", task()), context, journal, **arguments)


def events(journal: Journal, kind: str) -> list[dict[str, Any]]:
    return [event for event in read_events(journal.paths) if event["kind"] == kind]


def test_a_trainer_that_ends_as_a_script_does_has_failed(journal: Journal) -> None:
    """In a worker of its own accord there is no process to end."""
    outcome = run(journal, "launch_trainers:leaves")
    assert (outcome.status, outcome.error_type, outcome.error_head) == ("failed", "SystemExit", "bye")
    assert [event["status"] for event in events(journal, "attempt_ended")] == ["failed"]


def test_a_real_trial_leaves_its_curve_its_number_its_picture_and_its_end(journal: Journal) -> None:
    outcome = run(journal)
    assert (outcome.status, outcome.step) == ("done", 20)
    assert [event["step"] for event in events(journal, "scalar")] == [5, 10, 15, 20]
    (number,) = events(journal, "measurement")
    assert number["value"] > 0
    assert number["eval_key"] == "eval-key"
    (picture,) = events(journal, "artifact")
    assert journal.paths.absolute(picture["path"]).stat().st_size == picture["bytes"] > 0
    (start,), (end,) = events(journal, "attempt_started"), events(journal, "attempt_ended")
    assert end["attempt"] == start["uid"]
    assert end["num_parameters"] > 0
    assert 0 < end["cpu_seconds"]
    assert 0 < end["wall_seconds"] < 60
    assert end["gpu_seconds"] == 0
    assert end["peak_mem_mb"] > 50
    assert start["env_id"] == events(journal, "env")[0]["env_id"]
    assert measured(journal.paths) == {(KEY, "eval-key")}


def test_a_stop_leaves_a_checkpoint_that_the_next_attempt_resumes_bit_for_bit(journal: Journal, tmp_path: Path) -> None:
    calls = iter(range(1000))
    first = run(journal, should_stop=lambda: next(calls) >= 7)
    assert (first.status, first.step) == ("interrupted", 7)
    assert run(journal).status == "done"
    starts = events(journal, "attempt_started")
    assert [start["resumed_from_step"] for start in starts] == [None, 7]
    with Journal(StorePaths(tmp_path / "straight"), "test") as straight:
        run(straight)
        assert events(straight, "measurement")[0]["value"] == events(journal, "measurement")[0]["value"]


def test_evaluating_alone_trains_nothing_and_says_nothing_about_the_training(journal: Journal) -> None:
    run(journal)
    checkpoint = journal.paths.checkpoint(KEY).read_bytes()
    other = task(kind="eval")
    other = Task(
        **{**other.to_dict(), "eval_key": "other", "config": {**other.config, "eval": {**CONFIG["eval"], "nfe": 2}}}
    )
    outcome = run(journal, task=other)
    assert outcome.status == "done"
    assert journal.paths.checkpoint(KEY).read_bytes() == checkpoint
    assert len(events(journal, "scalar")) == 4
    assert measured(journal.paths) == {(KEY, "eval-key"), (KEY, "other")}
    assert events(journal, "attempt_started")[-1]["task"] == "eval"


def test_an_exception_is_a_failed_attempt_with_one_line_and_its_traceback_in_the_log(
    journal: Journal, capfd: pytest.CaptureFixture[str]
) -> None:
    outcome = run(journal, "launch_trainers:by_seed", task=task(seed=1))
    assert (outcome.status, outcome.cause, outcome.error_type) == ("failed", "error", "RuntimeError")
    assert outcome.error_head == "seed one never works"
    assert "Traceback" in capfd.readouterr().out
    assert states(journal.paths)[KEY].status == "failed"


def test_running_out_of_memory_is_told_from_other_errors(journal: Journal) -> None:
    outcome = run(journal, "launch_trainers:by_seed", task=task(seed=5))
    assert (outcome.cause, outcome.error_type) == ("oom", "MemoryError")


def test_divergence_is_a_result_with_its_reason(journal: Journal) -> None:
    outcome = run(journal, "launch_trainers:by_seed", task=task(seed=4))
    assert (outcome.status, outcome.reason) == ("diverged", "loss is not finite at step 2")
    assert states(journal.paths)[KEY].status == "diverged"


def test_a_config_that_does_not_validate_and_a_plugin_that_does_not_import_are_failed_attempts(
    journal: Journal,
) -> None:
    assert run(journal, task=task(steps=-1)).error_type == "ValidationError"
    context = Context(str(journal.paths.root), plugins=("no_such_plugin",))
    outcome = run_attempt(task(), context, journal)
    assert outcome.error_type == "PluginError"
    assert outcome.error_head.startswith("plug-in no_such_plugin: no module is named")
    assert [event["status"] for event in events(journal, "attempt_ended")] == ["failed", "failed"]


def test_two_processes_never_train_one_trial_at_once(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "LOCK_SECONDS", 0.2)
    folder = journal.paths.trial(KEY)
    folder.mkdir(parents=True)
    with open(folder / "lock", "a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        outcome = run(journal)
    assert (outcome.status, outcome.error_type) == ("failed", "TrialBusyError")
    assert events(journal, "attempt_started") == []
    assert run(journal).status == "done"


def test_evaluations_of_one_network_do_not_wait_for_each_other_but_for_a_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "LOCK_SECONDS", 0.2)
    with attempts.trial_lock(tmp_path, shared=True), attempts.trial_lock(tmp_path, shared=True):
        with pytest.raises(attempts.TrialBusyError), attempts.trial_lock(tmp_path):
            pass
    with attempts.trial_lock(tmp_path), pytest.raises(attempts.TrialBusyError):
        with attempts.trial_lock(tmp_path, shared=True):
            pass


def test_progress_is_sent_to_whoever_watches(journal: Journal) -> None:
    sent: list[dict[str, Any]] = []
    run(journal, send=sent.append)
    uid = events(journal, "attempt_started")[0]["uid"]
    assert sent[0]["progress"] == {
        "key": KEY, "task": KEY, "attempt": uid, "phase": "start", "step": 0, "steps": 20,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("exited", "cause", "error_type"),
    [
        ({"code": 9, "signal": None}, "crash", "exit 9"),
        ({"code": None, "signal": "SIGSEGV"}, "crash", "SIGSEGV"),
        ({"code": None, "signal": "SIGKILL"}, "oom", "SIGKILL"),
        ({"code": None, "signal": None}, "preempt", "WorkerDied"),
    ],
)
def test_a_process_that_died_without_a_word_is_described(exited: Any, cause: str, error_type: str) -> None:
    outcome = died(task(), 3, exited)
    assert (outcome.status, outcome.cause, outcome.error_type, outcome.step) == ("failed", cause, error_type, 3)


def test_a_trial_given_no_gpu_runs_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch, "cuda", SimpleNamespace(is_available=lambda: True))
    assert attempts.choose_device("auto", 0) == "cpu"
    assert attempts.choose_device("auto", 0.25) == "cuda"
    assert attempts.choose_device("cpu", 1) == "cpu"
