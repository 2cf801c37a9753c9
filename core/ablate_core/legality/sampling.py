"""Rules about few-step sampling: C4, C16, C30."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

import torch

from ablate_core.legality.problem import Problem
from ablate_core.sampling_steps import (
    GAMMA,
    RHO,
    SHIFT,
    WHOLE_PATH,
    asked,
    evaluations,
    guided_steps,
    resolve_sampler,
    step_count,
    step_times,
)

if TYPE_CHECKING:
    from ablate_core.config import TrialConfig


def _jumps(config: TrialConfig) -> Iterator[Problem]:
    """C4, C16: what the trained model may be asked to do."""
    o, e, where = config.objective, config.eval, "eval.sampler"
    kind = resolve_sampler(o, e)
    if kind in ("pushforward", "gamma") and not o.random_landing_time:
        why = "this objective only learns to land at the data (r = 0), so it cannot stop on the way"
        yield Problem("C4", "error", where, why, f"{where}: restart")
    elif kind in ("euler", "heun") and not o.trains_velocity:
        why = "it integrates the velocity u(x, t, t), which this time sampler never trains"
        yield Problem("C4", "error", where, why, f"{where}: auto")
    elif not all(o.time_sampler.allows_jump(t, r) for t, r in asked(o, config.schedule, e)):
        yield _off_the_ladder(config)


def _off_the_ladder(config: TrialConfig) -> Problem:
    """C16: a sampler asks for a jump that a ladder of jumps does not have."""
    o, e = config.objective, config.eval
    even = {"grid": "uniform", "shift": SHIFT, "ratios": None}
    for field, default in even.items():
        if getattr(e, field) != default:
            why = "its steps are not among the trained jumps, which are equal and powers of two"
            nearest = "null" if default is None else default
            return Problem("C16", "error", f"eval.{field}", why, f"eval.{field}: {nearest}")
    steps = 1 << (e.nfe.bit_length() - 1)
    while not o.time_sampler.allows_jump(1.0, 1 - 1 / steps):
        steps //= 2
    why = f"{e.nfe} steps of this sampler are not made of the trained jumps, powers of two up to the grid's size"
    if steps == e.nfe:
        return Problem("C16", "error", "eval.sampler", why, "eval.sampler: pushforward")
    return Problem("C16", "error", "eval.nfe", why, f"eval.nfe: {steps}")


def _fields(config: TrialConfig) -> Iterator[Problem]:
    """C30: the times of the steps, and fields that another choice leaves without effect."""
    e = config.eval
    if e.sampler == "heun" and e.nfe % 2 == 0:
        why = "Heun's method takes two evaluations for each step but the last, an odd number in all"
        yield Problem("C30", "error", "eval.nfe", why, f"eval.nfe: {e.nfe - 1}")
    if e.gamma != GAMMA and e.sampler != "gamma":
        yield _without_effect("gamma", "only sampler gamma adds a share of noise", GAMMA)
    if e.rho != RHO and e.grid != "edm":
        yield _without_effect("rho", "only grid edm has an exponent", RHO)
    if e.shift != SHIFT and (e.grid != "uniform" or e.ratios is not None):
        yield _without_effect("shift", "it acts on the uniform grid", SHIFT)
    if e.ratios is not None:
        yield from _ratios(config)
    if e.guidance_window != WHOLE_PATH:
        yield from _window(config)


def _ratios(config: TrialConfig) -> Iterator[Problem]:
    e = config.eval
    assert e.ratios is not None
    steps = step_count(resolve_sampler(config.objective, e), e.nfe)
    if e.grid != "uniform":
        yield _without_effect("grid", "the ratios stand in place of a grid", "uniform")
    if len(e.ratios) != steps - 1:
        why = f"{steps} steps have {steps - 1} times in between, and there are {len(e.ratios)} ratios"
        fitting = evaluations(e.sampler, len(e.ratios) + 1)
        yield Problem("C30", "error", "eval.ratios", why, f"eval.nfe: {fitting}")
        return
    times = step_times(config.objective, config.schedule, e)
    if any(t <= later for t, later in pairwise(times)):
        low, high = config.schedule.ratio(torch.tensor([times[-1], times[0]], dtype=torch.float64)).tolist()
        why = f"the times between start and end of sampling have ratios between {low:g} and {high:g}"
        yield Problem("C30", "error", "eval.ratios", why, "eval.ratios: null")


def _window(config: TrialConfig) -> Iterator[Problem]:
    o, e, where = config.objective, config.eval, "eval.guidance_window"
    whole = f"{where}: [0, 1]"
    if o.guidance.told_window:
        if not o.guidance.allows_window(e.guidance_window):
            why = "the network was told windows that hold t = 0.5 while it was trained"
            yield Problem("C30", "error", where, why, whole)
    elif o.guidance.inputs:
        yield Problem("C30", "error", where, "the network is told a scale and no window", whole)
    elif e.guidance == 1:
        yield _without_effect("guidance_window", "guidance 1 is off", "[0, 1]")
    elif not any(guided_steps(o, config.schedule, e)):
        why = (
            f"no step starts inside [{e.guidance_window[0]:g}, {e.guidance_window[1]:g}], so guidance would do nothing"
        )
        yield Problem("C30", "error", where, why, whole)


def _without_effect(field: str, why: str, default: object) -> Problem:
    return Problem("C30", "error", f"eval.{field}", f"{why}; here it would have no effect", f"eval.{field}: {default}")


RULES: tuple[Callable[[TrialConfig], Iterator[Problem]], ...] = (_jumps, _fields)
