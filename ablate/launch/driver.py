"""`Driver`: told of everything while Tune runs, it keeps the counts of a run and decides when to stop."""

from __future__ import annotations

import math
import os
import shutil
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

from ablate.errors import ExitCode
from ablate.launch import agenda as agendas
from ablate.launch import groups
from ablate.launch.agenda import Agenda
from ablate.launch.attempt import TRAINER, Context, Outcome, Task
from ablate.launch.forkserver import FORWARD_MODE, warm_process
from ablate.launch.options import Placement, RunOptions, RunSummary, elsewhere, place
from ablate.launch.view import Running, RunState, RunView
from ablate.store.journal import Journal
from ablate.store.record import end_attempt
from ablate_core import plugins

if TYPE_CHECKING:
    from ablate.launch.cluster import Cluster
    from ablate.launch.early import Early
    from ablate.launch.runners import SlotSettings
    from ablate.store.ingest import Ingester
    from ablate.store.paths import StorePaths

SNAPSHOT_EVERY: Final = 3
"""A snapshot for readers is published at every third ingest."""
MANY: Final = 64
"""More tasks than this make it worth while to spend a CPU second on cheaper forks."""
STOP_SECONDS: Final = 0.5
"""How long a slot may take to see that a stop was asked: what it takes from the queue until then is let end."""
CONTINUE: Final = "the same command continues from the last checkpoints"


@dataclass(frozen=True)
class Job:
    """What a run is about.

    Attributes:
        name: of the study.
        todo: what is left to do.
        planned: trainings and evaluations asked for, finished or not.
        trials: trials asked for.
        resources, budget: what the space says, ``{}`` where there is none.
    """

    name: str
    todo: Agenda
    planned: int
    trials: int
    resources: Mapping[str, Any] = field(default_factory=dict)
    budget: Mapping[str, Any] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)


