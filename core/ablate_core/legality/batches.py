"""Rules about what a batch holds, its classes and guidance: C5 to C11, C21."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from ablate_core.legality.problem import Problem

if TYPE_CHECKING:
    from ablate_core.config import TrialConfig

LARGE_DIMENSION = 256
"""Entries of a sample from which on a warning about plug-in weights is due (design-space 2.10)."""


def _batch(config: TrialConfig) -> Iterator[Problem]:
    """C6, C7, C16: the batch must hold what the slots compare."""
    o, size = config.objective, config.train.batch_size
    problem = o.time_sampler.batch_problem(size)
    if problem:
        yield Problem("C6" if o.time_sampler.group_size > 1 else "C16", "error", "train.batch_size", *problem)
    if size < o.velocity.min_batch:
        why = f"this velocity estimate needs at least {o.velocity.min_batch} samples per batch"
        yield Problem("C7", "error", "train.batch_size", why, f"train.batch_size: {o.velocity.min_batch}")
    if o.velocity.needs_independent_noise and config.data.coupled:
        why = "this velocity estimate assumes that data and noise are drawn independently, and this data set pairs them"
        yield Problem("C7", "error", "objective.velocity", why, "objective.velocity: conditional")
    size_of = config.data.dimension
    if o.velocity.needs_independent_noise and size_of is not None and size_of >= LARGE_DIMENSION:
        latest = 1 / (1 + size_of**-0.5)
        why = (
            f"in {size_of} dimensions the plug-in weights of unit data are one sample's alone below about"
            f" t = {latest:.2f}: look at plugin_ess in the log, 1 means no effect"
        )
        yield Problem("C9", "warning", "objective.velocity", why)


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
    if grouped and (o.time_sampler.velocity_share or o.time_sampler.velocity_weight):
        why = "this metric compares distributions of states, and flow matching rows are single targets"
        yield Problem("C6", "error", "objective.time_sampler", why, "objective.time_sampler: imm_eta")
    if not grouped and o.time_sampler.group_size > 1:
        why = "rows in groups share their times, which only a metric of groups uses"
        yield Problem("C6", "warning", "objective.metric", why, "objective.metric: mmd_laplace")


def _images(config: TrialConfig) -> Iterator[Problem]:
    """C5: a metric of images needs images: two steps that land at the data, in pixels."""
    o, where = config.objective, "objective.metric"
    if not o.metric.needs_images:
        return
    if not o.limit.compares_states:
        why = "this metric looks at images, and targets here are velocities or tangents"
        yield Problem("C5", "error", where, why, f"{where}: l2_mean")
    elif o.time_sampler.random_landing_time:
        why = "this metric looks at clean images, and this time sampler lands at others (r > 0)"
        yield Problem("C5", "error", where, why, f"{where}: l2_mean")
    if config.data.kind != "images":
        why = f"this metric looks at images in pixels, and the data are {config.data.kind}"
        yield Problem("C5", "error", where, why, f"{where}: l2_mean")


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
    if g.needs_velocity and not o.trains_velocity:
        why = "guidance evaluates u(x, t, t), which this time sampler never trains"
        yield Problem("C10", "error", "objective.guidance", why, "objective.guidance: none")
    if g.needs_ladder and not (o.limit.two_steps and o.time_sampler.ladder):
        why = "this guidance acts on the smallest jump of a dyadic ladder, which this time sampler does not draw"
        yield Problem("C10", "error", "objective.guidance", why, "objective.guidance: none")
    if g.guides_maps and (not o.limit.two_steps or o.limit.closes_gap or o.parameterization.needs_velocity_head):
        why = "the maps of prediction and target are guided, which is defined for two steps at a finite distance"
        yield Problem("C10", "error", "objective.guidance", why, "objective.guidance: omega_kappa")
    if g.inputs and not config.architecture.accepts_guidance:
        why = "the network is told its guidance, and this architecture has no input for that"
        yield Problem("C28", "error", "architecture", why, "objective.guidance: omega_kappa")
    if g.trained and not g.inputs and config.eval.guidance != 1:
        why = "the model is trained with guidance; guiding the sampling as well applies it twice"
        yield Problem("C10", "error", "eval.guidance", why, "eval.guidance: 1.0")
    if g.inputs and config.eval.guidance < 1:
        why = "the network is told a scale of at least 1"
        yield Problem("C10", "error", "eval.guidance", why, "eval.guidance: 1.0")
    if not g.trained and config.eval.guidance != 1 and o.label_dropout == 0:
        why = "guidance at sampling needs an unconditional model, which label dropout 0 does not train"
        yield Problem("C10", "error", "objective.label_dropout", why, "objective.label_dropout: 0.1")


RULES: tuple[Callable[[TrialConfig], Iterator[Problem]], ...] = (_batch, _groups, _images, _labels, _guidance)
