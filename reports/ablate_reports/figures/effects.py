"""Forest plot: every arm against the baseline, one at a time."""

from __future__ import annotations

from typing import Any

from ablate_reports import formats, queries
from ablate_reports.analysis import Analysis, ArmRow
from ablate_reports.figures.base import (
    COLOURS,
    NARROW,
    Figure,
    Table,
    axis,
    layout,
    numbers,
    plain,
    row_label,
    shorter,
    symbol,
)
from ablate_reports.figures.scale import Scale
from ablate_reports.verdicts import VERDICTS, Verdict

MOST_ROWS = 60
"""Beyond this the middle of the ranking is left to the table: nobody reads a plot of 300 rows."""


def build(analysis: Analysis) -> list[Figure]:
    """The forest plot, or nothing when no arm can be compared with an interval."""
    rows = [r for r in analysis.rows if r.contrast is not None]
    rows.sort(key=lambda r: r.contrast.estimate if r.contrast else 0.0, reverse=not analysis.lower_is_better)
    judged = [r for r in rows if r.contrast and r.contrast.low is not None]
    if not judged:
        return []
    shown = judged if len(judged) <= MOST_ROWS else judged[: MOST_ROWS // 2] + judged[-(MOST_ROWS // 2) :]
    base = analysis.baseline_name
    better = sum(r.verdict == "better" for r in judged)
    margin = (
        f" The green band is the declared margin of equivalence, {analysis.situation.margin}."
        if analysis.margin
        else ""
    )
    caption = (
        f"{better} of {len(judged)} arms are better than {base} with {analysis.level} simultaneous confidence. "
        f"Thin bar: simultaneous interval; thick bar: ordinary interval of that arm alone.{margin}"
    )
    left = len(judged) - len(shown)
    notes = [f"{left} arms in the middle of the ranking are in the table only."] if left else []
    notes += _not_estimable(analysis)
    return [
        Figure(
            "effects", f"Each arm against {base}", caption, _spec(analysis, shown), _table(analysis, rows), notes,
            nav="Effects", narrow=shorter(_label(analysis, r, NARROW) for r in shown),
            queries=(queries.final_values(analysis),),
        )
    ]  # fmt: skip


def _spec(analysis: Analysis, rows: list[ArmRow]) -> dict[str, Any]:
    scale = Scale.of(analysis, (v for r in rows if r.contrast for v in (r.contrast.low, r.contrast.high)))
    data: list[dict[str, Any]] = []
    number = numbers(analysis)
    for verdict in VERDICTS:
        mine = [(i, r) for i, r in enumerate(rows) if r.verdict == verdict]
        if mine:
            data += _traces(analysis, verdict, mine, scale)
    y = axis(range=[len(rows) - 0.6, -0.85], showticklabels=False, ticks="", showgrid=False, fixedrange=True)
    return {
        "data": data,
        "layout": layout(
            96 + 44 * len(rows),
            shapes=scale.shapes(),
            annotations=[row_label(_label(analysis, r), i, number[r.arm_id]) for i, r in enumerate(rows)],
            xaxis=scale.axis(),
            yaxis=y,
            margin={"l": 12, "r": 16, "t": 34, "b": 52},
        ),
    }


def _label(analysis: Analysis, r: ArmRow, length: int = 48) -> str:
    """``name  ▼ −12.3%``, with the seeds where some are missing."""
    assert r.contrast is not None
    few = f"  ({r.n} of {r.planned} seeds)" if r.n < r.planned else ""
    sign = f"{analysis.marker(r.verdict)} " if r.verdict else ""
    change = formats.change(r.contrast.estimate, analysis.scale)
    return f"<b>{formats.safe(r.label, length)}</b>  {sign}{change}{few}"


def _traces(analysis: Analysis, verdict: Verdict, mine: list[tuple[int, ArmRow]], scale: Scale) -> list[dict[str, Any]]:
    colour, number = COLOURS[verdict], numbers(analysis)
    thin: list[float | None] = []
    thick: list[float | None] = []
    ys: list[float | None] = []
    arms: list[int] = []
    for i, r in mine:
        c = r.contrast
        assert c is not None
        assert c.low is not None
        assert c.high is not None
        assert c.low_single is not None
        assert c.high_single is not None
        thin += [scale(c.low), scale(c.high), None]
        thick += [scale(c.low_single), scale(c.high_single), None]
        ys += [i, i, None]
        arms += 3 * [number[r.arm_id]]
    silent = {"type": "scatter", "mode": "lines", "hoverinfo": "skip", "showlegend": False, "y": ys, "meta": arms}
    hover = [
        f"{formats.safe(r.label, 80)}<br>{formats.change(r.contrast.estimate, analysis.scale)}"
        f" ({formats.interval(r.contrast.low, r.contrast.high, analysis.scale)})"
        for _, r in mine
        if r.contrast
    ]
    marks = {
        "type": "scatter", "mode": "markers", "name": f"{analysis.marker(verdict)} {verdict}",
        "x": plain(scale(r.contrast.estimate) for _, r in mine if r.contrast), "y": [i for i, _ in mine],
        "marker": {"size": 11, "color": colour, "symbol": symbol(analysis, verdict),
                   "line": {"width": 1.5, "color": colour}},
        "text": hover, "hovertemplate": "%{text}<extra></extra>", "meta": [number[r.arm_id] for _, r in mine],
    }  # fmt: skip
    return [
        silent | {"x": plain(thin), "line": {"width": 1.8, "color": colour}},
        silent | {"x": plain(thick), "line": {"width": 6, "color": colour}, "opacity": 0.45},
        marks,
    ]


def _table(analysis: Analysis, rows: list[ArmRow]) -> Table:
    both_name = f"{analysis.level} simultaneous interval"
    head = ["Arm", "Difference", both_name, "Ordinary interval", "Family p", "Verdict", "Seeds"]
    tost = {e.arm: e for e in analysis.findings.equivalence}
    if tost:
        head += [f"Equivalent within {analysis.situation.margin}, p", "Not worse by it, p"]
    body = []
    for r in rows:
        c = r.contrast
        assert c is not None
        both = formats.interval(c.low, c.high, analysis.scale) or c.note
        alone = formats.interval(c.low_single, c.high_single, analysis.scale) or "—"
        p = _p(c.p_family)
        verdict = f"{analysis.marker(r.verdict)} {r.verdict}" if r.verdict else "—"
        difference = formats.change(c.estimate, analysis.scale)
        body.append([formats.short(r.label, 80), difference, both, alone, p, verdict, f"{c.n} / {c.n_reference}"])
        if tost:
            e = tost.get(r.arm_id)
            body[-1] += [_p(e.p_family if e else None), _p(e.p_inferior_family if e else None)]
    return Table(head, body)


def _p(p: float | None) -> str:
    return "—" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def _not_estimable(analysis: Analysis) -> list[str]:
    """For plans that change one thing at a time: that they say nothing of how axes act together."""
    rows = analysis.frames.study_arms
    found = analysis.findings.plans
    alone = [p for p in found if set(rows.loc[rows["plan"] == p, "kind"]) == {"ofat"}]
    if not alone or any(t.f is not None for p in alone for t in found[p].factorial.terms if len(t.factors) > 1):
        return []
    names = formats.listed([formats.short(p, 32) for p in alone])
    return [f"Interactions are not estimable from {names}: no arm there changes two axes at once."]
