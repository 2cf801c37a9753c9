"""Several studies beside each other: what each of them says, and what arms that they share do in all of them.

Values of two studies are never pooled and never share an axis: their metrics, data and baselines differ. What can be
put together are ratios, each to its own study's baseline: an arm's row in every study, and the geometric mean of its
ratios. An arm is shared when it makes the same change of its baseline's config in both studies, field by field,
whatever it is called. The mean is about these studies, not about others that nobody ran.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

from scipy import stats

from ablate_reports import formats
from ablate_reports.analysis import Analysis, ArmRow
from ablate_reports.data import StudyFrames, definition, flat, records
from ablate_reports.figures.base import Table
from ablate_reports.verdicts import Verdict, judge, marker

MEAN = "geometric mean"
"""What stands for a study's name in the row over all of them."""

Change = tuple[tuple[str, str, str], ...]
"""``(field of the config, value of the baseline, value of the arm)``, sorted; values as JSON."""


@dataclass(frozen=True)
class Together:
    """Geometric mean of an arm's ratios to the baselines of several studies, on the scale of logarithms.

    Attributes:
        studies: positions of the studies whose ratios are in it.
        se, df: its standard error (Satterthwaite degrees of freedom over the studies); None without an interval.
        low, high: simultaneous over all shared arms (Bonferroni).
        note: why there is no interval.
    """

    studies: tuple[int, ...]
    estimate: float
    se: float | None = None
    df: float | None = None
    low: float | None = None
    high: float | None = None
    verdict: Verdict | None = None
    note: str = ""


@dataclass(frozen=True)
class SharedArm:
    """An arm of two studies or more: position of the study -> its row there, and what holds over them."""

    label: str
    change: Change
    rows: dict[int, ArmRow]
    together: Together | None


@dataclass(frozen=True)
class Several:
    """Some analyses, in the order they were asked for."""

    analyses: Sequence[Analysis]

    @cached_property
    def shared(self) -> list[SharedArm]:
        """Arms that two studies or more share, in the order of the first; baselines are what they are measured by."""
        found: dict[Change, dict[int, ArmRow]] = {}
        for i, a in enumerate(self.analyses):
            for arm, change in changes(a.frames).items():
                if change and arm in a.by_id:
                    found.setdefault(change, {}).setdefault(i, a.by_id[arm])
        several = {change: rows for change, rows in found.items() if len(rows) > 1}
        means = {change: self._together(rows, len(several)) for change, rows in several.items()}
        return [
            SharedArm(" / ".join(dict.fromkeys(r.label for r in rows.values())), change, rows, means[change])
            for change, rows in several.items()
        ]

    def _together(self, rows: Mapping[int, ArmRow], comparisons: int) -> Together | None:
        usable = {i: r.contrast for i, r in rows.items() if r.contrast is not None and self._may(i)}
        if len(usable) < 2:
            return None
        weights = self._weights(list(usable))
        estimate = sum(w * usable[i].estimate for i, w in weights.items())
        found = tuple(usable)
        ses = {i: c.se if c.se_family is None else c.se_family for i, c in usable.items()}
        dfs = {i: c.df if c.df_family is None else c.df_family for i, c in usable.items()}
        parts = [(weights[i], s, df) for i in usable if (s := ses[i]) and (df := dfs[i])]
        if len(parts) < len(usable):
            return Together(found, estimate, note="no interval: a study has none")
        if any(self._trials(i, rows[i]) & self._trials(j, rows[j]) for i, j in combinations(usable, 2)):
            return Together(found, estimate, note="no interval: the studies share trials")
        se, df = combined(parts)
        half = float(stats.t.isf(self.alpha / (2 * comparisons), df)) * se
        first = self.analyses[found[0]]
        verdict = judge(estimate - half, estimate + half, self.margin, lower_is_better=first.lower_is_better)
        return Together(found, estimate, se, df, estimate - half, estimate + half, verdict)

    def _may(self, i: int) -> bool:
        """Whether a study's ratios may be averaged: logarithms, and the direction of the first study that has them."""
        usable = [a for a in self.analyses if a.scale == "log"]
        return self.analyses[i].scale == "log" and self.analyses[i].lower_is_better == usable[0].lower_is_better

    def _weights(self, studies: Sequence[int]) -> dict[int, float]:
        """Every metric identity weighs the same, whatever number of the studies have it."""
        of = {i: p.metric_id if (p := self.analyses[i].primary) else "" for i in studies}
        ids = list(of.values())
        return {i: 1 / (len(set(ids)) * ids.count(of[i])) for i in studies}

    def _trials(self, i: int, row: ArmRow) -> set[str]:
        frames = self.analyses[i].frames
        arms = [row.arm_id, *([frames.baseline] if frames.baseline is not None else [])]
        return {str(t) for arm in arms for t in frames.trials_of(arm)["trial_id"]}

    @property
    def alpha(self) -> float:
        """The strictest of the studies' errors."""
        return min(a.alpha for a in self.analyses)

    @property
    def margin(self) -> float | None:
        """The narrowest of the studies' margins; None when one of them has none."""
        found = [a.margin for a in self.analyses]
        return None if None in found else min(m for m in found if m is not None)

    @property
    def names(self) -> list[str]:
        """The studies' names, cut."""
        return [formats.short(str(a.frames.study["name"])) for a in self.analyses]

    @property
    def title(self) -> str:
        """``3 studies: a, b and c``."""
        return f"{len(self.analyses)} studies: {formats.listed(self.names)}"


