"""Is an early step a safe judge of the final one? Rank agreement, what a cut would lose, which factors change speed.

Early stopping ranks arms at a rung (a step before the last) and stops the worst. It is safe when that ranking agrees
with the final one. The agreement cannot be estimated from survivors: they are alike because they were selected. So
either all arms ran to the end, or some of those to be stopped were drawn at random and ran on (the audit arms), and
count for all that were stopped; otherwise nothing is estimated, and that is said.

Intervals come from a seeded bootstrap over arms: arms are many enough for it where seeds are not.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from ablate_reports import formats
from ablate_reports.data import StudyFrames, records
from ablate_reports.equivalence import holm
from ablate_reports.factorial import factorial
from ablate_reports.groups import Group

Array = npt.NDArray[np.float64]
Decision = Literal["kept", "stopped", "audit"]

MIN_ARMS = 6
"""Fewer arms rank in too few ways for an interval to mean anything."""
RESAMPLES = 2000
ROUNDING = 1e-12
"""Values that differ relatively by less than this are equal: means over two and over three seeds round differently."""
KEPT = 1 / 3
"""The share a rung is imagined to keep where nothing was stopped: successive halving with eta = 3."""
SURVIVORS = "not estimated: only survivors ran on, and they were selected by this rung; it takes audit arms"
TOO_FEW = f"not estimated: fewer than {MIN_ARMS} arms have both values"
TIED = "not estimated: all values at the {} are equal"


@dataclass(frozen=True)
class Rung:
    """One early step as a judge of the last one.

    Attributes:
        step: the early step.
        arms: arms with an early and a final value.
        stopped, audited: arms the rung stopped (or would have), and those of them that ran on for the audit.
        kept: share of arms that the rung keeps (or is imagined to keep).
        tau: Kendall's tau-b of early and final value, audit arms counting for all stopped; `low`, `high` its interval.
        lost: probability that the arm that ends best is dropped, over resampled studies.
        regret: how much worse the best kept arm ends than the best of all: mean over resampled studies, on the model's
            scale; `regret_high` their 95 % quantile.
        best: the arm that ended best here, and whether the rung kept it (or would have).
        note: why nothing is estimated, else "".
        left_out: values at the rung that are not positive, where the model's scale is the log.
    """

    step: int
    arms: int
    stopped: int
    audited: int
    kept: float
    tau: float | None = None
    low: float | None = None
    high: float | None = None
    lost: float | None = None
    regret: float | None = None
    regret_high: float | None = None
    best: str | None = None
    best_kept: bool | None = None
    note: str = ""
    left_out: int = 0

    def sentence(self, scale: str = "log") -> str:
        """``At step 500, tau = 0.59 (0.35 to 0.78, 24 arms); a cut to a third loses the best arm with 5% ...``"""
        where = f"At step {self.step:,}"
        if self.tau is None or self.low is None or self.high is None or self.lost is None:
            return f"{where}, rank agreement is {self.note}."
        regret = (formats.magnitude(x or 0.0, scale) for x in (self.regret, self.regret_high))
        mean, most = regret
        return (
            f"{where}, Kendall's tau with the final ranking is {self.tau:.2f} ({self.low:.2f} to {self.high:.2f}, "
            f"{self.arms} arms); keeping {formats.percent(round(self.kept, 2))} loses the best arm with probability "
            f"{self.lost:.2f} and costs {mean} on average (95%: up to {most})."
        )


def rank_stability(
    early: Mapping[str, float],
    final: Mapping[str, float],
    step: int,
    *,
    decisions: Mapping[str, Decision] | None = None,
    kept: float = KEPT,
    lower_is_better: bool = True,
    alpha: float = 0.05,
    seed: int = 0,
) -> Rung:
    """How well a rung's ranking agrees with the final one.

    Args:
        early, final: arm -> y at the rung and at the last step, on the model's scale.
        decisions: arm -> what the rung decided; None: nothing was stopped, and `kept` is the share imagined.
    """
    sign = 1.0 if lower_is_better else -1.0
    arms = [a for a in early if a in final and math.isfinite(early[a]) and math.isfinite(final[a])]
    decided = decisions or {}
    stopped = [a for a in decided if decided[a] != "kept"]
    audited = [a for a in arms if decided.get(a) == "audit"]
    if decided:
        kept = sum(d == "kept" for d in decided.values()) / len(decided)
    bare = Rung(step, len(arms), len(stopped), len(audited), kept)
    if stopped and not audited:
        return replace(bare, note=SURVIVORS)
    if len(arms) < MIN_ARMS:
        return replace(bare, note=TOO_FEW)
    weight = np.array([len(stopped) / len(audited) if a in audited else 1.0 for a in arms])
    x, y = (sign * np.array([values[a] for a in arms]) for values in (early, final))
    for tied, where in ((x, "rung"), (y, "end")):
        if np.ptp(tied) <= ROUNDING * np.abs(tied).max():
            return replace(bare, note=TIED.format(where))
    counts = _resampled([[i for i, a in enumerate(arms) if (a in audited) == late] for late in (False, True)], seed)
    taus = _tau_b(x, y, counts * weight)
    taus = taus[np.isfinite(taus)]
    low, high = np.quantile(taus, [alpha / 2, 1 - alpha / 2])
    lost, regret = _cut(x, y, counts, weight, kept)
    here_lost, _ = _cut(x, y, np.ones((1, len(arms))), weight, kept)
    best = arms[int(y.argmin())]
    return replace(
        bare, tau=float(_tau_b(x, y, weight[None, :])[0]), low=float(low), high=float(high), lost=float(lost.mean()),
        regret=float(regret.mean()), regret_high=float(np.quantile(regret, 0.95)), best=best,
        best_kept=decided[best] == "kept" if best in decided else not bool(here_lost[0]),
    )  # fmt: skip


def _resampled(strata: Sequence[list[int]], seed: int) -> Array:
    """(RESAMPLES, arms) how often each arm is drawn, with replacement within strata."""
    rng = np.random.default_rng(seed)
    counts = np.zeros((RESAMPLES, sum(map(len, strata))))
    for some in strata:
        if some:
            counts[:, some] = rng.multinomial(len(some), np.full(len(some), 1 / len(some)), RESAMPLES)
    return counts


def _tau_b(x: Array, y: Array, weights: Array) -> Array:
    """Kendall's tau-b for every row of weights (b, arms): a pair counts by the product of its weights."""
    dx, dy = np.sign(x[:, None] - x[None, :]), np.sign(y[:, None] - y[None, :])
    agree, of_x, of_y = (((weights @ m) * weights).sum(axis=1) for m in (dx * dy, np.abs(dx), np.abs(dy)))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(agree / np.sqrt(of_x * of_y))


