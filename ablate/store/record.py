"""A plan and an attempt as journal events: what the launcher calls, so that nobody else spells an event's fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal, get_args

import ablate
from ablate.store.journal import Journal
from ablate.store.provenance import environment
from ablate_core.identity import content_id

if TYPE_CHECKING:
    from ablate.space.plan import Arm, Plan

EndStatus = Literal["done", "diverged", "failed", "interrupted", "lost"]
DEFAULT_ALPHA = 0.05
ERROR_HEAD = 2000
"""Characters of a traceback kept in the journal; the whole of it is in the trial's log."""


def study_id(plan: Plan) -> str:
    """12 hex digits: the study's name and what decides its arms. An edited space is a new version of the study."""
    return content_id(
        {
            "name": plan.name,
            "space_sha256": plan.space_sha256,
            "fidelity": plan.fidelity,
            "overrides": list(plan.overrides),
        }
    )


def record_plan(journal: Journal, plan: Plan) -> str:
    """Write the study, its arms and its trials; return the study's id. Writing a plan twice changes nothing."""
    study = study_id(plan)
    journal.append("study", _study(plan, study), sync=False)
    for claim in plan.claims:  # the first time that it was declared is kept
        journal.append("claim", {"study": plan.name, "claim": claim}, sync=False)
    for identity, arm in _recorded_arms(plan).items():
        journal.append("arm", {"arm_id": identity, "label": arm.label, "config": arm.config.resolved()}, sync=False)
    for arm in plan.arms:
        for member in arm.memberships:
            place = asdict(member)
            place["plan_kind"] = place.pop("kind")
            choice = arm.choice if member.choice is None else member.choice
            names = {"arm_id": arm.id, "arm_label": arm.label}
            names |= {"trained_id": arm.trained, "trained_label": arm.trained_label}
            journal.append("study_arm", {"study_id": study, **names, **place, "choice": choice}, sync=False)
    _trials(journal, plan)
    for e in plan.evaluations:
        payload = {"study_id": study, "arm_id": e.arm_id, "trial_id": e.trial, "eval_key": e.eval_key}
        journal.append("study_trial", payload, sync=False)
    journal.sync()
    return study


def record_confirmation(journal: Journal, plan: Plan) -> str:
    """Write the trials of a plan that confirms arms of a recorded study, apart from it; return the study's name."""
    _trials(journal, plan)
    for e in plan.evaluations:
        payload = {"study": plan.name, "arm_id": e.arm_id, "trial_id": e.trial, "eval_key": e.eval_key}
        journal.append("confirm_trial", payload, sync=False)
    journal.sync()
    return plan.name


def _trials(journal: Journal, plan: Plan) -> None:
    for trial in plan.trials:
        payload = {"trial_id": trial.key, "arm_id": trial.arm_id, "seed": trial.seed}
        journal.append("trial", {**payload, "steps_planned": trial.config.train.steps}, sync=False)


def _recorded_arms(plan: Plan) -> dict[str, Arm]:
    """The arms by id; and what is trained by its key, under the first arm that is measured from it."""
    arms = {arm.id: arm for arm in (plan.baseline, *plan.arms)}
    return {**{arm.trained: arm for arm in reversed(arms.values())}, **arms}


def _study(plan: Plan, study: str) -> dict[str, Any]:
    return {
        "study_id": study,
        "name": plan.name,
        "question": plan.question,
        "space_yaml": plan.space_yaml,
        "space_sha256": plan.space_sha256,
        "fidelity": plan.fidelity,
        "overrides": list(plan.overrides),
        "baseline_arm_id": plan.baseline.id,
        "metric": asdict(plan.metric),
        "margin": plan.compare.get("margin"),
        "alpha": plan.compare.get("alpha", DEFAULT_ALPHA),
        "compare": plan.compare,
        "claims": list(plan.claims),
        "published": [dict(row) for row in plan.published],
        "skips": [asdict(skip) for skip in plan.skips],
        "version": ablate.__version__,
    }


