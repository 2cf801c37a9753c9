"""The tables of a report as plain text cells, shared by the page and the Markdown."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

from ablate_reports import formats
from ablate_reports.analysis import Analysis, ArmRow
from ablate_reports.data import DIVERGED, FAILED, LOST, STATUSES, STOPPED, definition, flat, records
from ablate_reports.figures.base import Table
from ablate_reports.groups import Group, identity_diff
from ablate_reports.shared import fit_shared


def mean_name(analysis: Analysis) -> str:
    """What the mean column holds."""
    return "geometric mean" if analysis.scale == "log" else "mean"


def cost(row: ArmRow) -> str:
    """CPU time of all trials of an arm, and GPU time when there was any."""
    parts = [f"{formats.hours(row.gpu_seconds)} GPU"] if row.gpu_seconds > 0 else []
    return (
        ", ".join([*parts, f"{formats.hours(row.cpu_seconds)} CPU"]) if row.cpu_seconds > 0 or not parts else parts[0]
    )


def seeds_of(row: ArmRow) -> str:
    """``3``, or ``2 of 3`` when trials are missing."""
    return str(row.n) if row.n == row.planned else f"{row.n} of {row.planned}"


def interval_of(row: ArmRow) -> str:
    """The interval of an arm's mean, or why there is none."""
    if row.value is None:
        return ""
    return f"{formats.number(row.low)} to {formats.number(row.high)}" if row.low is not None else row.note


def difference_of(analysis: Analysis, row: ArmRow) -> tuple[str, str]:
    """Difference to the baseline and its simultaneous interval (or the reason for none)."""
    if row.baseline:
        return "baseline", ""
    if row.contrast is None:
        return "—", ""
    c = row.contrast
    return formats.change(c.estimate, analysis.scale), formats.interval(c.low, c.high, analysis.scale) or c.note


def verdict_of(analysis: Analysis, row: ArmRow) -> str:
    """``▼ better``; empty for the baseline and where nothing was compared."""
    if row.contrast is None:
        return ""
    if row.verdict is None:
        return "? no interval"
    return f"{analysis.marker(row.verdict)} {row.verdict}"


def arms(analysis: Analysis) -> Table:
    """The main table."""
    level = analysis.level
    head = ["Arm", mean_name(analysis).capitalize(), f"{level} interval", "Seeds", "Cost"]
    head += ["Against the baseline", f"{level} simultaneous", "Verdict"]
    rows = []
    for r in analysis.rows:
        delta, both = difference_of(analysis, r)
        rows.append(
            [
                r.label,
                formats.number(r.value),
                interval_of(r),
                seeds_of(r),
                cost(r),
                delta,
                both,
                verdict_of(analysis, r),
            ]
        )
    return Table(head, rows)


def failures(analysis: Analysis) -> Table:
    """Trials that failed, diverged or were stopped early, with the reason that was recorded."""
    frames = analysis.frames
    lost = frames.trials[frames.trials["status"].isin([DIVERGED, FAILED, LOST, STOPPED])]
    rows = []
    for t in records(lost):
        reason = t.reason if isinstance(t.reason, str) and t.reason else _last_error(analysis, t.trial_id)
        spent = (
            formats.hours(_finite(t.gpu_seconds)) + " GPU"
            if _finite(t.gpu_seconds)
            else formats.hours(_finite(t.cpu_seconds)) + " CPU"
        )
        done = f"{_finite(t.steps_done):,.0f} of {_finite(t.steps_planned):,.0f}"
        rows.append(
            [frames.label(t.arm_id), f"{t.seed:.0f}", t.status, reason or "no reason recorded", done, spent, t.trial_id]
        )
    return Table(["Arm", "Seed", "Status", "Reason", "Steps", "Cost", "Trial"], rows)


def _last_error(analysis: Analysis, trial_id: str) -> str:
    rows = analysis.frames.attempts
    heads = [h for h in rows.loc[rows["trial_id"] == trial_id, "error_head"] if isinstance(h, str) and h]
    return heads[-1] if heads else ""


def skips(analysis: Analysis) -> Table:
    """Combinations of the space that are not run, with the reason."""
    rows = [[str(s.plan), str(s.label), str(s.reason)] for s in records(analysis.frames.skips)]
    return Table(["Plan", "Arm", "Reason"], rows)


