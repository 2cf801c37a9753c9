"""Training noise and sampling noise apart, and how many draws per checkpoint pay.

``y = mu[arm] + b[seed] + t[trial] + g[draw] + e``: t is what retraining changes, e what drawing samples again changes.
Arms are compared on the same seeds and the same draws (one sampling noise per draw index for all arms), so what all
trials share of either cancels and is taken out here too, wherever the data allow it.

Var(mean of an arm) = (s2_train + s2_gen / K) / n for n trials of K draws. Under a budget the variance is smallest at
``K* = sqrt(c_train / c_eval * s2_gen / s2_train)``: draws never replace seeds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import stats

from ablate_reports import formats
from ablate_reports.blocks import fit_blocks
from ablate_reports.data import StudyFrames, records
from ablate_reports.groups import Group
from ablate_reports.linear import least_squares, rank, sum_coded

Draws = Mapping[str, Mapping[int, Mapping[int, float]]]


@dataclass(frozen=True)
class Components:
    """Two variances on the model's scale, with intervals of level ``1 - alpha``.

    Attributes:
        train: variance of retraining (a method of moments; it may come out negative and is then 0).
        gen: variance of drawing samples again.
        ratio: train / gen, with the exact F interval of a balanced layout.
        df_train, df_gen: degrees of freedom of the two mean squares.
        draws: harmonic mean of the draws per trial.
        common: whether effects that all trials share of a draw were taken out.
    """

    train: float
    train_low: float
    train_high: float
    gen: float
    gen_low: float
    gen_high: float
    ratio: float
    ratio_low: float
    ratio_high: float
    df_train: float
    df_gen: float
    draws: float
    common: bool


@dataclass(frozen=True)
class DrawPlan:
    """Draws per checkpoint that make an arm's mean surest for its cost.

    Attributes:
        best: the number of draws; `low` and `high` come from the ends of the interval of the variance ratio (`high`
            None: the data allow that retraining adds nothing, and then no number is large enough).
        cost_ratio: cost of one training over that of one draw.
        gain: variance of an arm's mean with `best` draws over that with one draw, at equal cost.
    """

    best: int | None
    low: int
    high: int | None
    cost_ratio: float
    gain: float | None


def components(values: Draws, alpha: float = 0.05) -> Components | None:
    """Variance components from arms, seeds and draws.

    Args:
        values: arm -> seed -> draw -> y; values that are not finite are left out.

    Returns:
        None where no trial has two draws, or no arm two seeds.
    """
    cells = {
        (a, s): {d: y for d, y in draws.items() if math.isfinite(y)}
        for a, seeds in values.items()
        for s, draws in seeds.items()
    }
    cells = {key: draws for key, draws in cells.items() if draws}
    means: dict[str, dict[int, float]] = {}
    for (a, s), draws in sorted(cells.items()):
        means.setdefault(a, {})[s] = sum(draws.values()) / len(draws)
    means = {a: seeds for a, seeds in means.items() if len(seeds) > 1}
    several = {key: draws for key, draws in cells.items() if len(draws) > 1}
    if not means or not several:
        return None
    gen, df_gen, common = _within(several)
    fitted = fit_blocks(means)
    counts = [len(cells[a, s]) for a, seeds in means.items() for s in seeds]
    k = len(counts) / sum(1 / n for n in counts)
    if gen <= 0 or fitted.sigma <= 0 or df_gen < 1:
        return None
    return _intervals(gen, df_gen, k * fitted.sigma**2, fitted.df, k, common, alpha)


def _within(several: Mapping[tuple[str, int], Mapping[int, float]]) -> tuple[float, float, bool]:
    """Variance between draws of one trial, its degrees of freedom, and whether common draw effects were taken out."""
    rows = [(i, d, y) for i, draws in enumerate(several.values()) for d, y in sorted(draws.items())]
    y = np.array([r[2] for r in rows])
    trial = np.eye(len(several))[[r[0] for r in rows]]
    draw = sum_coded([r[1] for r in rows], sorted({r[1] for r in rows}))
    common = len(several) > 1 and rank(trial, draw) == len(several) + draw.shape[1] < len(rows)
    fit = least_squares(np.hstack([trial, draw]) if common else trial, y)
    return (fit.rss / fit.df if fit.df > 0 else 0.0), float(fit.df), common


def _intervals(gen: float, df_gen: float, ms: float, df: float, k: float, common: bool, alpha: float) -> Components:
    """`ms` is the mean square of trials, ``E = s2_gen + k s2_train``; Williams and Tukey's interval for s2_train."""
    f, tail = ms / gen, alpha / 2
    upper_f, lower_f = float(stats.f.isf(tail, df, df_gen)), float(stats.f.isf(1 - tail, df, df_gen))
    chi_high, chi_low = float(stats.chi2.isf(tail, df)), float(stats.chi2.isf(1 - tail, df))
    return Components(
        train=max(0.0, (ms - gen) / k),
        train_low=max(0.0, df * ms / chi_high * (1 - upper_f / f) / k),
        train_high=max(0.0, df * ms / chi_low * (1 - lower_f / f) / k),
        gen=gen,
        gen_low=gen * df_gen / float(stats.chi2.isf(tail, df_gen)),
        gen_high=gen * df_gen / float(stats.chi2.isf(1 - tail, df_gen)),
        ratio=max(0.0, (f - 1) / k),
        ratio_low=max(0.0, (f / upper_f - 1) / k),
        ratio_high=max(0.0, (f / lower_f - 1) / k),
        df_train=df,
        df_gen=df_gen,
        draws=k,
        common=common,
    )


