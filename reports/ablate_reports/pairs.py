"""Two arms of a study against each other: the verdict of the report, for any pair and not only against the baseline.

A pair with the baseline is judged in the family of the report: all arms against the baseline. Any other pair was chosen
by looking at the arms, so it is judged among all pairs of arms: by the law of the largest |t| over them, from
`MANY` arms on by Bonferroni's bound, whose intervals are a little wider.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from scipy import stats

from ablate_reports import formats, power
from ablate_reports.analysis import Analysis
from ablate_reports.data import DONE, field_diff, records
from ablate_reports.equivalence import Equivalence, equivalences, tost
from ablate_reports.groups import Group, identity_diff
from ablate_reports.statistics import Contrast, Model
from ablate_reports.verdicts import Verdict, count

MANY = 24
"""The joint law of all pairs of more arms costs more than a second and says the same to a few per cent."""
POWER = 0.8


class NotComparableError(ValueError):
    """Two arms that cannot be compared; one line."""


@dataclass(frozen=True)
class Pair:
    """Arm against reference; differences are on the model's scale.

    Attributes:
        common: seeds that both have.
        comparisons: how many contrasts hold at once with this one; `family` says which, in words.
        equivalence: TOST and non-inferiority over the same family; None without a margin.
        detectable: the difference that this comparison finds with 80 % power; None without an interval.
    """

    arm: str
    reference: str
    contrast: Contrast
    verdict: Verdict
    common: int
    comparisons: int
    family: str
    equivalence: Equivalence | None
    detectable: float | None

    def sentence(self, a: Analysis) -> str:
        """``esc is better than ct: −41.2% (95% simultaneous interval −48.0% to −33.5%), 3 seeds.``"""
        c, scale = self.contrast, a.scale
        name, reference = (formats.short(a.frames.label(x)) for x in (self.arm, self.reference))
        size = formats.change(c.estimate, scale)
        if c.low is None:
            return f"{name} against {reference}: {size}, no verdict ({c.note or 'no interval'})."
        seeds = count(c.n, "seed") if c.n == c.n_reference else f"{c.n} against {c.n_reference} seeds"
        said = {"better": "is better than", "worse": "is worse than", "equivalent": "is equivalent to"}
        how = said.get(self.verdict, "is not told apart from")
        between = formats.interval(c.low, c.high, scale)
        return f"{name} {how} {reference}: {size} ({a.level} simultaneous interval {between}, {seeds})."


def compare(a: Analysis, arm: str, reference: str) -> Pair:
    """Judge one pair.

    Raises:
        NotComparableError: one of them has no value, or they are one arm.
    """
    if arm == reference:
        raise NotComparableError(f"{a.frames.label(arm)} is compared with itself")
    for side in (arm, reference):
        if a.model is None or side not in a.model.values:
            raise NotComparableError(f"{a.frames.label(side)} has no value of {_metric(a)} to compare")
    assert a.model is not None
    base = a.frames.baseline
    if base in (arm, reference):
        others = [x for x in a.model.values if x != base]
        pairs = [(x, str(base)) for x in others]
        judged = _judged(a.model, pairs, (arm, reference), a.alpha)
        family = f"{count(len(pairs), 'arm')} against the baseline"
        # the baseline is not worse than an arm where the arm is not better than the baseline
        lower = a.lower_is_better if reference == base else not a.lower_is_better
        equal = equivalences(a.model, pairs, a.margin, lower_is_better=lower, alpha=a.alpha)
        mine = next((e for e in equal if e.arm in (arm, reference)), None)
        found = mine if mine is None or mine.arm == arm else _turned_test(mine)
    else:
        pairs = list(itertools.combinations(a.model.values, 2))
        judged = _judged(a.model, pairs, (arm, reference), a.alpha)
        family = f"all {len(pairs)} pairs of arms" if len(pairs) > 1 else "this comparison"
        found = _alone(judged, a, len(pairs))
    common = len(set(a.model.values[arm]) & set(a.model.values[reference]))
    return Pair(
        arm, reference, judged, a.judge(judged), common, len(pairs), family, found, _detectable(judged),
    )  # fmt: skip


def _judged(model: Model, pairs: list[tuple[str, str]], wanted: tuple[str, str], alpha: float) -> Contrast:
    """The wanted contrast, its simultaneous interval over all pairs."""
    turned = wanted not in pairs
    pair = (wanted[1], wanted[0]) if turned else wanted
    if len(pairs) <= MANY * (MANY - 1) // 2 or all(p[1] == pairs[0][1] for p in pairs):
        found = model.compare(pairs, alpha)[pairs.index(pair)]
    else:
        found = _bonferroni(model.compare([pair], alpha)[0], len(pairs), alpha)
    return _turned(found) if turned else found


def _bonferroni(c: Contrast, comparisons: int, alpha: float) -> Contrast:
    if c.se is None or c.df is None or c.p is None:
        return c
    half = float(stats.t.isf(alpha / (2 * comparisons), c.df)) * c.se
    return replace(
        c, low=c.estimate - half, high=c.estimate + half, p_family=min(1.0, c.p * comparisons), se_family=c.se,
        df_family=c.df, note="; ".join(filter(None, (c.note, "Bonferroni"))),
    )  # fmt: skip


def _turned(c: Contrast) -> Contrast:
    """``reference - arm``."""
    return replace(
        c, arm=c.reference, reference=c.arm, estimate=-c.estimate, n=c.n_reference, n_reference=c.n,
        low=_minus(c.high), high=_minus(c.low), low_single=_minus(c.high_single), high_single=_minus(c.low_single),
    )  # fmt: skip


def _alone(c: Contrast, a: Analysis, comparisons: int) -> Equivalence | None:
    """Equivalence of one pair that was picked from all of them, by Bonferroni's bound."""
    if not a.margin:
        return None
    bare = Equivalence(c.arm, c.reference, a.margin, note=c.note)
    if c.se is None or c.df is None or c.se_family is None or c.df_family is None:
        return bare
    sign = 1.0 if a.lower_is_better else -1.0
    half = float(stats.t.isf(a.alpha, c.df)) * c.se
    wide = float(stats.t.isf(a.alpha / comparisons, c.df_family)) * c.se_family
    p_family = min(1.0, comparisons * tost(c.estimate, c.se_family, c.df_family, a.margin))
    inferior = float(stats.t.cdf((sign * c.estimate - a.margin) / c.se_family, c.df_family))
    return replace(
        bare, low=c.estimate - half, high=c.estimate + half, p=tost(c.estimate, c.se, c.df, a.margin),
        p_family=p_family, limit=c.estimate + sign * half, limit_family=c.estimate + sign * wide,
        p_inferior=float(stats.t.cdf((sign * c.estimate - a.margin) / c.se, c.df)),
        p_inferior_family=min(1.0, comparisons * inferior), equivalent=p_family <= a.alpha,
        not_inferior=comparisons * inferior <= a.alpha,
    )  # fmt: skip