def combined(parts: Sequence[tuple[float, float, float]]) -> tuple[float, float]:
    """Standard error and Satterthwaite degrees of freedom of a weighted sum of independent estimates.

    Args:
        parts: weight, standard error and degrees of freedom of each.
    """
    variances = [(weight * se) ** 2 for weight, se, _ in parts]
    df = sum(variances) ** 2 / sum(v**2 / df for v, (*_, df) in zip(variances, parts, strict=True))
    return math.sqrt(sum(variances)), df


def changes(frames: StudyFrames) -> dict[str, Change]:
    """arm -> the fields of its config that differ from the baseline's; empty for the baseline itself."""
    configs = {str(r.arm_id): _fields(r.config) for r in records(frames.arms)}
    base = configs.get(str(frames.baseline))
    if base is None:
        return {}
    return {
        arm: tuple((k, base.get(k, ""), own.get(k, "")) for k in sorted({*base, *own}) if base.get(k) != own.get(k))
        for arm in frames.ordered
        for own in [configs[arm]]
    }


def _fields(config: Any) -> dict[str, str]:
    return {k: json.dumps(v, sort_keys=True, default=str) for k, v in flat(definition(config)).items()}


def summary(s: Several) -> Table:
    """One row per study: its verdict, what is best, how much it rests on, and what was measured."""
    rows = []
    for name, a in zip(s.names, s.analyses, strict=True):
        metric, identity = (a.primary.title, f"{a.primary.metric_id} · {a.primary.under}") if a.primary else ("—", "—")
        trials = f"{a.situation.done} of {a.situation.planned}"
        rows.append([name, a.headline, best(a), seeds(a), trials, metric, identity])
    return Table(["Study", "Verdict", "Best", "Seeds", "Trials", "Metric", "Identity"], rows)


def best(a: Analysis) -> str:
    """The arms that nobody can tell from the best; where nothing is resolved, which one leads."""
    if a.situation.tied:
        return ", ".join(a.situation.tied)
    return f"{formats.short(a.leader.label)} leads, not resolved" if a.leader else "—"


def seeds(a: Analysis) -> str:
    """``3``, or ``1 to 4`` where arms differ."""
    counts = sorted({r.n for r in a.rows if r.n})
    return "0" if not counts else str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def ratios(s: Several) -> Table:
    """Every shared arm: a row per study against that study's own baseline, and the geometric mean of its ratios."""
    rows = []
    for arm in s.shared:
        for i, r in arm.rows.items():
            a, c = s.analyses[i], r.contrast
            base = formats.short(a.frames.label(str(a.frames.baseline)), 40)
            delta = formats.change(c.estimate, a.scale) if c else "—"
            between = (formats.interval(c.low, c.high, a.scale) or c.note) if c else "—"
            said = f"{a.marker(r.verdict)} {r.verdict}" if c and c.low is not None and r.verdict else "—"
            metric = a.primary.name if a.primary else "—"
            rows.append([formats.short(arm.label, 80), s.names[i], metric, base, delta, between, said])
        rows.append([formats.short(arm.label, 80), *_mean(s, arm.together)])
    return Table(["Arm", "Study", "Metric", "Against", "Change", "Simultaneous interval", "Verdict"], rows)


