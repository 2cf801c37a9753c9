"""A plan as journal events."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import ablate
from ablate.store.journal import Journal
from ablate_core.identity import content_id

if TYPE_CHECKING:
    from ablate.space.plan import Plan

DEFAULT_ALPHA = 0.05


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
    for arm in {plan.baseline.id: plan.baseline, **{arm.id: arm for arm in plan.arms}}.values():
        journal.append("arm", {"arm_id": arm.id, "label": arm.label, "config": arm.config.resolved()}, sync=False)
    for arm in plan.arms:
        for member in arm.memberships:
            place = asdict(member)
            place["plan_kind"] = place.pop("kind")
            payload = {"study_id": study, "arm_id": arm.id, **place, "choice": arm.choice}
            journal.append("study_arm", payload, sync=False)
    for trial in plan.trials:
        payload = {"trial_id": trial.key, "arm_id": trial.arm_id, "seed": trial.seed}
        journal.append("trial", {**payload, "steps_planned": trial.config.train.steps}, sync=False)
    journal.sync()
    return study


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
