"""Heat maps of a plan that crosses axes: the mean of every pair of levels, and how far the pair is from adding up."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ablate_reports import formats, queries
from ablate_reports.analysis import Analysis, ArmRow
from ablate_reports.choices import choices
from ablate_reports.data import definition, records
from ablate_reports.factorial import REST, Effect, Factorial
from ablate_reports.figures.base import Figure, Table, axis, layout, numbers, plain

CIVIDIS = ("#00224e", "#123570", "#3b496c", "#575d6d", "#707173", "#8a8678", "#a59c74", "#c3b369", "#e1cc55", "#fee838")
MIXED = ("grid", "random", "fractional")
"""Kinds of plans whose cells mix the levels of several axes."""
MOST_PAIRS = 6
ROW = 46
STAR = "★"
SMALL = '<span style="font-size:11px">'


@dataclass(frozen=True)
class Cell:
    """A pair of levels: the arms that have it, their mean on the model's scale, and the pair's interaction."""

    arms: tuple[ArmRow, ...]
    mean: float | None
    effect: Effect | None = None

    @property
    def stands_out(self) -> bool:
        """Whether the interaction's simultaneous interval excludes none."""
        e = self.effect
        return e is not None and e.low is not None and e.high is not None and not e.low <= 0 <= e.high


@dataclass(frozen=True)
class Panel:
    """One pair of axes: rows, columns, cells; `why` the pair's interaction is not estimable, or ""."""

    row: str
    column: str
    rows: list[str]
    columns: list[str]
    cells: dict[tuple[str, str], Cell]
    why: str


def build(analysis: Analysis) -> list[Figure]:
    """One figure for every plan that crosses two axes or more."""
    rows = analysis.frames.study_arms
    plans = dict(rows.loc[rows["kind"].isin(MIXED), ["plan", "kind"]].values)
    figures: list[Figure] = []
    for plan, kind in plans.items():
        found = panels(analysis, str(plan), str(kind))
        if any(c.mean is not None for p in found for c in p.cells.values()):
            figures.append(_figure(analysis, str(plan), str(kind), found, len(figures)))
    return figures


def panels(analysis: Analysis, plan: str, kind: str = "grid") -> list[Panel]:
    """Every pair of axes that vary in a plan, those whose interaction stands out first; at most `MOST_PAIRS`."""
    members = [(definition(m.choice), m.arm_id) for m in records(analysis.frames.axes(plan, kind))]
    names = list(dict.fromkeys(k for choice, _ in members for k in choice))
    levels = {k: list(dict.fromkeys(str(choice.get(k)) for choice, _ in members)) for k in names}
    axes = {k: v for k, v in levels.items() if len(v) > 1}
    places = [({k: str(choice.get(k)) for k in axes}, a) for choice, a in members if a in analysis.by_id]
    known = analysis.findings.plans.get(plan)
    fitted = known.factorial if known else None
    found = [_panel(analysis, places, fitted, axes, pair) for pair in itertools.combinations(axes, 2)]
    found.sort(key=lambda p: -sum(c.stands_out for c in p.cells.values()))
    return found[:MOST_PAIRS]


def _panel(
    analysis: Analysis,
    places: list[tuple[dict[str, str], str]],
    fitted: Factorial | None,
    axes: Mapping[str, list[str]],
    pair: tuple[str, str],
) -> Panel:
    row, column = pair
    known = fitted.interactions() if fitted else []
    effects = {(e.factors, e.levels): e for e in known if e.estimate is not None}
    why = next((t.why for t in fitted.terms if t.factors == pair), "") if fitted else ""
    cells: dict[tuple[str, str], Cell] = {}
    for y, x in itertools.product(axes[row], axes[column]):
        mine = tuple(analysis.by_id[a] for at, a in places if (at[row], at[column]) == (y, x))
        values = [_scaled(analysis, r.value) for r in mine if r.value is not None]
        mean = sum(values) / len(values) if values else None
        if mine:
            cells[y, x] = Cell(mine, mean, effects.get((pair, (y, x))) if not why else None)
    return Panel(row, column, axes[row], axes[column], cells, why)


