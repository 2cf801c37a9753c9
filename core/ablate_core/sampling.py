"""Samples from a trained network in one or a few steps.

Two ways through the times 1 = t_0 > ... > t_N = 0 (design-space 2.18), the same thing when N = 1:

- `pushforward` applies the map X_{t_i, t_{i+1}} N times; it needs a map trained for random landing times. For plain
  flow matching, which learned the velocity only, `Objective.predict` steps with that: Euler's method.
- `restart` jumps to the data at every level and adds fresh noise for the next one; for maps trained to land at 0.

The noise and the label of a sample depend on (seed, index) only: neither the batch size nor the number of samples
changes sample 17.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from ablate_core.architectures.base import Network
from ablate_core.random import generator
from ablate_core.schedules.base import Schedule, expand

if TYPE_CHECKING:
    from ablate_core.objective import Objective

Sampler = Literal["auto", "pushforward", "restart"]
Jump = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(x, r, t) -> x_r, with x (B, *shape) and times (B,)."""

NOISE_BLOCK = 64
"""Noise is drawn in blocks of this many samples: one generator per block, however samples are batched."""


def resolve_sampler(objective: Objective, sampler: Sampler, nfe: int) -> Literal["one_step", "pushforward", "restart"]:
    """The sampler that runs: with one step there is no choice, ``auto`` takes what the network was trained for."""
    if nfe == 1:
        return "one_step"
    if sampler != "auto":
        return sampler
    return "pushforward" if objective.random_landing_time else "restart"


