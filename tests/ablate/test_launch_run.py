"""A plan on a real Ray: started once for the module, with logical GPUs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ablate.errors import ClusterError, ExitCode
from ablate.launch import RunOptions, evaluate, run_evaluations, run_plan
from ablate.launch import driver as driving
from ablate.launch.forkserver import warm_process
from ablate.launch.options import RunSummary
from ablate.launch.view import Running, RunState
from ablate.space import expand, space_from_text
from ablate.space.plan import Plan
from ablate.store import StorePaths, read_events, states

HERE = str(Path(__file__).parent)
CPUS, GPUS = 4, 2
SPACE = """
name: toy
base:
  objective: fm
  architecture: {{name: mlp, width: 16, depth: 1}}
  data: {{name: gaussians, size: 500}}
  train: {{steps: {steps}, batch_size: 16, lr: 1e-3, log_every: 10, checkpoint_every: 10}}
  eval: {{metric: energy_distance, samples: {samples}, gallery: 4}}
axes: {{objective: [{objectives}]}}
seeds: {{list: [{seeds}]}}
resources: {{retries: {{oom: {oom}}}}}
"""


def plan(steps: int = 20, objectives: str = "fm", seeds: str = "0", samples: int = 50, oom: int = 0) -> Plan:
    fields = {"steps": steps, "objectives": objectives, "seeds": seeds, "samples": samples, "oom": oom}
    return expand(space_from_text(SPACE.format(**fields), name="toy"))


def asked(**options: Any) -> RunOptions:
    """Two slots on CPUs, as on the smallest machine; each slot is a worker that has to import Ray Tune first."""
    return RunOptions(**{"gpus": 0, "report_seconds": 0.5, "max_concurrent": 2, **options})


def alone(**options: Any) -> RunOptions:
    """The same with one slot, where what is proven does not need two: half the time."""
    return asked(max_concurrent=1, **options)


class Watch:
    """A view that remembers."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.outcomes: list[dict[str, Any]] = []
        self.most_running = 0
        self.slots = 0
        self.summary: RunSummary | None = None

    def start(self, state: RunState) -> None:
        self.slots = state.slots

    def update(self, state: RunState) -> None:
        self.most_running = max(self.most_running, len(state.running))

    def ended(self, state: RunState, trial: Running, outcome: dict[str, Any]) -> None:
        self.outcomes.append({**outcome, "seed": trial.seed})

    def message(self, text: str) -> None:
        self.messages.append(text)

    def finish(self, summary: RunSummary) -> None:
        self.summary = summary


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Ray, and one warm process that every test forks from."""
    from ablate.launch.cluster import ENVIRONMENT, OBJECT_STORE_BYTES

    before = dict(os.environ)
    os.environ.update(ENVIRONMENT)
    sys.path.insert(0, HERE)
    import ray

    warm = warm_process(1)
    ray.init(
        address="local", num_cpus=CPUS, num_gpus=GPUS, include_dashboard=False, log_to_driver=False,
        logging_level="ERROR", object_store_memory=OBJECT_STORE_BYTES,
    )  # fmt: skip

    class Lent:
        address = warm.address

        def close(self) -> None:
            """It is closed by the fixture."""

    patch = pytest.MonkeyPatch()
    patch.setattr(driving, "warm_process", lambda *_, **__: Lent())
    yield
    patch.undo()
    ray.shutdown()
    warm.close()
    sys.path.remove(HERE)
    os.environ.clear()
    os.environ.update(before)


def attempts(paths: StorePaths) -> Counter[tuple[str, str]]:
    """(trial, status) of every attempt that has ended."""
    return Counter((e["trial_id"], e["status"]) for e in read_events(paths) if e["kind"] == "attempt_ended")


@pytest.mark.usefixtures("cluster")
def test_a_plan_is_trained_then_skipped_then_only_evaluated(tmp_path: Path) -> None:
    paths = StorePaths(tmp_path)
    options = asked()
    wanted = plan(objectives="fm, meanflow", seeds="0, 1")
    first = run_plan(wanted, paths, options, Watch())
    assert (first.done, first.failed, first.exit_code) == (4, 0, ExitCode.COMPLETE)
    assert set(attempts(paths)) == {(trial.key, "done") for trial in wanted.trials}
    assert paths.log(wanted.trials[0].key).read_text().startswith("--- train")

    again = run_plan(wanted, paths, options, Watch())
    assert (again.done, again.skipped, again.exit_code) == (0, 4, ExitCode.COMPLETE)
    assert sum(attempts(paths).values()) == 4
    assert again.startup_seconds == 0  # Ray was not needed

    scalars = sum(event["kind"] == "scalar" for event in read_events(paths))
    other = run_plan(plan(objectives="fm, meanflow", seeds="0, 1", samples=60), paths, alone(), Watch())
    assert (other.done, other.exit_code) == (4, ExitCode.COMPLETE)
    assert sum(event["kind"] == "scalar" for event in read_events(paths)) == scalars
    assert max(attempts(paths).values()) == 2
    assert not (paths.root / ".tune").exists() or not list((paths.root / ".tune").iterdir())


def in_ways(nfe: str, objectives: str = "fm, meanflow") -> Plan:
    """Two trainings of 20 steps and one seed, each measured with several numbers of steps."""
    space = SPACE.format(steps=20, objectives=objectives, seeds="0", samples=50, oom=0)
    axes = f"axes: {{objective: [{objectives}], nfe: {{path: eval.nfe, levels: [{nfe}]}}}}"
    return expand(space_from_text(space.replace(f"axes: {{objective: [{objectives}]}}", axes), name="toy"))


@pytest.mark.usefixtures("cluster")
def test_ways_of_measuring_are_evaluations_of_one_training_and_later_ones_train_nothing(tmp_path: Path) -> None:
    paths, view = StorePaths(tmp_path), Watch()
    first = run_plan(in_ways("1, 2"), paths, asked(), view)
    assert (first.done, first.failed, first.waiting, first.exit_code) == (4, 0, 0, ExitCode.COMPLETE)
    begun = Counter(e["task"] for e in read_events(paths) if e["kind"] == "attempt_started")
    assert begun == {"train": 2, "eval": 2}
    again = run_plan(in_ways("1, 2"), paths, asked(), Watch())
    assert (again.done, again.skipped, again.startup_seconds) == (0, 4, 0)

    added = run_plan(in_ways("1, 2, 4"), paths, alone(), Watch())
    assert (added.done, added.skipped) == (2, 4)
    more = evaluate.asked(paths, ["toy"], ["eval.nfe=8,4"])
    assert (len(more.tasks), len(more.skipped)) == (2, 2)
    measured = run_evaluations(more.name, more.tasks, more.skipped, paths, alone(), Watch())
    assert (measured.done, measured.skipped, measured.exit_code) == (2, 2, ExitCode.COMPLETE)
    begun = Counter(e["task"] for e in read_events(paths) if e["kind"] == "attempt_started")
    assert begun == {"train": 2, "eval": 6}
    steps = [e["condition"]["nfe"] for e in read_events(paths) if e["kind"] == "measurement"]
    assert Counter(steps) == {1: 2, 2: 2, 4: 2, 8: 2}


@pytest.mark.usefixtures("cluster")
def test_a_network_that_fails_is_not_measured_and_one_that_fails_to_be_measured_is_tried_again(tmp_path: Path) -> None:
    paths = StorePaths(tmp_path)
    broken = run_plan(in_ways("1, 2"), paths, alone(), Watch(), evaluator="launch_trainers:broken_evaluator")
    assert (broken.done, broken.failed, broken.exit_code) == (2, 2, ExitCode.FAILED_TRIALS)
    assert Counter(state.status for state in states(paths).values()) == {"done": 2}, "the networks are trained"
    mended = run_plan(in_ways("1, 2"), paths, alone(), Watch())
    assert (mended.done, mended.skipped, mended.exit_code) == (2, 2, ExitCode.COMPLETE)

    other = StorePaths(tmp_path / "other")
    failed = run_plan(in_ways("1, 2", "fm"), other, alone(), Watch(), trainer="launch_trainers:broken")
    assert (failed.failed, failed.dropped, failed.waiting) == (1, 1, 0)
    assert failed.exit_code is ExitCode.FAILED_TRIALS


@pytest.mark.usefixtures("cluster")
def test_a_failed_trial_never_stops_the_others(tmp_path: Path) -> None:
    paths = StorePaths(tmp_path)
    view = Watch()
    wanted = plan(seeds="0, 1, 2, 3, 4, 5", oom=1)
    options = asked()
    summary = run_plan(wanted, paths, options, view, trainer="launch_trainers:by_seed")
    ends = {outcome["seed"]: outcome for outcome in view.outcomes}
    assert {seed: end["status"] for seed, end in ends.items()} == {
        0: "done", 1: "failed", 2: "failed", 3: "failed", 4: "diverged", 5: "done",
    }  # fmt: skip
    assert [ends[seed]["error_type"] for seed in (1, 2, 3)] == ["RuntimeError", "exit 9", "SIGSEGV"]
    assert (summary.done, summary.diverged, summary.failed, summary.exit_code) == (2, 1, 3, ExitCode.FAILED_TRIALS)
    keys = {trial.seed: trial.key for trial in wanted.trials}
    found = {seed: states(paths)[key] for seed, key in keys.items()}
    assert {seed: state.status for seed, state in found.items()} == {s: e["status"] for s, e in ends.items()}
    assert found[5].attempts == 2  # out of memory is tried again as the space allows, an exception is not
    assert found[1].attempts == 1
    assert "Segmentation fault" in paths.log(keys[3]).read_text()

    again = run_plan(wanted, paths, options, Watch(), trainer="launch_trainers:by_seed")
    assert (again.skipped, again.failed, again.done, again.exit_code) == (3, 3, 0, ExitCode.FAILED_TRIALS)
    assert "--retry failed" in again.reason
    retried = run_plan(wanted, paths, alone(retry="failed"), Watch())  # by the real trainer
    assert (retried.done, retried.failed, retried.exit_code) == (3, 0, ExitCode.COMPLETE)


@pytest.mark.usefixtures("cluster")
def test_gpus_in_use_at_once_are_capped_and_may_be_shared(tmp_path: Path) -> None:
    paths, view = StorePaths(tmp_path), Watch()
    wanted = plan(seeds="0, 1, 2, 3, 4, 5, 6, 7")
    options = RunOptions(gpus=1, gpus_per_trial=0.5, cpus_per_trial=0.5, report_seconds=0.5)
    summary = run_plan(wanted, paths, options, view, trainer="launch_trainers:spans")
    assert (summary.done, view.slots) == (8, 2)
    edges = []
    for trial in wanted.trials:
        started, ended, threads, device = (paths.trial(trial.key) / "span.txt").read_text().split()
        assert (threads, device) == ("1", "cpu")  # logical GPUs: there is no CUDA to use
        edges += [(float(started), 1), (float(ended), -1)]
    at_once, most = 0, 0
    for _, change in sorted(edges):
        at_once += change
        most = max(most, at_once)
    assert most == 2
    used = [e for e in read_events(paths) if e["kind"] == "attempt_ended"]
    assert used[0]["gpu_seconds"] == pytest.approx(0.5 * used[0]["wall_seconds"])


@pytest.mark.usefixtures("cluster")
def test_asking_for_more_gpus_than_there_are_names_both_numbers(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"3 GPUs but the cluster has 2"):
        run_plan(plan(), StorePaths(tmp_path), RunOptions(gpus=3), Watch())


@pytest.mark.usefixtures("cluster")
def test_too_many_failures_abort_the_run(tmp_path: Path) -> None:
    seeds = ", ".join(map(str, range(40)))
    options = asked(max_failures="5%", isolation="actor")
    summary = run_plan(
        plan(seeds=seeds), StorePaths(tmp_path), options, Watch(), trainer="launch_trainers:broken_later"
    )
    assert summary.exit_code is ExitCode.TOO_MANY_FAILURES
    assert summary.failed >= 3
    assert summary.waiting > 10
    assert summary.failed + summary.waiting == 40


@pytest.mark.usefixtures("cluster")
def test_ctrl_c_writes_checkpoints_and_the_next_run_goes_on_from_them(tmp_path: Path) -> None:
    paths, view = StorePaths(tmp_path), Watch()
    wanted = plan(steps=2000, seeds="0, 1, 2")
    options = asked(report_seconds=0.3)
    keys = [trial.key for trial in wanted.trials]

    def interrupt() -> None:
        deadline = time.monotonic() + 60
        while not any(paths.checkpoint(key).exists() for key in keys) and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    summary = run_plan(wanted, paths, options, view, trainer="launch_trainers:slow")
    assert summary.exit_code is ExitCode.INTERRUPTED
    assert summary.interrupted >= 1
    assert summary.done == 0
    assert summary.interrupted + summary.waiting == 3
    assert any("Ctrl-C again" in message for message in view.messages)
    assert "continues" in summary.reason
    stopped = {key: state.status for key, state in states(paths).items()}
    assert Counter(stopped.values())["interrupted"] == summary.interrupted

    again = run_plan(wanted, paths, alone(), Watch())
    assert (again.done, again.exit_code) == (3, ExitCode.COMPLETE)
    resumed = [e["resumed_from_step"] for e in read_events(paths) if e["kind"] == "attempt_started"]
    assert sum(step is not None for step in resumed) == summary.interrupted
    assert max(step or 0 for step in resumed) >= 10


DRIVER = """
import sys
sys.path.insert(0, {here!r})
from ablate.launch import RunOptions, run_plan
from ablate.launch.view import PlainView
from ablate.space import expand, space_from_text
from ablate.store import StorePaths
plan = expand(space_from_text({space!r}, name="toy"))
options = RunOptions(local_cpus=2, gpus=0, report_seconds=0.5)
summary = run_plan(plan, StorePaths(sys.argv[1]), options, PlainView(sys.stderr), trainer="launch_trainers:slow")
"""


@pytest.mark.usefixtures("cluster")
def test_a_killed_driver_loses_nothing_and_nothing_is_trained_twice(tmp_path: Path) -> None:
    paths = StorePaths(tmp_path)
    space = SPACE.format(steps=200, objectives="fm, meanflow", seeds="0, 1", samples=50, oom=0)
    wanted = expand(space_from_text(space, name="toy"))
    driver = subprocess.Popen([sys.executable, "-c", DRIVER.format(here=HERE, space=space), str(tmp_path)])
    deadline = time.monotonic() + 120
    while not in_the_middle(paths):
        assert driver.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    driver.kill()
    driver.wait()
    pids = {int(e["pid"]) for e in read_events(paths) if e["kind"] in ("writer", "attempt_started")} - {os.getpid()}
    assert wait_until(lambda: not any(map(alive, pids)), 10)
    size = sum(file.stat().st_size for file in paths.journals())
    done_before = {key for key, status in attempts(paths) if status == "done"}
    assert 1 <= len(done_before) < 4

    summary = run_plan(wanted, paths, alone(), Watch())
    assert (summary.done, summary.skipped) == (4 - len(done_before), len(done_before))
    assert summary.exit_code is ExitCode.COMPLETE
    assert sum(file.stat().st_size for file in paths.journals()) > size
    assert attempts(paths) == {(trial.key, "done"): 1 for trial in wanted.trials}
    resumed = [e for e in read_events(paths) if e["kind"] == "attempt_started" and e["resumed_from_step"]]
    assert resumed
    assert {e["trial_id"] for e in resumed}.isdisjoint(done_before)
    steps = {e["trial_id"]: e["step"] for e in read_events(paths) if e["kind"] == "measurement"}
    assert steps == {trial.key: 200 for trial in wanted.trials}


def test_a_request_to_the_whole_process_group_leaves_ray_alive_until_checkpoints_are_written(tmp_path: Path) -> None:
    """What `timeout`, Slurm and supervisors send. Ray ended at once, and a minute later took the driver along."""
    paths = StorePaths(tmp_path)
    space = SPACE.format(steps=2000, objectives="fm", seeds="0, 1, 2", samples=50, oom=0)
    code = DRIVER.format(here=HERE, space=space) + "\nsys.exit(int(summary.exit_code))"
    driver = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], start_new_session=True)
    deadline = time.monotonic() + 120
    while not any(paths.root.rglob("checkpoint.pt")):
        assert driver.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(driver.pid, signal.SIGTERM)
    assert driver.wait(40) == ExitCode.PREEMPTED
    statuses = Counter(state.status for state in states(paths).values())
    assert statuses["interrupted"] >= 1
    assert set(statuses) <= {"interrupted", "planned"}


def in_the_middle(paths: StorePaths) -> bool:
    """One trial is done, and one that began after that has its first checkpoint."""
    events = list(read_events(paths))
    ended = [e["at"] for e in events if e["kind"] == "attempt_ended"]
    later = [e["trial_id"] for e in events if e["kind"] == "attempt_started" and ended and e["at"] > min(ended)]
    return any(paths.checkpoint(key).exists() for key in later)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait_until(true: Any, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:
        time.sleep(0.05)
    return bool(true())
