"""From frames to an `Analysis`: which values may be compared, what they say, arm by arm.

Values of different metric identity never meet, nor do conditions that no arm of the study asked for (see `groups`):
they are described beside the primary group, with the fields in which they differ.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ablate_reports import formats, power
from ablate_reports.confirming import exploration
from ablate_reports.data import (
    DIVERGED,
    DONE,
    FAILED,
    FINAL,
    StudyFrames,
    metric_title,
    records,
)
from ablate_reports.groups import Group, groups
from ablate_reports.luck import luck
from ablate_reports.notes import notes
from ablate_reports.shared import fit_shared
from ablate_reports.statistics import Contrast, Mean, Model
from ablate_reports.verdicts import Compared, Situation, Verdict, headline, judge, marker, remarks

if TYPE_CHECKING:
    from ablate_reports.findings import Findings


@dataclass(frozen=True)
class ArmRow:
    """One line of the arms table. Values are on the metric's own scale, `contrast` on the model's."""

    arm_id: str
    label: str
    baseline: bool
    planned: int
    done: int
    diverged: int
    failed: int
    n: int
    value: float | None
    low: float | None
    high: float | None
    seeds: dict[int, float]
    note: str
    contrast: Contrast | None
    verdict: Verdict | None
    tied_best: bool
    cpu_seconds: float
    gpu_seconds: float
    num_parameters: float | None


@dataclass(frozen=True)
class Analysis:
    """Everything a report says, before it is put into words or drawn.

    Attributes:
        frames: the exploration; `whole` is the study with the trials that confirm a pick.
    """

    frames: StudyFrames
    groups: list[Group]
    primary: Group | None
    scale: str
    model: Model | None
    rows: list[ArmRow]
    situation: Situation
    detectable: float | None
    notes: list[str]
    whole: StudyFrames

    @property
    def headline(self) -> str:
        """The verdict sentence."""
        return headline(self.situation)

    @property
    def remarks(self) -> list[str]:
        """What stands beside it."""
        return remarks(self.situation)

    @property
    def alpha(self) -> float:
        """Family-wise error of the simultaneous intervals."""
        return float(self.frames.study["alpha"])

    @property
    def level(self) -> str:
        """``95%``."""
        return formats.percent(1 - self.alpha)

    @property
    def margin(self) -> float | None:
        """Half-width of equivalence on the model's scale; None when it cannot be applied."""
        return _margin(self.frames, self.scale)

    @property
    def lower_is_better(self) -> bool:
        """The metric's direction."""
        return self.frames.lower_is_better

    @cached_property
    def findings(self) -> Findings:
        """What can be said beyond the arms against the baseline; computed at the first look."""
        from ablate_reports.findings import find  # it reads an `Analysis`

        return find(self)

    @cached_property
    def by_id(self) -> dict[str, ArmRow]:
        """arm_id -> row."""
        return {r.arm_id: r for r in self.rows}

    @cached_property
    def leader(self) -> ArmRow | None:
        """The best-looking arm, the effects of its seeds taken out; None where no arm has a value."""
        best = _best(self.model, self.model.arms, self.lower_is_better) if self.model else None
        return None if best is None else self.by_id[best]

    @property
    def baseline_name(self) -> str:
        """How sentences call the baseline: ``the baseline fm``, or just ``the baseline`` when that is its label."""
        return self.situation.baseline or "the baseline"

    @property
    def metric_axis(self) -> str:
        """A short axis title: the metric's plain name and its direction."""
        name = self.primary.name if self.primary else str(self.frames.study["metric"]["name"])
        return f"{name} ({'lower' if self.lower_is_better else 'higher'} is better)"

    def back(self, y: float | None) -> float | None:
        """From the model's scale to the metric's."""
        return None if y is None else (math.exp(min(y, 700.0)) if self.scale == "log" else y)

    def marker(self, verdict: Verdict) -> str:
        """The sign of a verdict."""
        return marker(verdict, lower_is_better=self.lower_is_better)

    def judge(self, contrast: Contrast) -> Verdict:
        """The verdict on a contrast."""
        return judge(contrast.low, contrast.high, self.margin, lower_is_better=self.lower_is_better)


