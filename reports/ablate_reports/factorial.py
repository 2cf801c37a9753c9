"""Main effects and two-way interactions of a plan that mixes levels, with what it cannot give stated.

``y = seed + factors + two-way interactions + noise``, every factor sum-coded. A main effect is tested by its Type II
sum of squares (after the other main effects and the interactions without it), or by Type III where interaction is the
question; an interaction after everything else. Noise is estimated from the seeds within cells (arms + seeds), so that a
three-way interaction is not taken for noise; with one seed it is the residual of the model. A term is "not estimable"
when the plan's cells do not determine it, and the reason is said.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy import stats

from ablate_reports.linear import Array, LeastSquares, estimates, least_squares, rank, sum_coded

Cells = Mapping[str, Mapping[str, str]]
Values = Mapping[str, Mapping[int, float]]
Name = tuple[str, ...]

REST = "(as base)"
"""The level of a factor that an arm does not name."""
NO_NOISE = "no interval: nothing is left to estimate the noise from"


@dataclass(frozen=True)
class Term:
    """One line of the table of variances: a factor (one name) or an interaction (two).

    Attributes:
        df: degrees of freedom the design gives; `full_df` are those a complete design would.
        ss, f, p: sum of squares and its test; None where the term is not estimable or there is no noise to test by.
        why: why it is not estimable, else "".
        aliases: interactions that this plan cannot tell from a main effect: it is theirs too, unless they are nothing.
    """

    factors: tuple[str, ...]
    df: int
    full_df: int
    ss: float | None = None
    f: float | None = None
    p: float | None = None
    why: str = ""
    aliases: tuple[str, ...] = ()

    @property
    def estimable(self) -> bool:
        """Whether the design determines the whole term."""
        return not self.why


@dataclass(frozen=True)
class Effect:
    """A level against the factor's reference, averaged over the others; or how far two levels together miss the sum.

    An interaction is ``(y_ab - y_a0) - (y_0b - y_00)``; on the log scale ``exp(estimate) - 1`` says by how many per
    cent the change by b is larger when a is there.

    Attributes:
        factors, levels, references: one name each for a main effect, two for an interaction.
        low, high: simultaneous interval over all main effects, or over all interactions, of the plan.
        low_single, high_single: the ordinary interval.
        note: why there is no estimate or no interval.
    """

    factors: tuple[str, ...]
    levels: tuple[str, ...]
    references: tuple[str, ...]
    estimate: float | None = None
    se: float | None = None
    low: float | None = None
    high: float | None = None
    low_single: float | None = None
    high_single: float | None = None
    p: float | None = None
    p_family: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Factorial:
    """A plan read as a factorial.

    Attributes:
        factors: factor -> its levels, the reference first.
        typ: 2 or 3, the sums of squares of the main effects.
        sigma, df: residual standard deviation and its degrees of freedom; None, 0 without any.
        error: ``seeds`` (within cells) or ``model`` (residual of the model).
        blocked: whether seeds are blocks.
        lack_of_fit: p of the test that nothing beyond two-way interactions is there; None where it cannot be tested.
        within: factors that vary within trainings (ways of measuring): they and their interactions are judged within
            trials, with `sigma_within` and `df_within`; the others between trainings, from means over the ways.
    """

    factors: dict[str, list[str]]
    typ: int
    sigma: float | None
    df: int
    error: str
    blocked: bool
    terms: list[Term]
    effects: list[Effect]
    lack_of_fit: float | None = None
    within: tuple[str, ...] = ()
    sigma_within: float | None = None
    df_within: int = 0

    def main(self) -> list[Effect]:
        """The effects of single factors."""
        return [e for e in self.effects if len(e.factors) == 1]

    def interactions(self) -> list[Effect]:
        """The effects of pairs."""
        return [e for e in self.effects if len(e.factors) == 2]


def factorial(
    cells: Cells,
    values: Values,
    *,
    reference: Mapping[str, str] | None = None,
    interactions: bool = True,
    typ: Literal[2, 3] = 2,
    error: Literal["seeds", "model"] = "seeds",
    alpha: float = 0.05,
    networks: Mapping[str, str] | None = None,
) -> Factorial | None:
    """Read arms that mix levels as a factorial.

    Args:
        cells: arm -> factor -> level; a factor that an arm does not name has a level of its own there.
        values: arm -> seed -> y; arms without a value do not take part.
        reference: factor -> the level others are compared with; default: the one of the first arm.
        interactions: whether two-way interactions are in the model.
        typ: sums of squares of the main effects.
        error: where the noise comes from; ``seeds`` falls back to ``model`` when there is one seed.
        networks: arm -> what was trained for it; arms with equal entries are measured from the same trials.

    Returns:
        None where no factor varies over the arms with values.
    """
    arms = [a for a in cells if any(map(math.isfinite, values.get(a, {}).values()))]
    names = dict.fromkeys(f for a in arms for f in cells[a])
    cells = {a: {f: str(cells[a].get(f, REST)) for f in names} for a in arms}
    factors = _factors(cells, arms, reference or {})
    if not factors:
        return None
    rows = [(a, s, float(y)) for a in arms for s, y in sorted(values[a].items()) if math.isfinite(y)]
    of = {a: (networks or {}).get(a, a) for a in arms}
    if 1 < len(set(of.values())) < len(arms):
        return _split(cells, factors, rows, interactions, of, typ, error, alpha)
    return _Layout(cells, factors, rows, interactions).analysed(typ, error, alpha)


def _split(
    cells: Cells,
    factors: dict[str, list[str]],
    rows: list[tuple[str, int, float]],
    interactions: bool,
    of: Mapping[str, str],
    typ: Literal[2, 3],
    error: Literal["seeds", "model"],
    alpha: float,
) -> Factorial:
    """Two strata: trainings, by means over the ways that all of them were measured in, and what is within them."""
    per: dict[str, list[str]] = {}
    for arm, network in of.items():
        per.setdefault(network, []).append(arm)
    within = tuple(f for f in factors if any(len({cells[a][f] for a in arms}) > 1 for arms in per.values()))
    inside = _Layout(cells, factors, rows, interactions, of).analysed(typ, error, alpha, only=set(within))
    ways = [{tuple(cells[a][f] for f in within) for a in arms} for arms in per.values()]
    common = set.intersection(*ways)
    outer = {f: levels for f, levels in factors.items() if f not in within}
    between = None
    if outer and common:
        values: dict[tuple[str, int], list[float]] = {}
        for arm, seed, y in rows:
            if tuple(cells[arm][f] for f in within) in common:
                values.setdefault((of[arm], seed), []).append(y)
        means = [(n, s, sum(ys) / len(ys)) for (n, s), ys in values.items() if len(ys) == len(common)]
        first = {network: cells[arms[0]] for network, arms in per.items()}
        if any(len({first[n][f] for n, _, _ in means}) > 1 for f in outer):
            between = _Layout(first, outer, means, interactions).analysed(typ, error, alpha)
    found = {t.factors: t for part in (inside, between) if part is not None for t in part.terms}
    names: list[Name] = [(f,) for f in factors] + list(itertools.combinations(factors, 2))
    unknown = "not estimable: trainings are not measured alike"
    terms = [found.get(n) or Term(n, 0, math.prod(len(factors[f]) - 1 for f in n), why=unknown) for n in names]
    effects = (between.effects if between else []) + inside.effects
    order = {n: i for i, n in enumerate(names)}
    return replace(
        inside, factors=factors, sigma=between.sigma if between else None, df=between.df if between else 0,
        blocked=between.blocked if between else False, terms=terms,
        effects=sorted(effects, key=lambda e: order[e.factors]), within=within, sigma_within=inside.sigma,
        df_within=inside.df,
    )  # fmt: skip


def _factors(cells: Cells, arms: Sequence[str], reference: Mapping[str, str]) -> dict[str, list[str]]:
    found = {}
    for name in cells[arms[0]] if arms else ():
        levels = list(dict.fromkeys(cells[a][name] for a in arms))
        first = reference.get(name)
        ordered = sorted(levels, key=lambda level: level != first)
        if len(levels) > 1:
            found[name] = ordered
    return found


_Asked = tuple[Effect, LeastSquares, Array]


class _Layout:
    """Columns of every term over the values, and what follows from them."""

    def __init__(
        self,
        cells: Cells,
        factors: dict[str, list[str]],
        rows: list[tuple[str, int, float]],
        interactions: bool,
        trained: Mapping[str, str] | None = None,
    ) -> None:
        self.factors = factors
        self.y = np.array([y for _, _, y in rows])
        arms, seeds = list(dict.fromkeys(a for a, _, _ in rows)), sorted({s for _, s, _ in rows})
        place = [arms.index(a) for a, _, _ in rows]
        member, seed = np.eye(len(arms))[place], sum_coded([s for _, s, _ in rows], seeds)
        if trained is None:
            self.blocked = len(seeds) > 1 and rank(member, seed) == len(arms) + len(seeds) - 1
            one = np.ones((len(rows), 1))
            self.block = np.hstack([one, seed]) if self.blocked else one
            self.base = np.ones((len(arms), 1))
        else:  # trials are the blocks, and a training takes up all that its arms have in common
            self.blocked, trial = True, [(trained[a], s) for a, s, _ in rows]
            self.block = np.array([[float(t == u) for u in dict.fromkeys(trial)] for t in trial])
            self.base = np.array([[float(trained[a] == n) for n in dict.fromkeys(trained.values())] for a in arms])
        self.saturated = np.hstack([member, self.block])
        code = {f: sum_coded([cells[a][f] for a in arms], some) for f, some in factors.items()}
        self.mains: list[Name] = [(f,) for f in factors]
        self.pairs: list[Name] = list(itertools.combinations(factors, 2))
        self.terms = [*self.mains, *self.pairs] if interactions else self.mains
        by_arm: dict[Name, Array] = {(f,): code[f] for f in factors}
        by_arm |= {pair: _product(*(code[f] for f in pair)) for pair in self.pairs}
        self.full = {t: c.shape[1] for t, c in by_arm.items()}
        self.by_arm = by_arm  # what cells determine does not depend on how often they were run
        self.columns = {t: c[place] for t, c in by_arm.items()}
        self.met = {t: len({tuple(cells[a][f] for f in t) for a in arms}) for t in self.pairs}
        self._fits: dict[tuple[Name, ...], LeastSquares] = {}
        self._ranks: dict[frozenset[Name], int] = {}

    def fitted(self, terms: Sequence[Name]) -> LeastSquares:
        """The fit of some terms beside the seeds."""
        key = tuple(terms)
        if key not in self._fits:
            self._fits[key] = least_squares(np.hstack([self.block, *(self.columns[t] for t in key)]), self.y)
        return self._fits[key]

    def gains(self, term: Name, others: Iterable[Name]) -> int:
        """Degrees of freedom that a term adds to others, over the cells of the plan."""
        before = frozenset(others)
        return self._rank(before | {term}) - self._rank(before)

    def _rank(self, terms: frozenset[Name]) -> int:
        if terms not in self._ranks:
            self._ranks[terms] = rank(self.base, *(self.by_arm[t] for t in self.by_arm if t in terms))
        return self._ranks[terms]

    def others(self, term: Name, typ: int) -> list[Name]:
        """The terms a term is tested after."""
        return [t for t in self.terms if t != term and (typ == 3 or not set(term) <= set(t))]

    def analysed(self, typ: Literal[2, 3], error: str, alpha: float, only: set[str] | None = None) -> Factorial:
        """Everything, or the terms and effects that have one of some factors."""

        def asked(term: Name) -> bool:
            return only is None or bool(only & set(term))

        model, within = self.fitted(self.terms), least_squares(self.saturated, self.y)
        error = "seeds" if error == "seeds" and within.df > 0 else "model"
        noise = within if error == "seeds" else model
        variance = noise.rss / noise.df if noise.df > 0 else 0.0
        sigma = math.sqrt(variance) if variance > 1e-24 * max(1.0, float((self.y**2).max())) else None
        terms = {t: self._term(t, typ, sigma, noise.df) for t in [*self.mains, *self.pairs] if asked(t)}
        plain = any(t.aliases for t in terms.values())  # one model for all main effects of a family
        mains = [
            self._main(terms[f,], level, self.terms if typ == 3 and not plain else self.mains)
            for f, levels in self.factors.items()
            if asked((f,))
            for level in levels[1:]
        ]
        both = [
            self._pair(f, g, a, b)
            for f, g in itertools.combinations(self.factors, 2)
            if (f, g) in self.terms and asked((f, g))
            for a, b in itertools.product(self.factors[f][1:], self.factors[g][1:])
        ]
        effects = [e for some in (mains, both) for e in _judged(some, sigma, float(noise.df), alpha)]
        return Factorial(
            self.factors, typ, sigma, noise.df if sigma else 0, error, self.blocked, list(terms.values()), effects,
            _lack_of_fit(model, within),
        )  # fmt: skip

    def _term(self, term: Name, typ: int, sigma: float | None, df: int) -> Term:
        if term not in self.terms:
            return Term(term, 0, self.full[term], why="not asked for")
        others = self.others(term, typ)
        aliases: tuple[str, ...] = ()
        if len(term) == 1 and self.gains(term, others) < self.full[term]:
            others, aliases = [t for t in self.mains if t != term], self._aliases(term)
        if (gained := self.gains(term, others)) < self.full[term]:
            return Term(term, gained, self.full[term], why=self._why(term, others))
        without, fitted = self.fitted(others), self.fitted([*others, term])
        if (seen := fitted.rank - without.rank) < gained:  # the cells would do, but not the trials that have values
            return Term(term, seen, gained, why="not estimable: too few trials were measured in several ways")
        ss = max(0.0, without.rss - fitted.rss)
        if sigma is None:
            return Term(term, gained, gained, ss, aliases=aliases)
        f = ss / gained / sigma**2
        return Term(term, gained, gained, ss, f, float(stats.f.sf(f, gained, df)), aliases=aliases)

    def _aliases(self, main: Name) -> tuple[str, ...]:
        """The interactions whose columns a main effect shares, in a plan that cannot tell them apart."""
        rest = [t for t in self.mains if t != main]
        found = [t for t in self.pairs if self.gains(t, rest) > self.gains(t, self.mains)]
        return tuple(map(_name, found)) or ("interactions: too few combinations",)

    def _why(self, term: Name, others: list[Name]) -> str:
        own: list[Name] = [(f,) for f in term] if len(term) > 1 else []
        if len(term) > 1 and (alone := self.gains(term, own)) < self.full[term]:
            if alone == 0:
                return "not estimable: no arms change both"
            return (
                f"not estimable: {(all_ := math.prod(len(self.factors[f]) for f in term)) - self.met[term]} of "
                f"{all_} combinations are missing"
            )
        partners = [t for t in others if t not in own and self._frees(term, [o for o in others if o != t])]
        names = ", ".join(map(_name, partners))
        return f"not estimable: aliased with {names}" if names else "not estimable: too few combinations"

    def _frees(self, term: Name, others: list[Name]) -> bool:
        return bool(self.gains(term, others) == self.full[term])

    def _main(self, term: Term, level: str, terms: Sequence[Name]) -> _Asked:
        [factor] = term.factors
        levels = self.factors[factor]
        row = self._row(terms, {(factor,): sum_coded([level], levels)[0] - sum_coded([levels[0]], levels)[0]})
        note = f"aliased with {', '.join(term.aliases)}" if term.aliases else ""
        return Effect((factor,), (level,), (levels[0],), note=note), self.fitted(terms), row

    def _pair(self, f: str, g: str, a: str, b: str) -> _Asked:
        left = sum_coded([a], self.factors[f])[0] - sum_coded([self.factors[f][0]], self.factors[f])[0]
        right = sum_coded([b], self.factors[g])[0] - sum_coded([self.factors[g][0]], self.factors[g])[0]
        row = self._row(self.terms, {(f, g): np.outer(left, right).ravel()})
        return Effect((f, g), (a, b), (self.factors[f][0], self.factors[g][0])), self.fitted(self.terms), row

    def _row(self, terms: Sequence[Name], parts: Mapping[Name, Array]) -> Array:
        zero = np.zeros(self.block.shape[1])
        return np.concatenate([zero, *(parts.get(t, np.zeros(self.full[t])) for t in terms)])


def _lack_of_fit(model: LeastSquares, within: LeastSquares) -> float | None:
    df = within.rank - model.rank
    if df < 1 or within.df < 1 or within.rss <= 0:
        return None
    f = max(0.0, model.rss - within.rss) / df / (within.rss / within.df)
    return float(stats.f.sf(f, df, within.df))


def _name(term: Name) -> str:
    return " × ".join(term)


def _product(a: Array, b: Array) -> Array:
    return np.asarray((a[:, :, None] * b[:, None, :]).reshape(len(a), -1))


def _judged(found: list[_Asked], sigma: float | None, df: float, alpha: float) -> list[Effect]:
    """The effects with estimates and with intervals that hold for all of them at once."""
    out = [e for e, _, _ in found]
    usable = [i for i, (_, fitted, row) in enumerate(found) if fitted.estimable(row)]
    for i in range(len(out)):
        if i not in usable:
            out[i] = replace(out[i], note="not estimable from these arms")
    for i in usable:
        _, fitted, row = found[i]
        notes = [n for n in (out[i].note, "" if sigma else NO_NOISE) if n]
        out[i] = replace(out[i], estimate=float(row @ fitted.beta), note="; ".join(notes))
    if sigma is None or not usable:
        return out
    # all main effects share one fit, all interactions another: one covariance holds for the whole family
    rows = np.stack([found[i][2] for i in usable])
    for i, e in zip(usable, estimates(found[usable[0]][1], rows, sigma, df, alpha), strict=True):
        out[i] = replace(
            out[i], se=e.se, low=e.low, high=e.high, low_single=e.low_single, high_single=e.high_single, p=e.p,
            p_family=e.p_family,
        )  # fmt: skip
    return out
