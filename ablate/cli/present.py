"""Printing: rich tables on a terminal, plain JSON for programs. NO_COLOR is honoured by rich itself."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

PATIENCE = 2.0
"""Seconds for which a command may be silent."""
WIDE = 200
"""Columns where there is no terminal."""


def console() -> Console:
    """Standard output as a rich console; wide and plain when it is not a terminal, so that pipes lose nothing."""
    from rich.console import Console

    class Piped(Console):
        """Rich would end the process, and with an error, when the reader of a pipe has gone."""

        def on_broken_pipe(self) -> None:
            nobody_reads()

    return Piped(highlight=False, width=None if sys.stdout.isatty() else WIDE)


def nobody_reads() -> None:
    """The reader of our output (less, head) has gone: nothing is wrong, and the command goes on unread to its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def slow(what: str) -> Iterator[None]:
    """Say on standard error what is being done once it has taken `PATIENCE`, so that nobody thinks that it hangs."""

    def tell() -> None:
        with contextlib.suppress(BrokenPipeError):
            print(f"{what} ...", file=sys.stderr, flush=True)

    timer = threading.Timer(PATIENCE, tell)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def table(
    title: str,
    head: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    right: Sequence[int] = (),
    whole: Sequence[int] = (),
    styles: Sequence[str] = (),
) -> None:
    """Print rows under a head. User text is never read as markup.

    Args:
        right: the columns aligned to the right.
        whole: those whose cells are not broken where the terminal is narrow, so that a key can be copied.
        styles: the style of each row's first cell; none: plain.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    out = Table(
        title=Text(title, style="bold") if title else None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False
    )
    for i, name in enumerate(head):
        out.add_column(name, justify="right" if i in right else "left", overflow="fold", no_wrap=i in whole)
    for i, row in enumerate(rows):
        first = styles[i] if i < len(styles) else ""
        out.add_row(*(Text("" if cell is None else str(cell), style="" if j else first) for j, cell in enumerate(row)))
    console().print(out)


def count(n: int, one: str, more: str = "") -> str:
    """``1 trial``, ``2 trials``; `more` where that is not `one` and an s."""
    return f"{n} {one if n == 1 else more or one + 's'}"


def line(text: str = "", style: str | None = None) -> None:
    """Print one line of text, never read as markup."""
    console().print(text, style=style, markup=False, soft_wrap=True)


def as_json(value: Any) -> None:
    """Print `value` as JSON with sorted keys; NaN and infinity are refused rather than printed as invalid JSON."""
    text(json.dumps(value, indent=2, sort_keys=True, allow_nan=False, default=str))


def text(lines: str) -> None:
    """Print text as it is."""
    try:
        print(lines, flush=True)
    except BrokenPipeError:
        nobody_reads()


def duration(seconds: float | None) -> str:
    """``93784`` -> ``26h 3m``; None -> ``unknown``."""
    if seconds is None:
        return "unknown"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h {minutes}m"
    return f"{minutes}m {rest}s" if minutes else f"{rest}s"
