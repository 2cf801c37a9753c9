"""The report as Markdown, CSV and JSON: the same numbers and verdicts as the page, for readers that are programs.

The JSON is described field by field in reports/README.md; its `format` number changes when a field changes meaning.
"""

from __future__ import annotations

import csv
import io
import json
import math
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
    "verdict", "tied_best", "cpu_seconds", "gpu_seconds", "num_parameters", "note",
)  # fmt: skip


def render_json(frames: StudyFrames) -> str:
    """Every number and verdict, with sorted keys and no NaN."""
    return (
        json.dumps(_clean(_document(analyse(frames))), indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False)
        + "\n"
    )


def render_csv(frames: StudyFrames) -> str:
    """One line per arm, raw numbers; differences are on the model's scale (natural logarithms when `scale` is log)."""
    analysis = analyse(frames)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for row in analysis.rows:
        record = _arm(analysis, row)
        writer.writerow([_cell(record[c]) for c in CSV_COLUMNS])
    return out.getvalue()


def render_markdown(frames: StudyFrames) -> str:
    """The verdict, the arms, failures, skips, identity and methods as GitHub Markdown."""
    a = analyse(frames)
    parts = [
        f"# {_md(str(frames.study['name']))}",
        _md(str(frames.study["question"])),
        f"**{_md(a.headline)}**",
        _md(" ".join(a.remarks)),
    ]
    parts += [f"> {_md(note)}" for note in a.notes]
    parts.append(_md_table(_bold_tied(a)))
    if a.primary:
        parts.append(
            f"{_md(a.primary.title)} (`{_code(a.primary.metric_id)}`, `{_code(a.primary.under)}`); bold: not "
            "told from the best arm."
        )
    for title, table in (("Failed and diverged trials", tables.failures(a)), ("Skipped combinations", tables.skips(a))):
        if table.rows:
            parts += [f"## {title}", _md_table(table)]
    if a.primary:
        parts += ["## What was measured", _md_table(tables.identity(a.primary))]
    for g, means, diff in tables.other_groups(a):
        parts += [
            f"### {_md(g.title)} (`{_code(g.metric_id)}`, `{_code(g.cond_id)}`)",
            "Kept apart, because it differs in:",
            _md_table(diff),
        ]
        parts.append(_md_table(means))
    if found := published.beside(a):
        parts += ["## Published numbers beside ours", published.INTRODUCTION]
    for p in found:
        said = [f"**{_md(p.metric)}**{': ' * bool(p.identity)}{_md(p.identity)}.", _md(p.why)]
        parts.append(" ".join([*said, *([f"Source: {_md(p.source)}."] if p.source else [])]))
        parts.append(_md_table(p.table))
    parts += ["## Methods", _md(methods.paragraph(a))]
    return "\n\n".join(p for p in parts if p) + "\n"


def _document(a: Analysis) -> dict[str, Any]:
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
        "findings": findings.document(a.findings),
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
    return {
        "arm_id": r.arm_id, "label": r.label, "baseline": r.baseline, "metric": a.primary.name if a.primary else None,
        "metric_id": a.primary.metric_id if a.primary else None,
        "cond_id": a.primary.cond_ids.get(r.arm_id) if a.primary else None,
        "n": r.n, "planned": r.planned, "done": r.done, "diverged": r.diverged, "failed": r.failed, "mean": r.value,
        "low": r.low, "high": r.high,
        **_contrast(c), "scale": a.scale, "verdict": r.verdict, "tied_best": r.tied_best, "cpu_seconds": r.cpu_seconds,
        "gpu_seconds": r.gpu_seconds, "num_parameters": r.num_parameters, "note": "; ".join(n for n in (r.note,
        c.note if c else "") if n),
    }  # fmt: skip


def _contrast(c: Contrast | None) -> dict[str, Any]:
    names = ("estimate", "low", "high", "low_single", "high_single", "p", "p_family", "method")
    keys = (
        "difference",
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
                "verdict": s.verdict,
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


def _bold_tied(a: Analysis) -> Table:
    table = tables.arms(a)
    rows = [[_md(c) for c in row] for row in table.rows]
    for r, row in zip(a.rows, rows, strict=True):
        if r.tied_best:
            row[1] = f"**{row[1]}**"
    return Table(table.head, rows)


def _md_table(table: Table) -> str:
    done = any("**" in c for row in table.rows for c in row)
    lines = ["| " + " | ".join(table.head) + " |", "|" + "---|" * len(table.head)]
    return "\n".join(lines + ["| " + " | ".join(c if done else _md(c) for c in row) + " |" for row in table.rows])


def _md(text: str) -> str:
    """Text without meaning to Markdown or HTML, on one line."""
    flat = " ".join(text.split())
    for mark in "\\`*_[]|#~":
        flat = flat.replace(mark, f"\\{mark}")
    return flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _code(text: str) -> str:
    return text.replace("`", "'")