def lacking(analysis: Analysis, fitted: Factorial | None) -> str:
    """``batch 128 and lr 0.01``: what axes are counted from where the plan does not have the baseline's level."""
    base = choices(analysis.frames).get(str(analysis.frames.baseline), {})
    others = {
        f: levels[0] for f, levels in (fitted.factors if fitted else {}).items() if levels[0] != base.get(f, REST)
    }
    return formats.listed([f"{formats.short(f, 40)} {formats.short(level, 40)}" for f, level in others.items()])


def _scaled(analysis: Analysis, value: float) -> float:
    return math.log(value) if analysis.scale == "log" else value


def _figure(analysis: Analysis, plan: str, kind: str, found: list[Panel], number: int) -> Figure:
    one = found[0]
    ordered = sorted(
        ((c.mean, y, x) for (y, x), c in one.cells.items() if c.mean is not None), reverse=not analysis.lower_is_better
    )
    several = len(found) > 1
    mean = "Geometric mean" if analysis.scale == "log" else "Mean"
    over = "over its seeds and the other axes" if several else "over its seeds"
    caption = (
        f"{mean} of every pair of levels {over}; darker is {'lower' if analysis.lower_is_better else 'higher'}, "
        "which is better."
    )
    if not several and ordered:
        _, y, x = ordered[0]
        caption += f" The best cell is {formats.short(y)} × {formats.short(x)}"
        caption += f" ({formats.number(analysis.back(ordered[0][0]))})."
    if any(c.effect for p in found for c in p.cells.values()):
        known = analysis.findings.plans.get(plan)
        others = lacking(analysis, known.factorial if known else None)
        start = "the baseline's row and column" + (f" or, where the plan lacks it, from {others}" if others else "")
        caption += (
            f" Below it: how far the two levels together miss what each does alone, counted from {start}; {STAR} where "
            f"the {analysis.level} interval that holds for all of them excludes none."
        )
    notes = [f"Interaction of {formats.short(p.row)} and {formats.short(p.column)}: {p.why}." for p in found if p.why]
    pairs = [f"{formats.short(p.row)} × {formats.short(p.column)}" for p in found]
    title = f"Interactions in {formats.short(plan)}" if several else pairs[0]
    return Figure(
        f"grid-{number}", title, caption, _spec(analysis, found), _table(analysis, found), notes, nav="Interactions",
        narrow=_narrow(found), queries=(queries.final_values(analysis), queries.plan(plan, kind)),
    )  # fmt: skip


def _text(analysis: Analysis, cell: Cell | None) -> str:
    if cell is None:
        return "not planned"
    if cell.mean is None:
        lost, planned = sum(r.failed + r.diverged for r in cell.arms), sum(r.planned for r in cell.arms)
        return f"{lost} of {planned} lost" if lost else "no value yet"
    return formats.number(analysis.back(cell.mean), 3)


def _drawn(analysis: Analysis, cell: Cell | None) -> str:
    """What stands in a cell: its mean, and below it the interaction."""
    text = _text(analysis, cell)
    if cell is None or cell.effect is None:
        return text
    star = f" {STAR}" if cell.stands_out else ""
    return f"{text}<br>{SMALL}{formats.change(cell.effect.estimate, analysis.scale)}{star}</span>"


def _domains(found: list[Panel], columns: int) -> tuple[list[list[float]], list[list[float]], int]:
    """Where each panel lies in a figure of so many columns, and how high that figure is."""
    lines = [found[i : i + columns] for i in range(0, len(found), columns)]
    heights = [ROW * max(len(p.rows) for p in line) for line in lines]
    gap, top = 86, 12
    total = sum(heights) + gap * len(lines)
    xs: list[list[float]] = []
    ys: list[list[float]] = []
    y = float(total)
    for line, height in zip(lines, heights, strict=True):
        for k in range(len(line)):
            width = 1 / columns
            xs.append([k * width + (0.1 if k else 0.0), (k + 1) * width - (0.02 if columns > 1 else 0.0)])
            ys.append([(y - top - height) / total, (y - top) / total])
        y -= height + gap
    return xs, ys, total + 30


def _columns(found: list[Panel]) -> int:
    return 2 if len(found) > 1 else 1


