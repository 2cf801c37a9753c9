"""Several trainings in one process: each an attempt of its own, whatever happens to the others."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from ablate.launch import attempt as attempts
from ablate.launch.attempt import Context, Outcome, Task, run_attempt
from ablate.launch.forkserver import WarmProcess
from ablate.launch.queue import Queue
from ablate.launch.runners import ProcessRunner, SlotSettings
from ablate.launch.slots import Slot
from ablate.launch.work import run_pack
from ablate.store import Journal, StorePaths, measured, read_events, states
from ablate.store.detail import trial_detail

HERE = Path(__file__).parent
CONFIG: dict[str, Any] = {
    "schedule": "linear",
    "objective": "meanflow",
    "architecture": {"name": "sit", "width": 16, "depth": 1, "heads": 2},
    "data": "digits",
    "train": {"steps": 12, "batch_size": 8, "log_every": 4, "checkpoint_every": 4},
    "eval": {"metric": "fd_digits", "samples": 64, "gallery": 0},
}


@pytest.fixture(autouse=True)
def packers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(HERE))


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(StorePaths(tmp_path), "test") as opened:
        yield opened


def task(seed: int, **train: Any) -> Task:
    config = {**CONFIG, "seed": seed, "train": {**CONFIG["train"], **train}}
    return Task(f"{seed:016x}", f"e{seed}", config, "train", "arm", seed, config["train"]["steps"])


def run(journal: Journal, tasks: Sequence[Task], packer: str = attempts.PACKER, **more: Any) -> dict[int, Outcome]:
    """Outcome by seed."""
    ended: dict[int, Outcome] = {}
    context = Context(str(journal.paths.root), packer=packer, gpus=0.5)
    run_pack(tasks, context, journal, lambda task, outcome: ended.update({task.seed: outcome}), **more)
    return ended


def events(journal: Journal, kind: str) -> list[dict[str, Any]]:
    return [event for event in read_events(journal.paths) if event["kind"] == kind]


def value(paths: StorePaths, task: Task) -> float:
    (found,) = [e for e in read_events(paths) if e["kind"] == "measurement" and e["trial_id"] == task.key]
    return float(found["value"])


def test_members_leave_what_each_would_leave_alone(journal: Journal, tmp_path: Path) -> None:
    tasks = [task(0), task(1, lr=3e-3), task(2, steps=8)]
    sent: list[dict[str, Any]] = []
    ended = run(journal, tasks, send=sent.append)
    assert {seed: (o.status, o.step, o.packed) for seed, o in ended.items()} == {
        0: ("done", 12, 3), 1: ("done", 12, 3), 2: ("done", 8, 3),
    }  # fmt: skip
    assert {message["progress"]["task"] for message in sent} == {made.id for made in tasks}
    assert {state.status for state in states(journal.paths).values()} == {"done"}
    assert measured(journal.paths) == {(made.key, made.eval_key) for made in tasks}
    assert Counter(e["trial_id"] for e in events(journal, "scalar")) == {
        tasks[0].key: 3,
        tasks[1].key: 3,
        tasks[2].key: 2,
    }
    assert all(journal.paths.checkpoint(made.key).exists() for made in tasks)
    with Journal(StorePaths(tmp_path / "alone"), "test") as alone:
        for made in tasks:
            run_attempt(made, Context(str(alone.paths.root)), alone)
        for made in tasks:
            assert value(journal.paths, made) == pytest.approx(value(alone.paths, made), rel=1e-3)


def test_what_the_process_costs_is_split_by_the_steps_that_members_made(journal: Journal) -> None:
    cpu, wall = time.process_time(), time.monotonic()
    run(journal, [task(0), task(1), task(2, steps=4)])
    cpu, wall = time.process_time() - cpu, time.monotonic() - wall
    ends = {e["trial_id"]: e for e in events(journal, "attempt_ended")}
    spent = [ends[task(seed).key]["cpu_seconds"] for seed in range(3)]
    assert 0.5 * cpu < sum(spent) <= cpu
    assert spent[0] == pytest.approx(3 * spent[2], rel=0.2)  # 12 steps and 4
    assert sum(e["gpu_seconds"] for e in ends.values()) <= 0.5 * wall
    assert max(e["wall_seconds"] for e in ends.values()) <= wall
    assert [e["packed"] for e in events(journal, "attempt_started")] == [3, 3, 3]
    (shown,) = trial_detail_attempts(journal, task(0).key)
    assert shown["packed"] == 3


def trial_detail_attempts(journal: Journal, key: str) -> list[dict[str, Any]]:
    journal.append("trial", {"trial_id": key, "arm_id": "arm", "seed": 0, "steps_planned": 12})
    found: list[dict[str, Any]] = trial_detail(journal.paths, key)["attempts"]
    return found


def test_a_stop_leaves_checkpoints_and_a_pack_of_other_members_goes_on_from_them(journal: Journal) -> None:
    calls = iter(range(1000))
    first = run(journal, [task(0), task(1)], should_stop=lambda: next(calls) >= 12)
    assert {outcome.status for outcome in first.values()} == {"interrupted"}
    reached = {seed: outcome.step for seed, outcome in first.items()}
    again = run(journal, [task(1), task(2)])
    assert {seed: (o.status, o.step) for seed, o in again.items()} == {1: ("done", 12), 2: ("done", 12)}
    starts = [(e["trial_id"], e["resumed_from_step"]) for e in events(journal, "attempt_started")]
    assert starts == [(task(0).key, None), (task(1).key, None), (task(1).key, reached[1]), (task(2).key, None)]


def test_a_member_that_fails_or_diverges_or_is_busy_does_not_hinder_the_others(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "LOCK_SECONDS", 0.1)
    held = journal.paths.trial(task(3).key)
    held.mkdir(parents=True)
    with open(held / "lock", "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        ended = run(journal, [task(0), task(1, lr=1e9), task(2, steps=-1), task(3)])
    assert {seed: outcome.status for seed, outcome in ended.items()} == {
        0: "done", 1: "diverged", 2: "failed", 3: "failed",
    }  # fmt: skip
    assert (ended[2].error_type, ended[2].cause) == ("ValidationError", "error")
    assert (ended[3].error_type, ended[3].packed) == ("TrialBusyError", 1)
    assert {e["packed"] for e in events(journal, "attempt_started")} == {3}


def test_an_exception_of_the_whole_pack_is_blamed_on_no_member(journal: Journal) -> None:
    ended = run(journal, [task(0), task(1)], "launch_trainers:broken_pack")
    assert {(o.status, o.cause, o.packed, o.error_type) for o in ended.values()} == {
        ("failed", "pack", 2, "RuntimeError")
    }
    assert {state.status for state in states(journal.paths).values()} == {"lost"}, "the next run trains them"
    out_of_memory = run(journal, [task(2), task(3)], "launch_trainers:hungry_pack")
    assert {o.cause for o in out_of_memory.values()} == {"oom"}


def test_what_members_did_as_one_is_blamed_on_none_of_them(journal: Journal) -> None:
    ended = run(journal, [task(0), task(1), task(2)], "launch_trainers:entangled_pack")
    assert {seed: (o.status, o.cause, o.error_type) for seed, o in ended.items()} == {
        0: ("failed", "pack", "PackError"), 1: ("failed", "pack", "PackError"), 2: ("done", "", ""),
    }  # fmt: skip
    assert [states(journal.paths)[task(seed).key].status for seed in range(3)] == ["lost", "lost", "done"]


def slot(paths: StorePaths, warm: WarmProcess, tasks: Sequence[Task]) -> Slot:
    """A slot in this process with one pack in its queue, in which seed 2 crashes; it works in forks of `warm`."""
    crash = {"trainer": "launch_trainers:crash_of_two", "packer": "launch_trainers:pack_with_a_crash"}
    context = Context(str(paths.root), **crash)  # type: ignore[arg-type]
    settings = SlotSettings(context, "process", str(paths.root / "stop"), 5.0, 0.5, (), warm.address)
    queue = Queue([made.to_dict() for made in tasks], [list(range(len(tasks)))], {}, 0)
    return Slot("one", settings, queue, ProcessRunner(settings))


@pytest.fixture(scope="module")
def warm() -> Iterator[WarmProcess]:
    preload = ["ablate.launch.work", "ablate_core.packing"]  # torch: else every fork imports it
    process = WarmProcess(preload, sys_path=[str(HERE), *sys.path]).prepare("ablate.launch.work:forked_work")
    yield process
    process.close()


def test_a_crash_of_a_pack_is_tried_again_in_halves_until_the_culprit_is_alone(
    journal: Journal, warm: WarmProcess
) -> None:
    tasks = [task(seed) for seed in range(4)]
    made = slot(journal.paths, warm, tasks)
    deadline = time.monotonic() + 300
    while not made.step():
        assert time.monotonic() < deadline
    made.close()
    assert str(journal.paths.log(tasks[0].key)) in journal.paths.log(tasks[3].key).read_text()
    assert isinstance(made.desk, Queue)
    ended = {outcome["key"]: outcome for outcome in made.desk.news()["ended"]}
    assert {key: outcome["status"] for key, outcome in ended.items()} == {
        made.key: "failed" if made.seed == 2 else "done" for made in tasks
    }
    assert (ended[tasks[2].key]["error_type"], ended[tasks[2].key]["packed"]) == ("SIGSEGV", 1)
    crashed = Counter(e["trial_id"] for e in events(journal, "attempt_ended") if e["status"] == "lost")
    assert crashed == {tasks[0].key: 1, tasks[1].key: 1, tasks[2].key: 2, tasks[3].key: 2}
    assert {state.status for state in states(journal.paths).values()} == {"done", "failed"}


DRIVER = """
import sys
from ablate.launch import RunOptions, run_plan
from ablate.launch.view import JsonView
from ablate.space import expand, space_from_text
from ablate.store import StorePaths
plan = expand(space_from_text({space!r}, name="packs"))
options = RunOptions(local_cpus=2, gpus=0, max_concurrent=1, report_seconds=0.5, pack=4)
run_plan(plan, StorePaths(sys.argv[1]), options, JsonView(sys.stdout))
"""
TRAIN = {"steps": 400, "batch_size": 8, "log_every": 20, "checkpoint_every": 20}
SPACE = f"""
base: {json.dumps({**CONFIG, "train": TRAIN})}
axes: {{lr: {{path: train.lr, levels: [1e-3, 2e-3]}}}}
seeds: 4
"""


@pytest.mark.slow
def test_packs_survive_the_kill_of_their_process_and_of_the_driver(tmp_path: Path) -> None:
    """First the process of a pack is killed: its members go on in halves. Then the driver: the next run goes on."""
    command = [sys.executable, "-c", DRIVER.format(space=SPACE), str(tmp_path)]
    paths = StorePaths(tmp_path)
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    first = wait_for_a_pack(paths, driver, 4)
    os.kill(first[0]["pid"], signal.SIGKILL)
    second = wait_for_a_pack(paths, driver, 2)
    assert {e["trial_id"] for e in second} < {e["trial_id"] for e in first}
    assert all(e["resumed_from_step"] >= 20 for e in second)
    driver.kill()
    driver.wait()
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    summary = json.loads(ended.stdout.splitlines()[-1])
    assert summary["done"] + summary["skipped"] == 8
    everything = list(read_events(paths))
    finished = Counter(e["trial_id"] for e in everything if e["kind"] == "attempt_ended" and e["status"] == "done")
    assert sorted(finished.values()) == [1] * 8
    assert {state.status for state in states(paths).values()} == {"done"}
    killed = [e for e in everything if e["kind"] == "attempt_ended" and e["error_type"] == "SIGKILL"]
    assert {e["trial_id"] for e in killed} == {e["trial_id"] for e in first}


def wait_for_a_pack(paths: StorePaths, driver: Any, size: int) -> list[dict[str, Any]]:
    """The starts of a pack of this size all of whose members have a checkpoint."""
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and driver.poll() is None:
        starts = [e for e in read_events(paths) if e["kind"] == "attempt_started" and e["packed"] == size]
        members = starts[:size]
        if len(members) == size and all(_reached(paths, e) for e in members):
            return members
        time.sleep(0.1)
    raise AssertionError(f"no pack of {size} wrote its checkpoints")


def _reached(paths: StorePaths, start: dict[str, Any]) -> bool:
    """Whether the attempt has logged a step of its own, so that a checkpoint of it is there."""
    return any(e["kind"] == "scalar" and e["attempt"] == start["uid"] and e["step"] > 20 for e in read_events(paths))
