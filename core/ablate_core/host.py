"""What decides which rows of a batch are which is known on the host, so that a step on a CUDA device waits for nothing.

How many rows learn a jump, or keep their class, shapes all that follows; asked of tensors on a device, the host waits
until everything before is computed. So times, labels and guidance inputs are drawn on the CPU and sent, and what was
sent remembers its copy here. On the CPU all of this is the tensor itself.
"""

from __future__ import annotations

import torch
from torch import Tensor

COPY = "on_host"
"""Attribute of a tensor on a device: the same numbers on the CPU."""


def sent(x: Tensor, device: torch.device | str) -> Tensor:
    """`x` on `device`, which remembers its copy on the CPU; nobody waits for the transfer."""
    if torch.device(device).type == "cpu" or not x.is_cpu:
        return x
    pinned = x.pin_memory() if torch.device(device).type == "cuda" else x
    there = pinned.to(device, non_blocking=True)
    setattr(there, COPY, x)
    return there


def on_host(x: Tensor) -> Tensor:
    """`x` on the CPU: the copy it remembers; another tensor of a device is fetched, once, and waited for."""
    if x.is_cpu:
        return x
    if not hasattr(x, COPY):
        setattr(x, COPY, x.cpu())
    known: Tensor = getattr(x, COPY)
    return known


def picked(x: Tensor, index: Tensor) -> Tensor:
    """The rows of `x` at `index` (R,) int64; known on the host where both are."""
    rows = x.index_select(0, index)
    if not x.is_cpu and hasattr(x, COPY) and hasattr(index, COPY):
        setattr(rows, COPY, on_host(x).index_select(0, on_host(index)))
    return rows


def rows_where(mask: Tensor, device: torch.device | str) -> Tensor:
    """Indices of the rows where `mask` (B,) bool is True, (R,) int64 on `device`, in order."""
    return sent(torch.nonzero(mask).squeeze(1), device)
