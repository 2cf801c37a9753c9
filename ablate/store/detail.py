"""`trial_detail`: everything the store knows about one trial, for ``ablate show``."""

from __future__ import annotations

import json
from typing import Any

from ablate.errors import NotHereError
from ablate.store.paths import StorePaths
from ablate.store.reader import attempt_facts, frame, reading, rows
from ablate.store.status import attempt_status, trial_state


def trial_detail(paths: StorePaths, key: str) -> dict[str, Any]:
    """Everything about one trial, as plain values.

    Args:
        key: the trial key or an unambiguous beginning of it.

    Returns:
        trial_id, arm_id, label, seed, config, status, reason, steps_planned, steps_done, folder, studies [names], and
        lists of dicts: attempts, plugins (that each attempt had loaded), measurements, artifacts.

    Raises:
        NotHereError: no trial, or several, begin with `key`.
    """
    with reading(paths) as con:
        found = rows(
            con,
            "SELECT t.trial_id, t.arm_id, a.label, t.seed, a.config::VARCHAR, t.steps_planned FROM trial t "
            "LEFT JOIN arm a USING (arm_id) WHERE starts_with(t.trial_id, ?) ORDER BY t.trial_id",
            [key],
        )
        if len(found) != 1:
            many = ", ".join(str(row[0]) for row in found[:3])
            raise NotHereError(
                f"{paths.root}: several trials begin with {key!r} ({many}, ...); give more of the key"
                if found
                else f"{paths.root}: no trial begins with {key!r}; `ablate ls` shows what there is"
            )
        trial, arm, label, seed, config, steps = found[0]
        facts = attempt_facts(con).get(trial, {})
        state = trial_state(list(facts.values()))
        done = rows(con, "SELECT step FROM trial_step WHERE trial_id = ?", [trial])
        names = rows(
            con,
            "SELECT DISTINCT s.name FROM study s JOIN study_arm USING (study_id) "
            "WHERE coalesce(trained_id, arm_id) = ? ORDER BY s.name",
            [arm],
        )
        parts = {part: frame(con, sql, [trial]).to_dict("records") for part, sql in _DETAIL.items()}
    for attempt in parts["attempts"]:
        attempt["status"] = attempt_status(facts[attempt["attempt"]])
    for artifact in parts["artifacts"]:
        artifact["path"] = str(paths.absolute(artifact["path"]))
    return {
        "trial_id": trial,
        "arm_id": arm,
        "label": label,
        "seed": seed,
        "config": json.loads(config) if config else None,
        "status": state.status,
        "reason": state.reason,
        "steps_planned": steps,
        "steps_done": done[0][0] if done else 0,
        "folder": str(paths.trial(trial)),
        "studies": [name for (name,) in names],
        **{part: [_without_nan(row) for row in records] for part, records in parts.items()},
    }


def _without_nan(row: dict[Any, Any]) -> dict[str, Any]:
    """None for what the database has as NULL, whatever pandas made of it."""
    return {str(key): None if value is None or value != value else value for key, value in row.items()}


_DETAIL = {
    "attempts": """
        SELECT number AS attempt, task, status, host, pid, device, env_id, resumed_from_step, started_at, ended_at,
               step, reason, error_type, error_head, wall_seconds, cpu_seconds, gpu_seconds, peak_mem_mb, packed
        FROM attempt WHERE trial_id = ? ORDER BY number""",
    "plugins": """
        SELECT number AS attempt, p.key AS module, p.value->>'distribution' AS distribution,
               p.value->>'version' AS version, p.value->>'sha256' AS sha256
        FROM attempt JOIN env USING (env_id), json_each(definition, '$.plugins') p
        WHERE trial_id = ? ORDER BY number, module""",
    "measurements": """
        SELECT metric_id, d.name AS metric_name, cond_id, c.definition::VARCHAR AS condition, step, draw, m.n_samples,
               value, wall_seconds
        FROM measurement m LEFT JOIN metric_def d USING (metric_id) LEFT JOIN eval_cond c USING (cond_id)
        WHERE trial_id = ? ORDER BY step, metric_id, cond_id, draw""",
    "artifacts": """
        SELECT kind, step, path, mime, width, height, rows, cols, bytes, sha256
        FROM artifact WHERE trial_id = ? ORDER BY step, kind, path""",
}
