"""Heat map of a grid plan over two axes: the mean of every cell."""

from __future__ import annotations

import math
from typing import Any

from ablate_reports import formats, queries
from ablate_reports.analysis import Analysis, ArmRow
from ablate_reports.data import definition, records
from ablate_reports.figures.base import Figure, Table, axis, layout, numbers, plain

CIVIDIS = ("#00224e", "#123570", "#3b496c", "#575d6d", "#707173", "#8a8678", "#a59c74", "#c3b369", "#e1cc55", "#fee838")


def build(analysis: Analysis) -> list[Figure]:
    """One heat map for every grid plan in which exactly two axes vary."""
    rows = analysis.frames.study_arms
    plans = list(dict.fromkeys(rows.loc[rows["kind"] == "grid", "plan"]))
    figures = []
    for number, plan in enumerate(plans):
        cells, axes = _cells(analysis, str(plan))
        if len(axes) == 2 and any(r.value is not None for r in cells.values()):
            figures.append(_figure(analysis, str(plan), cells, axes, number))
    return figures


def _cells(analysis: Analysis, plan: str) -> tuple[dict[tuple[str, ...], ArmRow], dict[str, list[str]]]:
    members = [(definition(m.choice), m.arm_id) for m in records(analysis.frames.axes(plan, "grid"))]
    names = list(dict.fromkeys(k for choice, _ in members for k in choice))
    levels = {k: list(dict.fromkeys(str(choice.get(k)) for choice, _ in members)) for k in names}
    axes = {k: v for k, v in levels.items() if len(v) > 1}
    cells = {tuple(str(choice.get(k)) for k in axes): analysis.by_id[a] for choice, a in members if a in analysis.by_id}
    return cells, axes


def _figure(
    analysis: Analysis, plan: str, cells: dict[tuple[str, ...], ArmRow], axes: dict[str, list[str]], number: int
) -> Figure:
    (name_y, ys), (name_x, xs) = axes.items()
    values = [[cells[(y, x)].value if (y, x) in cells else None for x in xs] for y in ys]
    best = (min if analysis.lower_is_better else max)(
        ((v, y, x) for y, row in zip(ys, values, strict=True) for x, v in zip(xs, row, strict=True) if v is not None)
    )
    mean = "Geometric mean" if analysis.scale == "log" else "Mean"
    caption = (
        f"{mean} of every cell over its seeds; darker is {'lower' if analysis.lower_is_better else 'higher'}, "
        "which is better. "
        f"The best cell is {formats.short(best[1])} × {formats.short(best[2])} ({formats.number(best[0])})."
    )
    title = f"{formats.short(name_y)} × {formats.short(name_x)}"
    rows = [[formats.short(y, 80), *(_text(cells.get((y, x))) for x in xs)] for y in ys]
    table = Table([f"{formats.short(name_y)} \\ {formats.short(name_x)}", *(formats.short(x, 80) for x in xs)], rows)
    return Figure(
        f"grid-{number}", title, caption, _spec(analysis, axes, values, cells), table, nav="Interactions",
        queries=(queries.final_values(analysis), queries.plan(plan, "grid")),
    )  # fmt: skip


def _text(row: ArmRow | None) -> str:
    if row is None:
        return "not planned"
    if row.value is not None:
        return formats.number(row.value) + (f" ({row.n} seed{'s' if row.n > 1 else ''})")
    lost = row.failed + row.diverged
    return f"{lost} of {row.planned} lost" if lost else "no value yet"


def _spec(
    analysis: Analysis,
    axes: dict[str, list[str]],
    values: list[list[float | None]],
    cells: dict[tuple[str, ...], ArmRow],
) -> dict[str, Any]:
    (name_y, ys), (name_x, xs) = axes.items()
    shade = [[None if v is None else (math.log(v) if analysis.scale == "log" else v) for v in row] for row in values]
    known = [v for row in shade for v in row if v is not None]
    low, span = min(known), (max(known) - min(known)) or 1.0
    colours = CIVIDIS if analysis.lower_is_better else CIVIDIS[::-1]
    notes = []
    number = numbers(analysis)
    meta: list[list[int]] = [[] for _ in ys]
    for i, y in enumerate(ys):
        for j, x in enumerate(xs):
            s = shade[i][j]
            text = formats.number(values[i][j], 3) if s is not None else _text(cells.get((y, x)))
            place = None if s is None else (s - low) / span
            dark = place is not None and (place < 0.55 if analysis.lower_is_better else place > 0.45)
            font = {"size": 13} if s is None else {"size": 13, "color": "#ffffff" if dark else "#111111"}
            arm = number[cells[(y, x)].arm_id] if (y, x) in cells else -1
            note = {"x": j, "y": i, "text": text, "showarrow": False, "font": font}
            notes.append(note | ({"name": f"arm {arm}"} if arm >= 0 else {}))
            meta[i].append(arm)
    scale = [[k / (len(colours) - 1), c] for k, c in enumerate(colours)]
    heat = {
        "type": "heatmap", "z": [plain(row) for row in shade], "x": list(range(len(xs))), "y": list(range(len(ys))),
        "colorscale": scale, "showscale": False, "xgap": 3, "ygap": 3, "hoverinfo": "skip",
        "zmin": plain([low])[0], "zmax": plain([low + span])[0], "meta": meta,
    }  # fmt: skip
    x_axis = axis(
        formats.safe(name_x), tickvals=list(range(len(xs))), ticktext=[formats.safe(x, 18) for x in xs], showgrid=False
    )
    y_axis = axis(
        formats.safe(name_y),
        tickvals=list(range(len(ys))),
        ticktext=[formats.safe(y, 14) for y in ys],
        showgrid=False,
        autorange="reversed",
    )
    return {"data": [heat], "layout": layout(110 + 44 * len(ys), annotations=notes, xaxis=x_axis, yaxis=y_axis)}
