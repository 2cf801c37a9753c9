"""Which values may meet: groups of one metric identity, measured as the study's arms asked or under one condition.

The primary group is what the study asked for: the numbers that its arms declared, all of the metric identity of the
baseline. Their conditions may differ, because the study says so. Everything else in the store about the same trials
(another metric, another condition that somebody measured later) is a group of its own and described beside it. A study
that was recorded before arms declared their numbers is grouped by condition; the commonest with the baseline counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, cast

import pandas as pd

from ablate_reports.data import (
    StudyFrames,
    counting,
    definition,
    field_diff,
    final_values,
    metric_title,
    records,
    scale_of,
)

SAMPLE_FIELDS = ("samples", "num_samples", "n_samples")


@dataclass(frozen=True)
class Group:
    """Values of one metric identity, under one condition or under those that the study's arms asked for.

    Attributes:
        cond_id: the condition; of several, all of them joined by commas.
        condition: its fields; where arms differ in one, every value it has, in the order of the arms.
        conditions: arm -> its own condition; `cond_ids`: the id of that.
        scale: ``log`` where every value of its finished trials is positive, else ``linear``.
    """

    metric_id: str
    cond_id: str
    name: str
    metric: dict[str, Any]
    condition: dict[str, Any]
    rows: pd.DataFrame = field(repr=False)
    values: pd.DataFrame = field(repr=False)
    refused: int = 0
    lower_is_better: bool = True
    conditions: dict[str, dict[str, Any]] = field(default_factory=dict, repr=False)
    cond_ids: dict[str, str] = field(default_factory=dict, repr=False)
    scale: str = "log"

    @property
    def title(self) -> str:
        """The metric's right name."""
        return metric_title(self.name, self.metric)

    @property
    def under(self) -> str:
        """The id of its condition, or how many there are."""
        return self.cond_id if "," not in self.cond_id else f"{self.cond_id.count(',') + 1} conditions"

    @property
    def varied(self) -> list[str]:
        """Fields of the condition in which arms differ."""
        found = list(self.conditions.values())
        keys = dict.fromkeys(k for c in found for k in c)
        return [k for k in keys if any(c.get(k) != found[0].get(k) for c in found)]

    def by_arm(self) -> dict[str, dict[int, float]]:
        """arm -> seed -> value, finite values only."""
        out: dict[str, dict[int, float]] = {}
        for row in records(self.values):
            if math.isfinite(row.value) and math.isfinite(row.seed):
                out.setdefault(row.arm_id, {})[int(row.seed)] = float(row.value)
        return out


def groups(frames: StudyFrames) -> tuple[Group | None, list[Group]]:
    """The primary group, None where nothing of it is measured, and all groups, the primary first."""
    rows = frames.measurements
    name = frames.study["metric"]["name"]
    if not frames.declares:
        found = _by_condition(frames, rows)
        mine = [g for g in found if name in (g.name, g.metric_id)] if name else found
        primary = max(mine, key=lambda g: _rank(g, frames)) if mine else None
        return primary, sorted(found, key=lambda g: g is not primary)
    asked = rows["declared"].eq(True) & ((rows["metric_name"] == name) | (rows["metric_id"] == name) | (not name))
    if not asked.any():
        return None, _by_condition(frames, rows)
    identity = _identity(rows[asked], frames.baseline)
    asked &= rows["metric_id"] == identity
    primary = _group(frames, identity, rows[asked])
    return primary, [primary, *_by_condition(frames, rows[~asked])]


def _identity(rows: pd.DataFrame, baseline: str | None) -> str:
    """The metric identity that counts: of those that the baseline has, the one in which most trials are measured."""
    of_baseline = rows[rows["arm_id"] == baseline]
    known = set((of_baseline if len(of_baseline) else rows)["metric_id"])
    counts = rows.drop_duplicates(["arm_id", "trial_id", "metric_id"])["metric_id"].value_counts()
    # The curve by number of samples has the same name and as many values at each of its sizes: all samples count.
    samples = rows.groupby("metric_id")["n_samples"].max()
    return str(min(known, key=lambda identity: (-counts[identity], -samples[identity], identity)))


def _rank(group: Group, frames: StudyFrames) -> tuple[bool, int, float, str, str]:
    arms = group.by_arm()
    samples = float(group.rows["n_samples"].max())
    return (frames.baseline in arms, sum(map(len, arms.values())), samples, group.metric_id, group.cond_id)


def _by_condition(frames: StudyFrames, rows: pd.DataFrame) -> list[Group]:
    found = []
    for key, some in rows.groupby(["metric_id", "cond_id"], sort=True):
        metric_id, _ = map(str, cast("tuple[str, str]", key))
        found.append(_group(frames, metric_id, some))
    return sorted(found, key=lambda g: (g.name, -float(g.rows["n_samples"].max())))  # of one name by samples


def _group(frames: StudyFrames, metric_id: str, rows: pd.DataFrame) -> Group:
    defs = {r.metric_id: r for r in records(frames.metric_defs)}
    known = {r.cond_id: definition(r.definition) for r in records(frames.conditions)}
    metric = definition(defs[metric_id].definition) if metric_id in defs else {}
    name = str(defs[metric_id].name if metric_id in defs else rows["metric_name"].iloc[0])
    samples = next((metric[k] for k in SAMPLE_FIELDS if isinstance(metric.get(k), int)), None)
    wrong = pd.Series(False, index=rows.index) if samples is None else rows["n_samples"] != samples
    higher = metric_id in defs and defs[metric_id].higher_is_better
    kept = rows[~wrong]
    order = {arm: i for i, arm in enumerate(frames.ordered)}
    pairs = sorted({(r.arm_id, r.cond_id) for r in records(rows)}, key=lambda p: (order.get(p[0], len(order)), p))
    conditions = {arm: known.get(cond, {}) for arm, cond in pairs}
    scale = scale_of(counting(frames, kept))
    return Group(
        metric_id,
        ",".join(dict.fromkeys(cond for _, cond in pairs)),
        name,
        metric,
        _merged(conditions.values()),
        kept,
        final_values(frames, kept, scale),
        int(wrong.sum()),
        not (higher is True or higher == 1),
        conditions,
        dict(pairs),
        scale,
    )


def _merged(conditions: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """One condition with all values of each field: alone where it has one, else a list."""
    found = list(conditions)
    merged: dict[str, Any] = {}
    for key in dict.fromkeys(k for c in found for k in c):
        values: list[Any] = []
        for condition in found:
            if (value := condition.get(key)) not in values:
                values.append(value)
        merged[key] = values[0] if len(values) == 1 else values
    return merged


def identity_diff(a: Group, b: Group) -> list[tuple[str, Any, Any]]:
    """Field by field, why two groups are not comparable."""
    metric = [(f"metric.{k}", x, y) for k, x, y in field_diff(a.metric, b.metric)]
    if a.metric_id != b.metric_id and not metric:
        metric = [("metric_id", a.metric_id, b.metric_id)]
    condition = [(f"condition.{k}", x, y) for k, x, y in field_diff(a.condition, b.condition)]
    if a.cond_id != b.cond_id and not condition:
        condition = [("cond_id", a.cond_id, b.cond_id)]
    return metric + condition