def analyse(frames: StudyFrames) -> Analysis:
    """Compute every number and verdict of a report."""
    whole, frames = frames, exploration(frames)
    primary, found = groups(frames)
    values = primary.by_arm() if primary else {}
    flat = [v for seeds in values.values() for v in seeds.values()]
    scale = primary.scale if primary else "log"
    ordered = {a: values[a] for a in frames.ordered if a in values}
    transform = math.log if scale == "log" else float
    scaled = {a: {s: transform(v) for s, v in seeds.items()} for a, seeds in ordered.items()}
    model = fit_shared(scaled, frames.trained)
    rows = _rows(frames, model, scale, ordered)
    detectable = _detectable(frames, model)
    situation = _situation(frames, primary, scale, model, rows, detectable)
    said = notes(frames, primary, [g for g in found if g is not primary], scale, model, flat)
    return Analysis(frames, found, primary, scale, model, rows, situation, detectable, said, whole)


def _margin(frames: StudyFrames, scale: str) -> float | None:
    margin = float(frames.study["margin"])
    return math.log1p(margin) if scale == "log" and margin > 0 else None


def _rows(frames: StudyFrames, model: Model | None, scale: str, values: Mapping[str, dict[int, float]]) -> list[ArmRow]:
    alpha, base = float(frames.study["alpha"]), frames.baseline
    others = [a for a in values if a != base]
    contrasts: dict[str, Contrast] = {}
    if model is not None and base in values:
        contrasts = {c.arm: c for c in model.compare([(a, str(base)) for a in others], alpha)} if others else {}
    means = {a: model.mean(a, alpha) for a in values} if model else {}
    tied = _tied(frames, model, means, alpha)
    margin = _margin(frames, scale)
    rows = []
    arms = {arm.arm_id: arm for arm in records(frames.arms)}
    for arm in (arms[a] for a in frames.ordered):
        trials = frames.trials_of(arm.arm_id)
        mean, contrast = means.get(arm.arm_id), contrasts.get(arm.arm_id)
        verdict = (
            None
            if contrast is None or contrast.low is None  # nothing is judged without an interval
            else judge(contrast.low, contrast.high, margin, lower_is_better=frames.lower_is_better)
        )
        rows.append(
            _row(frames, arm, trials, mean, scale, values.get(arm.arm_id, {}), contrast, verdict, arm.arm_id in tied)
        )
    return rows


def _row(
    frames: StudyFrames,
    arm: Any,
    trials: pd.DataFrame,
    mean: Mean | None,
    scale: str,
    seeds: dict[int, float],
    contrast: Contrast | None,
    verdict: Verdict | None,
    tied: bool,
) -> ArmRow:
    back = (lambda y: None if y is None else math.exp(min(y, 700.0))) if scale == "log" else (lambda y: y)
    status = Counter(trials["status"].to_numpy(dtype=object).tolist())
    lost = status[DONE] - len(seeds)
    notes = [mean.note if mean else "", f"{lost} finished without a usable value" if lost > 0 else ""]
    return ArmRow(
        arm_id=arm.arm_id,
        label=frames.label(arm.arm_id),
        baseline=arm.arm_id == frames.baseline,
        planned=len(trials),
        done=status[DONE],
        diverged=status[DIVERGED],
        failed=status[FAILED],
        n=len(seeds),
        value=back(mean.mean) if mean else None,
        low=back(mean.low) if mean else None,
        high=back(mean.high) if mean else None,
        seeds=seeds,
        note="; ".join(n for n in notes if n),
        contrast=contrast,
        verdict=verdict,
        tied_best=tied,
        cpu_seconds=float(trials["cpu_seconds"].sum()),
        gpu_seconds=float(trials["gpu_seconds"].sum()),
        num_parameters=float(arm.num_parameters) if math.isfinite(arm.num_parameters) else None,
    )


