"""The statistical model: arms + seed blocks on one scale, one pooled residual, contrasts with honest intervals.

``y`` is log(metric) wherever every value is positive: the spread of a Frechet distance over seeds is proportional to
its size, so logs have equal variances and every effect is a percentage. The model is ``y_as = mu_a + b_s + e_as``;
seeds are fixed blocks, because trials of one seed share data order and noise. Nothing here knows about files or pages.

Choices and their reasons are in docs/statistics.md; oracles (scipy, statsmodels) and simulations are in tests/reports.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
from scipy import special

from ablate_reports.blocks import BlockFit, Spread, brown_forsythe, fit_blocks, spread_ratios
from ablate_reports.simultaneous import MaxT

Array = npt.NDArray[np.float64]
Values = Mapping[str, Mapping[int, float]]

SPREAD_RATIO = 1.9
"""An arm whose seeds spread this many times as much as the others' is judged by its own spread."""
SHARED_RATIO = 1.1
"""...and from this ratio on where more than two comparisons of a family lean on it, as all do on a baseline: a noisy
baseline spoils all of them at once. Both numbers are the smallest price, in power, at which simulated families of nine
comparisons over three seeds err in less than 7 % when one arm or the baseline has three times the spread (docs)."""
SHUT_OUT_LEVEL = 0.001
"""An arm is kept out of the pooled variance when the F test of its spread holds at this level over all arms
(Bonferroni). Anything laxer would always shut out the largest of many honest variances and make the pooled one too
small."""

ONE_SEED = "no interval: one seed"
NO_SPREAD = "no interval: the seeds gave identical values"
OWN_VARIANCE = "own variance (Welch)"


@dataclass(frozen=True)
class Mean:
    """Mean of one arm over its seeds, on the model's scale, with the interval a fresh set of seeds would respect.

    `se` is the standard error that interval is made of; `sd` the arm's own, over its seeds.
    """

    arm: str
    n: int
    mean: float
    low: float | None = None
    high: float | None = None
    sd: float | None = None
    note: str = ""
    se: float | None = None


