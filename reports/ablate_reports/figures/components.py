"""Add one, remove one: what each component is worth on its own, on the way, and in the full combination."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

from ablate_reports import formats, queries
from ablate_reports.analysis import Analysis
from ablate_reports.choices import beside_axes, choices, find
from ablate_reports.data import records
from ablate_reports.figures.base import NARROW, Figure, Table, axis, layout, numbers, plain, row_label, shorter
from ablate_reports.figures.scale import Scale
from ablate_reports.statistics import Contrast

PLACES = {
    "alone": ("added to the baseline", "#0072B2", "circle", -0.16),
    "path": ("added on the path", "#7f7f7f", "diamond-open", 0.0),
    "last": ("removed from the full combination", "#D55E00", "square", 0.16),
}
"""Where a component was added: words, colour, symbol, height in its row."""
MOST_ORDERED = 6
"""Components whose orders are averaged at most: 64 combinations."""


@dataclass(frozen=True)
class Component:
    """One level of the full combination.

    Attributes:
        worth: place -> contrast of with minus without it.
        average: its worth averaged over all orders in which the components could be added (Shapley value), on the
            model's scale; None unless every combination of them was measured.
    """

    axis: str
    level: str
    worth: dict[str, Contrast]
    average: float | None = None

    @property
    def disagrees(self) -> bool:
        """True when the intervals of what it is worth alone and in full exclude each other: it interacts."""
        a, b = self.worth.get("alone"), self.worth.get("last")
        if a is None or b is None or a.low is None or a.high is None or b.low is None or b.high is None:
            return False
        return a.high < b.low or b.high < a.low


def build(analysis: Analysis) -> list[Figure]:
    """One figure for every full combination with a component that was added in two places or more."""
    found: list[Figure] = []
    for full in combinations(analysis):
        parts = components(analysis, full)
        if any(len(c.worth) > 1 for c in parts):
            found.append(_figure(analysis, full, parts, len(found)))
    return found


def combinations(analysis: Analysis) -> list[str]:
    """The arms that combine everything: of leave-one-out plans, and the ends of cumulative ones."""
    frames = analysis.frames
    found: list[str] = []
    for kind in ("leave_one_out", "cumulative"):
        rows = frames.study_arms[frames.study_arms["kind"] == kind]
        for plan in dict.fromkeys(rows["plan"]):
            members = [m.arm_id for m in records(frames.axes(str(plan), kind)) if m.arm_id in analysis.by_id]
            if members:
                found.append(members[0] if kind == "leave_one_out" else members[-1])
    return [arm for arm in dict.fromkeys(found) if arm != frames.baseline and analysis.by_id[arm].value is not None]


def components(analysis: Analysis, full: str) -> list[Component]:
    """What each level of a combination is worth; arms are found by their levels, whichever plan holds them."""
    base, model = analysis.frames.baseline, analysis.model
    if base is None or model is None:
        return []
    every, beside = choices(analysis.frames), beside_axes(analysis.frames)
    chosen = {a: v for a, v in every.items() if analysis.by_id[a].value is not None and a not in beside}
    if full not in chosen or analysis.by_id[base].value is None:
        return []
    there, here = chosen[full], every[base]
    plain = find(chosen, here) == base  # else the baseline differs from other arms in more than a component
    pairs: dict[tuple[str, str, str], tuple[str, str]] = {}
    path = _path(analysis)
    for name, level in there.items():
        if level == here.get(name):
            continue
        if plain and (alone := find(chosen, {**here, name: level})):
            pairs[name, level, "alone"] = (alone, base)
        without = {a: v for a, v in there.items() if a != name} | ({name: here[name]} if name in here else {})
        if (rest := find(chosen, without)) and (full, rest) not in pairs.values():
            pairs[name, level, "last"] = (full, rest)
        step = path.get((name, level))
        if step and step not in pairs.values() and set(step) <= set(chosen):
            pairs[name, level, "path"] = step
    compared = dict(zip(pairs, model.compare(list(pairs.values()), analysis.alpha), strict=True)) if pairs else {}
    parts: dict[tuple[str, str], dict[str, Contrast]] = {}
    for (name, level, place), contrast in compared.items():
        parts.setdefault((name, level), {})[place] = contrast
    changed = {name: level for name, level in there.items() if level != here.get(name)}
    averages = shapley(analysis, chosen, here, changed)
    return [Component(name, level, worth, averages.get(name)) for (name, level), worth in parts.items()]


def shapley(
    analysis: Analysis, chosen: dict[str, dict[str, str]], base: dict[str, str], changed: dict[str, str]
) -> dict[str, float]:
    """component -> its worth averaged over all orders; empty where a combination of them was not measured."""
    model, k = analysis.model, len(changed)
    if model is None or not 1 < k <= MOST_ORDERED:
        return {}
    arms: dict[frozenset[str], str] = {}
    for size in range(k + 1):
        for some in itertools.combinations(changed, size):
            arm = find(chosen, {**base, **{name: changed[name] for name in some}})
            if arm is None:
                return {}
            arms[frozenset(some)] = arm
    start, *others = arms.values()
    # contrasts with one arm, not means: that an arm has lost a hard seed is nothing that a component is worth
    gained = {start: 0.0} | {arm: model.compare([(arm, start)])[0].estimate for arm in others}
    means = {some: gained[arm] for some, arm in arms.items()}
    weight = {s: math.factorial(s) * math.factorial(k - s - 1) / math.factorial(k) for s in range(k)}
    return {
        name: sum(
            weight[len(some)] * (means[some | {name}] - value) for some, value in means.items() if name not in some
        )
        for name in changed
    }


def _path(analysis: Analysis) -> dict[tuple[str, str], tuple[str, str]]:
    """(axis, level) -> the arm of the first cumulative plan that adds it, and the arm before it."""
    frames = analysis.frames
    rows = frames.study_arms[frames.study_arms["kind"] == "cumulative"]
    found: dict[tuple[str, str], tuple[str, str]] = {}
    for plan in dict.fromkeys(rows["plan"]):
        before = frames.baseline
        for m in records(frames.axes(str(plan), "cumulative")):
            if isinstance(m.axis, str) and isinstance(m.level, str) and before is not None:
                found.setdefault((m.axis, m.level), (m.arm_id, before))
            before = m.arm_id
    return found


def _figure(analysis: Analysis, full: str, parts: list[Component], number: int) -> Figure:
    label = formats.short(analysis.by_id[full].label)
    off = [f"{formats.short(c.axis, 32)} {formats.short(c.level, 32)}" for c in parts if c.disagrees]
    if all(w.low is None for c in parts for w in c.worth.values()):
        how = ", without an interval, so nothing is judged."
    else:
        said = (
            f"For {', '.join(off)} they exclude each other, so the component interacts with the others."
            if off
            else "No two intervals of one component exclude each other."
        )
        how = f", with {analysis.level} intervals that hold for all of them at once. {said}"
        how += " Overlapping intervals do not prove that components add up."
    caption = (
        f"What each component of {label} changes when it is added to {analysis.baseline_name} alone, and when it is "
        f"the last one added (the full combination against it without the component){how}"
    )
    shown = sorted(parts, key=lambda c: min(w.estimate for w in c.worth.values()), reverse=not analysis.lower_is_better)
    return Figure(
        f"components-{number}", f"Add one, remove one: {label}" if number else "Add one, remove one", caption,
        _spec(analysis, shown), _table(analysis, shown), nav="Components",
        narrow=shorter(_label(c, NARROW) for c in shown),
        queries=(queries.final_values(analysis), queries.choices()),
    )  # fmt: skip


def _label(c: Component, length: int = 40) -> str:
    sign = "  ⇄ interacts" if c.disagrees else ""
    return f"<b>{formats.safe(f'{c.axis} {c.level}', length)}</b>{sign}"


def _spec(analysis: Analysis, parts: list[Component]) -> dict[str, Any]:
    ends = [v for c in parts for w in c.worth.values() for v in (w.low, w.high, w.estimate)]
    ends += [c.average for c in parts]
    scale, number = Scale.of(analysis, ends), numbers(analysis)
    data: list[dict[str, Any]] = []
    for place, (words, colour, symbol, lift) in PLACES.items():
        mine = [(i, c, c.worth[place]) for i, c in enumerate(parts) if place in c.worth]
        if not mine:
            continue
        xs: list[float | None] = []
        ys: list[float | None] = []
        arms: list[int] = []
        for i, _, w in mine:
            if w.low is not None and w.high is not None:
                xs += [scale(w.low), scale(w.high), None]
                ys += [i + lift, i + lift, None]
                arms += 3 * [number[w.arm]]
        bars = {"type": "scatter", "mode": "lines", "hoverinfo": "skip", "showlegend": False, "meta": arms}
        data.append(bars | {"x": plain(xs), "y": ys, "line": {"width": 1.8, "color": colour}})
        data.append({
            "type": "scatter", "mode": "markers", "name": words, "x": plain(scale(w.estimate) for _, _, w in mine),
            "y": [i + lift for i, _, _ in mine], "meta": [number[w.arm] for _, _, w in mine],
            "marker": {"size": 10, "color": colour, "symbol": symbol, "line": {"width": 1.5, "color": colour}},
            "text": [f"{formats.safe(f'{c.axis} {c.level}', 60)}, {words}: {formats.change(w.estimate, analysis.scale)}"
                     for _, c, w in mine],
            "hovertemplate": "%{text}<extra></extra>",
        })  # fmt: skip
    if any(c.average is not None for c in parts):
        data.append({
            "type": "scatter", "mode": "markers", "name": "averaged over all orders",
            "x": plain(scale(c.average) for c in parts if c.average is not None),
            "y": [i for i, c in enumerate(parts) if c.average is not None],
            "marker": {"size": 11, "color": "#CC79A7", "symbol": "star"},
            "hovertemplate": "averaged over all orders: %{x}<extra></extra>",
        })  # fmt: skip
    y = axis(range=[len(parts) - 0.45, -0.85], showticklabels=False, ticks="", showgrid=False, fixedrange=True)
    return {
        "data": data,
        "layout": layout(
            110 + 66 * len(parts), shapes=scale.shapes(), xaxis=scale.axis("without it"), yaxis=y,
            annotations=[row_label(_label(c), i - 0.2) for i, c in enumerate(parts)],
            margin={"l": 12, "r": 16, "t": 34, "b": 52},
        ),
    }  # fmt: skip


def _table(analysis: Analysis, parts: list[Component]) -> Table:
    rows = []
    for c in parts:
        for place, w in c.worth.items():
            both = formats.interval(w.low, w.high, analysis.scale) or w.note
            frames = analysis.frames
            rows.append([
                formats.short(f"{c.axis} {c.level}", 80), PLACES[place][0], formats.change(w.estimate, analysis.scale),
                both, f"{formats.short(frames.label(w.arm))} against {formats.short(frames.label(w.reference))}",
                f"{w.n} / {w.n_reference}",
            ])  # fmt: skip
        if c.average is not None:
            cells = [formats.short(f"{c.axis} {c.level}", 80), "averaged over all orders"]
            rows.append(
                [*cells, formats.change(c.average, analysis.scale), "none is computed", "all combinations", "—"]
            )
    return Table(["Component", "Where", "Change", f"{analysis.level} simultaneous interval", "Arms", "Seeds"], rows)
