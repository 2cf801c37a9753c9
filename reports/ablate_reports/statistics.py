"""The statistical model: arms + seed blocks on one scale, one pooled residual, contrasts with honest intervals.

``y`` is log(metric) wherever every value is positive: the spread of a Frechet distance over seeds is proportional to
its size, so logs have equal variances and every effect is a percentage. The model is ``y_as = mu_a + b_s + e_as``;
seeds are fixed blocks, because trials of one seed share data order and noise. Nothing here knows about files or pages.

Choices and their reasons are in docs/statistics.md; oracles (scipy, statsmodels) and simulations are in tests/reports.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
from scipy import stats

from ablate_reports.simultaneous import MaxT

Array = npt.NDArray[np.float64]
Values = Mapping[str, Mapping[int, float]]

SPREAD_RATIO = 1.8
SPREAD_LEVEL = 0.01
"""An arm whose spread exceeds that of the others by this ratio, and by an F test at this level, is tested with its own.
With 3 seeds and 10 arms the level binds, at a ratio of 2.5; with 10 seeds the ratio does."""
SHUT_OUT_LEVEL = 0.01
"""...and kept out of the pooled variance when it does so at this level over all arms (Bonferroni). Anything laxer would
always shut out the largest of many honest variances and make the pooled one too small."""
ZERO = 1e-12
"""A residual standard deviation below this (relative to the size of y) is no noise at all."""

ONE_SEED = "no interval: one seed"
NO_SPREAD = "no interval: the seeds gave identical values"


@dataclass(frozen=True)
class Mean:
    """Mean of one arm over its seeds, on the model's scale, with the interval a fresh set of seeds would respect."""

    arm: str
    n: int
    mean: float
    low: float | None = None
    high: float | None = None
    sd: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Contrast:
    """Difference ``arm - reference`` on the model's scale.

    Attributes:
        low, high: the simultaneous interval, over the family the contrast was computed in; None without one.
        low_single, high_single: the ordinary interval of this contrast alone.
        p, p_family: ordinary and family-wise p value.
        method: ``pooled`` | ``within`` (trials of the same networks, see `shared`) | ``welch`` | ``none``.
        note: why there is no interval, or which rule was used instead of the pooled one.
    """

    arm: str
    reference: str
    estimate: float
    n: int
    n_reference: int
    se: float | None = None
    df: float | None = None
    low: float | None = None
    high: float | None = None
    low_single: float | None = None
    high_single: float | None = None
    p: float | None = None
    p_family: float | None = None
    method: str = "none"
    note: str = ""


