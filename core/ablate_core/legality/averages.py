"""Rule about the average that is sampled: C29."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from ablate_core.legality.problem import Problem
from ablate_core.posthoc_ema import MOST_MISFIT, misfit

if TYPE_CHECKING:
    from ablate_core.config import PostHocEMA, TrainConfig, TrialConfig

MOST_SNAPSHOTS = 128


def _averages(config: TrialConfig) -> Iterator[Problem]:
    """C29: the average that is sampled is one that the trial keeps, or can be combined from its snapshots."""
    wanted, train, where = config.eval.ema, config.train, "eval.ema"
    if wanted is None or wanted == 0 or wanted in train.ema:
        return
    if isinstance(wanted, float):
        there = ", ".join(map(str, train.ema)) or "none"
        why = f"no average of decay {wanted:g} is kept; train.ema has {there}, and 0 is raw weights"
        yield Problem("C29", "error", where, why, "eval.ema: null")
    elif not train.snapshot_every:
        why = "a post-hoc average needs snapshots, and this trial keeps none"
        yield Problem("C29", "error", where, why, f"train.snapshot_every: {max(1, train.steps // 16)}")
    elif (off := _misfit(wanted, train, train.snapshot_every)) > MOST_MISFIT:
        limit = f"not within {MOST_MISFIT:.0%}"
        why = f"the snapshots describe sigma_rel {wanted.sigma_rel:g} only within {off:.0%}, {limit}"
        yield Problem("C29", "error", where, why, _enough(wanted, train))


def _misfit(wanted: PostHocEMA, train: TrainConfig, every: int) -> float:
    return misfit(wanted.sigma_rel, train.steps, every, train.snapshot_sigma_rel)


def _enough(wanted: PostHocEMA, train: TrainConfig) -> str | None:
    """A halving of the interval that would do; None where no reasonable number of snapshots does."""
    every = min(train.snapshot_every, train.steps)
    while every > 1 and train.steps // every < MOST_SNAPSHOTS:
        every //= 2
        if _misfit(wanted, train, every) <= MOST_MISFIT:
            return f"train.snapshot_every: {every}"
    return None


RULES: tuple[Callable[[TrialConfig], Iterator[Problem]], ...] = (_averages,)
