"""Which level of every axis an arm has: what filters, parallel lines and one-component comparisons are made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from ablate_reports.data import StudyFrames, definition, records

Choice = Mapping[str, str]


def choices(frames: StudyFrames) -> dict[str, dict[str, str]]:
    """arm -> axis -> level, as the plans chose it; an axis that an arm's plan does not name is at the base's level."""
    own: dict[str, dict[str, str]] = {arm: {} for arm in frames.ordered}
    for row in records(frames.study_arms):
        if row.arm_id in own and isinstance(row.choice, str | Mapping):
            found = definition(row.choice)
            own[row.arm_id] = {str(k): str(v) for k, v in found.items() if v is not None} | own[row.arm_id]
    base = own.get(base_arm(frames) or "", {})
    return {arm: {**base, **levels} for arm, levels in own.items()}


def base_arm(frames: StudyFrames) -> str | None:
    """The arm that everything starts from, which need not be the baseline; None where it is no arm of the study."""
    bases = frames.study_arms.loc[frames.study_arms["kind"] == "base", "arm_id"]
    return str(bases.iloc[0]) if len(bases) else None


def beside_axes(frames: StudyFrames) -> set[str]:
    """Arms of lists that also change what is no axis (``C: {train.lr: 2e-3}``): their levels do not say what they are.

    The space tells them. Where it is not known, an arm of a list with the levels of another arm must be one.
    """
    places: dict[str, list[Any]] = {}
    for row in records(frames.study_arms):
        if row.kind != "confirm":
            places.setdefault(row.arm_id, []).append(row)
    listed = {arm: rows for arm, rows in places.items() if all(row.kind == "list" for row in rows)}
    if not listed:
        return set()
    written, chosen = _more_than_levels(str(frames.study["space_yaml"])), choices(frames)
    more = {arm: {written.get((row.plan, row.label)) for row in rows} for arm, rows in listed.items()}
    found = {arm for arm, said in more.items() if said == {True}}
    alike = Counter(frozenset(levels.items()) for arm, levels in chosen.items() if arm not in found)
    unsaid = {arm for arm, said in more.items() if None in said and False not in said}
    return found | {arm for arm in unsaid if alike[frozenset(chosen[arm].items())] > 1}


@lru_cache(maxsize=4)
def _more_than_levels(space_yaml: str) -> dict[tuple[str, str], bool]:
    """``(plan, label)`` of the arms that a space lists -> whether one has overrides beside the levels of axes."""
    try:
        space = YAML(typ="base", pure=True).load(space_yaml)
    except YAMLError:
        return {}
    axes = _mapping(_mapping(space).get("axes"))
    return {
        (plan, label): any(
            key != "not_yet" and (key not in axes or isinstance(value, Mapping)) for key, value in _mapping(arm).items()
        )
        for plan, about in _mapping(_mapping(space).get("plans")).items()
        for label, arm in _mapping(_mapping(about).get("arms")).items()
    }


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def varying(chosen: Mapping[str, Choice]) -> dict[str, list[str]]:
    """axis -> its levels in the order of the arms, numbers by size; only axes that have two levels or more."""
    axes: dict[str, dict[str, None]] = {}
    for levels in chosen.values():
        for axis, level in levels.items():
            axes.setdefault(axis, {})[level] = None
    return {axis: _ordered(list(levels)) for axis, levels in axes.items() if len(levels) > 1}


def find(chosen: Mapping[str, Choice], wanted: Choice) -> str | None:
    """The arm that has exactly these levels; None where there is none, or two (they differ in something unnamed)."""
    found = [arm for arm, levels in chosen.items() if dict(levels) == dict(wanted)]
    return found[0] if len(found) == 1 else None


def _ordered(levels: list[str]) -> list[str]:
    try:
        return sorted(levels, key=float)
    except ValueError:
        return levels
