"""What a study of this size can see: smallest detectable difference, and seeds needed for a wanted one."""

from __future__ import annotations

import math

import numpy as np
from scipy import optimize, special, stats

from ablate_reports.simultaneous import MaxT, scale_nodes

ASSUMED_CV = 0.013
"""Seed noise of FID before a pilot exists: coefficient of variation 1.3 % ("The FID Lottery", arXiv 2606.20536)."""

MAX_SEEDS = 10_000


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


def detectable_with(
    sigma: float, num_arms: int, num_seeds: int, *, blocked: bool = True, alpha: float = 0.05, power: float = 0.8
) -> float:
    """Smallest detectable difference to the baseline, log scale, in a balanced study with family-wise intervals."""
    df, critical = design(num_arms, num_seeds, blocked, alpha)
    return detectable(sigma * math.sqrt(2 / num_seeds), df, critical, power)


def seeds_needed(
    effect: float, sigma: float, num_arms: int, *, blocked: bool = True, alpha: float = 0.05, power: float = 0.8
) -> int | None:
    """Fewest seeds per arm that detect ``effect`` (log scale, > 0); None when more than `MAX_SEEDS` would be needed.

    Raises:
        ValueError: the effect is not positive.
    """
    if effect <= 0:
        raise ValueError(f"the effect to detect must be positive, got {effect}")
    low, high = 1, 2
    while detectable_with(sigma, num_arms, high, blocked=blocked, alpha=alpha, power=power) > effect:
        low, high = high, high * 2
        if high > MAX_SEEDS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        seen = detectable_with(sigma, num_arms, middle, blocked=blocked, alpha=alpha, power=power) <= effect
        low, high = (low, middle) if seen else (middle, high)
    return high


def upper_sigma(sigma: float, df: float, level: float = 0.8) -> float:
    """Upper confidence limit of a standard deviation: what to plan with after a pilot of few seeds."""
    return sigma * math.sqrt(df / float(stats.chi2.ppf(1 - level, df)))
