"""The command line: parse, call one room, print. Heavy imports live inside the commands."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
from pathlib import Path

from ablate.errors import AblateError, ExitCode


def main() -> None:
    """Entry point of ``ablate``. Ends the process with one of `ExitCode`."""
    if not is_the_program():
        _run()
        return
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
    from ablate.cli.app import app

    try:
        app()
    except AblateError as error:
        _complain(str(error), debug)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        _complain("interrupted; run the same command again to continue", debug)
        sys.exit(ExitCode.INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output (less, head) went away: nothing is wrong
        sys.exit(ExitCode.COMPLETE)
    except Exception as error:
        _complain(f"internal: {type(error).__name__}: {error} (the same command with --debug shows where)", debug)
        sys.exit(ExitCode.INTERNAL)


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
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
