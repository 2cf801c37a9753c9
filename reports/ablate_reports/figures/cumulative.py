"""Waterfall: what each step of a cumulative plan adds on top of the one before."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ablate_reports import formats, queries, tables
from ablate_reports.analysis import Analysis, ArmRow
from ablate_reports.data import records
from ablate_reports.figures.base import (
    COLOURS,
    GREY,
    NARROW,
    Figure,
    Table,
    axis,
    layout,
    log_ticks,
    numbers,
    plain,
    row_label,
    shorter,
    symbol,
)
from ablate_reports.statistics import Contrast
from ablate_reports.verdicts import Verdict


@dataclass(frozen=True)
class Step:
    """One row of the path.

    Attributes:
        step: the difference to the row it builds on, which is the one above unless that was left.
        total: the difference to the first row.
        left: a later step does not build on it: tried, not kept.
    """

    name: str
    row: ArmRow
    step: Contrast | None
    total: Contrast | None
    verdict: Verdict | None
    left: bool = False


@dataclass(frozen=True)
class Refused:
    """A step of the path that was not run, and why."""

    name: str
    reason: str


def build(analysis: Analysis) -> list[Figure]:
    """One waterfall for every cumulative plan with at least two measured arms."""
    rows = analysis.frames.study_arms
    plans = list(dict.fromkeys(rows.loc[rows["kind"] == "cumulative", "plan"]))
    figures = []
    for number, plan in enumerate(plans):
        path = steps(analysis, str(plan))
        if sum(s.row.value is not None for s in path) > 1:
            figures.append(_figure(analysis, str(plan), path, number))
    return figures


def steps(analysis: Analysis, plan: str) -> list[Step]:
    """The path of a cumulative plan, from the study's baseline on; contrasts of its steps form one family."""
    found: list[tuple[str, ArmRow, str | None]] = []
    for member in records(analysis.frames.axes(plan, "cumulative")):
        if member.arm_id in analysis.by_id and member.arm_id not in {r.arm_id for _, r, _ in found}:
            row = analysis.by_id[member.arm_id]
            on = getattr(member, "baseline_label", None)
            name = str(member.label) if isinstance(member.label, str) and member.label else row.label
            found.append((name, row, on if isinstance(on, str) else None))
    base = analysis.frames.baseline
    if base in analysis.by_id and base not in {r.arm_id for _, r, _ in found}:
        found.insert(0, (analysis.by_id[base].label, analysis.by_id[base], None))
    before = _built_on(found)
    first = next((r.arm_id for _, r, _ in found if r.value is not None), "")
    model = analysis.model
    moves: dict[str, Contrast] = {}
    totals: dict[str, Contrast] = {}
    if model is not None and before:
        moves = {c.arm: c for c in model.compare(list(before.items()), analysis.alpha)}
        totals = {c.arm: c for c in model.compare([(b, first) for b in before], analysis.alpha)}
    last = list(before)[-1:]
    return [
        Step(
            name,
            r,
            moves.get(r.arm_id),
            totals.get(r.arm_id),
            analysis.judge(moves[r.arm_id]) if r.arm_id in moves else None,
            r.arm_id in before and r.arm_id not in {*before.values(), *last},
        )
        for name, r, _ in found
    ]


def _built_on(found: list[tuple[str, ArmRow, str | None]]) -> dict[str, str]:
    """arm -> the arm it builds on: the one its plan names, where that was measured, else the measured one above."""
    before: dict[str, str] = {}
    seen: dict[str, str] = {}
    for name, row, on in found:
        if row.value is None:
            continue
        if seen:
            before[row.arm_id] = seen[on] if on in seen else list(seen.values())[-1]
        seen[name] = row.arm_id
    return before


def lines(analysis: Analysis, plan: str, path: list[Step]) -> list[Step | Refused]:
    """The path with the steps that were not run, each after the steps that it would have been added to."""
    found: list[Step | Refused] = list(path)
    for skip in records(analysis.frames.skips):
        if skip.plan == plan:
            under = [i for i, s in enumerate(found) if isinstance(s, Refused) or str(skip.label).startswith(s.name)]
            found.insert(max(under, default=len(found) - 1) + 1, Refused(str(skip.label), str(skip.reason)))
    return found


def added(name: str, above: str | None) -> str:
    """``+a +b`` under ``+a`` is ``+b``: what a step adds."""
    rest = name.removeprefix(above) if above else name
    return rest.strip() if rest != name and rest.startswith(" ") else name