class AttemptRecord:
    """One attempt at one trial. Making it writes ``attempt_started``; ``end`` writes ``attempt_ended``.

    ``report`` takes the trainer's and the evaluation's events as they are. If the process dies in between, readers see
    that it is gone and call the attempt lost.

    Args:
        journal: of the process that runs the attempt.
        trial_id: the train key.
        eval_key: the key of the evaluation the attempt makes; goes into each measurement.
        device: ``cpu``, ``cuda:0``, ...
        resumed_from_step: step of the checkpoint it starts from; None from scratch.
        task: ``eval`` when a trained trial is only evaluated: that says nothing about its training.
        packed: how many trainings share the process; the seconds of an attempt are its part of what that costs.
    """

    def __init__(
        self,
        journal: Journal,
        trial_id: str,
        *,
        eval_key: str | None = None,
        device: str = "cpu",
        num_gpus: float = 0.0,
        resumed_from_step: int | None = None,
        task: Literal["train", "eval"] = "train",
        packed: int = 1,
    ) -> None:
        self.journal = journal
        self.trial_id = trial_id
        self.eval_key = eval_key
        found = environment()
        journal.append("env", {"env_id": found["env_id"], "definition": found}, sync=False)
        self.uid = journal.append(
            "attempt_started",
            {
                "trial_id": trial_id,
                "device": device,
                "num_gpus": num_gpus,
                "env_id": found["env_id"],
                "resumed_from_step": resumed_from_step,
                "task": task,
                "packed": packed,
            },
        )

    def report(self, event: Mapping[str, Any]) -> None:
        """Write a scalar, measurement or artifact; progress is for whoever watches, not for the journal."""
        payload = {key: value for key, value in event.items() if key != "kind"}
        kind = str(event["kind"])
        if kind == "progress":
            return
        if kind == "measurement" and self.eval_key is not None:
            payload["eval_key"] = self.eval_key
        if kind == "artifact":
            file = self.journal.paths.trial(self.trial_id) / payload["path"]
            payload["path"] = self.journal.paths.relative(file)
            payload["bytes"] = file.stat().st_size if file.is_file() else None
        self.journal.append(kind, {"trial_id": self.trial_id, "attempt": self.uid, **payload})

    def end(self, status: EndStatus, **facts: Any) -> None:
        """Write ``attempt_ended``; see `end_attempt` for `facts`. One that is done has carried its evaluation out."""
        key = self.eval_key if status == "done" else None
        end_attempt(self.journal, self.trial_id, status, attempt=self.uid, eval_key=key, **facts)


def end_attempt(
    journal: Journal,
    trial_id: str,
    status: EndStatus,
    *,
    attempt: str | None = None,
    step: int | None = None,
    reason: str | None = None,
    wall_seconds: float | None = None,
    cpu_seconds: float | None = None,
    gpu_seconds: float | None = None,
    peak_mem_mb: float | None = None,
    num_parameters: int | None = None,
    error_type: str | None = None,
    error_head: str | None = None,
    eval_key: str | None = None,
) -> None:
    """Say how an attempt ended; the driver says it for a process that can no longer speak.

    Args:
        attempt: uid of the ``attempt_started`` event; None: the newest attempt at the trial.
        step: optimiser steps done since the beginning of the trial.
        reason: one line, for diverged, failed and interrupted.
        wall_seconds, cpu_seconds, gpu_seconds: of this attempt alone, not of those before it.
        error_type: the exception's name, or what killed the process.
        eval_key: of the evaluation the attempt has carried out to its end.
    """
    if status not in get_args(EndStatus):
        raise ValueError(f"an attempt ends {', '.join(get_args(EndStatus))}, not {status!r}")
    journal.append(
        "attempt_ended",
        {
            "trial_id": trial_id,
            "attempt": attempt,
            "status": status,
            "step": step,
            "reason": reason,
            "wall_seconds": wall_seconds,
            "cpu_seconds": cpu_seconds,
            "gpu_seconds": gpu_seconds,
            "peak_mem_mb": peak_mem_mb,
            "num_parameters": num_parameters,
            "error_type": error_type,
            "error_head": error_head[-ERROR_HEAD:] if error_head else error_head,
            "eval_key": eval_key,
        },
    )
