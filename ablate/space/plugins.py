"""Which plug-ins count. They add up: what is installed, ABLATE_PLUGINS, what a person names, what a space file names.

Nothing overrides anything: a second component of one name is an error, whoever brought it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from ablate.errors import AblateError
from ablate.space.problems import Mark, Problem, refuse
from ablate_core import plugins
from ablate_core.plugins import PluginError

ENVIRONMENT_VARIABLE = "ABLATE_PLUGINS"


def load_plugins(named: Iterable[str] = (), in_space: Iterable[tuple[str, Mark]] = ()) -> tuple[str, ...]:
    """Import every plug-in that counts, so that its components can be named; called before a config is read.

    Args:
        named: modules named on the command line or by a program.
        in_space: those of a space file, each with its place there.

    Returns:
        The modules, each once: what workers have to import too.

    Raises:
        SpaceError: a plug-in of the space file cannot be used.
        AblateError: another one cannot.
    """
    listed = [name.strip() for name in os.environ.get(ENVIRONMENT_VARIABLE, "").split(",")]
    modules = [
        *(_one(module, installed=str(release)) for module, release in plugins.discover().items()),
        *(_one(module, f"{ENVIRONMENT_VARIABLE}: ") for module in listed if module),
        *(_one(module) for module in named),
        *(_one(module, mark=mark) for module, mark in in_space),
    ]
    return tuple(dict.fromkeys(modules))


def _one(module: str, origin: str = "", *, installed: str = "", mark: Mark | None = None) -> str:
    try:
        plugins.load([module])
    except PluginError as error:
        if mark is not None:
            refuse([Problem(mark, f"plugins: {error}")])
        if installed:
            raise AblateError(f"{error}; or uninstall {installed}, or set {plugins.AUTOLOAD}=0") from error
        raise AblateError(f"{origin}{error}") from error
    return module
