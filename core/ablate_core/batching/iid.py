"""Batches from a random order of all samples."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ablate_core.batching.base import Batching


class Iid(Batching):
    """A permutation, cut into batches; what does not fill a batch waits for the next permutation."""

    name: Literal["iid"] = "iid"

    def epoch(self, n: int, y: Tensor | None, batch_size: int, generator: torch.Generator) -> Tensor:
        if n >= batch_size:
            order = torch.randperm(n, generator=generator)
            return order[: n - n % batch_size].reshape(-1, batch_size)
        passes = [torch.randperm(n, generator=generator) for _ in range(-(-batch_size // n))]
        return torch.cat(passes)[:batch_size].reshape(1, batch_size)
