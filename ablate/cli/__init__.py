"""The command line: parse, call one room, print. Heavy imports live inside the commands."""

from __future__ import annotations

import atexit
import contextlib
import io
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from ablate.errors import AblateError, ExitCode

STARTERS = ("run", "eval", "confirm")
"""Commands that start Ray and trainings."""


def main() -> None:
    """Entry point of ``ablate``. Ends the process with one of `ExitCode`."""
    if not is_the_program():
        _run()
        return
    _print_whatever_it_is()
    if next((word for word in sys.argv[1:] if not word.startswith("-")), "") in STARTERS:
        leave_at_once()
    code: list[int] = []
    atexit.register(_leave, code)  # first, so that it is called last
    try:
        _run()
    except SystemExit as end:
        code += [int(end.code or 0)] if end.code is None or isinstance(end.code, int) else []
        raise


def _run() -> None:
    debug = "--debug" in sys.argv or os.environ.get("ABLATE_DEBUG") == "1"
    sys.argv = [word for word in sys.argv if word != "--debug"]
    code: int = ExitCode.COMPLETE
    try:
        code = _command()
    except AblateError as error:
        _complain(str(error), debug)
        code = error.exit_code
    except KeyboardInterrupt:
        _complain("interrupted; run the same command again", debug)
        code = ExitCode.INTERRUPTED
    except BrokenPipeError:
        from ablate.cli import present

        present.nobody_reads()
    except Exception as error:
        _complain(f"internal: {type(error).__name__}: {error} (the same command with --debug shows where)", debug)
        code = ExitCode.INTERNAL
    sys.exit(code)


def _command() -> int:
    """Call the command that the words name, and return its exit code. Raises AblateError for other words.

    Typer's own way of calling one ends an interrupted command without a word, and wrong words with several lines.
    """
    import typer
    from typer.main import get_command

    from ablate.cli.app import app

    if "_ABLATE_COMPLETE" in os.environ:  # the shell asks what a word may become
        app(prog_name="ablate")
    command = get_command(app)
    try:
        with command.make_context("ablate", sys.argv[1:]) as context:
            command.invoke(context)
    except typer.Exit as end:
        return end.exit_code
    except Exception as error:
        if not callable(getattr(error, "format_message", None)):  # Typer 0.29 has a click of its own, hidden
            raise
        if type(error).__name__ == "NoArgsIsHelpError":
            print(error, file=sys.stderr)
            return ExitCode.USAGE
        raise AblateError(_about_words(error)) from error
    return ExitCode.COMPLETE


def _about_words(error: Any) -> str:
    """What Typer says of words that it does not understand, as one line: the message and whose help to read."""
    message = error.format_message().rstrip(".")
    context = getattr(error, "ctx", None)
    help_of = f"{context.command_path if context else 'ablate'} --help"
    return f"{message[:1].lower()}{message[1:]}; see `{help_of}`"


def _print_whatever_it_is() -> None:
    """Letters that the encoding of standard output lacks are printed as ``\\u03b7``, which is no reason to end."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def leave_at_once() -> None:
    """Until a run has its own handlers, and after it, a signal ends this process on the spot.

    A KeyboardInterrupt in the middle of an import may be lost, or be told as another error. Nothing has to be undone:
    what has been begun ends with this process, and what has been recorded stays.
    """

    def leave(number: int, _frame: FrameType | None) -> None:
        what = "interrupted" if number == signal.SIGINT else f"preempted by {signal.Signals(number).name}"
        os.write(2, f"error: {what}; run the same command again to continue\n".encode())
        os._exit(ExitCode.INTERRUPTED if number == signal.SIGINT else ExitCode.PREEMPTED)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, leave)


def is_the_program() -> bool:
    """Whether this process is ours to end, and not one that has called `main`."""
    file = Path(getattr(sys.modules["__main__"], "__file__", None) or "")
    return file.stem == "ablate" or file == Path(__file__).parents[1] / "__main__.py"


def _leave(code: list[int]) -> None:
    """End before Python looks for cycles in all of torch and takes it apart: a fifth of the time that `plan` takes."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    if code:
        os._exit(code[0])


def _complain(message: str, debug: bool) -> None:
    if debug:
        import traceback

        traceback.print_exc()
    with contextlib.suppress(BrokenPipeError):
        print(f"error: {' '.join(message.split())}", file=sys.stderr, flush=True)
