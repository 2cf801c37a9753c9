"""The grid of noise levels of consistency training, shared by its time samplers (not a component).

The native grid is in sigma. It is mapped to the path's time by equal log-SNR, t = time_of_ratio(sigma / s0), on the
linear path sigma / (1 + sigma); never by sigmoid(log(sigma / sigma_max)) (defect D12 of the reference).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ablate_core.schedules.base import Schedule


def largest_ratio(schedule: Schedule) -> float:
    """sigma / alpha at the end of the path; infinite, or nearly so, where alpha is 0 there."""
    return float(schedule.ratio(torch.tensor(schedule.end, dtype=torch.float64)))


def beyond_the_path(sigma_max: float, schedule: Schedule, noise_std: float) -> tuple[str, str] | None:
    """Why a grid up to `sigma_max` does not fit on the path and the nearest that does, or None."""
    most = largest_ratio(schedule) * noise_std
    if sigma_max <= most * (1 + 1e-9):
        return None
    why = f"the grid reaches the noise level {sigma_max:g}, the path ends at {most:g}: neighbours would meet there"
    return why, f"objective.time_sampler.sigma_max: {most:.6g}"


def karras_grid(n: int, sigma_min: float, sigma_max: float, rho: float, like: Tensor) -> Tensor:
    """`n` noise levels from sigma_max down to sigma_min, (n,), evenly spaced in sigma^(1/rho) (arXiv 2206.00364)."""
    i = torch.arange(n, device=like.device, dtype=like.dtype) / (n - 1)
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return torch.pow(high + i * (low - high), rho)


def ct_scale(step: int, total_steps: int, start: int, end: int) -> int:
    """N before its + 1 (openai/consistency_models cm/script_util.py:186-197): it also drives the target's EMA."""
    squared = step / total_steps * ((end + 1) ** 2 - start**2) + start**2
    return max(1, math.ceil(math.sqrt(squared) - 1))


def ict_scale(step: int, total_steps: int, start: int, end: int) -> int:
    """Intervals of improved consistency training: doubled at equal distances (arXiv 2310.14189, eq. 11)."""
    every = math.floor(total_steps / (math.floor(math.log2(end / start)) + 1))
    doublings: int = step // max(1, every)
    return min(start << doublings, end)