def sample_noise(seed: int, first: int, count: int, shape: Sequence[int], level: int = 0) -> Tensor:
    """Standard normal noise of the samples first .. first + count - 1, (count, *shape) float32 on the CPU.

    `level` 0 is the initial state, 1, 2, ... the fresh noise of a restart.
    """
    blocks = range(first // NOISE_BLOCK, (first + count - 1) // NOISE_BLOCK + 1)
    noise = [torch.randn(NOISE_BLOCK, *shape, generator=generator(seed, "eval", level, block)) for block in blocks]
    start = first - blocks[0] * NOISE_BLOCK
    return torch.cat(noise)[start : start + count]


def sample_labels(first: int, count: int, num_classes: int) -> Tensor | None:
    """Labels of the samples first .. first + count - 1: every class in turn. None for unlabelled data."""
    return torch.arange(first, first + count) % num_classes if num_classes else None


def sample(
    objective: Objective,
    schedule: Schedule,
    net: Network,
    count: int,
    shape: Sequence[int],
    *,
    first: int = 0,
    num_classes: int = 0,
    labels: Tensor | None = None,
    nfe: int = 1,
    sampler: Sampler = "auto",
    guidance: float = 1.0,
    seed: int = 0,
    batch_size: int = 500,
    device: str | torch.device = "cpu",
) -> Tensor:
    """`count` samples in network units, (count, *shape) float32 on the CPU.

    Args:
        objective: says how the network's output becomes a jump and which jumps it learned.
        schedule: the path it was trained on.
        net: the network with the weights to sample, on `device`.
        count: number of samples.
        shape: shape of one sample.
        first: index of the first sample; the samples are those with indices first .. first + count - 1.
        num_classes: real classes; the null class is `num_classes`. 0: unlabelled.
        labels: (count,) int64; None: `sample_labels`.
        nfe: network evaluations per sample (a guided evaluation counts once).
        sampler: one of the two above, or auto.
        guidance: w of F_null + w (F_label - F_null); 1 is off and evaluates the label only.
        seed: seed of noise; independent of the trial's.
        batch_size: samples at a time; changes nothing but the memory needed.
        device: where to compute.
    """
    batches = sample_batches(
        objective, schedule, net, count, shape, first=first, num_classes=num_classes, labels=labels, nfe=nfe,
        sampler=sampler, guidance=guidance, seed=seed, batch_size=batch_size, device=device,
    )  # fmt: skip
    return torch.cat([x.cpu() for x, _ in batches])


@torch.no_grad()
def sample_batches(
    objective: Objective,
    schedule: Schedule,
    net: Network,
    count: int,
    shape: Sequence[int],
    *,
    first: int = 0,
    num_classes: int = 0,
    labels: Tensor | None = None,
    nfe: int = 1,
    sampler: Sampler = "auto",
    guidance: float = 1.0,
    seed: int = 0,
    batch_size: int = 500,
    device: str | torch.device = "cpu",
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """As `sample`, batch by batch on `device`, with the labels of each batch: for sets that do not fit in memory.

    Raises:
        ValueError: guidance without labels.
    """
    if guidance != 1 and not num_classes:
        raise ValueError("eval.guidance: guidance needs labelled data; set it to 1")
    kind = resolve_sampler(objective, sampler, nfe)
    told_scale = bool(objective.guidance.inputs)  # such a network is told the scale, and needs no second evaluation
    field: Network = net if guidance == 1 or told_scale else GuidedNetwork(net, guidance, num_classes)
    end_sigma = float(schedule.at(torch.tensor(schedule.end, dtype=torch.float64)).sigma)
    times = step_times(nfe, objective.start_time(schedule))
    was_training = net.training
    net.eval()
    for start in range(0, count, batch_size):
        n = min(batch_size, count - start)
        y = sample_labels(first + start, n, num_classes) if labels is None else labels[start : start + n]
        on_device = None if y is None else y.to(device)
        told = objective.guidance.sampling_inputs(n, guidance, (0.0, 1.0))
        g_on_device = None if told is None else told.to(device)
        noises = [
            sample_noise(seed, first + start, n, shape, level).to(device) * objective.noise_std
            for level in range(nfe if kind == "restart" else 1)
        ]
        noises[0] = noises[0] * end_sigma

        def jump(
            x: Tensor, r: Tensor, t: Tensor, y: Tensor | None = on_device, g: Tensor | None = g_on_device
        ) -> Tensor:
            return objective.predict(field, schedule, x, r, t, y, g)

        x = restart(jump, noises, times, schedule) if kind == "restart" else pushforward(jump, noises[0], times)
        yield x, on_device
    net.train(was_training)


def step_times(nfe: int, start: float = 1.0) -> list[float]:
    """Times of `nfe` equal steps from `start` to 0: nfe + 1 numbers."""
    return [start * (1 - i / nfe) for i in range(nfe + 1)]


def pushforward(jump: Jump, x: Tensor, times: Sequence[float]) -> Tensor:
    """x <- X_{t_i, t_{i+1}}(x) along `times`, from the initial state x (B, *shape)."""
    for t, r in pairwise(times):
        x = jump(x, _full(x, r), _full(x, t))
    return x


def restart(jump: Jump, noises: Sequence[Tensor], times: Sequence[float], schedule: Schedule) -> Tensor:
    """Jump to time 0 at every level; between levels, re-noise with the next of `noises` (each (B, *shape))."""
    x = noises[0]
    for level, t in enumerate(times[:-1]):
        if level > 0:
            point = schedule.at(_full(x, t))
            x = expand(point.alpha, x) * x + expand(point.sigma, x) * noises[level]
        x = jump(x, _full(x, 0.0), _full(x, t))
    return x


class GuidedNetwork(Network):
    """F_null + w (F_label - F_null), both halves in one evaluation of a doubled batch (arXiv 2207.12598)."""

    def __init__(self, net: Network, scale: float, null_class: int) -> None:
        super().__init__()
        self.net, self.scale, self.null_class = net, scale, null_class

    def forward(self, x: Tensor, r: Tensor, t: Tensor, y: Tensor | None, g: Tensor | None = None) -> Tensor:
        assert y is not None
        null = torch.full_like(y, self.null_class)
        doubled = self.net(torch.cat([x, x]), torch.cat([r, r]), torch.cat([t, t]), torch.cat([null, y]))
        f_null, f_label = doubled.chunk(2)
        return torch.lerp(f_null, f_label, self.scale)


def _full(x: Tensor, time: float) -> Tensor:
    return torch.full((len(x),), time, dtype=x.dtype, device=x.device)