def _narrow(found: list[Panel]) -> dict[str, Any]:
    """On a phone the panels stand below each other."""
    if _columns(found) == 1:
        return {}
    xs, ys, height = _domains(found, 1)
    out: dict[str, Any] = {"height": height}
    for k, (x, y) in enumerate(zip(xs, ys, strict=True)):
        out |= {f"xaxis{k + 1 if k else ''}.domain": x, f"yaxis{k + 1 if k else ''}.domain": y}
    return out


def _spec(analysis: Analysis, found: list[Panel]) -> dict[str, Any]:
    xs, ys, height = _domains(found, _columns(found))
    data: list[dict[str, Any]] = []
    notes: list[dict[str, Any]] = []
    axes: dict[str, Any] = {}
    for k, p in enumerate(found):
        name = str(k + 1) if k else ""
        heat, texts = _heat(analysis, p, name)
        data.append(heat)
        notes += texts
        wide = 18 if len(found) == 1 else 9
        axes[f"xaxis{name}"] = axis(
            formats.safe(p.column), tickvals=list(range(len(p.columns))), showgrid=False, domain=xs[k],
            ticktext=[formats.safe(x, wide) for x in p.columns], anchor=f"y{name}", fixedrange=True,
        )  # fmt: skip
        axes[f"yaxis{name}"] = axis(
            formats.safe(p.row), tickvals=list(range(len(p.rows))), ticktext=[formats.safe(y, 12) for y in p.rows],
            showgrid=False, autorange="reversed", domain=ys[k], anchor=f"x{name}", fixedrange=True,
        )  # fmt: skip
    margin = {"l": 56, "r": 16, "t": 6, "b": 24}
    return {"data": data, "layout": layout(height, annotations=notes, margin=margin, **axes)}


def _heat(analysis: Analysis, p: Panel, name: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    means = [[c.mean if (c := p.cells.get((y, x))) else None for x in p.columns] for y in p.rows]
    known = [v for row in means for v in row if v is not None] or [0.0]
    low, span = min(known), (max(known) - min(known)) or 1.0
    colours = CIVIDIS if analysis.lower_is_better else CIVIDIS[::-1]
    number = numbers(analysis)
    notes: list[dict[str, Any]] = []
    meta: list[list[int]] = []
    for i, y in enumerate(p.rows):
        meta.append([])
        for j, x in enumerate(p.columns):
            cell, mean = p.cells.get((y, x)), means[i][j]
            place = None if mean is None else (mean - low) / span
            dark = place is not None and (place < 0.55 if analysis.lower_is_better else place > 0.45)
            font = {"size": 13} if mean is None else {"size": 13, "color": "#ffffff" if dark else "#111111"}
            arm = number[cell.arms[0].arm_id] if cell and len(cell.arms) == 1 else -1
            note = {"x": j, "y": i, "xref": f"x{name}", "yref": f"y{name}", "showarrow": False, "font": font}
            notes.append(note | {"text": _drawn(analysis, cell)} | ({"name": f"arm {arm}"} if arm >= 0 else {}))
            meta[-1].append(arm)
    heat = {
        "type": "heatmap", "z": [plain(row) for row in means], "x": list(range(len(p.columns))),
        "y": list(range(len(p.rows))), "xaxis": f"x{name}", "yaxis": f"y{name}", "showscale": False, "xgap": 3,
        "ygap": 3, "hoverinfo": "skip", "colorscale": [[k / (len(colours) - 1), c] for k, c in enumerate(colours)],
        "zmin": plain([low])[0], "zmax": plain([low + span])[0], "meta": meta,
    }  # fmt: skip
    return heat, notes


def _table(analysis: Analysis, found: list[Panel]) -> Table:
    rows = []
    for p in found:
        for (y, x), cell in p.cells.items():
            seeds = sum(r.n for r in cell.arms)
            e = cell.effect
            between = (formats.interval(e.low, e.high, analysis.scale) or e.note) if e else p.why or "—"
            pair = [formats.short(f"{p.row} {y}", 60), formats.short(f"{p.column} {x}", 60)]
            change = formats.change(e.estimate, analysis.scale) if e else "—"
            said = f"{STAR} not additive" if cell.stands_out else ""
            rows.append([*pair, _text(analysis, cell), str(seeds), change, between, said])
    return Table(
        ["Row", "Column", "Mean", "Values", "Interaction", f"{analysis.level} simultaneous interval", ""], rows
    )
