"""`Pool`: which slots there are and whether one more is wanted, wherever slots are. No Ray here."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

from ablate.errors import ClusterError

BRISK_SECONDS = 5.0
"""What a slot costs a core before it does anything."""


class Monitor(Protocol):
    """What the driver wants to know while slots work; all calls come from the thread that started them."""

    def begun(self) -> None:
        """Slots are about to be started."""

    def report(self, news: dict[str, Any]) -> None:
        """What has happened since the last call: `Queue.news`."""

    def tick(self) -> None:
        """Called several times a second."""

    def over(self) -> bool:
        """True ends the run: nothing new is started."""


class Pool:
    """The slots of a run.

    Args:
        ask: calls a method of the run's `Queue`, near or far.
        most: how many slots there may be.
        at_once: how many may be starting at the same time, and how many there may be whatever work takes.
        monitor: told of everything.
    """

    def __init__(self, ask: Callable[..., dict[str, Any]], most: int, at_once: int, monitor: Monitor) -> None:
        self.ask, self.most, self.at_once, self.monitor = ask, most, at_once, monitor
        self.live: set[str] = set()
        self.starting: set[str] = set()
        self.error = ""
        self.broken: ClusterError | None = None
        self.since = 0.0
        self.done = 0
        self.news = ask("news")

    def wanted(self) -> bool:
        """One more, as long as more work waits than slots are about to come for it."""
        room = len(self.live) < self.most and len(self.starting) < self.at_once
        return (
            room and self.news["ready"] > len(self.starting) and not (len(self.live) >= self.at_once and self.brisk())
        )

    def brisk(self) -> bool:
        """Work is done faster than a slot starts: one more would take from the others what it costs to start."""
        worked = time.monotonic() - self.since if self.since else 0.0
        return worked < BRISK_SECONDS or worked * len(self.live) < BRISK_SECONDS * self.done

    def finished(self) -> bool:
        """No slot will be wanted any more."""
        return self.over() or (not self.live and not self.news["ready"])

    def over(self) -> bool:
        return self.broken is not None or self.hopeless() or self.monitor.over()

    def hopeless(self) -> bool:
        """Every worker dies before it takes anything: there is no point in starting more."""
        return bool(self.news["idle_deaths"] >= 2 + min(self.most, self.at_once))

    def check(self) -> None:
        """Raises ClusterError where there was no point in going on."""
        if self.broken is not None:
            raise self.broken
        if self.hopeless():
            raise ClusterError(f"workers die before they take any work: {self.error}; `ablate doctor` may know why")

    def add(self, name: str) -> None:
        self.live.add(name)
        self.starting.add(name)

    def up(self, name: str) -> None:
        self.starting.discard(name)

    def ended(self, name: str) -> None:
        self.live.discard(name)
        self.starting.discard(name)

    def died(self, name: str, error: str) -> None:
        self.ended(name)
        self.error = error
        self.hear("release", name, error)

    def hear(self, method: str = "news", *arguments: Any) -> None:
        """Ask the queue for its news. A queue that is gone ends the run: Tune hides what is raised where it calls."""
        try:
            self.news = self.ask(method, *arguments)
        except ClusterError as error:
            self.broken = error
            return
        self.done += len(self.news["ended"])
        if self.news["progress"] or self.news["ended"]:  # a slot that is up may wait for a process to import torch
            self.since = self.since or time.monotonic()
        self.monitor.report(self.news)