@dataclass(frozen=True)
class Model:
    """The fitted model of one study.

    Attributes:
        values: arm -> seed -> y, finite values only.
        pooled: the arms whose residuals make the pooled variance (two seeds or more, spread not far out of line).
        own: the arms tested with their own variance, arm -> its sd over the pooled sd of the others.
        sigma: pooled residual standard deviation; None when no arm has two seeds.
        df: its degrees of freedom.
        blocked: whether seeds are blocks; `block_note` says why (not).
        block_f: F of the seed block, None when it could not be tested.
        brown_forsythe_p: p of the Brown-Forsythe test over all arms with two seeds or more.
        within: arm -> the model of the arms that are measured from the same networks (see `shared`).
        networks: how many networks the arms are measured from, where that is fewer than arms; else 0.
    """

    values: dict[str, dict[int, float]]
    pooled: tuple[str, ...]
    own: dict[str, float]
    sigma: float | None
    df: float
    blocked: bool
    block_note: str
    block_f: float | None
    brown_forsythe_p: float | None
    seed_sd: float = 0.0
    within: dict[str, Model] = field(default_factory=dict, repr=False)
    networks: int = 0
    _coef: Array = field(default_factory=lambda: np.zeros(0), repr=False)
    _cov: Array = field(default_factory=lambda: np.zeros((0, 0)), repr=False)
    _marginal: tuple[float, float] = (0.0, 0.0)
    _memo: dict[tuple[tuple[tuple[str, str], ...], float], list[Contrast]] = field(
        default_factory=dict, repr=False, compare=False
    )

    @property
    def arms(self) -> list[str]:
        """Arms with a value, in the order given."""
        return list(self.values)

    @property
    def independent(self) -> int:
        """Arms whose residuals are independent of each other: at most one for each network."""
        return self.networks or len(self.pooled)

    def same_network(self, arm: str, ref: str) -> Model | None:
        """The model within the networks that both arms are measured from; None where they are not."""
        model = self.within.get(arm)
        return model if model is not None and model is self.within.get(ref) else None

    @property
    def no_spread(self) -> bool:
        """True when there are repeated seeds, and every one of them gave the same value."""
        return self.sigma == 0.0

    def mean(self, arm: str, alpha: float = 0.05) -> Mean:
        """Plain mean over the arm's seeds and its interval.

        With seed blocks the interval holds for new seeds, not only for these: its variance is
        ``(sigma_seed^2 + sigma^2) / n`` with Satterthwaite degrees of freedom.

        Raises:
            KeyError: the arm has no value.
        """
        y = np.array(list(self.values[arm].values()))
        n, centre = len(y), float(y.mean())
        if n < 2:
            return Mean(arm, n, centre, note=ONE_SEED)
        sd = float(y.std(ddof=1))
        if arm in self.own:
            half = float(stats.t.isf(alpha / 2, n - 1)) * sd / math.sqrt(n)
            return Mean(arm, n, centre, centre - half, centre + half, sd, "own variance")
        if self.no_spread:
            return Mean(arm, n, centre, sd=sd, note=NO_SPREAD)
        variance, df = self._marginal
        half = float(stats.t.isf(alpha / 2, df)) * math.sqrt(variance / n)
        return Mean(arm, n, centre, centre - half, centre + half, sd)

    def compare(self, pairs: Sequence[tuple[str, str]], alpha: float = 0.05) -> list[Contrast]:
        """Contrasts ``arm - reference`` with intervals that hold for all pairs of this call at once.

        Pooled contrasts use the largest-|t| distribution; a contrast with an arm of its own variance uses Welch's t at
        the level Holm's procedure gives it; arms of the same networks are compared within their trials. The groups
        share alpha in proportion to their number.

        Raises:
            KeyError: an arm of a pair has no value.
        """
        if (key := (tuple(pairs), alpha)) in self._memo:
            return list(self._memo[key])
        models = [self.same_network(arm, ref) for arm, ref in pairs]
        found = [
            self._single(arm, ref, alpha) if model is None else model._within(arm, ref, alpha)
            for (arm, ref), model in zip(pairs, models, strict=True)
        ]
        pooled = [i for i, c in enumerate(found) if c.method == "pooled"]
        inside: dict[int, list[int]] = {}
        for i, c in enumerate(found):
            if c.method == "within":
                inside.setdefault(id(models[i]), []).append(i)
        welch = [i for i, c in enumerate(found) if c.method == "welch"]
        judged = len(pooled) + sum(map(len, inside.values())) + len(welch)
        if pooled:
            self._widen_pooled(found, pooled, alpha, len(pooled) / judged)
        for some in inside.values():
            model = models[some[0]]
            assert model is not None
            model._widen_pooled(found, some, alpha, len(some) / judged)
        if welch:
            _widen_welch(found, welch, alpha, len(welch) / judged)
        self._memo[key] = list(found)
        return found

    def _single(self, arm: str, ref: str, alpha: float) -> Contrast:
        a, b = self.values[arm], self.values[ref]
        common = sorted(set(a) & set(b))
        plain = np.mean(list(a.values())) - np.mean(list(b.values()))
        if min(len(a), len(b)) < 2:
            paired = np.mean([a[s] - b[s] for s in common]) if common else plain
            return Contrast(arm, ref, float(paired), len(a), len(b), note=ONE_SEED)
        if arm in self.own or ref in self.own:
            return _welch(arm, ref, np.array(list(a.values())), np.array(list(b.values())), alpha)
        row = self._row(arm, ref)
        estimate = float(row @ self._coef)
        if not self.sigma:
            return Contrast(arm, ref, estimate, len(a), len(b), note=NO_SPREAD)
        se = self.sigma * math.sqrt(float(row @ self._cov @ row))
        half = float(stats.t.isf(alpha / 2, self.df)) * se
        p = float(2 * stats.t.sf(abs(estimate) / se, self.df))
        single = Contrast(arm, ref, estimate, len(a), len(b), se, self.df, p=p, method="pooled")
        return replace(single, low_single=estimate - half, high_single=estimate + half)

    def _within(self, arm: str, ref: str, alpha: float) -> Contrast:
        """A contrast of two arms of the networks this model is about; an odd spread is met by their own differences."""
        a, b = self.values[arm], self.values[ref]
        common = sorted(set(a) & set(b))
        if (arm in self.own or ref in self.own) and len(common) > 1:
            return _paired(arm, ref, np.array([a[s] - b[s] for s in common]), alpha)
        found = self._single(arm, ref, alpha)
        return replace(found, method="within") if found.method == "pooled" else found

    def _row(self, arm: str, ref: str) -> Array:
        row = np.zeros(len(self.pooled))
        row[self.pooled.index(arm)] += 1
        row[self.pooled.index(ref)] -= 1
        return row

    def family_law(self, pairs: Sequence[tuple[str, str]]) -> MaxT:
        """Joint law of the largest |t| among pooled contrasts.

        Raises:
            ValueError: an arm of a pair is not among the pooled ones.
        """
        rows = np.stack([self._row(arm, ref) for arm, ref in pairs])
        cov = rows @ self._cov @ rows.T
        scale = np.sqrt(np.diag(cov))
        return MaxT(cov / np.outer(scale, scale), self.df)

    def _widen_pooled(self, found: list[Contrast], index: list[int], alpha: float, share: float) -> None:
        law = self.family_law([(found[i].arm, found[i].reference) for i in index])
        critical = law.critical(alpha * share)
        for i in index:
            c = found[i]
            assert c.se is not None
            low, high = c.estimate - critical * c.se, c.estimate + critical * c.se
            found[i] = replace(c, low=low, high=high, p_family=min(1.0, law.adjusted_p(c.estimate / c.se) / share))

    def family_critical(self, pairs: Sequence[tuple[str, str]], alpha: float = 0.05) -> float | None:
        """Critical value of the pooled contrasts of a family; None when there is none."""
        usable = [c for c in self.compare(pairs, alpha) if c.method == "pooled" and c.low is not None]
        if not usable:
            return None
        first = usable[0]
        assert first.low is not None
        assert first.se is not None
        return (first.estimate - first.low) / first.se


