"""The winner's curse: what luck alone gives the best of many arms, and what fresh seeds say of an arm that was picked.

Of K equal arms the best looks better by ``sigma / sqrt(n) * E[min of K standard normals]``. So the size of a winner
that was picked after looking is quoted only from trials that did not take part in the picking: those marked ``confirm``
in the frame `trials`, on seeds that no other trial of the study has.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from scipy import special

from ablate_reports import formats
from ablate_reports.shared import fit_shared
from ablate_reports.statistics import Contrast, Model
from ablate_reports.verdicts import Verdict, count, judge

Values = Mapping[str, Mapping[int, float]]


@dataclass(frozen=True)
class Luck:
    """What the best of some arms owes to luck, were all of them equal.

    Attributes:
        arms: how many were compared, K.
        seeds: of each (the harmonic mean where they differ).
        sigma: residual standard deviation of one trial.
        expected: how much better than the truth the best looks on average, on the model's scale, >= 0.
        limit: what it exceeds with 5 % probability.
    """

    arms: int
    seeds: float
    sigma: float
    expected: float
    limit: float

    def sentence(self, scale: str = "log", lower_is_better: bool = True) -> str:
        """``Of 10 equal arms, luck alone would make the best look 1.2% better than it is, ...``."""
        by, most = (_better(x, scale, lower_is_better) for x in (self.expected, self.limit))
        return (
            f"Of {self.arms} equal arms, luck alone would make the best look {by} better than it is, one time in 20 by "
            f"more than {most}."
        )


def _better(x: float, scale: str, lower_is_better: bool) -> str:
    if scale != "log":
        return formats.number(x, 2)
    return f"{-100 * math.expm1(-x):.1f}%" if lower_is_better else formats.magnitude(x)


@lru_cache(maxsize=256)
def expected_best(k: int) -> float:
    """``E[max of k independent standard normals]``, by numerical integration.

    Raises:
        ValueError: k is not positive.
    """
    if k < 1:
        raise ValueError(f"the best of {k} arms does not exist")
    z = np.linspace(-9.0, 9.0, 4001)
    density = k * special.ndtr(z) ** (k - 1) * np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    return float(np.trapezoid(z * density, z))


def luck(model: Model | None, arms: Sequence[str] | None = None) -> Luck | None:
    """The luck of the best among arms with two seeds or more; None without noise or with fewer than two of them.

    Args:
        arms: who took part in the picking; default: all of them, the baseline too, since it could have won.
    """
    if model is None or not model.sigma:
        return None
    some = [a for a in (arms or model.arms) if len(model.values.get(a, {})) > 1]
    if len(some) < 2:
        return None
    seeds = len(some) / sum(1 / len(model.values[a]) for a in some)
    k, scale = min(len(some), model.independent) if model.networks else len(some), model.sigma / math.sqrt(seeds)
    return Luck(k, seeds, model.sigma, scale * expected_best(k), scale * float(special.ndtri(0.95 ** (1 / k))))


@dataclass(frozen=True)
class Confirmation:
    """A picked arm on fresh seeds.

    Attributes:
        contrast: with the baseline, from the fresh seeds alone; None where they cannot be compared.
        verdict: on that contrast, over the family of the confirmed arms.
        explored: the difference that it was picked by; None where there was none.
        note: why there is no verdict.
    """

    arm: str
    contrast: Contrast | None
    verdict: Verdict
    explored: float | None
    note: str = ""

    def sentence(self, name: str, baseline: str, scale: str = "log") -> str:
        """``Confirmed on 5 fresh seeds: E is better than fm, −5.1% (−6.3% to −3.9%); it was picked at −6.9%.``"""
        if self.contrast is None or self.contrast.low is None:
            return f"{name} is not confirmed: {self.note or 'no interval'}."
        seeds = count(self.contrast.n, "fresh seed")
        size = formats.change(self.contrast.estimate, scale)
        between = formats.interval(self.contrast.low, self.contrast.high, scale)
        said = {
            "better": f"Confirmed on {seeds}: {name} is better than {baseline}",
            "worse": f"Refuted on {seeds}: {name} is worse than {baseline}",
            "equivalent": f"Not confirmed on {seeds}: {name} is equivalent to {baseline}",
            "inconclusive": f"Not confirmed on {seeds}: {name} against {baseline} is inconclusive",
        }[self.verdict]
        picked = "" if self.explored is None else f"; it was picked at {formats.change(self.explored, scale)}"
        return f"{said}, {size} ({between}){picked}."


@dataclass(frozen=True)
class Confirmed:
    """The confirmation of a study, apart from its exploration.

    Attributes:
        model: of the fresh seeds alone; None without any.
        scale: that of the contrasts and of `explored`.
        stale: seeds of confirming trials that other trials have too; their values are not used.
    """

    found: list[Confirmation]
    model: Model | None
    stale: list[int] = field(default_factory=list)
    scale: str = "log"


def confirm(
    explored: Values,
    fresh: Values,
    baseline: str | None,
    networks: Mapping[str, str] | None = None,
    *,
    margin: float | None = None,
    lower_is_better: bool = True,
    alpha: float = 0.05,
    scale: str = "log",
) -> Confirmed | None:
    """Judge picked arms on fresh seeds only.

    Args:
        explored: arm -> seed -> y of the trials that took part in the picking.
        fresh: the same of the trials that were run to confirm; those on seeds of `explored` are left out.
        networks: arm -> what was trained for it, where arms share their trainings.
        scale: of both.

    Returns:
        None where nothing was run to confirm.
    """
    used = {s for seeds in explored.values() for s in seeds}
    stale = sorted({s for seeds in fresh.values() for s in seeds if s in used})
    clean = {a: {s: y for s, y in seeds.items() if s not in used} for a, seeds in fresh.items()}
    if not fresh:
        return None
    model = fit_shared(clean, networks or {})
    picked = [a for a in fresh if a != baseline]
    known = set() if model is None else set(model.values)
    pairs = [(a, str(baseline)) for a in picked if a in known] if baseline in known else []
    contrasts = {c.arm: c for c in model.compare(pairs, alpha)} if model is not None and pairs else {}
    found = []
    for arm in picked:
        c = contrasts.get(arm)
        before = _difference(explored, arm, baseline)
        if c is None:
            who = "the baseline" if baseline not in known else "the arm"
            found.append(Confirmation(arm, None, "inconclusive", before, f"{who} has no value on fresh seeds"))
        else:
            verdict = judge(c.low, c.high, margin, lower_is_better=lower_is_better)
            found.append(Confirmation(arm, c, verdict, before, c.note if c.low is None else ""))
    return Confirmed(found, model, stale, scale)


def _difference(values: Values, arm: str, baseline: str | None) -> float | None:
    if baseline is None or not values.get(arm) or not values.get(baseline):
        return None
    mine, base = values[arm], values[baseline]
    common = set(mine) & set(base)
    if common:
        return sum(mine[s] - base[s] for s in common) / len(common)
    return sum(mine.values()) / len(mine) - sum(base.values()) / len(base)
