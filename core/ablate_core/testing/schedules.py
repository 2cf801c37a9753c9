"""What a flow path keeps (O1, O2, O3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ablate_core.schedules.base import Schedule
from ablate_core.testing.components import close, holds

LEAST_END_RATIO = 50.0
"""sigma / alpha at the end of a path, at least: the state there is taken to be pure noise."""


def times(path: Schedule, n: int = 64) -> tuple[Tensor, Tensor]:
    """t >= r inside the path, (n,) float64, away from its ends."""
    generator = torch.Generator().manual_seed(1)
    pair = torch.rand(2, n, generator=generator, dtype=torch.float64) * 0.98 + 0.01
    return path.end * pair.max(0).values, path.end * pair.min(0).values


def goes_from_data_to_noise(path: Schedule) -> None:
    """alpha = 1 and sigma = 0 at t = 0; almost only noise at the end; more noise at every later time."""
    start = path.at(torch.zeros(1, dtype=torch.float64))
    close(start.alpha, torch.ones(1, dtype=torch.float64), f"{path.name}: alpha(0)")
    close(start.sigma, torch.zeros(1, dtype=torch.float64), f"{path.name}: sigma(0)")
    points = path.at(torch.linspace(0, path.end, 257, dtype=torch.float64))
    ratios = points.sigma / points.alpha
    holds(ratios[-1] >= LEAST_END_RATIO, f"{path.name}: sigma / alpha is {float(ratios[-1]):g} at the end")
    holds((ratios.diff() > 0).all(), f"{path.name}: sigma / alpha does not grow with t")


def declares_what_it_is(path: Schedule) -> None:
    """straight, circular, exploding and unit_time say what the coefficients do."""
    t, r = times(path)
    point, one = path.at(t), torch.ones_like(t)
    keep, move = path.jump(t, r)
    found = {
        "circular": torch.allclose(point.alpha**2 + point.sigma**2, one, rtol=1e-12),
        "exploding": bool((point.alpha == 1).all()),
        "straight": torch.allclose(keep, one) and torch.allclose(move, r - t),  # an Euler step is a DDIM step there
        "unit_time": 0.999 < path.end <= 1,
    }
    for name, true in found.items():
        holds(getattr(path, name) is true, f"{path.name}: declares {name} {getattr(path, name)}, it is {true}")


def has_its_derivatives(path: Schedule) -> None:
    """d_alpha and d_sigma are the derivatives, each of t's shape; alpha sigma' - sigma alpha' is positive."""
    t, _ = times(path)
    point = path.at(t)
    holds(all(isinstance(c, Tensor) and c.shape == t.shape for c in point), f"{path.name}: at(t) has not t's shape")
    same, slopes = torch.func.jvp(lambda time: tuple(path.at(time))[:2], (t,), (torch.ones_like(t),))[:2]
    for name, own, wanted in zip(point._fields, point, (*same, *slopes), strict=True):
        close(own, wanted, f"{path.name}: {name}")
    inside = t[t < 0.95 * path.end]  # a path may bend without bound towards its end
    h = 1e-6 * path.end
    ahead, behind, here = path.at(inside + h), path.at(inside - h), path.at(inside)
    for name in ("alpha", "sigma"):
        slope = (getattr(ahead, name) - getattr(behind, name)) / (2 * h)
        close(getattr(here, f"d_{name}"), slope, f"{path.name}: d_{name}", rtol=1e-7, atol=1e-8)
    wronskian = path.at(torch.linspace(0, path.end, 257, dtype=torch.float64)[:-1]).wronskian
    holds((wronskian > 0).all(), f"{path.name}: its wronskian falls to {float(wronskian.min()):g}")


