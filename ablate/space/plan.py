"""What a space expands into: a plan of arms and trials, as plain frozen values."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from ablate_core.config import TrialConfig


@dataclass(frozen=True)
class Membership:
    """One place of an arm in one plan of the space.

    Attributes:
        plan: name of the plan, as written in the space.
        kind: list, grid, ofat, leave_one_out, cumulative, random, or base for the arm everything starts from.
        position: order inside the plan, from 0.
        label: the arm's name inside this plan.
        axis: the one axis that varies, where there is one (ofat, leave_one_out, cumulative).
        level: the level of that axis.
        baseline_label: label of the arm this one is compared with inside the plan; None: the study's baseline.
        choice: the levels by which this place chose the arm; None: the arm's own.
    """

    plan: str
    kind: str
    position: int
    label: str
    axis: str | None = None
    level: str | None = None
    baseline_label: str | None = None
    choice: dict[str, str] | None = None


@dataclass(frozen=True)
class Arm:
    """A resolved config without its seed (`config.seed` is 0): what is trained, and how that is measured.

    Attributes:
        trained: key of what is trained; arms that differ in ``eval`` alone share it, and are trained once.
        trained_label: how that is called where it is not about one way of measuring it.
        id: `trained` itself for the arm that is measured as the base is, else a key of both.
    """

    id: str
    label: str
    config: TrialConfig
    choice: dict[str, str]
    memberships: tuple[Membership, ...]
    trained: str
    trained_label: str

    def to_dict(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "trained": self.trained,
            "trained_label": self.trained_label,
            "label": self.label,
            "config": self.config.resolved(),
            "choice": dict(self.choice),
            "memberships": [asdict(m) for m in self.memberships],
        }


@dataclass(frozen=True)
class Trial:
    """Something to train, with a seed; its config is that of the first arm that asks for it.

    `key` decides whether it has been trained, `arm_id` is `Arm.trained`, `eval_key` names the evaluation it makes when
    its training ends. All evaluations, this one included, are in `Plan.evaluations`.
    """

    key: str
    eval_key: str
    arm_id: str
    seed: int
    config: TrialConfig

    def to_dict(self) -> dict[str, Any]:
        return {
            "key": self.key,
            "eval_key": self.eval_key,
            "arm_id": self.arm_id,
            "seed": self.seed,
            "config": self.config.resolved(),
        }


@dataclass(frozen=True)
class Evaluation:
    """One arm measured on one seed: what a number of the study is made from.

    Attributes:
        trial: key of the trial whose network is measured.
        arm_id: id of the arm.
        eval_key: decides whether it has been measured.
    """

    trial: str
    arm_id: str
    eval_key: str
    seed: int
    config: TrialConfig

    def to_dict(self) -> dict[str, Any]:
        return {"trial": self.trial, "arm_id": self.arm_id, "eval_key": self.eval_key, "seed": self.seed}


@dataclass(frozen=True)
class Skip:
    """A cell of a plan that is not run, and why."""

    plan: str
    label: str
    reason: str


@dataclass(frozen=True)
class Equivalent:
    """Names or arms of a plan that are equal, and how.

    Attributes:
        codes: the rules, E1 to E10 (docs/objectives.md).
        because: the rules in words.
        exactness: identical, exact arithmetic, fixed point, in effect.
        arms: labels. Where they are trained once, the first is the arm and the others are further names of it.
        trained_once: False for arms that are only expected to be equal.
        saves: trainings that are not run because of it.
    """

    codes: tuple[str, ...]
    because: str
    exactness: str
    arms: tuple[str, ...]
    trained_once: bool
    saves: int


@dataclass(frozen=True)
class Metric:
    """The number the study is about: its name, whether small is good, and at which step it is read."""

    name: str
    mode: str
    at: str | int


@dataclass(frozen=True)
class Plan:
    """Everything a run needs to know; arms and trials in the order of the space."""

    name: str
    question: str | None
    space_yaml: str
    space_sha256: str
    baseline: Arm
    arms: tuple[Arm, ...]
    trials: tuple[Trial, ...]
    skips: tuple[Skip, ...]
    metric: Metric
    fidelity: str | None
    evaluations: tuple[Evaluation, ...]
    warnings: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    compare: dict[str, Any] = field(default_factory=dict)
    resources: dict[str, Any] = field(default_factory=dict)
    budget: dict[str, Any] = field(default_factory=dict)
    stop: dict[str, Any] = field(default_factory=dict)
    claims: tuple[Any, ...] = ()
    published: tuple[dict[str, Any], ...] = ()
    equivalences: tuple[Equivalent, ...] = ()
    plugins: tuple[str, ...] = ()
    """Plug-ins that were loaded when the space was read, by importable name; workers import them too."""

    def arm(self, label: str) -> Arm:
        """The arm with this id or label, in any plan. Raises KeyError."""
        for arm in self.arms:
            if label in (arm.id, arm.label, *(m.label for m in arm.memberships)):
                return arm
        raise KeyError(label)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, for the journal and ``ablate plan --json``."""
        return {
            "name": self.name,
            "question": self.question,
            "space_yaml": self.space_yaml,
            "space_sha256": self.space_sha256,
            "baseline": self.baseline.id,
            "arms": [arm.to_dict() for arm in self.arms],
            "trials": [trial.to_dict() for trial in self.trials],
            "evaluations": [evaluation.to_dict() for evaluation in self.evaluations],
            "skips": [asdict(skip) for skip in self.skips],
            "metric": asdict(self.metric),
            "fidelity": self.fidelity,
            "warnings": list(self.warnings),
            "overrides": list(self.overrides),
            "compare": self.compare,
            "resources": self.resources,
            "budget": self.budget,
            "stop": self.stop,
            "claims": list(self.claims),
            "published": [dict(p) for p in self.published],
            "equivalences": [asdict(e) for e in self.equivalences],
            "plugins": list(self.plugins),
        }
