"""A slot of the cluster: `Slot` works through what the run's queue gives it, `TrialSlot` is Ray Tune's view of one.

A Tune trial is a slot, not a trial of ours: a long-lived worker that takes work from the queue until none is left.
Ray's start-up is paid once per slot, and Tune, which starts a few trials a second, never stands between two of ours.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from ablate.launch.attempt import Task
from ablate.launch.runners import ActorRunner, ProcessRunner, Runner, SlotSettings

POLL_SECONDS = 0.2
IDLE_SECONDS = 0.5
"""How long a slot with nothing to do waits before it asks again: a training may end whose evaluations it can make."""
CLEANUP_SECONDS = 8.0
"""Tune kills a worker that takes longer than 10 seconds to clean up."""


class Desk(Protocol):
    """Where a slot gets its work: a `queue.Queue`, near or far."""

    def exchange(
        self,
        slot: str,
        ended: Sequence[dict[str, Any]],
        progress: Sequence[dict[str, Any]],
        wants: bool,
        stopping: bool,
    ) -> dict[str, Any]: ...


class Slot:
    """Works through a queue; `step` is called again and again until it says that nothing will come any more."""

    def __init__(self, name: str, settings: SlotSettings, desk: Desk, runner: Runner) -> None:
        self.name, self.settings, self.desk, self.runner = name, settings, desk, runner
        self.busy = False
        self.waiting: deque[list[dict[str, Any]]] = deque()
        self.ended: list[dict[str, Any]] = []
        self.progress: dict[str, dict[str, Any]] = {}
        self.asked_to_stop = self.last_asked = 0.0

    def step(self) -> bool:
        """Work, or watch what works, for about `report_seconds`. True: there is nothing left to do."""
        deadline = time.monotonic() + self.settings.report_seconds
        while time.monotonic() < deadline:
            if not self.busy and self._next():
                return True
            if not self.busy:
                time.sleep(min(IDLE_SECONDS, self.settings.report_seconds))
                continue
            self._heed_stop()
            for message in self.runner.poll(POLL_SECONDS):
                self._take(message)
        if self.ended or self.progress:
            self._exchange(wants=False)
        return False

    def _next(self) -> bool:
        """Start what was given, or ask for more. True: none will come."""
        if not self.waiting or self._stop() is not None:
            reply = self._exchange(wants=True)
            self.waiting = deque(reply["works"])
            if not self.waiting:
                return bool(reply["over"])
        self.busy, self.asked_to_stop = True, 0.0
        self.runner.start([Task(**task) for task in self.waiting.popleft()])
        return False

    def _exchange(self, wants: bool) -> dict[str, Any]:
        ended, progress = self.ended, [*self.progress.values()]
        self.ended, self.progress = [], {}
        return self.desk.exchange(self.name, ended, progress, wants, self._stop() is not None)

    def _take(self, message: dict[str, Any]) -> None:
        if progress := message.get("progress"):
            self.progress[progress["task"]] = progress
        if outcome := message.get("outcome"):
            self.progress.pop(outcome["task"], None)
            self.ended.append(outcome)
        if message.get("free"):
            self.busy = False

    def _stop(self) -> str | None:
        """``stop`` or ``drain`` once the driver wants nothing new. A file reaches every worker of a shared store."""
        try:
            with open(self.settings.stop_file, encoding="ascii") as file:
                return file.read()
        except OSError:
            return None

    def _heed_stop(self) -> None:
        """Pass a stop on to what works, again every second (a fork may not listen yet); kill it after the grace."""
        if self._stop() in (None, "drain"):
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

    def close(self) -> None:
        """The slot is ended: an attempt that has only just started may still write down that it was interrupted."""
        if self.busy:
            self.runner.stop()
            deadline = time.monotonic() + min(self.settings.stop_grace, CLEANUP_SECONDS)
            while time.monotonic() < deadline and not any("free" in m for m in self.runner.poll(POLL_SECONDS)):
                pass
        self.runner.close()


def open_slot(name: str, settings: SlotSettings, desk: Desk) -> Slot:
    """A slot with the runner that `settings.isolation` asks for."""
    runner: Callable[[SlotSettings], Runner] = ProcessRunner if settings.isolation == "process" else ActorRunner
    return Slot(name, settings, desk, runner(settings))