def _tied(frames: StudyFrames, model: Model | None, means: Mapping[str, Mean], alpha: float) -> set[str]:
    """Arms that cannot be told from the best one; empty when nothing can be told from anything."""
    judged = {a: m for a, m in means.items() if m.low is not None}
    if model is None or len(judged) < 2:
        return set()
    best = _best(model, means, frames.lower_is_better)
    if best not in judged:  # the best-looking arm has one seed: nobody can say who ties with it
        return set()
    found = model.compare([(a, best) for a in judged if a != best], alpha)
    worse = {c.arm for c in found if c.low is not None and c.high is not None
             and (c.low > 0 if frames.lower_is_better else c.high < 0)}  # fmt: skip
    return set(judged) - worse if worse else set()


def _best(model: Model, arms: Iterable[str], lower_is_better: bool) -> str | None:
    return (min if lower_is_better else max)(arms, key=model.level, default=None)


def _detectable(frames: StudyFrames, model: Model | None, power_level: float = 0.8) -> float | None:
    """Smallest difference to the baseline this study finds with 80 % power, for its median contrast."""
    base = frames.baseline
    if model is None or not model.sigma or base not in model.pooled:
        return None
    pairs = [(a, str(base)) for a in model.values if a != base and len(model.values[a]) > 1]
    found = []
    for c in model.compare(pairs, float(frames.study["alpha"])) if pairs else []:
        if c.low is not None and c.se_family is not None and c.df_family is not None:
            critical = (c.estimate - c.low) / c.se_family
            found.append(power.detectable(c.se_family, c.df_family, critical, power_level))
    return float(np.median(found)) if found else None


def _situation(
    frames: StudyFrames,
    primary: Group | None,
    scale: str,
    model: Model | None,
    rows: list[ArmRow],
    detectable: float | None,
) -> Situation:
    status = frames.trials["status"]
    with_value = [r for r in rows if r.value is not None]
    base = next((r for r in rows if r.baseline), None)
    best = (min if frames.lower_is_better else max)(with_value, key=lambda r: r.value or 0.0) if with_value else None
    compared = [
        Compared(
            formats.short(r.label),
            r.verdict or "inconclusive",
            r.contrast.estimate,
            formats.change(r.contrast.estimate, scale),
            formats.interval(r.contrast.low, r.contrast.high, scale),
            r.n,
            r.contrast.n_reference,
        )
        for r in rows
        if r.contrast is not None
    ]
    final = int(status.isin(FINAL).sum())
    return Situation(
        metric=_spoken(primary, frames),
        baseline=_called(base) if base else None,
        baseline_problem=_baseline_problem(base),
        planned=len(status),
        final=final,
        done=int((status == DONE).sum()),
        diverged=int((status == DIVERGED).sum()),
        failed=int((status == FAILED).sum()),
        measured=sum(r.n for r in rows),
        arms_measured=len(with_value),
        lowest=(formats.short(best.label), formats.number(best.value)) if best else None,
        compared=compared,
        no_spread=bool(model and model.no_spread and not model.own),
        level=formats.percent(1 - float(frames.study["alpha"])),
        margin=f"±{formats.percent(float(frames.study['margin']))}" if _margin(frames, scale) else None,
        resolution=formats.magnitude(detectable, scale) if detectable else None,
        tied=[formats.short(r.label) for r in rows if r.tied_best],
        lower_is_better=frames.lower_is_better,
        others=sum(not r.baseline for r in rows),
        luck=chance.sentence(scale, frames.lower_is_better) if (chance := luck(model)) is not None else "",
    )


def _called(base: ArmRow) -> str:
    return "the baseline" if base.label.lower() in ("base", "baseline") else f"the baseline {formats.short(base.label)}"


def _spoken(primary: Group | None, frames: StudyFrames) -> str:
    name = primary.name if primary else str(frames.study["metric"]["name"])
    return metric_title(name)


def _baseline_problem(base: ArmRow | None) -> str:
    if base is None or base.value is not None:
        return ""
    if base.planned and base.failed + base.diverged == base.planned:
        return "failed or diverged in every trial"
    return "has no value" if base.done else "has not finished yet"