def has_its_states(path: Schedule) -> None:
    """`ratio` and `interpolate` in closed forms are the general ones, which follow `at`."""
    t, _ = times(path)
    close(path.ratio(t), Schedule.ratio(path, t), f"{path.name}: ratio")
    generator = torch.Generator().manual_seed(3)
    x0, noise = (torch.randn(64, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    both = path.interpolate(x0, noise, t), Schedule.interpolate(path, x0, noise, t)
    for name, own, general in zip(("x", "v"), *both, strict=True):
        close(own, general, f"{path.name}: {name} of interpolate")


def has_its_jumps(path: Schedule) -> None:
    """Coefficients of jumps in a closed form, and their rates by t, are the general ones."""
    t, r = times(path)
    for name, own, general in zip(("keep", "move"), path.jump(t, r), Schedule.jump(path, t, r), strict=True):
        close(own, general, f"{path.name}: {name} of jump")
    for name, own, general in zip(("keep", "move"), path.d_jump(t, r), Schedule.d_jump(path, t, r), strict=True):
        close(own, general, f"{path.name}: {name} of d_jump", rtol=1e-11, atol=1e-12)


def has_its_rates(path: Schedule) -> None:
    """`d_jump` and `landing_rate` are central differences of `jump`."""
    t, r = times(path)
    h, inside = 1e-6 * path.end, t < 0.95 * path.end
    t, r = t[inside], r[inside]
    for rate, moved in (
        ("d_jump", [path.jump(t + d, r) for d in (h, -h)]),
        ("landing_rate", [path.jump(t, r + d) for d in (h, -h)]),
    ):
        for own, ahead, behind in zip(getattr(path, rate)(t, r), *moved, strict=True):
            close(own, (ahead - behind) / (2 * h), f"{path.name}: {rate}", rtol=1e-7, atol=1e-8)


def jumps_along_itself(path: Schedule) -> None:
    """With the conditional velocity `jump` is exact, in one step and in two; `endpoints` inverts `interpolate`."""
    t, r = times(path)
    s = (t + r) / 2
    generator = torch.Generator().manual_seed(2)
    x0, noise = (torch.randn(64, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    (x_t, v), (x_s, v_s), (x_r, _) = (path.interpolate(x0, noise, time) for time in (t, s, r))

    def jump(x: Tensor, v: Tensor, t: Tensor, r: Tensor) -> Tensor:
        keep, move = path.jump(t, r)
        return keep[:, None] * x + move[:, None] * v

    atol = 1e-13 if path.end <= 2 else 1e-12
    close(jump(x_t, v, t, r), x_r, f"{path.name}: a jump t -> r", atol=atol)
    close(jump(x_t, v, t, s), x_s, f"{path.name}: a jump t -> s", atol=atol)
    close(jump(x_s, v_s, s, r), x_r, f"{path.name}: a jump s -> r", atol=atol)
    for name, own, wanted in zip(("x0", "noise"), path.endpoints(x_t, v, t), (x0, noise), strict=True):
        close(own, wanted, f"{path.name}: {name} of endpoints", rtol=1e-10, atol=1e-11)


def finds_its_times(path: Schedule) -> None:
    """`time_of_ratio` inverts sigma / alpha, from 0 at the data to infinity at the end, and never leaves the path."""
    t, _ = times(path)
    close(path.time_of_ratio(path.ratio(t)), t, f"{path.name}: time_of_ratio(ratio(t))")
    ends = torch.tensor([0.0, torch.inf], dtype=torch.float64)
    wanted = torch.tensor([0.0, path.end], dtype=torch.float64)
    close(path.time_of_ratio(ends), wanted, f"{path.name}: time_of_ratio of 0 and infinity")
    near = path.time_of_ratio(torch.tensor([1e-12, 1e9], dtype=torch.float64))
    holds(((near >= 0) & (near <= path.end)).all(), f"{path.name}: time_of_ratio leaves [0, end]: {near.tolist()}")


def keeps_single_precision(path: Schedule) -> None:
    """In float32 everything stays float32 and near its value; the network is told finite times."""
    t, r = times(path)
    for name, own, exact in (
        ("at", path.at(t.float()), path.at(t)),
        ("jump", path.jump(t.float(), r.float()), path.jump(t, r)),
        ("time_of_ratio", (path.time_of_ratio(path.ratio(t).float()),), (t,)),
    ):
        for part, wanted in zip(own, exact, strict=True):
            holds(part.dtype == torch.float32, f"{path.name}: {name} of float32 times is {part.dtype}")
            close(part.double(), wanted, f"{path.name}: {name} in float32", rtol=1e-3, atol=1e-4)
    told = path.network_time(torch.linspace(0, path.end, 33))
    holds(told.shape == (33,) and torch.isfinite(told).all(), f"{path.name}: network_time is not finite or not (B,)")


CHECKS: tuple[Callable[[Any], None], ...] = (
    goes_from_data_to_noise,
    declares_what_it_is,
    has_its_derivatives,
    has_its_states,
    has_its_jumps,
    has_its_rates,
    jumps_along_itself,
    finds_its_times,
    keeps_single_precision,
)
