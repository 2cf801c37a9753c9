"""Forest plot: every arm against the baseline, one at a time."""

from __future__ import annotations

import math
from typing import Any

from ablate_reports import formats
from ablate_reports.analysis import Analysis, ArmRow
from ablate_reports.figures.base import COLOURS, GREY, SYMBOLS, Figure, Table, axis, layout, log_ticks, plain, row_label
from ablate_reports.verdicts import VERDICTS

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
    notes = (
        [f"{len(judged) - len(shown)} arms in the middle of the ranking are in the table only."]
        if len(shown) < len(judged)
        else []
    )
    return [
        Figure("effects", f"Each arm against {base}", caption, _spec(analysis, shown), _table(analysis, rows), notes)
    ]


def _spec(analysis: Analysis, rows: list[ArmRow]) -> dict[str, Any]:
    ends = [v for r in rows if r.contrast for v in (r.contrast.low, r.contrast.high) if v is not None]
    ratio = analysis.scale == "log" and max(map(abs, ends)) > math.log(2)
    value = _position(analysis.scale, ratio)
    zero, k = value(0.0), len(rows)
    low, high = min(zero, *map(value, ends)), max(zero, *map(value, ends))
    data: list[dict[str, Any]] = []
    for verdict in VERDICTS:
        mine = [(i, r) for i, r in enumerate(rows) if r.verdict == verdict]
        if mine:
            data += _traces(analysis, verdict, mine, value)
    shapes: list[dict[str, Any]] = []
    line = {"type": "line", "x0": zero, "x1": zero, "y0": 0, "y1": 1, "yref": "paper", "layer": "below"}
    shapes.append(line | {"line": {"color": GREY, "width": 1}})
    if analysis.margin:
        band = {"type": "rect", "x0": value(-analysis.margin), "x1": value(analysis.margin), "y0": 0, "y1": 1}
        shapes.append(
            band
            | {
                "yref": "paper",
                "fillcolor": COLOURS["equivalent"],
                "opacity": 0.13,
                "line": {"width": 0},
                "layer": "below",
            }
        )
    labels = [
        row_label(
            f"<b>{formats.safe(r.label)}</b>  {analysis.marker(r.verdict)} "
            f"{formats.change(r.contrast.estimate, analysis.scale)}",
            i,
        )
        for i, r in enumerate(rows)
        if r.contrast and r.verdict
    ]
    y = axis(range=[k - 0.6, -0.85], showticklabels=False, ticks="", showgrid=False, fixedrange=True)
    return {
        "data": data,
        "layout": layout(
            96 + 44 * k,
            shapes=shapes,
            annotations=labels,
            xaxis=_x_axis(analysis, ratio, low, high),
            yaxis=y,
            margin={"l": 12, "r": 16, "t": 34, "b": 52},
        ),
    }


def _position(scale: str, ratio: bool) -> Any:
    if ratio:
        return lambda d: math.exp(min(max(d, -300.0), 300.0))
    return (lambda d: 100 * math.expm1(min(d, 300.0))) if scale == "log" else float


def _x_axis(analysis: Analysis, ratio: bool, low: float, high: float) -> dict[str, Any]:
    name = analysis.primary.name if analysis.primary else "metric"
    sense = "left is better" if analysis.lower_is_better else "right is better"
    if ratio:
        ticks = log_ticks(low / 1.1, high * 1.1)
        return axis(
            f"{formats.safe(name)} ÷ baseline, log scale ({sense})",
            type="log", tickvals=plain(ticks), ticktext=[f"×{t:g}" for t in ticks],
            range=plain([math.log10(low / 1.12), math.log10(high * 1.12)]),
        )  # fmt: skip
    pad = 0.06 * (high - low or 1.0)
    unit = "%" if analysis.scale == "log" else ""
    what = f"change in {formats.safe(name)}{', %' if unit else ''} ({sense})"
    return axis(what, ticksuffix=unit, range=plain([low - pad, high + pad]))


def _traces(analysis: Analysis, verdict: str, mine: list[tuple[int, ArmRow]], value: Any) -> list[dict[str, Any]]:
    colour = COLOURS[verdict]
    thin: list[float | None] = []
    thick: list[float | None] = []
    ys: list[float | None] = []
    for i, r in mine:
        c = r.contrast
        assert c is not None
        assert c.low is not None
        assert c.high is not None
        assert c.low_single is not None
        assert c.high_single is not None
        thin += [value(c.low), value(c.high), None]
        thick += [value(c.low_single), value(c.high_single), None]
        ys += [i, i, None]
    silent = {"type": "scatter", "mode": "lines", "hoverinfo": "skip", "showlegend": False, "y": ys}
    hover = [
        f"{formats.safe(r.label, 80)}<br>{formats.change(r.contrast.estimate, analysis.scale)}"
        f" ({formats.interval(r.contrast.low, r.contrast.high, analysis.scale)})"
        for _, r in mine
        if r.contrast
    ]
    sign = analysis.marker(verdict)  # type: ignore[arg-type]
    symbol = SYMBOLS[
        verdict if analysis.lower_is_better else {"better": "worse", "worse": "better"}.get(verdict, verdict)
    ]
    marks = {
        "type": "scatter", "mode": "markers", "name": f"{sign} {verdict}", "y": [i for i, _ in mine],
        "x": plain(value(r.contrast.estimate) for _, r in mine if r.contrast),
        "marker": {"size": 11, "color": colour, "symbol": symbol, "line": {"width": 1.5, "color": colour}},
        "text": hover, "hovertemplate": "%{text}<extra></extra>",
    }  # fmt: skip
    return [
        silent | {"x": plain(thin), "line": {"width": 1.8, "color": colour}},
        silent | {"x": plain(thick), "line": {"width": 6, "color": colour}, "opacity": 0.45},
        marks,
    ]


def _table(analysis: Analysis, rows: list[ArmRow]) -> Table:
    head = [
        "Arm",
        "Difference",
        f"{analysis.level} simultaneous interval",
        "Ordinary interval",
        "Family p",
        "Verdict",
        "Seeds",
    ]
    body = []
    for r in rows:
        c = r.contrast
        assert c is not None
        both = formats.interval(c.low, c.high, analysis.scale) or c.note
        alone = formats.interval(c.low_single, c.high_single, analysis.scale) or "—"
        p = "—" if c.p_family is None else ("<0.001" if c.p_family < 0.001 else f"{c.p_family:.3f}")
        verdict = f"{analysis.marker(r.verdict)} {r.verdict}" if r.verdict else "—"
        body.append(
            [
                formats.short(r.label, 80),
                formats.change(c.estimate, analysis.scale),
                both,
                alone,
                p,
                verdict,
                f"{c.n} / {c.n_reference}",
            ]
        )
    return Table(head, body)
