"""The grid of noise levels of consistency training, shared by its time samplers (not a component).

The native grid is in sigma. It is mapped to the path's time by equal log-SNR, t = time_of_ratio(sigma / s0), on the
linear path sigma / (1 + sigma); never by sigmoid(log(sigma / sigma_max)) (defect D12 of the reference).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


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
