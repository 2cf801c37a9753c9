"""What a trial needs before its first step, checked: a fault is found before any training is paid for.

A process from which many trials are forked may `load_ahead` what they have in common; anywhere else data are read when
they are asked for.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from ablate_core.architectures.base import Network
from ablate_core.config import TrialConfig
from ablate_core.datasets.base import Dataset, Samples
from ablate_core.fid.metrics import load_metric_ahead
from ablate_core.host import sent
from ablate_core.identity import canonical_json
from ablate_core.legality import check, check_data_std
from ablate_core.random import generator, stream_seed
from ablate_core.state import Batch

STD_ROWS = 4096
REHEARSED_WEIGHTS = 2_000_000
"""Weights of the largest network that is built once ahead; a larger one takes longer than that saves."""
FILLING = ("normal_", "uniform_", "zero_", "fill_", "copy_", "div_", "mul_")
"""Methods by which a network writes its first weights, beside the functions of `torch.nn.init`."""
NORM = "linalg_matrix_norm"
"""What it may ask of them meanwhile: of memory as it is that may not exist."""

_ahead: dict[str, Samples] = {}
"""Data sets that were loaded ahead, by what they are."""
_deviations: dict[str, float] = {}
"""Standard deviations of those whose samples need no random numbers, so that they are the same for all seeds."""


def load_ahead(configs: Sequence[dict[str, Any]]) -> None:
    """Load the data and the metrics of these trials (as `TrialConfig.resolved` writes them), to be found by forks.

    Runs torch on this thread alone: threads do not survive a fork. What cannot be loaded is left to the trials. A small
    network is built once and dropped: the next one, in a fork, finds its code and its pages of memory in use.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for config in map(TrialConfig.model_validate, configs):
            with contextlib.suppress(Exception):  # whatever it is, the trial will say so
                _ahead[_what(config.data)] = data = data_of(config.data)
                load_metric_ahead(config.eval, config.data, data)
                _deviation(config, data)
                sketch = unwritten_network(config, data.shape, data.num_classes)
                if sum(p.numel() for p in sketch.parameters()) <= REHEARSED_WEIGHTS:
                    build_network(config, data, "cpu")
    finally:
        torch.set_num_threads(threads)


def data_of(dataset: Dataset) -> Samples:
    """What ``dataset.load()`` gives, from memory where this process or the one it was forked from has it.

    Raises:
        DataError: it cannot be read.
    """
    found = _ahead.get(_what(dataset)) if _ahead else None
    return dataset.load() if found is None else found


def _what(dataset: Dataset) -> str:
    return canonical_json(dataset.model_dump(mode="json"))


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
    data = data_of(config.data)
    if len(data.x) < 2:
        raise ValueError(f"data: {config.data.name} has {len(data.x)} sample; a trial needs at least 2")
    if data.y is None and config.eval.guidance != 1:
        raise ValueError(f"eval.guidance: {config.data.name} has no labels, so guidance must be 1")
    problem = check_data_std(config.objective, _deviation(config, data))
    if problem is not None and problem.level == "error":
        raise ValueError(f"{problem} (data: {config.data.name})")
    return data


def _deviation(config: TrialConfig, data: Samples) -> float:
    """Standard deviation of up to `STD_ROWS` samples as the trial sees them; remembered only of data loaded ahead."""
    what = _what(config.data) if _ahead else ""
    if (known := _deviations.get(what)) is not None:
        return known
    rows = torch.linspace(0, len(data.x) - 1, min(len(data.x), STD_ROWS), dtype=torch.float64).long()
    draws = generator(config.seed, "data.check")
    untouched = draws.get_state()
    std = float(config.data.batch(data, rows, draws).double().std(correction=0))
    if _ahead.get(what) is data and torch.equal(draws.get_state(), untouched):
        _deviations[what] = std
    return std


def unwritten_network(config: TrialConfig, shape: tuple[int, ...], num_classes: int) -> Network:
    """The network of a trial without its first weights, whose memory is never touched: for its type and its shapes.

    On the device ``meta`` torch would import its compiler for some of what networks do when they are built.
    """
    with _Unwritten(), torch.random.fork_rng(devices=[]):
        return config.architecture.build(shape, num_classes)


class _Unwritten(TorchFunctionMode):
    """Leaves tensors as they are allocated."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(function, "__module__", "") == "torch.nn.init" or function.__name__ in FILLING:
            return args[0] if args else (kwargs or {})["tensor"]
        if getattr(function, "__name__", "") == NORM:
            return args[0].new_ones(())
        return function(*args, **(kwargs or {}))


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
    y = None if data.y is None else sent(data.y[index], device)
    return Batch(sent(x0, device), y, data.num_classes)
