"""Arguments and options that several commands share, and how a setting is resolved.

Precedence: flag > environment (``ABLATE_*``) > space file > ``ablate.toml`` > default.
"""

from __future__ import annotations

import math
import os
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ablate.errors import AblateError, ExitCode

SpaceArgument = Annotated[
    str, typer.Argument(help="A space file, or the bare name of a built-in space.", show_default=False)
]
StoreOption = Annotated[
    Path | None,
    typer.Option("--store", help="Folder of results [env: ABLATE_HOME; default: runs].", show_default=False),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON (stable, documented in docs/json.md).")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", "-S", help="Override a config value, e.g. train.steps=200.", show_default=False),
]
FidelityOption = Annotated[
    str | None, typer.Option("--fidelity", help="A fidelity level of the space.", show_default=False)
]
SeedsOption = Annotated[
    str | None, typer.Option("--seeds", help="Seeds instead of the space's, e.g. 0,1,2.", show_default=False)
]
PlanOption = Annotated[
    list[str] | None, typer.Option("--plan", help="Only these plans of the space.", show_default=False)
]
PluginOption = Annotated[
    list[str] | None,
    typer.Option(
        "--plugin",
        help="A module that defines components, e.g. my_lab.paths; repeatable [env: ABLATE_PLUGINS].",
        show_default=False,
    ),
]
GpusOption = Annotated[
    float | None, typer.Option("--gpus", help="Cap of GPUs in use at once; 0: use CPUs.", show_default=False)
]
GpusPerTrialOption = Annotated[
    float | None, typer.Option("--gpus-per-trial", help="Share of a GPU per trial, e.g. 0.25.", show_default=False)
]
CpusPerTrialOption = Annotated[
    float | None, typer.Option("--cpus-per-trial", help="CPU cores per trial.", show_default=False)
]
IsolationOption = Annotated[
    Literal["process", "actor"] | None,
    typer.Option("--isolation", help="A fresh process per trial, or the worker itself.", show_default=False),
]
PackOption = Annotated[
    str | None,
    typer.Option(
        "--pack", help="Trainings of equal shapes that share a process: auto, or at most N.", show_default=False
    ),
]
MaxConcurrentOption = Annotated[
    int | None, typer.Option("--max-concurrent", help="Cap of trials running at once.", show_default=False)
]
RetryOption = Annotated[
    Literal["failed", "oom", "crash", "all"] | None,
    typer.Option("--retry", help="Train again what failed before.", show_default=False),
]
TimeLimitOption = Annotated[
    str | None,
    typer.Option("--time-limit", help="Stop cleanly after this long, e.g. 30m or 24h.", show_default=False),
]
AddressOption = Annotated[
    str | None, typer.Option("--address", help="A Ray cluster [env: RAY_ADDRESS].", show_default=False)
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before starting.")]
OnlyOption = Annotated[list[str] | None, typer.Option("--only", help="Only these arms (globs).", show_default=False)]


def setting(name: str, flag: Any, *from_space: Any, default: Any = None) -> Any:
    """One setting by precedence.

    Args:
        name: key in ``ablate.toml``; the environment variable is ``ABLATE_<NAME>``.
        flag: the command line's value, None when not given.
        from_space: the space file's value, None when not given.
        default: what holds when nobody said anything.

    Raises:
        AblateError: the variable or the file says what cannot be; the message names it.
    """
    if flag is not None:
        return flag
    variable = f"ABLATE_{name.upper()}"
    if text := os.environ.get(variable):
        return SETTINGS[name](text, variable)
    for value in (*from_space, _toml().get(name)):
        if value is not None:
            return value
    return default


def store_root(flag: Path | None) -> Path:
    """The store's folder: flag > ABLATE_HOME > ``ablate.toml: store`` > ``runs``. AblateError where a file is there."""
    from ablate.store.paths import DEFAULT_ROOT, ENVIRONMENT_VARIABLE

    from_environment, from_file = os.environ.get(ENVIRONMENT_VARIABLE), _toml().get("store")
    places = {"--store": flag, ENVIRONMENT_VARIABLE: from_environment, "ablate.toml: store": from_file}
    where, chosen = next(((where, chosen) for where, chosen in places.items() if chosen), ("the store", DEFAULT_ROOT))
    root = Path(os.path.expanduser(chosen))
    there = next((path for path in (root, *root.parents) if os.path.exists(path)), None)
    if there is not None and not there.is_dir():
        raise AblateError(f"{where} {chosen}: {there} is a file, and a store is a folder; name another")
    return root


def plugin_names(flag: list[str] | None) -> list[str]:
    """Plug-ins of ``ablate.toml`` (``plugins = [...]``) and of the command line; they add up, see `space.plugins`."""
    return [*_toml().get("plugins", []), *(flag or [])]


def number(value: object, where: str) -> float | None:
    """A number given as a flag, in the environment or in a file; AblateError for anything else."""
    if value is None:
        return None
    try:
        found = float(str(value))
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise AblateError(f"{where}: {value!r} is not a number")
    return found


def pack_size(value: object, where: str = "--pack") -> int | Literal["auto"] | None:
    """``auto`` or a number of members of a pack; AblateError for anything else."""
    if value is None:
        return None
    if value == "auto":
        return "auto"
    try:
        size = int(str(value))
    except ValueError:
        size = 0
    if size < 1:
        raise AblateError(f"{where}: {value}: write auto, or the most trials that share a process (1: each alone)")
    return size


def _isolation(value: object, where: str) -> str:
    if value not in ("process", "actor"):
        raise AblateError(f"{where}: {value!r} is neither process nor actor")
    return str(value)


def _folder(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise AblateError(f"{where}: {value!r} is no folder; write store = 'runs'")
    return value


def _modules(value: object, where: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise AblateError(f'{where} is a list of modules, plugins = ["my_lab.paths"]')
    return value


SETTINGS: dict[str, Callable[[object, str], Any]] = {
    "store": _folder,
    "plugins": _modules,
    "gpus": number,
    "gpus_per_trial": number,
    "cpus_per_trial": number,
    "isolation": _isolation,
    "pack": pack_size,
}
"""What ``ablate.toml`` may say: key -> what makes a value of it, told where it stands; AblateError for a wrong one."""


def seconds(text: str | None) -> float | None:
    """``90s``, ``30m``, ``24h``, ``2d`` or plain seconds."""
    if text is None:
        return None
    unit = {"s": 1, "m": 60, "h": 3600, "d": 86400}.get(text[-1:], 0)
    try:
        return float(text[:-1]) * unit if unit else float(text)
    except ValueError:
        raise AblateError(f"--time-limit {text!r}: write 90s, 30m, 24h or 2d") from None


def seed_list(text: str | None) -> list[int] | None:
    """``"0,1,2"`` or ``"0-4"`` -> list of seeds; AblateError for anything else."""
    if text is None:
        return None
    from ablate.space.schema import LARGEST_SEED, MAX_SEEDS

    seeds: list[int] = []
    for part in text.split(","):
        low, dash, high = part.strip().partition("-")
        if not all(end.isascii() and end.isdigit() for end in ((low, high) if dash else (low,))):
            raise AblateError(f"--seeds {text!r}: write seeds as 0,1,2 or 0-4")
        if any(len(end) > len(str(LARGEST_SEED)) or int(end) > LARGEST_SEED for end in (low, high or low)):
            raise AblateError(f"--seeds {text!r}: a seed is at most {LARGEST_SEED}")
        some = range(int(low), int(high or low) + 1)
        if not some:
            raise AblateError(f"--seeds {text!r}: {part.strip()} is an empty range; write the smaller seed first")
        if len(seeds) + some.stop - some.start > MAX_SEEDS:  # `len(some)` overflows where a range is longest
            raise AblateError(f"--seeds {text!r}: at most {MAX_SEEDS:,} seeds")
        seeds += some
    if len(set(seeds)) != len(seeds):
        raise AblateError(f"--seeds {text!r}: name each seed once")
    return seeds


def _toml() -> dict[str, Any]:
    """The settings of the file in this folder. All are checked: a misspelt one would do nothing."""
    path = Path("ablate.toml")
    if not path.is_file():
        return {}
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise AblateError(f"{path}: {error}; mend or remove the file") from None
    for name in found:
        if name not in SETTINGS:
            from ablate.space.problems import nearest

            raise AblateError(f"{path}: {nearest('setting', name, SETTINGS)}")
    return {name: SETTINGS[name](value, f"{path}: {name}") for name, value in found.items()}


def launch_settings(
    gpus: float | None,
    gpus_per_trial: float | None,
    cpus_per_trial: float | None,
    isolation: str | None,
    time_limit: str | None,
) -> dict[str, Any]:
    """The fields of `RunOptions` that every command that launches takes alike: the flag, else its default."""
    return {
        "gpus": number(setting("gpus", gpus, default=None), "--gpus"),
        "gpus_per_trial": number(setting("gpus_per_trial", gpus_per_trial), "--gpus-per-trial"),
        "cpus_per_trial": number(setting("cpus_per_trial", cpus_per_trial), "--cpus-per-trial"),
        "isolation": setting("isolation", isolation, default="process"),
        "time_limit": seconds(time_limit),
    }


def ask_to_start(agreed: bool) -> None:
    """Ask a person on a terminal, unless `agreed`; no, or the end of what is typed, ends the command."""
    if agreed or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return
    try:
        start = typer.confirm("start?", default=True)
    except typer.Abort:
        start = False
        typer.echo(err=True)  # the question's line has no end
    if not start:
        typer.echo("nothing was started", err=True)
        raise typer.Exit(ExitCode.INTERRUPTED)
