"""The levels of an axis, by name, each as the overrides it stands for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from ablate.space.schema import Axis, Space
from ablate.space.source import Where, parse_value

NUMBER = re.compile(r"[+-]?(\d[\d_]*\.?\d*|\.\d+)([eE][+-]?\d+)?")


@dataclass(frozen=True)
class Level:
    """One level: what it lays over the config and where that was written; `by_path`: a value of the axis' path."""

    name: str
    overrides: dict[str, Any]
    where: Where
    by_path: bool = False


def axis_path(name: str, axis: Axis) -> str | None:
    """The path an axis' levels are values of; None where its levels are overrides."""
    if axis.path is not None:
        return axis.path
    plain = isinstance(axis.levels, list) or any(not isinstance(v, dict | None) for v in axis.levels.values())
    return name if plain else None


def axis_levels(name: str, axis: Axis) -> list[Level]:
    """All levels in the order written; names may repeat, which `checks` refuses."""
    path = axis_path(name, axis)
    at: Where = ("axes", name, "levels")
    found: list[Level] = []
    if isinstance(axis.levels, list):
        items: list[tuple[str | int, str, Any]] = [(i, level_text(v), v) for i, v in enumerate(axis.levels)]
    else:
        items = [(key, key, value) for key, value in axis.levels.items()]
    for key, level, value in items:
        overrides = dict(value or {}) if path is None else {path: value}
        found.append(Level(level, overrides, (*at, key), by_path=path is not None))
    return found


def level_text(value: Any) -> str:
    """How a value is written as the name of a level: ``true``, ``0.5``, ``plugin(prob=0.5)``, ``sigma_rel=0.1``."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "null"
    if isinstance(value, float):
        whole = value.is_integer() and abs(value) < 1e15
        return repr(int(value)) if whole else re.sub(r"e([+-])0+", r"e\1", repr(value))
    if isinstance(value, list):
        return "[" + ",".join(level_text(v) for v in value) + "]"
    if isinstance(value, dict):
        fields = ",".join(f"{k}={level_text(v)}" for k, v in value.items() if k != "name")
        name = str(value.get("name", ""))
        return f"{name}({fields})" if fields and name else fields or name
    return str(value)


def respelled(name: str) -> str:
    """A level, ``axis=level`` or ``level/level`` with its numbers as levels are called: ``1e-3`` is ``0.001``."""

    def part(text: str) -> str:
        axis, equals, level = text.rpartition("=")
        return f"{axis}{equals}{level_text(parse_value(level)) if NUMBER.fullmatch(level) else level}"

    return "/".join(map(part, name.split("/")))


class Levels:
    """Every axis of a space and its levels, looked up by name."""

    def __init__(self, space: Space) -> None:
        self.axes = space.axes
        self.of = {name: {level.name: level for level in axis_levels(name, axis)} for name, axis in space.axes.items()}
        self.baseline: dict[str, str | None] = {name: axis.baseline for name, axis in space.axes.items()}
        """The level of each axis that equals base; completed by the expansion, which can resolve configs."""

    def label(self, axis: str, level: str) -> str | None:
        """The declared label of a level, if it has one."""
        return self.axes[axis].label.get(level)

    def not_yet(self, choice: dict[str, str]) -> str | None:
        """Why a choice cannot run yet, if one of its levels is so declared."""
        for axis, level in choice.items():
            if reason := self.axes[axis].not_yet.get(level):
                return reason
        return None

    def unmet(self, choice: dict[str, str]) -> tuple[str, str, list[str]] | None:
        """The first need of a choice that it does not meet: (axis, other axis, levels of it that would do)."""
        for axis, level in choice.items():
            if level == self.baseline[axis]:
                continue
            for other, wanted in self.axes[axis].needs.items():
                names = [level_text(w) for w in wanted]
                if choice.get(other, self.baseline[other]) not in names:
                    return axis, other, names
        return None
