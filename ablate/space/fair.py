"""Fairness: two arms differ in what the study varies, and in nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ablate.space.schema import Fair
from ablate.space.written import Path
from ablate_core.config import TrialConfig

Difference = tuple[str, Any, Any]
"""(dotted path, value in a, value in b); None where one side has no such field."""


def arm_diff(a: TrialConfig, b: TrialConfig, *, deep: bool = False) -> list[Difference]:
    """Where two resolved configs differ, the seed aside.

    A component that was exchanged is one line with both names, since its fields belong to different things;
    `deep` lists every field. An objective is a label over its slots, so its slots are always looked into.
    """
    return resolved_diff(a.resolved(), b.resolved(), deep=deep)


def resolved_diff(a: Mapping[str, Any], b: Mapping[str, Any], *, deep: bool = False) -> list[Difference]:
    """`arm_diff` of configs that are plain values already, as a store has them."""
    found: list[Difference] = []
    for key in dict.fromkeys([*a, *b]):
        if key != "seed":
            _diff(a.get(key), b.get(key), (key,), found, deep)
    return [(".".join(path), x, y) for path, x, y in found]


def _diff(a: Any, b: Any, path: Path, found: list[Any], deep: bool) -> None:
    if not isinstance(a, dict) or not isinstance(b, dict):
        if a != b:
            found.append((path, a, b))
        return
    exchanged = a.get("name") != b.get("name")
    if exchanged and not deep and path != ("objective",):
        found.append((path, a.get("name"), b.get("name")))
        return
    for key in dict.fromkeys([*a, *b]):
        _diff(a.get(key), b.get(key), (*path, key), found, deep)


def undeclared(arm: TrialConfig, baseline: TrialConfig, touched: Iterable[Path]) -> list[Difference]:
    """Differences of an arm to the baseline outside the `touched` paths: something else changed with them."""
    declared = [*touched]

    def covered(path: Path) -> bool:
        return any(path[: len(t)] == t or t[: len(path)] == path for t in declared)

    return [d for d in arm_diff(arm, baseline, deep=True) if not covered(tuple(d[0].split(".")))]


def unmatched(arm: TrialConfig, baseline: TrialConfig, fair: Fair, varied: Iterable[str]) -> list[Difference]:
    """Paths of ``fair.match`` that differ although neither an axis varies them nor ``fair.except`` lists them."""
    allowed = {*fair.except_, *varied}
    return [
        (path, look_up(arm, path), look_up(baseline, path))
        for path in fair.match
        if path not in allowed and look_up(arm, path) != look_up(baseline, path)
    ]


def incomparable(arm: TrialConfig, baseline: TrialConfig) -> list[tuple[str, str]]:
    """Fields of ``eval`` in which no two arms of a study may differ, and why; see ``no_axis`` in `EvalConfig`."""
    return [
        (f"eval.{name}", str(field.json_schema_extra["no_axis"]))
        for name, field in type(arm.eval).model_fields.items()
        if isinstance(field.json_schema_extra, dict)
        and "no_axis" in field.json_schema_extra
        and getattr(arm.eval, name) != getattr(baseline.eval, name)
    ]


def look_up(config: TrialConfig, path: str) -> Any:
    """The value at a dotted path of a resolved config; None where there is none."""
    value: Any = config.resolved()
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value
