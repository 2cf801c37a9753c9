"""Checks of a space that need no expansion: every name it mentions exists, every expression can be read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ablate.space.describe import unknown_part
from ablate.space.expressions import Expression, ExpressionError
from ablate.space.levels import Levels, axis_levels, axis_path, level_text
from ablate.space.problems import Problem, nearest
from ablate.space.published import published
from ablate.space.schema import (
    PER_ARM,
    Axis,
    CumulativePlan,
    GridPlan,
    LeaveOneOutPlan,
    ListPlan,
    OfatPlan,
    PublishedTable,
    RandomPlan,
    Space,
)
from ablate.space.source import Where
from ablate.space.written import leaves
from ablate_core.config import TrialConfig

ARM_WORDS = ("preset", "not_yet")
"""Keys of a named arm that are neither an axis nor a path of the config."""


def reference_problems(space: Space) -> list[Problem]:
    """Every reference that leads nowhere, in no particular order."""
    return list(_Checks(space).all())


class _Checks:
    def __init__(self, space: Space) -> None:
        self.space = space
        self.levels = Levels(space)

    def all(self) -> Iterator[Problem]:
        if not self.space.axes and not self.space.plans:
            yield self.at((), "nothing varies; give `axes:` or a plan with named arms")
        if "seed" in self.space.base:
            yield self.at(("base", "seed"), "the seed is not part of a config here; use `seeds:`", key=True)
        yield from self.written_twice(self.space.base, ("base",))
        for name, preset in self.space.presets.items():
            yield from self.overrides(preset, ("presets", name), presets=True)
        yield from self.preset_cycles()
        for name, axis in self.space.axes.items():
            yield from self.axis(name, axis)
        for i, constraint in enumerate(self.space.constraints):
            yield from self.expression(constraint.forbid, ("constraints", i, "forbid"))
        for text in self.space.resources.per_arm:
            yield from self.expression(text, ("resources", "per_arm", text), key=True)
        for name, plan in self.space.plans.items():
            yield from self.plan(plan, ("plans", name))
        yield from self.fidelity()
        yield from self.published()
        for group in ("match", "except"):
            for i, path in enumerate(self.space.fair.match if group == "match" else self.space.fair.except_):
                yield from self.path(path, ("fair", group, i))

    def at(self, where: Where, message: str, *, key: bool = False) -> Problem:
        return Problem(self.space.source.mark(where, key=key), message)

    # -- overrides, paths and expressions

    def path(self, path: str, where: Where, *, key: bool = False) -> Iterator[Problem]:
        parts = tuple(path.split("."))
        if parts[0] == "seed":
            yield self.at(where, "the seed is not part of a config here; use `seeds:`", key=key)
        elif reason := unknown_part(TrialConfig, parts):
            yield self.at(where, f"{path}: {reason}", key=key)

    def overrides(self, overrides: dict[str, Any] | None, where: Where, *, presets: bool) -> Iterator[Problem]:
        yield from self.written_twice(overrides or {}, where)
        for key, value in (overrides or {}).items():
            if key == "preset" and presets:
                yield from self.preset(value, (*where, key))
                continue
            top = tuple(key.split("."))
            deeper = leaves(value, top) if isinstance(value, dict) else iter([(top, value)])
            wrong = next((p for p, _ in deeper if unknown_part(TrialConfig, p)), None)
            if top[0] == "seed":
                yield self.at((*where, key), "the seed is not part of a config here; use `seeds:`", key=True)
            elif wrong is not None:
                message = f"{'.'.join(wrong)}: {unknown_part(TrialConfig, wrong)}"
                yield self.at((*where, key, *wrong[len(top) :]), message, key=True)

    def written_twice(self, overrides: Mapping[str, Any], where: Where) -> Iterator[Problem]:
        """One field in one mapping under two keys, such as ``train.lr`` beside ``train: {lr: ...}``."""
        seen: dict[tuple[str, ...], str] = {}
        for key, value in overrides.items():
            for path, _ in leaves(value, tuple(key.split("."))):
                if path in seen:
                    what = f"{'.'.join(path)} is written twice, by {seen[path]!r} and {key!r}; leave one of them out"
                    yield self.at((*where, key), what, key=True)
                seen[path] = key

    def preset(self, value: Any, where: Where) -> Iterator[Problem]:
        for name in value if isinstance(value, list) else [value]:
            if name not in self.space.presets:
                yield self.at(where, nearest("preset", name, self.space.presets))

    def preset_cycles(self) -> Iterator[Problem]:
        for start in self.space.presets:
            chain = [start]
            while isinstance(name := self.space.presets.get(chain[-1], {}).get("preset"), str):
                if name == start:
                    yield self.at(("presets", start), f"preset {start!r} contains itself", key=True)
                if name in chain:
                    break
                chain.append(name)

    def expression(self, text: str, where: Where, *, key: bool = False) -> Iterator[Problem]:
        source = self.space.source
        try:
            for path, column in Expression(text).names():
                if reason := unknown_part(TrialConfig, path):
                    yield Problem(source.mark_inside(where, column, key=key), f"in {text!r}: {reason}")
        except ExpressionError as error:
            yield Problem(source.mark(where, key=key), str(error))

    # -- axes

    def axis(self, name: str, axis: Axis) -> Iterator[Problem]:
        at: Where = ("axes", name)
        levels = axis_levels(name, axis)
        names = [level.name for level in levels]
        if not levels:
            yield self.at(at, f"axis {name!r} is empty; give it at least one level", key=True)
            return
        for i, level in enumerate(levels):
            if level.name in names[:i]:
                yield self.at(level.where, f"axis {name!r} has the level {level.name!r} twice")
        path = axis_path(name, axis)
        if path is not None and axis.path is None and unknown_part(TrialConfig, (path.split(".")[0],)):
            reason = "is no part of a config; give it a `path:`, or write its levels as overrides"
            yield self.at(at, f"axis {name!r} {reason}", key=True)
        elif path is not None:
            yield from self.path(path, (*at, "path") if axis.path else at, key=not axis.path)
        else:
            for level in levels:
                yield from self.overrides(level.overrides, level.where, presets=True)
        for group, mentioned in (("label", list(axis.label)), ("not_yet", list(axis.not_yet))):
            for level_name in mentioned:
                if level_name not in names:
                    yield self.at((*at, group, level_name), nearest(f"level of {name!r}", level_name, names), key=True)
        shown = [axis.label.get(level_name, level_name) for level_name in names]
        for level_name in axis.label:
            if level_name in names and shown.count(axis.label[level_name]) > 1:
                yield self.at((*at, "label", level_name), f"{axis.label[level_name]!r} is what two levels are called")
        if axis.baseline is not None and axis.baseline not in names:
            yield self.at((*at, "baseline"), nearest(f"level of {name!r}", axis.baseline, names))
        if axis.when is not None:
            yield from self.expression(axis.when, (*at, "when"))
        yield from self.needs(name, axis)

    def needs(self, name: str, axis: Axis) -> Iterator[Problem]:
        for other, wanted in axis.needs.items():
            at: Where = ("axes", name, "needs", other)
            if other not in self.levels.of or other == name:
                yield self.at(at, nearest("other axis", other, [a for a in self.levels.of if a != name]), key=True)
                continue
            for level in wanted:
                yield from self.level(other, level, at)

    def level(self, axis: str, level: Any, where: Where) -> Iterator[Problem]:
        if axis not in self.levels.of:
            yield self.at(where, nearest("axis", axis, self.levels.of), key=True)
        elif level_text(level) not in self.levels.of[axis]:
            yield self.at(where, nearest(f"level of {axis!r}", level_text(level), self.levels.of[axis]))

    # -- plans and fidelity

    def plan(self, plan: object, at: Where) -> Iterator[Problem]:
        match plan:
            case ListPlan(arms=arms):
                if not arms:
                    yield self.at(at, f"plan {at[1]!r} is empty; name at least one arm", key=True)
                for name, arm in arms.items():
                    yield from self.named_arm(arm or {}, (*at, "arms", name))
            case GridPlan(axes=axes) | OfatPlan(axes=axes) | RandomPlan(axes=axes):
                yield from self.plan_axes(axes, at)
            case LeaveOneOutPlan(full=full):
                yield from self.steps([full], [(*at, "full")], at)
            case CumulativePlan(order=order):
                yield from self.steps(order, [(*at, "order", i) for i in range(len(order))], at)

    def plan_axes(self, axes: list[str] | dict[str, list[Any]] | None, at: Where) -> Iterator[Problem]:
        names = list(self.space.axes) if axes is None else list(axes)
        if not names:
            reason = "the space has no axes" if axes is None else "name at least one axis"
            yield self.at(at, f"plan {at[1]!r} is empty; {reason}", key=True)
        for i, name in enumerate(axes or []):
            where: Where = (*at, "axes", name if isinstance(axes, dict) else i)
            if name not in self.levels.of:
                yield self.at(where, nearest("axis", name, self.levels.of), key=True)
            elif name in names[:i]:
                yield self.at(where, f"axis {name!r} is named twice", key=True)
            elif isinstance(axes, dict):
                if not axes[name]:
                    yield self.at(where, f"axis {name!r} is empty here; name at least one of its levels", key=True)
                for j, level in enumerate(axes[name]):
                    yield from self.level(name, level, (*where, j))

    def steps(self, steps: list[dict[str, Any]], wheres: list[Where], at: Where) -> Iterator[Problem]:
        if not steps or not all(steps):
            yield self.at(at, f"plan {at[1]!r} is empty; every step names {{axis: level}}", key=True)
        for step, where in zip(steps, wheres, strict=True):
            for axis, level in step.items():
                yield from self.level(axis, level, (*where, axis))

    def named_arm(self, arm: dict[str, Any], at: Where) -> Iterator[Problem]:
        raw: dict[str, Any] = {}
        for key, value in arm.items():
            if key in self.levels.of and not isinstance(value, dict):
                yield from self.level(key, value, (*at, key))
            elif key == "not_yet":
                if not isinstance(value, str) or not value:
                    yield self.at((*at, key), f"{key}: a sentence, got {value!r}")
            elif key not in ("preset", *self.levels.of) and unknown_part(TrialConfig, (key.split(".")[0],)):
                known = [*self.levels.of, *ARM_WORDS, *TrialConfig.model_fields]
                yield self.at((*at, key), nearest("axis, preset or config key", key, known), key=True)
            else:
                raw[key] = value
        if "not_yet" not in arm:
            yield from self.overrides(raw, at, presets=True)

    def fidelity(self) -> Iterator[Problem]:
        fidelity = self.space.fidelity
        if fidelity.run is not None and fidelity.run not in fidelity.levels:
            yield self.at(("fidelity", "run"), nearest("fidelity level", fidelity.run, fidelity.levels))
        for name, level in fidelity.levels.items():
            at: Where = ("fidelity", "levels", name)
            yield from self.overrides({k: v for k, v in (level or {}).items() if k != PER_ARM}, at, presets=True)
            for text, overrides in (level or {}).get(PER_ARM, {}).items():
                yield from self.expression(text, (*at, PER_ARM, text), key=True)
                yield from self.overrides(overrides, (*at, PER_ARM, text), presets=True)

    def published(self) -> Iterator[Problem]:
        for i, part in enumerate(self.space.published):
            if not isinstance(part, PublishedTable):
                continue
            if part.table not in (tables := published().tables):
                yield self.at(("published", i, "table"), nearest("published table", part.table, tables))
                continue
            entries = tables[part.table].entries
            for arm, entry in part.arms.items():
                if entry not in entries:
                    message = nearest(f"entry of {part.table}", entry, entries)
                    yield self.at(("published", i, "arms", arm), message)
