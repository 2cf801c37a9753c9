"""Finds and reads a space file, with what it extends, and checks everything that needs no expansion."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML

import ablate
from ablate.errors import SpaceError
from ablate.space.checks import reference_problems
from ablate.space.describe import Loc, model_fields_at, problems_of
from ablate.space.plugins import load_plugins
from ablate.space.problems import Problem, nearest, refuse
from ablate.space.schema import LONGEST_NAME, NAME, PER_ARM, Space
from ablate.space.source import Source, Where, read_file, read_text
from ablate.space.written import Written

OWN_KEYS = ("name", "question", "extends")
"""What a file does not pass on to the files that extend it."""


def load_space(
    path_or_builtin_name: str | Path, *, overrides: Sequence[str] = (), plugins: Sequence[str] = ()
) -> Space:
    """Read a space file, or a built-in space by its bare name.

    Args:
        path_or_builtin_name: a YAML file, or one of `builtin_names`.
        overrides: ``path=value`` pairs laid over every arm last (``train.steps=200``); they change the keys.
        plugins: modules with components, imported first; beside those installed, of ABLATE_PLUGINS and of the file.

    Raises:
        SpaceError: with one line ``file:line:column: ...`` for the first mistake; all of them are its `problems`.
        AblateError: a plug-in that the file does not name cannot be used.
    """
    path = find_space(path_or_builtin_name)
    shown = str(path_or_builtin_name) if Path(path_or_builtin_name) == path else str(path)
    source = _with_parents(read_file(path, shown), path, (path.resolve(),))
    return _validated(source, path.stem, overrides, plugins)


def space_from_text(
    text: str, *, name: str = "space", overrides: Sequence[str] = (), plugins: Sequence[str] = ()
) -> Space:
    """A space from YAML text, for notebooks and tests; `extends:` is refused, since there is no folder."""
    source = read_text(text, f"<{name}>")
    if source.data.get("extends"):
        refuse([Problem(source.mark(("extends",), key=True), "extends: needs a file; text has no folder")])
    return _validated(source, name, overrides, plugins)


def builtin_folder() -> Path | None:
    """The folder of the built-in spaces: beside the package in a clone, under share/ when installed."""
    beside = Path(ablate.__file__).resolve().parent.parent / "spaces"
    for folder in (beside, Path(sys.prefix) / "share" / "ablate" / "spaces"):
        if folder.is_dir():
            return folder
    return None


def builtin_names() -> list[str]:
    """Names of the built-in spaces, usable in place of a path."""
    folder = builtin_folder()
    return sorted(p.stem for p in folder.glob("*.yaml")) if folder else []


def find_space(path_or_name: str | Path) -> Path:
    """The file meant by a path or a built-in name. Raises SpaceError naming the nearest built-in ones."""
    path = Path(path_or_name)
    if path.exists() and not (path.is_dir() and str(path_or_name) in builtin_names()):
        return path
    folder, name = builtin_folder(), str(path_or_name)
    if folder and name in builtin_names():
        return folder / f"{name}.yaml"
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        raise SpaceError(f"{name}: no such file")
    raise SpaceError(f"{name}: no such file, and {nearest('built-in space', name, builtin_names())}")


def _validated(source: Source, stem: str, overrides: Sequence[str], plugins: Sequence[str]) -> Space:
    misnamed: list[Problem] = []
    if "name" not in source.data and not (re.search(NAME, stem) and len(stem) <= LONGEST_NAME):
        why = "a name has letters, digits and . _ -, begins with one of the first two and is not longer than"
        message = f"the file's name {stem!r} cannot name the space; add `name:` ({why} {LONGEST_NAME})"
        misnamed, stem = [Problem(source.mark(()), message)], "space"  # so that the other mistakes are found, too
    data: dict[str, Any] = {"name": stem, **source.data}

    def show(loc: Loc) -> Loc:
        return source.within(loc)

    def fields(loc: Loc) -> list[str]:
        return model_fields_at(Space, loc)

    try:
        space = Space.model_validate(data)
    except ValidationError as error:
        refuse([*misnamed, *problems_of(error, lambda loc, key: source.mark(loc, key=key), fields, show)])
        raise AssertionError from error
    refuse(misnamed)
    space._source, space._overrides = source, tuple(overrides)
    space._loaded = load_plugins(plugins, [(name, source.mark(("plugins", i))) for i, name in enumerate(space.plugins)])
    refuse(reference_problems(space))
    return space


def _with_parents(child: Source, path: Path, chain: tuple[Path, ...]) -> Source:
    named = child.data.get("extends", [])
    names = [named] if isinstance(named, str) else named
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        refuse([Problem(child.mark(("extends",)), "extends: a file, or a list of files")])
    merged: Source | None = None
    for i, name in enumerate(names):
        mark = child.mark(("extends", i))
        parent_path = path.parent / name
        if parent_path.resolve() in chain:
            names_seen = " -> ".join(p.name for p in (*chain, parent_path))
            refuse([Problem(mark, f"extends: a file cannot extend itself ({names_seen})")])
        if not parent_path.is_file():
            refuse([Problem(mark, f"extends: no such file: {parent_path}")])
        source = _with_parents(read_file(parent_path), parent_path, (*chain, parent_path.resolve()))
        merged = source if merged is None else merge(merged, source)
    if merged is None:
        return child
    both = merge(merged, child)
    both.text = _dump(both.data)
    return both


def merge(parent: Source, child: Source) -> Source:
    """Lay one file over another: mappings merge, everything else is replaced, overrides merge as overrides do."""
    merged = Source(child.file, child.text, {})
    sides = {"parent": parent, "child": child}
    for key in OWN_KEYS:
        if key in child.data:
            _take(merged, merged.data, (key,), child)
    _merge(merged, merged.data, (), sides)
    return merged


def _merge(merged: Source, into: dict[str, Any], at: Where, sides: dict[str, Source]) -> None:
    below, above = (_dig(side.data, at) for side in sides.values())
    for key in dict.fromkeys([*below, *above]):
        where = (*at, key)
        if key in OWN_KEYS and not at:
            continue
        if key in below and key in above and above[key] is None:
            continue  # `key:` with nothing after it takes back what the parent said
        if key not in above:
            _take(merged, into, where, sides["parent"])
        elif not _both_merge(where, below.get(key), above[key]):
            _take(merged, into, where, sides["child"])
        elif _is_overrides(where):
            _merge_overrides(merged, into, where, sides)
        else:
            into[key] = {}
            merged.places[where] = sides["child"].places[where]
            _merge(merged, into[key], where, sides)


def _both_merge(where: Where, below: Any, above: Any) -> bool:
    mappings = isinstance(below, dict) and isinstance(above, dict)
    return mappings and not (len(where) == 2 and where[0] == "plans" and below.get("kind") != above.get("kind"))


def _is_overrides(where: Where) -> bool:
    named = (len(where) == 2 and where[0] == "presets") or (len(where) == 3 and where[:2] == ("fidelity", "levels"))
    return named or where == ("base",)


def _merge_overrides(merged: Source, into: dict[str, Any], where: Where, sides: dict[str, Source]) -> None:
    written = Written()
    for name, side in sides.items():
        for key, value in _dig(side.data, where).items():
            if key != PER_ARM:
                written.lay(tuple(key.split(".")), value, (name, *where, key))
    into[where[-1]] = written.data  # type: ignore[index]
    merged.places[where] = sides["child"].places[where]
    for path, origin in written.origins.items():
        merged.places[(*where, *path)] = sides[str(origin[0])].places[origin[1:]]
    if any(PER_ARM in _dig(side.data, where) for side in sides.values()):
        _merge_per_arm(merged, written.data, where, sides)


def _merge_per_arm(merged: Source, into: dict[str, Any], where: Where, sides: dict[str, Source]) -> None:
    """Overrides by expression, which may hold dots: those of one expression merge, the others stand side by side."""
    at = (*where, PER_ARM)
    given = {name: _dig(side.data, where).get(PER_ARM) or {} for name, side in sides.items()}
    into[PER_ARM] = {}
    merged.places[at] = sides["child" if given["child"] else "parent"].places[at]
    for text in dict.fromkeys([*given["parent"], *given["child"]]):
        holders = [name for name in sides if text in given[name]]
        if len(holders) == len(sides):
            _merge_overrides(merged, into[PER_ARM], (*at, text), sides)
        else:
            _take(merged, into[PER_ARM], (*at, text), sides[holders[0]])


def _take(merged: Source, into: dict[str, Any], where: Where, side: Source) -> None:
    into[where[-1]] = _dig(side.data, where)  # type: ignore[index]
    for place, marks in side.places.items():
        if place[: len(where)] == where:
            merged.places[place] = marks


def _dig(data: Any, where: Where) -> Any:
    for part in where:
        data = data[part]
    return data


def _dump(data: dict[str, Any]) -> str:
    stream = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.dump(data, stream)
    return stream.getvalue()