def _welch(arm: str, ref: str, a: Array, b: Array, alpha: float) -> Contrast:
    va, vb = a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)
    estimate, se = float(a.mean() - b.mean()), math.sqrt(va + vb)
    if se == 0:
        return Contrast(arm, ref, estimate, len(a), len(b), note=NO_SPREAD)
    df = float((va + vb) ** 2 / (va**2 / (len(a) - 1) + vb**2 / (len(b) - 1)))
    half = float(stats.t.isf(alpha / 2, df)) * se
    p = float(2 * stats.t.sf(abs(estimate) / se, df))
    single = Contrast(
        arm, ref, estimate, len(a), len(b), se, df, p=p, method="welch", note="own variance (Welch, Holm)"
    )
    return replace(single, low_single=estimate - half, high_single=estimate + half)


def _paired(arm: str, ref: str, differences: Array, alpha: float) -> Contrast:
    n, estimate = len(differences), float(differences.mean())
    se = float(differences.std(ddof=1)) / math.sqrt(n)
    if se == 0:
        return Contrast(arm, ref, estimate, n, n, note=NO_SPREAD)
    half = float(stats.t.isf(alpha / 2, n - 1)) * se
    p = float(2 * stats.t.sf(abs(estimate) / se, n - 1))
    note = "own variance (paired t, Holm)"
    single = Contrast(arm, ref, estimate, n, n, se, float(n - 1), p=p, method="welch", note=note)
    return replace(single, low_single=estimate - half, high_single=estimate + half)


def _widen_welch(found: list[Contrast], index: list[int], alpha: float, share: float) -> None:
    """Holm: the k-th smallest p is tested at alpha / (m - k); after the first one kept, that level stays."""
    order = sorted(index, key=lambda i: found[i].p or 0.0)
    m, stopped, running = len(order), None, 0.0
    for k, i in enumerate(order):
        c = found[i]
        assert c.p is not None
        assert c.se is not None
        level = stopped if stopped is not None else alpha * share / (m - k)
        if c.p > level:
            stopped = level
        running = max(running, min(1.0, c.p * (m - k) / share))
        half = float(stats.t.isf(level / 2, c.df)) * c.se
        found[i] = replace(c, low=c.estimate - half, high=c.estimate + half, p_family=running)


def fit(values: Values) -> Model | None:
    """Fit the model to one value per arm and seed, on the scale of the analysis.

    Args:
        values: arm -> seed -> y. Values that are not finite are left out, arms without any value too.

    Returns:
        The model, or None when no value is left.
    """
    clean = {a: {s: float(y) for s, y in seeds.items() if math.isfinite(y)} for a, seeds in values.items()}
    clean = {a: dict(sorted(seeds.items())) for a, seeds in clean.items() if seeds}
    if not clean:
        return None
    repeated = [a for a, seeds in clean.items() if len(seeds) > 1]
    flagged = _out_of_line({a: np.array(list(clean[a].values())) for a in repeated})
    own = {a: ratio for a, (ratio, _) in flagged.items()}
    shut_out = {a for a, (_, p) in flagged.items() if p * len(repeated) < SHUT_OUT_LEVEL}
    pooled = tuple(a for a in repeated if a not in shut_out)
    bf = _brown_forsythe([np.array(list(clean[a].values())) for a in repeated])
    empty = Model(clean, pooled, own, None, 0.0, False, "no arm has two seeds", None, bf)
    return _fit_pooled(empty) if pooled else empty


