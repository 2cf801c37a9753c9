"""What a plan will cost, as far as that is known: counted steps always, seconds only from measurements."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass

from ablate.space.plan import Plan, Trial


@dataclass(frozen=True)
class Estimate:
    """The work left in a plan.

    Attributes:
        trials: trials in the plan; `to_train` of them are not finished yet, with `steps` optimiser steps in all.
        trial_seconds: seconds of one slot (one trial at a time), over trials whose speed is known; None: none is.
        known: how many of the trials to train have a measured speed behind `trial_seconds`.
        wall_seconds: `trial_seconds` over the slots, when every trial's speed is known.
    """

    trials: int
    to_train: int
    steps: int
    trial_seconds: float | None
    known: int
    wall_seconds: float | None

    def text(self) -> str:
        """One line for ``ablate plan``."""
        head = f"{self.to_train} of {self.trials} trials to train, {self.steps:,} steps"
        if not self.to_train:
            return f"nothing to train: all {self.trials} trials are in the store"
        if self.trial_seconds is None:
            return f"{head}; duration unknown until a first trial has run"
        if self.wall_seconds is None:
            rest = self.to_train - self.known
            return f"{head}; {duration(self.trial_seconds)} for {self.known} of them, {rest} of unknown speed"
        return f"{head}; about {duration(self.wall_seconds)} ({duration(self.trial_seconds)} of one slot)"


def estimate(
    plan: Plan,
    *,
    seconds_per_step: Mapping[str, float] | None = None,
    finished: Container[str] = (),
    slots: float = 1,
) -> Estimate:
    """Estimate what is left of a plan.

    Args:
        seconds_per_step: measured seconds of one step, by arm id. An arm that has not run is judged by the mean of
            the measured arms only when its network, data and batch size are those of a measured one.
        finished: trial keys that need no training.
        slots: trials that run at once.

    No guess is made from operation counts: on real machines such guesses are wrong by factors.
    """
    speeds = dict(seconds_per_step or {})
    alike: dict[str, list[float]] = {}
    for arm in plan.arms:
        if arm.id in speeds:
            alike.setdefault(_likeness(arm.config.resolved()), []).append(speeds[arm.id])
    left = [trial for trial in plan.trials if trial.key not in finished]
    seconds = [s for trial in left if (s := _seconds(trial, speeds, alike)) is not None]
    total = sum(seconds) if seconds else None
    complete = total is not None and len(seconds) == len(left)
    return Estimate(
        trials=len(plan.trials),
        to_train=len(left),
        steps=sum(trial.config.train.steps for trial in left),
        trial_seconds=total,
        known=len(seconds),
        wall_seconds=total / max(min(slots, len(left)), 1e-9) if complete and total is not None else None,
    )


def _seconds(trial: Trial, speeds: Mapping[str, float], alike: Mapping[str, list[float]]) -> float | None:
    speed = speeds.get(trial.arm_id)
    if speed is None:
        similar = alike.get(_likeness(trial.config.resolved()))
        speed = sum(similar) / len(similar) if similar else None
    return None if speed is None else speed * trial.config.train.steps


def _likeness(config: dict[str, object]) -> str:
    train = config["train"]
    assert isinstance(train, dict)
    return repr((config["architecture"], config["data"], train["batch_size"], train["precision"]))


def duration(seconds: float) -> str:
    """``42 s``, ``7 min``, ``3.1 h``, ``12 d``."""
    for unit, size, limit in (("s", 1, 90), ("min", 60, 90 * 60), ("h", 3600, 72 * 3600)):
        if seconds < limit:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 86400:.3g} d"
