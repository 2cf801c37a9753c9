"""What a training step asks of its network, seen by a network that computes nothing.

Says which of several trials takes longer, before any has run; not how long: that depends on the machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ablate_core.config import TrialConfig
from ablate_core.forwarding import CalledNetwork
from ablate_core.random import Draws
from ablate_core.state import Batch

BACKWARD = 2
"""Passes that a backward pass costs."""
IMAGES = (1, 8, 8)
"""Shape of a sample where only loading the data would tell; counts do not depend on it."""


@dataclass(frozen=True)
class Asked:
    """What a step asks for, the mean of steps early, midway and late in training.

    Attributes:
        passes: of all rows through the network; a forward pass counts 1, a tangent 1 more, a backward pass 2.
        tangents: whether it asks for derivatives along a direction.
    """

    passes: float
    tangents: bool


def asked_by_a_step(config: TrialConfig) -> Asked | None:
    """Takes milliseconds, whatever the size of the network.

    Returns:
        None where the loss cannot be computed without the data or the network themselves.
    """
    total = max(int(config.train.steps), 1)
    rows, classes = config.train.batch_size, config.data.classes
    shape = IMAGES if config.data.dimension is None else (config.data.dimension,)
    x = torch.linspace(-1, 1, rows * _product(shape)).view(rows, *shape)
    y = torch.zeros(rows, dtype=torch.long) if classes else None
    steps = sorted({total // 4, total // 2, total - 1})
    try:
        online = target = _Counted()
        if config.objective.target_network.decay(0, total) is not None:
            target = _Counted().requires_grad_(False)
        for step in steps:
            batch, draws = Batch(x, y, classes or 0), Draws(config.seed, step, device="cpu")
            config.objective.loss(online, target, config.schedule, batch, draws, step, total)
    except Exception:  # a loss that wants more than that, of a plug-in say: this is a guess, and must stop nothing
        return None
    networks = {online, target}
    passes = sum(network.count for network in networks) / rows / len(steps)
    return Asked(passes, any(network.tangents for network in networks))


def _product(shape: tuple[int, ...]) -> int:
    return int(torch.Size(shape).numel())


class _Counted(CalledNetwork):
    """Multiplies by its one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.count, self.tangents = 0.0, False

    def _call(self, method: str, **given: Tensor | None) -> Any:
        x, dx = given["x"], given.get("dx")
        assert x is not None
        rows, value = len(x), x * self.weight
        once = 1 + BACKWARD * (torch.is_grad_enabled() and self.weight.requires_grad)
        self.count += rows * once
        if dx is None:
            return (value, value) if method == "forward_heads" else value
        self.tangents = True
        beside = method == "forward_beside_tangent"  # a tangent of few rows, and without a graph
        self.count += len(dx) if beside else rows * once
        return value, dx * (self.weight.detach() if beside else self.weight)

    def log_variance(self, t: Tensor) -> Tensor:
        return t * self.weight
