"""Rules about networks, weights and scales: C12 to C15, C18, C20, C22 to C26, C28."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from ablate_core.legality.problem import Problem

if TYPE_CHECKING:
    from ablate_core.config import TrialConfig
    from ablate_core.objective import Objective


def check_data_std(objective: Objective, std: float, tolerance: float = 0.1) -> Problem | None:
    """C25: a parameterisation scaled by sigma_data needs data of that standard deviation.

    Args:
        objective: the resolved objective.
        std: standard deviation of the data over all entries, after scaling.
        tolerance: largest relative difference that is accepted.

    Returns:
        An error, a warning where sigma_data is 1 (no scaling: only the noise level is off), or None.
    """
    claimed = objective.parameterization.claimed_data_std
    if claimed is None or abs(std - claimed) <= tolerance * claimed:
        return None
    return Problem(
        "C25",
        "warning" if claimed == 1 else "error",
        "objective.parameterization.sigma_data",
        f"sigma_data is {claimed:g}, the standard deviation of the data {std:.3g}: all scalings are wrong",
        f"objective.parameterization.sigma_data: {std:.2g}",
    )


def _target_network(config: TrialConfig) -> Iterator[Problem]:
    """A target network is there exactly where a target is computed with one."""
    o, where = config.objective, "objective.target_network"
    if o.uses_target_network and not o.target_network.used:
        yield Problem("C2", "error", where, "targets are computed with a network", f"{where}: stop_gradient")
    scales, own = o.target_network.scales(), o.time_sampler.scales()
    if scales is not None and own is None:
        why = "its decay follows the grid of the time sampler, which has none"
        yield Problem("C26", "warning", where, why, f"{where}: stop_gradient")
    elif scales is not None and own is not None and own != scales:
        why = f"its decay follows {scales[0]} to {scales[1]} grid intervals, the time sampler has {own[0]} to {own[1]}"
        yield Problem("C26", "warning", where, why, f"{where}: {{s0: {own[0]}, s1: {own[1]}}}")


def _heads(config: TrialConfig) -> Iterator[Problem]:
    """C20, C22, C24, C28: what the objective asks of network, target network and precision."""
    o, a = config.objective, config.architecture
    if o.parameterization.needs_velocity_head and not a.accepts_velocity_head:
        why = "this parameterisation has a second head for the velocity, and this architecture cannot have one"
        yield Problem("C28", "error", "architecture", why, "objective.parameterization: u")
    if o.parameterization.needs_velocity_head and o.limit.differentiates_target:
        why = "the derivative by the landing time is that of one head"
        yield Problem("C28", "error", "objective.parameterization", why, "objective.parameterization: u")
    told = "beta" in o.guidance.inputs
    for slot, component in (("parameterization", o.parameterization), ("weighting", o.weighting)):
        if component.needs_guidance_scale and not told:
            why = "it scales with the guidance scale of a row, which this guidance does not give"
            yield Problem("C28", "error", f"objective.{slot}", why, "objective.guidance: tvm")
    if o.limit.learns_jumps and o.time_sampler.random_landing_time and not a.sees_landing_time:
        why = "the time sampler draws landing times, and this architecture is not told them"
        yield Problem("C4", "error", "architecture", why, "objective.time_sampler: fixed0")
    if o.limit.differentiates_target and not o.target_network.separate:
        why = (
            "the loss is differentiated through a derivative of the network, which is stable against a slower copy only"
        )
        yield Problem(
            "C20", "error", "objective.target_network", why, "objective.target_network: {name: ema, mu: 0.99}"
        )
    if o.target_network.teacher:
        why = "targets come from a trained teacher: the arm is a distillation, not trained from scratch"
        yield Problem("C24", "warning", "objective.target_network", why, "objective.target_network: stop_gradient")
    if o.limit.needs_forward_ad and config.train.precision != "fp32":
        why = "forward derivatives in bf16 are noisy; time embeddings stay fp32 here, the rest does not"
        yield Problem("C22", "warning", "train.precision", why, "train.precision: fp32")


def _weighting(config: TrialConfig) -> Iterator[Problem]:
    """C12, C13, C14, C15 and weights that need an intermediate time."""
    o = config.objective
    if o.needs_log_variance and not config.architecture.accepts_log_variance:
        why = "the learned weighting needs a log-variance head, which this architecture does not have"
        yield Problem("C12", "error", "objective.weighting", why, "objective.weighting: none")
    if o.needs_log_variance and o.metric.self_normalizing:
        why = "the metric already makes every row's loss about 1, so the learned log-variance stays near 0"
        yield Problem("C13", "warning", "objective.weighting", why, "objective.metric: l2_mean")
    if o.tangent.normalizes and o.metric.self_normalizing:
        why = "tangent and metric are both normalised"
        yield Problem("C14", "warning", "objective.tangent", why, "objective.metric: l2_mean")
    if o.tangent.shapes and not o.limit.shapes_tangent:
        why = "warm-up and normalisation act on the tangent of the continuous limit, which is not there"
        yield Problem("C15", "error", "objective.tangent", why, "objective.tangent: none")
    if o.tangent.needs_circle and not (config.schedule.circular and not o.time_sampler.random_landing_time):
        why = "this warm-up is defined on paths with alpha^2 + sigma^2 = 1 and for landing at the data"
        yield Problem("C15", "error", "objective.tangent.warmup", why, "objective.tangent.warmup: curved")
    if o.weighting.between and not o.limit.two_steps:
        why = "1/(t - s) needs an intermediate time s < t"
        yield Problem("C2", "error", "objective.weighting", why, "objective.weighting: none")
    if o.weighting.needs_gap and o.time_sampler.closes_gap:
        why = "1/(t - s) is infinite on the rows with s = t that this time sampler draws"
        yield Problem("C2", "error", "objective.weighting", why, "objective.weighting: inv_ratio")


def _data(config: TrialConfig) -> Iterator[Problem]:
    """C25, where the data set declares its standard deviation; else the trainer checks it."""
    if config.data.known_std is not None:
        problem = check_data_std(config.objective, config.data.known_std)
        if problem is not None:
            yield problem


RULES: tuple[Callable[[TrialConfig], Iterator[Problem]], ...] = (_target_network, _heads, _weighting, _data)
