"""Rung safety: does the ranking at an early step agree with the final one, and what would a cut there have lost?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ablate_reports import formats, queries
from ablate_reports.analysis import Analysis
from ablate_reports.choices import choices, varying
from ablate_reports.figures.base import GREY, Figure, Table, axis, layout, numbers, plain
from ablate_reports.rungs import MIN_ARMS, Decision, Rung, RungValues, Speed, rung_values

MOST_RUNGS = 4
HEIGHT = 260
LOOKS = {
    "kept": ("kept", "#0072B2", "circle"),
    "audit": ("to be stopped, ran on for the audit", "#E69F00", "diamond"),
    "stopped": ("would have been stopped", "#D55E00", "x"),
}
"""What a rung decided about an arm, or would have: words, colour, symbol."""


@dataclass(frozen=True)
class Judged:
    """A rung and the places of its arms: ``arm -> (rank at the rung, final rank, decision)``."""

    rung: Rung
    ranks: dict[str, tuple[float, float, Decision]]


def build(analysis: Analysis) -> list[Figure]:
    """Where trials were stopped early; else where enough arms were measured at an earlier step to ask what if."""
    found, speed = judged(analysis)
    if not found:
        return []
    stopped = any(j.rung.stopped for j in found)
    title = "Was stopping early safe?" if stopped else "Would stopping early have been safe?"
    last = found[-1].rung
    caption = (
        "Rank of every arm at an early step (across) and at the end (up), 1 is best; on the diagonal nothing changed. "
        f"{last.sentence(analysis.scale)}"
    )
    if last.best is not None:
        name = formats.short(analysis.frames.label(last.best), 40)
        verb = ("was" if stopped else "would have been") + (" kept" if last.best_kept else " lost")
        caption += f" The arm that ended best, {name}, {verb} there."
    notes = [] if stopped else ["Nothing was stopped here; a cut to the best third is imagined."]
    lacking = [j.rung for j in found if j.rung.left_out]
    notes += [f"At step {r.step:,}, {_no_logarithm(r.left_out)}" for r in lacking]
    notes += [s.sentence(analysis.scale) for s in speed if s.p_family < 0.05][:3]
    several = queries.all_steps(analysis) if not len(analysis.frames.rungs) else queries.rungs()
    return [
        Figure(
            "rungs", title, caption, _spec(analysis, found), _table(analysis, found), notes, nav="Rungs",
            narrow=_narrow(found), queries=(several, queries.final_values(analysis)),
        )
    ]  # fmt: skip


def _no_logarithm(n: int) -> str:
    return f"{n} values are not positive and left out." if n > 1 else "one value is not positive and left out."


def judged(analysis: Analysis) -> tuple[list[Judged], list[Speed]]:
    """The rungs that are drawn, earliest first, and the axes that change how much is gained after one of them."""
    if analysis.primary is None or analysis.model is None:
        return [], []
    values = rung_values(analysis.frames, analysis.primary, analysis.model.values, analysis.scale)
    rungs = [r for r in analysis.findings.rungs if values.decisions or r.arms >= MIN_ARMS]
    if len(rungs) > MOST_RUNGS:
        rungs = [rungs[round(k * (len(rungs) - 1) / (MOST_RUNGS - 1))] for k in range(MOST_RUNGS)]
    found = [Judged(r, _ranks(analysis, values, r)) for r in rungs]
    # an axis with a level for every arm is the arm itself: that arms differ in speed is no news
    axes = {a for a, levels in varying(choices(analysis.frames)).items() if len(levels) < len(analysis.rows)}
    return [j for j in found if j.ranks], [s for s in analysis.findings.speeds if s.axis in axes]


def _means(values: RungValues, step: int) -> dict[str, tuple[float, float]]:
    """arm -> its mean at the rung and at the end, over the seeds that have both."""
    out = {}
    for arm, seeds in values.early[step].items():
        both = [s for s in seeds if s in values.final.get(arm, {})]
        if both:
            out[arm] = (sum(seeds[s] for s in both) / len(both), sum(values.final[arm][s] for s in both) / len(both))
    return out


def _ranks(analysis: Analysis, values: RungValues, rung: Rung) -> dict[str, tuple[float, float, Decision]]:
    means = {a: m for a, m in _means(values, rung.step).items() if a in analysis.by_id}
    early = _ranked({a: m[0] for a, m in means.items()}, analysis.lower_is_better)
    final = _ranked({a: m[1] for a, m in means.items()}, analysis.lower_is_better)
    decided: Mapping[str, Decision] = values.decisions.get(rung.step, {})
    cut = math.ceil(rung.kept * len(means))
    what_if: dict[str, Decision] = {a: "kept" if early[a] <= cut else "stopped" for a in means}
    return {a: (early[a], final[a], decided.get(a, what_if[a])) for a in means}


def _ranked(values: Mapping[str, float], lower_is_better: bool) -> dict[str, int]:
    order = sorted(values, key=lambda a: values[a], reverse=not lower_is_better)
    return {arm: i + 1 for i, arm in enumerate(order)}


def _columns(found: list[Judged], narrow: bool) -> int:
    return min(len(found), 2 if narrow else MOST_RUNGS)


def _domains(found: list[Judged], columns: int) -> tuple[list[list[float]], list[list[float]], int]:
    lines, gap = math.ceil(len(found) / columns), 0.07
    width = (1 - gap * (columns - 1)) / columns
    xs, ys = [], []
    for k in range(len(found)):
        line, column = divmod(k, columns)
        xs.append([column * (width + gap), column * (width + gap) + width])
        top = 1 - line / lines
        ys.append([top - 1 / lines + (0.13 if lines > 1 else 0.0), top - (0.06 if lines > 1 else 0.1)])
    return xs, ys, HEIGHT * lines + 74


def _narrow(found: list[Judged]) -> dict[str, Any]:
    xs, ys, height = _domains(found, _columns(found, True))
    out: dict[str, Any] = {"height": height}
    for k, (x, y) in enumerate(zip(xs, ys, strict=True)):
        name = str(k + 1) if k else ""
        out |= {f"xaxis{name}.domain": x, f"yaxis{name}.domain": y}
    return out


def _spec(analysis: Analysis, found: list[Judged]) -> dict[str, Any]:
    xs, ys, height = _domains(found, _columns(found, False))
    number = numbers(analysis)
    data: list[dict[str, Any]] = []
    notes: list[dict[str, Any]] = []
    axes: dict[str, Any] = {}
    seen: set[str] = set()
    for k, j in enumerate(found):
        name = str(k + 1) if k else ""
        most = len(j.ranks)
        line = {"type": "scatter", "mode": "lines", "hoverinfo": "skip", "showlegend": False, "xaxis": f"x{name}"}
        data.append(line | {"yaxis": f"y{name}", "x": [1, most], "y": [1, most],
                            "line": {"color": GREY, "width": 1, "dash": "dot"}})  # fmt: skip
        for decision, (words, colour, symbol) in LOOKS.items():
            mine = [(a, early, final) for a, (early, final, d) in j.ranks.items() if d == decision]
            if not mine:
                continue
            if decision == "stopped" and not j.rung.stopped:
                words = "below an imagined cut to the best third"
            data.append({
                "type": "scatter", "mode": "markers", "name": words, "legendgroup": words,
                "showlegend": words not in seen, "xaxis": f"x{name}", "yaxis": f"y{name}",
                "x": [e for _, e, _ in mine], "y": [f for _, _, f in mine], "meta": [number[a] for a, _, _ in mine],
                "marker": {"size": 8, "color": colour, "symbol": symbol},
                "text": [formats.safe(analysis.frames.label(a), 60) for a, _, _ in mine],
                "hovertemplate": "%{text}: rank %{x} at the rung, %{y} at the end<extra></extra>",
            })  # fmt: skip
            seen.add(words)
        ends = plain([0.4, most + 0.6])
        ticks = {"nticks": 6, "fixedrange": True, "range": ends}
        axes[f"xaxis{name}"] = axis("rank there", domain=xs[k], anchor=f"y{name}", **ticks)
        axes[f"yaxis{name}"] = axis("final rank" if k == 0 else None, domain=ys[k], anchor=f"x{name}", **ticks)
        tau = "" if j.rung.tau is None else f"  τ {j.rung.tau:.2f}"
        notes.append({
            "text": f"<b>step {j.rung.step:,}</b>{tau}", "x": 0, "y": 1, "xref": f"x{name} domain",
            "yref": f"y{name} domain", "xanchor": "left", "yanchor": "bottom", "showarrow": False,
            "font": {"size": 12.5},
        })  # fmt: skip
    margin = {"l": 44, "r": 8, "t": 26, "b": 48}
    return {"data": data, "layout": layout(height, annotations=notes, margin=margin, **axes)}


def _table(analysis: Analysis, found: list[Judged]) -> Table:
    head = ["Step", "Arms", "Stopped", "Audited", "Kendall's tau", f"{analysis.level} interval"]
    head += ["Best arm lost with probability", "Regret", "95% of it", "Best arm"]
    rows = []
    for r in (j.rung for j in found):
        tau = "—" if r.tau is None else f"{r.tau:.2f}".replace("-", formats.MINUS)
        both = r.note or "—"
        if r.low is not None and r.high is not None:
            both = f"{r.low:.2f} to {r.high:.2f}".replace("-", formats.MINUS)
        best = "—" if r.best is None else formats.short(analysis.frames.label(r.best), 60)
        rows.append([
            f"{r.step:,}", str(r.arms), str(r.stopped), str(r.audited), tau, both,
            "—" if r.lost is None else f"{r.lost:.2f}", _size(analysis, r.regret), _size(analysis, r.regret_high),
            best if r.best_kept is None else f"{best}, {'kept' if r.best_kept else 'lost'}",
        ])  # fmt: skip
    return Table(head, rows)


def _size(analysis: Analysis, regret: float | None) -> str:
    return "—" if regret is None else formats.magnitude(regret, analysis.scale)
