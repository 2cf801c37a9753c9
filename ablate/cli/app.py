"""The Typer application: one thin function per command, each in its own module."""

from __future__ import annotations

from typing import Annotated

import typer

from ablate import __version__
from ablate.cli import (
    check,
    compare,
    components,
    confirm,
    db,
    doctor,
    evaluate,
    importance,
    ls,
    plan,
    published,
    report,
    run,
    schema,
    show,
)

EPILOG = (
    "Exit codes: 0 every planned trial complete; 1 internal error; 2 usage or invalid space; "
    "3 finished with failed trials, or `db check` found problems; 4 budget or time limit; 5 too many failures; "
    "6 a claim fails; 7 a claim is undecided; 75 preempted, run again; 130 interrupted."
)

app = typer.Typer(
    name="ablate",
    help="Find out which component choice of a one-step diffusion model matters.",
    epilog=EPILOG,
    no_args_is_help=True,
    rich_markup_mode=None,  # rich's help costs three times the start-up of all the rest
    pretty_exceptions_enable=False,
)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"ablate {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error (any position).")] = False,
) -> None:
    """Options of every command."""


for command in (
    run.run,
    plan.plan,
    report.report,
    compare.compare,
    check.check,
    confirm.confirm,
    importance.importance,
    ls.ls,
    show.show,
    components.components,
    published.published,
    doctor.doctor,
    schema.schema,
):
    app.command()(command)
app.command("eval")(evaluate.evaluate)
app.add_typer(db.app, name="db")
