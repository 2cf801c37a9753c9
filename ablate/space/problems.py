"""What is wrong with a space, and where: every problem is one line that begins with ``file:line:column``."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ablate.errors import SpaceError

MISSING = "is required"
MOST_LISTED = 24


@dataclass(frozen=True, order=True)
class Mark:
    """A place a person can put the cursor on. Lines and columns count from 1; 0 is "the file as a whole"."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


@dataclass(frozen=True)
class Problem:
    """One mistake: where it was written and what is wrong with it."""

    mark: Mark
    message: str

    def __str__(self) -> str:
        return f"{self.mark}: {' '.join(self.message.split())}"


def refuse(problems: Iterable[Problem]) -> None:
    """Raise SpaceError for the problems, sorted by place: the first is the message, all of them its `problems`.

    What is missing comes last: a key that is misspelt is missing too, and the misspelling is what has to be mended.
    """
    found = sorted(dict.fromkeys(problems), key=lambda p: (p.message.endswith(MISSING), p.mark, p.message))
    if found:
        lines = tuple(str(p) for p in found)
        more = f" (+{len(lines) - 1} more)" if len(lines) > 1 else ""
        raise SpaceError(lines[0] + more, problems=lines)


def nearest(what: str, name: object, known: Iterable[str]) -> str:
    """One sentence for a misspelt name: the nearest known ones, or what there is when none is near."""
    names = list(dict.fromkeys(known))
    near = difflib.get_close_matches(str(name), names, n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {listed(names)}"
    return f"no {what} is named {str(name)!r}; {hint}"


def listed(names: Sequence[str]) -> str:
    """The names in a row, of many the first: a grid has thousands of arms, and a mistake is one line."""
    if len(names) <= MOST_LISTED:
        return ", ".join(names) or "none"
    shown = names[: MOST_LISTED - 1]
    return ", ".join((*shown, f"{len(names) - len(shown)} more"))
