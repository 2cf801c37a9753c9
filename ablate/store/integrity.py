"""`ablate db check`: what the database does not enforce, said in lines a person can act on."""

from __future__ import annotations

import json
import os

from ablate.store.loading import lost_journals
from ablate.store.paths import StorePaths
from ablate.store.reader import reading, rows
from ablate_core.fid.canary import CANARY_RTOL, canary_drift

_CHECKS: tuple[tuple[str, str], ...] = (
    (
        "{} measurement(s) of trial {}, which no plan has recorded; run its space again to record it",
        "SELECT count(*), trial_id FROM measurement ANTI JOIN trial USING (trial_id) GROUP BY ALL ORDER BY 2",
    ),
    (
        "{} attempt(s) at trial {}, which no plan has recorded; run its space again to record it",
        "SELECT count(*), trial_id FROM attempt ANTI JOIN trial USING (trial_id) GROUP BY ALL ORDER BY 2",
    ),
    (
        "{} trial(s) of arm {}, whose config is not recorded; run its space again to record it",
        "SELECT count(*), arm_id FROM trial ANTI JOIN arm USING (arm_id) GROUP BY ALL ORDER BY 2",
    ),
    (
        "{} measurement(s) under metric {}, which is not defined; they cannot be compared with anything",
        "SELECT count(*), metric_id FROM measurement ANTI JOIN metric_def USING (metric_id) GROUP BY ALL ORDER BY 2",
    ),
    (
        "{} measurement(s) under condition {}, which is not defined; they cannot be compared with anything",
        "SELECT count(*), cond_id FROM measurement ANTI JOIN eval_cond USING (cond_id) GROUP BY ALL ORDER BY 2",
    ),
    (
        "{} measurement(s) of trial {} used another number of samples than metric {} is defined for; evaluate it again",
        "SELECT count(*), m.trial_id, m.metric_id FROM measurement m JOIN metric_def d USING (metric_id) "
        "WHERE m.n_samples <> d.n_samples GROUP BY ALL ORDER BY ALL",
    ),
    (
        "event {} ({}) was refused: {}",
        "SELECT uid, kind, reason FROM refused ORDER BY uid",
    ),
    (
        "journal {}: {} torn line(s), left by a crash in the middle of a write; nothing acknowledged is lost",
        "SELECT journal, torn FROM ingest WHERE torn > 0 ORDER BY journal",
    ),
)


def check(paths: StorePaths) -> list[str]:
    """Problems of the store, one line each; empty when all is well or there is no store.

    Raises:
        StoreError: the store was written by a newer version, or a journal cannot be read.
    """
    if paths.empty():
        return []
    with reading(paths, without_journals=True) as con:
        problems = [message.format(*row) for message, sql in _CHECKS for row in rows(con, sql)]
        ingested = rows(con, "SELECT journal, byte_offset FROM ingest ORDER BY journal")
        canaries = rows(con, _CANARIES)
        artifacts = rows(con, "SELECT DISTINCT trial_id, path FROM artifact ORDER BY ALL")
    problems += [f"{lost}; a rebuild would lose its events: restore it" for lost in lost_journals(paths, ingested)]
    problems += _drifts(canaries)
    for trial, path in artifacts:
        if not os.path.isfile(paths.absolute(path)):  # unlike Path.is_file, False also for a name that is too long
            problems.append(f"artifact {path} of trial {trial} is missing; restore it or evaluate the trial again")
    return problems


_CANARIES = """
SELECT metric_id, coalesce(a.host, 'an unknown machine'), (extra->'$.canary')::VARCHAR, min(m.trial_id)
FROM measurement m LEFT JOIN attempt_started a ON a.uid = m.attempt
WHERE (extra->'$.canary') IS NOT NULL GROUP BY ALL ORDER BY metric_id, min(m.written_at), 2, 3"""
"""What the networks of the metrics made of the fixed test images, in the order it was seen."""


def _drifts(canaries: list[tuple[str, str, str, str]]) -> list[str]:
    """Metrics whose network gave other features on another machine, or later: no hash of a file shows that."""
    first: dict[str, tuple[str, list[float]]] = {}
    problems = []
    for metric, host, kept, trial in canaries:
        there, before = first.setdefault(metric, (host, json.loads(kept)))
        if (off := canary_drift(before, json.loads(kept))) > CANARY_RTOL:
            problems.append(
                f"metric {metric}: features of the fixed test images on {host} (trial {trial}) are {off:.1e} from "
                f"those on {there} (allowed {CANARY_RTOL:.0e}); the numbers are not comparable: check TF32, torch "
                "and Pillow, then evaluate again on one of them"
            )
    return problems
