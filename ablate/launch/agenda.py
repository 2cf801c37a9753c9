"""What a run has to do: the plan's trials minus what the store already holds. No Ray here."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ablate.errors import AblateError
from ablate.launch.attempt import Task
from ablate.launch.options import Retry
from ablate_core.identity import canonical_json

if TYPE_CHECKING:
    from ablate.space.plan import Evaluation, Plan
    from ablate.store.status import TrialState
    from ablate_core.config import TrialConfig

WORKER_RETRIES = 2
MOST_AHEAD = 4
"""Data sets that stay in memory for all attempts of a run; a study has one, mostly."""


@dataclass(frozen=True)
class Agenda:
    """Tasks in the order they are started, and the keys of trials that need none.

    Attributes:
        tasks: a training, with the evaluation it ends with, is followed by the further evaluations of its network.
        skipped: a key for each planned evaluation that the store has, or will never have (diverged).
        failed: trials that failed before and are not tried again.
    """

    tasks: tuple[Task, ...]
    skipped: tuple[str, ...]
    failed: tuple[str, ...]


def agenda(
    plan: Plan,
    states: Mapping[str, TrialState],
    measured: Collection[tuple[str, str]],
    retry: Retry | None = None,
) -> Agenda:
    """Decide for each trial of the plan: skip it, evaluate it, train it (or go on training it).

    Args:
        plan: the expanded space.
        states: trial key -> its state; what is neither done, diverged nor failed (interrupted, lost) is trained.
        measured: (trial key, eval key) pairs that have their numbers.
        retry: train again what failed before.

    Returns:
        Tasks seed by seed, so that a run that is cut short has compared all arms on the first seeds.
    """
    tasks: list[Task] = []
    skipped, failed = [], []
    arms = {arm.id: arm for arm in (plan.baseline, *plan.arms)}
    trained = {arm.trained: arm.trained_label for arm in arms.values()}
    asked: dict[str, list[Evaluation]] = {}
    for evaluation in plan.evaluations:
        asked.setdefault(evaluation.trial, []).append(evaluation)
    position = {seed: i for i, seed in enumerate(dict.fromkeys(trial.seed for trial in plan.trials))}
    for trial in sorted(plan.trials, key=lambda trial: position[trial.seed]):
        state = states.get(trial.key)
        status = state.status if state else None
        missing = [e for e in asked[trial.key] if (e.trial, e.eval_key) not in measured]
        if status == "diverged":
            skipped += [trial.key] * len(asked[trial.key])
            continue
        if status == "failed" and not _again(retry, (state and state.error_type) or ""):
            failed.append(trial.key)
            continue
        if status != "done":
            label = trained.get(trial.arm_id, trial.arm_id)
            tasks.append(task(trial.key, trial.eval_key, trial.config, "train", label))
            missing = [e for e in missing if e.eval_key != trial.eval_key]
        tasks += [task(e.trial, e.eval_key, e.config, "eval", arms[e.arm_id].label) for e in missing]
        skipped += [trial.key] * (len(asked[trial.key]) - len(missing) - (status != "done"))
    return Agenda(tuple(tasks), tuple(skipped), tuple(failed))


def ahead(tasks: Iterable[Task]) -> tuple[dict[str, Any], ...]:
    """One config for each of the first `MOST_AHEAD` pairs of data and metric that these tasks need."""
    found: dict[str, dict[str, Any]] = {}
    for one in tasks:
        found.setdefault(canonical_json([one.config["data"], one.config["eval"]["metric"]]), one.config)
        if len(found) == MOST_AHEAD:
            break
    return tuple(found.values())


def task(key: str, eval_key: str, config: TrialConfig, kind: Literal["train", "eval"], label: str) -> Task:
    """The task of training, or of evaluating, a trial of this config."""
    return Task(key, eval_key, config.resolved(), kind, label, config.seed, int(config.train.steps))


def _again(retry: Retry | None, error_type: str) -> bool:
    """Whether a failure of this type is tried again under ``--retry``."""
    out_of_memory = error_type in ("oom", "OutOfMemoryError", "MemoryError", "SIGKILL")
    if retry == "oom":
        return out_of_memory
    if retry == "crash":
        return not out_of_memory and (error_type.startswith(("SIG", "exit ")) or error_type in ("crash", "WorkerDied"))
    return retry in ("failed", "all")


def check_resources(resources: Mapping[str, Any]) -> None:
    """Refuse what a space may say under ``resources`` and nobody does yet, rather than ignore it.

    Raises:
        AblateError: one line with the field.
    """
    for name, instead in [
        ("per_arm", "give those arms a space of their own"),
        ("gpu_mem", "use --gpus-per-trial"),
        ("timeout", "use --time-limit for the whole run"),
    ]:
        if resources.get(name):
            raise AblateError(f"resources.{name} does not exist yet; remove it and {instead}")


def retries(resources: Mapping[str, Any]) -> dict[str, int]:
    """Cause -> how often a trial is tried again for it in one run; -1 is unlimited. Preempt: its worker died."""
    given = resources.get("retries") or {}
    default = {"oom": 0, "crash": 0, "preempt": WORKER_RETRIES}
    return {cause: -1 if given.get(cause) == "unlimited" else int(given.get(cause, n)) for cause, n in default.items()}
