"""``ablate db``: look after the index of a store. The journals are the truth; these commands never change them."""

from __future__ import annotations

from typing import Annotated

import typer

from ablate.cli.options import JsonOption, StoreOption, store_root
from ablate.errors import ExitCode

app = typer.Typer(help="Check or rebuild the index of the store.", no_args_is_help=True, rich_markup_mode=None)


@app.command()
def check(store: StoreOption = None, json: JsonOption = False) -> None:
    """List what does not fit together: numbers without a trial, refused measurements, missing files. Exit code 3."""
    from ablate.cli import present
    from ablate.store import StorePaths
    from ablate.store import check as problems_of

    problems = problems_of(StorePaths(store_root(store)))
    if json:
        present.as_json(problems)
    else:
        for problem in problems:
            present.line(problem)
        present.line(present.count(len(problems), "problem"))
    raise typer.Exit(ExitCode.FAILED_TRIALS if problems else ExitCode.COMPLETE)


@app.command()
def rebuild(
    store: StoreOption = None,
    force: Annotated[bool, typer.Option("--force", help="Give up what lost journals held.")] = False,
) -> None:
    """Make the index anew from the journals. Refused where some of them are lost."""
    from ablate.cli import present
    from ablate.store import StorePaths
    from ablate.store import rebuild as make_anew

    paths = StorePaths(store_root(store))
    present.line(f"{paths.index}: rebuilt from {make_anew(paths, force=force):,} events")
