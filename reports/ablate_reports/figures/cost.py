"""The metric against what an arm costs: training time, and parameters; arms tied with the front are drawn as tied."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ablate_reports import formats, queries
from ablate_reports.analysis import Analysis, ArmRow
from ablate_reports.data import DONE
from ablate_reports.figures.base import GREY, Figure, Table, axis, layout, log_ticks, numbers, plain, shorter

MOST_NAMES = 10
MARK = 6
"""Half the width of a mark, in pixels."""
SAME_TIME = 0.05
"""Training times closer than this, relatively, are the same: they vary as much from one run to the next."""
SAME_SIZE = 0.01
"""Arms whose numbers of weights differ by less are of one size: a figure of it would show nothing."""
PLACES = {
    "front": ("on the front", "#0072B2", "diamond"),
    "tied": ("tied with the front", "#0072B2", "diamond-open"),
    "behind": ("behind the front", GREY, "circle"),
    "unjudged": ("not judged: no interval", GREY, "x-thin-open"),
}
"""How an arm stands to the front: words, colour, symbol."""


@dataclass(frozen=True)
class Priced:
    """An arm with its price. `place` is a key of `PLACES`; `against` the arm of the front that it was held against."""

    row: ArmRow
    cost: float
    spread: tuple[float, float]
    place: str = ""
    against: str = ""


def build(analysis: Analysis) -> list[Figure]:
    """Metric against training time, and against parameters, where arms differ in them."""
    unit, timed = times(analysis)
    found = []
    if len(timed) > 1 and max(p.cost for p in timed) > (1 + SAME_TIME) * min(p.cost for p in timed):
        how = f"mean {unit} of training a trial"
        note = (
            f"Times are measured, so another machine or a busy one gives others; within {formats.percent(SAME_TIME)} "
            "of each other they count as equal."
        )
        arms = placed(analysis, timed, SAME_TIME)
        found.append(_figure(analysis, "cost-time", "training time", f"{unit} per trial", how, arms, note))
    sized = [
        Priced(r, r.num_parameters, (r.num_parameters, r.num_parameters))
        for r in analysis.rows
        if r.value is not None and r.num_parameters is not None and r.num_parameters > 0
    ]
    if len(sized) > 1 and max(p.cost for p in sized) > (1 + SAME_SIZE) * min(p.cost for p in sized):
        how = "the number of weights"
        found.append(_figure(analysis, "cost-size", "size", "parameters", how, placed(analysis, sized), ""))
    return found


def times(analysis: Analysis) -> tuple[str, list[Priced]]:
    """``"GPU seconds"`` or ``"CPU seconds"``, and every measured arm with the mean, least and most of its trials."""
    frames = analysis.frames
    done = frames.trials[frames.trials["status"] == DONE]
    unit = "gpu" if (done["gpu_seconds"] > 0).any() else "cpu"
    spent: dict[str, list[float]] = {}
    for key, seconds in zip(done["arm_id"], done[f"{unit}_seconds"], strict=True):
        if math.isfinite(seconds):
            spent.setdefault(key, []).append(seconds)
    found = []
    for row in analysis.rows:
        own = spent.get(frames.trained[row.arm_id], [])
        if row.value is not None and own and (mean := math.fsum(own) / len(own)) > 0:
            found.append(Priced(row, mean, (min(own), max(own))))
    return f"{unit.upper()} seconds", found


def placed(analysis: Analysis, arms: list[Priced], same: float = 0.0) -> list[Priced]:
    """Every arm with its place, cheapest first.

    The front are the arms that no arm at the same cost or less surpasses in its mean, seeds taken out. Another arm is
    behind it when the best arm at its cost or less is better with simultaneous confidence, tied with it when nobody
    can say.

    Args:
        same: costs that exceed each other by this share or less are equal.
    """
    model, sign = analysis.model, 1.0 if analysis.lower_is_better else -1.0
    level = {p.row.arm_id: sign * model.level(p.row.arm_id) for p in arms} if model else {}
    ranked = sorted(arms, key=lambda p: (p.cost, level[p.row.arm_id]))
    ahead: dict[str, Priced] = {}
    front: set[str] = set()
    for p in ranked:
        best = min((q for q in ranked if q.cost <= p.cost * (1 + same)), key=lambda q: level[q.row.arm_id])
        if best is p or best.row.value == p.row.value:
            front.add(p.row.arm_id)
        else:
            ahead[p.row.arm_id] = best
    pairs = [(arm, p.row.arm_id) for arm, p in ahead.items()]
    found = {c.arm: c for c in model.compare(pairs, analysis.alpha)} if model and pairs else {}
    out = []
    for p in ranked:
        arm = p.row.arm_id
        if arm in front:
            place = "front"
        elif (c := found.get(arm)) is None or c.low is None or c.high is None:
            place = "unjudged"
        else:
            place = "tied" if c.low <= 0 <= c.high else "behind"
        against = ahead[arm].row.label if arm in ahead else ""
        out.append(Priced(p.row, p.cost, p.spread, place, against))
    return out


def _figure(analysis: Analysis, name: str, what: str, unit: str, how: str, arms: list[Priced], note: str) -> Figure:
    front = [p for p in arms if p.place == "front"]
    names = ", ".join(formats.short(p.row.label, 32) for p in front[:6]) + (", …" if len(front) > 6 else "")
    sure = any(p.row.low is not None for p in arms)
    caption = (
        f"Horizontal: {how}; vertical: mean{f' with its {analysis.level} interval' if sure else ''}. No cheaper or "
        f"equal arm has a better mean than {names} (filled diamonds)."
    )
    if tied := sum(p.place == "tied" for p in arms):
        caption += (
            f" Open diamonds ({tied}) are not told from the front at their cost with {analysis.level} simultaneous "
            "confidence."
        )
    if unknown := sum(p.place == "unjudged" for p in arms):
        caption += f" Crosses ({unknown}) have no interval to judge by."
    return Figure(
        name, f"{analysis.primary.name if analysis.primary else 'Metric'} against {what}", caption,
        _spec(analysis, unit, arms), _table(analysis, unit, arms), [note] if note else [], nav="Cost",
        narrow=shorter(_name(p, 12) for p in _named(arms)),
        queries=(queries.final_values(analysis), queries.costs()),
    )  # fmt: skip


def _named(arms: list[Priced]) -> list[Priced]:
    """The arms whose names are written beside their marks: all of few, else the front."""
    shown = arms if len(arms) <= MOST_NAMES else [p for p in arms if p.place == "front" or p.row.baseline]
    return shown[:MOST_NAMES]


def _laid_out(
    named: list[Priced], arms: list[Priced], across: bool, up: bool
) -> list[tuple[Priced, tuple[str, int] | None]]:
    """Where each name goes beside its mark, ``(anchor, shift)``, on no other name or mark; None: nowhere.

    Counted in pixels of a plot of 900 x 340, which is what the page gives on a desk.
    """
    xs = [math.log(p.cost) if across else p.cost for p in arms]
    ys = [math.log(p.row.value or 1.0) if up else (p.row.value or 0.0) for p in arms]
    wide, high = (max(xs) - min(xs)) or 1.0, (max(ys) - min(ys)) or 1.0
    at = [(900 * (x - min(xs)) / wide, 340 * (y - min(ys)) / high) for x, y in zip(xs, ys, strict=True)]
    taken = [(x - MARK, y, 2.0 * MARK) for x, y in at]
    out: list[tuple[Priced, tuple[str, int] | None]] = []
    for p in named:
        own = arms.index(p)
        x, y = at[own]
        length = 6.5 * min(28, len(p.row.label))
        sides = ("left", "right") if x < 450 else ("right", "left")
        for side, shift in ((side, shift) for shift in (9, -9, 22, -22) for side in sides):
            start = x + 9 if side == "left" else x - 9 - length
            others = (mark for i, mark in enumerate(taken) if i != own)
            if not any(abs(y + shift - b) < 13 and start < a + n and a < start + length for a, b, n in others):
                taken.append((start, y + shift, length))
                out.append((p, (side, shift)))
                break
        else:
            out.append((p, None))
    return out


def _beside(p: Priced, place: tuple[str, int] | None, log: tuple[bool, bool]) -> dict[str, Any]:
    side, shift = place or ("left", 0)
    value = p.row.value or 0.0
    return {
        "text": _name(p, 28), "x": math.log10(p.cost) if log[0] else p.cost, "visible": place is not None,
        "y": math.log10(value) if log[1] else value, "showarrow": False, "font": {"size": 11.5}, "xanchor": side,
        "xshift": 9 if side == "left" else -9, "yshift": shift,
    }  # fmt: skip


def _name(p: Priced, length: int) -> str:
    return formats.safe(p.row.label, length)


def _spec(analysis: Analysis, unit: str, arms: list[Priced]) -> dict[str, Any]:
    costs = [p.cost for p in arms]
    values = [v for p in arms for v in (p.row.value, p.row.low, p.row.high) if v is not None]
    across, up = max(costs) > 3 * min(costs), analysis.scale == "log" and max(values) > 3 * min(values) > 0
    number = numbers(analysis)
    front = [p for p in arms if p.place == "front"]
    data: list[dict[str, Any]] = [{
        "type": "scatter", "mode": "lines", "hoverinfo": "skip", "showlegend": False, "x": plain(p.cost for p in front),
        "y": plain(p.row.value for p in front), "line": {"color": "#0072B2", "width": 1.5, "shape": "hv"},
        "opacity": 0.6,
    }]  # fmt: skip
    for place, (words, colour, symbol) in PLACES.items():
        mine = [p for p in arms if p.place == place]
        if not mine:
            continue
        error = {
            "type": "data", "symmetric": False, "thickness": 1.2, "width": 0, "color": colour,
            "array": plain(_reach(p.row, p.row.high) for p in mine),
            "arrayminus": plain(_reach(p.row, p.row.low) for p in mine),
        }  # fmt: skip
        data.append({
            "type": "scatter", "mode": "markers", "name": words, "x": plain(p.cost for p in mine),
            "y": plain(p.row.value for p in mine), "error_y": error, "meta": [number[p.row.arm_id] for p in mine],
            "marker": {"size": 10, "color": colour, "symbol": symbol, "line": {"width": 1.5, "color": colour}},
            "text": [_name(p, 80) for p in mine],
            "hovertemplate": f"%{{text}}: %{{y}} at %{{x}} {unit}<extra></extra>",
        })  # fmt: skip
    notes = [_beside(p, place, log=(across, up)) for p, place in _laid_out(_named(arms), arms, across, up)]
    name = formats.safe(analysis.metric_axis, 60)
    x = axis(f"{unit}, log scale" if across else unit)
    if across:
        x |= {"type": "log", "tickvals": plain(log_ticks(min(costs) / 1.2, max(costs) * 1.2))}
        x["range"] = plain([math.log10(min(costs) / 1.25), math.log10(max(costs) * 1.25)])
    else:
        pad = 0.08 * (max(costs) - min(costs) or max(costs))
        x["range"] = plain([min(costs) - pad, max(costs) + pad])
    y = axis(f"{name}, log scale" if up else name)
    if up:
        y |= {"type": "log", "tickvals": plain(log_ticks(min(values), max(values)))}
    legend = {"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0, "xanchor": "left"}
    return {"data": data, "layout": layout(420, annotations=notes, xaxis=x, yaxis=y, legend=legend,
                                           margin={"l": 56, "r": 16, "t": 34, "b": 48})}  # fmt: skip


def _reach(row: ArmRow, end: float | None) -> float:
    return 0.0 if end is None or row.value is None else abs(end - row.value)


def _table(analysis: Analysis, unit: str, arms: list[Priced]) -> Table:
    head = ["Arm", unit[:1].upper() + unit[1:], "Mean", f"{analysis.level} interval", "Place", "Held against"]
    spread = any(p.spread[0] != p.spread[1] for p in arms)
    if spread:
        head.insert(2, "Trials from … to")
    rows = []
    for p in arms:
        both = (
            f"{formats.number(p.row.low)} to {formats.number(p.row.high)}"
            if p.row.low is not None
            else p.row.note or "—"
        )
        cells = [formats.short(p.row.label, 80), formats.number(p.cost), formats.number(p.row.value), both]
        cells += [PLACES[p.place][0], formats.short(p.against, 80) or "—"]
        if spread:
            cells.insert(2, f"{formats.number(p.spread[0])} to {formats.number(p.spread[1])}")
        rows.append(cells)
    return Table(head, rows)
