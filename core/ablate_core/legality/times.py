"""Rules about the path, its times and the steps of the target: C1 to C4, C16, C17, C19, C23, C27."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from ablate_core.legality.problem import Problem

if TYPE_CHECKING:
    from ablate_core.config import TrialConfig

SMALLEST_DIVISOR = 0.01


def _limit_and_times(config: TrialConfig) -> Iterator[Problem]:
    """C1, C2: the limit decides whether s lies between, and whether the network is differentiated forward."""
    o, where = config.objective, "objective.time_sampler"
    times, limit = o.time_sampler, o.limit
    if limit.two_steps and not times.intermediate:
        why = "two target steps need a time s strictly between r and t, which this sampler does not draw"
        yield Problem("C2", "error", where, why, "objective.time_sampler: dyadic")
    if times.closes_gap and not limit.closes_gap:
        why = "this sampler draws s = t on some rows that jump, where two steps are none and only their limit is left"
        yield Problem("C2", "error", "objective.limit", why, "objective.limit: annealed")
    if not limit.two_steps and times.intermediate:
        why = "this sampler draws an intermediate time s < t, which only two target steps use"
        yield Problem("C1", "error", where, why, "objective.limit: discrete")
    if limit.learns_jumps and not times.jumps:
        why = "this sampler draws r = t on every row, so there is no jump for the limit to learn"
        yield Problem("C1", "error", where, why, "objective.limit: none")
    if not limit.learns_jumps and times.jumps and times.velocity_share < 1:
        why = "without a two-step target every row must be r = t"
        yield Problem("C1", "error", where, why, "objective.time_sampler: logit_normal")
    if limit.needs_forward_ad and not config.architecture.jvp_safe:
        why = (
            "the continuous limit differentiates the network forward, and this architecture has an operation without it"
        )
        yield Problem("C1", "error", "architecture", why, "objective.limit.jvp_backend: finite_diff")
    if times.velocity_weight and not limit.learns_jumps:
        why = "this sampler draws times for jumps beside those of flow matching, and nothing learns jumps here"
        yield Problem("C1", "error", where, why, "objective.time_sampler: logit_normal")
    if o.velocity.uses_network and not o.trains_velocity:
        why = "the path is followed along u(x, t, t), which this time sampler never trains"
        yield Problem("C10", "error", "objective.velocity", why, "objective.velocity: conditional")
    follows = limit.shapes_tangent or (limit.two_steps and o.first_step.follows_velocity)
    if o.velocity.uses_network and not follows:
        why = "the network's own velocity directs tangents and first steps, and there are none here"
        yield Problem("C1", "error", "objective.velocity", why, "objective.velocity: conditional")


def _steps(config: TrialConfig) -> Iterator[Problem]:
    """C2, C4, C19: steps are there exactly where the limit takes them, and land where the network was trained to."""
    o = config.objective
    for slot, component in (("first_step", o.first_step), ("second_step", o.second_step)):
        if o.limit.two_steps and not component.takes_step:
            why = "the discrete limit takes two target steps"
            yield Problem("C2", "error", f"objective.{slot}", why, f"objective.{slot}: network")
        if not o.limit.two_steps and component.takes_step:
            why = "only the discrete limit takes target steps; the slot would be ignored"
            yield Problem("C2", "error", f"objective.{slot}", why, f"objective.{slot}: none")
    if not o.second_step.moves and not o.time_sampler.lands_at_intermediate:
        why = "the target would stop at s, short of the landing time r"
        yield Problem("C2", "error", "objective.second_step", why, "objective.second_step: network")
    trained = o.time_sampler.random_landing_time
    if o.limit.two_steps and o.first_step.takes_step and not o.first_step.follows_velocity and not trained:
        why = "the first step asks the network to land at s, and this time sampler only trains it to land at the data"
        yield Problem("C4", "error", "objective.first_step", why, "objective.first_step: ddim")
    if o.limit.differentiates_target and not trained:
        why = "the map is learned along its landing times r, and this time sampler draws none but 0"
        yield Problem("C4", "error", "objective.time_sampler", why, "objective.time_sampler: tvm")
    if o.first_step.euler and not config.schedule.straight:
        why = "an Euler step is off by O((t - s)^2) on a curved path, a DDIM step is exact"
        yield Problem("C19", "warning", "objective.first_step", why, "objective.first_step: ddim")


def _parameterization(config: TrialConfig) -> Iterator[Problem]:
    """C3, C17, C23: the paths and times a parameterisation is defined on."""
    o, path = config.objective, config.schedule
    own, where = o.parameterization, "objective.parameterization"
    kinds = {
        "exploding": (path.exploding, "C3", "alpha(t) = 1", "ve"),
        "circular": (path.circular, "C17", "alpha^2 + sigma^2 = 1", "trig"),
        "unit_time": (path.unit_time, "C17", "times in [0, 1]", "linear"),
    }
    if own.paths in kinds and not kinds[own.paths][0]:
        _, code, kind, nearest = kinds[own.paths]
        yield Problem(code, "error", where, f"it is defined on paths with {kind} only", f"schedule: {nearest}")
    if own.fixed_landing and o.time_sampler.random_landing_time:
        why = "its scalings encode one landing time, and this time sampler draws others"
        yield Problem("C3", "error", where, why, f"{where}: v_ddim")
    elif own.fixed_landing and (o.trains_velocity or o.guidance.needs_velocity):
        why = "its output is no velocity at r = t, which flow matching rows and guided velocities need"
        yield Problem("C3", "error", where, why, f"{where}: v_ddim")
    if own.fixed_landing and not o.limit.learns_jumps:
        yield Problem(
            "C3", "error", where, "its output is no velocity, and nothing else is learned", f"{where}: v_ddim"
        )
    if own.smallest_divisor is not None and own.smallest_divisor < SMALLEST_DIVISOR:
        why = f"velocities are divided by sigma(t) down to {own.smallest_divisor:g}: errors grow as its inverse"
        yield Problem("C23", "warning", f"{where}.clip", why, f"{where}.clip: {SMALLEST_DIVISOR}")


def _path(config: TrialConfig) -> Iterator[Problem]:
    """C16, C17: the part of them that is about the path."""
    if not config.schedule.unit_time and not config.objective.time_sampler.any_path:
        why = "this sampler draws times in [0, 1], which mean something else on a path with its own unit of time"
        yield Problem("C17", "error", "objective.time_sampler", why, "schedule: linear")
    problem = config.objective.time_sampler.path_problem(config.schedule, config.objective.noise_std)
    if problem is not None:
        yield Problem("C17", "error", "objective.time_sampler", *problem)
    if config.objective.time_sampler.straight_only and not config.schedule.straight:
        why = "jumps of a dyadic ladder are defined on straight paths"
        yield Problem("C16", "error", "schedule", why, "schedule: linear")


def _ramps(config: TrialConfig) -> Iterator[Problem]:
    """C27: step counts that were meant for another length of training."""
    o, steps = config.objective, config.train.steps
    for where, ramp in (
        ("objective.time_sampler.zero_steps", o.time_sampler.ramp_steps),
        ("objective.tangent.warmup_steps", o.tangent.ramp_steps),
    ):
        if ramp > steps:
            why = f"the ramp takes {ramp} steps and the training ends after {steps}, before it is over"
            yield Problem("C27", "warning", where, why, f"{where}: {max(1, steps // 30)}")


RULES: tuple[Callable[[TrialConfig], Iterator[Problem]], ...] = (
    _limit_and_times,
    _steps,
    _parameterization,
    _path,
    _ramps,
)
