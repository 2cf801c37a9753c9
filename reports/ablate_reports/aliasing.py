"""Two-level fractional designs: which effects a design cannot tell apart, and what it estimates of their sums.

With levels coded -1 and +1 an effect is the product of its factors' columns. In a regular fraction some products are
constant (the defining words); multiplying an effect by a word gives its alias, an effect with the same column. In other
designs (Plackett-Burman, fractions with a cell lost) columns are partly alike: the coefficient says how much of one
effect is counted in the estimate of the other.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ablate_reports.linear import Array, Estimate, LeastSquares, estimates, least_squares, rank, sum_coded

Effect = tuple[str, ...]

MOST_WORDS = 12
"""A fraction with more independent words than this has only those listed, not their products."""
PARTLY = 0.05
"""Coefficients below this are not worth a line."""


@dataclass(frozen=True)
class Word:
    """A product of factors that is the same in every run: ``sign * f1 * f2 * ... = I``."""

    factors: Effect
    sign: int

    def __str__(self) -> str:
        return f"I = {'−' if self.sign < 0 else ''}{name(self.factors)}"


@dataclass(frozen=True)
class Aliases:
    """The alias structure of a design.

    Attributes:
        factors: names, each at two levels.
        runs: number of distinct combinations.
        words: the defining words, the shortest first; none in a full design.
        resolution: length of the shortest word, 3 where a factor is at least partly aliased with a pair; None in a full
            design.
        aliases: every factor and pair -> the factors and pairs it is aliased with, each with its coefficient (+-1: the
            two cannot be told apart at all; in between: partly).
    """

    factors: Effect
    runs: int
    words: list[Word]
    resolution: int | None
    aliases: dict[Effect, list[tuple[Effect, float]]]

    def clear(self, effect: Effect) -> bool:
        """Whether an effect is aliased with no factor and no pair."""
        return not self.aliases[effect]

    def sentence(self, effect: Effect) -> str:
        """``a is aliased with b × d and c × e``; ``partly`` where the columns are only partly alike."""
        found = self.aliases[effect]
        if not found:
            return f"{name(effect)} is aliased with no factor and no pair"
        partly = "partly " if max(abs(c) for _, c in found) < 1 - 1e-9 else ""
        return f"{name(effect)} is {partly}aliased with {_listed([('−' if c < 0 else '') + name(e) for e, c in found])}"


@dataclass(frozen=True)
class Chain:
    """Effects with one column, and the estimate of their signed sum.

    An effect is the mean at the second level less the mean at the first; of a pair, half the change of a change.

    Attributes:
        effects: each with its sign; the first gives the chain its name.
        estimate: None where there is no noise to judge by; `value` is there anyway.
    """

    effects: list[tuple[Effect, int]]
    value: float
    estimate: Estimate | None

    def __str__(self) -> str:
        first, *rest = self.effects
        return name(first[0]) + "".join(f" {'+' if sign > 0 else '−'} {name(e)}" for e, sign in rest)


def name(effect: Effect) -> str:
    """``a × b``."""
    return " × ".join(effect)


def two_level(
    cells: Mapping[str, Mapping[str, str]], reference: Mapping[str, str] | None = None
) -> tuple[Effect, Array]:
    """The design of arms that mix two levels of each factor: factors, and (arms, factors) of -1 and +1.

    Args:
        cells: arm -> factor -> level.
        reference: factor -> the level coded -1; default, also for a level that no arm has: that of the first arm.

    Raises:
        ValueError: a factor has more than two levels, or an arm lacks one.
    """
    arms = list(cells)
    found, columns = [], []
    for factor in dict.fromkeys(f for a in arms for f in cells[a]):
        lacking = next((a for a in arms if factor not in cells[a]), None)
        if lacking is not None:
            raise ValueError(f"aliasing: the arm {lacking!r} has no level of {factor!r}; every arm needs one")
        levels = list(dict.fromkeys(cells[a][factor] for a in arms))
        if len(levels) > 2:
            raise ValueError(
                f"aliasing: {factor!r} has {len(levels)} levels; a two-level design has two of each factor"
            )
        if len(levels) == 2:
            low = (reference or {}).get(factor)
            low = low if low in levels else levels[0]
            found.append(factor)
            columns.append([-1.0 if cells[a][factor] == low else 1.0 for a in arms])
    return tuple(found), np.array(columns).T.reshape(len(arms), len(found))


def alias_structure(factors: Sequence[str], design: Array) -> Aliases:
    """Words, resolution and aliases of a design.

    Args:
        factors: k names.
        design: (runs, k) of -1 and +1.

    Raises:
        ValueError: the design has other entries, no run, or another number of columns.
    """
    runs = np.unique(np.asarray(design, dtype=np.float64), axis=0) if np.size(design) else np.zeros((0, len(factors)))
    if runs.ndim != 2 or not len(runs) or runs.shape[1] != len(factors) or not np.isin(runs, (-1.0, 1.0)).all():
        raise ValueError(f"aliasing: a design is a table of -1 and +1 with {len(factors)} columns, one for each factor")
    words = _words(tuple(factors), runs)
    effects: list[Effect] = [(f,) for f in factors]
    effects += list(itertools.combinations(factors, 2))
    columns = _columns(factors, runs, effects)
    inner = columns.T @ columns / len(runs)
    aliases: dict[Effect, list[tuple[Effect, float]]] = {}
    for i, effect in enumerate(effects):
        partners = [(j, float(inner[i, j])) for j in range(len(effects)) if j != i and abs(inner[i, j]) > PARTLY]
        aliases[effect] = [(effects[j], round(c, 12)) for j, c in partners]
    lengths = [len(w.factors) for w in words]
    lengths += [3] * any(len(e) > 1 for f in factors for e, _ in aliases[f,])
    return Aliases(tuple(factors), len(runs), words, min(lengths, default=None), aliases)


def _columns(factors: Sequence[str], design: Array, effects: Sequence[Effect]) -> Array:
    at = {f: i for i, f in enumerate(factors)}
    return np.stack([design[:, [at[f] for f in effect]].prod(axis=1) for effect in effects], axis=1)


def _words(factors: Effect, runs: Array) -> list[Word]:
    """Products that never change: the null space, over two elements, of where runs differ from the first."""
    differ = (runs != runs[0]).astype(np.int64)
    basis = _null_space(differ)
    if len(basis) > MOST_WORDS:
        picks = [np.array(b) for b in basis]
    else:
        some = [np.array(c) for c in itertools.product((0, 1), repeat=len(basis)) if any(c)]
        picks = [(c[:, None] * np.array(basis)).sum(axis=0) % 2 for c in some]
    words = []
    for pick in picks:
        chosen = np.flatnonzero(pick)
        words.append(Word(tuple(factors[i] for i in chosen), int(runs[0, chosen].prod())))
    return sorted(words, key=lambda w: (len(w.factors), [factors.index(f) for f in w.factors]))


def _null_space(rows: np.ndarray) -> list[list[int]]:
    """A basis of ``{x: rows @ x = 0 mod 2}``."""
    reduced = rows.copy() % 2
    pivots: list[int] = []
    at = 0
    for column in range(reduced.shape[1]):
        below = np.flatnonzero(reduced[at:, column])
        if not len(below):
            continue
        reduced[[at, at + below[0]]] = reduced[[at + below[0], at]]
        for other in range(len(reduced)):
            if other != at and reduced[other, column]:
                reduced[other] ^= reduced[at]
        pivots.append(column)
        at += 1
        if at == len(reduced):
            break
    basis = []
    for free in (c for c in range(reduced.shape[1]) if c not in pivots):
        vector = [0] * reduced.shape[1]
        vector[free] = 1
        for row, pivot in enumerate(pivots):
            vector[pivot] = int(reduced[row, free])
        basis.append(vector)
    return basis


def chains(
    cells: Mapping[str, Mapping[str, str]],
    values: Mapping[str, Mapping[int, float]],
    reference: Mapping[str, str] | None = None,
    alpha: float = 0.05,
) -> list[Chain]:
    """What a two-level design estimates: one number for each set of factors and pairs that share a column.

    All estimates form one family. Pairs are left out where there are more columns than runs (then factors alone are
    estimated, and the aliases say what is counted in them). Noise comes from the seeds within arms.

    Raises:
        ValueError: as for `two_level`.
    """
    arms = [a for a in cells if any(map(math.isfinite, values.get(a, {}).values()))]
    factors, design = two_level({a: cells[a] for a in arms}, reference)
    if not factors:
        return []
    found = _grouped(factors, design)
    rows = [(i, s, y) for i, a in enumerate(arms) for s, y in sorted(values[a].items()) if math.isfinite(y)]
    y = np.array([r[2] for r in rows])
    member = np.eye(len(arms))[[r[0] for r in rows]]
    seeds = sum_coded([r[1] for r in rows], sorted({r[1] for r in rows}))
    blocked = seeds.shape[1] > 0 and rank(member, seeds) == len(arms) + seeds.shape[1]
    block = np.hstack([np.ones((len(rows), 1)), seeds]) if blocked else np.ones((len(rows), 1))
    columns = _columns(factors, design, [chain[0][0] for chain in found])[[r[0] for r in rows]]
    fitted = least_squares(np.hstack([block, columns]), y)
    within = least_squares(np.hstack([member, seeds]) if blocked else member, y)
    return _estimated(found, fitted, within, block.shape[1], alpha)


def _grouped(factors: Effect, design: Array) -> list[list[tuple[Effect, int]]]:
    """Factors and pairs by column; factors alone where the pairs do not fit into the runs."""
    effects: list[Effect] = [(f,) for f in factors]
    effects += list(itertools.combinations(factors, 2))
    runs = len(np.unique(design, axis=0))
    for some in (effects, effects[: len(factors)]):
        groups: list[tuple[Array, list[tuple[Effect, int]]]] = []
        for effect, column in zip(some, _columns(factors, design, some).T, strict=True):
            for other, members in groups:
                if (sign := int(np.sign(other @ column))) and np.array_equal(other, sign * column):
                    members.append((effect, sign))
                    break
            else:
                if abs(column.sum()) < len(column):  # a constant column is the mean
                    groups.append((column, [(effect, 1)]))
        table = np.stack([c for c, _ in groups], axis=1)
        if len(groups) < runs and rank(np.ones((len(table), 1)), table) == len(groups) + 1:
            return [members for _, members in groups]
    raise ValueError(f"aliasing: {len(factors)} factors cannot be told apart in {runs} runs")


def _estimated(
    found: list[list[tuple[Effect, int]]], fitted: LeastSquares, within: LeastSquares, offset: int, alpha: float
) -> list[Chain]:
    rows = np.zeros((len(found), len(fitted.beta)))
    rows[np.arange(len(found)), offset + np.arange(len(found))] = 2.0  # from half the difference to the difference
    noise = within if within.df > 0 else fitted
    sigma = math.sqrt(noise.rss / noise.df) if noise.df > 0 else 0.0
    judged = estimates(fitted, rows, sigma, float(noise.df), alpha) if sigma > 0 else [None] * len(found)
    values = (rows @ fitted.beta).tolist()
    return [Chain(effects, value, e) for effects, value, e in zip(found, values, judged, strict=True)]


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
