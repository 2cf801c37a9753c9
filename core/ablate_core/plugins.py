"""Components from outside. A plug-in is a module that defines components; importing it registers them, as it does ours.

Found by an entry point of the group `GROUP` that an installed distribution declares, or named by a person. Names are
those of an import statement, never paths: what is not importable is not run.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import metadata
from importlib.machinery import EXTENSION_SUFFIXES, SOURCE_SUFFIXES
from inspect import isabstract
from keyword import iskeyword
from pathlib import Path
from typing import Any, NamedTuple

from ablate_core.component import Component, NameClashError, axes

GROUP = "ablate.components"
AUTOLOAD = "ABLATE_PLUGIN_AUTOLOAD"
"""Environment variable; 0: installed plug-ins are left alone, those that are named are still imported."""


class PluginError(ValueError):
    """A plug-in cannot be used; one line that says which one, why, and how to mend it."""


class Release(NamedTuple):
    """What a plug-in was installed as; both None for a module that only lies on the import path."""

    distribution: str | None = None
    version: str | None = None

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}"


@dataclass(frozen=True)
class Plugin:
    """An imported plug-in: what an attempt records of it.

    Attributes:
        module: its importable name.
        release: what it was installed as.
        sha256: of the files of its `home` when it was imported. Recorded, and in no key: as with our own code.
    """

    module: str
    release: Release
    sha256: str

    def to_dict(self) -> dict[str, Any]:
        return {**self.release._asdict(), "sha256": self.sha256}


class Home(NamedTuple):
    """Where the code of a plug-in lies: its outermost package that is no namespace, or the one file of the module."""

    name: str
    path: Path


_loaded: dict[str, Plugin] = {}


def discover() -> dict[str, Release]:
    """The modules that installed distributions declare under `GROUP`, by name; nothing is imported."""
    if os.environ.get(AUTOLOAD) == "0":
        return {}
    return _declared(tuple(sys.path))


@cache
def _declared(path: tuple[str, ...]) -> dict[str, Release]:
    points = sorted(metadata.entry_points(group=GROUP), key=lambda point: point.module)
    return {p.module: Release(p.dist.name, p.dist.version) if p.dist else Release() for p in points}


def load(modules: Iterable[str], releases: Mapping[str, Iterable[str | None]] | None = None) -> tuple[Plugin, ...]:
    """Import plug-ins, each once, in order. A plug-in that fails leaves nothing behind and may be tried again.

    Args:
        modules: importable names.
        releases: what they are known to be installed as, for copies that travelled without their metadata.

    Raises:
        PluginError: for the first that is no name of a module, does not import, clashes or registers nothing.
    """
    return tuple(_load(module, Release(*(releases or {}).get(module, ()))) for module in dict.fromkeys(modules))


def loaded() -> tuple[Plugin, ...]:
    """The plug-ins that this process has loaded, by name."""
    return tuple(_loaded[module] for module in sorted(_loaded))


def home(module: str) -> Home:
    """The home of an imported plug-in: what is hashed, and what travels to another machine."""
    parts = module.split(".")
    for end in range(1, len(parts) + 1):
        name = ".".join(parts[:end])
        found = sys.modules[name]
        file = getattr(found, "__file__", None)
        if file is not None:  # a namespace package has none
            return Home(name, Path(file).parent if hasattr(found, "__path__") else Path(file))
    raise PluginError(f"plug-in {module}: has no file; name the module that defines its components")


def check_name(module: object) -> str:
    """`module`, if it is written as in an import statement. Raises PluginError."""
    parts = module.split(".") if isinstance(module, str) else [""]
    if not all(part.isidentifier() and not iskeyword(part) for part in parts):
        raise PluginError(f"plug-in {module!r}: is no name of a module; write it as in an import, e.g. my_lab.paths")
    return ".".join(parts)


def components(module: str | None = None) -> Iterator[type[Component]]:
    """Every component that is not ours, or those that come from the home of one loaded plug-in."""
    root = None if module is None else home(module).name
    for _, name, cls in _registered():
        if not f"{name}.".startswith("ablate_core.") if root is None else f"{name}.".startswith(f"{root}."):
            yield cls


def plugin_of(cls: type[Component]) -> str | None:
    """The loaded plug-in that a component comes from, else the top-level package it is defined in; None for ours."""
    for module in _loaded:
        if f"{cls.__module__}.".startswith(f"{home(module).name}."):
            return module
    root = cls.__module__.partition(".")[0]
    return None if root == "ablate_core" else root


def _registered() -> list[tuple[str, str, type[Component]]]:
    """(axis, defining module, class) of every registered component."""
    return [(axis, cls.__module__, cls) for axis, base in axes().items() for cls in base.choices.values()]


def _load(module: str, release: Release) -> Plugin:
    if module not in _loaded:
        _import(check_name(module))
        _loaded[module] = Plugin(module, _installed(module), _digest(home(module)))
    if _loaded[module].release.distribution is None and release.distribution is not None:
        _loaded[module] = replace(_loaded[module], release=release)
    return _loaded[module]


def _import(module: str) -> None:
    importlib.import_module("ablate_core.config")  # ours come first, so that a clash is the plug-in's
    choices = {axis: dict(base.choices) for axis, base in axes().items()}
    before, fresh = set(sys.modules), module not in sys.modules
    try:
        importlib.import_module(module)
        if not any(components(module)) and not (fresh and any(c != axes()[a].choices for a, c in choices.items())):
            raise PluginError(f"plug-in {module}: registers no component; name the module that defines them")
        for cls in filter(isabstract, components(module)):
            lacks = ", ".join(sorted(getattr(cls, "__abstractmethods__", ())))
            raise PluginError(f"plug-in {module}: {cls.axis} {cls.__qualname__} of {cls.__module__} lacks {lacks}")
    except (Exception, SystemExit) as error:
        roots = {module.partition(".")[0]}
        for axis, base in axes().items():
            for name in base.choices.keys() - choices.get(axis, {}).keys():
                roots.add(base.choices.pop(name).__module__.partition(".")[0])
        for name in [n for n in sys.modules if n not in before and n.partition(".")[0] in roots]:
            del sys.modules[name]
        if isinstance(error, PluginError):
            raise
        raise PluginError(" ".join(f"plug-in {module}: {_reason(module, error)}".split())) from error


def _reason(module: str, error: BaseException) -> str:
    if isinstance(error, NameClashError):
        return str(error)
    if isinstance(error, ModuleNotFoundError) and error.name and f"{module}.".startswith(f"{error.name}."):
        return f"no module is named {error.name!r}; install the plug-in, or put its folder on PYTHONPATH"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith("<")]
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    said = f"{type(error).__name__}: {error}".rstrip(": ")
    return f"does not import: {said}{'' if isinstance(error, SyntaxError) else place}; mend it, or leave it out"


def _installed(module: str) -> Release:
    """What holds the module: the distribution of its entry point, or the only one that has its top-level name."""
    if module in (declared := discover()):
        return declared[module]
    root = module.partition(".")[0]
    holders = set(metadata.packages_distributions().get(root, ()))
    if len(holders) == 1:
        name = holders.pop()
        return Release(name, metadata.version(name))
    return Release()


def _digest(where: Home) -> str:
    """SHA-256 over names and bytes of everything that can be imported from there."""
    total = hashlib.sha256()
    for file in _importable(where.path):
        content = file.read_bytes()
        name = file.relative_to(where.path.parent).as_posix()
        total.update(f"{name}\0{len(content)}\0".encode() + content)
    return total.hexdigest()


def _importable(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    found = []
    for folder, folders, files in os.walk(path):
        folders[:] = [name for name in folders if name.isidentifier() and name != "__pycache__"]
        found += [Path(folder, name) for name in files if name.endswith((*SOURCE_SUFFIXES, *EXTENSION_SUFFIXES))]
    return sorted(found)
