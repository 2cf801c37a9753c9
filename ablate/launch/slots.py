"""A slot of the cluster working through trials: `TrialSlot`, the class Ray Tune runs in its workers.

One Tune trial carries a chunk of our trials (usually one). Its ``step()`` watches the running attempt and returns a
report every few seconds, or at once when an attempt ends. Actors are reused (``reuse_actors=True``): Ray's start-up is
paid once per slot.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from ray.tune import Trainable

from ablate.launch.attempt import Context, Outcome, Task, died, run_attempt
from ablate.launch.forkserver import ForkServer, WarmProcess, warm_process
from ablate.store.journal import Journal
from ablate.store.paths import StorePaths
from ablate.store.record import AttemptRecord, end_attempt

POLL_SECONDS = 0.2
CLEANUP_SECONDS = 8.0
"""Tune kills a worker that takes longer than 10 seconds to clean up."""


@dataclass(frozen=True)
class SlotSettings:
    """What a slot has to know besides the context of the attempts; plain types, because it travels to workers."""

    context: Context
    isolation: str
    stop_file: str
    stop_grace: float
    report_seconds: float
    retries: dict[str, int]
    sys_path: tuple[str, ...]
    warm_address: str = ""
    own_path_first: bool = False
    """True where the code was shipped: a copy that was sent comes before one that happens to lie there."""

    def path(self) -> list[str]:
        """Where attempts import from: the driver's places and the worker's own."""
        both = (sys.path, self.sys_path) if self.own_path_first else (self.sys_path, sys.path)
        return list(dict.fromkeys([*both[0], *both[1]]))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> SlotSettings:
        return cls(**{**fields, "context": Context(**fields["context"])})


class Runner(Protocol):
    """Runs one attempt at a time; messages are ``{"progress": ...}`` and at last ``{"outcome": Outcome}``."""

    def start(self, task: Task) -> None: ...

    def poll(self, timeout: float) -> Iterator[dict[str, Any]]: ...

    def stop(self) -> None: ...

    def kill(self) -> None: ...

    def close(self) -> None: ...


class TrialSlot(Trainable):
    """Tune's view of a slot. ``config`` is ``{"chunk": [indices into the run's tasks]}``."""

    def setup(
        self, config: dict[str, Any], settings: dict[str, Any] | None = None, tasks: list[dict[str, Any]] | None = None
    ) -> None:
        """`settings` and `tasks` come from ``tune.with_parameters``."""
        assert settings is not None
        assert tasks is not None
        self.settings = SlotSettings.from_dict(settings)
        self.tasks = tasks
        runner = ProcessRunner if self.settings.isolation == "process" else ActorRunner
        self.runner: Runner = runner(self.settings)
        self.reset_config(config)

    def reset_config(self, config: dict[str, Any]) -> bool:
        self.queue = [Task(**self.tasks[index]) for index in config["chunk"]]
        self.task: Task | None = None
        self.tries: dict[str, int] = {}
        self.asked_to_stop = self.last_asked = 0.0
        return True

    def step(self) -> dict[str, Any]:
        """Watch the running attempt; return within `report_seconds`, or at once when an attempt ends."""
        ended: list[dict[str, Any]] = []
        progress: dict[str, Any] | None = None
        deadline = time.monotonic() + self.settings.report_seconds
        while time.monotonic() < deadline and not ended:
            if self.task is None and not self._next():
                break
            self._heed_stop()
            for message in self.runner.poll(POLL_SECONDS):
                if (found := message.get("progress")) and self.task is not None:
                    progress = {**found, "task": self.task.id}
                if outcome := message.get("outcome"):
                    ended += self._ended(outcome)
        over = self.task is None and (not self.queue or self._stop_asked())  # else: the next one, or a retry
        return {"ended": ended, "progress": progress, "done": over}

    def _next(self) -> bool:
        if not self.queue or self._stop_asked():
            return False
        self.task = self.queue.pop(0)
        if self._mark(self.task).exists():  # by another worker, before it died with the rest of this chunk
            self.task = None
            return self._next()
        self.asked_to_stop = 0.0
        self.runner.start(self.task)
        return True

    def _ended(self, outcome: Outcome) -> list[dict[str, Any]]:
        """What to report of an attempt that ended: nothing when it is tried again."""
        assert self.task is not None
        task, self.task = self.task, None
        if outcome.status == "failed" and not self.asked_to_stop:
            used = self.tries.get(outcome.cause, 0)
            if used < self.settings.retries.get(outcome.cause, 0):
                self.tries[outcome.cause] = used + 1
                self.queue.insert(0, task)
                return []
        self.tries = {}
        if task.kind == "train" and outcome.status != "done":
            self._drop_evaluations(task)
        self._mark(task).touch()
        return [{**outcome.to_dict(), "task": task.id}]

    def _drop_evaluations(self, training: Task) -> None:
        """A network that is not trained to its end is not evaluated, not even when another worker takes the chunk."""
        for task in [task for task in self.queue if task.key == training.key]:
            self.queue.remove(task)
            self._mark(task).touch()

    def _mark(self, task: Task) -> Path:
        return Path(f"{self.settings.stop_file}.{task.id}")

    def _stop_asked(self) -> bool:
        """Whether the driver wants nothing new to start. A file: that reaches every worker of a shared store."""
        return Path(self.settings.stop_file).exists()

    def _heed_stop(self) -> None:
        """Pass a stop on to the attempt, again every second (a fork may not listen yet); kill it after the grace."""
        try:
            if Path(self.settings.stop_file).read_text(encoding="ascii") == "drain":
                return
        except OSError:
            return
        now = time.monotonic()
        if not self.asked_to_stop:
            self.asked_to_stop = self.last_asked = now
            self.runner.stop()
        elif now - self.asked_to_stop > self.settings.stop_grace:
            self.runner.kill()
        elif now - self.last_asked > 1.0:
            self.last_asked = now
            self.runner.stop()

    def cleanup(self) -> None:
        """Tune ends the slot: an attempt that has only just started may still write down that it was interrupted."""
        if self.task is not None:
            self.runner.stop()
            deadline = time.monotonic() + min(self.settings.stop_grace, CLEANUP_SECONDS)
            while time.monotonic() < deadline and not any("outcome" in m for m in self.runner.poll(POLL_SECONDS)):
                pass
        self.runner.close()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: the trainer keeps its own checkpoints in the store."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing: the trainer resumes from its own checkpoints in the store."""