def _figure(analysis: Analysis, plan: str, path: list[Step], number: int) -> Figure:
    last = next(s for s in reversed(path) if s.row.value is not None and not s.left)
    first = next(s for s in path if s.row.value is not None)
    whole = ""
    if last.total is not None:
        interval = formats.interval(last.total.low, last.total.high, analysis.scale)
        whole = f": {formats.change(last.total.estimate, analysis.scale)}" + (f" ({interval})" if interval else "")
    shown = lines(analysis, plan, path)
    marks = "Dots are seeds"
    if any(isinstance(s, Step) and s.row.low is not None for s in shown):
        marks += f", bars {analysis.level} intervals of the mean"
    if any(isinstance(s, Step) and s.left for s in shown):
        marks += "; a hatched box is a step that was tried and not kept"
    judged = any(isinstance(s, Step) and s.step is not None and s.step.low is not None for s in shown)
    family = (
        f"judged by {analysis.level} intervals that hold for all steps at once"
        if judged
        else "without an interval, so nothing is judged"
    )
    caption = (
        f"From {formats.short(first.name)} ({formats.number(first.row.value)}) to {formats.short(last.name)} "
        f"({formats.number(last.row.value)}){whole}. {marks}; the text is the change from the row it builds on, "
        f"{family}."
    )
    title = "Cumulative steps" if number == 0 else f"Cumulative steps: {formats.short(plan)}"
    notes = ["The order of a cumulative path is a choice; another order can divide the same total differently."]
    if refused := sum(isinstance(s, Refused) for s in shown):
        notes.append(f"{refused} step{'s' if refused > 1 else ''} of the plan could not run; the table has the reason.")
    return Figure(
        f"cumulative-{number}", title, caption, _spec(analysis, shown), _table(analysis, shown), notes, nav="Steps",
        narrow=shorter(_text(analysis, s, up, NARROW) for up, s in _with_above(shown)),
        queries=(queries.final_values(analysis), queries.plan(plan, "cumulative")),
    )  # fmt: skip


def _with_above(shown: list[Step | Refused]) -> list[tuple[str | None, Step | Refused]]:
    return list(zip([None, *(s.name for s in shown)], shown, strict=False))


def _spec(analysis: Analysis, every: list[Step | Refused]) -> dict[str, Any]:
    shown = [(i, s) for i, s in enumerate(every) if isinstance(s, Step) and s.row.value is not None]
    everything = [v for _, s in shown for v in (*s.row.seeds.values(), s.row.low, s.row.high) if v is not None]
    low, high = min(everything), max(everything)
    log = analysis.scale == "log" and high > 3 * low > 0
    places = {s.row.arm_id: (i, s.row.value) for i, s in shown}
    shapes: list[dict[str, Any]] = []
    hatched: list[dict[str, Any]] = []
    for j, s in shown:
        if s.step is None:
            continue
        i, value = places[s.step.reference]
        colour = COLOURS[s.verdict or "inconclusive"]
        link = {"type": "line", "x0": value, "x1": value, "y0": i, "y1": j, "layer": "below"}
        shapes.append(link | {"line": {"color": GREY, "width": 1, "dash": "dot"}})
        if s.left:
            hatched.append(_hatched(j, value or 0.0, s.row.value or 0.0, colour))
            continue
        box = {"type": "rect", "x0": value, "x1": s.row.value, "y0": j - 0.13, "y1": j + 0.13, "layer": "below"}
        shapes.append(box | {"fillcolor": colour, "opacity": 0.25, "line": {"width": 0}})
    number = numbers(analysis)
    labels = [
        row_label(_text(analysis, s, up), i, number[s.row.arm_id] if isinstance(s, Step) else -1)
        for i, (up, s) in enumerate(_with_above(every))
    ]
    name = formats.safe(analysis.metric_axis, 60)
    pad = 0.05 * (high - low or abs(high) or 1.0)
    x = (
        axis(f"{name}, log scale", type="log", range=plain([math.log10(low / 1.1), math.log10(high * 1.1)]),
             tickvals=plain(log_ticks(low / 1.1, high * 1.1)))
        if log
        else axis(name, range=plain([low - pad, high + pad]))
    )  # fmt: skip
    y = axis(range=[len(every) - 0.5, -0.8], showticklabels=False, ticks="", showgrid=False, fixedrange=True)
    return {
        "data": [*hatched, _seeds(analysis, shown), *(_mark(analysis, i, s) for i, s in shown)],
        "layout": layout(
            84 + 52 * len(every), shapes=shapes, annotations=labels, xaxis=x, yaxis=y, showlegend=False,
            margin={"l": 12, "r": 16, "t": 12, "b": 52},
        ),
    }  # fmt: skip


