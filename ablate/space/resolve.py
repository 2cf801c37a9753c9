"""From choices to configs: base, then levels, then fidelity, then ``--set``, validated as one `TrialConfig`."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from ablate.errors import SpaceError
from ablate.space.describe import Loc, model_fields_at, problems_of, unknown_part
from ablate.space.expressions import Expression, ExpressionError
from ablate.space.levels import Levels
from ablate.space.problems import Mark, Problem, nearest, refuse
from ablate.space.schema import PER_ARM, Space
from ablate.space.source import Where, parse_value
from ablate.space.written import Path, Written, component_name, leaves
from ablate_core.config import TrialConfig
from ablate_core.methods import METHODS

FIRST_LOOK: dict[str, Any] = {
    "schedule": "linear",
    "architecture": {"name": "sit", "size": "tiny/4"},
    "data": "digits",
    "train": {"steps": 1000, "batch_size": 64, "lr": 2e-3, "betas": [0.9, 0.99], "ema": [0.99]},
}
"""What stands where a base says nothing: minutes on a CPU, enough to see whether a space does what was meant."""

FIRST_LOOK_EVAL: dict[str, dict[str, Any]] = {
    "digits": {"metric": "fd_digits", "samples": 2000},
    "gaussians": {"metric": "energy_distance", "samples": 4000},
}
"""How data that comes with the package is measured when the base does not say."""

SET = "--set"


@dataclass
class Resolved:
    """A choice made into a config, or the problems that stopped it.

    Attributes:
        choice: the active levels; inactive conditional axes have collapsed.
        inactive: conditional axes that were chosen and do not apply.
        touched: paths laid over the base by levels and the arm's own overrides.
        clash: what one of these says and another overwrites, else "".
    """

    config: TrialConfig | None
    written: Written
    choice: dict[str, str]
    inactive: list[str] = field(default_factory=list)
    touched: set[Path] = field(default_factory=set)
    problems: list[Problem] = field(default_factory=list)
    clash: str = ""

    @property
    def valid(self) -> TrialConfig:
        """The config, where there is one."""
        assert self.config is not None, self.problems
        return self.config


class Resolver:
    """Resolves the choices of one space at one fidelity."""

    def __init__(self, space: Space, levels: Levels, fidelity: str | None) -> None:
        self.space, self.levels, self.fidelity = space, levels, fidelity
        self.settings = [_setting(text, space) for text in space.overrides]
        self.sized = dict(space.fidelity.levels.get(fidelity or "") or {})
        self.sized_per_arm: dict[str, dict[str, Any]] = self.sized.pop(PER_ARM, {})
        self.when = {name: Expression(axis.when) for name, axis in space.axes.items() if axis.when is not None}
        self.base = Written()
        for key, value in FIRST_LOOK.items():
            self.base.lay((key,), value, ("base",))
        self._lay(self.base, space.base, ("base",))
        self._evaluation()

    def _evaluation(self) -> None:
        written = self.base.data.get("eval", {})
        if not isinstance(written, dict):
            return  # validation says so
        usual = FIRST_LOOK_EVAL.get(component_name(self.base.data["data"]) or "", {})
        named = self.space.metric.name
        metric = written.get("metric") or named or usual.get("metric")
        # another metric than the data's usual one: its sample count is not ours to choose
        defaults = dict(usual) if metric == usual.get("metric") else {"metric": metric}
        for key, value in defaults.items():
            if key not in written and value is not None:
                self.base.lay(("eval", key), value, ("metric",) if key == "metric" and named else ("base",))
        if self.space.stop.loss_above is not None:
            self.base.lay(("train", "diverged_above"), self.space.stop.loss_above, ("stop", "loss_above"))

    def resolve(self, choice: Mapping[str, str], own: dict[str, Any] | None = None, where: Where = ()) -> Resolved:
        """The config of a choice of levels plus an arm's own overrides, written at `where`.

        A level that chooses a whole component comes before one that sets a part of it, whatever the order of the axes.
        """
        written, touched = self.base.copy(), set[Path]()
        order = [a for a in self.space.axes if a in choice and a not in self.when]
        for axis in sorted(order, key=lambda axis: self._depth(axis, choice[axis])):
            touched |= self._level(written, axis, choice[axis])
        touched |= self._lay(written, own or {}, where)
        active, inactive = {a: choice[a] for a in order}, list[str]()
        for axis in (a for a in self.space.axes if a in choice and a in self.when):
            config, problems = self._validate(written)
            if config is None:
                return Resolved(None, written, dict(choice), problems=problems)
            if self._holds(self.when[axis], config, ("axes", axis, "when")):
                touched |= self._level(written, axis, choice[axis])
                active[axis] = choice[axis]
            else:
                inactive.append(axis)
        clash = self._clash(written, active, own or {})
        config, problems = self._finished(written)
        return Resolved(config, written, active, inactive, touched, problems, clash)

    def _depth(self, axis: str, level: str) -> int:
        """The shortest path that a level lays."""
        return min((len(path) for path, _ in self._leaves(self.levels.of[axis][level].overrides)), default=0)

    def _leaves(self, overrides: Mapping[str, Any]) -> Iterator[tuple[Path, Any]]:
        for key, value in overrides.items():
            if key == "preset":
                for name in value if isinstance(value, list) else [value]:
                    yield from self._leaves(self.space.presets[name])
            else:
                yield from leaves(value, tuple(key.split(".")))

    def _clash(self, written: Written, active: Mapping[str, str], own: Mapping[str, Any]) -> str:
        """A leaf of a chosen level that does not hold, because another level or the arm itself says otherwise."""
        said = {f"{axis}={level}": dict(self._leaves(self.levels.of[axis][level].overrides))
                for axis, level in active.items()}  # fmt: skip
        for who, mine in said.items():
            for path, value in mine.items():
                if written.holds(path, value):
                    continue
                others = {**said, "the arm itself": dict(self._leaves(own))}
                other = next((o for o, theirs in others.items() if o != who and _overlaps(path, theirs)), "a preset")
                return f"{who} and {other} both set {'.'.join(path)}"
        return ""

    def _holds(self, expression: Expression, config: TrialConfig, where: Where) -> bool:
        try:
            return expression(config.resolved())
        except ExpressionError as error:
            refuse([Problem(self.space.source.mark(where, key=where[-1] != "when"), str(error))])
            raise AssertionError from error

    def _finished(self, written: Written) -> tuple[TrialConfig | None, list[Problem]]:
        """Fidelity, then ``--set``, over whatever the arm is."""
        if self.fidelity is not None:
            where: Where = ("fidelity", "levels", self.fidelity)
            self._lay(written, self.sized, where)
            if self.sized_per_arm:
                config, problems = self._validate(written)
                if config is None:
                    return None, problems
                for text, overrides in self.sized_per_arm.items():
                    if self._holds(Expression(text), config, (*where, PER_ARM, text)):
                        self._lay(written, overrides, (*where, PER_ARM, text))
        for i, (key, value) in enumerate(self.settings):
            self._lay(written, {key: value}, (SET, i))
        return self._validate(written)

    def _level(self, written: Written, axis: str, level: str) -> set[Path]:
        chosen = self.levels.of[axis][level]
        return self._lay(written, chosen.overrides, chosen.where, single=chosen.by_path)

    def _lay(self, written: Written, overrides: dict[str, Any], where: Where, *, single: bool = False) -> set[Path]:
        touched = set[Path]()
        for key, value in overrides.items():
            if key == "preset":
                for name in value if isinstance(value, list) else [value]:
                    touched |= self._lay(written, self.space.presets[name], ("presets", name))
                continue
            path = tuple(key.split("."))
            written.lay(path, value, where if single else (*where, key))
            merges = isinstance(value, dict) and component_name(value) is None
            touched |= {leaf for leaf, _ in leaves(value, path)} if merges else {path}
        return touched

    def _validate(self, written: Written) -> tuple[TrialConfig | None, list[Problem]]:
        try:
            return TrialConfig.model_validate(written.data), []
        except ValidationError as error:
            chosen = _with_rows(written.data)

            def fields(loc: Loc) -> list[str]:
                return model_fields_at(TrialConfig, loc, chosen)

            def name(loc: Loc) -> str | None:
                value: Any = chosen
                for part in loc:
                    value = value.get(part) if isinstance(value, dict) else None
                return component_name(value) if loc[:1] != ("train",) else None

            def mark(loc: Loc, key: bool) -> Mark:
                return self.mark(written.origin(loc), key=key)

            return None, problems_of(error, mark, fields, chosen=name)

    def mark(self, where: Where, *, key: bool = False) -> Mark:
        """The place of something written in the file or on the command line."""
        if where[:1] == (SET,) and isinstance(where[1], int):
            return Mark(f"{SET} {self.space.overrides[where[1]]}")
        return self.space.source.mark(where, key=key)


def _overlaps(path: Path, others: Iterable[Path]) -> bool:
    return any(path[: len(other)] == other or other[: len(path)] == path for other in others)


def _with_rows(data: dict[str, Any]) -> dict[str, Any]:
    """A written config whose objective names the component of every slot, as its method's row does."""
    objective = data.get("objective")
    row = METHODS.get(component_name(objective) or "")
    if row is None:
        return data
    written = Written({"objective": copy.deepcopy(row.slots)})
    for slot, value in (objective if isinstance(objective, dict) else {}).items():
        if slot != "name":
            written.lay(("objective", slot), value, ())
    return {**data, **written.data}


def _setting(text: str, space: Space) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or not key:
        raise SpaceError(f"{SET} {text}: write path=value, e.g. train.steps=200")
    if key != "preset" and (reason := unknown_part(TrialConfig, tuple(key.split(".")))):
        raise SpaceError(f"{SET} {text}: {reason}")
    if key.split(".")[0] == "seed":
        raise SpaceError(f"{SET} {text}: the seed is not part of a config here; use the seeds option")
    found = parse_value(value)
    for name in (found if isinstance(found, list) else [found]) if key == "preset" else []:
        if name not in space.presets:
            raise SpaceError(f"{SET} {text}: {nearest('preset', str(name), space.presets)}")
    return key, found