class ProcessRunner:
    """Every attempt in a fresh process, forked from a warm server."""

    def __init__(self, settings: SlotSettings) -> None:
        self.settings = settings
        self.warm: WarmProcess | None = None  # our own, where the driver's is on another machine
        if settings.warm_address and os.path.exists(settings.warm_address):
            self.server = ForkServer(settings.warm_address, settings.context.threads)
        else:
            self._warm_up()
        self.paths = StorePaths(settings.context.store)
        self.journal = Journal(self.paths, "worker")
        self.task: Task | None = None
        self.last: dict[str, Any] = {}
        self.outcome: Outcome | None = None
        self.killed = False

    def _warm_up(self) -> None:
        context = self.settings.context
        if self.warm is not None:
            self.warm.close()
        self.warm = warm_process(context.threads, context.plugins, self.settings.path())
        self.server = ForkServer(self.warm.address, context.threads)

    def start(self, task: Task) -> None:
        self.task, self.last, self.outcome, self.killed = task, {}, None, False
        self.started = time.monotonic()
        log = self.paths.log(task.key)
        log.parent.mkdir(parents=True, exist_ok=True)
        message = {"task": task.to_dict(), "context": self.settings.context.to_dict()}
        try:
            self.server.run(message, str(log))
        except OSError:  # the warm process was killed: make another
            self._warm_up()
            self.server.run(message, str(log))

    def poll(self, timeout: float) -> Iterator[dict[str, Any]]:
        for message in self.server.poll(timeout):
            if report := message.get("report"):
                if "outcome" in report:
                    self.outcome = Outcome(**report["outcome"])
                else:
                    self.last = report["progress"]
                    yield report
            elif self.task is not None:
                yield {"outcome": self.outcome or self._crashed(message["exited"])}
                self.task = None

    def _crashed(self, exited: dict[str, Any]) -> Outcome:
        """The process died without a word: write down for it what it could not.

        Not so where the process that forks attempts died: that is what the death of the driver looks like from here,
        just before this worker dies too. Then nothing is written, readers see that the attempt's process is gone and
        call it lost, and the next run goes on from its checkpoint.
        """
        assert self.task is not None
        step = self.last.get("step", 0)
        outcome = died(self.task, step, exited)
        if self.killed:
            reason = f"killed: it did not checkpoint within {self.settings.stop_grace:g} s of being asked to stop"
            outcome = Outcome(self.task.key, "interrupted", step, reason)
        outcome = replace(outcome, wall_seconds=time.monotonic() - self.started)
        if outcome.error_type == "WorkerDied":
            return outcome
        gpus = self.settings.context.gpus
        uid = self.last.get("attempt")
        if uid is None:
            kind = self.task.kind
            uid = AttemptRecord(self.journal, self.task.key, device="none", num_gpus=gpus, task=kind).uid
        end_attempt(
            self.journal,
            self.task.key,
            outcome.status,
            attempt=uid,
            **outcome.ended(),
            cpu_seconds=exited["cpu_seconds"],
            gpu_seconds=outcome.wall_seconds * gpus,
            peak_mem_mb=exited["peak_mem_mb"],
        )
        return outcome

    def stop(self) -> None:
        self.server.stop()

    def kill(self) -> None:
        self.killed = True
        self.server.kill()

    def close(self) -> None:
        self.server.close()
        self.journal.close()
        if self.warm is not None:
            self.warm.close()


