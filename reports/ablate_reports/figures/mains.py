"""Main effects of a plan that mixes levels: what a level changes on average over the other axes; what is aliased."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ablate_reports import formats, queries
from ablate_reports.analysis import Analysis
from ablate_reports.factorial import Effect, Factorial
from ablate_reports.figures.base import COLOURS, NARROW, Figure, Table, axis, layout, plain, row_label, shorter, symbol
from ablate_reports.figures.heatmap import MIXED, lacking
from ablate_reports.figures.scale import Scale
from ablate_reports.findings import Plan
from ablate_reports.verdicts import VERDICTS, Verdict, judge

MOST_ROWS = 40


def build(analysis: Analysis) -> list[Figure]:
    """One figure for every plan that mixes the levels of two axes or more."""
    rows = analysis.frames.study_arms
    found: list[Figure] = []
    for name, plan in analysis.findings.plans.items():
        kinds = set(rows.loc[rows["plan"] == name, "kind"])
        effects = [e for e in plan.factorial.main() if e.estimate is not None]
        if kinds & set(MIXED) and len(effects) > 1:
            found.append(_figure(analysis, name, next(iter(kinds)), plan, effects, len(found)))
    return found


def _verdict(analysis: Analysis, e: Effect) -> Verdict:
    return judge(e.low, e.high, analysis.margin, lower_is_better=analysis.lower_is_better)


def _figure(analysis: Analysis, name: str, kind: str, plan: Plan, effects: list[Effect], number: int) -> Figure:
    f = plan.factorial
    effects = sorted(effects, key=lambda e: e.estimate or 0.0, reverse=not analysis.lower_is_better)[:MOST_ROWS]
    sure = any(e.low is not None for e in effects)
    held = f", with {analysis.level} intervals that hold for all of them at once" if sure else ""
    others = lacking(analysis, f)
    instead = f" or, where the plan lacks it, against {others}" if others else ""
    caption = (
        f"What each level changes on average over the other axes of {formats.short(name)}, against the baseline's level"
        f"{instead}{held}. Least squares on the plan's cells; an average says little where the axis interacts."
    )
    return Figure(
        f"mains-{number}", f"Main effects in {formats.short(name)}", caption,
        _spec(analysis, effects, "the reference level" if others else "the baseline's level"),
        _table(analysis, f), _notes(analysis, plan), nav="Main effects",
        narrow=shorter(_label(analysis, e, NARROW) for e in effects),
        queries=(queries.final_values(analysis), queries.plan(name, kind)),
    )  # fmt: skip


def _notes(analysis: Analysis, plan: Plan) -> list[str]:
    """What the plan cannot give, and what it confuses."""
    f, notes = plan.factorial, []
    for why in dict.fromkeys(t.why for t in f.terms if t.why):
        terms = [" × ".join(map(formats.short, t.factors)) for t in f.terms if t.why == why]
        some = formats.listed(terms[:6]) + (f" and {len(terms) - 6} more" if len(terms) > 6 else "")
        notes.append(f"{some}: {why}.")
    if plan.aliases is not None and plan.aliases.words:
        words = formats.listed([str(w) for w in plan.aliases.words[:4]])
        notes.append(f"The plan is a fraction of resolution {plan.aliases.resolution} ({words}).")
    if plan.aliases is not None:
        mixed = [plan.aliases.sentence(e) for e in plan.aliases.aliases if len(e) == 1 and not plan.aliases.clear(e)]
        notes += [f"{text[:1].upper()}{text[1:]}." for text in mixed[:4]]
    if f.lack_of_fit is not None and f.lack_of_fit < analysis.alpha:
        notes.append(f"More than pairs of axes is at work (lack of fit, p = {f.lack_of_fit:.2g}).")
    return notes


def _label(analysis: Analysis, e: Effect, length: int = 40) -> str:
    name = formats.safe(f"{e.factors[0]} {e.levels[0]}", length)
    sign = f"{analysis.marker(_verdict(analysis, e))} " if e.low is not None else ""
    return f"<b>{name}</b>  {sign}{formats.change(e.estimate, analysis.scale)}"


def _spec(analysis: Analysis, effects: list[Effect], reference: str) -> dict[str, Any]:
    scale = Scale.of(analysis, (v for e in effects for v in (e.low, e.high, e.estimate)))
    data: list[dict[str, Any]] = []
    for verdict in VERDICTS:
        mine = [(i, e) for i, e in enumerate(effects) if _verdict(analysis, e) == verdict]
        if not mine:
            continue
        colour = COLOURS[verdict]
        for width, opacity, ends in ((1.8, 1.0, ("low", "high")), (6, 0.45, ("low_single", "high_single"))):
            xs: list[float | None] = []
            ys: list[float | None] = []
            for i, e in mine:
                low, high = (getattr(e, end) for end in ends)
                if low is not None and high is not None:
                    xs += [scale(low), scale(high), None]
                    ys += [i, i, None]
            line = {"width": width, "color": colour}
            bars = {"type": "scatter", "mode": "lines", "hoverinfo": "skip", "showlegend": False, "opacity": opacity}
            data.append(bars | {"x": plain(xs), "y": ys, "line": line})
        sure = any(e.low is not None for _, e in mine)
        data.append({
            "type": "scatter", "mode": "markers", "showlegend": sure,
            "name": f"{analysis.marker(verdict)} {verdict}", "y": [i for i, _ in mine],
            "x": plain(scale(e.estimate) for _, e in mine if e.estimate is not None),
            "marker": {"size": 11, "color": colour, "symbol": symbol(analysis, verdict),
                       "line": {"width": 1.5, "color": colour}},
            "text": [f"{_against(e, formats.safe)}: {formats.change(e.estimate, analysis.scale)}" for _, e in mine],
            "hovertemplate": "%{text}<extra></extra>",
        })  # fmt: skip
    y = axis(range=[len(effects) - 0.6, -0.85], showticklabels=False, ticks="", showgrid=False, fixedrange=True)
    return {
        "data": data,
        "layout": layout(
            96 + 44 * len(effects), shapes=scale.shapes(), xaxis=scale.axis(reference), yaxis=y,
            annotations=[row_label(_label(analysis, e), i) for i, e in enumerate(effects)],
            margin={"l": 12, "r": 16, "t": 34, "b": 52},
        ),
    }  # fmt: skip


def _table(analysis: Analysis, f: Factorial) -> Table:
    """Every effect, then the table of variances: F of every axis and pair, or why there is none."""
    rows = []
    for e in f.main():
        between = formats.interval(e.low, e.high, analysis.scale) or e.note or "—"
        rows.append([
            formats.short(e.factors[0], 60), _against(e, formats.short),
            formats.change(e.estimate, analysis.scale), between, _p(e.p_family), "—",
        ])  # fmt: skip
    for t in f.terms:
        ratio = f"F({t.df}, {f.df:g}) = {t.f:.2f}" if t.f is not None else t.why or "no noise to test by"
        rows.append([" × ".join(formats.short(n, 60) for n in t.factors), "all levels", "—", "—", _p(t.p), ratio])
    return Table(["Axis", "Level", "Change", f"{analysis.level} simultaneous interval", "p", "F, or why none"], rows)


def _against(e: Effect, text: Callable[[str, int], str]) -> str:
    return f"{text(e.levels[0], 40)} against {text(e.references[0], 40)}"


def _p(p: float | None) -> str:
    return "—" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"
