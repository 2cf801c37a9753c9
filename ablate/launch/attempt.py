"""One attempt at one trial: the trainer's events go into the journal, whatever happens is written down. No Ray here.

`run_attempt` is what a forked process, a Ray worker or a notebook calls (by way of `work`, where several trainings may
share a process). It never raises for what the trial did: an exception in a trial is a failed attempt, its traceback is
in the trial's log.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from ablate.errors import AblateError
from ablate.store.journal import Journal
from ablate.store.record import AttemptRecord
from ablate_core import plugins

TRAINER = "ablate_core.trainer:train"
EVALUATOR = "ablate_core.evaluation:evaluate_checkpoint"
PACKER = "ablate_core.packing:train_pack"
LOCK_SECONDS = 30.0
"""How long an attempt waits for another process that still holds the trial, such as one a killed driver left behind."""

HEARTBEAT_SECONDS = 30.0

PACK_CAUSES = ("oom", "crash", "pack", "preempt")
"""Why a pack as a whole fails: that says nothing about any one member, so they are tried again in smaller packs."""

Send = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Task:
    """What is to be done for one trial: train it (and evaluate), or evaluate what is trained."""

    key: str
    eval_key: str
    config: dict[str, Any]
    kind: Literal["train", "eval"] = "train"
    label: str = ""
    seed: int = 0
    steps: int = 0

    @property
    def id(self) -> str:
        """Tells the tasks of a run apart: a trial is trained once and may be evaluated in several ways after that."""
        return self.key if self.kind == "train" else f"{self.key}-{self.eval_key}"

    def to_dict(self) -> dict[str, Any]:
        """Its fields as they are: a deep copy of the config, such as `asdict` makes, takes a millisecond."""
        return dict(vars(self))


@dataclass(frozen=True)
class Context:
    """What all attempts of a run share; plain JSON types, because it travels to workers."""

    store: str
    device: str = "auto"
    gpus: float = 0.0
    threads: int = 1
    trainer: str = TRAINER
    evaluator: str = EVALUATOR
    packer: str = PACKER
    plugins: tuple[str, ...] = ()
    releases: dict[str, tuple[str | None, str | None]] = field(default_factory=dict)
    """Plug-in -> distribution and version on the driver's machine: a shipped copy has left its metadata behind."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended.

    The `cause` of a failure decides whether it is tried again: oom, crash, error, ``preempt`` where what it ran in was
    taken away, or ``pack`` where all of a pack failed together. `packed` trainings shared the process.
    """

    key: str
    status: Literal["done", "diverged", "failed", "interrupted", "lost"]
    step: int = 0
    reason: str = ""
    cause: str = ""
    error_type: str = ""
    error_head: str = ""
    wall_seconds: float = 0.0
    packed: int = 1

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def recorded(self) -> Literal["done", "diverged", "failed", "interrupted", "lost"]:
        """What the journal calls it: a member whose pack broke has not failed, the next run tries it again."""
        broken = self.status == "failed" and self.packed > 1 and self.cause in PACK_CAUSES
        return "lost" if broken else self.status

    def ended(self) -> dict[str, Any]:
        """The facts of ``attempt_ended`` that an outcome knows."""
        facts = {"step": self.step, "reason": self.reason or None, "wall_seconds": self.wall_seconds}
        return facts | {"error_type": self.error_type or None, "error_head": self.error_head or None}


def run_attempt(
    task: Task,
    context: Context,
    journal: Journal,
    *,
    send: Send | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Outcome:
    """Make one attempt at `task` and journal it from ``attempt_started`` to ``attempt_ended``.

    Args:
        task: the trial and what to do with it.
        context: store, device, trainer and evaluator of the run.
        journal: where events go; the caller closes it.
        send: receives ``{"progress": {"key", "task", "attempt", "phase", "step", "steps"}}`` at most twice a second.
        should_stop: asked at step boundaries; true makes the trainer checkpoint and the attempt end as interrupted.

    Returns:
        The outcome; an exception of the trial is an outcome of status ``failed``.
    """
    folder = journal.paths.trial(task.key)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with trial_lock(folder, shared=task.kind == "eval"):
            return Attempt(task, context, journal, send, should_stop).run()
    except TrialBusyError as error:
        return busy(task, error)


def busy(task: Task, error: TrialBusyError) -> Outcome:
    """The outcome of an attempt that never began, because another process holds the trial."""
    return Outcome(task.key, "failed", cause="error", error_type="TrialBusyError", error_head=str(error))


class TrialBusyError(AblateError):
    """Another process is training this very trial."""


@contextlib.contextmanager
def trial_lock(folder: Path, *, shared: bool = False) -> Iterator[None]:
    """Hold the trial against every other process, `shared` only against one that trains it; the lock dies with us.

    Raises:
        TrialBusyError: another process has held the trial for `LOCK_SECONDS`.
    """
    with open(folder / "lock", "a+", encoding="ascii") as file:  # a shared lock needs a file that can be read (NFS)
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    what = f"{folder}: another process is training this trial; end it, then run again"
                    raise TrialBusyError(what) from None
                time.sleep(0.1)
        yield


class Attempt:
    """One attempt: `begin`, then the trainer with `report`, then `end`; `run` does all of it.

    Args:
        packed: how many trainings share the process, this one among them.
    """

    def __init__(
        self,
        task: Task,
        context: Context,
        journal: Journal,
        send: Send | None = None,
        should_stop: Callable[[], bool] | None = None,
        packed: int = 1,
    ) -> None:
        self.task, self.context, self.journal, self.packed = task, context, journal, packed
        self.send, self.should_stop = send, should_stop or (lambda: False)
        self.folder = journal.paths.trial(task.key)
        self.step = 0
        self.sent = 0.0
        self.beat = time.monotonic()

    def run(self) -> Outcome:
        started, cpu = time.monotonic(), cpu_seconds()
        device, broken = prepare(self.context)
        self.begin(device)
        outcome, facts = (self.failed(broken), {}) if broken else self._body(device)
        return self.end(outcome, facts, time.monotonic() - started, cpu_seconds() - cpu)

    def begin(self, device: str) -> None:
        """Write down that the attempt has begun."""
        print(f"--- {self.task.kind} {self.task.label} seed {self.task.seed}, trial {self.task.key}", flush=True)
        self.resumed_from = checkpoint_step(self.folder) if self.task.kind == "train" else None
        self.record = AttemptRecord(
            self.journal,
            self.task.key,
            eval_key=self.task.eval_key,
            device=device,
            num_gpus=self.context.gpus,
            resumed_from_step=self.resumed_from,
            task=self.task.kind,
            packed=self.packed,
        )
        self._progress("start", 0, force=True)

    def end(
        self, outcome: Outcome, facts: dict[str, Any], wall: float, cpu: float, share: float | None = None
    ) -> Outcome:
        """Write down how the attempt has ended.

        Args:
            outcome: without its seconds.
            facts: what only the trainer knows.
            wall, cpu: seconds of the process, of which the attempt has used `share`; None: all of them.
        """
        part = 1.0 if share is None else share
        outcome = replace(outcome, wall_seconds=wall, packed=self.packed)
        spent = {"cpu_seconds": cpu * part, "gpu_seconds": wall * self.context.gpus * part}
        self.record.end(outcome.recorded, **outcome.ended(), **{**spent, "peak_mem_mb": peak_memory_mb(), **facts})
        return outcome

    def _body(self, device: str) -> tuple[Outcome, dict[str, Any]]:
        """The outcome, and what only the trainer knows (number of parameters, peak memory of the device)."""
        try:
            config = load_config(self.task.config)
            if self.task.kind == "eval":
                self._progress("evaluate", self.task.steps, force=True)
                load_object(self.context.evaluator)(config, self.folder, device=device, report=self.report)
                return Outcome(self.task.key, "done", self.task.steps), {}
            train = load_object(self.context.trainer)
            return self.trained(
                train(config, self.folder, device=device, report=self.report, should_stop=self.should_stop)
            )
        except (Exception, SystemExit, KeyboardInterrupt) as error:  # a trainer's own: the process is the slot's
            return self.failed(error), {}

    def trained(self, result: Any) -> tuple[Outcome, dict[str, Any]]:
        """The outcome and the facts that a trainer's `Result` comes to."""
        memory = max(result.peak_mem_mb or 0.0, peak_memory_mb())
        facts = {"num_parameters": result.num_parameters, "peak_mem_mb": memory}
        return Outcome(self.task.key, result.status, int(result.step), result.reason or ""), facts

    def failed(self, error: BaseException, cause: str = "error") -> Outcome:
        """The outcome that an exception comes to; its traceback is printed."""
        traceback.print_exception(error, file=sys.stdout)
        cause = "oom" if is_out_of_memory(error) else cause
        head = " ".join(str(error).split())[:500] or type(error).__name__
        return Outcome(self.task.key, "failed", self.step, "", cause, type(error).__name__, head)

    def report(self, event: dict[str, Any]) -> None:
        """The core's callback: into the journal, and the step to whoever watches."""
        self.step = max(self.step, int(event.get("step") or 0))
        self.record.report(event)
        self._progress(event.get("phase", "train"), self.step)
        if time.monotonic() - self.beat >= HEARTBEAT_SECONDS:  # readers on other machines see that this attempt lives
            self.beat = time.monotonic()
            self.journal.append("heartbeat", {"trial_id": self.task.key, "attempt": self.record.uid, "step": self.step})

    def _progress(self, phase: str, step: int, force: bool = False) -> None:
        now = time.monotonic()
        if self.send is None or (not force and now - self.sent < 0.5):
            return
        self.sent = now
        watched = {"key": self.task.key, "task": self.task.id, "attempt": self.record.uid, "steps": self.task.steps}
        self.send({"progress": {**watched, "phase": phase, "step": step}})