def plan_draws(found: Components, train_cost: float, eval_cost: float) -> DrawPlan:
    """Draws per checkpoint from variances and costs.

    Args:
        train_cost, eval_cost: of one training and of one draw, in one unit; > 0.

    Raises:
        ValueError: a cost is not positive.
    """
    if min(train_cost, eval_cost) <= 0:
        raise ValueError(f"costs must be positive, got {train_cost} for training and {eval_cost} for a draw")
    cost = train_cost / eval_cost
    best = _best(found.ratio, cost)
    low = _best(found.ratio_high, cost) or 1
    gain = None if best is None else _price(best, found.ratio, cost) / _price(1, found.ratio, cost)
    return DrawPlan(best, low, _best(found.ratio_low, cost), cost, gain)


def _price(k: int, ratio: float, cost: float) -> float:
    """Variance times cost of one trial with k draws, in units of s2_gen and of one draw."""
    return (ratio + 1 / k) * (cost + k)


def _best(ratio: float, cost: float) -> int | None:
    """The integer beside ``sqrt(cost / ratio)`` at which variance times cost is smaller; None when it grows forever."""
    if ratio <= 0:
        return None
    below = max(1, math.floor(math.sqrt(cost / ratio)))
    return min(below, below + 1, key=lambda k: (_price(k, ratio, cost), k))


def sentence(found: Components, plan: DrawPlan | None, scale: str = "log") -> str:
    """What the two variances are, and what follows for the number of draws."""

    def size(variance: float) -> str:
        return f"{100 * math.sqrt(variance):.2g}%" if scale == "log" else formats.number(math.sqrt(variance), 2)

    gen = f"resampling one checkpoint by {size(found.gen)}"
    if found.train <= 0:
        first = f"Retraining is not seen to move the metric; {gen} (standard deviations)."
    else:
        train = f"Retraining moves the metric by {size(found.train)}"
        first = f"{train}, {gen} (standard deviations; ratio {math.sqrt(found.ratio):.1f})."
    if plan is None:
        return first
    if plan.best is None:
        return f"{first} More draws per checkpoint are then as good as more seeds; confirm that with more seeds."
    span = f"{plan.low} or more" if plan.high is None else f"{plan.low} to {plan.high}"
    return (
        f"{first} With a training {plan.cost_ratio:.3g} times as dear as a draw, {plan.best} draw"
        f"{'s' if plan.best > 1 else ''} per checkpoint make{'s' if plan.best == 1 else ''} the most of a budget "
        f"({span}); further draws do not replace seeds."
    )


def draws_of(frames: StudyFrames, group: Group, scale: str) -> dict[str, dict[int, dict[int, float]]]:
    """arm -> seed -> draw -> y at the step that counts, on the scale of the analysis."""
    steps = {(r.trial_id, r.arm_id): r.step for r in records(group.values)}
    out: dict[str, dict[int, dict[int, float]]] = {}
    for r in records(group.rows):
        usable = math.isfinite(r.value) and (r.value > 0 or scale != "log") and math.isfinite(r.seed)
        if usable and steps.get((r.trial_id, r.arm_id)) == r.step:
            y = math.log(r.value) if scale == "log" else float(r.value)
            out.setdefault(r.arm_id, {}).setdefault(int(r.seed), {})[int(r.draw)] = y
    return out


def costs(frames: StudyFrames, group: Group) -> tuple[float, float] | None:
    """Mean wall time of training a trial and of one draw, seconds; None where one of them is not known."""
    steps = {(r.trial_id, r.arm_id): r.step for r in records(group.values)}
    last = [r.wall_seconds for r in records(group.rows) if steps.get((r.trial_id, r.arm_id)) == r.step]
    of_draw = [w for w in last if math.isfinite(w) and w > 0]
    done = frames.trials[frames.trials["trial_id"].isin([t for t, _ in steps])]
    of_trial = [float(w) for w in done["wall_seconds"] if math.isfinite(w) and w > 0]
    if not of_draw or not of_trial:
        return None
    return sum(of_trial) / len(of_trial), sum(of_draw) / len(of_draw)
