"""Claims a space declares before it runs, judged apart from exploration: holds, fails, undecided, or not understood.

Every comparison that a claim makes must hold ("every"). All comparisons of all claims form one family: their intervals
hold at once, whatever else was explored. What a claim may say is in `claim_reading`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ablate_reports import formats
from ablate_reports.claim_names import Names
from ablate_reports.claim_reading import Claim, read
from ablate_reports.statistics import Contrast, Model

Status = Literal["holds", "fails", "undecided", "not understood"]


@dataclass(frozen=True)
class JudgedPair:
    """One comparison of a claim; the contrast's `low` and `high` hold for all comparisons of all claims."""

    arm: str
    reference: str
    contrast: Contrast | None
    status: Status
    note: str = ""


@dataclass(frozen=True)
class JudgedClaim:
    """A claim and what the study says of it.

    Attributes:
        reason: in one line, why it has this status.
        late: it was declared when the study had a result already, so it is no prediction; None: not known.
    """

    claim: Claim
    status: Status
    reason: str
    pairs: list[JudgedPair] = field(default_factory=list)
    late: bool | None = None


@dataclass(frozen=True)
class Claims:
    """All claims of a study.

    Attributes:
        comparisons: how many contrasts the family has.
    """

    judged: list[JudgedClaim]
    comparisons: int

    @property
    def failed(self) -> bool:
        """Whether a claim fails or could not be read: what a check must not pass over."""
        return any(c.status in ("fails", "not understood") for c in self.judged)


def judge_claims(
    declared: Sequence[Any],
    names: Names,
    model: Model | None,
    *,
    margin: float = 0.0,
    scale: str = "log",
    lower_is_better: bool = True,
    alpha: float = 0.05,
) -> Claims:
    """Judge every claim by intervals that hold for all comparisons of all claims at once.

    Args:
        margin: the study's, as a share; used where a claim that needs one has none.
    """
    claims = [read(c, names) for c in declared]
    known = set() if model is None else set(model.values)
    pairs = list(dict.fromkeys(p for c in claims for p in c.pairs if set(p) <= known))
    contrasts = {} if model is None or not pairs else dict(zip(pairs, model.compare(pairs, alpha), strict=True))
    judged = []
    for claim in claims:
        if claim.problem:
            judged.append(JudgedClaim(claim, "not understood", claim.problem))
            continue
        if claim.by >= 1 and scale == "log" and claim.relation == ("better" if lower_is_better else "worse"):
            judged.append(JudgedClaim(claim, "not understood", "no positive value is lower by 100 % or more"))
            continue
        share = claim.margin if claim.margin is not None else margin
        found = [
            _judged_pair(claim, pair, contrasts[pair], share, scale, lower_is_better)
            if pair in contrasts
            else _without_value(pair, known, names)
            for pair in claim.pairs
        ]
        judged.append(_judged(claim, found, names, scale))
    return Claims(judged, len(pairs))


def _without_value(pair: tuple[str, str], known: set[str], names: Names) -> JudgedPair:
    lacking = formats.listed([names.shown[a] for a in pair if a not in known])
    return JudgedPair(*pair, None, "undecided", f"no value of {lacking} to compare")


def _judged_pair(claim: Claim, pair: tuple[str, str], c: Contrast, share: float, scale: str, lower: bool) -> JudgedPair:
    arm, reference = pair
    if c.low is None or c.high is None:
        return JudgedPair(arm, reference, c, "undecided", c.note or "no interval")
    low, high = (c.low, c.high) if lower else (-c.high, -c.low)  # positive: the arm is worse
    needs = claim.relation in ("equivalent", "not_worse") or claim.by > 0
    if needs and scale != "log":
        return JudgedPair(arm, reference, c, "undecided", "a share means nothing where values are not positive")
    if claim.relation in ("equivalent", "not_worse") and share <= 0:
        return JudgedPair(arm, reference, c, "undecided", "needs a margin: 'within N %', or compare.margin")
    return JudgedPair(arm, reference, c, _status(claim, low, high, share, lower))


def _status(claim: Claim, low: float, high: float, share: float, lower: bool) -> Status:
    """Of an interval in which positive means worse."""
    margin = math.log1p(share)
    # by a share: a metric falls to 1 - share where a lower value is claimed, and rises to 1 + share where a higher one
    falls = claim.relation == ("better" if lower else "worse")
    size = -math.log1p(-claim.by) if falls else math.log1p(claim.by)
    match claim.relation:
        case "better":
            return "holds" if high < -size else "fails" if low > -size else "undecided"
        case "worse":
            return "holds" if low > size else "fails" if high < size else "undecided"
        case "equivalent":
            inside, outside = -margin < low and high < margin, low > margin or high < -margin
            return "holds" if inside else "fails" if outside else "undecided"
        case "not_worse":
            return "holds" if high < margin else "fails" if low > margin else "undecided"
        case _:
            return "holds" if high < 0 else "fails" if low > 0 else "undecided"


def _judged(claim: Claim, found: list[JudgedPair], names: Names, scale: str) -> JudgedClaim:
    if claim.relation == "same_ranking":
        return _ranked(claim, found, names)
    by_status = {s: [p for p in found if p.status == s] for s in ("holds", "fails", "undecided")}
    if claim.some:
        status: Status = "holds" if by_status["holds"] else "undecided" if by_status["undecided"] else "fails"
    else:
        status = "fails" if by_status["fails"] else "undecided" if by_status["undecided"] else "holds"
    deciding = by_status["holds"] if claim.some and by_status["holds"] else by_status[status]
    reason = "; ".join(_said(p, names, scale) for p in deciding[:4]) + ("; ..." if len(deciding) > 4 else "")
    if len(found) > 1:
        reason = f"{len(by_status['holds'])} of {len(found)} comparisons hold, {len(by_status['fails'])} fail: {reason}"
    return JudgedClaim(claim, status, reason, found)


def _said(p: JudgedPair, names: Names, scale: str) -> str:
    pair = f"{names.shown[p.arm]} against {names.shown[p.reference]}"
    if p.contrast is None or p.note:
        return f"{pair}: {p.note}"
    between = formats.interval(p.contrast.low, p.contrast.high, scale)
    return f"{pair} {formats.change(p.contrast.estimate, scale)} ({between})"


def _ranked(claim: Claim, found: list[JudgedPair], names: Names) -> JudgedClaim:
    """Two levels never change places: fails where one pair is resolved both ways, holds where all are, one way each."""
    shown: dict[tuple[str, str], set[Status]] = {}
    for p in found:
        a, b = names.chosen[p.arm], names.chosen[p.reference]
        axis = next(k for k in a if a[k] != b.get(k))
        shown.setdefault((a[axis], b[axis]), set()).add(p.status)
    turned = [k for k, s in shown.items() if {"holds", "fails"} <= s]
    open_ = [k for k, s in shown.items() if "undecided" in s]
    if turned:
        return JudgedClaim(claim, "fails", f"{turned[0][0]} and {turned[0][1]} change places", found)
    if open_:
        reason = (
            f"{len(open_)} of {len(shown)} pairs of levels are not resolved everywhere; none is seen to change places"
        )
        return JudgedClaim(claim, "undecided", reason, found)
    return JudgedClaim(claim, "holds", f"all {len(shown)} pairs of levels are resolved, each one way", found)
