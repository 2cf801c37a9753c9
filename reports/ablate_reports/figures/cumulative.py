"""Waterfall: what each step of a cumulative plan adds on top of the one before."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

from ablate_reports import formats
from ablate_reports.analysis import Analysis, ArmRow
from ablate_reports.data import records
from ablate_reports.figures.base import COLOURS, GREY, SYMBOLS, Figure, Table, axis, layout, log_ticks, plain, row_label
from ablate_reports.statistics import Contrast
from ablate_reports.verdicts import Verdict


@dataclass(frozen=True)
class Step:
    """One row of the path; `step` is the difference to the row above, `total` to the first row."""

    name: str
    row: ArmRow
    step: Contrast | None
    total: Contrast | None
    verdict: Verdict | None


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
    """The path of a cumulative plan, from the study's baseline on; contrasts of neighbours form one family."""
    found: list[tuple[str, ArmRow]] = []
    for member in records(analysis.frames.axes(plan, "cumulative")):
        if member.arm_id in analysis.by_id and member.arm_id not in {r.arm_id for _, r in found}:
            row = analysis.by_id[member.arm_id]
            found.append((str(member.label) if isinstance(member.label, str) and member.label else row.label, row))
    base = analysis.frames.baseline
    if base in analysis.by_id and base not in {r.arm_id for _, r in found}:
        found.insert(0, (analysis.by_id[base].label, analysis.by_id[base]))
    measured = [r for _, r in found if r.value is not None]
    before = {b.arm_id: a for a, b in itertools.pairwise(measured)}
    model = analysis.model
    moves: dict[str, Contrast] = {}
    totals: dict[str, Contrast] = {}
    if model is not None and before:
        moves = {c.arm: c for c in model.compare([(b, a.arm_id) for b, a in before.items()], analysis.alpha)}
        totals = {c.arm: c for c in model.compare([(b, measured[0].arm_id) for b in before], analysis.alpha)}
    return [
        Step(
            name,
            r,
            moves.get(r.arm_id),
            totals.get(r.arm_id),
            analysis.judge(moves[r.arm_id]) if r.arm_id in moves else None,
        )
        for name, r in found
    ]


def _figure(analysis: Analysis, plan: str, path: list[Step], number: int) -> Figure:
    last = next(s for s in reversed(path) if s.row.value is not None)
    first = next(s for s in path if s.row.value is not None)
    whole = ""
    if last.total is not None:
        interval = formats.interval(last.total.low, last.total.high, analysis.scale)
        whole = f": {formats.change(last.total.estimate, analysis.scale)}" + (f" ({interval})" if interval else "")
    caption = (
        f"From {formats.short(first.name)} ({formats.number(first.row.value)}) to {formats.short(last.name)} "
        f"({formats.number(last.row.value)}){whole}. Dots are seeds, bars {analysis.level} intervals of the mean; "
        f"the text is the change from the row above, judged by {analysis.level} intervals that hold for all steps "
        "at once."
    )
    title = "Cumulative steps" if number == 0 else f"Cumulative steps: {formats.short(plan)}"
    note = "The order of a cumulative path is a choice; another order can divide the same total differently."
    return Figure(f"cumulative-{number}", title, caption, _spec(analysis, path), _table(analysis, path), [note])


