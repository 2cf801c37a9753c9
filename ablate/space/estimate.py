"""What a plan will cost, as far as that is known: counted steps always, seconds only from measurements."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ablate.space.plan import Plan, Trial

FINISHED = ("done", "diverged")


def estimate(
    plan: Plan,
    status: Mapping[str, str] | None = None,
    seconds_per_step: Mapping[str, float] | None = None,
    *,
    slots: float = 1,
    measured: Collection[tuple[str, str]] = (),
) -> dict[str, Any]:
    """Estimate what is left of a plan.

    Args:
        plan: the expanded space.
        status: trial key -> status in the store; done and diverged trials are not trained again.
        seconds_per_step: measured seconds of one step, by arm id. An arm that has not run is judged by the mean of
            the measured arms only when its network, data, batch size and precision are those of a measured one.
        slots: trials that run at once.
        measured: (trial key, eval key) pairs that have their numbers.

    Returns:
        ``trials``, ``to_train``, ``evaluations``, ``to_evaluate`` (beside the one that each training makes), ``steps``
        left, ``trial_seconds`` (one trial at a time, over the ``known`` trials
        whose speed is known), ``wall_seconds`` (only when every speed is known), and all of it as ``text``.

    No guess is made from operation counts: on real machines such guesses are wrong by factors.
    """
    speeds, known_status = dict(seconds_per_step or {}), dict(status or {})
    alike: dict[str, list[float]] = {}
    for arm in plan.arms:
        if arm.trained in speeds:
            alike.setdefault(_likeness(arm.config.resolved()), []).append(speeds[arm.trained])
    left = [trial for trial in plan.trials if known_status.get(trial.key) not in FINISHED]
    seconds = [s for trial in left if (s := _seconds(trial, speeds, alike)) is not None]
    total = sum(seconds) if seconds else None
    at_once = min(max(slots, 1e-9), len(left))
    wall = total / at_once if total is not None and len(seconds) == len(left) else None
    found = {
        "trials": len(plan.trials),
        "to_train": len(left),
        "evaluations": len(plan.evaluations),
        "to_evaluate": _to_evaluate(plan, left, known_status, measured),
        "steps": sum(trial.config.train.steps for trial in left),
        "known": len(seconds),
        "trial_seconds": total,
        "wall_seconds": wall,
    }
    return {**found, "text": _text(found, at_once)}


def _text(found: Mapping[str, Any], at_once: float) -> str:
    trials, left, known, more = found["trials"], found["to_train"], found["known"], found["to_evaluate"]
    evaluations = f"{more} evaluation{'s' if more > 1 else ''} of trained networks"
    if not left:
        head = f"nothing to train: all {trials} trials are finished"
        return f"{head}; {evaluations} to make" if more else head
    head = f"{left} of {trials} trials to train, {found['steps']:,} steps" + (f", {evaluations} beside" if more else "")
    if found["trial_seconds"] is None:
        return f"{head}; duration unknown until a first trial has run"
    alone = duration(found["trial_seconds"])
    if found["wall_seconds"] is None:
        return f"{head}; {alone} for {known} of them one at a time, {left - known} of unknown speed"
    if at_once <= 1:
        return f"{head}; about {alone}"
    return f"{head}; about {duration(found['wall_seconds'])}, {at_once:g} at once ({alone} one at a time)"


def _to_evaluate(
    plan: Plan, left: Sequence[Trial], status: Mapping[str, str], measured: Collection[tuple[str, str]]
) -> int:
    """Evaluations still to be made, but for the one with which each training ends."""
    own = {(trial.key, trial.eval_key) for trial in left}
    missing = {(e.trial, e.eval_key) for e in plan.evaluations if status.get(e.trial) != "diverged"}
    return len(missing - own - set(measured))


def _seconds(trial: Trial, speeds: Mapping[str, float], alike: Mapping[str, list[float]]) -> float | None:
    speed = speeds.get(trial.arm_id)
    if speed is None:
        similar = alike.get(_likeness(trial.config.resolved()))
        speed = sum(similar) / len(similar) if similar else None
    return None if speed is None else speed * trial.config.train.steps


def _likeness(config: dict[str, Any]) -> str:
    train = config["train"]
    return repr((config["architecture"], config["data"], train["batch_size"], train["precision"]))


def duration(seconds: float) -> str:
    """``42 s``, ``7 min``, ``3.1 h``, ``12 d``."""
    for unit, size, limit in (("s", 1, 90), ("min", 60, 90 * 60), ("h", 3600, 72 * 3600)):
        if seconds < limit:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 86400:.3g} d"
