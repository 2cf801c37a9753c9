"""The query behind each figure, in SQL over the frames of the study, so that a reader can draw it again.

``duckdb.sql(text)`` runs it where the frames are variables of the same names (``measurements = frames.measurements``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from ablate_reports.analysis import Analysis


def final_values(analysis: Analysis) -> str:
    """The values that the model is fitted to: one per arm and finished trial."""
    if analysis.primary is None:
        return ""
    at = analysis.frames.study["metric"]["at"]
    step, which = "m.step", ""
    if isinstance(at, Mapping):
        which = f"\n  AND m.step = {int(at['step'])}"
    rows = f"SELECT m.trial_id, m.arm_id, m.seed, {step}, {_mean(analysis)} AS value\n{_from(analysis)}{which}"
    rows += "\nGROUP BY m.trial_id, m.arm_id, m.seed, m.step"
    part = "OVER (PARTITION BY m.trial_id, m.arm_id)"
    if at == "last":
        rows += f"\nQUALIFY m.step = max(m.step) {part}"
    elif at == "best":
        order = f"{_mean(analysis)}{'' if analysis.lower_is_better else ' DESC'}, m.step"
        rows += f"\nQUALIFY row_number() OVER (PARTITION BY m.trial_id, m.arm_id ORDER BY {order}) = 1"
    return f"{rows}\nORDER BY m.arm_id, m.seed"


def all_steps(analysis: Analysis) -> str:
    """The same metric at every step, also of trials that did not finish."""
    if analysis.primary is None:
        return ""
    rows = f"SELECT m.arm_id, m.step, m.seed, {_mean(analysis)} AS value\n{_from(analysis, finished=False)}"
    return f"{rows}\nGROUP BY m.arm_id, m.step, m.seed\nORDER BY m.arm_id, m.step, m.seed"


def plan(name: str, kind: str) -> str:
    """The places of one plan."""
    return (
        "SELECT position, label, arm_id, axis, level, choice FROM study_arms\n"
        f"WHERE plan = {quoted(name)} AND kind = {quoted(kind)} ORDER BY position"
    )


def costs() -> str:
    """What the finished trials of an arm cost to train."""
    return (
        "SELECT a.arm_id, avg(t.cpu_seconds) AS cpu_seconds, avg(t.gpu_seconds) AS gpu_seconds,\n"
        "  any_value(a.num_parameters) AS num_parameters\n"
        "FROM arms a JOIN trials t ON t.arm_id = a.trained_id\n"
        "WHERE t.status = 'done' GROUP BY a.arm_id ORDER BY a.arm_id"
    )


def choices() -> str:
    """The levels by which the plans chose the arms."""
    return "SELECT DISTINCT arm_id, choice FROM study_arms ORDER BY arm_id, choice"


def scalar(name: str) -> str:
    """One logged scalar, by step."""
    return f"SELECT arm_id, seed, step, value FROM curves WHERE name = {quoted(name)}\nORDER BY arm_id, seed, step"


def rungs() -> str:
    """What each rung of early stopping judged, and how."""
    return "SELECT step, arm_id, seed, value, decision FROM rungs ORDER BY step, arm_id, seed"


def pictures(kind: str) -> str:
    """The newest picture of every trial and arm."""
    return (
        f"SELECT trial_id, arm_id, seed, step, path FROM artifacts WHERE kind = {quoted(kind)}\n"
        "QUALIFY step = max(step) OVER (PARTITION BY trial_id, arm_id) ORDER BY seed, arm_id"
    )


def quoted(text: str) -> str:
    """A text literal."""
    clean = re.sub(r"[\x00-\x1f]", " ", text)
    return "'" + clean.replace("'", "''") + "'"


def _mean(analysis: Analysis) -> str:
    return "exp(avg(ln(m.value)))" if analysis.scale == "log" else "avg(m.value)"


def _from(analysis: Analysis, *, finished: bool = True) -> str:
    group = analysis.primary
    assert group is not None
    conditions = ", ".join(quoted(c) for c in group.cond_id.split(","))
    text = "FROM measurements m JOIN trials t ON t.trial_id = m.trial_id\n"
    text += f"WHERE m.metric_id = {quoted(group.metric_id)} AND m.cond_id IN ({conditions})"
    if analysis.frames.declares:
        text += " AND m.declared"
    if finished:
        text += " AND t.status = 'done' AND NOT t.confirm"
    samples = next(
        (v for k in ("samples", "num_samples", "n_samples") if isinstance(v := group.metric.get(k), int)), None
    )
    return text + (f" AND m.n_samples = {samples}" if samples is not None else "")
