"""Which combinations of choices are refused, and which are only warned about (design-space 3.3).

Decided on declared capabilities, never on names. The same codes as in the table of docs/objectives.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from ablate_core.config import TrialConfig
    from ablate_core.objective import Objective


@dataclass(frozen=True)
class Problem:
    """One reason against a config.

    Attributes:
        code: the constraint, ``C1`` to ``C27``.
        level: an error refuses the config, a warning is shown.
        where: dotted path of the field to change.
        message: what is wrong and why, one sentence.
        nearest: the nearest legal choice, as ``path: value``; None where there is none to name.
    """

    code: str
    level: Literal["error", "warning"]
    where: str
    message: str
    nearest: str | None = None

    def __str__(self) -> str:
        mend = f"; nearest: {self.nearest}" if self.nearest else ""
        return f"{self.code} {self.where}: {self.message}{mend}"


def check(config: TrialConfig) -> list[Problem]:
    """Every problem of a resolved config, errors first; empty for a legal one."""
    problems = [problem for rule in RULES for problem in rule(config)]
    return sorted(problems, key=lambda p: p.level != "error")


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


def _limit_and_times(config: TrialConfig) -> Iterator[Problem]:
    """C1, C2: the limit decides whether s lies between, and whether the network is differentiated forward."""
    o, where = config.objective, "objective.time_sampler"
    times, limit = o.time_sampler, o.limit
    if limit.two_steps and not times.intermediate:
        why = "two target steps need a time s strictly between r and t, which this sampler does not draw"
        yield Problem("C2", "error", where, why, "objective.time_sampler: dyadic")
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


def _steps(config: TrialConfig) -> Iterator[Problem]:
    """C2, C19: steps are there exactly where the limit takes them."""
    o = config.objective
    for slot, component in (("first_step", o.first_step), ("second_step", o.second_step)):
        if o.limit.two_steps and not component.takes_step:
            why = "the discrete limit takes two target steps"
            yield Problem("C2", "error", f"objective.{slot}", why, f"objective.{slot}: network")
        if not o.limit.two_steps and component.takes_step:
            why = "only the discrete limit takes target steps; the slot would be ignored"
            yield Problem("C2", "error", f"objective.{slot}", why, f"objective.{slot}: none")
    if o.first_step.euler and not config.schedule.straight:
        why = "an Euler step is off by O((t - s)^2) on a curved path, a DDIM step is exact"
        yield Problem("C19", "warning", "objective.first_step", why, "objective.first_step: ddim")


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


def _sampling(config: TrialConfig) -> Iterator[Problem]:
    """C4, C16: what the trained model may be asked to do."""
    o, e = config.objective, config.eval
    if e.nfe > 1 and e.sampler == "pushforward" and not o.random_landing_time:
        why = "this objective only learns to land at the data (r = 0), so it cannot stop on the way"
        yield Problem("C4", "error", "eval.sampler", why, "eval.sampler: restart")
    if not o.time_sampler.allows_nfe(e.nfe):
        why = f"{e.nfe} steps are not made of the trained jumps, powers of two up to the grid's size"
        yield Problem("C16", "error", "eval.nfe", why, f"eval.nfe: {1 << max(0, round(e.nfe).bit_length() - 1)}")


def _batch(config: TrialConfig) -> Iterator[Problem]:
    """C6, C7, C16: the batch must hold what the slots compare."""
    o, size = config.objective, config.train.batch_size
    problem = o.time_sampler.batch_problem(size)
    if problem:
        yield Problem("C6" if o.time_sampler.group_size > 1 else "C16", "error", "train.batch_size", *problem)
    if size < o.velocity.min_batch:
        why = f"this velocity estimate needs at least {o.velocity.min_batch} samples per batch"
        yield Problem("C7", "error", "train.batch_size", why, f"train.batch_size: {o.velocity.min_batch}")


def _groups(config: TrialConfig) -> Iterator[Problem]:
    """C6: a metric of groups needs states, groups that share their times, and one weight per group."""
    o, grouped = config.objective, config.objective.metric.needs_groups
    if grouped and not o.limit.compares_states:
        why = "this metric compares distributions of states x_r, not single targets"
        yield Problem("C6", "error", "objective.metric", why, "objective.metric: l2_mean")
    if grouped and o.time_sampler.group_size < 2:
        why = "this metric needs groups of rows that share (r, s, t)"
        yield Problem("C6", "error", "objective.time_sampler", why, "objective.time_sampler: imm_eta")
    if grouped and o.weighting.per_row:
        why = "one weight per group is needed, this weighting is per row"
        yield Problem("C6", "error", "objective.weighting", why, "objective.weighting: imm")
    if not grouped and o.time_sampler.group_size > 1:
        why = "rows in groups share their times, which only a metric of groups uses"
        yield Problem("C6", "warning", "objective.metric", why, "objective.metric: mmd_laplace")


def _labels(config: TrialConfig) -> Iterator[Problem]:
    """C8, C11, C21: what needs classes. Where the data set only knows them once it is loaded, the trainer checks."""
    o = config.objective
    unlabelled = config.data.classes == 0
    if unlabelled and o.guidance.needs_labels:
        why = "guidance needs labels and this data set has none"
        yield Problem("C11", "error", "objective.guidance", why, "objective.guidance: none")
    if unlabelled and config.eval.guidance != 1:
        why = "guidance at sampling needs labels and this data set has none"
        yield Problem("C11", "error", "eval.guidance", why, "eval.guidance: 1.0")
    if unlabelled and o.batching.one_class:
        why = "batches of one class need labels and this data set has none"
        yield Problem("C21", "error", "objective.batching", why, "objective.batching: iid")
    if not unlabelled and o.velocity.ignores_labels and not o.batching.one_class:
        why = "the plug-in velocity averages over all classes, also on rows that are told their class"
        yield Problem("C8", "warning", "objective.velocity", why, "objective.velocity.same_class: true")


def _guidance(config: TrialConfig) -> Iterator[Problem]:
    """C10: guidance in training needs an unconditional model, a trained velocity and unguided sampling."""
    o, g = config.objective, config.objective.guidance
    if g.needs_labels and o.label_dropout == 0:
        why = "guidance evaluates the null class, which is never trained with label dropout 0"
        yield Problem("C10", "error", "objective.label_dropout", why, "objective.label_dropout: 0.1")
    if g.needs_velocity and o.time_sampler.velocity_share == 0:
        why = "guidance evaluates u(x, t, t), which this time sampler never trains"
        yield Problem("C10", "error", "objective.guidance", why, "objective.guidance: none")
    if g.needs_ladder and not (o.limit.two_steps and o.time_sampler.ladder):
        why = "this guidance acts on the smallest jump of a dyadic ladder, which this time sampler does not draw"
        yield Problem("C10", "error", "objective.guidance", why, "objective.guidance: none")
    if g.trained and config.eval.guidance != 1:
        why = "the model is trained with guidance; guiding the sampling as well applies it twice"
        yield Problem("C10", "error", "eval.guidance", why, "eval.guidance: 1.0")
    if not g.trained and config.eval.guidance != 1 and o.label_dropout == 0:
        why = "guidance at sampling needs an unconditional model, which label dropout 0 does not train"
        yield Problem("C10", "error", "objective.label_dropout", why, "objective.label_dropout: 0.1")


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
    if o.weighting.between and not o.limit.two_steps:
        why = "1/(t - s) needs an intermediate time s < t"
        yield Problem("C2", "error", "objective.weighting", why, "objective.weighting: none")


def _data(config: TrialConfig) -> Iterator[Problem]:
    """C25, where the data set declares its standard deviation; else the trainer checks it."""
    if config.data.known_std is not None:
        problem = check_data_std(config.objective, config.data.known_std)
        if problem is not None:
            yield problem


def _path(config: TrialConfig) -> Iterator[Problem]:
    """C16: the part of it that is about the path."""
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
    _target_network,
    _sampling,
    _batch,
    _groups,
    _labels,
    _guidance,
    _weighting,
    _data,
    _path,
    _ramps,
)