@dataclass(frozen=True)
class Contrast:
    """Difference ``arm - reference`` on the model's scale.

    Attributes:
        se, df: standard error and degrees of freedom of the ordinary interval.
        se_family, df_family: those the family judges by; they differ where it leans on a noisy arm.
        low, high: the simultaneous interval, over the family the contrast was computed in; None without one.
        low_single, high_single: the ordinary interval of this contrast alone.
        p, p_family: ordinary and family-wise p value.
        method: ``pooled`` | ``within`` (trials of the same networks, see `shared`) | ``welch`` (an arm's own variance
            with Satterthwaite degrees of freedom) | ``none``.
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
    se_family: float | None = None
    df_family: float | None = None


@dataclass(frozen=True)
class Model:
    """The fitted model of one study.

    Attributes:
        values: arm -> seed -> y, finite values only.
        pooled: the arms whose residuals make the pooled variance (two seeds or more, spread not far out of line).
        own: the arms that are always judged by their own variance, arm -> its sd over the pooled sd of the others.
        spread: the same for every arm with two seeds or more, with its variance.
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
    spread: dict[str, Spread] = field(default_factory=dict, repr=False)
    within: dict[str, Model] = field(default_factory=dict, repr=False)
    networks: int = 0
    _fit: BlockFit | None = field(default=None, repr=False)
    _marginal: tuple[float, float] = (0.0, 0.0)
    _memo: dict[tuple[tuple[tuple[str, str], ...], float], list[Contrast]] = field(
        default_factory=dict, repr=False, compare=False
    )
    _made: dict[str, _Layout] = field(default_factory=dict, repr=False, compare=False)

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
            half = t_beyond(alpha / 2, n - 1) * sd / math.sqrt(n)
            return Mean(arm, n, centre, centre - half, centre + half, sd, "own variance", sd / math.sqrt(n))
        if self.no_spread:
            return Mean(arm, n, centre, sd=sd, note=NO_SPREAD)
        variance, df = self._marginal
        se = math.sqrt(variance / n)
        half = t_beyond(alpha / 2, df) * se
        return Mean(arm, n, centre, centre - half, centre + half, sd, se=se)

    def level(self, arm: str) -> float:
        """The arm's mean with the effects of its seeds taken out, where they are known: what arms are ranked by.

        A plain mean would put an arm first because a hard seed of it is missing.

        Raises:
            KeyError: the arm has no value.
        """
        values = self.values[arm]
        if self._fit is None:
            return float(np.mean(list(values.values())))
        layout = self._layout()
        if arm in layout.weights:
            return float(layout.weights[arm] @ layout.y)
        return float(np.mean(list(values.values())) - self._fit.seeds_of(values) @ self._fit.y)

    def compare(self, pairs: Sequence[tuple[str, str]], alpha: float = 0.05) -> list[Contrast]:
        """Contrasts ``arm - reference`` with intervals that hold for all pairs of this call at once.

        They use the distribution of the largest |t|, a contrast with an arm of its own variance with the degrees of
        freedom of its own. Arms of the same networks are compared within their trials; such groups share alpha by their
        number.

        Raises:
            KeyError: an arm of a pair has no value.
        """
        if (key := (tuple(pairs), alpha)) in self._memo:
            return list(self._memo[key])
        models = [self.same_network(arm, ref) for arm, ref in pairs]
        own = self.leaning([pair for pair, model in zip(pairs, models, strict=True) if model is None])
        found = [
            self._single(arm, ref, alpha) if model is None else model._within(arm, ref, alpha)
            for (arm, ref), model in zip(pairs, models, strict=True)
        ]
        groups: dict[int, list[int]] = {}
        paired = []
        for i, c in enumerate(found):
            if models[i] is not None and c.method == "welch":
                paired.append(i)
            elif c.method != "none":
                groups.setdefault(id(models[i]), []).append(i)
        judged = len(paired) + sum(map(len, groups.values()))
        for some in groups.values():
            model = models[some[0]]
            share = alpha * len(some) / judged
            (self if model is None else model)._widen(found, some, own if model is None else set(), alpha, share)
        if paired:
            _widen_holm(found, paired, alpha, len(paired) / judged)
        self._memo[key] = list(found)
        return found

    def leaning(self, pairs: Sequence[tuple[str, str]]) -> set[str]:
        """The arms that a family of contrasts judges by their own variance; see `SPREAD_RATIO` and `SHARED_RATIO`."""
        used = Counter(arm for pair in pairs for arm in pair)
        shared = {a for a, n in used.items() if n > 2 and a in self.spread and self.spread[a].ratio > SHARED_RATIO}
        return set(self.own) | shared

    def _single(self, arm: str, ref: str, alpha: float) -> Contrast:
        """A contrast and its ordinary interval."""
        a, b = self.values[arm], self.values[ref]
        common = sorted(set(a) & set(b))
        plain = np.mean(list(a.values())) - np.mean(list(b.values()))
        if min(len(a), len(b)) < 2:
            paired = np.mean([a[s] - b[s] for s in common]) if common else plain
            return Contrast(arm, ref, float(paired), len(a), len(b), note=ONE_SEED)
        estimates, cov, dfs = self._joint([(arm, ref)], set(self.own))
        estimate, se, df = float(estimates[0]), math.sqrt(float(cov[0, 0])), float(dfs[0])
        if se == 0:
            return Contrast(arm, ref, estimate, len(a), len(b), note=NO_SPREAD)
        half = t_beyond(alpha / 2, df) * se
        p = 2 * t_tail(abs(estimate) / se, df)
        method, note = ("welch", OWN_VARIANCE) if self.own.keys() & {arm, ref} else ("pooled", "")
        return Contrast(
            arm, ref, estimate, len(a), len(b), se, df, low_single=estimate - half, high_single=estimate + half, p=p,
            method=method, note=note,
        )  # fmt: skip

    def _joint(self, pairs: Sequence[tuple[str, str]], own: set[str]) -> tuple[Array, Array, Array]:
        """Estimates (m,), their covariance (m, m) and the degrees of freedom of each variance (m,)."""
        fit, sigma = self._fit, self.sigma or 0.0
        assert fit is not None
        inside = [p for p in pairs if p[0] in fit.arms and p[1] in fit.arms]
        if len(inside) == len(pairs) and not own:
            rows = np.stack([self._row(arm, ref) for arm, ref in pairs])
            a = len(fit.arms)
            return rows @ fit.beta[:a], sigma**2 * (rows @ fit.inverse[:a, :a] @ rows.T), np.full(len(pairs), self.df)
        layout = self._layout()
        weights = np.stack([layout.weights[arm] - layout.weights[ref] for arm, ref in pairs])
        mine = [arm in own for arm in layout.arms]
        variance = np.array([self.spread[arm].variance if arm in own else sigma**2 for arm in layout.arms])
        parts = np.add.reduceat(weights**2, layout.starts, axis=1) * variance  # (m, arms)
        parts[parts < 1e-12 * parts.sum(axis=1, keepdims=True)] = 0.0
        pooled = parts[:, np.logical_not(mine)].sum(axis=1)
        alone = (parts[:, mine] ** 2 / (layout.sizes[mine] - 1)).sum(axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            dfs = parts.sum(axis=1) ** 2 / (pooled**2 / self.df + alone)
        cov = (weights * np.repeat(variance, layout.sizes)) @ weights.T
        return weights @ layout.y, cov, np.where(np.isfinite(dfs), np.round(dfs, 9), self.df)

    def _layout(self) -> _Layout:
        if "layout" not in self._made:
            assert self._fit is not None
            self._made["layout"] = _Layout.of(self._fit, self.values)
        return self._made["layout"]

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
        """Joint law of the largest |t| of a family, with the degrees of freedom of the pooled variance."""
        return self._law(self._joint(pairs, self.leaning(pairs))[1], self.df)

    def _law(self, cov: Array, df: float) -> MaxT:
        scale = np.sqrt(np.diag(cov))
        return MaxT(cov / np.outer(scale, scale), df)

    def _widen(self, found: list[Contrast], index: list[int], own: set[str], alpha: float, level: float) -> None:
        """Simultaneous limits at `level` for some contrasts; their family-wise p on the scale of alpha."""
        estimates, cov, dfs = self._joint([(found[i].arm, found[i].reference) for i in index], own)
        ses, critical, ps = np.sqrt(np.diag(cov)), np.empty(len(index)), np.empty(len(index))
        for df in set(dfs.tolist()):
            mine, law = dfs == df, self._law(cov, df)
            critical[mine], ps[mine] = law.critical(level), law.adjusted_many(estimates[mine] / ses[mine])
        halves, ps = critical * ses, np.minimum(1.0, ps * alpha / level)
        for k, i in enumerate(index):
            estimate, half = float(estimates[k]), float(halves[k])
            found[i] = replace(
                found[i], low=estimate - half, high=estimate + half, p_family=float(ps[k]), se_family=float(ses[k]),
                df_family=float(dfs[k]),
            )  # fmt: skip
            if own & {found[i].arm, found[i].reference}:
                found[i] = replace(found[i], method="welch", note=OWN_VARIANCE)


@dataclass(frozen=True)
class _Layout:
    """All observations, and every arm's mean as weights over them.

    Attributes:
        arms: arms in the order of their observations: the fitted ones, then those kept out of the pooled variance.
        sizes, starts: how many observations each has, and where they begin.
        weights: arm -> (n,); an arm that was kept out is the mean of its values less the effects of its seeds.
    """

    arms: tuple[str, ...]
    sizes: npt.NDArray[np.int_]
    starts: npt.NDArray[np.int_]
    y: Array
    weights: dict[str, Array]

    @classmethod
    def of(cls, fit: BlockFit, values: Values) -> _Layout:
        """The layout of a fit and of the arms with two seeds or more beside it."""
        apart = [a for a in values if a not in fit.arms and len(values[a]) > 1]
        y = np.concatenate([fit.y, *(np.array(list(values[a].values())) for a in apart)])
        sizes = np.array([*fit.sizes, *(len(values[a]) for a in apart)])
        starts = np.cumsum(sizes) - sizes
        weights = {a: np.pad(w, (0, len(y) - len(fit.y))) for a, w in zip(fit.arms, fit.weights(), strict=True)}
        for arm, size, start in zip(apart, sizes[len(fit.arms) :], starts[len(fit.arms) :], strict=True):
            weights[arm] = np.pad(-fit.seeds_of(values[arm]), (0, len(y) - len(fit.y)))
            weights[arm][start : start + size] = 1 / size
        return cls((*fit.arms, *apart), sizes, starts, y, weights)


def t_beyond(p: float, df: float) -> float:
    """The t that Student's t exceeds with probability p: `scipy.stats.t.isf` to the bit, 14 times as fast."""
    return float(-special.stdtrit(df, p))


def t_tail(t: float, df: float) -> float:
    """The probability that Student's t exceeds t; as above, of `scipy.stats.t.sf`."""
    return float(special.stdtr(df, -t))


def _paired(arm: str, ref: str, differences: Array, alpha: float) -> Contrast:
    n, estimate = len(differences), float(differences.mean())
    se = float(differences.std(ddof=1)) / math.sqrt(n)
    if se == 0:
        return Contrast(arm, ref, estimate, n, n, note=NO_SPREAD)
    half = t_beyond(alpha / 2, n - 1) * se
    p = 2 * t_tail(abs(estimate) / se, n - 1)
    note = "own variance (paired t, Holm)"
    single = Contrast(arm, ref, estimate, n, n, se, float(n - 1), p=p, method="welch", note=note)
    return replace(single, low_single=estimate - half, high_single=estimate + half)


def _widen_holm(found: list[Contrast], index: list[int], alpha: float, share: float) -> None:
    """Holm: the k-th smallest p is tested at alpha / (m - k); after the first one kept, that level stays."""
    order = sorted(index, key=lambda i: found[i].p or 0.0)
    m, stopped, running = len(order), None, 0.0
    for k, i in enumerate(order):
        c = found[i]
        assert c.p is not None
        assert c.se is not None
        assert c.df is not None
        level = stopped if stopped is not None else alpha * share / (m - k)
        if c.p > level:
            stopped = level
        running = max(running, min(1.0, c.p * (m - k) / share))
        half = t_beyond(level / 2, c.df) * c.se
        found[i] = replace(
            c, low=c.estimate - half, high=c.estimate + half, p_family=running, se_family=c.se, df_family=c.df
        )


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
    repeated = {a: seeds for a, seeds in clean.items() if len(seeds) > 1}
    bf = brown_forsythe([np.array(list(seeds.values())) for seeds in repeated.values()])
    if not repeated:
        return Model(clean, (), {}, None, 0.0, False, "no arm has two seeds", None, bf)
    fitted = fit_blocks(repeated)
    spread = spread_ratios(repeated, fitted, SPREAD_RATIO)
    own = {a: some.ratio for a, some in spread.items() if some.ratio > SPREAD_RATIO}
    if shut_out := {a for a in own if spread[a].p * len(repeated) < SHUT_OUT_LEVEL}:
        fitted = fit_blocks({a: seeds for a, seeds in repeated.items() if a not in shut_out})
        alone = {a: fitted.variance_beside(repeated[a]) for a in shut_out}
        spread |= {a: replace(spread[a], variance=variance) for a, variance in alone.items()}
    return Model(
        clean, fitted.arms, own, fitted.sigma, fitted.df, bool(fitted.seeds), fitted.note, fitted.f, bf, fitted.seed_sd,
        spread, _fit=fitted, _marginal=fitted.marginal,
    )  # fmt: skip
