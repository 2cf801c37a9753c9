"""What a study of this size can see: smallest detectable difference, and seeds needed for a wanted one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import optimize, special, stats

from ablate_reports.simultaneous import MaxT, scale_nodes
from ablate_reports.statistics import SHARED_RATIO

Array = npt.NDArray[np.float64]

ASSUMED_CV = 0.013
"""Seed noise of FID before a pilot exists: coefficient of variation 1.3 % ("The FID Lottery", arXiv 2606.20536)."""

MAX_SEEDS = 10_000
GUARDED_SEEDS = 32
GRID = 9
"""Critical values of a noisy baseline are solved for at so many ratios and interpolated between."""


def power_of_t(shift: float, df: float, critical: float) -> float:
    """Power of a two-sided t test: ``P(|T| > critical)`` for a noncentral t.

    ``scipy.stats.nct`` returns NaN for large noncentralities, so the variance is integrated directly.

    Args:
        shift: noncentrality, true difference over its standard error.
        df: degrees of freedom of the variance.
        critical: the two-sided critical value.
    """
    s, weight = scale_nodes(df)
    return float(weight @ (special.ndtr(shift - critical * s) + special.ndtr(-shift - critical * s)))


def detectable(se: float, df: float, critical: float, power: float = 0.8) -> float:
    """The smallest true difference, on the scale of ``se``, that is found with the given power."""
    if se <= 0:
        return 0.0
    high = critical * 2 + 10
    while power_of_t(high, df, critical) < power:
        high *= 2
    return se * float(optimize.brentq(lambda nc: power_of_t(nc, df, critical) - power, 0, high, xtol=1e-12))


def design(num_arms: int, num_seeds: int, blocked: bool, alpha: float = 0.05) -> tuple[float, float]:
    """Degrees of freedom and Dunnett critical value of a balanced study against one baseline.

    Args:
        num_arms: arms including the baseline, >= 2.
        num_seeds: seeds of every arm, >= 2.
        blocked: whether seeds are blocks.
    """
    df = (num_arms - 1) * (num_seeds - 1) if blocked else num_arms * (num_seeds - 1)
    m = num_arms - 1
    return float(df), MaxT(np.full((m, m), 0.5) + 0.5 * np.eye(m), float(df)).critical(alpha)


@dataclass(frozen=True)
class _Guarded:
    """What the guard of unequal spread does to a balanced study with equal spreads: nodes over its variances.

    Attributes:
        weight: probability of each node.
        width: half-width of the simultaneous interval there, over the true standard error of a difference.
    """

    weight: Array
    width: Array


@lru_cache(maxsize=128)
def _guarded(num_arms: int, num_seeds: int, blocked: bool, alpha: float) -> _Guarded:
    """The baseline's own variance is used where its seeds happen to spread more than the others' (`SHARED_RATIO`).

    The variances of the baseline and of the others are integrated over; that a single arm is judged by its own variance
    (about one in thirty with three seeds) is left out.
    """
    df, critical = design(num_arms, num_seeds, blocked, alpha)
    of_base, of_rest = num_seeds - 1.0, df - (num_seeds - 1) if df > num_seeds - 1 else df
    base, base_weight = scale_nodes(of_base)
    rest, rest_weight = scale_nodes(of_rest)
    v0, v = (base[:, None] ** 2, rest[None, :] ** 2)
    pooled = (v0 + (num_arms - 1) * v) / num_arms
    leaning = v0 > SHARED_RATIO**2 * v
    width = critical * np.sqrt(pooled)
    if leaning.any():
        ratio = np.broadcast_to(v0, pooled.shape)[leaning] / pooled[leaning]
        grid = np.geomspace(ratio.min(), ratio.max(), GRID)
        quantile = np.array([_own(float(x), num_arms - 1, of_base, df, alpha) for x in grid])
        own = np.interp(np.log(ratio), np.log(grid), quantile)
        width[leaning] = own * np.sqrt((ratio + 1) * pooled[leaning] / 2)
    return _Guarded((base_weight[:, None] * rest_weight[None, :]).ravel(), width.ravel())


def _own(ratio: float, m: int, of_base: float, df: float, alpha: float) -> float:
    """Critical value of m comparisons with a baseline whose variance is `ratio` times the pooled one."""
    rho = ratio / (ratio + 1)
    satterthwaite = (ratio + 1) ** 2 / (ratio**2 / of_base + 1 / df)
    return MaxT(np.full((m, m), rho) + (1 - rho) * np.eye(m), satterthwaite).critical(alpha)


def detectable_with(
    sigma: float,
    num_arms: int,
    num_seeds: int,
    *,
    blocked: bool = True,
    alpha: float = 0.05,
    power: float = 0.8,
    guarded: bool = True,
) -> float:
    """Smallest detectable difference to the baseline, log scale, in a balanced study with family-wise intervals.

    Args:
        guarded: count what the guard of unequal spread costs although spreads are equal; False: pooled variance always.
    """
    se = sigma * math.sqrt(2 / num_seeds)
    if not guarded or num_arms <= 3:  # two comparisons lean on nobody
        df, critical = design(num_arms, num_seeds, blocked, alpha)
        return detectable(se, df, critical, power)
    if se <= 0:
        return 0.0
    g = _guarded(num_arms, num_seeds, blocked, alpha)

    def missing(shift: float) -> float:
        return float(g.weight @ (special.ndtr(shift - g.width) + special.ndtr(-shift - g.width))) - power

    high = 10.0
    while missing(high) < 0:
        high *= 2
    return se * float(optimize.brentq(missing, 0, high, xtol=1e-10))


def seeds_needed(
    effect: float,
    sigma: float,
    num_arms: int,
    *,
    blocked: bool = True,
    alpha: float = 0.05,
    power: float = 0.8,
    guarded: bool = True,
) -> int | None:
    """Fewest seeds per arm that detect ``effect`` (log scale, > 0); None when more than `MAX_SEEDS` would be needed.

    Raises:
        ValueError: the effect is not positive.
    """
    if effect <= 0:
        raise ValueError(f"the effect to detect must be positive, got {effect}")

    def seen(n: int) -> bool:
        # beyond a few dozen seeds the guard costs nothing that could change a count
        careful = guarded and n <= GUARDED_SEEDS
        found = detectable_with(sigma, num_arms, n, blocked=blocked, alpha=alpha, power=power, guarded=careful)
        return found <= effect

    low, high = 1, 2
    while not seen(high):
        low, high = high, high * 2
        if high > MAX_SEEDS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if seen(middle) else (middle, high)
    return high


@dataclass(frozen=True)
class SeedPlan:
    """Seeds per arm for a wanted difference.

    Attributes:
        effect: the difference to be found, log scale.
        sigma: residual standard deviation the plan assumes: the pilot's upper 80 % limit, or `ASSUMED_CV`.
        pilot: the pilot's own value; None without a pilot.
        seeds: fewest seeds per arm; None when more than `MAX_SEEDS` would be needed.
        trials: arms times seeds.
        hours: their cost, where the cost of one trial is known.
    """

    effect: float
    sigma: float
    pilot: float | None
    seeds: int | None
    trials: int | None
    hours: float | None = None

    def sentence(self) -> str:
        """``To find a difference of 2.0%: 8 seeds per arm, 80 trials, ...``."""
        wanted = f"{100 * math.expm1(self.effect):.1f}%"
        source = "assumed" if self.pilot is None else f"upper 80% limit of the pilot's {100 * self.pilot:.2g}%"
        noise = f"with seed noise of {100 * self.sigma:.2g}% ({source})"
        if self.seeds is None:
            return f"A difference of {wanted} is out of reach {noise}: more than {MAX_SEEDS:,} seeds per arm."
        cost = f", about {self.hours:,.0f} hours" if self.hours is not None else ""
        size = f"{self.seeds} seeds per arm, {self.trials:,} trials{cost}"
        return f"To find a difference of {wanted} with 80% power {noise}: {size}."


def seed_plan(
    effect: float,
    num_arms: int,
    pilot: tuple[float, float] | None = None,
    *,
    blocked: bool = True,
    alpha: float = 0.05,
    power: float = 0.8,
    hours_per_trial: float | None = None,
) -> SeedPlan:
    """How many seeds a wanted difference takes.

    Args:
        effect: log scale, > 0.
        pilot: residual standard deviation and its degrees of freedom; None: `ASSUMED_CV`.
    """
    sigma = ASSUMED_CV if pilot is None else upper_sigma(*pilot)
    seeds = seeds_needed(effect, sigma, num_arms, blocked=blocked, alpha=alpha, power=power)
    trials = None if seeds is None else seeds * num_arms
    hours = None if trials is None or hours_per_trial is None else trials * hours_per_trial
    return SeedPlan(effect, sigma, None if pilot is None else pilot[0], seeds, trials, hours)


def upper_sigma(sigma: float, df: float, level: float = 0.8) -> float:
    """Upper confidence limit of a standard deviation: what to plan with after a pilot of few seeds."""
    return sigma * math.sqrt(df / float(stats.chi2.ppf(1 - level, df)))