def _turned_test(e: Equivalence) -> Equivalence:
    """Of ``reference - arm``, tested to the other side."""
    return replace(
        e, arm=e.reference, reference=e.arm, low=_minus(e.high), high=_minus(e.low), limit=_minus(e.limit),
        limit_family=_minus(e.limit_family),
    )  # fmt: skip


def _minus(x: float | None) -> float | None:
    return None if x is None else -x


def _detectable(c: Contrast) -> float | None:
    if c.low is None or not c.se_family or c.df_family is None:
        return None
    return power.detectable(c.se_family, c.df_family, (c.estimate - c.low) / c.se_family, POWER)


def _metric(a: Analysis) -> str:
    return a.primary.name if a.primary else str(a.frames.study["metric"]["name"] or "the metric")


@dataclass(frozen=True)
class Apart:
    """Finished trials of an arm whose numbers mean something else than those that the study compares.

    Attributes:
        trials: their keys.
        fields: ``(field, in the numbers that are compared, in these)``.
    """

    arm: str
    trials: tuple[str, ...]
    fields: tuple[tuple[str, object, object], ...]


def apart(a: Analysis, arms: Iterable[str] | None = None) -> list[Apart]:
    """The arms of which finished trials have the metric under another identity or condition only.

    Such numbers are listed beside the comparison and take no part in it; whoever compares these arms must know.

    Args:
        arms: which arms; default all.
    """
    primary = a.primary
    if primary is None:
        return []
    has = {(r.arm_id, r.trial_id) for r in records(primary.values)}
    others = [g for g in a.groups if g is not primary and g.name == primary.name]
    values = [{(r.arm_id, r.trial_id) for r in records(g.values) if math.isfinite(r.value)} for g in others]
    found = []
    for arm in arms if arms is not None else a.frames.ordered:
        trials = a.frames.trials_of(arm)
        lacking = [str(t) for t in trials.loc[trials["status"] == DONE, "trial_id"] if (arm, t) not in has]
        for group, mine in zip(others, values, strict=True):
            some = tuple(t for t in lacking if (arm, t) in mine)
            if some:
                found.append(Apart(arm, some, tuple(_fields(primary, group, arm, a.frames.baseline))))
                break
    return found


def _fields(primary: Group, group: Group, arm: str, baseline: str | None) -> list[tuple[str, object, object]]:
    """Where the meaning of two groups' numbers of an arm differs; conditions count only within one metric identity."""
    if primary.metric_id != group.metric_id:
        return [(f, x, y) for f, x, y in identity_diff(primary, group) if not f.startswith(("condition.", "cond_id"))]
    mine = primary.conditions.get(arm) or primary.conditions.get(str(baseline)) or primary.condition
    differing = field_diff(mine, group.conditions.get(arm, group.condition))
    return [(f"condition.{f}", x, y) for f, x, y in differing] or [("cond_id", primary.cond_id, group.cond_id)]
