"""Members run in turn, each in a thread of its own, and meet wherever one asks for something that can be shared.

One thread runs at any time: the conductor hands the turn to one member after another and goes on when it is given
back, so nothing here needs a lock, and whatever a member does between two meetings is an ordinary program. Threads and
not generators, because torch keeps the modes of autograd, autocast and forward differentiation per thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class StoppedError(BaseException):
    """Raised inside a member that is to end because the whole pack ends; not an Exception, so nobody swallows it."""


def _taken() -> threading.Lock:
    """A lock that one side waits for and the other side opens: a semaphore at zero, in one system call."""
    lock = threading.Lock()
    lock.acquire()
    return lock


@dataclass(eq=False)
class Player(Generic[T]):
    """One member: its program, what it asks for while it waits, and how it ended.

    Attributes:
        number: its place in the pack, from 0.
        program: what it runs, given the player itself.
        asked: the question it waits with; None while it runs.
        answer: what `ask` returns, or raises where it is an exception.
        ended: what the program returned or raised; None while it lives.
    """

    number: int
    program: Callable[[Player[T]], T]
    asked: Any = None
    answer: Any = None
    ended: tuple[T | None, BaseException | None] | None = None
    _go: threading.Lock = field(default_factory=_taken)
    _back: threading.Lock = field(default_factory=_taken)
    _thread: threading.Thread | None = None

    def ask(self, question: Any) -> Any:
        """Wait until the conductor answers `question`; called by the member's own program."""
        self.asked = question
        self._back.release()
        self._go.acquire()
        answer, self.answer = self.answer, None
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def turn(self) -> None:
        """Let the member run until it asks or ends; called by the conductor."""
        self.asked = None
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=f"member-{self.number}", daemon=True)
            self._thread.start()
        else:
            self._go.release()
        self._back.acquire()
        if self.ended is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            self.ended = (self.program(self), None)
        except BaseException as error:  # whatever it is belongs to this member, and the conductor looks at it
            self.ended = (None, error)
        self._back.release()


Serve = Callable[[Sequence[Player[T]]], Sequence[Player[T]]]
"""Given all living members, each with what it asked: answers some of them and returns those."""


def conduct(players: Sequence[Player[T]], serve: Serve[T], shares: Shares) -> None:
    """Run all members to their ends. `serve` is called whenever every living member waits.

    Raises:
        BaseException: what stopped the conductor (an interrupt, say), or what a member ended with where that is no
            Exception; the other members are ended first, by `StoppedError` where they wait.
    """
    living, ready = list(players), list(players)
    shares.among(len(living))
    try:
        while living:
            for player in ready:
                player.turn()
                if player.ended is not None:
                    living.remove(player)
                    shares.among(len(living))
                    error = player.ended[1]
                    if error is not None and not isinstance(error, Exception):
                        raise error
            ready = list(serve(living)) if living else []
    except BaseException:
        for player in living:
            player.answer = StoppedError("the pack was stopped")
            while player.ended is None and player._thread is not None:
                player.turn()
        raise


class Shares:
    """CPU seconds of the process, divided equally among the members that live at the time."""

    def __init__(self) -> None:
        self._count, self._since, self._each = 1, time.process_time(), 0.0

    def among(self, count: int) -> None:
        """From now on among `count` members."""
        self._each, self._since = self.seconds(), time.process_time()
        self._count = max(count, 1)

    def seconds(self) -> float:
        """The share of a member that has lived from the beginning until now."""
        return self._each + (time.process_time() - self._since) / self._count
