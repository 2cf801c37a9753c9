"""One reason against a config."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Problem:
    """One reason against a config.

    Attributes:
        code: the constraint, ``C1`` to ``C31``.
        level: an error refuses the config, a warning is shown.
        where: dotted path of the field to change.
        message: what is wrong and why, one sentence.
        nearest: the nearest legal choice, as ``path: value``; None where there is none to name.
    """

    code: str
    level: Literal["error", "warning"]
    where: str
    message: str
    nearest: str | None = None

    def __str__(self) -> str:
        mend = f"; nearest: {self.nearest}" if self.nearest else ""
        return f"{self.code} {self.where}: {self.message}{mend}"
