"""What the other rooms ask a store: what is finished, what is measured, which studies there are, what a step costs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ablate.store.paths import StorePaths
from ablate.store.reader import attempt_facts, reading, rows
from ablate.store.status import FINISHED, AttemptFact, TrialState, trial_state

if TYPE_CHECKING:
    pass


def finished(paths: StorePaths) -> dict[str, str]:
    """Trial key -> ``done`` or ``diverged``, for the trials that need no further training. Empty without a store."""
    if paths.empty():
        return {}
    with reading(paths) as con:
        found = rows(
            con,
            "SELECT trial_id, min_by(status, list_position(?, status)) FROM attempt "
            "WHERE list_contains(?, status) AND task <> 'eval' GROUP BY trial_id",
            [list(FINISHED), list(FINISHED)],
        )
    return dict(found)


def measured(paths: StorePaths) -> set[tuple[str, str]]:
    """(trial key, eval key) of every evaluation that was carried out to its end. Empty without a store."""
    if paths.empty():
        return set()
    with reading(paths) as con:
        found = rows(
            con,
            "SELECT trial_id, eval_key FROM attempt WHERE status = 'done' AND eval_key IS NOT NULL UNION "
            "SELECT m.trial_id, m.eval_key FROM measurement m JOIN attempt a ON a.uid = m.attempt "
            "WHERE a.status = 'done' AND m.eval_key IS NOT NULL",
        )
    return {(str(trial), str(key)) for trial, key in found}


def definitions(paths: StorePaths) -> dict[str, dict[str, Any]]:
    """metric_id or cond_id -> its definition. Empty without a store."""
    if paths.empty():
        return {}
    with reading(paths) as con:
        found = rows(
            con,
            "SELECT metric_id, definition::VARCHAR FROM metric_def UNION ALL "
            "SELECT cond_id, definition::VARCHAR FROM eval_cond",
        )
    return {str(key): json.loads(text) for key, text in found}


def values(paths: StorePaths) -> dict[tuple[str, str, str, int, int], float]:
    """(trial key, metric_id, cond_id, step, draw) -> the number, of every measurement that has one."""
    if paths.empty():
        return {}
    with reading(paths) as con:
        found = rows(
            con, "SELECT trial_id, metric_id, cond_id, step, draw, value FROM measurement WHERE value IS NOT NULL"
        )
    return {(str(t), str(m), str(c), int(step), int(draw or 0)): float(v) for t, m, c, step, draw, v in found}


def states(paths: StorePaths) -> dict[str, TrialState]:
    """Trial key -> its state with the counts a retry policy needs, for every trial that was planned or attempted."""
    if paths.empty():
        return {}
    with reading(paths) as con:
        facts = attempt_facts(con)
        known = {str(key) for (key,) in rows(con, "SELECT trial_id FROM trial")} | facts.keys()
    return {key: trial_state(list(facts.get(key, {}).values())) for key in sorted(known)}


def studies(paths: StorePaths) -> list[dict[str, Any]]:
    """One dict per study of the store, the newest first; of a study run with several versions of its space, the newest.

    Returns:
        name, study_id, question, created_at (UTC), fidelity, space_sha256, arms, trials, and of the trials: done,
        diverged, failed, running, and other (planned, interrupted, lost).
    """
    if paths.empty():
        return []
    with reading(paths) as con:
        facts = attempt_facts(con)
        found = rows(con, _STUDIES)
        trials: dict[str, list[str]] = {}
        for study, trial in rows(con, _STUDY_TRIALS):
            trials.setdefault(study, []).append(trial)
    names = ("name", "study_id", "question", "created_at", "fidelity", "space_sha256", "arms")
    return [dict(zip(names, row, strict=True)) | _counts(trials.get(row[1], []), facts) for row in found]


def _counts(trials: list[str], facts: dict[str, dict[int, AttemptFact]]) -> dict[str, int]:
    shown = dict.fromkeys(("done", "diverged", "failed", "running", "other"), 0)
    for key in trials:
        status = trial_state(list(facts.get(key, {}).values())).status
        shown[status if status in shown else "other"] += 1
    return {"trials": len(trials)} | shown


_STUDIES = """
SELECT name, study_id, question, strftime(written_at, '%Y-%m-%dT%H:%M:%SZ'), fidelity, space_sha256,
       (SELECT count(DISTINCT arm_id) FROM study_arm a WHERE a.study_id = s.study_id)
FROM study s QUALIFY row_number() OVER (PARTITION BY name ORDER BY written_at DESC, uid) = 1
ORDER BY written_at DESC, uid"""
_STUDY_TRIALS = """
SELECT study_id, trial_id FROM study_trial UNION
SELECT s.study_id, t.trial_id FROM study_arm s JOIN trial t ON t.arm_id = coalesce(s.trained_id, s.arm_id)
WHERE s.study_id NOT IN (SELECT study_id FROM study_trial) ORDER BY ALL"""


def seeds(paths: StorePaths, study: str) -> tuple[set[int], dict[str, list[int]]]:
    """Seeds of a study, over all versions of its space: those it explored, and arm id -> those run to confirm it.

    A seed may be in both: it was explored later, and confirms nothing any more.
    """
    if paths.empty():
        return set(), {}
    with reading(paths) as con:
        explored = {int(seed) for (seed,) in rows(con, _EXPLORED_SEEDS, [study])}
        found = rows(con, _CONFIRM_SEEDS, [study])
    confirming: dict[str, list[int]] = {}
    for arm, seed in found:
        confirming.setdefault(str(arm), []).append(int(seed))
    return explored, confirming


_EXPLORED_SEEDS = """
WITH mine AS (SELECT study_id FROM study WHERE name = ?),
  old AS (SELECT study_id FROM mine WHERE study_id NOT IN (SELECT study_id FROM study_trial))
SELECT DISTINCT seed FROM study_trial JOIN mine USING (study_id) JOIN trial USING (trial_id) UNION
SELECT DISTINCT t.seed FROM study_arm a JOIN old USING (study_id)
JOIN trial t ON t.arm_id = coalesce(a.trained_id, a.arm_id)
WHERE t.trial_id NOT IN (SELECT trial_id FROM confirm_trial)"""
_CONFIRM_SEEDS = """
SELECT c.arm_id, t.seed FROM confirm_trial c JOIN trial t USING (trial_id) WHERE c.study = ? ORDER BY 1, 2"""


def throughput(paths: StorePaths) -> dict[str, float]:
    """Arm id -> seconds of a slot per optimiser step, evaluation included, over all its attempts that ended."""
    if paths.empty():
        return {}
    with reading(paths) as con:
        found = rows(
            con,
            "SELECT t.arm_id, sum(a.wall_seconds / a.packed) / sum(a.step - coalesce(a.resumed_from_step, 0)) "
            "FROM attempt a JOIN trial t USING (trial_id) WHERE a.task <> 'eval' AND a.wall_seconds > 0 "
            "AND a.status IN ('done', 'interrupted', 'diverged') AND a.step > coalesce(a.resumed_from_step, 0) "
            "GROUP BY t.arm_id",
        )
    return {str(arm): float(seconds) for arm, seconds in found}
