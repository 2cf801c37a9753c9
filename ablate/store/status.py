"""What state a trial is in, derived from its attempts: nobody writes a status down, so none can be stale."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from ablate.store.journal import machine, process_started

FINISHED = ("done", "diverged")
"""States that no further attempt is made from: a diverged trial is a result."""
SILENCE_SECONDS = 900.0
"""A process on another machine whose journal has been silent for longer counts as gone."""


@dataclass(frozen=True)
class AttemptFact:
    """An attempt as the index knows it; times are UTC, naive.

    Attributes:
        status: how it ended; None while nobody has said so.
        task: ``train``, or ``eval`` for the evaluation of a trial that is trained already.
        heard_at: last event of the journal that the attempt began in.
    """

    status: str | None
    task: str = "train"
    host: str | None = None
    pid: int | None = None
    machine: str | None = None
    process_started: int | None = None
    heard_at: datetime | None = None
    started_at: datetime | None = None
    reason: str | None = None
    error_type: str | None = None
    error_head: str | None = None


@dataclass(frozen=True)
class TrialState:
    """`status` is planned, running, done, diverged, failed, interrupted or lost; `reason` one line or None.

    `attempts` counts all of them; `failed` and `lost` those that ended so, which is what a retry policy is about.
    `error_type` is that of the newest attempt.
    """

    status: str
    reason: str | None = None
    attempts: int = 0
    failed: int = 0
    lost: int = 0
    error_type: str | None = None

    @property
    def finished(self) -> bool:
        return self.status in FINISHED


def attempt_status(fact: AttemptFact, alive: Callable[[AttemptFact], bool] | None = None) -> str:
    """How the attempt ended; ``running`` or ``lost`` when nobody has said so."""
    if fact.status is not None:
        return fact.status
    return "running" if (alive or is_alive)(fact) else "lost"


def trial_state(facts: Sequence[AttemptFact], alive: Callable[[AttemptFact], bool] | None = None) -> TrialState:
    """The state of a trial from its attempts, oldest first.

    Done if any attempt ended done; else diverged if any did; else running if one is alive; else what its newest attempt
    ended as; planned without any. An evaluation made later says nothing about the training.
    """
    facts = [fact for fact in facts if fact.task != "eval"]
    if not facts:
        return TrialState("planned")
    statuses = [attempt_status(fact, alive) for fact in facts]
    decisive = next((s for s in (*FINISHED, "running") if s in statuses), statuses[-1])
    fact = facts[len(statuses) - 1 - statuses[::-1].index(decisive)]
    return TrialState(
        decisive,
        _reason(decisive, fact),
        attempts=len(facts),
        failed=statuses.count("failed"),
        lost=statuses.count("lost"),
        error_type=facts[-1].error_type,
    )


def _reason(status: str, fact: AttemptFact) -> str | None:
    if status == "lost" and fact.status is None:
        heard = fact.heard_at or fact.started_at
        return f"{fact.host}:{fact.pid} is gone without a word since {heard:%Y-%m-%d %H:%M:%S} UTC"
    if status == "failed":
        parts = (fact.reason, fact.error_type, fact.error_head)
        return " ".join(": ".join(part for part in parts if part).split()) or None
    return fact.reason or None


def is_alive(fact: AttemptFact, now: datetime | None = None) -> bool:
    """Whether the process that started the attempt still lives.

    Where a pid means the same process (same boot, same pid namespace) the process table says so, and the start time
    tells the process from a later one with its pid. Elsewhere: its journal has been heard of within `SILENCE_SECONDS`.
    """
    if fact.pid is not None and fact.machine is not None and fact.machine == machine():
        started = process_started(fact.pid)
        return started is not None and fact.process_started in (None, started)
    if fact.pid is not None and fact.machine is None and machine() is None and fact.host == socket.gethostname():
        return _exists(fact.pid)  # no /proc on this system
    heard = fact.heard_at or fact.started_at
    if heard is None:
        return False
    return ((now or datetime.now(UTC).replace(tzinfo=None)) - heard).total_seconds() < SILENCE_SECONDS


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