def _out_of_line(groups: dict[str, Array]) -> dict[str, tuple[float, float]]:
    """Arms whose spread is out of line, worst first, judged one at a time against those that remain."""
    found: dict[str, tuple[float, float]] = {}
    rest = dict(groups)
    while len(rest) > 1:
        ratios = {}
        for a, y in rest.items():
            others = [o for b, o in rest.items() if b != a]
            df = sum(len(o) - 1 for o in others)
            variance = sum(float(((o - o.mean()) ** 2).sum()) for o in others) / df
            own = float(y.var(ddof=1))
            noise = (ZERO * max(1.0, float(np.abs(y).max()))) ** 2
            if variance <= noise:
                continue  # the others do not vary at all: a ratio means nothing
            ratios[a] = (math.sqrt(own / variance), float(stats.f.sf(own / variance, len(y) - 1, df)))
        if not ratios:
            break
        worst = max(ratios, key=lambda a: ratios[a][0])
        ratio, p = ratios[worst]
        if ratio <= SPREAD_RATIO or p >= SPREAD_LEVEL:
            break
        found[worst] = (ratio, p)
        del rest[worst]
    return found


def _brown_forsythe(groups: list[Array]) -> float | None:
    usable = [g for g in groups if len(g) > 2]
    if len(usable) < 2 or all(np.ptp(g) == 0 for g in usable):
        return None
    p = float(stats.levene(*usable, center="median").pvalue)
    return p if math.isfinite(p) else None


def _fit_pooled(model: Model) -> Model:
    """The one-way fit, then the same with seed blocks if they can be estimated."""
    cells = [(i, s, y) for i, a in enumerate(model.pooled) for s, y in model.values[a].items()]
    y = np.array([c[2] for c in cells])
    arms = np.eye(len(model.pooled))[[c[0] for c in cells]]
    counts = arms.sum(axis=0)
    means = arms.T @ y / counts
    rss, df = float(((y - arms @ means) ** 2).sum()), float(len(y) - len(counts))
    plain = replace(model, df=df, _coef=means, _cov=np.diag(1 / counts))
    if math.sqrt(rss / df) <= ZERO * max(1.0, float(np.abs(y).max())):
        return replace(plain, sigma=0.0, block_note="the seeds do not differ")
    plain = replace(plain, sigma=math.sqrt(rss / df), _marginal=(rss / df, df))
    return _add_blocks(plain, arms, np.array([c[1] for c in cells]), y, rss)


def _add_blocks(plain: Model, arms: Array, seed: npt.NDArray[np.int_], y: Array, rss0: float) -> Model:
    """Seeds as fixed blocks where they can be estimated; sum-coded, so an arm's coefficient is a mean over all seeds.

    The block stays even when its F is below 1. Dropping it then looks thrifty, but it always picks the smaller of two
    variances: in simulations of 10 arms and 3 seeds the family error fell from 7.4 % to 6.4 % by keeping the block
    (and to about 5 % by a spread guard that does not shrink the pooled variance).
    """
    names = sorted(set(seed.tolist()))
    a, k = arms.shape[1], len(names)
    df = len(y) - a - (k - 1)
    if a < 2 or k < 2 or df < 1:
        return replace(plain, block_note="too few trials for seed blocks")
    member = np.eye(k)[[names.index(s) for s in seed.tolist()]]
    design = np.hstack([arms, member[:, :-1] - member[:, -1:]])
    if np.linalg.matrix_rank(design) < a + k - 1:
        return replace(plain, block_note="arms and seeds are confounded")
    inverse = np.linalg.inv(design.T @ design)
    beta = inverse @ design.T @ y
    rss1 = float(((y - design @ beta) ** 2).sum())
    if rss1 <= 1e-20 * rss0:
        return replace(plain, block_note="seed blocks leave no residual")
    ms_seed, ms_error = (rss0 - rss1) / (k - 1), rss1 / df
    f = ms_seed / ms_error
    within = member - arms @ (arms.T @ member / arms.sum(axis=0)[:, None])
    per_seed = float((within**2).sum()) / (k - 1)  # E[MS_seed] = sigma^2 + per_seed * sigma_seed^2 (Henderson III)
    of_seed, of_error = ms_seed / per_seed, ms_error * (1 - 1 / per_seed)
    total = of_seed + of_error
    satterthwaite = total**2 / (of_seed**2 / (k - 1) + of_error**2 / df)
    blocked = replace(plain, sigma=math.sqrt(ms_error), df=float(df), blocked=True, block_f=f, _coef=beta[:a])
    return replace(
        blocked,
        block_note=f"seed blocks, F = {f:.2f}",
        seed_sd=math.sqrt(max(0.0, ms_seed - ms_error) / per_seed),
        _cov=inverse[:a, :a],
        _marginal=(total, satterthwaite),
    )
