"""The steps of the few-step samplers: when each starts, where it lands, what the network is asked (docs/sampling.md).

Everything here is about times, in plain numbers; `sampling.py` draws. Times run down, t_0 > ... > t_N, from the largest
time that was trained to the smallest, 1 and 0 for most models. A step is a jump from t to `land` and, where that lies
below the next time `to`, fresh noise from there up to `to`:

- `pushforward`: land = to, no noise; X_{t_0,t_1}, X_{t_1,t_2}, ...
- `restart`: land = t_N, at the data (arXiv 2303.01469, algorithm 1).
- `gamma`: land = to sqrt(1 - gamma^2), between the two (CTM, arXiv 2310.02279); 0 and 1 are the other two.

`euler` and `heun` do not jump: they integrate the velocity that the network learned (arXiv 2206.00364, algorithm 1).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from math import sqrt
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch

from ablate_core.schedules.base import Schedule

if TYPE_CHECKING:
    from ablate_core.config import EvalConfig
    from ablate_core.objective import Objective

Sampler = Literal["auto", "pushforward", "restart", "gamma", "euler", "heun"]
Kind = Literal["one_step", "pushforward", "restart", "gamma", "euler", "heun"]
Grid = Literal["uniform", "edm"]

GAMMA, RHO, SHIFT = 0.9, 7.0, 1.0
"""Defaults of `eval.gamma`, `eval.rho` and `eval.shift`."""

WHOLE_PATH = (0.0, 1.0)
"""The default of `eval.guidance_window`."""

SMALLEST_RATIO, LARGEST_RATIO = 0.002, 80.0
"""Ends of the grid `edm` where the path itself gives none: EDM's noise levels."""


class Step(NamedTuple):
    """A jump from `t` to `land`, then fresh noise up to `to`; none where they are equal."""

    t: float
    land: float
    to: float


def resolve_sampler(objective: Objective, how: EvalConfig) -> Kind:
    """The sampler that runs: ``auto`` takes what the network was trained for; special cases go by their own name.

    With one step all jumps are the same, and Heun's method is Euler's; `gamma` at 0 and 1 is the other two.
    """
    if how.sampler in ("euler", "heun"):
        return "euler" if how.nfe == 1 else how.sampler
    if how.nfe == 1:
        return "one_step"
    if how.sampler == "auto":
        return "pushforward" if objective.random_landing_time else "restart"
    if how.sampler == "gamma":
        return {0.0: "pushforward", 1.0: "restart"}.get(how.gamma, "gamma")  # type: ignore[return-value]
    return how.sampler


def step_count(kind: Kind, nfe: int) -> int:
    """Steps of `nfe` network evaluations: Heun's method takes two for each step but the last."""
    return (nfe + 1) // 2 if kind == "heun" else nfe


def evaluations(sampler: Sampler, steps: int) -> int:
    """Network evaluations of so many steps."""
    return 2 * steps - 1 if sampler == "heun" else steps


def step_times(objective: Objective, schedule: Schedule, how: EvalConfig) -> list[float]:
    """The times t_0 > ... > t_N of the sampler that runs."""
    start, last = objective.start_time(schedule), objective.last_time
    steps = step_count(resolve_sampler(objective, how), how.nfe)
    if how.ratios is not None:
        return [start, *_times_of(how.ratios, schedule), last]
    if how.grid == "edm":
        return [start, *_karras(schedule, start, last, steps, how.rho), last]
    shares = [1 - i / steps for i in range(1, steps + 1)]
    return [start, *(last + (start - last) * (how.shift * u / (1 + (how.shift - 1) * u)) for u in shares)]


def jumps(objective: Objective, schedule: Schedule, how: EvalConfig) -> list[Step]:
    """The steps of a sampler that jumps; for `euler` and `heun` those of its times."""
    kind = resolve_sampler(objective, how)
    times = step_times(objective, schedule, how)
    last = times[-1]

    def landing(to: float) -> float:
        if kind == "restart":
            return last
        return max(last, to * sqrt(1 - how.gamma**2)) if kind == "gamma" else to

    return [Step(t, landing(to), to) for t, to in pairwise(times)]


def asked(objective: Objective, schedule: Schedule, how: EvalConfig) -> Iterator[tuple[float, float]]:
    """The pairs (t, r) of start and landing time that the network is evaluated at."""
    velocity = resolve_sampler(objective, how) in ("euler", "heun") or not objective.limit.learns_jumps
    for step in jumps(objective, schedule, how):
        yield step.t, step.t if velocity else step.land


def in_window(schedule: Schedule, t: float, window: tuple[float, float]) -> bool:
    """Whether guidance acts at the time `t`; a window is in units of t, on paths with another unit of t / end."""
    share = t if schedule.unit_time else t / schedule.end
    return window[0] <= share <= window[1]


def guided_steps(objective: Objective, schedule: Schedule, how: EvalConfig) -> list[bool]:
    """Whether guidance acts in each evaluation time of the sampler."""
    return [in_window(schedule, t, how.guidance_window) for t, _ in asked(objective, schedule, how)]


def sampling_condition(objective: Objective, schedule: Schedule, how: EvalConfig) -> dict[str, Any]:
    """What of `how` decides how samples are drawn: in every case three fields, others only where they change samples.

    Equal samplers have equal conditions, and those of before a field existed stay what they were.
    """
    kind = resolve_sampler(objective, how)
    found: dict[str, Any] = {"nfe": how.nfe, "sampler": kind, "guidance": how.guidance}
    if kind == "gamma":
        found["gamma"] = how.gamma
    if step_count(kind, how.nfe) > 1:
        if how.ratios is not None:
            found["ratios"] = list(how.ratios)
        elif how.grid == "edm":
            found["grid"] = {"name": "edm", "rho": how.rho}
        elif how.shift != SHIFT:
            found["shift"] = how.shift
    guided = how.guidance != 1 and not all(guided_steps(objective, schedule, how))
    told = objective.guidance.told_window and how.guidance_window != WHOLE_PATH
    if told or (guided and not objective.guidance.inputs):
        found["guidance_window"] = list(how.guidance_window)
    return found


def _times_of(ratios: tuple[float, ...] | list[float], schedule: Schedule) -> list[float]:
    times: list[float] = schedule.time_of_ratio(torch.tensor(ratios, dtype=torch.float64)).tolist()
    return times


def _karras(schedule: Schedule, start: float, last: float, steps: int, rho: float) -> list[float]:
    """The times between `start` and `last` at which the noise-to-signal ratio to the power 1 / rho falls evenly.

    Down to the ratio of `last` where that is above 0 (lumalabs/imm generate_images.py), else to `SMALLEST_RATIO`, from
    which the last step goes to 0 (EDM).
    """
    ends = torch.tensor([start, last], dtype=torch.float64)
    high, low = schedule.ratio(ends).tolist()
    if float(schedule.at(ends).alpha[0]) < 1e-6:  # pure noise, no ratio
        high = LARGEST_RATIO
    count = steps if last > 0 else steps - 1
    low = low if last > 0 else SMALLEST_RATIO
    inner = range(1, steps)
    top, bottom = high ** (1 / rho), low ** (1 / rho)
    return _times_of([(top + i / max(count, 1) * (bottom - top)) ** rho for i in inner], schedule)
