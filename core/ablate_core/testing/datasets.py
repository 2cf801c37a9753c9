"""What a data set keeps. Its files have to be there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ablate_core.datasets.base import Dataset
from ablate_core.testing.components import holds


def loads_what_it_declares(data: Dataset) -> None:
    """Finite float32 samples in network units, labels in 0 .. num_classes - 1, and what the type says of itself."""
    data.preflight()
    samples = data.load()
    index = torch.arange(min(len(samples.x), 256))
    x = data.batch(samples, index, torch.Generator().manual_seed(0))
    holds(x.shape == (len(index), *samples.shape), f"{data.name}: a batch is {tuple(x.shape)}")
    holds(x.dtype == torch.float32 and torch.isfinite(x).all(), f"{data.name}: a batch is {x.dtype} or not finite")
    holds((samples.y is None) == (samples.num_classes == 0), f"{data.name}: labels and num_classes do not fit")
    if samples.y is not None:
        inside = samples.y.min() >= 0 and samples.y.max() < samples.num_classes
        holds(samples.y.dtype == torch.int64 and inside, f"{data.name}: labels are int64 in 0 .. num_classes - 1")
        holds(len(samples.y) == len(samples.x), f"{data.name}: {len(samples.x)} samples, {len(samples.y)} labels")
    holds(data.classes in (None, samples.num_classes), f"{data.name}: declares {data.classes} classes")
    size = x[0].numel()
    holds(data.dimension in (None, size), f"{data.name}: declares dimension {data.dimension}, a sample has {size}")
    if data.known_std is not None:
        std = float(x.double().std(correction=0))
        near = abs(std - data.known_std) <= 0.1 * data.known_std
        holds(near, f"{data.name}: declares standard deviation {data.known_std:g}, it is {std:.3g}")


def loads_the_same_again(data: Dataset) -> None:
    """Two reads are equal, and so are two batches with one generator's seed: arms see the same data."""
    one, two = data.load(), data.load()
    index = torch.arange(min(len(one.x), 64))
    batches = [data.batch(samples, index, torch.Generator().manual_seed(3)) for samples in (one, two)]
    holds(torch.equal(*batches) and one.identity == two.identity, f"{data.name}: a second read is another data set")


CHECKS: tuple[Callable[[Any], None], ...] = (loads_what_it_declares, loads_the_same_again)
