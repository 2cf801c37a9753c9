"""What a trial needs before its first step, checked: a fault is found before any training is paid for."""

from __future__ import annotations

from typing import Any

import torch

from ablate_core.architectures.base import Network
from ablate_core.config import TrialConfig
from ablate_core.datasets.base import Samples
from ablate_core.legality import check, check_data_std
from ablate_core.random import generator, stream_seed
from ablate_core.state import Batch

STD_ROWS = 4096


def require_legal(config: TrialConfig) -> None:
    """Raises ValueError, one line, with the first reason why the config's parts do not fit together."""
    for problem in check(config):
        if problem.level == "error":
            raise ValueError(str(problem))


def load_data(config: TrialConfig) -> Samples:
    """The data set of the trial, checked against what its objective assumes.

    Raises:
        ValueError: it cannot be read, has fewer than two samples, has no labels where they are needed, or its standard
            deviation is not the one the parameterisation claims (design-space C25, D15).
    """
    data = config.data.load()
    if len(data.x) < 2:
        raise ValueError(f"data: {config.data.name} has {len(data.x)} sample; a trial needs at least 2")
    if data.y is None and config.eval.guidance != 1:
        raise ValueError(f"eval.guidance: {config.data.name} has no labels, so guidance must be 1")
    rows = torch.linspace(0, len(data.x) - 1, min(len(data.x), STD_ROWS), dtype=torch.float64).long()
    std = float(config.data.batch(data, rows, generator(config.seed, "data.check")).double().std(correction=0))
    problem = check_data_std(config.objective, std)
    if problem is not None and problem.level == "error":
        raise ValueError(f"{problem} (data: {config.data.name})")
    return data


def build_network(config: TrialConfig, data: Samples, device: str | torch.device) -> Network:
    """A freshly initialised network on `device`; the caller's random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(config.seed, "init"))
        own = config.objective
        more: dict[str, Any] = {}
        if own.parameterization.needs_velocity_head:  # an architecture that has no such option need not know of it
            more["velocity_head"] = True
        if own.guidance_inputs:
            more["guidance_inputs"] = own.guidance_inputs
        net = config.architecture.build(data.shape, data.num_classes, log_variance=own.needs_log_variance, **more)
    return net.to(device)


def load_batch(config: TrialConfig, data: Samples, index: torch.Tensor, step: int, device: str | torch.device) -> Batch:
    """The samples at `index` (B,) on `device`, augmented with the random numbers of `step`."""
    x0 = config.data.batch(data, index, generator(config.seed, "data.augment", step))
    y = None if data.y is None else data.y[index].to(device, non_blocking=True)
    return Batch(x0.to(device, non_blocking=True), y, data.num_classes)
