"""What one process does: an attempt at a trial, or several trainings of equal shapes as one pack. No Ray here.

A member of a pack is an attempt like any other: lock, events, checkpoint, measurements and end of its own. It shares
the process and the arithmetic; what the process costs is split by the steps that each member made.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any

from ablate.launch.attempt import (
    Attempt,
    Context,
    Outcome,
    Send,
    Task,
    TrialBusyError,
    busy,
    load_config,
    load_object,
    prepare,
    run_attempt,
    trial_lock,
)
from ablate.store.journal import Journal
from ablate.store.paths import StorePaths


def forked_work(message: dict[str, Any], send: Send, should_stop: Callable[[], bool]) -> None:
    """Body of a forked process (see `forkserver`): do the ``tasks`` of the message, send progress and outcomes."""
    context = Context(**message["context"])
    with Journal(StorePaths(context.store), "attempt") as journal:
        run_work([Task(**task) for task in message["tasks"]], context, journal, send, should_stop)


def run_work(
    tasks: Sequence[Task], context: Context, journal: Journal, send: Send, should_stop: Callable[[], bool]
) -> None:
    """Do one task, or train several as a pack; ``{"outcome": {..., "task"}}`` is sent for each as it ends."""

    def ended(task: Task, outcome: Outcome) -> None:
        send({"outcome": {**outcome.to_dict(), "task": task.id}})

    if len(tasks) == 1:
        ended(tasks[0], run_attempt(tasks[0], context, journal, send=send, should_stop=should_stop))
    else:
        run_pack(tasks, context, journal, ended, send=send, should_stop=should_stop)


def run_pack(
    tasks: Sequence[Task],
    context: Context,
    journal: Journal,
    ended: Callable[[Task, Outcome], None],
    *,
    send: Send | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> None:
    """Make one attempt at each of `tasks`, all of them trainings, in one process.

    Args:
        tasks: the members; one that another process is training is left out, and fails.
        context, journal, send, should_stop: as in `attempt.run_attempt`.
        ended: told of each member's outcome.
    """
    with contextlib.ExitStack() as locks:
        free: list[Task] = []
        for task in tasks:
            folder = journal.paths.trial(task.key)
            folder.mkdir(parents=True, exist_ok=True)
            try:
                locks.enter_context(trial_lock(folder))
                free.append(task)
            except TrialBusyError as error:
                ended(task, busy(task, error))
        members = [Attempt(task, context, journal, send, should_stop, len(free)) for task in free]
        _Pack(members, context, ended).run()


class _Pack:
    def __init__(self, attempts: Sequence[Attempt], context: Context, ended: Callable[[Task, Outcome], None]) -> None:
        self.open = list(attempts)
        self.context, self.ended = context, ended

    def run(self) -> None:
        self.started, self.cpu = time.monotonic(), time.process_time()
        device, broken = prepare(self.context)
        for attempt in self.open:
            attempt.begin(device)
        if broken is not None:
            return self._all_failed(broken, "error")
        configs: dict[str, Any] = {}
        for attempt in [*self.open]:
            try:
                configs[attempt.task.id] = load_config(attempt.task.config)
            except Exception as error:
                self._end(attempt, attempt.failed(error), {}, 0.0)
        self._train(configs, device)
        return None

    def _train(self, configs: dict[str, Any], device: str) -> None:
        from ablate_core.packing import Member, PackError

        attempts = [*self.open]
        members = [Member(configs[a.task.id], a.folder, a.report, a.should_stop) for a in attempts]
        try:
            results = load_object(self.context.packer)(members, device=device) if members else []
        except Exception as error:
            return self._all_failed(error, "pack")
        steps = [_steps_made(a, result) for a, result in zip(attempts, results, strict=True)]
        for attempt, result, made in zip(attempts, results, steps, strict=True):
            failed = isinstance(result, Exception)
            cause = "pack" if isinstance(result, PackError) else "error"
            outcome, facts = (attempt.failed(result, cause), {}) if failed else attempt.trained(result)
            self._end(attempt, outcome, facts, made / sum(steps))
        return None

    def _all_failed(self, error: Exception, cause: str) -> None:
        """All that have not ended fail of one error; with cause ``pack`` each is tried again in smaller company."""
        share = 1 / max(len(self.open), 1)
        for attempt in [*self.open]:
            self._end(attempt, attempt.failed(error, cause), {}, share)

    def _end(self, attempt: Attempt, outcome: Outcome, facts: dict[str, Any], share: float) -> None:
        wall, cpu = time.monotonic() - self.started, time.process_time() - self.cpu
        self.open.remove(attempt)
        self.ended(attempt.task, attempt.end(outcome, facts, wall, cpu, share))


def _steps_made(attempt: Attempt, result: Any) -> int:
    """Optimiser steps of this attempt, at least one: what a member has cost is its part of all of them."""
    last = attempt.step if isinstance(result, Exception) else int(result.step)
    return max(last - (attempt.resumed_from or 0), 1)