def _hatched(y: int, start: float, end: float, colour: str) -> dict[str, Any]:
    return {
        "type": "bar", "orientation": "h", "base": plain([start]), "x": plain([end - start]), "y": [y], "width": [0.26],
        "hoverinfo": "skip",
        "marker": {"color": "rgba(0,0,0,0)", "line": {"color": colour, "width": 1},
                   "pattern": {"shape": "/", "fgcolor": colour, "bgcolor": "rgba(0,0,0,0)", "size": 6}},
    }  # fmt: skip


def _text(analysis: Analysis, s: Step | Refused, above: str | None, length: int = 48) -> str:
    name = f"<b>{formats.safe(added(s.name, above), length)}</b>"
    if isinstance(s, Refused):
        return f"{name}  not run"
    if s.row.value is None:
        return f"{name}  no value"
    text = f"{name}  {formats.number(s.row.value)}"
    if s.row.n < s.row.planned:
        text += f" ({s.row.n} of {s.row.planned} seeds)"
    if s.step is None or s.verdict is None:
        return text
    sign = f"{analysis.marker(s.verdict)} " if s.step.low is not None else ""
    text = f"{text}  {sign}{formats.change(s.step.estimate, analysis.scale)}"
    return f"{text}, not kept" if s.left else text


def _seeds(analysis: Analysis, shown: list[tuple[int, Step]]) -> dict[str, Any]:
    number = numbers(analysis)
    points = [(v, i, seed, number[s.row.arm_id]) for i, s in shown for seed, v in s.row.seeds.items()]
    return {
        "type": "scatter", "mode": "markers", "name": "one seed", "x": plain(p[0] for p in points),
        "y": [p[1] for p in points], "meta": [p[3] for p in points],
        "text": [f"seed {p[2]}" for p in points], "hovertemplate": "%{text}: %{x}<extra></extra>",
        "marker": {"size": 6, "color": GREY, "opacity": 0.6},
    }  # fmt: skip


def _mark(analysis: Analysis, i: int, s: Step) -> dict[str, Any]:
    verdict = s.verdict or "inconclusive"
    mark: dict[str, Any] = {
        "type": "scatter", "mode": "markers", "x": plain([s.row.value]), "y": [i],
        "text": [formats.safe(s.name, 80)], "hovertemplate": "%{text}: %{x}<extra></extra>",
        "marker": {"size": 11, "color": COLOURS[verdict],
                   "symbol": symbol(analysis, verdict) if s.verdict else "diamond"},
        "meta": [numbers(analysis)[s.row.arm_id]],
    }  # fmt: skip
    if s.row.low is not None and s.row.high is not None and s.row.value is not None:
        error = {
            "type": "data", "symmetric": False, "array": plain([s.row.high - s.row.value]),
            "arrayminus": plain([s.row.value - s.row.low]),
        }  # fmt: skip
        mark["error_x"] = error | {"thickness": 1.8, "width": 5, "color": COLOURS[verdict]}
    return mark


def _said(analysis: Analysis, s: Step) -> str:
    if s.step is None or s.verdict is None:
        return "—"
    return "? no interval" if s.step.low is None else f"{analysis.marker(s.verdict)} {s.verdict}"


def _table(analysis: Analysis, shown: list[Step | Refused]) -> Table:
    change = "Change from the row it builds on"
    head = [
        "Step",
        "Mean",
        f"{analysis.level} interval",
        change,
        "Interval",
        "Verdict",
        "Total change",
        "Seeds",
        "Cost",
    ]
    rows = []
    for s in shown:
        if isinstance(s, Refused):
            rows.append([formats.short(s.name, 80), "not run", formats.short(s.reason, 200), *6 * ["—"]])
            continue
        c = s.step
        between = (
            f"{formats.number(s.row.low)} to {formats.number(s.row.high)}"
            if s.row.low is not None
            else s.row.note or "—"
        )
        rows.append([
            formats.short(s.name, 80), formats.number(s.row.value), between,
            formats.change(c.estimate, analysis.scale) if c else "—",
            (formats.interval(c.low, c.high, analysis.scale) or c.note) if c else "—",
            _said(analysis, s) + (", not kept" if s.left else ""),
            formats.change(s.total.estimate, analysis.scale) if s.total else "—", tables.seeds_of(s.row),
            tables.cost(s.row),
        ])  # fmt: skip
    return Table(head, rows)