def trials(analysis: Analysis) -> Table:
    """Every trial of every arm; the page filters it. A trial that several arms are measured from is in each of them."""
    frames = analysis.frames
    values = (
        {} if analysis.primary is None else {(v.arm_id, v.trial_id): v.value for v in records(analysis.primary.values)}
    )
    trials = sorted(records(frames.trials), key=lambda t: t.seed)
    arms = [(arm, trained, frames.label(arm)) for arm in frames.ordered for trained in [frames.trained[arm]]]
    alone = {t.arm_id for t in trials} - {trained for _, trained, _ in arms}
    rows = []
    for arm, trained, label in [*arms, *((a, a, frames.label(a)) for a in sorted(alone))]:
        for t in (t for t in trials if t.arm_id == trained):
            steps = f"{_finite(t.steps_done):,.0f} / {_finite(t.steps_planned):,.0f}"
            rows.append([
                label, f"{t.seed:.0f}", t.status, formats.number(values.get((arm, t.trial_id))), steps,
                formats.hours(_finite(t.wall_seconds)), f"{_finite(t.attempts):.0f}", t.trial_id,
            ])  # fmt: skip
    name = analysis.primary.name if analysis.primary else "Value"
    return Table(["Arm", "Seed", "Status", name, "Steps", "Wall time", "Attempts", "Trial"], rows)


def other_groups(analysis: Analysis) -> list[tuple[Group, Table, Table]]:
    """Every group but the primary: the group, its arms against the baseline, and its fields that differ from it."""
    found = []
    for g in analysis.groups:
        if g is analysis.primary:
            continue
        diff = identity_diff(analysis.primary, g) if analysis.primary else []
        differ = Table(["Field", "Primary", "Here"], [[k, _cell(a), _cell(b)] for k, a, b in diff])
        found.append((g, _other(analysis, g), differ))
    return found


def _other(analysis: Analysis, group: Group) -> Table:
    """The arms of a group that is not the primary: the same statistics, among themselves."""
    frames, by_arm = analysis.frames, group.by_arm()
    scale, log = group.scale, group.scale == "log"
    scaled = {a: {s: math.log(v) if log else v for s, v in seeds.items()} for a, seeds in by_arm.items()}
    model = fit_shared(scaled, frames.trained)
    base = frames.baseline
    if base is not None and base not in by_arm:
        base = frames.trained[base]  # numbers that no arm asked for stand under what was trained
    pairs = [(a, str(base)) for a in by_arm if a != base] if base in by_arm else []
    contrasts = {c.arm: c for c in model.compare(pairs, analysis.alpha)} if model is not None and pairs else {}
    rows = []
    for arm, seeds in by_arm.items():
        ys = [math.log(v) if log else v for v in seeds.values()]
        mean = sum(ys) / len(ys)
        c = contrasts.get(arm)
        delta = "baseline" if arm == base else formats.change(c.estimate, scale) if c else "—"
        both = (formats.interval(c.low, c.high, scale) or c.note) if c else ""
        # what was trained, not one way of measuring it: the label of an arm may name another condition
        label = frames.trained_labels.get(arm, frames.label(arm)) if frames.declares else frames.label(arm)
        rows.append([label, formats.number(math.exp(mean) if log else mean), str(len(ys)), delta, both])
    return Table(["Arm", "Mean", "Seeds", "Against the baseline", f"{analysis.level} simultaneous"], rows)


def identity(group: Group) -> Table:
    """What exactly was measured, and under which condition."""
    rows = [["metric id", group.metric_id], *([k, _cell(v)] for k, v in sorted(flat(group.metric).items()))]
    rows += [
        ["condition id", group.cond_id],
        *([f"at {k}", _cell(v)] for k, v in sorted(flat(group.condition).items())),
    ]
    return Table(["Field", "Value"], rows)


def environments(analysis: Analysis) -> Table:
    """Versions and machines, one column per recorded environment, one row per field."""
    parts = [flat(definition(e.definition)) for e in records(analysis.frames.environments)]
    keys = sorted({k for p in parts for k in p})
    names = [f"environment {i + 1}" for i in range(len(parts))] if len(parts) > 1 else ["value"]
    return Table(["Field", *names], [[k, *(_cell(p.get(k)) for p in parts)] for k in keys])


def machines(analysis: Analysis) -> list[str]:
    """``host (device): 12 attempts``, sorted."""
    rows = analysis.frames.attempts
    counts = Counter(zip(rows["host"].astype(str), rows["device"].astype(str), strict=True))
    return [f"{host} ({device}): {n} attempt{'s' if n > 1 else ''}" for (host, device), n in sorted(counts.items())]


def status_counts(analysis: Analysis) -> list[tuple[str, int]]:
    """``("done", 18), ("failed", 1)``, the final ones first."""
    counts = analysis.frames.trials["status"].value_counts()
    order = STATUSES
    return [(s, int(counts[s])) for s in order if s in counts]


def _finite(value: Any) -> float:
    return float(value) if value is not None and math.isfinite(value) else 0.0


def _cell(value: Any) -> str:
    if value is None:
        return "—"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, str) or not isinstance(value, Iterable):
        return str(value)
    if isinstance(value, dict):
        return ", ".join(f"{k}={_cell(v)}" for k, v in value.items())
    return ", ".join(map(_cell, value))
