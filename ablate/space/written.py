"""A config as a person writes it, with overrides laid over it and the origin of every part.

Rules of laying `value` over what is there (the same as inside ``objective: {...}``):

- mappings merge key by key; a dotted key reaches inside: ``train.steps: 10``;
- a component (a mapping with a ``name``, or a bare name) with *another* name replaces the whole component, so no
  hyperparameter of the old choice survives; with the same name, or none, it merges;
- anything else replaces.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from ablate.space.source import Where

Path = tuple[str, ...]


class Written:
    """A nested mapping of plain values that knows where each part was written.

    Attributes:
        data: the config as written, not yet validated.
        origins: config path -> where in the space file the value there was written.
    """

    def __init__(self, data: dict[str, Any] | None = None, origins: dict[Path, Where] | None = None) -> None:
        self.data: dict[str, Any] = data if data is not None else {}
        self.origins: dict[Path, Where] = origins if origins is not None else {}

    def copy(self) -> Written:
        return Written(copy.deepcopy(self.data), dict(self.origins))

    def lay(self, path: Path, value: Any, where: Where) -> None:
        """Lay `value` over `path`; `where` is its place in the file."""
        if len(path) > 1 and path[-1] == "name" and isinstance(value, str):
            path = path[:-1]  # naming a component is choosing it
        holder = self.data
        for part in path[:-1]:
            holder = _opened(holder, part)
        self._lay(holder, path, value, where)

    def _lay(self, holder: dict[str, Any], path: Path, value: Any, where: Where) -> None:
        key, present = path[-1], holder.get(path[-1])
        old, new = component_name(present), component_name(value)
        if isinstance(value, str) and isinstance(present, dict) and old == new:
            return  # the same component by its bare name: it keeps its fields
        if not isinstance(value, dict):
            self._put(holder, path, value, where)
            return
        if not mergeable(present, value):
            self._put(holder, path, {}, where)
        elif isinstance(present, str):
            holder[key] = {"name": present}
        inside = holder[key]
        self.origins.setdefault(path, where)
        for name, part in value.items():
            steps = tuple(name.split("."))
            if name == "name":
                inside["name"] = part
                self.origins[(*path, "name")] = (*where, "name")
                continue
            target = inside
            for step in steps[:-1]:
                target = _opened(target, step)
            self._lay(target, (*path, *steps), part, (*where, name))

    def _put(self, holder: dict[str, Any], path: Path, value: Any, where: Where) -> None:
        for known in [p for p in self.origins if p[: len(path)] == path]:
            del self.origins[known]
        holder[path[-1]] = value
        self.origins[path] = where

    def holds(self, path: Path, value: Any) -> bool:
        """Whether a leaf that was laid is still there; a component may have been given fields since."""
        present: Any = self.data
        for part in path[:-1] if len(path) > 1 and path[-1] == "name" else path:
            if not isinstance(present, dict) or part not in present:
                return False
            present = present[part]
        return present == value or value == {} or (isinstance(value, str) and component_name(present) == value)

    def origin(self, path: tuple[str | int, ...]) -> Where:
        """Where the value at a config path was written: that of the nearest enclosing part that was written."""
        for end in range(len(path), 0, -1):
            prefix = tuple(str(p) for p in path[:end])
            if prefix in self.origins:
                return (*self.origins[prefix], *path[end:])
        return ("base", *path)


def component_name(value: Any) -> str | None:
    """The name a value would choose as a component; None when it names nothing."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict) and isinstance(value.get("name"), str):
        return str(value["name"])
    return None


def mergeable(present: Any, value: dict[str, Any]) -> bool:
    """True where a mapping merges into what is present, False where it replaces it."""
    if not isinstance(present, dict | str):
        return False
    new = component_name(value)
    return new is None or new == component_name(present)


def leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every leaf of a nested mapping with its path; dotted keys are opened."""
    if isinstance(value, dict) and value:
        for key, part in value.items():
            yield from leaves(part, (*path, *str(key).split(".")))
    else:
        yield path, value


def _opened(holder: dict[str, Any], part: str) -> dict[str, Any]:
    """The mapping at `part`, made from a bare component name or from nothing where needed."""
    present = holder.get(part)
    if isinstance(present, str):
        holder[part] = {"name": present}
    elif not isinstance(present, dict):
        holder[part] = {}
    opened: dict[str, Any] = holder[part]
    return opened
