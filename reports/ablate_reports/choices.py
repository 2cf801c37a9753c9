"""Which level of every axis an arm has: what filters, parallel lines and one-component comparisons are made of."""

from __future__ import annotations

from collections.abc import Mapping

from ablate_reports.data import StudyFrames, definition, records

Choice = Mapping[str, str]


def choices(frames: StudyFrames) -> dict[str, dict[str, str]]:
    """arm -> axis -> level, as the plans chose it; an axis that an arm's plan does not name is at the base's level."""
    own: dict[str, dict[str, str]] = {arm: {} for arm in frames.ordered}
    for row in records(frames.study_arms):
        if row.arm_id in own and isinstance(row.choice, str | Mapping):
            found = definition(row.choice)
            own[row.arm_id] = {str(k): str(v) for k, v in found.items() if v is not None} | own[row.arm_id]
    bases = frames.study_arms.loc[frames.study_arms["kind"] == "base", "arm_id"]
    base = own.get(str(bases.iloc[0]) if len(bases) else str(frames.baseline), {})
    return {arm: {**base, **levels} for arm, levels in own.items()}


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
