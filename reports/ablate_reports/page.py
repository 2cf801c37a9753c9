"""Everything the page prints, as plain values for its template, in page order."""

from __future__ import annotations

from typing import Any

from ablate_reports import cards, formats, methods, published, queries, sections, tables
from ablate_reports.analysis import Analysis, ArmRow
from ablate_reports.choices import choices, varying
from ablate_reports.data import DIVERGED, FAILED, LOST, STOPPED
from ablate_reports.figures import all_figures
from ablate_reports.figures.base import Table
from ablate_reports.figures.losses import panels
from ablate_reports.samples import gallery
from ablate_reports.verdicts import count

MOST_FILTERS, MOST_LEVELS = 8, 40
AFTER_LOSSES = ("rungs", "parallel")
"""Figures that come after the training losses, by the start of their ids."""


def context(analysis: Analysis) -> dict[str, Any]:
    """The template's variables."""
    frames, s = analysis.frames, analysis.situation
    figures = all_figures(analysis)
    loss_name, losses = panels(analysis)
    shown = gallery(analysis)
    claims_introduction, claimed = sections.claims(analysis)
    numbered = {
        **{f"figure-{f.id}": f.nav for f in figures if not f.id.startswith(AFTER_LOSSES)},
        **({"losses": "Losses"} if losses else {}),
        **{f"figure-{f.id}": f.nav for f in figures if f.id.startswith(AFTER_LOSSES)},
        **({"samples": "Samples"} if shown.first or shown.problems else {}),
        **({"neighbours": "Neighbours"} if shown.neighbours else {}),
    }
    found = {
        "a": analysis,
        "study": frames.study,
        "running": s.final < s.planned,
        "created": _moment(frames.study["created_at"]) if frames.study["created_at"] else "",
        "facts": cards.facts(analysis),
        "claims": claimed,
        "claims_introduction": claims_introduction,
        "confirmation": sections.confirmation(analysis),
        "planning": sections.planning(analysis),
        "importances": sections.importances(analysis),
        "sample_sizes": sections.sample_sizes(analysis),
        "single_runs": sections.single_runs(analysis),
        "rows": [
            _arm(analysis, i, r, m) for i, (r, m) in enumerate(zip(analysis.rows, cards.minis(analysis), strict=True))
        ],
        "arm_numbers": {r.label: i for i, r in enumerate(analysis.rows)},
        "mean_name": tables.mean_name(analysis),
        "metric_title": analysis.primary.title if analysis.primary else s.metric,
        "condition": _condition(analysis),
        "figures": figures,
        "before_losses": [f for f in figures if not f.id.startswith(AFTER_LOSSES)],
        "after_losses": [f for f in figures if f.id.startswith(AFTER_LOSSES)],
        "number": {name: i for i, name in enumerate(numbered, start=1)},
        "gallery": shown,
        "gallery_query": queries.pictures("samples"),
        "neighbours_query": queries.pictures("neighbours"),
        "loss_name": loss_name,
        "losses": losses,
        "loss_query": queries.scalar(loss_name),
        "loss_table": Table(
            ["Arm", "Step", "Loss"],
            [[formats.short(p.label, 80), f"{step:,}", formats.number(v)] for p in losses for step, v in p.points],
        ),
        "failures": tables.failures(analysis),
        "spent_on_failures": _spent_on_failures(analysis),
        "stopped_early": bool((frames.trials["status"] == STOPPED).any()),
        "lost_by_level": sections.lost_by_level(analysis),
        "skips": tables.skips(analysis),
        "identity": tables.identity(analysis.primary) if analysis.primary else None,
        "others": tables.other_groups(analysis),
        "published": published.beside(analysis),
        "published_introduction": published.INTRODUCTION,
        "methods": methods.paragraph(analysis),
        "trials": tables.trials(analysis),
        "environments": _environments(analysis)[0],
        "packages": _environments(analysis)[1],
        "machines": tables.machines(analysis),
        "count": count,
        **filters(analysis),
    }
    return found | {"contents": _contents(found, numbered)}


