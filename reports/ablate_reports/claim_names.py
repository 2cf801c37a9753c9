"""Which arms a claim talks about: names, levels, groups and selections, or one line that says why not.

A name is looked up as, in this order: an arm's label, its label in a plan (also ``plan.label``), its id,
``axis=level``, a level or the label of a level, the initials of the words (``flow matching`` is FM), and what labels
begin with. Articles and words that only say what kind of thing is meant (``path``, ``objective``, an axis' name, ...)
may be left out. Nothing is guessed: what fits no rule, or two axes at once, is not understood.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ablate_reports import formats
from ablate_reports.choices import choices
from ablate_reports.data import StudyFrames, definition, records

ARTICLES = ("the", "a", "an")
KINDS = frozenset(
    "arm method objective path schedule velocity sampler network architecture metric weighting guidance training "
    "choice variant config one".split()
)
"""Words that say what kind of thing a name is, and nothing else."""
ALL = ("every", "each", "all")


class NotUnderstoodError(ValueError):
    """A claim that cannot be read; one line."""


@dataclass(frozen=True)
class Side:
    """One side of a comparison.

    Attributes:
        arms: the arms it stands for.
        axes: the axes it was chosen by; empty where it was named by labels.
    """

    arms: tuple[str, ...]
    axes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Names:
    """Everything the arms of a study may be called.

    Attributes:
        labels: normal form -> arms.
        chosen: arm -> axis -> level.
        levels: normal form of a level or of its label -> the axes and levels it may be.
        shown: arm -> label, as the space writes it.
        nfe: network evaluations of every measurement; None where they differ or are not known.
    """

    labels: Mapping[str, tuple[str, ...]]
    chosen: Mapping[str, Mapping[str, str]]
    levels: Mapping[str, tuple[tuple[str, str], ...]]
    shown: Mapping[str, str]
    nfe: int | None = None

    @property
    def axes(self) -> dict[str, list[str]]:
        """axis -> its levels."""
        found: dict[str, dict[str, None]] = {}
        for at in self.chosen.values():
            for axis, level in at.items():
                found.setdefault(axis, {})[level] = None
        return {axis: list(levels) for axis, levels in found.items()}

    def axis(self, word: str) -> str | None:
        """The axis that a word names, in singular or plural; None where there is no such axis."""
        return next((axis for axis in self.axes if singular(normal(axis)) == singular(normal(word))), None)

    def having(self, wanted: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
        """The arms at one of the wanted levels of every axis that is named."""
        return tuple(a for a, at in self.chosen.items() if all(at.get(x) in levels for x, levels in wanted.items()))

    def at(self, arm: str, axis: str, level: str) -> tuple[str, ...]:
        """The arms that have this level of an axis and all else as `arm` has it."""
        wanted = {**self.chosen[arm], axis: level}
        return tuple(a for a, at in self.chosen.items() if at == wanted)

    def named(self, text: str) -> Side:
        """The arms a name stands for.

        Raises:
            NotUnderstoodError: none, or several things at once.
        """
        for words in self._variants(text):
            if found := self._exact(words):
                return found
        for words in self._variants(text):
            if found := self._loosely(words):
                return found
        some = formats.listed([formats.short(s, 24) for s in list(self.shown.values())[:8]])
        more = ", ..." if len(self.shown) > 8 else ""
        raise NotUnderstoodError(f"no arm or level is called {text.strip()!r}; there are {some}{more}")

    def _variants(self, text: str) -> list[str]:
        """The words as they are, without articles, without a number of steps that holds anyway, without kinds."""
        plain = normal(text)
        less = without_articles(plain)
        steps = re.sub(r" (at|with|in) (one|\d+) (sampling )?steps?$", "", less)
        found = [plain, less]
        if steps != less and self._steps(less):
            found.append(steps)
        kinds = KINDS | {singular(normal(a)) for a in self.axes}
        bare = " ".join(w for w in found[-1].split() if singular(w) not in kinds)
        return list(dict.fromkeys(w for w in [*found, bare] if w))

    def _steps(self, words: str) -> bool:
        found = re.search(r" (?:at|with|in) (one|\d+) (?:sampling )?steps?$", words)
        return found is not None and self.nfe == (1 if found[1] == "one" else int(found[1]))

    def _exact(self, words: str) -> Side | None:
        if words in self.labels:
            if len(arms := self.labels[words]) > 1:
                raise NotUnderstoodError(f"{len(arms)} arms are called {words!r}")
            return Side(arms)
        if "=" in words:
            axis, _, level = (part.strip() for part in words.partition("="))
            found = [
                (x, v) for x, levels in self.axes.items() for v in levels if (normal(x), normal(v)) == (axis, level)
            ]
            if found:
                return self._at(found)
        return self._at(self.levels[words]) if words in self.levels else None

    def _at(self, found: Sequence[tuple[str, str]]) -> Side:
        if len({axis for axis, _ in found}) > 1:
            both = formats.listed([f"{axis}={level}" for axis, level in found])
            raise NotUnderstoodError(f"{found[0][1]!r} is a level of several axes; write {both}")
        axis = found[0][0]
        return Side(self.having({axis: [level for _, level in found]}), (axis,))

    def _loosely(self, words: str) -> Side | None:
        initials = [
            a for label, arms in self.labels.items() if " " in words and label == _initials(words) for a in arms
        ]
        if len(set(initials)) == 1:
            return Side((initials[0],))
        start = f"{words} "
        levels = [p for name, some in self.levels.items() if without_articles(name).startswith(start) for p in some]
        if levels and len({axis for axis, _ in levels}) == 1:
            return self._at(list(dict.fromkeys(levels)))
        begins = [a for label, arms in self.labels.items() if without_articles(label).startswith(start) for a in arms]
        return Side(tuple(dict.fromkeys(begins))) if begins else None

    def others(self, text: str, than: Side) -> Side:
        """Every arm (of a kind, of an axis) beside those of the other side.

        Raises:
            NotUnderstoodError: nothing is left.
        """
        words = [w for w in normal(text).split() if w not in (*ARTICLES, "other", "others", "of", "these", "them")]
        axis = self.axis(words[-1]) if words else None
        if axis is not None and len(words) == 1:
            rest = [a for a in self.chosen if a not in than.arms and self._differ_in(a, than.arms, axis)]
            side = Side(tuple(rest), (axis,))
        else:
            qualifiers = [w for w in words if singular(w) not in KINDS | {singular(normal(a)) for a in self.axes}]
            side = self._qualified(" ".join(qualifiers), than)
        if not side.arms:
            raise NotUnderstoodError(f"there is no other arm that {text.strip()!r} could mean")
        return side

    def _differ_in(self, arm: str, others: Sequence[str], axis: str) -> bool:
        """Whether an arm differs from one of the others in this axis and in nothing else."""
        mine = dict(self.chosen[arm])
        return any(
            mine.get(axis) != self.chosen[o].get(axis) and _without(mine, axis) == _without(self.chosen[o], axis)
            for o in others
            if o in self.chosen
        )

    def _qualified(self, qualifier: str, than: Side) -> Side:
        """Arms whose names begin with a qualifier; all others where none does: that claims more, never less."""
        if qualifier:
            try:
                found = self.named(qualifier)
                return Side(tuple(a for a in found.arms if a not in than.arms), found.axes)
            except NotUnderstoodError:
                pass
        return Side(tuple(a for a in self.shown if a not in than.arms))


def normal(text: str) -> str:
    """Lower case, one space between words, hyphens and full stops as in labels, no other punctuation at the ends."""
    flat = " ".join(str(text).replace("\u2010", "-").replace("\u2011", "-").casefold().split())
    return flat.strip(" .;:!?\"'")


def without_articles(words: str) -> str:
    """``plug-in of the class -> plug-in of class``; an arm that is called A stays."""
    return " ".join(w for w in words.split() if w not in ARTICLES) or words


def singular(word: str) -> str:
    """``paths -> path``."""
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word


def _initials(words: str) -> str:
    return "".join(w[0] for w in words.split() if w not in ARTICLES)


def _without(at: Mapping[str, str], axis: str) -> dict[str, str]:
    return {k: v for k, v in at.items() if k != axis}


def names_of(frames: StudyFrames, nfe: int | None = None) -> Names:
    """Everything the arms of a study may be called, from its frames."""
    shown = {a: frames.label(a) for a in frames.ordered}
    labels: dict[str, dict[str, None]] = {}
    levels: dict[str, dict[tuple[str, str], None]] = {}
    for arm, label in shown.items():
        labels.setdefault(normal(label), {})[arm] = None
    in_plans: dict[str, dict[str, None]] = {}
    plans: dict[str, list[Any]] = {}
    for row in records(frames.study_arms):
        if row.arm_id in shown and isinstance(row.label, str):
            in_plans.setdefault(normal(row.label), {})[row.arm_id] = None
            labels.setdefault(normal(f"{row.plan}.{row.label}"), {})[row.arm_id] = None
            plans.setdefault(row.plan, []).append(row)
    for rows in plans.values():
        for axis, level, name in _level_names(rows):
            levels.setdefault(normal(name), {})[axis, level] = None
    for label, arms in in_plans.items():
        labels.setdefault(label, arms)
    for arm in shown:
        labels.setdefault(normal(arm), {})[arm] = None
    chosen = choices(frames)
    for at in chosen.values():
        for axis, level in at.items():
            levels.setdefault(normal(level), {})[axis, level] = None
    return Names(
        {k: tuple(v) for k, v in labels.items()}, chosen, {k: tuple(v) for k, v in levels.items()}, shown, nfe
    )  # fmt: skip


def _level_names(rows: Sequence[Any]) -> list[tuple[str, str, str]]:
    """``(axis, level, label)`` that the labels of a plan show: ``linear/plain`` of a grid, or one axis alone.

    Which part of ``linear/plain`` is which axis' is read off all cells: a store does not keep the order of axes.
    """
    found = [
        (row.axis, row.level, row.label)
        for row in rows
        if row.kind == "ofat" and isinstance(row.axis, str) and isinstance(row.level, str)
    ]
    cells = []
    for row in rows:
        choice = definition(row.choice) if isinstance(row.choice, str | Mapping) else {}
        parts = row.label.split("/")
        if row.kind in ("grid", "random") and len(parts) == len(choice):
            cells.append(({str(a): str(v) for a, v in choice.items()}, parts))
    for i in range(max((len(parts) for _, parts in cells), default=0)):
        mine = [(choice, parts[i]) for choice, parts in cells if len(parts) > i]
        axes = list(dict.fromkeys(axis for choice, _ in mine for axis in choice))
        pairs = {axis: {(choice[axis], part) for choice, part in mine if axis in choice} for axis in axes}
        fits = [axis for axis, some in pairs.items() if _one_to_one(some, mine, axis)]
        same = [axis for axis in fits if any(level == part for level, part in pairs[axis])]
        for axis in same if len(same) == 1 else fits if len(fits) == 1 else []:
            found += [(axis, level, part) for level, part in sorted(pairs[axis])]
    return found


def _one_to_one(pairs: set[tuple[str, str]], cells: Sequence[tuple[Mapping[str, str], str]], axis: str) -> bool:
    """Whether each level of an axis goes with one part of the labels, and each part with one level, in every cell."""
    return all(axis in choice for choice, _ in cells) and (
        len(pairs) == len({level for level, _ in pairs}) == len({part for _, part in pairs})
    )
