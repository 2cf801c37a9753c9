"""Claims as they are declared, read into pairs of arms.

As a sentence::

    [Every] NAME is RELATION [every other] NAME [within N % | by at least N %] [for every AXIS].
    RELATION: better than (beats), worse than, equivalent to, not worse than (at least as good as)
    The ranking of AXIS is the same for every AXIS.

As a mapping: ``{better: [A, B]}``, or ``worse``, ``equivalent``, ``not_worse``; ``some_better`` for "at least one". A
side is a name, a list of names, or a selection ``{axis: level or [levels]}``; beside it ``margin``, ``by`` (shares,
0.02 is 2 %) and ``says`` (the words of the report). ``{same_ranking: {of: AXIS, over: AXIS}}``.

Sides that were chosen by levels are compared arm by arm where all else is equal; ``for every AXIS`` compares at each
level of it, whatever the sides were named by.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from ablate_reports import formats
from ablate_reports.claim_names import ALL, Names, NotUnderstoodError, Side, normal, singular

Relation = Literal["better", "worse", "equivalent", "not_worse", "same_ranking"]

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
    if axis is not None:
        pairs = _for_every(axis, pairs, names)
    return _claim(
        relation,
        pairs,
        names,
        some=some,
        by=float(by or 0) / 100,
        margin=None if within is None else float(within) / 100,
    )


def _for_every(words: str, pairs: tuple[tuple[str, str], ...], names: Names) -> tuple[tuple[str, str], ...]:
    """The pairs at every level of an axis: each side may have been named by the label of an arm, which has one level.

    Raises:
        NotUnderstoodError: there is no such axis, or the plans do not cross it with what is compared.
    """
    word = words.split()[-1]
    axis = names.axis(word)
    if axis is None:
        if singular(word) in ("objective", "method", "arm", "path"):
            return pairs
        raise NotUnderstoodError(
            f"'for every {words}': there is no such axis; there are {formats.listed(list(names.axes))}"
        )
    levels = names.axes[axis]
    found: dict[tuple[str, str], str | None] = {}
    for a, b in pairs:
        if (mine := names.chosen[a].get(axis)) != names.chosen[b].get(axis):  # it is the axis that is compared
            found[a, b] = mine
            continue
        for level in levels:
            both = ((x, y) for x in names.at(a, axis, level) for y in names.at(b, axis, level))
            found |= dict.fromkeys(both, level)
    if len(set(found.values())) < min(2, len(levels)):
        raise NotUnderstoodError(f"'for every {words}': no plan crosses {axis!r} with what is compared")
    return tuple(found)


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
        relation, pairs, names, some=key == "some_better", by=_share(declared, "by", most=math.inf) or 0.0,
        margin=_share(declared, "margin"),
    )  # fmt: skip


def _share(declared: Mapping[str, Any], key: str, most: float = 1.0) -> float | None:
    value = declared.get(key)
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < most:
        span = "of 0 or more" if most == math.inf else f"between 0 and {most:g}"
        raise NotUnderstoodError(f"{key} is a share {span} (0.02 is 2 %), got {value!r}")
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
        axis = names.axis(word)
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
        and mine in chosen[a]
        and mine in chosen[b]
        and chosen[a][mine] != chosen[b][mine]
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
