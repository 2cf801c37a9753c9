"""The command line: parse, call one room, print. Heavy imports live inside the commands."""

from __future__ import annotations

import atexit
import gc
import os
import sys

from ablate.errors import AblateError, ExitCode


def main() -> None:
    """Entry point of ``ablate``. Ends the process with one of `ExitCode`."""
    debug = "--debug" in sys.argv or os.environ.get("ABLATE_DEBUG") == "1"
    sys.argv = [word for word in sys.argv if word != "--debug"]
    from ablate.cli.app import app

    atexit.register(gc.freeze)  # at its end Python looks for cycles in all of torch, a fifth of what `plan` takes
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


def _complain(message: str, debug: bool) -> None:
    if debug:
        import traceback

        traceback.print_exc()
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
