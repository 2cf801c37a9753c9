"""Parallel coordinates: every arm a line through its levels to its value, coloured by rank.

SVG lines in a few rank bins: Plotly's own parallel coordinates need WebGL, which the page's policy forbids.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ablate_reports import formats, queries
from ablate_reports.analysis import Analysis, ArmRow
from ablate_reports.choices import choices, varying
from ablate_reports.figures.base import GREY, Figure, Table, layout, numbers, plain

MOST_AXES = 8
FEWEST_ARMS = 6
RAMP = ("#0072B2", "#4a8fbd", "#85a9bf", "#a3a3a3", "#b39b84", "#c48a5e", "#cc7432", "#D55E00")
"""From the best eighth of the arms to the worst, each visible on white and on black."""
JITTER = 0.05
GOLDEN = 0.6180339887498949


@dataclass(frozen=True)
class Lines:
    """The arms that are drawn, best first, and the axes they pass: name -> levels, the most telling last."""

    rows: list[ArmRow]
    axes: dict[str, list[str]]
    chosen: dict[str, dict[str, str]]


def build(analysis: Analysis) -> list[Figure]:
    """One figure, where arms differ in two axes or more and are too many to read one by one."""
    lines = gathered(analysis)
    if len(lines.axes) < 2 or len(lines.rows) < FEWEST_ARMS:
        return []
    name = analysis.primary.name if analysis.primary else "the metric"
    best = lines.rows[0]
    at = ", ".join(
        f"{formats.short(a, 24)} {formats.short(lines.chosen[best.arm_id].get(a, '—'), 24)}" for a in lines.axes
    )
    caption = (
        f"Every line is one of {len(lines.rows)} arms, from its level on each axis to its mean {name} on the right "
        f"(best at the bottom), coloured by rank from blue (best) to orange. The best line passes {at}. "
        "Exploratory: lines show where good arms lie, not what an axis causes."
    )  # fmt: skip
    if not analysis.lower_is_better:
        caption = caption.replace("best at the bottom", "best at the top")
    notes = []
    if any(a not in lines.chosen[r.arm_id] for r in lines.rows for a in lines.axes):
        notes.append("An arm without a level on an axis passes it by.")
    if (more := len(varying(lines.chosen)) - len(lines.axes)) > 0:
        notes.append(f"{more} axes with the fewest levels are left out.")
    return [
        Figure(
            "parallel", "All arms at once", caption, _spec(analysis, lines), _table(analysis, lines), notes,
            nav="Parallel", narrow=_narrow(lines), queries=(queries.choices(), queries.final_values(analysis)),
        )
    ]  # fmt: skip


def gathered(analysis: Analysis) -> Lines:
    """Arms with a value, best first, and the axes in which they vary."""
    sign = 1 if analysis.lower_is_better else -1
    rows = sorted((r for r in analysis.rows if r.value is not None), key=lambda r: sign * (r.value or 0.0))
    chosen = choices(analysis.frames)
    axes = varying({r.arm_id: chosen[r.arm_id] for r in reversed(rows)})
    kept = sorted(axes, key=lambda a: -len(axes[a]))[:MOST_AXES]
    order = [a for a in varying(chosen) if a in kept]
    return Lines(rows, {a: [v for v in varying(chosen)[a] if v in axes[a]] for a in order}, chosen)


def _height(levels: list[str], level: str | None) -> float | None:
    if level not in levels:
        return None
    return (levels.index(level) + 0.5) / len(levels)


def _spec(analysis: Analysis, lines: Lines) -> dict[str, Any]:
    log = analysis.scale == "log"
    drawn = [math.log(r.value) if log and r.value else (r.value or 0.0) for r in lines.rows]
    low, span = min(drawn), (max(drawn) - min(drawn)) or 1.0
    number, bins = numbers(analysis), min(len(RAMP), len(lines.rows))
    data: list[dict[str, Any]] = []
    for b in reversed(range(bins)):  # the best are drawn last, on top
        xs: list[float | None] = []
        ys: list[float | None] = []
        arms: list[int] = []
        for i, r in enumerate(lines.rows):
            if i * bins // len(lines.rows) != b:
                continue
            shift = JITTER * ((i * GOLDEN) % 1 - 0.5) * 2
            for k, (axis_name, levels) in enumerate(lines.axes.items()):
                if (at := _height(levels, lines.chosen[r.arm_id].get(axis_name))) is not None:
                    xs.append(k)
                    ys.append(at + shift / max(1, len(levels) / 4))
            xs += [len(lines.axes), None]
            ys += [0.04 + 0.92 * (drawn[i] - low) / span, None]
            arms += [number[r.arm_id]] * (len(xs) - len(arms))
        colour = RAMP[round(b * (len(RAMP) - 1) / max(1, bins - 1))]
        data.append({
            "type": "scatter", "mode": "lines", "x": xs, "y": plain(ys, 4), "hoverinfo": "skip", "showlegend": False,
            "line": {"color": colour, "width": 2.4 if b == 0 else 1.4}, "opacity": 0.85 if b == 0 else 0.6,
            "meta": arms,
        })  # fmt: skip
    data.append(_ends(analysis, lines, drawn, low, span))
    k = len(lines.axes)
    shapes = [
        {"type": "line", "x0": i, "x1": i, "y0": 0, "y1": 1, "line": {"color": GREY, "width": 1}} for i in range(k + 1)
    ]
    ticks = {
        "tickvals": list(range(k + 1)), "side": "top", "ticks": "", "showgrid": False, "zeroline": False,
        "range": [-0.25, k + 0.35], "fixedrange": True,
        "ticktext": [*(formats.safe(a, 16) for a in lines.axes), formats.safe(_metric(analysis), 16)],
    }  # fmt: skip
    y = {"visible": False, "range": [-0.03, 1.03], "fixedrange": True}
    return {
        "data": data,
        "layout": layout(
            430, shapes=shapes, annotations=_level_names(lines, 18) + _value_names(analysis, lines, drawn, low, span),
            xaxis=ticks, yaxis=y, margin={"l": 12, "r": 44, "t": 36, "b": 12}, showlegend=False,
        ),
    }  # fmt: skip


def _metric(analysis: Analysis) -> str:
    return analysis.primary.name if analysis.primary else "metric"


def _ends(analysis: Analysis, lines: Lines, drawn: list[float], low: float, span: float) -> dict[str, Any]:
    """The arms' values: the marks that say on hover which line is which."""
    number = numbers(analysis)
    return {
        "type": "scatter", "mode": "markers", "showlegend": False, "x": [len(lines.axes)] * len(lines.rows),
        "y": plain((0.04 + 0.92 * (d - low) / span for d in drawn), 4), "meta": [number[r.arm_id] for r in lines.rows],
        "marker": {"size": 7, "color": [RAMP[i * len(RAMP) // len(lines.rows)] for i in range(len(lines.rows))]},
        "text": [f"{formats.safe(r.label, 60)}: {formats.number(r.value)}" for r in lines.rows],
        "hovertemplate": "%{text}<extra></extra>",
    }  # fmt: skip


def _level_names(lines: Lines, length: int) -> list[dict[str, Any]]:
    return [
        {"x": k, "y": _height(levels, level), "text": formats.safe(level, length), "showarrow": False,
         "xanchor": "left", "xshift": 4, "yshift": 17, "font": {"size": 11.5}}
        for k, levels in enumerate(lines.axes.values()) for level in levels
    ]  # fmt: skip


def _value_names(analysis: Analysis, lines: Lines, drawn: list[float], low: float, span: float) -> list[dict[str, Any]]:
    ends = [(0.04, low), (0.5, low + (0.5 - 0.04) / 0.92 * span), (0.96, low + span)]
    return [
        {"x": len(lines.axes), "y": y, "text": formats.number(analysis.back(v), 3), "showarrow": False,
         "xanchor": "left", "xshift": 8, "font": {"size": 11.5}}
        for y, v in ends
    ]  # fmt: skip


def _narrow(lines: Lines) -> dict[str, Any]:
    names = [formats.safe(level, 6) for levels in lines.axes.values() for level in levels]
    found: dict[str, Any] = {f"annotations[{i}].text": text for i, text in enumerate(names)}
    return found


def _table(analysis: Analysis, lines: Lines) -> Table:
    rows = [
        [formats.short(r.label, 80), *(formats.short(lines.chosen[r.arm_id].get(a, "—"), 40) for a in lines.axes),
         formats.number(r.value), str(i + 1)]
        for i, r in enumerate(lines.rows)
    ]  # fmt: skip
    return Table(["Arm", *(formats.short(a, 40) for a in lines.axes), _metric(analysis), "Rank"], rows)
