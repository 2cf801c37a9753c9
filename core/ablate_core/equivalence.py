"""Which trials compute the same although their configs differ (design-space 3.2, E1 to E9).

Most equal computations have equal configs already: what is switched off collapses (`Component.simplest`), and a method
is a label of its slots. The rules here find the others. They are decided on declared capabilities and fields, never on
a method's name. A rule with `canonical` is exact, the same losses, gradients and samples: such trials need to be
trained once. A rule with `expects` names pairs that are equal in some limit only: they are trained both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
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
        canonical: the slots of the form that stands for all equal configs, those that differ; empty where the rule
            does not apply. None where equal computations have equal configs, or are only expected to be equal.
        expects: whether two canonical configs, which differ, are expected to be equal. None: no such pairs.
        slot: the one slot of the objective in which such pairs differ.
    """

    code: str
    statement: str
    exactness: Exactness
    canonical: Callable[[TrialConfig], dict[str, Any]] | None = None
    expects: Callable[[TrialConfig, TrialConfig], bool] | None = None
    slot: str = ""


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


def expected(configs: Sequence[TrialConfig]) -> list[tuple[Equivalence, tuple[int, ...]]]:
    """Trials that must all be trained and are nevertheless expected to be equal: the rule, and their positions.

    Args:
        configs: distinct ones; what is measured on them does not count.
    """
    forms = [canonical(config)[0] for config in configs]
    found: list[tuple[Equivalence, tuple[int, ...]]] = []
    for rule in EQUIVALENCES:
        if rule.expects is None:
            continue
        alike: dict[str, list[int]] = {}
        for i, form in enumerate(forms):
            outside: Any = {"eval": True, "seed": True, "objective": {"name", rule.slot}}
            alike.setdefault(form.model_dump_json(exclude=outside), []).append(i)
        for members in alike.values():
            found += [(rule, group) for group in _groups(rule.expects, forms, members)]
    return found


def _groups(
    equal: Callable[[TrialConfig, TrialConfig], bool], forms: Sequence[TrialConfig], members: Sequence[int]
) -> list[tuple[int, ...]]:
    """The members in groups of which all are equal to each other; groups of one left out."""
    groups: list[list[int]] = []
    for i in members:
        home = next((group for group in groups if all(equal(forms[j], forms[i]) for j in group)), None)
        if home is None:
            groups.append(home := [])
        home.append(i)
    return [tuple(group) for group in groups if len(group) > 1]


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


def _straight_first_steps(a: TrialConfig, b: TrialConfig) -> bool:
    steps = (a.objective.first_step, b.objective.first_step)
    return a.schedule.straight and all(step.follows_velocity for step in steps)


def _one_hot_plugin(a: TrialConfig, b: TrialConfig) -> bool:
    large = a.data.dimension is None or a.data.dimension >= LARGE_DIMENSION  # unknown: files of images or latents
    one, other = a.objective.velocity, b.objective.velocity
    network = one.uses_network or other.uses_network
    return large and not network and (one.needs_independent_noise or other.needs_independent_noise)


def _equal_scales(a: TrialConfig, b: TrialConfig) -> bool:
    one, other = a.objective.guidance, b.objective.guidance
    if one.mixture is None or other.mixture is None:
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
        slot="first_step",
    ),
    Equivalence(
        "E8",
        "a plug-in velocity is the conditional one while plugin_ess in the log is 1, as in many dimensions",
        "in effect",
        expects=_one_hot_plugin,
        slot="velocity",
    ),
    Equivalence(
        "E9",
        "mixtures of equal omega / (1 - kappa) guide to the same velocity where training ends, not on the way",
        "fixed point",
        expects=_equal_scales,
        slot="guidance",
    ),
    Equivalence(
        "E10",
        "model guidance is omega_kappa with omega = 1 and kappa = om",
        "identical",
        canonical=_mixture_is_omega_kappa,
    ),
)
"""In the order in which they are applied; every `canonical` only removes what a later one does not ask for."""