class Driver:
    """Told of everything while Tune runs (see `tuning.Monitor`); keeps the counts, decides when to stop."""

    def __init__(
        self,
        job: Job,
        paths: StorePaths,
        options: RunOptions,
        view: RunView,
        ingester: Ingester,
        journal: Journal,
        begun: Early | None = None,
    ) -> None:
        self.job, self.paths, self.options, self.view = job, paths, options, view
        self.state = state = RunState(job.name, job.planned, len(job.todo.skipped), failed=len(job.todo.failed))
        self.order = tasks = list(job.todo.tasks)
        self.tasks = {task.id: task for task in tasks}
        self.sorter = groups.Sorter()
        self.ingester, self.journal, self.early = ingester, journal, begun
        self.scratch = paths.root / ".tune" / uuid.uuid4().hex[:12]
        self.stop_file = self.scratch / "stop"
        self.ended: set[str] = set()
        self.attempts: dict[str, str] = {}
        self.failures: list[dict[str, Any]] = []
        self.stop_code: ExitCode | None = None
        self.stop_reason = ""
        self.stopped_at = 0.0
        self.draining = False
        self.held = 0
        self.first_progress = 0.0
        self.ingested = time.monotonic()
        self.ingests = 0
        state.started = job.started
        state.waiting = len(tasks)
        state.evaluations = sum(task.kind == "eval" for task in tasks)
        state.steps_waiting = sum(_steps(task) for task in tasks)
        self.failure_limit = options.failure_limit(job.trials)

    # --- the run

    def run(self, trainer: str, evaluator: str) -> None:
        shutil.rmtree(self.scratch.parent, ignore_errors=True)  # of a driver that was killed; we hold the store's lock
        self.scratch.mkdir(parents=True)
        resources = self.job.resources
        wanted = float(resources.get("cpus") or 0), float(resources.get("gpus") or 0)
        with self._signals(), self._warm(wanted[0], trainer, evaluator) as self.warm_address:
            with self._connected() as cluster:
                placement = self._place(*wanted, cluster.nodes)
                queue, settings, at_once = self._work(placement, trainer, evaluator)
                from ablate.launch.tuning import fit

                fit(queue, settings, placement, self, self.scratch / "tune", at_once)
        shutil.rmtree(self.scratch.parent, ignore_errors=True)

    def _connected(self) -> AbstractContextManager[Cluster]:
        """Ray: begun early, or now."""
        from ablate.launch.cluster import connected

        return nullcontext(self.early.cluster()) if self.early is not None else connected(self.options)

    def _place(self, cpus: float, gpus: float, nodes: Sequence[dict[str, float]]) -> Placement:
        """How trials are placed on these nodes; the view is told."""
        placement, state = place(self.options, cpus, gpus, nodes), self.state
        state.slots, state.cpus_per_trial = placement.slots, placement.cpus_per_trial
        state.gpus_per_trial = placement.gpus_per_trial
        self.view.start(state)
        return placement

    @contextmanager
    def _warm(self, wanted_cpus: float, *called: str) -> Iterator[str]:
        """Import torch while Ray starts: slots on this machine fork from one process; others start their own."""
        if elsewhere(self.options) or self.options.isolation != "process":
            yield ""
            return
        threads = max(1, math.floor(self.options.cpus_per_trial or wanted_cpus or 1.0))
        begun = self.early.warm if self.early is not None else None
        warm = warm_process(
            threads,
            self.options.plugins,
            begun=begun if begun is not None and begun.threads == threads else None,
            many=len(self.order) > MANY,
            ahead=agendas.ahead(self.order),
            modules=self._modules(*called),
        )
        try:
            yield warm.address
        finally:
            warm.close()

    def _modules(self, *called: str) -> list[str]:
        """Imported before anything is forked: where trainer and evaluator are, and what torch will want."""
        own = [name.partition(":")[0] for name in called]
        return [*own, *FORWARD_MODE] if groups.forward_mode(self.order, self.sorter) else own

    def _work(self, placement: Placement, trainer: str, evaluator: str) -> tuple[Any, SlotSettings, int]:
        """Arguments of the run's `Queue`, what slots have to know, and how many of them may be starting at once."""
        import sys

        from ablate.launch.cluster import ships
        from ablate.launch.runners import SlotSettings

        retries = agendas.retries(self.job.resources)
        process = self.options.isolation == "process"
        context = Context(
            store=str(self.paths.root),
            gpus=placement.gpus_per_trial,
            threads=placement.threads,
            trainer=trainer,
            evaluator=evaluator,
            plugins=tuple(self.options.plugins),
            releases={plugin.module: (*plugin.release,) for plugin in plugins.load(self.options.plugins)},
        )
        settings = SlotSettings(
            context=context,
            isolation=self.options.isolation,
            stop_file=str(self.stop_file),
            stop_grace=self.options.stop_grace,
            report_seconds=self.options.report_seconds,
            sys_path=tuple(path or os.getcwd() for path in sys.path),
            warm_address=self.warm_address,
            own_path_first=ships(self.options),
            ahead=agendas.ahead(self.order),
            modules=tuple(self._modules(trainer, evaluator)),
        )
        pack = self.options.pack or self.job.resources.get("pack") or "auto"
        own = trainer != TRAINER  # a trainer of one's own trains trials one by one
        works = groups.works(self.order, placement.slots, 1 if own else pack, sorter=self.sorter)
        deaths = retries["preempt"] if process else retries["crash"]
        lengths = groups.lengths(self.order, self.sorter) if len(works) > placement.slots else []
        queue = [task.to_dict() for task in self.order], works, retries, deaths, lengths
        at_once = placement.slots if elsewhere(self.options) else max(os.cpu_count() or 1, 1)
        return queue, settings, at_once

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Own SIGINT, SIGTERM and SIGUSR1 while running; only the main thread may."""
        self.handlers: dict[signal.Signals, Callable[[int, FrameType | None], None]] = {}
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self.handlers = {
            signal.SIGINT: self._interrupted,
            signal.SIGTERM: self._preempted,
            signal.SIGUSR1: self._preempted,
        }
        before = {number: signal.getsignal(number) for number in self.handlers}
        self._install()
        try:
            yield
        except KeyboardInterrupt:
            self.stop_code, self.stop_reason = ExitCode.INTERRUPTED, f"killed; {CONTINUE}"
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _install(self) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)

    def _interrupted(self, number: int, frame: FrameType | None) -> None:
        if self.stop_code is ExitCode.INTERRUPTED:
            raise KeyboardInterrupt
        self.stop(ExitCode.INTERRUPTED, f"interrupted; {CONTINUE}")
        self.view.message("stopping: running trials write a checkpoint; press Ctrl-C again to kill them")

    def _preempted(self, number: int, frame: FrameType | None) -> None:
        if self.stop_code is None or self.draining:
            self.stop(ExitCode.PREEMPTED, f"preempted by {signal.Signals(number).name}; {CONTINUE}")

    def stop(self, code: ExitCode, reason: str, drain: bool = False) -> None:
        """Start nothing new; running trials checkpoint and stop, or with `drain` go on to their end."""
        self.stop_code, self.stop_reason, self.stopped_at = code, reason, time.monotonic()
        self.draining = drain
        scratch = Path(f"{self.stop_file}.new")
        scratch.write_text("drain" if drain else "stop", encoding="ascii")
        os.replace(scratch, self.stop_file)

    # --- what Tune tells

    def begun(self) -> None:
        self._install()  # Tune has taken SIGUSR1

    def report(self, news: dict[str, Any]) -> None:
        for start in news["started"]:
            if (running := self._running(start["task"])) is not None:
                running.packed = start["packed"]
        for progress in news["progress"]:
            running = self._running(progress["task"])
            if running is not None:
                self.first_progress = self.first_progress or time.monotonic()
                self.attempts[running.key] = progress["attempt"]
                running.advance(progress["step"], progress["phase"])
        for outcome in news["ended"]:
            self._account(outcome)
        for failure in news["retried"]:
            self._spend(failure)
            if (running := self.state.running.get(failure["task"])) is not None:
                running.started = time.monotonic()
        for loss in news["lost"]:
            self._lost(self.tasks[loss["task"]], loss["error"])
        self.held = news["held"]

    def _lost(self, task: Task, error: str) -> None:
        """The task's workers have died too often: its attempt is lost, and the trial failed in this run."""
        if task.id in self.ended:
            return
        outcome = Outcome(task.key, "failed", 0, "", "crash", "WorkerDied", error or "the Ray worker died")
        if uid := self.attempts.get(task.id):
            end_attempt(self.journal, task.key, "lost", attempt=uid, **outcome.ended())
        self._account({**outcome.to_dict(), "task": task.id})

    def tick(self) -> None:
        now = time.monotonic()
        if now - self.ingested >= self.options.ingest_seconds:
            self.ingester.ingest()
            self.ingests += 1
            if self.ingests % SNAPSHOT_EVERY == 1:
                self.ingester.publish_snapshot()
            self.ingested = time.monotonic()
        limit = self.options.time_limit
        if limit and self.state.elapsed >= limit and (self.stop_code is None or self.draining):
            self.stop(ExitCode.LIMIT, f"time limit of {limit:g} s reached; {CONTINUE}")
        self._heed_budget()
        self.view.update(self.state)

    def over(self) -> bool:
        """True when everything is accounted for, or when a stop was asked and nothing works any more."""
        if len(self.ended) == len(self.order):
            return True
        if self.stop_code is None:
            return False
        since = time.monotonic() - self.stopped_at
        if not self.draining and since > self.options.stop_grace + 30:
            return True
        return not self.held and since > STOP_SECONDS

    # --- the counts

    def _running(self, name: str) -> Running | None:
        if name in self.ended:
            return None
        if name not in self.state.running:
            task = self.tasks[name]
            self.state.running[name] = Running(name, task.label, task.seed, task.steps, task=task.kind)
            self._no_longer_waiting(task)
        return self.state.running[name]

    def _no_longer_waiting(self, task: Task) -> None:
        self.state.waiting -= 1
        self.state.evaluations -= task.kind == "eval"
        self.state.steps_waiting -= _steps(task)

    def _account(self, outcome: dict[str, Any]) -> None:
        running = self._running(outcome["task"])
        if running is None:
            return
        state, status = self.state, outcome["status"]
        del state.running[running.key]
        self.ended.add(running.key)
        setattr(state, status, getattr(state, status) + 1)
        state.steps_trained += max(outcome["step"] - running.first_step, 0)
        self._spend(outcome)
        if status == "failed":
            self.failures.append({**outcome, "label": running.label, "seed": running.seed})
        self.view.ended(state, running, outcome)
        if running.task == "train" and status in ("failed", "diverged"):
            self._drop_evaluations(outcome["key"])
        if len(self.failures) > self.failure_limit and self.stop_code is None:
            why = f"{len(self.failures)} trials failed, more than --max-failures allows"
            self.stop(ExitCode.TOO_MANY_FAILURES, why)

    def _spend(self, outcome: dict[str, Any]) -> None:
        self.state.slot_seconds += outcome["wall_seconds"] / outcome["packed"]  # of a slot, which a pack shares

    def _drop_evaluations(self, trial: str) -> None:
        """What was to be measured on a network that does not exist; the queue does the same."""
        for task in self.order:
            if task.key == trial and task.id not in self.ended:
                self.ended.add(task.id)
                self.state.dropped += 1
                self._no_longer_waiting(task)

    def _heed_budget(self) -> None:
        budget, state, now = self.job.budget, self.state, time.monotonic()
        live = sum((now - running.started) / running.packed for running in state.running.values())
        hours = (state.slot_seconds + live) / 3600
        for name, each in (("gpu_hours", state.gpus_per_trial), ("cpu_hours", state.cpus_per_trial)):
            limit = budget.get(name)
            if limit is not None and hours * each >= limit and self.stop_code is None:
                drain = budget.get("on_exhausted", "finish_running") == "finish_running"
                self.stop(ExitCode.LIMIT, f"budget.{name} of {limit:g} used up by this run", drain)

    def summary(self) -> RunSummary:
        state, failed_before = self.state, len(self.job.todo.failed)
        code, reason = self.stop_code, self.stop_reason
        if len(self.ended) == len(self.order) and not state.interrupted:
            code, reason = None, ""  # the stop came too late to matter
        if code is None and state.interrupted:
            code, reason = ExitCode.PREEMPTED, f"trials were interrupted from outside; {CONTINUE}"
        if code is None:
            code = ExitCode.FAILED_TRIALS if state.failed else ExitCode.COMPLETE
        if failed_before and not reason:
            reason = f"{failed_before} failed in an earlier run, try them again with --retry failed"
        return RunSummary(
            done=state.done,
            diverged=state.diverged,
            failed=state.failed,
            interrupted=state.interrupted + len(state.running),
            skipped=state.skipped,
            waiting=state.waiting,
            dropped=state.dropped,
            wall_seconds=state.elapsed,
            startup_seconds=max(self.first_progress - state.started, 0.0),
            exit_code=code,
            reason=reason,
            failures=tuple(self.failures),
        )


def _steps(task: Task) -> int:
    """Optimiser steps that a task still costs at most."""
    return task.steps if task.kind == "train" else 0