def _mean(s: Several, t: Together | None) -> list[str]:
    if t is None:
        return [MEAN, "—", "—", "—", "needs two studies with a ratio", "—"]
    between = formats.interval(t.low, t.high) or t.note
    lower = s.analyses[t.studies[0]].lower_is_better
    said = f"{marker(t.verdict, lower_is_better=lower)} {t.verdict}" if t.verdict else "—"
    return [MEAN, f"ratios of {len(t.studies)}", "own baselines", formats.change(t.estimate), between, said]


def differences(s: Several) -> Table:
    """Why values of the studies never meet: the fields in which their metrics and conditions differ."""
    found = [
        {} if a.primary is None else flat({"metric": a.primary.metric, "condition": a.primary.condition})
        for a in s.analyses
    ]
    keys = sorted({k for fields in found for k in fields})
    apart = [k for k in keys if any(fields.get(k) != found[0].get(k) for fields in found)]
    return Table(["Field", *s.names], [[k, *(_cell(fields.get(k)) for fields in found)] for k in apart])


def _cell(value: Any) -> str:
    return "—" if value is None else formats.short(value if isinstance(value, str) else json.dumps(value), 80)


def notes(s: Several) -> list[str]:
    """What must be said with the table of shared arms."""
    if not s.shared:
        return [
            "No arm makes the same change of its baseline in two of these studies, so nothing is put together; each "
            "study stands alone below."
        ]
    level = formats.percent(1 - s.alpha)
    said = [
        "Every ratio is to the baseline of its own study, with that study's simultaneous interval; raw values of "
        "different studies are never pooled. An arm is shared when it changes the same fields of the config in the "
        "same way.",
        f"The geometric mean weighs every metric identity the same. Its {level} interval holds for all "
        f"{len(s.shared)} shared arms at once (Bonferroni) and is about these studies, not about others.",
    ]
    directions = {a.lower_is_better for a in s.analyses if a.scale == "log"}
    linear = [n for n, a in zip(s.names, s.analyses, strict=True) if a.scale != "log"]
    if linear:
        said.append(f"No ratios in {formats.listed(linear)}: values there are not all positive.")
    if len(directions) > 1:
        said.append("Studies whose metric has the other direction than the first one's are left out of the mean.")
    return said


def document(s: Several) -> dict[str, Any]:
    """The overview for report.json: `summary[]` and `shared[]`; differences are natural logarithms of ratios."""
    return {
        "summary": [
            {
                "study": str(a.frames.study["name"]), "headline": a.headline, "best": list(a.situation.tied),
                "seeds": sorted({r.n for r in a.rows if r.n}), "done": a.situation.done,
                "planned": a.situation.planned, "lower_is_better": a.lower_is_better,
                "metric": a.primary.name if a.primary else None,
                "metric_id": a.primary.metric_id if a.primary else None,
                "cond_id": a.primary.cond_id if a.primary else None,
            }
            for a in s.analyses
        ],
        "shared": [
            {
                "label": arm.label,
                "change": [{"field": k, "baseline": json.loads(x or "null"), "arm": json.loads(y or "null")}
                           for k, x, y in arm.change],
                "studies": [
                    {"study": str(s.analyses[i].frames.study["name"]), "arm_id": r.arm_id, "scale": s.analyses[i].scale,
                     "difference": r.contrast.estimate if r.contrast else None,
                     "difference_low": r.contrast.low if r.contrast else None,
                     "difference_high": r.contrast.high if r.contrast else None, "verdict": r.verdict}
                    for i, r in arm.rows.items()
                ],
                "mean": None if (t := arm.together) is None else {
                    "studies": [str(s.analyses[i].frames.study["name"]) for i in t.studies], "difference": t.estimate,
                    "difference_se": t.se, "df": t.df, "difference_low": t.low, "difference_high": t.high,
                    "verdict": t.verdict, "note": t.note},
            }
            for arm in s.shared
        ],
        "differs": [dict(zip(["field", *s.names], row, strict=True)) for row in differences(s).rows],
        "notes": notes(s),
    }  # fmt: skip
