"""Equivalence and non-inferiority of two arms against a margin: TOST, and one-sided limits, alone and in families.

For a contrast ``d = arm - reference`` with standard error se and df degrees of freedom, and a margin m > 0 (log scale):

- equivalence: both one-sided tests (d > -m, d < m) reject at alpha; the same as: the interval of level ``1 - 2 alpha``
  lies inside (-m, m). p is the larger of the two.
- non-inferiority: the arm is not worse than the reference by m or more; the same as: the one-sided limit of level
  ``1 - alpha`` lies on the good side of the margin.

In a family, p values of equivalence are Holm's, which needs no assumption about their dependence, and one-sided limits
use the joint law of the largest t; both judge by the family's standard errors (a noisy baseline spoils all of them).
The verdict "equivalent" of a report asks for more than either: the two-sided simultaneous interval of level
``1 - alpha`` inside the margin, so that better, worse and equivalent together err at most alpha over the family.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from ablate_reports.statistics import Contrast, Model


@dataclass(frozen=True)
class Equivalence:
    """One contrast against a margin.

    Attributes:
        margin: half-width on the model's scale.
        low, high: the interval of level ``1 - 2 alpha``; equivalence alone means that it lies inside the margin.
        p: of the two one-sided tests; `p_family` Holm's over the family.
        limit: one-sided limit of level ``1 - alpha`` on the bad side; `limit_family` holds for the family at once.
        p_inferior: p of the test against "worse by the margin or more"; `p_inferior_family` over the family.
        equivalent, not_inferior: what holds for the family.
        note: why nothing can be said, else "".
    """

    arm: str
    reference: str
    margin: float
    low: float | None = None
    high: float | None = None
    p: float | None = None
    p_family: float | None = None
    limit: float | None = None
    limit_family: float | None = None
    p_inferior: float | None = None
    p_inferior_family: float | None = None
    equivalent: bool = False
    not_inferior: bool = False
    note: str = ""


def tost(estimate: float, se: float, df: float, margin: float) -> float:
    """p of the two one-sided tests against ``+-margin``: the larger one.

    Args:
        estimate, se: of the difference; se > 0.
        df: degrees of freedom of se.
        margin: > 0.
    """
    return float(max(stats.t.sf((estimate + margin) / se, df), stats.t.cdf((estimate - margin) / se, df)))


def equivalences(
    model: Model,
    pairs: Sequence[tuple[str, str]],
    margin: float | None,
    *,
    lower_is_better: bool = True,
    alpha: float = 0.05,
) -> list[Equivalence]:
    """Every pair of a family against the margin; empty without a margin.

    Raises:
        KeyError: an arm of a pair has no value.
    """
    if not margin:
        return []
    contrasts = model.compare(pairs, alpha)
    found = [_single(c, margin, lower_is_better, alpha) for c in contrasts]
    judged = [i for i, e in enumerate(found) if e.p is not None]
    of_family = [_by_family(contrasts[i], margin) for i in judged]
    for i, p in zip(judged, holm(of_family), strict=True):
        found[i] = replace(found[i], p_family=p, equivalent=p <= alpha)
    limits = _limits(model, [contrasts[i] for i in judged], margin, lower_is_better, alpha)
    for i, (limit, p) in zip(judged, limits, strict=True):
        found[i] = replace(found[i], limit_family=limit, p_inferior_family=p, not_inferior=p <= alpha)
    return found


def _single(c: Contrast, margin: float, lower_is_better: bool, alpha: float) -> Equivalence:
    bare = Equivalence(c.arm, c.reference, margin, note=c.note)
    if c.se is None or c.df is None:
        return bare
    half = float(stats.t.isf(alpha, c.df)) * c.se
    worse = c.estimate if lower_is_better else -c.estimate
    return replace(
        bare,
        low=c.estimate - half,
        high=c.estimate + half,
        p=tost(c.estimate, c.se, c.df, margin),
        limit=c.estimate + half if lower_is_better else c.estimate - half,
        p_inferior=float(stats.t.cdf((worse - margin) / c.se, c.df)),
    )


def _by_family(c: Contrast, margin: float) -> float:
    assert c.se_family is not None
    assert c.df_family is not None
    return tost(c.estimate, c.se_family, c.df_family, margin)


def holm(p: Sequence[float]) -> list[float]:
    """Holm's adjusted p values."""
    order = np.argsort(p, kind="stable")
    out, running = [0.0] * len(p), 0.0
    for k, i in enumerate(order.tolist()):
        running = max(running, min(1.0, p[i] * (len(p) - k)))
        out[i] = running
    return out


def _limits(
    model: Model, contrasts: Sequence[Contrast], margin: float, lower_is_better: bool, alpha: float
) -> list[tuple[float, float]]:
    """One-sided simultaneous limits and p values, by the law of the largest t where one law holds, else by Bonferroni.

    All tests look to the same side, so the family is Dunnett's one-sided one.
    """
    law = None
    if contrasts and {c.method for c in contrasts} == {"pooled"}:
        law = model.family_law([(c.arm, c.reference) for c in contrasts])
    critical = law.upper_critical(alpha) if law else None
    out = []
    for c in contrasts:
        se, df = c.se_family, c.df_family
        assert se is not None
        assert df is not None
        sign = 1.0 if lower_is_better else -1.0
        t = (margin - sign * c.estimate) / se
        quantile = critical if critical is not None else float(stats.t.isf(alpha / len(contrasts), df))
        p = law.upper_p(t) if law else min(1.0, len(contrasts) * float(stats.t.sf(t, df)))
        out.append((c.estimate + sign * quantile * se, p))
    return out


def sentence(e: Equivalence, name: str, reference: str, margin: str) -> str:
    """``X is equivalent to Y within 2% (TOST, p = 0.003 over the family).``"""
    if e.p_family is None:
        return f"Equivalence of {name} and {reference} cannot be tested: {e.note or 'no interval'}."
    if e.equivalent:
        return f"{name} is equivalent to {reference} within {margin} (TOST, p = {e.p_family:.2g} over the family)."
    if e.not_inferior:
        p = f"p = {e.p_inferior_family:.2g} over the family"
        return f"{name} is not worse than {reference} by {margin} or more ({p})."
    return f"{name} is not shown to be equivalent to {reference} within {margin} (TOST, p = {e.p_family:.2g})."
