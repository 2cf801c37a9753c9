"""Samples from a trained network in one or a few steps (design-space 2.18; docs/sampling.md).

`sampling_steps` says when a step starts and where it lands; here the network is asked and noise is drawn. The noise and
the label of a sample depend on (seed, index) only: neither the batch size nor the number of samples changes sample 17.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ablate_core.architectures.base import Network
from ablate_core.config import EvalConfig
from ablate_core.random import generator
from ablate_core.sampling_steps import Step, in_window, jumps, resolve_sampler, step_times
from ablate_core.schedules.base import Schedule, expand

if TYPE_CHECKING:
    from ablate_core.objective import Objective

Jump = Callable[[Tensor, float, float], Tensor]
"""(x, r, t) -> x_r, with x (B, *shape) at time t."""
Velocity = Callable[[Tensor, float], Tensor]
"""(x, t) -> v, with x (B, *shape) at time t."""

NOISE_BLOCK = 64
"""Noise is drawn in blocks of this many samples: one generator per block, however samples are batched."""


def sample_noise(seed: int, first: int, count: int, shape: Sequence[int], level: int = 0) -> Tensor:
    """Standard normal noise of the samples first .. first + count - 1, (count, *shape) float32 on the CPU.

    `level` 0 is the initial state, 1, 2, ... the fresh noise after the first step, the second, ...
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
    how: EvalConfig | None = None,
    *,
    first: int = 0,
    num_classes: int = 0,
    labels: Tensor | None = None,
    device: str | torch.device = "cpu",
) -> Tensor:
    """`count` samples in network units, (count, *shape) float32 on the CPU.

    Args:
        objective: says how the network's output becomes a jump and which jumps it learned.
        schedule: the path it was trained on.
        net: the network with the weights to sample, on `device`.
        count: number of samples.
        shape: shape of one sample.
        how: sampler, steps, guidance, seed of the noise, batch size; None: one step, unguided.
        first: index of the first sample; the samples are those with indices first .. first + count - 1.
        num_classes: real classes; the null class is `num_classes`. 0: unlabelled.
        labels: (count,) int64; None: `sample_labels`.
        device: where to compute.
    """
    batches = sample_batches(
        objective, schedule, net, count, shape, how, first=first, num_classes=num_classes, labels=labels, device=device
    )
    return torch.cat([x.cpu() for x, _ in batches])


