"""`open_frames`: one study as the pandas frames that a report is made of (``ablate_reports.data.StudyFrames``)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from ablate.errors import NotHereError
from ablate.store.paths import StorePaths
from ablate.store.reader import attempt_facts, frame, reading, rows
from ablate.store.status import AttemptFact, attempt_status, trial_state
from ablate_core.identity import canonical_json

if TYPE_CHECKING:
    import duckdb
    import pandas as pd


def open_frames(
    paths: StorePaths, study: str | None = None, *, curves: Callable[[Iterable[str]], str | None] | None = None
) -> dict[str, Any]:
    """One study of the store; also while it runs.

    A trial that several studies share belongs to each of them. ``trials`` has ``confirm`` where a trial was run only to
    confirm an arm on a fresh seed (its places in ``study_arms`` are of kind confirm, after all others), and ``stale``
    where the study has explored it since. Where several arms of the study are measured from one
    trained network, ``trials`` has it once, under the ``trained_id`` that ``arms`` names for each of them, and
    ``measurements`` and ``artifacts`` have its numbers under the arm that asked for them; ``declared`` is false for
    those that no arm of the study asked for, which stand under the trained network, and missing where the study was
    recorded before anybody said. Missing numbers are NaN in the frames (counts that may
    be missing are float64), missing texts NaN; times are UTC.

    Args:
        study: name (then the version of it that ran last) or study_id; None: the study that ran last.
        curves: picks, from the names of the scalars that were logged, the one whose curves are wanted (none: None);
            a large study has millions of points. Default: all of them.

    Returns:
        ``study``: dict, with ``claims_late`` beside its claims; ``published``: list of dicts; and the frames ``arms,
        study_arms, trials, measurements, curves, artifacts, metric_defs, conditions, environments, attempts, skips``
        with the columns of `QUERIES`.

    Raises:
        NotHereError: there is no such study.
        StoreError: the store was written by a newer version.
    """
    with reading(paths) as con:
        about = _study(con, paths, study)
        for name, sql in CHOSEN.items():
            con.execute(f"CREATE TEMP TABLE {name} AS {sql}", [about["study_id"]] if "?" in sql else [])
        queries = {name: (sql, [about["study_id"]] if "?" in sql else []) for name, sql in QUERIES.items()}
        if curves is not None:
            sql, _ = queries["curves"]
            names = [
                name for (name,) in rows(con, "SELECT DISTINCT name FROM scalar_point JOIN chosen USING (trial_id)")
            ]
            queries["curves"] = (sql.replace("GROUP BY", "WHERE p.name = ? GROUP BY"), [curves(names)])
        frames = {name: frame(con, sql, parameters) for name, (sql, parameters) in queries.items()}
        about |= _declared_late(con, about)
        facts = attempt_facts(con)
    skips, published = json.loads(about.pop("skips") or "[]"), json.loads(about.pop("published") or "[]")
    _add_statuses(frames, facts)
    frames["artifacts"]["path"] = frames["artifacts"]["path"].map(lambda path: str(paths.absolute(path))).astype("str")
    return {"study": about, **frames, "skips": _skips(skips), "published": published}


def _study(con: duckdb.DuckDBPyConnection, paths: StorePaths, study: str | None) -> dict[str, Any]:
    """The study's row as a dict.

    Raises:
        NotHereError: there is no such study.
    """
    fields = (
        "study_id", "name", "question", "baseline_arm_id", "metric", "margin", "alpha", "space_yaml", "space_sha256",
        "fidelity", "claims", "compare", "version", "written_at", "skips", "published",
    )  # fmt: skip
    where = "WHERE name = $study OR study_id = $study" if study is not None else ""
    found = con.execute(
        f"SELECT {', '.join(fields)} FROM study {where} ORDER BY written_at DESC, uid LIMIT 1",
        {"study": study} if study is not None else [],
    ).fetchall()
    if not found:
        names = [name for (name,) in rows(con, "SELECT DISTINCT name FROM study ORDER BY name")]
        there = f"there are {', '.join(names)}" if names else "there is none yet; `ablate run SPACE` makes one"
        raise NotHereError(f"{paths.root}: no study{f' is named {study!r}' if study else ''}; {there}")
    about = dict(zip(fields, found[0], strict=True))
    for name in ("metric", "claims", "compare"):
        about[name] = json.loads(about[name]) if about[name] else None
    about["created_at"] = about.pop("written_at").isoformat(timespec="seconds") + "Z"
    return about


def _declared_late(con: duckdb.DuckDBPyConnection, about: dict[str, Any]) -> dict[str, Any]:
    """``claims_late``: of each claim, whether the study had a result when it was first declared; None: not known."""
    if not about["claims"]:
        return {}
    first = dict(rows(con, "SELECT claim, written_at FROM claim WHERE study = ?", [about["name"]]))
    [(seen,)] = rows(con, "SELECT min(written_at) FROM measurement SEMI JOIN chosen USING (trial_id)")
    at = [first.get(canonical_json(claim)) for claim in about["claims"]]
    return {"claims_late": [None if when is None else seen is not None and when > seen for when in at]}


def _skips(skips: list[dict[str, Any]]) -> pd.DataFrame:
    import pandas as pd

    columns = ("plan", "label", "reason")
    return pd.DataFrame({name: pd.Series([row.get(name) for row in skips], dtype="str") for name in columns})


def _add_statuses(frames: dict[str, pd.DataFrame], facts: dict[str, dict[int, AttemptFact]]) -> None:
    """Fill in what no query can know: whether the process of an open attempt still lives."""
    import pandas as pd

    trials, attempts = frames["trials"], frames["attempts"]
    states = [trial_state(list(facts.get(key, {}).values())) for key in trials["trial_id"]]
    trials["status"] = pd.Series([state.status for state in states], dtype="str")
    trials["reason"] = pd.Series([state.reason for state in states], dtype="str")
    trials["attempts"] = pd.Series([state.attempts for state in states], dtype="int64")
    attempts["status"] = pd.Series(
        [attempt_status(facts[key][n]) for key, n in zip(attempts["trial_id"], attempts["attempt"], strict=True)],
        dtype="str",
    )


CHOSEN: dict[str, str] = {
    "chosen_arm": """
        SELECT arm_id, any_value(coalesce(trained_id, arm_id)) AS trained_id,
               any_value(coalesce(trained_label, arm_label, label)) AS trained_label
        FROM study_arm WHERE study_id = ? GROUP BY arm_id""",
    "asked": "SELECT arm_id, trial_id, eval_key FROM study_trial WHERE study_id = ?",
    "confirming": """
        SELECT c.arm_id, c.trial_id, c.eval_key FROM confirm_trial c JOIN study s ON s.name = c.study
        WHERE s.study_id = ? AND c.arm_id IN (SELECT arm_id FROM chosen_arm)""",
    "chosen": """
        SELECT * FROM trial WHERE arm_id IN (SELECT trained_id FROM chosen_arm)
        AND (NOT EXISTS (FROM asked) OR trial_id IN (SELECT trial_id FROM asked UNION SELECT trial_id FROM confirming))
        """,
    "declared": """
        SELECT DISTINCT a.arm_id, e.trial_id, e.metric_id, e.cond_id, e.draw
        FROM (FROM asked UNION FROM confirming) a JOIN evaluation e USING (trial_id, eval_key)""",
}
"""Temporary tables of a study: its arms, the evaluations it asks for, those that confirm its arms, its trials, the
numbers that evaluations made."""

QUERIES: dict[str, str] = {
    "arms": """
        SELECT arm_id, coalesce(s.label, a.label) AS label, a.config::VARCHAR AS config,
               p.num_parameters::DOUBLE AS num_parameters, trained_id, trained_label
        FROM chosen_arm JOIN arm a USING (arm_id)
        LEFT JOIN (SELECT arm_id, min_by(coalesce(arm_label, label), (written_at, uid)) AS label
                   FROM study_arm WHERE study_id = ? GROUP BY arm_id) s USING (arm_id)
        LEFT JOIN (SELECT c.arm_id AS trained_id, max(e.num_parameters) AS num_parameters
                   FROM chosen c JOIN attempt_ended e USING (trial_id) GROUP BY c.arm_id) p USING (trained_id)
        ORDER BY label, arm_id""",
    "study_arms": """
        WITH mine AS (
          SELECT arm_id, plan, plan_kind AS kind, position, label, axis, level, choice::VARCHAR AS choice,
                 baseline_label, coalesce(arm_label, label) AS arm_label
          FROM study_arm WHERE study_id = ?),
        picked AS (
          SELECT arm_id, min_by(arm_label, (plan, position)) AS label, min_by(choice, (plan, position)) AS choice
          FROM mine WHERE arm_id IN (SELECT arm_id FROM confirming) GROUP BY arm_id)
        SELECT * EXCLUDE arm_label FROM mine UNION ALL
        SELECT arm_id, 'confirm', 'confirm', row_number() OVER (ORDER BY label, arm_id) - 1, label, NULL, NULL, choice,
               NULL FROM picked
        ORDER BY kind = 'confirm', plan, position, label, arm_id""",
    "trials": """
        SELECT c.trial_id, c.arm_id, c.seed, '' AS status, '' AS reason, c.steps_planned::DOUBLE AS steps_planned,
               coalesce(s.step, 0) AS steps_done, e.wall_seconds, e.cpu_seconds, e.gpu_seconds, e.peak_mem_mb,
               0 AS attempts,
               c.trial_id IN (SELECT trial_id FROM confirming) AND c.trial_id NOT IN (SELECT trial_id FROM asked)
                 AS confirm,
               c.trial_id IN (SELECT trial_id FROM confirming SEMI JOIN asked USING (trial_id)) AS stale
        FROM chosen c
        LEFT JOIN trial_step s USING (trial_id)
        LEFT JOIN (SELECT trial_id, sum(wall_seconds / packed) AS wall_seconds, sum(cpu_seconds) AS cpu_seconds,
                          sum(gpu_seconds) AS gpu_seconds, max(peak_mem_mb) AS peak_mem_mb
                   FROM attempt WHERE task <> 'eval' GROUP BY trial_id) e USING (trial_id)
        ORDER BY c.arm_id, c.seed, c.trial_id""",
    "measurements": """
        SELECT c.trial_id, coalesce(o.arm_id, c.arm_id) AS arm_id, c.seed, m.metric_id,
               coalesce(d.name, m.metric_id) AS metric_name, m.cond_id, m.step, m.draw, m.n_samples, m.value,
               m.wall_seconds, CASE WHEN EXISTS (FROM asked) THEN o.arm_id IS NOT NULL END AS declared
        FROM chosen c JOIN measurement m USING (trial_id) LEFT JOIN metric_def d USING (metric_id)
        LEFT JOIN declared o USING (trial_id, metric_id, cond_id, draw)
        ORDER BY 2, c.seed, m.metric_id, m.cond_id, m.step, m.draw""",
    "curves": """
        SELECT c.trial_id, any_value(c.arm_id) AS arm_id, any_value(c.seed) AS seed, p.step, p.name,
               arg_max(p.value, p.written_at) AS value
        FROM chosen c JOIN scalar_point p USING (trial_id) GROUP BY c.trial_id, p.step, p.name
        ORDER BY arm_id, seed, p.name, p.step""",
    "artifacts": """
        SELECT c.trial_id, coalesce(o.arm_id, c.arm_id) AS arm_id, c.seed, f.kind, f.step, f.path, f.mime,
               f.width::DOUBLE AS width, f.height::DOUBLE AS height, f.rows::DOUBLE AS rows, f.cols::DOUBLE AS cols,
               f.cond_id, f.sha256, CASE WHEN EXISTS (FROM asked) THEN o.arm_id IS NOT NULL END AS declared
        FROM chosen c JOIN artifact f USING (trial_id)
        LEFT JOIN (SELECT DISTINCT arm_id, trial_id, cond_id, draw FROM declared) o USING (trial_id, cond_id, draw)
        ORDER BY 2, c.seed, f.kind, f.step, f.path""",
    "metric_defs": """
        SELECT metric_id, coalesce(name, metric_id) AS name, definition::VARCHAR AS definition,
               coalesce(higher_is_better, false) AS higher_is_better
        FROM metric_def WHERE metric_id IN (SELECT metric_id FROM measurement JOIN chosen USING (trial_id))
        ORDER BY metric_id""",
    "conditions": """
        SELECT cond_id, definition::VARCHAR AS definition FROM eval_cond
        WHERE cond_id IN (SELECT cond_id FROM measurement JOIN chosen USING (trial_id)) ORDER BY cond_id""",
    "environments": """
        SELECT env_id, definition::VARCHAR AS definition FROM env
        WHERE env_id IN (SELECT env_id FROM attempt_started JOIN chosen USING (trial_id)) ORDER BY env_id""",
    "attempts": """
        SELECT a.trial_id, a.number AS attempt, a.host, a.device, a.started_at::TIMESTAMP AS started_at,
               a.ended_at::TIMESTAMP AS ended_at, '' AS status, a.error_head, a.task, a.error_type, a.env_id,
               a.resumed_from_step::DOUBLE AS resumed_from_step, a.wall_seconds
        FROM attempt a JOIN chosen USING (trial_id) ORDER BY a.trial_id, a.number""",
}
"""Frame -> its query over the study's trials (table ``chosen``); ``?`` is the study's id."""
