"""Which axes explain what a search found: importances by PED-ANOVA, each beside what shuffled values would give.

For an axis with levels, the distribution of its levels among the best quarter of the arms is held against the one among
all of them (Pearson's divergence of two smoothed counts; Watanabe et al., arXiv 2304.10255, as Optuna does it). Shares
add up to 1 on pure noise too: an axis matters where its share is above that of shuffled values. For plans that were
drawn at random; a designed plan is read from its effects.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

SEARCHES = ("random", "tune")
"""Kinds of plans that search."""
MIN_ARMS = 6
BEST = 0.25
"""The share of arms whose levels are held against those of all."""
REST = "(as base)"

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Importance:
    """Share of one axis in the differences between good arms and all arms.

    Attributes:
        levels: how many levels took part.
        share: in [0, 1]; the shares of all axes add up to 1.
        noise_95: 95 % of the shares that this axis gets from shuffled values lie below this.
    """

    axis: str
    levels: int
    share: float
    noise_95: float

    @property
    def above_noise(self) -> bool:
        """Whether the axis explains more than shuffled values would."""
        return self.share > self.noise_95


def importances(
    choices: Sequence[Mapping[str, str]],
    values: Sequence[float],
    *,
    lower_is_better: bool = True,
    shuffles: int = 60,
    seed: int = 0,
) -> list[Importance]:
    """Importances of the axes over arms, the largest first; empty with fewer than 6 arms or two axes that vary.

    Args:
        choices: of each arm, axis -> level; an axis an arm does not name counts as one level of its own.
        values: the arm's mean, finite.
        shuffles: permutations behind `noise_95`.
        seed: of the permutations.
    """
    axes = sorted({axis for choice in choices for axis in choice})
    levels = {axis: sorted({choice.get(axis, REST) for choice in choices}) for axis in axes}
    levels = {axis: some for axis, some in levels.items() if len(some) > 1}
    if len(choices) < MIN_ARMS or len(levels) < 2:
        return []
    member = {
        axis: np.array([[choice.get(axis, REST) == level for level in some] for choice in choices], dtype=np.float64)
        for axis, some in levels.items()
    }
    sign = 1.0 if lower_is_better else -1.0
    found = _shares(member, sign * np.asarray(values, dtype=np.float64))
    shuffler = random.Random(seed)
    noise = [_shares(member, sign * np.array(shuffler.sample(list(values), len(values)))) for _ in range(shuffles)]
    floor = {axis: sorted(some[axis] for some in noise)[int(0.95 * (shuffles - 1))] for axis in levels}
    rows = [Importance(axis, len(some), found[axis], floor[axis]) for axis, some in levels.items()]
    return sorted(rows, key=lambda row: (-row.share, row.axis))


def _shares(member: Mapping[str, Array], loss: Array) -> dict[str, float]:
    """axis -> its share; `member[axis]` is (arms, levels), 1 where the arm has the level."""
    last = math.ceil(BEST * len(loss)) - 1
    best = loss <= np.partition(loss, last)[last]
    found = {}
    for axis, levels in member.items():
        everywhere, there = _density(levels.sum(axis=0)), _density(levels[best].sum(axis=0))
        found[axis] = float(everywhere @ (there / everywhere - 1) ** 2)
    whole = sum(found.values())
    return {axis: value / whole if whole > 0 else 1 / len(found) for axis, value in found.items()}


def _density(counts: Array) -> Array:
    """Counts of levels as probabilities: a mixture of one smoothed kernel per arm and a flat one of weight 1."""
    k, n, kernels = len(counts), counts.sum(), int((counts > 0).sum()) + 1
    return np.asarray((n + kernels * counts) / ((n + 1) * (k + kernels)) + 1 / ((n + 1) * k) + 1e-12)
