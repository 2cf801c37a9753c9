"""Members run in turn, each in a thread of its own, and meet wherever one asks for something that can be shared.

One thread runs at any time: the turn goes from one member to the next and back to the conductor, which answers. So
nothing here needs a lock against others, and whatever a member does between two meetings is an ordinary program.
Threads and not generators, because torch keeps the modes of autograd, autocast and forward differentiation per thread.
The conductor has a thread of its own too: an interrupt (Python raises it in the main thread, between any two
instructions) meets only a caller who waits, and never a turn that is half given.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

T = TypeVar("T")
LOOK_SECONDS = 1.0
"""How often the main thread wakes, so that it sees a signal that another thread was given by the system."""


class StoppedError(BaseException):
    """Raised inside a member that is to end because the whole pack ends; not an Exception, so nobody swallows it."""


def _taken() -> threading.Lock:
    """A lock that one side waits for and the other side opens: a semaphore at zero, in one system call."""
    lock = threading.Lock()
    lock.acquire()
    return lock


class Turn:
    """Whose turn it is: a member that waits or ends gives it to the next in `queue`, the last one to the conductor.

    Straight from member to member, because a thread that is woken costs more than what most of them do in a turn.

    Attributes:
        queue: who has not had the turn that is being given.
        stopped: the pack is to end as soon as all members wait.
    """

    def __init__(self) -> None:
        self.stopped = False
        self.queue: deque[Player[Any]] = deque()
        self._conductor = _taken()

    def give(self, players: Iterable[Player[Any]]) -> None:
        """Let these members run, one after another, until each waits or has ended; called by the conductor."""
        self.queue.extend(players)
        self.pass_on()
        self._conductor.acquire()

    def pass_on(self) -> None:
        if self.queue:
            self.queue.popleft().go_on()
        else:
            self._conductor.release()


@dataclass(eq=False)
class Player(Generic[T]):
    """One member: its program, what it asks for while it waits, and how it ended.

    Attributes:
        number: its place in the pack, from 0.
        program: what it runs, given the player itself.
        turn: the turn that all members of a pack have in common.
        asked: the question it waits with; None while it runs.
        answer: what `ask` returns, or raises where it is an exception.
        ended: what the program returned or raised; None while it lives.
    """

    number: int
    program: Callable[[Player[T]], T]
    turn: Turn
    asked: Any = None
    answer: Any = None
    ended: tuple[T | None, BaseException | None] | None = None
    thread: threading.Thread | None = None
    _go: threading.Lock = field(default_factory=_taken)

    def ask(self, question: Any) -> Any:
        """Wait until the conductor answers `question`; called by the member's own program."""
        self.asked = question
        self.turn.pass_on()
        self._go.acquire()
        answer, self.answer = self.answer, None
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def go_on(self) -> None:
        self.asked = None
        if self.thread is None:
            self.thread = threading.Thread(target=self._run, name=f"member-{self.number}", daemon=True)
            self.thread.start()
        else:
            self._go.release()

    def _run(self) -> None:
        try:
            self.ended = (self.program(self), None)
        except BaseException as error:  # whatever it is belongs to this member, and the conductor looks at it
            self.ended = (None, error)
        self.turn.pass_on()


Serve = Callable[[Sequence[Player[T]]], Sequence[Player[T]]]
"""Given all living members, each with what it asked: answers some of them and returns those."""


def conduct(players: Sequence[Player[T]], serve: Serve[T], shares: Shares, turn: Turn) -> None:
    """Run all members to their ends. `serve` is called whenever every living member waits.

    Raises:
        BaseException: an interrupt of the caller, what `serve` raised, or what a member ended with where that is no
            Exception; the other members are ended first, by `StoppedError` where they wait.
    """
    finished, ends = _taken(), list[BaseException | None]()

    def run() -> None:
        try:
            _conducted(players, serve, shares, turn)
            ends.append(None)
        except BaseException as error:
            ends.append(error)
        finished.release()

    thread = threading.Thread(target=run, name="conductor", daemon=True)
    try:
        thread.start()
        while not ends:
            finished.acquire(timeout=LOOK_SECONDS)
    except BaseException:
        turn.stopped = True
        while thread.ident is not None and not ends:  # one that has not begun will see that there is nothing to do
            time.sleep(0.01)
        if ends:
            thread.join()
        raise
    thread.join()
    if ends[0] is not None:
        raise ends[0]


def _conducted(players: Sequence[Player[T]], serve: Serve[T], shares: Shares, turn: Turn) -> None:
    living, ready = list(players), list(players)
    while living:
        if turn.stopped:
            return _stop(living, turn)
        shares.among(len(living))
        turn.give(ready)
        ended = [player for player in living if player.ended is not None]
        living = [player for player in living if player.ended is None]
        for player in ended:
            assert player.ended is not None
            assert player.thread is not None
            player.thread.join()
            error = player.ended[1]
            if error is not None and not isinstance(error, Exception):
                _stop(living, turn)
                raise error
        try:
            ready = list(serve(living)) if living else []
        except BaseException:
            _stop(living, turn)
            raise
    return None


def _stop(living: Sequence[Player[Any]], turn: Turn) -> None:
    """End all members that wait."""
    for player in living:
        while player.ended is None and player.thread is not None:
            player.answer = StoppedError("the pack was stopped")
            turn.give([player])


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
