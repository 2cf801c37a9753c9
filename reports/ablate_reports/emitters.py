"""The report as CSV and JSON: the same numbers and verdicts as the page, for readers that are programs.

The JSON is described field by field in reports/README.md; its `format` number changes when a field changes meaning.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ablate_reports import findings, methods, power, published, tables
from ablate_reports.analysis import Analysis, ArmRow, analyse
from ablate_reports.data import StudyFrames
from ablate_reports.figures import cumulative
from ablate_reports.figures.base import Table
from ablate_reports.groups import identity_diff
from ablate_reports.statistics import Contrast

FORMAT = 1

CSV_COLUMNS = (
    "arm_id", "label", "baseline", "metric", "metric_id", "cond_id", "n", "planned", "done", "diverged", "failed",
    "mean", "low", "high",
    "difference", "difference_low", "difference_high", "difference_low_single", "difference_high_single", "p",
    "p_family", "scale", "method",
    "verdict", "tied_best", "cpu_seconds", "gpu_seconds", "num_parameters", "note", "mean_se", "difference_se", "level",
    "lower_is_better",
)  # fmt: skip


def render_json(frames: StudyFrames) -> str:
    """Every number and verdict, with sorted keys and no NaN."""
    return dumped(document(analyse(frames)))


def dumped(value: Any) -> str:
    """JSON text of plain values; numbers that are not finite become null."""
    return json.dumps(_clean(value), indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"


def render_csv(frames: StudyFrames) -> str:
    """One line per arm, raw numbers; differences are on the model's scale (natural logarithms when `scale` is log)."""
    return written(CSV_COLUMNS, arm_records(analyse(frames)))


def arm_records(analysis: Analysis) -> list[dict[str, Any]]:
    """One mapping per arm, keys `CSV_COLUMNS`, raw values."""
    return [_arm(analysis, row) for row in analysis.rows]


def written(columns: Sequence[str], records: Iterable[Mapping[str, Any]]) -> str:
    """CSV text, one line per record."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(record[c]) for c in columns] for record in records)
    return out.getvalue()


def document(a: Analysis) -> dict[str, Any]:
    """What report.json holds of a study."""
    frames, m = a.frames, a.model
    study = {k: v for k, v in frames.study.items() if k != "space_yaml"}
    others = [
        {
            "metric": g.name, "metric_id": g.metric_id, "cond_id": g.cond_id, "values": g.by_arm(),
            "differs": [{"field": k, "primary": x, "here": y} for k, x, y in (identity_diff(a.primary,
            g) if a.primary else [])],
        }
        for g in a.groups if g is not a.primary
    ]  # fmt: skip
    return {
        "format": FORMAT,
        "study": study,
        "headline": a.headline,
        "remarks": a.remarks,
        "notes": a.notes,
        "methods": methods.paragraph(a),
        "status": dict(tables.status_counts(a)),
        "primary": None if a.primary is None else {"metric": a.primary.name, "metric_id": a.primary.metric_id,
        "cond_id": a.primary.cond_id,
                                                   "definition": a.primary.metric, "condition": a.primary.condition},
        "scale": a.scale,
        "margin": a.margin,
        "model": None if m is None else {"sigma": m.sigma, "df": m.df, "blocked": m.blocked, "block": m.block_note,
        "block_f": m.block_f,
                                         "seed_sd": m.seed_sd, "brown_forsythe_p": m.brown_forsythe_p,
                                         "own_variance": m.own, "networks": m.networks or len(m.values),
                                         "within": _within(a),
                                         "detectable": a.detectable, "planner": _planner(a)},
        "arms": [_arm(a, r) | {"values": {str(s): v for s, v in r.seeds.items()}} for r in a.rows],
        "cumulative": _paths(a),
        "others": others,
        "failures": _records(tables.failures(a)),
        "skips": _records(tables.skips(a)),
        "published": published.records(a),
        "findings": findings.document(a),
    }  # fmt: skip


def _within(a: Analysis) -> dict[str, float | None] | None:
    """Spread of arms that are measured from the same trials, about what these have in common."""
    assert a.model is not None
    inside = next(iter(a.model.within.values()), None)
    return None if inside is None else {"sigma": inside.sigma, "df": inside.df}


def _planner(a: Analysis) -> dict[str, float]:
    """Smallest detectable difference (model's scale) for 2 to 20 seeds of every pooled arm."""
    m = a.model
    if m is None or not m.sigma or len(m.pooled) < 2:
        return {}
    seeds = (2, 3, 5, 8, 10, 20)
    return {str(n): power.detectable_with(m.sigma, m.independent, n, blocked=m.blocked, alpha=a.alpha) for n in seeds}


def _arm(a: Analysis, r: ArmRow) -> dict[str, Any]:
    c = r.contrast
    mean = a.model.mean(r.arm_id, a.alpha) if a.model is not None and r.value is not None else None
    return {
        "arm_id": r.arm_id, "label": r.label, "baseline": r.baseline, "metric": a.primary.name if a.primary else None,
        "metric_id": a.primary.metric_id if a.primary else None,
        "cond_id": a.primary.cond_ids.get(r.arm_id) if a.primary else None,
        "n": r.n, "planned": r.planned, "done": r.done, "diverged": r.diverged, "failed": r.failed, "mean": r.value,
        "low": r.low, "high": r.high, "mean_se": mean.se if mean else None,
        **_contrast(c), "scale": a.scale, "verdict": r.verdict, "tied_best": r.tied_best, "cpu_seconds": r.cpu_seconds,
        "gpu_seconds": r.gpu_seconds, "num_parameters": r.num_parameters, "note": "; ".join(n for n in (r.note,
        c.note if c else "") if n), "level": 1 - a.alpha, "lower_is_better": a.lower_is_better,
    }  # fmt: skip


def _contrast(c: Contrast | None) -> dict[str, Any]:
    names = ("estimate", "se", "low", "high", "low_single", "high_single", "p", "p_family", "method")
    keys = (
        "difference",
        "difference_se",
        "difference_low",
        "difference_high",
        "difference_low_single",
        "difference_high_single",
        "p",
        "p_family",
        "method",
    )
    return {k: getattr(c, n) if c else None for k, n in zip(keys, names, strict=True)}


def _paths(a: Analysis) -> dict[str, Any]:
    rows = a.frames.study_arms
    plans = dict.fromkeys(rows.loc[rows["kind"] == "cumulative", "plan"])
    return {
        str(plan): [
            {
                "label": s.name,
                "arm_id": s.row.arm_id,
                "mean": s.row.value,
                "verdict": s.verdict if s.step is not None and s.step.low is not None else None,
                "step": _contrast(s.step),
                "total": _contrast(s.total),
            }
            for s in cumulative.steps(a, str(plan))
        ]
        for plan in plans
    }


def _records(table: Table) -> list[dict[str, str]]:
    return [dict(zip((h.lower() for h in table.head), row, strict=True)) for row in table.rows]


def _clean(value: Any) -> Any:
    """Plain JSON types; numbers that are not finite become null."""
    if isinstance(value, dict):
        return {str(k): _clean(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(v) for v in value]
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    if isinstance(value, int):
        return value
    number = float(value) if isinstance(value, float) or hasattr(value, "__float__") else None
    return str(value) if number is None else number if math.isfinite(number) else None


def _cell(value: Any) -> str:
    """A CSV cell; text that a spreadsheet would run as a formula gets a leading apostrophe."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    text = repr(value) if isinstance(value, float) else str(value)
    return f"'{text}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else text
