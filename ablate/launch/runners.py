"""How a slot does its work: in a forked process, or in a thread of the worker itself. No Ray here.

Both run a list of tasks at once (`work.run_work`): one attempt, or trainings that are packed together.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from ablate.launch.attempt import Context, Outcome, Task, died
from ablate.launch.forkserver import ForkServer, WarmProcess, warm_process
from ablate.launch.work import run_work
from ablate.store.journal import Journal
from ablate.store.paths import StorePaths
from ablate.store.record import AttemptRecord, end_attempt


@dataclass(frozen=True)
class SlotSettings:
    """What a slot has to know besides the context of the attempts; plain types, because it travels to workers."""

    context: Context
    isolation: str
    stop_file: str
    stop_grace: float
    report_seconds: float
    sys_path: tuple[str, ...]
    warm_address: str = ""
    own_path_first: bool = False
    """True where the code was shipped: a copy that was sent comes before one that happens to lie there."""
    ahead: tuple[dict[str, Any], ...] = ()
    """Configs of trials whose data and metrics are loaded before attempts are forked."""
    modules: tuple[str, ...] = ()
    """Imported before that, beside what every attempt needs."""

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
    """Does one unit of work at a time.

    Messages are ``{"progress": {..., "task"}}``, ``{"outcome": {..., "task"}}`` for each task, and at last
    ``{"free": True}``.
    """

    def start(self, work: Sequence[Task]) -> None: ...

    def poll(self, timeout: float) -> Iterable[dict[str, Any]]: ...

    def stop(self) -> None: ...

    def kill(self) -> None: ...

    def close(self) -> None: ...


def open_logs(paths: StorePaths, work: Sequence[Task]) -> Path:
    """The log of a piece of work, that of its first trial; the logs of the others say where to look."""
    first, *others = [paths.log(task.key) for task in work]
    for log in (first, *others):
        log.parent.mkdir(parents=True, exist_ok=True)
    for log in others:
        with log.open("a", encoding="utf-8") as file:
            file.write(f"--- one of {len(work)} trainings in one process, whose output is in {first}\n")
    return first


class ProcessRunner:
    """All work in fresh processes, forked from a warm server."""

    def __init__(self, settings: SlotSettings) -> None:
        self.settings = settings
        self.warm: WarmProcess | None = None  # our own, where the driver's is on another machine
        if settings.warm_address and os.path.exists(settings.warm_address):
            self.server = ForkServer(settings.warm_address, settings.context.threads)
        else:
            self._warm_up()
        self.paths = StorePaths(settings.context.store)
        self.journal = Journal(self.paths, "worker")
        self.context = settings.context.to_dict()
        self.open: dict[str, Task] = {}
        self.last: dict[str, dict[str, Any]] = {}
        self.packed = 1
        self.killed = False

    def _warm_up(self) -> None:
        context = self.settings.context
        if self.warm is not None:
            self.warm.close()
        settings = self.settings
        self.warm = warm_process(
            context.threads, context.plugins, settings.path(), ahead=settings.ahead, modules=settings.modules
        )
        self.server = ForkServer(self.warm.address, context.threads)

    def start(self, work: Sequence[Task]) -> None:
        self.open, self.last, self.packed, self.killed = {task.id: task for task in work}, {}, len(work), False
        self.started = time.monotonic()
        log = open_logs(self.paths, work)
        message = {"tasks": [task.to_dict() for task in work], "context": self.context}
        try:
            self.server.run(message, str(log))
        except OSError:  # the warm process was killed: make another
            self._warm_up()
            self.server.run(message, str(log))

    def poll(self, timeout: float) -> Iterator[dict[str, Any]]:
        for message in self.server.poll(timeout):
            if report := message.get("report"):
                if outcome := report.get("outcome"):
                    self.open.pop(outcome["task"], None)
                else:
                    self.last[report["progress"]["task"]] = report["progress"]
                yield report
            else:
                for task in self.open.values():
                    yield {"outcome": {**self._crashed(task, message["exited"]).to_dict(), "task": task.id}}
                self.open = {}
                yield {"free": True}

    def _crashed(self, task: Task, exited: dict[str, Any]) -> Outcome:
        """The process died without a word: write down for it what it could not.

        Not so where the process that forks attempts died: that is what the death of the driver looks like from here,
        just before this worker dies too. Then nothing is written, readers see that the attempt's process is gone and
        call it lost, and the next run goes on from its checkpoint.
        """
        last = self.last.get(task.id, {})
        step = last.get("step", 0)
        outcome = died(task, step, exited)
        if self.killed:
            reason = f"killed: it did not checkpoint within {self.settings.stop_grace:g} s of being asked to stop"
            outcome = Outcome(task.key, "interrupted", step, reason)
        outcome = replace(outcome, wall_seconds=time.monotonic() - self.started, packed=self.packed)
        if outcome.error_type == "WorkerDied":
            return outcome
        gpus = self.settings.context.gpus
        uid = last.get("attempt")
        if uid is None:
            kind, n = task.kind, self.packed
            uid = AttemptRecord(self.journal, task.key, device="none", num_gpus=gpus, task=kind, packed=n).uid
        end_attempt(
            self.journal,
            task.key,
            outcome.recorded,
            attempt=uid,
            **outcome.ended(),
            cpu_seconds=exited["cpu_seconds"] / self.packed,
            gpu_seconds=outcome.wall_seconds * gpus / self.packed,
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
    """All work in a thread of the worker itself: the cheapest, but a crash takes the worker with it."""

    def __init__(self, settings: SlotSettings) -> None:
        self.settings = settings
        self.paths = StorePaths(settings.context.store)
        self.journal = Journal(self.paths, "worker")
        sys.path[:] = settings.path()
        self.stopping = threading.Event()
        self.open: dict[str, Task] = {}
        self.messages: list[dict[str, Any]] = []
        self.thread: threading.Thread | None = None
        self.news = threading.Condition()

    def start(self, work: Sequence[Task]) -> None:
        self.stopping.clear()
        self.thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self.thread.start()

    def _run(self, work: Sequence[Task]) -> None:
        self.open = {task.id: task for task in work}
        try:
            self._logged(work)
        except BaseException as error:  # such as a trainer's SystemExit, or a journal that cannot be written
            head = " ".join(str(error).split()) or "raised in the middle of the trial"
            for task in [*self.open.values()]:
                outcome = Outcome(task.key, "failed", 0, "", "crash", type(error).__name__, head, packed=len(work))
                self._tell({"outcome": {**outcome.to_dict(), "task": task.id}})
        finally:
            self._tell({"free": True})

    def _logged(self, work: Sequence[Task]) -> None:
        import torch

        torch.set_num_threads(self.settings.context.threads)
        log = open_logs(self.paths, work)
        with (
            open(log, "a", buffering=1, encoding="utf-8") as file,
            contextlib.redirect_stdout(file),
            contextlib.redirect_stderr(file),
        ):
            run_work(work, self.settings.context, self.journal, self._tell, self.stopping.is_set)

    def _tell(self, message: dict[str, Any]) -> None:
        if outcome := message.get("outcome"):
            self.open.pop(outcome["task"], None)
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