def filters(analysis: Analysis) -> dict[str, Any]:
    """``filter_axes``: axis -> levels to choose from; ``arm_levels``: for every arm, axis number -> level."""
    chosen = choices(analysis.frames)
    several = {a: levels for a, levels in varying(chosen).items() if len(levels) < len(chosen)}  # else: the arm's name
    axes = {a: levels for a, levels in several.items() if len(levels) <= MOST_LEVELS}
    kept = dict(list(axes.items())[:MOST_FILTERS])
    numbers = {axis: str(i) for i, axis in enumerate(kept)}
    arms = [{numbers[a]: v for a, v in chosen[r.arm_id].items() if a in kept} for r in analysis.rows]
    return {"filter_axes": kept, "arm_levels": {"arms": arms}}


def _contents(found: dict[str, Any], numbered: dict[str, str]) -> list[tuple[str, str]]:
    """Anchors and what the contents call them; of several figures of one kind the first alone."""
    links = [("verdict", "Verdict"), *([("claims", "Claims")] if found["claims"] else []), ("arms", "Arms")]
    seen: set[str] = set()
    for anchor, name in numbered.items():
        if name not in seen:
            links.append((anchor, name))
        seen.add(name)
    links.append(("identity", "Metric"))
    links += [("published", "Published")] if found["published"] else []
    return [
        *links,
        ("failures", "Failures"),
        ("trials", "Trials"),
        ("methods", "Methods"),
        ("provenance", "Provenance"),
    ]


def _arm(analysis: Analysis, number: int, row: ArmRow, mini: cards.Mini | None) -> dict[str, Any]:
    delta, both = tables.difference_of(analysis, row)
    verdict = row.verdict if row.contrast is not None and row.contrast.low is not None else None
    return {
        "number": number, "label": row.label, "short": formats.short(row.label, 120),
        "baseline": row.baseline, "tied": row.tied_best,
        "value": formats.number(row.value), "interval": tables.interval_of(row), "sure": row.low is not None,
        "seeds": tables.seeds_of(row), "cost": tables.cost(row), "delta": delta, "both": both, "verdict": verdict,
        "marker": analysis.marker(verdict) if verdict else "", "said": tables.verdict_of(analysis, row), "mini": mini,
        "why": _without_value(analysis, row) if row.value is None else "",
    }  # fmt: skip


def _environments(analysis: Analysis) -> tuple[Table, Table]:
    """What was recorded of the machines, and apart from it the long list of packages."""
    every = tables.environments(analysis)
    long = [row for row in every.rows if row[0].startswith(("packages.", "plugins."))]
    return Table(every.head, [row for row in every.rows if row not in long]), Table(every.head, long)


def _spent_on_failures(analysis: Analysis) -> str:
    """What the trials cost that gave no value, in one sentence; empty without any."""
    trials = analysis.frames.trials
    lost = trials["status"].isin([DIVERGED, FAILED, LOST])
    if not lost.any():
        return ""
    unit = "gpu" if trials["gpu_seconds"].sum() > 0 else "cpu"
    spent, whole = float(trials.loc[lost, f"{unit}_seconds"].sum()), float(trials[f"{unit}_seconds"].sum())
    share = f", {formats.percent(round(spent / whole, 3))} of the whole" if whole > 0 else ""
    return (
        f"{int(lost.sum())} of {count(len(trials), 'trial')} failed, diverged or were lost; they cost "
        f"{formats.hours(spent)} of {unit.upper()} time{share}."
    )


def _without_value(analysis: Analysis, row: ArmRow) -> str:
    """Why an arm has no value under the study's metric."""
    if lost := row.failed + row.diverged:
        return f"no value: {count(lost, 'trial')} lost"
    if not row.done:
        return "no value yet"
    elsewhere = any(row.arm_id in g.by_arm() for g in analysis.groups if g is not analysis.primary)
    return "no value: measured under another identity or condition" if elsewhere else row.note or "no value"


def _moment(at: Any) -> str:
    """An ISO time as people read it: ``2026-01-01 00:00 UTC``."""
    text = str(at).replace("T", " ")
    return f"{text[:16]} UTC" if text.endswith(("Z", "+00:00")) and len(text) > 16 else text


def _condition(analysis: Analysis) -> str:
    """``nfe 1, guidance 1``: under what the primary values were measured."""
    if analysis.primary is None:
        return ""
    varied = analysis.primary.varied
    common = ", ".join(
        f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}"
        for k, v in sorted(analysis.primary.condition.items())
        if v is not None and k not in varied
    )
    return common + (f"; by arm: {', '.join(sorted(varied))}" if varied else "")
