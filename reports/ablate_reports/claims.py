"""Claims a space declares before it runs, judged apart from exploration: holds, fails, undecided, or not understood.

As a sentence::

    [Every] NAME is RELATION [every other] NAME [within N % | by at least N %] [for every AXIS].
    RELATION: better than (beats), worse than, equivalent to, not worse than (at least as good as)
    The ranking of AXIS is the same for every AXIS.

As a mapping: ``{better: [A, B]}``, or ``worse``, ``equivalent``, ``not_worse``; ``some_better`` for "at least one". A
side is a name, a list of names, or a selection ``{axis: level or [levels]}``; beside it ``margin``, ``by`` (shares,
0.02 is 2 %) and ``says`` (the words of the report). ``{same_ranking: {of: AXIS, over: AXIS}}``.

Every comparison that a claim makes must hold ("every"). Sides that were chosen by levels are compared arm by arm where
all else is equal. All comparisons of all claims form one family: their intervals hold at once, whatever else was
explored.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ablate_reports import formats
from ablate_reports.claim_names import ALL, Names, NotUnderstoodError, Side, normal, singular
from ablate_reports.statistics import Contrast, Model

Relation = Literal["better", "worse", "equivalent", "not_worse", "same_ranking"]
Status = Literal["holds", "fails", "undecided", "not understood"]

WORDS: dict[str, Relation] = {
    "better than": "better",
    "worse than": "worse",
    "equivalent to": "equivalent",
    "not worse than": "not_worse",
    "no worse than": "not_worse",
    "at least as good as": "not_worse",
    "as good as": "not_worse",
}
SENTENCE = re.compile(
    rf"^(?P<left>.+?) (?:(?:is|are) (?P<relation>{'|'.join(sorted(WORDS, key=len, reverse=True))})|(?P<beats>beats?)) "
    r"(?P<right>.+)$"
)
RANKING = re.compile(r"^(?:the )?ranking of (?:the )?(?P<of>.+?) is the same (?:for|at|over) every (?P<over>.+)$")
PER_CENT = r"(?P<size>\d+(?:\.\d+)?) ?(?:%|per ?cent)"
SAID = {"better": "better than", "worse": "worse than", "equivalent": "equivalent to", "not_worse": "not worse than"}
KEYS = ("better", "worse", "equivalent", "not_worse", "some_better", "same_ranking", "margin", "by", "says", "claim")


@dataclass(frozen=True)
class Claim:
    """A claim as it was read.

    Attributes:
        text: as declared.
        relation: what is claimed of every pair (arm, reference).
        pairs: the comparisons it makes.
        some: one of them is enough.
        by: a share the difference must exceed; `margin`: the share that counts as no difference, None: the study's.
        read: how it was read, with the arms named.
        problem: why it was not understood, else "".
    """

    text: str
    relation: Relation = "better"
    pairs: tuple[tuple[str, str], ...] = ()
    some: bool = False
    by: float = 0.0
    margin: float | None = None
    read: str = ""
    problem: str = ""


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


# -- reading


def read(declared: Any, names: Names) -> Claim:
    """Read one claim; one that cannot be read carries the reason."""
    text = str(declared.get("says") or declared.get("claim") or "") if isinstance(declared, Mapping) else str(declared)
    try:
        claim = _mapping(declared, names) if isinstance(declared, Mapping) else _sentence(str(declared), names)
    except NotUnderstoodError as problem:
        return Claim(text or str(dict(declared)), problem=str(problem))
    return replace(claim, text=text or claim.read, read=claim.read)


def _sentence(text: str, names: Names) -> Claim:
    words = normal(text)
    if ranking := RANKING.match(words):
        return _same_ranking(ranking["of"], ranking["over"], names)
    words, axis = _cut(words, r" for every (?P<axis>.+)$", "axis")
    words, within = _cut(words, rf" within {PER_CENT}$", "size")
    words, by = _cut(words, rf" by (?:at least |more than )?{PER_CENT}(?: or more)?$", "size")
    found = SENTENCE.match(words)
    if not found:
        raise NotUnderstoodError("a claim reads 'A is better than B.'; relations are " + formats.listed(list(WORDS)))
    relation = WORDS[found["relation"]] if found["relation"] else "better"
    some, left_text = _some(found["left"])
    left, right = _sides(left_text, found["right"], names)
    pairs = _paired(left, right, names)
    if axis is not None and not any(singular(w) in _axis_words(names) for w in axis.split()[-1:]):
        raise NotUnderstoodError(
            f"'for every {axis}': there is no such axis; there are {formats.listed(list(names.axes))}"
        )
    return _claim(
        relation,
        pairs,
        names,
        some=some,
        by=float(by or 0) / 100,
        margin=None if within is None else float(within) / 100,
    )


def _axis_words(names: Names) -> set[str]:
    return {singular(normal(a)) for a in names.axes} | {"objective", "method", "arm", "path"}


def _cut(words: str, pattern: str, group: str) -> tuple[str, str | None]:
    found = re.search(pattern, words)
    return (words[: found.start()], found[group]) if found else (words, None)


def _some(text: str) -> tuple[bool, str]:
    found = re.match(r"^(?:at least one|some|one)(?: of)? (.+)$", text)
    return (True, f"every {found[1]}") if found else (False, text)


def _sides(left: str, right: str, names: Names) -> tuple[Side, Side]:
    """Both sides; a group ("every other path") needs to know what it stands against."""
    groups = [re.match(rf"^(?:on )?(?:{'|'.join(ALL)}) (.+)$", side) for side in (left, right)]
    if groups[0] and groups[1]:
        raise NotUnderstoodError("both sides are groups; name one of them")
    if groups[0]:
        against = names.named(right)
        return names.others(groups[0][1], against), against
    named = names.named(left)
    return (named, names.others(groups[1][1], named)) if groups[1] else (named, names.named(right))


def _mapping(declared: Mapping[str, Any], names: Names) -> Claim:
    if odd := [k for k in declared if k not in KEYS]:
        raise NotUnderstoodError(f"a claim has no key {odd[0]!r}; its keys are {formats.listed(list(KEYS))}")
    found = [k for k in KEYS[:6] if k in declared]
    if len(found) != 1:
        raise NotUnderstoodError(f"a claim has one of {formats.listed(list(KEYS[:6]))}")
    key, sides = found[0], declared[found[0]]
    if key == "same_ranking":
        if not isinstance(sides, Mapping) or set(sides) != {"of", "over"}:
            raise NotUnderstoodError("same_ranking is {of: AXIS, over: AXIS}")
        return _same_ranking(str(sides["of"]), str(sides["over"]), names)
    if not isinstance(sides, Sequence) or isinstance(sides, str) or len(sides) != 2:
        raise NotUnderstoodError(f"{key} is a list of two sides, [A, B]")
    left, right = (_side(s, names) for s in sides)
    relation: Relation = "better" if key == "some_better" else key  # type: ignore[assignment]
    pairs = _paired(left, right, names)
    return _claim(
        relation, pairs, names, some=key == "some_better", by=_share(declared, "by") or 0.0,
        margin=_share(declared, "margin"),
    )  # fmt: skip


def _share(declared: Mapping[str, Any], key: str) -> float | None:
    value = declared.get(key)
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1:
        raise NotUnderstoodError(f"{key} is a share between 0 and 1 (0.02 is 2 %), got {value!r}")
    return float(value)


def _side(given: Any, names: Names) -> Side:
    if isinstance(given, Mapping):
        wanted = {str(a): [str(v) for v in (v if isinstance(v, list) else [v])] for a, v in given.items()}
        for axis, levels in wanted.items():
            known = names.axes.get(axis)
            if known is None:
                raise NotUnderstoodError(f"there is no axis {axis!r}; there are {formats.listed(list(names.axes))}")
            if lacking := [v for v in levels if v not in known]:
                raise NotUnderstoodError(f"{axis!r} has no level {lacking[0]!r}; it has {formats.listed(known)}")
        return Side(names.having(wanted), tuple(wanted))
    if isinstance(given, Sequence) and not isinstance(given, str):
        sides = [names.named(str(g)) for g in given]
        return Side(tuple(dict.fromkeys(a for s in sides for a in s.arms)), sides[0].axes if len(sides) == 1 else ())
    return names.named(str(given))


def _paired(left: Side, right: Side, names: Names) -> tuple[tuple[str, str], ...]:
    """Arm by arm where a side was chosen by levels and all else is equal; else each with each.

    Raises:
        NotUnderstoodError: nothing can be compared.
    """
    pairs = [(a, b) for a in left.arms for b in right.arms if a != b]
    if named := {*left.axes, *right.axes}:

        def rest(arm: str) -> dict[str, str]:
            return {k: v for k, v in names.chosen[arm].items() if k not in named}

        equal = [(a, b) for a, b in pairs if rest(a) == rest(b)]
        pairs = equal if equal or (left.axes and right.axes) else pairs
    if not pairs:
        raise NotUnderstoodError("no two arms of the two sides can be compared")
    return tuple(pairs)


def _same_ranking(of: str, over: str, names: Names) -> Claim:
    axes = {}
    for word in (of, over):
        axis = next((a for a in names.axes if singular(normal(a)) == singular(normal(word))), None)
        if axis is None:
            raise NotUnderstoodError(f"there is no axis {word!r}; there are {formats.listed(list(names.axes))}")
        axes[word] = axis
    chosen, mine, along = names.chosen, axes[of], axes[over]

    def rest(arm: str, *axes: str) -> tuple[tuple[str, str], ...]:
        return tuple(sorted((k, v) for k, v in chosen[arm].items() if k not in axes))

    crossed: dict[tuple[tuple[str, str], ...], set[str]] = {}
    for arm in chosen:
        crossed.setdefault(rest(arm, mine, along), set()).add(chosen[arm].get(along, ""))
    pairs = [
        (a, b)
        for a, b in itertools.combinations(chosen, 2)
        if len(crossed[rest(a, mine, along)]) > 1
        and chosen[a].get(mine) != chosen[b].get(mine)
        and rest(a, mine) == rest(b, mine)
    ]
    if not pairs:
        raise NotUnderstoodError(f"no plan crosses {mine!r} with {along!r}")
    order = {level: i for i, level in enumerate(names.axes[mine])}
    ordered = [(a, b) if order[chosen[a][mine]] < order[chosen[b][mine]] else (b, a) for a, b in pairs]
    return Claim("", "same_ranking", tuple(ordered), read=f"the ranking of {mine} is the same at every {axes[over]}")


def _claim(
    relation: Relation, pairs: tuple[tuple[str, str], ...], names: Names, *, some: bool, by: float, margin: float | None
) -> Claim:
    if by and relation not in ("better", "worse"):
        raise NotUnderstoodError("'by' goes with better and worse; a margin is 'within N %'")
    shown, references = names.shown, dict.fromkeys(b for _, b in pairs)
    how = SAID[relation] + (f", by at least {100 * by:g} %, " if by else " ")
    if len(references) == 1:
        [reference] = references
        arms = _listed([shown[a] for a, _ in pairs])
        verb = ("at least one of " if some else "") + arms + (" is " if len(pairs) == 1 or some else " are ")
        said = f"{verb}{how}{shown[reference]}"
    else:
        said = ("one of: " if some else "") + "; ".join(f"{shown[a]} is {how}{shown[b]}" for a, b in pairs)
    within = f" within {100 * margin:g} %" if margin is not None else ""
    return Claim("", relation, pairs, some, by, margin, f"{said}{within}")


def _listed(labels: list[str]) -> str:
    return formats.listed([f"‘{label}’" for label in labels] if any("," in label for label in labels) else labels)


# -- judging


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
        share = claim.margin if claim.margin is not None else margin
        found = [
            _judged_pair(claim, pair, contrasts.get(pair), share, scale, lower_is_better, names) for pair in claim.pairs
        ]
        judged.append(_judged(claim, found, names, scale))
    return Claims(judged, len(pairs))


def _judged_pair(
    claim: Claim, pair: tuple[str, str], c: Contrast | None, share: float, scale: str, lower: bool, names: Names
) -> JudgedPair:
    arm, reference = pair
    if c is None:
        lacking = formats.listed([names.shown[a] for a in pair])
        return JudgedPair(arm, reference, None, "undecided", f"no value of {lacking} to compare")
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
    # better by a share: the metric falls to 1 - share, or rises to 1 + share where higher is better
    less, more = (
        (-math.log1p(-claim.by), math.log1p(claim.by)) if lower else (math.log1p(claim.by), -math.log1p(-claim.by))
    )
    match claim.relation:
        case "better":
            return "holds" if high < -less else "fails" if low > -less else "undecided"
        case "worse":
            return "holds" if low > more else "fails" if high < more else "undecided"
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