def prepare(context: Context) -> tuple[str, Exception | None]:
    """Plug-ins and device; what breaks here must still become a recorded attempt."""
    try:
        plugins.load(context.plugins, context.releases)
        return choose_device(context.device, context.gpus), None
    except Exception as error:
        return "none", error


def load_config(config: dict[str, Any]) -> Any:
    """The `TrialConfig` that `config` is the resolved form of."""
    from ablate_core.config import TrialConfig

    return TrialConfig.model_validate(config)


def load_object(name: str) -> Any:
    """``module:attribute`` as an object."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def choose_device(wanted: str, gpus: float) -> str:
    """``cuda`` when the attempt was given (a share of) a GPU that torch can use, else ``cpu``; `wanted` wins."""
    if wanted != "auto":
        return wanted
    if not gpus:
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether host or device memory ran out."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def cpu_seconds() -> float:
    """CPU seconds of this process and of those it waited for, such as the compiler that `train.compile` starts."""
    return sum(os.times()[:4])


def peak_memory_mb() -> float:
    """Peak resident memory of this process in MiB."""
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def checkpoint_step(folder: Path) -> int | None:
    """Step of the checkpoint the trainer will resume from; None when it starts afresh or the file is unreadable."""
    file = folder / "checkpoint.pt"
    if not file.exists():
        return None
    import torch

    try:
        return int(torch.load(file, map_location="cpu", weights_only=True, mmap=True)["step"])  # mmap: reads no tensor
    except Exception:
        return None  # the trainer says what is wrong with it and goes back to an older one


def died(task: Task, step: int, exited: dict[str, Any]) -> Outcome:
    """The outcome of an attempt whose process ended without saying so."""
    name, code = exited["signal"], exited["code"]
    if name is None and code is None:
        return Outcome(task.key, "failed", step, "", "preempt", "WorkerDied", "the process that forks attempts died")
    if name is None:
        head = f"the process ended with code {code} in the middle of the trial"
        return Outcome(task.key, "failed", step, "", "crash", f"exit {code}", head)
    hint = " (the kernel does that when memory runs out)" if name == signal.SIGKILL.name else ""
    cause = "oom" if name == signal.SIGKILL.name else "crash"
    return Outcome(task.key, "failed", step, "", cause, name, f"the process was killed by {name}{hint}")
