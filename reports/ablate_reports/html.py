"""One offline HTML page: no request ever leaves it, and the same study gives the same bytes."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ablate_reports import formats, methods, power, published, tables
from ablate_reports.analysis import Analysis, analyse
from ablate_reports.data import StudyFrames
from ablate_reports.figures import Figure, all_figures
from ablate_reports.figures.base import Table
from ablate_reports.figures.losses import panels
from ablate_reports.samples import gallery
from ablate_reports.verdicts import count

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Fact:
    """One number of the row under the verdict."""

    name: str
    value: str
    detail: str


@dataclass(frozen=True)
class Mini:
    """An arm's difference to the baseline as a tiny plot, in percent of its width; None where there is nothing."""

    zero: float
    low: float | None
    high: float | None
    at: float | None
    band: tuple[float, float] | None


def render_html(frames: StudyFrames) -> str:
    """The report as one self-contained page.

    Args:
        frames: the study, finished or not.

    Returns:
        HTML of about 2 MB (Plotly, compressed) plus the figures' data and the sample pictures.
    """
    analysis = analyse(frames)
    env = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (TEMPLATES / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    figures = all_figures(analysis)
    return env.get_template("report.html.j2").render(
        **_context(analysis),
        figures=figures,
        specs={f.id: _json(f.spec) for f in figures},
        plotly=Markup(_plotly()) if figures else None,
        script=Markup(script),
        script_digest=digest,
        style=Markup((TEMPLATES / "style.css").read_text(encoding="utf-8")),
    )


def _context(analysis: Analysis) -> dict[str, Any]:
    """Everything the template prints, as plain values."""
    frames, s = analysis.frames, analysis.situation
    loss_name, loss_panels = panels(analysis)
    return {
        "a": analysis,
        "study": frames.study,
        "running": s.final < s.planned,
        "created": _moment(frames.study["created_at"]) if frames.study["created_at"] else "",
        "facts": _facts(analysis),
        "rows": [_arm(analysis, r, m) for r, m in zip(analysis.rows, _minis(analysis), strict=True)],
        "mean_name": tables.mean_name(analysis),
        "metric_title": analysis.primary.title if analysis.primary else s.metric,
        "condition": _condition(analysis),
        "gallery": gallery(analysis),
        "loss_name": loss_name,
        "losses": loss_panels,
        "loss_table": Table(
            ["Arm", "Step", "Loss"],
            [[formats.short(p.label, 80), f"{step:,}", formats.number(v)] for p in loss_panels for step, v in p.points],
        ),
        "failures": tables.failures(analysis),
        "skips": tables.skips(analysis),
        "identity": tables.identity(analysis.primary) if analysis.primary else None,
        "others": tables.other_groups(analysis),
        "published": published.beside(analysis),
        "published_introduction": published.INTRODUCTION,
        "methods": methods.paragraph(analysis),
        "trials": tables.trials(analysis),
        "environments": tables.environments(analysis),
        "machines": tables.machines(analysis),
        "count": count,
    }


def _arm(analysis: Analysis, row: Any, mini: Mini | None) -> dict[str, Any]:
    delta, both = tables.difference_of(analysis, row)
    verdict = row.verdict if row.contrast is not None and row.contrast.low is not None else None
    return {
        "label": row.label, "short": formats.short(row.label), "baseline": row.baseline, "tied": row.tied_best,
        "value": formats.number(row.value), "interval": tables.interval_of(row), "sure": row.low is not None,
        "seeds": tables.seeds_of(row),
        "cost": tables.cost(row), "delta": delta, "both": both, "verdict": verdict,
        "marker": analysis.marker(verdict) if verdict else "", "said": tables.verdict_of(analysis, row), "mini": mini,
        "lost": row.failed + row.diverged, "missing": row.value is None,
    }  # fmt: skip


def _moment(at: Any) -> str:
    """An ISO time as people read it: ``2026-01-01 00:00 UTC``."""
    text = str(at).replace("T", " ")
    return f"{text[:16]} UTC" if text.endswith(("Z", "+00:00")) and len(text) > 16 else text


def _condition(analysis: Analysis) -> str:
    """``nfe 1, guidance 1``: under what the primary values were measured."""
    if analysis.primary is None:
        return ""
    return ", ".join(
        f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}"
        for k, v in sorted(analysis.primary.condition.items())
        if v is not None
    )