def _spec(analysis: Analysis, path: list[Step]) -> dict[str, Any]:
    shown = [(i, s) for i, s in enumerate(path) if s.row.value is not None]
    everything = [v for _, s in shown for v in (*s.row.seeds.values(), s.row.low, s.row.high) if v is not None]
    low, high = min(everything), max(everything)
    log = analysis.scale == "log" and high > 3 * low
    shapes: list[dict[str, Any]] = []
    for (i, above), (j, s) in itertools.pairwise(shown):
        colour = COLOURS[s.verdict or "inconclusive"]
        link = {"type": "line", "x0": above.row.value, "x1": above.row.value, "y0": i, "y1": j, "layer": "below"}
        shapes.append(link | {"line": {"color": GREY, "width": 1, "dash": "dot"}})
        box = {
            "type": "rect",
            "x0": above.row.value,
            "x1": s.row.value,
            "y0": j - 0.13,
            "y1": j + 0.13,
            "layer": "below",
        }
        shapes.append(box | {"fillcolor": colour, "opacity": 0.25, "line": {"width": 0}})
    labels = [row_label(_text(analysis, s), i) for i, s in enumerate(path)]
    name = formats.safe(analysis.metric_axis, 60)
    pad = 0.05 * (high - low or abs(high) or 1.0)
    x = (
        axis(f"{name}, log scale", type="log", range=plain([math.log10(low / 1.1), math.log10(high * 1.1)]),
             tickvals=plain(log_ticks(low / 1.1, high * 1.1)))
        if log
        else axis(name, range=plain([low - pad, high + pad]))
    )  # fmt: skip
    y = axis(range=[len(path) - 0.5, -0.8], showticklabels=False, ticks="", showgrid=False, fixedrange=True)
    return {
        "data": [_seeds(shown), *(_mark(analysis, i, s) for i, s in shown)],
        "layout": layout(
            84 + 52 * len(path),
            shapes=shapes,
            annotations=labels,
            xaxis=x,
            yaxis=y,
            showlegend=False,
            margin={"l": 12, "r": 16, "t": 12, "b": 52},
        ),
    }


def _text(analysis: Analysis, s: Step) -> str:
    name = f"<b>{formats.safe(s.name)}</b>"
    if s.row.value is None:
        return f"{name}  no value"
    text = f"{name}  {formats.number(s.row.value)}"
    if s.step is None or s.verdict is None:
        return text
    return f"{text}  {analysis.marker(s.verdict)} {formats.change(s.step.estimate, analysis.scale)}"


def _seeds(shown: list[tuple[int, Step]]) -> dict[str, Any]:
    points = [(v, i, seed) for i, s in shown for seed, v in s.row.seeds.items()]
    return {
        "type": "scatter", "mode": "markers", "name": "one seed", "x": plain(p[0] for p in points),
        "y": [p[1] for p in points],
        "text": [f"seed {p[2]}" for p in points], "hovertemplate": "%{text}: %{x}<extra></extra>",
        "marker": {"size": 6, "color": GREY, "opacity": 0.6},
    }  # fmt: skip


def _mark(analysis: Analysis, i: int, s: Step) -> dict[str, Any]:
    verdict = s.verdict or "inconclusive"
    symbol = SYMBOLS[
        verdict if analysis.lower_is_better else {"better": "worse", "worse": "better"}.get(verdict, verdict)
    ]
    mark: dict[str, Any] = {
        "type": "scatter", "mode": "markers", "x": plain([s.row.value]), "y": [i],
        "text": [formats.safe(s.name, 80)], "hovertemplate": "%{text}: %{x}<extra></extra>",
        "marker": {"size": 11, "color": COLOURS[verdict], "symbol": symbol if s.verdict else "diamond"},
    }  # fmt: skip
    if s.row.low is not None and s.row.high is not None and s.row.value is not None:
        error = {
            "type": "data",
            "symmetric": False,
            "array": plain([s.row.high - s.row.value]),
            "arrayminus": plain([s.row.value - s.row.low]),
        }
        mark["error_x"] = error | {"thickness": 1.8, "width": 5, "color": COLOURS[verdict]}
    return mark


def _table(analysis: Analysis, path: list[Step]) -> Table:
    head = [
        "Step",
        "Mean",
        f"{analysis.level} interval",
        "Change from the row above",
        "Interval",
        "Verdict",
        "Total change",
        "Seeds",
    ]
    rows = []
    for s in path:
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
            f"{analysis.marker(s.verdict)} {s.verdict}" if s.verdict else "—",
            formats.change(s.total.estimate, analysis.scale) if s.total else "—", str(s.row.n),
        ])  # fmt: skip
    return Table(head, rows)
