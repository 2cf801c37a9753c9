"""Errors a person can cause.

    AblateError                 one line, an exit code
    |- SpaceError               the space file is wrong (2)
    |- StoreError               the store cannot be used (2)
    |- ClusterError             the cluster cannot run the plan as asked (2)
    |- NotHereError             a named study, trial, arm or file does not exist (2)
    `- MetricMismatchError      numbers of different meaning were to be compared (2)

Every message is one line that says what is wrong, where, and how to mend it. The command line prints it after
``error:`` and ends with `exit_code`; ``--debug`` adds the traceback.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What the shell sees; documented in the README and in ``ablate --help``."""

    COMPLETE = 0
    INTERNAL = 1
    USAGE = 2
    FAILED_TRIALS = 3
    LIMIT = 4
    TOO_MANY_FAILURES = 5
    CLAIM_FAILS = 6
    CLAIM_UNDECIDED = 7
    PREEMPTED = 75
    INTERRUPTED = 130


class AblateError(Exception):
    """Something a person can mend."""

    exit_code: ExitCode = ExitCode.USAGE

    def __init__(self, message: str, exit_code: ExitCode | None = None) -> None:
        super().__init__(" ".join(message.split()))
        if exit_code is not None:
            self.exit_code = exit_code


class SpaceError(AblateError):
    """The space file is not valid; the message begins with ``file:line:column``, `problems` has a line for each."""

    def __init__(
        self, message: str, exit_code: ExitCode | None = None, *, problems: tuple[str, ...] | None = None
    ) -> None:
        super().__init__(message, exit_code)
        self.problems = problems or (str(self),)


class StoreError(AblateError):
    """The store is locked, newer than this program, or not a store."""


class ClusterError(AblateError):
    """The cluster lacks what was asked for."""


class NotHereError(AblateError):
    """A study, trial, arm or file that was named does not exist."""


class MetricMismatchError(AblateError):
    """Numbers of different metric identity, or measured under conditions that nobody asked for, were to be compared."""