def _facts(analysis: Analysis) -> list[Fact]:
    s, m = analysis.situation, analysis.model
    frames = analysis.frames
    status = ", ".join(f"{n} {name}" for name, n in tables.status_counts(analysis) if name != "done")
    seeds = frames.trials.groupby("arm_id")["seed"].nunique()
    per_arm = "0" if seeds.empty else f"{seeds.min()}" if seeds.min() == seeds.max() else f"{seeds.min()}–{seeds.max()}"
    facts = [
        Fact("Trials finished", f"{s.done} of {s.planned}", status or "none failed, none diverged"),
        Fact(
            "Arms × seeds",
            f"{len(frames.arms)} × {per_arm}",
            "blocked by seed" if m and m.blocked else "seeds pooled within arms",
        ),
    ]
    if m and m.sigma:
        noise = 100 * math.sqrt(math.expm1(m.sigma**2)) if analysis.scale == "log" else None
        value = f"{noise:.1f}%" if noise is not None else formats.number(m.sigma, 3)
        facts.append(
            Fact(
                "Seed noise",
                value,
                f"of one trial, {m.df:g} degrees of freedom" + (", after seed blocks" if m.blocked else ""),
            )
        )
    else:
        facts.append(Fact("Seed noise", "unknown", "no arm has two differing seeds"))
    facts.append(_resolution(analysis))
    cpu, gpu = float(frames.trials["cpu_seconds"].sum()), float(frames.trials["gpu_seconds"].sum())
    main = f"{gpu / 3600:,.1f} GPU-h" if gpu > 0 else f"{cpu / 3600:,.2f} CPU-h"
    wall = float(frames.trials["wall_seconds"].sum())
    facts.append(
        Fact("Cost", main, (f"{cpu / 3600:,.2f} CPU-h, " if gpu > 0 else "") + f"{formats.hours(wall)} of trial time")
    )
    return facts


def _resolution(analysis: Analysis) -> Fact:
    m = analysis.model
    if not analysis.detectable or m is None or not m.sigma:
        return Fact("Detectable difference", "unknown", "needs two seeds of the baseline and of another arm")
    planned = [
        (n, power.detectable_with(m.sigma, len(m.pooled), n, blocked=m.blocked, alpha=analysis.alpha)) for n in (5, 10)
    ]
    more = ", ".join(f"{n} seeds: {formats.magnitude(d, analysis.scale)}" for n, d in planned)
    return Fact(
        "Detectable difference",
        formats.magnitude(analysis.detectable, analysis.scale),
        f"80% power; with {more}",
    )


def _minis(analysis: Analysis) -> list[Mini | None]:
    """All rows share one axis: from the smallest to the largest end of an interval, zero included."""
    contrasts = [r.contrast for r in analysis.rows]
    ends = [0.0] + [v for c in contrasts if c for v in (c.low, c.high, c.estimate) if v is not None]
    low, span = min(ends), max(ends) - min(ends)
    if span == 0:
        return [None] * len(contrasts)

    def place(v: float | None) -> float | None:
        return None if v is None else round(3 + 94 * (v - low) / span, 2)

    zero = place(0.0) or 0.0
    band = None
    if analysis.margin:
        band = (max(0.0, place(-analysis.margin) or 0.0), min(100.0, place(analysis.margin) or 100.0))
    return [None if c is None else Mini(zero, place(c.low), place(c.high), place(c.estimate), band) for c in contrasts]


def _json(spec: dict[str, Any]) -> Markup:
    """JSON inside a script element: sorted keys, no NaN, and nothing that could end the element."""
    text = json.dumps(spec, sort_keys=True, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))


@lru_cache(maxsize=1)
def _plotly() -> str:
    """plotly.js of the installed wheel, gzipped without a timestamp, in base64."""
    from plotly.offline import get_plotlyjs

    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), 9, mtime=0)).decode("ascii")


__all__ = ["Figure", "render_html"]
