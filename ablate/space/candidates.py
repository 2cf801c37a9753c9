"""What each kind of plan asks for, before anything is resolved: named choices of levels, in order."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ablate.space.levels import Levels, level_text
from ablate.space.schema import (
    AnyPlan,
    CumulativePlan,
    GridPlan,
    LeaveOneOutPlan,
    ListPlan,
    OfatPlan,
    OnNeeds,
    RandomPlan,
)
from ablate.space.source import Where

MAX_CELLS = 10_000
"""A grid larger than this is a mistake or wants a random plan."""


@dataclass(frozen=True)
class Candidate:
    """One cell of a plan.

    Attributes:
        choice: axis -> level.
        own: overrides of a named arm beside its choice.
        where: where the cell was written.
        from_label: label of the cell of this plan it is compared with; None: the study's baseline.
        refused: why it cannot run, known before resolving (declared `not_yet`, unmet needs).
    """

    plan: str
    kind: str
    position: int
    label: str
    choice: dict[str, str]
    where: Where
    own: dict[str, Any] = field(default_factory=dict)
    axis: str | None = None
    level: str | None = None
    from_label: str | None = None
    refused: str | None = None


def candidates(name: str, plan: AnyPlan, levels: Levels) -> Iterator[Candidate]:
    """The cells of one plan in order. A random plan is an endless draw without replacement; the caller stops it."""
    match plan:
        case ListPlan():
            found = _list(name, plan, levels)
        case GridPlan():
            found = _grid(name, plan, levels)
        case OfatPlan():
            found = _ofat(name, plan, levels)
        case LeaveOneOutPlan():
            found = _leave_one_out(name, plan, levels)
        case CumulativePlan():
            found = _cumulative(name, plan, levels)
        case RandomPlan():
            found = _random(name, plan, levels)
    return found


def size(plan: AnyPlan, levels: Levels) -> int:
    """Cells of the full crossing of a grid or random plan."""
    assert isinstance(plan, GridPlan | RandomPlan)
    return math.prod(len(names) for names in _axes(plan.axes, levels).values())


def _axes(axes: list[str] | dict[str, list[Any]] | None, levels: Levels) -> dict[str, list[str]]:
    if isinstance(axes, dict):
        return {axis: [level_text(level) for level in some] for axis, some in axes.items()}
    return {axis: list(levels.of[axis]) for axis in (levels.of if axes is None else axes)}


def _part(levels: Levels, axis: str, level: str) -> str:
    return levels.label(axis, level) or f"{axis}={level}"


def _cell(levels: Levels, choice: dict[str, str]) -> str:
    return "/".join(levels.label(axis, level) or level for axis, level in choice.items())


def _list(name: str, plan: ListPlan, levels: Levels) -> Iterator[Candidate]:
    for position, (label, arm) in enumerate(plan.arms.items()):
        where: Where = ("plans", name, "arms", label)
        choice, own = dict[str, str](), dict[str, Any]()
        for key, value in (arm or {}).items():
            if key in levels.of and not isinstance(value, dict):
                choice[key] = level_text(value)
            elif key != "not_yet":
                own[key] = value
        refused = (arm or {}).get("not_yet") or levels.not_yet(choice) or _needs(levels, choice)
        yield Candidate(name, "list", position, label, choice, where, own, refused=refused)


def _needs(levels: Levels, choice: dict[str, str]) -> str | None:
    unmet = levels.unmet(choice)
    if unmet is None:
        return None
    axis, other, wanted = unmet
    return f"{axis}={choice[axis]} needs {other} to be {' or '.join(wanted)}"


def _grid(name: str, plan: GridPlan, levels: Levels) -> Iterator[Candidate]:
    axes = _axes(plan.axes, levels)
    for position, cell in enumerate(itertools.product(*axes.values())):
        choice = dict(zip(axes, cell, strict=True))
        refused = levels.not_yet(choice) or _needs(levels, choice)
        yield Candidate(name, "grid", position, _cell(levels, choice), choice, ("plans", name), refused=refused)


def base_label(plan: AnyPlan, levels: Levels) -> str | None:
    """How a plan around the base calls it: by its level where one axis alone varies."""
    if not isinstance(plan, OfatPlan) or len(axes := _axes(plan.axes, levels)) != 1:
        return None
    axis = next(iter(axes))
    level = levels.baseline[axis]
    return None if level is None else levels.label(axis, level) or level


def _ofat(name: str, plan: OfatPlan, levels: Levels) -> Iterator[Candidate]:
    position = 1  # the baseline is 0
    axes = _axes(plan.axes, levels)
    for axis, some in axes.items():
        for level in some:
            if level == levels.baseline[axis]:
                continue
            choice, refused = _mended({axis: level}, levels, plan.on_needs, keep=axis)
            refused = levels.not_yet({axis: level}) or refused
            where: Where = ("plans", name)
            label = _part(levels, axis, level) if len(axes) > 1 else levels.label(axis, level) or level
            yield Candidate(name, "ofat", position, label, choice, where, axis=axis, level=level, refused=refused)
            position += 1


def _mended(
    choice: dict[str, str], levels: Levels, on_needs: OnNeeds, keep: str | None = None
) -> tuple[dict[str, str], str | None]:
    """A choice whose needs are met by the rule of its plan, or the reason why they are not."""
    choice = dict(choice)
    for _ in range(2 * len(levels.of) + 1):
        unmet = levels.unmet(choice)
        if unmet is None:
            return choice, None
        axis, other, wanted = unmet
        if on_needs == "pull_in" and other != keep:
            choice[other] = wanted[0]
        elif on_needs == "drop_dependents" and axis != keep:
            del choice[axis]
        else:
            break
    return choice, _needs(levels, choice)


def _leave_one_out(name: str, plan: LeaveOneOutPlan, levels: Levels) -> Iterator[Candidate]:
    full = {axis: level_text(level) for axis, level in plan.full.items()}
    where: Where = ("plans", name, "full")
    refused = levels.not_yet(full) or _needs(levels, full)
    yield Candidate(name, "leave_one_out", 0, "full", full, where, refused=refused)
    for position, axis in enumerate(full, start=1):
        rest = {a: level for a, level in full.items() if a != axis}
        choice, unmet = _mended(rest, levels, plan.on_needs)
        also = [a for a in rest if a not in choice]
        label = f"-{_part(levels, axis, full[axis])}" + "".join(f", -{a}" for a in also)
        yield Candidate(
            name, "leave_one_out", position, label, choice, (*where, axis),
            axis=axis, level=full[axis], from_label="full", refused=levels.not_yet(choice) or unmet,
        )  # fmt: skip


def _cumulative(name: str, plan: CumulativePlan, levels: Levels) -> Iterator[Candidate]:
    so_far, label, before = dict[str, str](), "", None
    for position, step in enumerate(plan.order, start=1):
        added = {axis: level_text(level) for axis, level in step.items()}
        choice, unmet = _mended({**so_far, **added}, levels, plan.on_needs)
        label = f"{label} +{','.join(_part(levels, a, lv) for a, lv in added.items())}".strip()
        refused = levels.not_yet(choice) or unmet
        axis, level = next(iter(added.items())) if len(added) == 1 else (None, None)
        where: Where = ("plans", name, "order", position - 1)
        yield Candidate(
            name, "cumulative", position, label, choice, where,
            axis=axis, level=level, from_label=before, refused=refused,
        )  # fmt: skip
        so_far = choice
        if refused is None:
            before = label


def _random(name: str, plan: RandomPlan, levels: Levels) -> Iterator[Candidate]:
    axes = _axes(plan.axes, levels)
    total = math.prod(len(some) for some in axes.values())
    # A lazy Fisher-Yates shuffle of 0..total-1. Only `random()` is promised to repeat across versions of Python.
    generator, moved = random.Random(plan.seed), dict[int, int]()
    for position in range(total):
        pick = position + int(generator.random() * (total - position))
        index = moved.get(pick, pick)
        moved[pick] = moved.pop(position, position)
        choice = dict[str, str]()
        for axis, some in axes.items():
            index, digit = divmod(index, len(some))
            choice[axis] = some[digit]
        refused = levels.not_yet(choice) or _needs(levels, choice)
        yield Candidate(name, "random", position, _cell(levels, choice), choice, ("plans", name), refused=refused)