@torch.no_grad()
def sample_batches(
    objective: Objective,
    schedule: Schedule,
    net: Network,
    count: int,
    shape: Sequence[int],
    how: EvalConfig | None = None,
    *,
    first: int = 0,
    num_classes: int = 0,
    labels: Tensor | None = None,
    device: str | torch.device = "cpu",
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """As `sample`, batch by batch on `device`, with the labels of each batch: for sets that do not fit in memory.

    Raises:
        ValueError: guidance without labels.
    """
    how = EvalConfig() if how is None else how
    if how.guidance != 1 and not num_classes:
        raise ValueError("eval.guidance: guidance needs labelled data; set it to 1")
    told_scale = bool(objective.guidance.inputs)  # such a network is told the scale, and needs no second evaluation
    guided: Network = net if how.guidance == 1 or told_scale else GuidedNetwork(net, how.guidance, num_classes)
    integrates = resolve_sampler(objective, how) in ("euler", "heun")
    times = step_times(objective, schedule, how)
    steps = jumps(objective, schedule, how)
    end_sigma = float(schedule.at(torch.tensor(schedule.end, dtype=torch.float64)).sigma)
    was_training = net.training
    net.eval()
    for start in range(0, count, how.batch_size):
        n = min(how.batch_size, count - start)
        y = sample_labels(first + start, n, num_classes) if labels is None else labels[start : start + n]
        y = None if y is None else y.to(device)
        told = objective.guidance.sampling_inputs(n, how.guidance, how.guidance_window)
        field = Field(
            objective, schedule, net, guided, how.guidance_window, y, None if told is None else told.to(device)
        )

        def fresh(level: int, at: int = first + start, n: int = n) -> Tensor:
            return sample_noise(how.seed, at, n, shape, level).to(device) * objective.noise_std

        x = fresh(0) * end_sigma
        if integrates:
            x = integrate(field.velocity, x, times, heun=how.sampler == "heun")
        else:
            x = walk(field.jump, x, steps, field.renoise, fresh)
        yield x, y
    net.train(was_training)


class Field:
    """What a network knows of one batch: its jumps and its velocity at a time that all rows share."""

    def __init__(
        self,
        objective: Objective,
        schedule: Schedule,
        net: Network,
        guided: Network,
        window: tuple[float, float],
        y: Tensor | None,
        g: Tensor | None,
    ) -> None:
        self.objective, self.schedule, self.net, self.guided = objective, schedule, net, guided
        self.window, self.y, self.g = window, y, g

    def jump(self, x: Tensor, r: float, t: float) -> Tensor:
        """X_{t,r}(x), (B, *shape)."""
        return self.objective.predict(self._net(t), self.schedule, x, _full(x, r), _full(x, t), self.y, self.g)

    def velocity(self, x: Tensor, t: float) -> Tensor:
        """v_t(x), (B, *shape)."""
        return self.objective.velocity_at(self._net(t), self.schedule, x, _full(x, t), self.y, self.g)

    def renoise(self, x: Tensor, at: float, to: float, noise: Tensor) -> Tensor:
        """`renoise` on this path, from where a jump that is asked to land at `at` really lands."""
        return renoise(self.schedule, x, self.objective.parameterization.lands_at(at), to, noise)

    def _net(self, t: float) -> Network:
        return self.guided if in_window(self.schedule, t, self.window) else self.net


def walk(
    jump: Jump,
    x: Tensor,
    steps: Sequence[Step],
    renoise: Callable[[Tensor, float, float, Tensor], Tensor],
    fresh: Callable[[int], Tensor],
) -> Tensor:
    """Jump, add noise, jump, ...: from the initial state x (B, *shape) to the last landing.

    Args:
        jump: the map X_{t,r}.
        x: the initial state, (B, *shape).
        steps: times of the jumps, and of the states after the noise.
        renoise: (x, at, to, noise) -> the state at `to`.
        fresh: level -> standard noise of the path, (B, *shape); level 1 follows the first jump.
    """
    for level, step in enumerate(steps, 1):
        x = jump(x, step.land, step.t)
        if step.to != step.land:
            x = renoise(x, step.land, step.to, fresh(level))
    return x


def renoise(schedule: Schedule, x: Tensor, at: float, to: float, noise: Tensor) -> Tensor:
    """The state at `to` >= `at` with the signal of the state x (B, *shape) at `at` and fresh `noise` of std s0.

    With k = alpha_to / alpha_at, k x has the signal of time `to` and noise k sigma_at; what is missing is added:
    x_to = k x + sqrt(sigma_to^2 - k^2 sigma_at^2) e. On VE that is CTM's gamma sigma_to e. kyungmnlee/dmf samplers.py
    adds (1 - k) e on the linear path, which leaves too little noise.
    """
    lower, upper = schedule.at(_full(x, at)), schedule.at(_full(x, to))
    k = upper.alpha / lower.alpha
    missing = torch.sqrt((upper.sigma**2 - (k * lower.sigma) ** 2).clamp(min=0))
    return expand(k, x) * x + expand(missing, x) * noise


def integrate(velocity: Velocity, x: Tensor, times: Sequence[float], *, heun: bool) -> Tensor:
    """dx/dt = v_t(x) along `times` from the initial state x (B, *shape), by Euler's method or Heun's.

    Heun's last step is Euler's, as in EDM: there the velocity of VE divides by a noise level of 0.
    """
    for i, (t, r) in enumerate(pairwise(times)):
        slope = velocity(x, t)
        step = x + (r - t) * slope
        if heun and i < len(times) - 2:
            step = x + (r - t) / 2 * (slope + velocity(step, r))
        x = step
    return x


class GuidedNetwork(Network):
    """F_null + w (F_label - F_null), both halves in one evaluation of a doubled batch (arXiv 2207.12598).

    The preconditioner is outside: a per-row c_in never meets the doubled batch (defect N1 of the reference).
    """

    def __init__(self, net: Network, scale: float, null_class: int) -> None:
        super().__init__()
        self.net, self.scale, self.null_class = net, scale, null_class

    def forward(self, x: Tensor, r: Tensor, t: Tensor, y: Tensor | None, g: Tensor | None = None) -> Tensor:
        return self._guided(self.net(*self._doubled(x, r, t, y)))

    def forward_heads(
        self, x: Tensor, r: Tensor, t: Tensor, y: Tensor | None, g: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        u, v = self.net.forward_heads(*self._doubled(x, r, t, y), None)
        return self._guided(u), self._guided(v)

    def _doubled(self, x: Tensor, r: Tensor, t: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        assert y is not None
        null = torch.full_like(y, self.null_class)
        return torch.cat([x, x]), torch.cat([r, r]), torch.cat([t, t]), torch.cat([null, y])

    def _guided(self, doubled: Tensor) -> Tensor:
        f_null, f_label = doubled.chunk(2)
        return torch.lerp(f_null, f_label, self.scale)


def _full(x: Tensor, time: float) -> Tensor:
    return torch.full((len(x),), time, dtype=x.dtype, device=x.device)
