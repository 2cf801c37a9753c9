"""Which trials compute the same although their configs differ (design-space 3.2, E1 to E9).

Most equal computations have equal configs already: what is switched off collapses (`Component.simplest`), and a method
is a label of its slots. The rules here find the others. They are decided on declared capabilities and fields, never on
a method's name. A rule with `canonical` is exact, the same losses, gradients and samples: such trials need to be
trained once. A rule with `expects` names pairs that are equal in some limit only: they are trained both.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from ablate_core.config import TrialConfig
from ablate_core.first_steps.ddim import Ddim
from ablate_core.first_steps.none import NoFirstStep
from ablate_core.guidance.omega_kappa import OmegaKappa
from ablate_core.legality.batches import LARGE_DIMENSION
from ablate_core.parameterizations.u import U
from ablate_core.second_steps.none import NoSecondStep
from ablate_core.targets.continuous import Continuous
from ablate_core.weightings.none import NoWeighting

Exactness = Literal["identical", "exact arithmetic", "fixed point", "in effect"]
"""identical: bit for bit, on one machine; exact arithmetic: up to rounding; fixed point: where training ends, not on
the way; in effect: while a quantity that is logged stands at the value that is named."""


@dataclass(frozen=True)
class Equivalence:
    """One rule.

    Attributes:
        code: E1 to E9 as in the design, E10 and further are ours.
        statement: what is equal to what, in one sentence.
        exactness: how equal.
        canonical: the objective of a config in the form that stands for all equal ones; the same object where the rule
            does not apply. None where equal computations have equal configs, or are only expected to be equal.
        expects: whether two canonical configs, which differ, are expected to be equal. None: no such pairs.
    """

    code: str
    statement: str
    exactness: Exactness
    canonical: Callable[[TrialConfig], dict[str, Any]] | None = None
    expects: Callable[[TrialConfig, TrialConfig], bool] | None = None


def canonical(config: TrialConfig) -> tuple[TrialConfig, tuple[Equivalence, ...]]:
    """The config that stands for all that compute the same, and the rules that led there.

    Two configs may share a trained network exactly where their canonical forms are equal. It is for recognising them
    only: keys are those of the configs as they are.
    """
    applied: list[Equivalence] = []
    for rule in EQUIVALENCES:
        slots = rule.canonical(config) if rule.canonical else {}
        if slots:
            objective = config.objective.model_copy(update=slots)
            config = config.model_copy(update={"objective": type(objective).model_validate(objective.model_dump())})
            applied.append(rule)
    return config, tuple(applied)


def expected(a: TrialConfig, b: TrialConfig) -> tuple[Equivalence, ...]:
    """The rules by which two trials that must both be trained are nevertheless expected to be equal."""
    first, second = canonical(a)[0], canonical(b)[0]
    return tuple(rule for rule in EQUIVALENCES if rule.expects and rule.expects(first, second))


def _unit_ddim_is_average(config: TrialConfig) -> dict[str, Any]:
    own = config.objective.parameterization
    if not own.is_average_velocity(config.schedule) or own == U():
        return {}
    return {"parameterization": U()}


def _closed_two_steps_are_their_limit(config: TrialConfig) -> dict[str, Any]:
    o = config.objective
    closed = o.time_sampler.closed()
    if closed is None or not (o.limit.two_steps and o.limit.closes_gap):
        return {}
    if o.weighting.between and not o.weighting.one_without_gap:
        return {}
    if not o.parameterization.is_average_velocity(config.schedule):
        return {}  # average velocities are compared in one, raw outputs in the other
    limit = Continuous.model_validate({f: getattr(o.limit, f) for f in ("jvp_backend", "h")})
    none = {"first_step": NoFirstStep(), "second_step": NoSecondStep()}
    weighting = NoWeighting() if o.weighting.between else o.weighting
    return {"time_sampler": closed, "limit": limit.simplest(), "weighting": weighting, **none}


def _straight_euler_is_ddim(config: TrialConfig) -> dict[str, Any]:
    o = config.objective
    exact = o.first_step.euler and config.schedule.straight and o.limit.compares_states
    return {"first_step": Ddim()} if exact else {}


def _mixture_is_omega_kappa(config: TrialConfig) -> dict[str, Any]:
    mixture = config.objective.guidance.mixture
    if mixture is None:
        return {}
    omega, kappa, t_min, t_max = mixture
    plain = OmegaKappa(omega=omega, kappa=kappa, t_min=t_min, t_max=t_max)
    return {} if config.objective.guidance == plain else {"guidance": plain}


def _differ_only_in(a: TrialConfig, b: TrialConfig, slot: str) -> bool:
    """True where two configs differ in one slot of their objectives and in nothing else that is trained."""
    parts = [name for name in TrialConfig.model_fields if name not in ("objective", "eval", "seed")]
    slots = [name for name in type(a.objective).model_fields if name not in ("name", slot)]
    same = all(getattr(a, p) == getattr(b, p) for p in parts)
    same &= all(getattr(a.objective, s) == getattr(b.objective, s) for s in slots)
    return same and getattr(a.objective, slot) != getattr(b.objective, slot)


def _straight_first_steps(a: TrialConfig, b: TrialConfig) -> bool:
    steps = (a.objective.first_step, b.objective.first_step)
    return _differ_only_in(a, b, "first_step") and a.schedule.straight and all(step.follows_velocity for step in steps)


def _one_hot_plugin(a: TrialConfig, b: TrialConfig) -> bool:
    large = a.data.dimension is None or a.data.dimension >= LARGE_DIMENSION  # unknown: files of images or latents
    either = a.objective.velocity.needs_independent_noise or b.objective.velocity.needs_independent_noise
    network = a.objective.velocity.uses_network or b.objective.velocity.uses_network
    return large and either and not network and _differ_only_in(a, b, "velocity")


def _equal_scales(a: TrialConfig, b: TrialConfig) -> bool:
    one, other = a.objective.guidance, b.objective.guidance
    if one.mixture is None or other.mixture is None or not _differ_only_in(a, b, "guidance"):
        return False
    scales = one.effective_scale, other.effective_scale
    close = scales[0] is not None and scales[1] is not None and math.isclose(scales[0], scales[1], rel_tol=1e-9)
    return close and one.mixture[2:] == other.mixture[2:]


EQUIVALENCES: tuple[Equivalence, ...] = (
    Equivalence(
        "E1",
        "on a straight path a DDIM velocity of unit scale is the average velocity",
        "identical",
        canonical=_unit_ddim_is_average,
    ),
    Equivalence(
        "E2",
        "MeanFlow whose jumps all land at 0 is sCT-linear: a method is a label of its slots",
        "identical",
    ),
    Equivalence(
        "E3",
        "a DDIM step along the conditional velocity is re-noising with the same noise: one component is both",
        "exact arithmetic",
    ),
    Equivalence(
        "E4",
        "two steps whose gap is closed at every optimiser step are their continuous limit (AlphaFlow at alpha = 0)",
        "identical",
        canonical=_closed_two_steps_are_their_limit,
    ),
    Equivalence(
        "E5",
        "SplitMeanFlow on the times of shortcut models is a shortcut model: a method is a label of its slots",
        "identical",
    ),
    Equivalence(
        "E6",
        "ESC without plug-in velocity, ramp, weighting and tangent is MeanFlow: what is switched off collapses",
        "identical",
    ),
    Equivalence(
        "E7",
        "on a straight path an Euler step is a DDIM step",
        "identical",
        canonical=_straight_euler_is_ddim,
    ),
    Equivalence(
        "E7",
        "on a straight path an Euler step is a DDIM step, up to the rounding of its mean velocity",
        "exact arithmetic",
        expects=_straight_first_steps,
    ),
    Equivalence(
        "E8",
        "a plug-in velocity is the conditional one while plugin_ess in the log is 1, as in many dimensions",
        "in effect",
        expects=_one_hot_plugin,
    ),
    Equivalence(
        "E9",
        "mixtures of equal omega / (1 - kappa) guide to the same velocity where training ends, not on the way",
        "fixed point",
        expects=_equal_scales,
    ),
    Equivalence(
        "E10",
        "model guidance is omega_kappa with omega = 1 and kappa = om",
        "identical",
        canonical=_mixture_is_omega_kappa,
    ),
)
"""In the order in which they are applied; every `canonical` only removes what a later one does not ask for."""
