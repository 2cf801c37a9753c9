"""What a distribution of times keeps (O10)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch

from ablate_core.random import Draws
from ablate_core.schedules import Schedule
from ablate_core.testing.components import holds
from ablate_core.time_samplers.base import TimeSample, TimeSampler

ROWS = 16_384
STEPS = (0, 400, 999)
TOTAL = 1000


def paths_of(sampler: TimeSampler) -> Iterator[Schedule]:
    """The paths, of those registered, on which the sampler is legal (C16, C17)."""
    for name in sorted(Schedule.choices):
        path = Schedule.model_validate(name)
        if (sampler.any_path or path.unit_time) and (path.straight or not sampler.straight_only):
            yield path


def drawn(sampler: TimeSampler, path: Schedule, step: int, *, n: int = ROWS, seed: int = 0) -> TimeSample:
    """Times as a training step gets them, float64, none beyond the end of a unit path."""
    draws = Draws(seed, step, dtype=torch.float64)
    times = sampler.sample(n, draws, schedule=path, noise_std=1.0, step=step, total_steps=TOTAL)
    return times.up_to(path.end) if path.unit_time else times


def orders_its_times(sampler: TimeSampler, paths: Iterable[Schedule] | None = None) -> None:
    """0 <= r <= s <= t <= end on every path it is legal on, at the beginning, in the middle and at the end."""
    for path in paths_of(sampler) if paths is None else paths:
        for step in STEPS:
            times = drawn(sampler, path, step)
            r, s, t = times.r, times.s, times.t
            where = f"{sampler.name} on {path.name} at step {step} of {TOTAL}"
            holds(t.shape == (ROWS,), f"{where}: {ROWS} rows were asked, shape {tuple(t.shape)} came")
            holds(((r >= 0) & (r <= s) & (s <= t) & (t <= path.end)).all(), f"{where}: not 0 <= r <= s <= t <= end")
            again = times.velocity_t
            holds((again is not None) == (sampler.velocity_weight > 0), f"{where}: velocity_t and velocity_weight")
            if again is not None:
                holds(((again >= 0) & (again <= path.end)).all(), f"{where}: velocity_t leaves [0, end]")
            start = sampler.start_time(path, 1.0)
            holds(0 < start <= path.end, f"{where}: start_time {start:g} leaves the path")


def declares_its_times(sampler: TimeSampler, paths: Iterable[Schedule] | None = None) -> None:
    """What legality is decided on is so: jumps, intermediate, random_landing_time, velocity_share, groups."""
    for path in paths_of(sampler) if paths is None else paths:
        for step in STEPS:
            times = drawn(sampler, path, step)
            jumps = ~times.fm
            where = f"{sampler.name} on {path.name} at step {step} of {TOTAL}"
            holds(sampler.jumps == bool(jumps.any()), f"{where}: declares jumps {sampler.jumps}")
            gap = times.s < times.t
            if sampler.intermediate and not sampler.closes_gap:
                holds(gap[jumps].all(), f"{where}: declares an intermediate time, but s = t on rows that jump")
            if not sampler.intermediate:
                holds(not gap.any(), f"{where}: declares no intermediate time, but s < t")
            if sampler.lands_at_intermediate:
                holds((times.r == times.s)[jumps].all(), f"{where}: declares s = r")
            if not sampler.random_landing_time:
                holds((times.r[jumps] == 0).all(), f"{where}: declares that it lands at the data, but r > 0")
            share = float(times.fm.double().mean())
            least = sampler.velocity_share - 0.03
            holds(share >= least, f"{where}: {share:.2f} of the rows train the velocity, {least + 0.03:.2f} declared")
            holds(sampler.group_size == times.group, f"{where}: group_size is not the group that is drawn")
            if times.group > 1:
                rows = torch.stack([times.r, times.s, times.t]).reshape(3, -1, times.group)
                holds((rows == rows[..., :1]).all(), f"{where}: the rows of a group have different times")


def repeats_its_times(sampler: TimeSampler) -> None:
    """Equal seeds give equal times, other seeds others; float32 in, float32 out: a resumed trial repeats its steps."""
    path = next(paths_of(sampler))

    def sample(seed: int) -> TimeSample:
        return sampler.sample(64, Draws(seed, 5), schedule=path, noise_std=0.5, step=5, total_steps=10)

    one, two, other = sample(3), sample(3), sample(4)
    for name in ("r", "s", "t", "fm"):
        holds(torch.equal(getattr(one, name), getattr(two, name)), f"{sampler.name}: {name} differs for one seed")
    holds(not torch.equal(one.t, other.t), f"{sampler.name}: t is the same for two seeds; use `draws`")
    holds(one.t.dtype == one.r.dtype == torch.float32, f"{sampler.name}: times are {one.t.dtype}, not float32")


CHECKS: tuple[Callable[..., None], ...] = (orders_its_times, declares_its_times, repeats_its_times)