def _cut(x: Array, y: Array, counts: Array, weight: Array, kept: float) -> tuple[npt.NDArray[np.bool_], Array]:
    """For every resample: whether the arm that ends best is dropped, and how much worse the best kept one ends."""
    order = np.argsort(x, kind="stable")
    mass = (counts * weight)[:, order]
    before = np.cumsum(mass, axis=1) - mass
    there = counts[:, order] > 0
    stays = there & (before < kept * mass.sum(axis=1, keepdims=True) - 1e-9)
    ends = np.broadcast_to(y[order], stays.shape)
    best, best_kept = (np.where(m, ends, np.inf).min(axis=1) for m in (there, stays))
    return best_kept > best, best_kept - best


@dataclass(frozen=True)
class Speed:
    """Whether an axis changes how much is gained after a rung: such a factor makes the rung unfair.

    Attributes:
        f, p: test of the axis on ``final - early``, seeds as blocks; `p_family` Holm's over axes and rungs.
        level, gain: the level whose gain differs most from the reference's, and by how much on the model's scale
            (negative: it gains more after the rung, where lower is better).
    """

    axis: str
    step: int
    f: float
    p: float
    level: str
    reference: str
    gain: float
    p_family: float = 1.0

    def sentence(self, scale: str = "log") -> str:
        """``After step 500, time_sampler = gradual moves by −12.0% against uniform (p = 0.001): ...``"""
        return (
            f"After step {self.step:,}, {self.axis} = {self.level} still moves by {formats.change(self.gain, scale)} "
            f"against {self.reference} (p = {self.p_family:.2g} over axes and rungs): a rung there judges speed, not "
            "the final value."
        )


def speeds(
    cells: Mapping[str, Mapping[str, str]],
    early: Mapping[int, Mapping[str, Mapping[int, float]]],
    final: Mapping[str, Mapping[int, float]],
    reference: Mapping[str, str] | None = None,
    alpha: float = 0.05,
    networks: Mapping[str, str] | None = None,
) -> list[Speed]:
    """Test rung x factor for every rung and axis, the surest first.

    Args:
        cells: arm -> axis -> level.
        early: step -> arm -> seed -> y; `final`: arm -> seed -> y, on the model's scale.
        networks: arm -> what was trained for it.
    """
    found = []
    for step, values in sorted(early.items()):
        gains = {
            a: {s: final[a][s] - y for s, y in seeds.items() if s in final.get(a, {})} for a, seeds in values.items()
        }
        some = _telling({a: at for a, at in cells.items() if gains.get(a)})
        fitted = factorial(some, gains, reference=reference, interactions=False, alpha=alpha, networks=networks)
        for term in fitted.terms if fitted else []:
            if fitted is None or term.f is None or term.p is None:
                continue
            effects = [e for e in fitted.main() if e.factors == term.factors and e.estimate is not None]
            if effects:
                most = max(effects, key=lambda e: abs(e.estimate or 0.0))
                estimate = most.estimate or 0.0
                found.append(Speed(term.factors[0], step, term.f, term.p, most.levels[0], most.references[0], estimate))
    adjusted = holm([s.p for s in found])
    return sorted((replace(s, p_family=p) for s, p in zip(found, adjusted, strict=True)), key=lambda s: s.p)