class ActorRunner:
    """Attempts in a thread of the worker itself: the cheapest, but a crash takes the worker with it."""

    def __init__(self, settings: SlotSettings) -> None:
        self.settings = settings
        self.paths = StorePaths(settings.context.store)
        self.journal = Journal(self.paths, "worker")
        sys.path[:] = settings.path()
        self.stopping = threading.Event()
        self.messages: list[dict[str, Any]] = []
        self.thread: threading.Thread | None = None
        self.news = threading.Condition()

    def start(self, task: Task) -> None:
        self.stopping.clear()
        self.thread = threading.Thread(target=self._run, args=(task,), daemon=True)
        self.thread.start()

    def _run(self, task: Task) -> None:
        import torch

        torch.set_num_threads(self.settings.context.threads)
        log = self.paths.log(task.key)
        log.parent.mkdir(parents=True, exist_ok=True)
        with (
            open(log, "a", buffering=1, encoding="utf-8") as file,
            contextlib.redirect_stdout(file),
            contextlib.redirect_stderr(file),
        ):
            outcome = run_attempt(
                task, self.settings.context, self.journal, send=self._tell, should_stop=self.stopping.is_set
            )
        self._tell({"outcome": outcome})

    def _tell(self, message: dict[str, Any]) -> None:
        with self.news:
            self.messages.append(message)
            self.news.notify()

    def poll(self, timeout: float) -> Iterator[dict[str, Any]]:
        with self.news:
            if not self.messages:
                self.news.wait(timeout)
            messages, self.messages = self.messages, []
        yield from messages

    def stop(self) -> None:
        self.stopping.set()

    def kill(self) -> None:
        """A thread cannot be killed: it ends at its next step boundary, or with the worker."""

    def close(self) -> None:
        self.stopping.set()
        if self.thread is not None:
            self.thread.join(timeout=5)
        self.journal.close()
