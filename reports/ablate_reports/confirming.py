"""Trials that were run to confirm a pick, kept apart from the exploration: no number of theirs reaches its tables.

They are marked ``confirm`` in the frame `trials`. One that the exploration asked for later belongs to it from then on
and is marked ``stale`` instead: its seed took part in a picking, so it confirms nothing any more.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import pandas as pd

from ablate_reports.data import DIVERGED, DONE, FAILED, FINAL, StudyFrames, counting, final_values, records, scale_of
from ablate_reports.formats import listed
from ablate_reports.verdicts import count

if TYPE_CHECKING:
    from ablate_reports.groups import Group

OF_TRIALS = ("trials", "measurements", "curves", "artifacts", "attempts", "rungs")


def exploration(frames: StudyFrames) -> StudyFrames:
    """The study without the trials that were run to confirm a pick; the study itself where there are none."""
    if not frames.trials["confirm"].any():
        return frames
    fresh = set(frames.trials.loc[frames.trials["confirm"], "trial_id"])
    parts = {name: getattr(frames, name) for name in OF_TRIALS}
    return replace(frames, **{name: part[~part["trial_id"].isin(fresh)] for name, part in parts.items()})


def fresh_values(whole: StudyFrames, primary: Group) -> tuple[dict[str, dict[int, float]], str]:
    """arm -> seed -> y of the confirming trials, stale ones included, and their scale; empty for an arm that has none.

    It is the exploration's, unless a fresh value is not positive: leaving it out would flatter its arm.
    """
    rows, stale = _rows(whole, primary), _stale(whole)
    scale = "linear" if "linear" in (primary.scale, scale_of(counting(whole, rows, confirm=True))) else "log"
    explored = final_values(whole, rows, scale)
    places = whole.study_arms
    found: dict[str, dict[int, float]] = {arm: {} for arm in places.loc[places["kind"] == "confirm", "arm_id"]}
    for part in (final_values(whole, rows, scale, confirm=True), explored[explored["trial_id"].isin(stale)]):
        for r in records(part):
            if math.isfinite(r.value) and math.isfinite(r.seed):
                found.setdefault(r.arm_id, {})[int(r.seed)] = math.log(r.value) if scale == "log" else float(r.value)
    return {arm: found[arm] for arm in whole.ordered if arm in found}, scale  # in the order of the exploration


def _rows(whole: StudyFrames, primary: Group) -> pd.DataFrame:
    """Measurements that mean the same as those of the exploration, arm by arm."""
    rows = whole.measurements
    rows = rows[rows["metric_id"] == primary.metric_id]
    if whole.declares:
        rows = rows[rows["declared"].eq(True)]
    usual = set(primary.cond_id.split(","))
    places = zip(rows["arm_id"].astype(str), rows["cond_id"].astype(str), strict=True)
    return rows[[cond in ({own} if (own := primary.cond_ids.get(arm)) else usual) for arm, cond in places]]


def any_confirming(whole: StudyFrames) -> bool:
    """Whether a trial was run to confirm something, stale or not."""
    return bool(whole.trials["confirm"].any()) or bool(_stale(whole))


def _stale(whole: StudyFrames) -> set[str]:
    trials = whole.trials
    return set(trials.loc[trials["stale"].eq(True), "trial_id"]) if "stale" in trials else set()


def state(whole: StudyFrames, primary: Group) -> str:
    """``Of 10 confirming trials, 1 diverged and 2 are not finished.``; "" where all of them have a value."""
    trials = whole.trials[whole.trials["confirm"]]
    parts = [f"{n} {word}" for word in (DIVERGED, FAILED) if (n := int((trials["status"] == word).sum()))]
    if waiting := int((~trials["status"].isin(FINAL)).sum()):
        parts.append(f"{waiting} {'is' if waiting == 1 else 'are'} not finished")
    values = final_values(whole, _rows(whole, primary), "linear", confirm=True)  # on any scale: only whether it is one
    usable = set(values.loc[values["value"].notna(), "trial_id"])
    if lacking := sum(t not in usable for t in trials.loc[trials["status"] == DONE, "trial_id"]):
        parts.append(f"{lacking} {'has' if lacking == 1 else 'have'} no value that means the same as the explored ones")
    return f"Of {count(len(trials), 'confirming trial')}, {listed(parts)}." if parts else ""
