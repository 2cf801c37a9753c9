"""The numbers under the verdict, and the tiny plots in the table of arms."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ablate_reports import formats, power, tables
from ablate_reports.analysis import Analysis

PLANNED_SEEDS = (3, 5, 8, 10)


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


def facts(analysis: Analysis) -> list[Fact]:
    """Trials by status, arms and seeds, seed noise, what could be detected, cost."""
    s, m, frames = analysis.situation, analysis.model, analysis.frames
    status = ", ".join(f"{n} {name}" for name, n in tables.status_counts(analysis) if name != "done")
    seeds = frames.trials.groupby("arm_id")["seed"].nunique()
    per_arm = "0" if seeds.empty else f"{seeds.min()}" if seeds.min() == seeds.max() else f"{seeds.min()}–{seeds.max()}"
    blocks = "blocked by seed" if m and m.blocked else "seeds pooled within arms"
    return [
        Fact("Trials finished", f"{s.done} of {s.planned}", status or "none failed, none diverged"),
        Fact("Arms × seeds", f"{len(frames.arms)} × {per_arm}", blocks),
        _noise(analysis),
        _resolution(analysis),
        _cost(analysis),
    ]


def _noise(analysis: Analysis) -> Fact:
    m = analysis.model
    if m is None or not m.sigma:
        return Fact("Seed noise", "unknown", "no arm has two differing seeds")
    noise = 100 * math.sqrt(math.expm1(min(m.sigma**2, 700.0))) if analysis.scale == "log" else None
    value = f"{noise:.1f}%" if noise is not None else formats.number(m.sigma, 3)
    blocks = ", after seed blocks" if m.blocked else ""
    return Fact("Seed noise", value, f"of one trial, {m.df:g} degrees of freedom{blocks}")


def _resolution(analysis: Analysis) -> Fact:
    m = analysis.model
    if not analysis.detectable or m is None or not m.sigma:
        alone = m is not None and analysis.frames.baseline in m.own
        why = (
            "the baseline's seeds spread more than the others'"
            if alone
            else "needs two seeds of the baseline and of another arm"
        )
        return Fact("Detectable difference", "unknown", why)
    now = formats.magnitude(analysis.detectable, analysis.scale)
    if m.independent < 2:
        return Fact("Detectable difference", now, "80% power")
    planned = [
        (n, power.detectable_with(m.sigma, m.independent, n, blocked=m.blocked, alpha=analysis.alpha))
        for n in PLANNED_SEEDS
    ]
    more = ", ".join(
        f"{n}{' seeds' if n == PLANNED_SEEDS[0] else ''}:\u00a0{formats.magnitude(d, analysis.scale)}"
        for n, d in planned
    )
    return Fact("Detectable difference", now, f"80% power; a new study of {more}")


def _cost(analysis: Analysis) -> Fact:
    trials = analysis.frames.trials
    cpu, gpu, wall = (float(trials[f"{what}_seconds"].sum()) for what in ("cpu", "gpu", "wall"))
    main = f"{gpu / 3600:,.1f} GPU-h" if gpu > 0 else f"{cpu / 3600:,.2f} CPU-h"
    return Fact(
        "Cost", main, (f"{cpu / 3600:,.2f} CPU-h, " if gpu > 0 else "") + f"{formats.hours(wall)} of trial time"
    )


def minis(analysis: Analysis) -> list[Mini | None]:
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