def _telling(cells: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
    """The axes that group arms; one that only names them, every arm at a level of its own, groups nothing."""
    levels: dict[str, set[str]] = {}
    for at in cells.values():
        for axis, level in at.items():
            levels.setdefault(axis, set()).add(level)
    several = [axis for axis, found in levels.items() if 1 < len(found) < len(cells)]
    kept = several or list(levels)
    return {a: {axis: at[axis] for axis in kept if axis in at} for a, at in cells.items()}


@dataclass(frozen=True)
class RungValues:
    """What the frames know of rungs.

    Attributes:
        early: step -> arm -> seed -> y.
        final: arm -> seed -> y.
        decisions: step -> arm -> decision; empty where nothing was stopped.
        left_out: step -> values without a logarithm.
    """

    early: dict[int, dict[str, dict[int, float]]]
    final: dict[str, dict[int, float]]
    decisions: dict[int, dict[str, Decision]]
    left_out: Mapping[int, int]

    def rungs(self, *, lower_is_better: bool = True, alpha: float = 0.05) -> list[Rung]:
        """Every rung by arm means over the seeds that have both values."""
        found = []
        for step, values in sorted(self.early.items()):
            both = {a: [s for s in seeds if s in self.final.get(a, {})] for a, seeds in values.items()}
            early = {a: sum(values[a][s] for s in seeds) / len(seeds) for a, seeds in both.items() if seeds}
            final = {a: sum(self.final[a][s] for s in both[a]) / len(both[a]) for a in early}
            decided = self.decisions.get(step)
            rung = rank_stability(early, final, step, decisions=decided, lower_is_better=lower_is_better, alpha=alpha)
            found.append(replace(rung, left_out=self.left_out.get(step, 0)))
        return found


def rung_values(frames: StudyFrames, group: Group, final: Mapping[str, Mapping[int, float]], scale: str) -> RungValues:
    """Early values and decisions from the frame `rungs`, or, where nothing was stopped, every measured earlier step.

    Args:
        final: arm -> seed -> y at the step that counts.
    """
    early: dict[int, dict[str, dict[int, float]]] = {}
    decisions: dict[int, dict[str, Decision]] = {}
    left_out: Counter[int] = Counter()
    rows = frames.rungs
    if len(rows):
        order: dict[Decision, int] = {"kept": 2, "audit": 1, "stopped": 0}
        for r in records(rows):
            left_out[int(r.step)] += _put(early, int(r.step), r.arm_id, r.seed, [r.value], scale)
            of_step = decisions.setdefault(int(r.step), {})
            decision: Decision = r.decision
            if order[decision] >= order[of_step.get(r.arm_id, "stopped")]:
                of_step[r.arm_id] = decision
        return RungValues(early, {a: dict(s) for a, s in final.items()}, decisions, left_out)
    last = {(r.trial_id, r.arm_id): r.step for r in records(group.values)}
    draws: dict[tuple[int, str, float], list[float]] = {}
    for r in records(group.rows):
        if r.step < last.get((r.trial_id, r.arm_id), -math.inf):
            draws.setdefault((int(r.step), r.arm_id, r.seed), []).append(r.value)
    for (step, arm, seed), values in draws.items():
        left_out[step] += _put(early, step, arm, seed, values, scale)
    return RungValues(early, {a: dict(s) for a, s in final.items()}, decisions, left_out)


def _put(
    early: dict[int, dict[str, dict[int, float]]], step: int, arm: str, seed: float, values: list[float], scale: str
) -> bool:
    """Put the mean of a trial's draws in its place. True where it is left out for want of a logarithm."""
    if not math.isfinite(seed) or not all(map(math.isfinite, values)):
        return False
    if scale == "log" and min(values) <= 0:
        return True
    y = [math.log(v) if scale == "log" else float(v) for v in values]
    early.setdefault(step, {}).setdefault(arm, {})[int(seed)] = sum(y) / len(y)
    return False
