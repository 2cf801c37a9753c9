"""The axis `architecture`: a network F(x, r, t, y) with two time inputs."""

from __future__ import annotations

import abc
from typing import ClassVar

import torch
from torch import Tensor, nn

from ablate_core.component import Component


class Network(nn.Module, abc.ABC):
    """What every objective and sampler may ask of a network."""

    @abc.abstractmethod
    def forward(self, x: Tensor, r: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        """Raw output F.

        Args:
            x: state, (B, *shape), floating.
            r: landing time, (B,), in [0, 1], r <= t.
            t: start time, (B,), in [0, 1].
            y: class index, (B,) int64 with ``num_classes`` as the null class; None for unlabelled data.

        Returns:
            (B, *shape), dtype of x.
        """

    def forward_and_tangent(
        self, x: Tensor, r: Tensor, t: Tensor, y: Tensor | None, dx: Tensor, dt: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Output and its derivative along (dx, 0, dt) in (x, r, t), each (B, *shape).

        A network may override it with hand-written tangents: torch's forward mode takes a slow path wherever a tensor
        with a tangent meets one without (every bias, every constant); a small SiT takes five times as long in it.
        """
        both = torch.func.jvp(lambda state, time: self(state, r, time, y), (x, t), (dx, dt))
        return both[0], both[1]

    def log_variance(self, t: Tensor) -> Tensor:
        """Learned log-variance of the loss at `t`: (B,) -> (B,), never (B, 1). Only where `has_log_variance`."""
        raise TypeError(f"{type(self).__name__} was built without a log-variance head")


class Architecture(Component):
    """The recipe of a network: its hyperparameters; `build` makes the module."""

    name: str
    jvp_safe: ClassVar[bool] = True
    """True where every operation has a forward-mode derivative (no fused attention, BatchNorm, in-place)."""
    accepts_log_variance: ClassVar[bool] = False
    """True where `build(log_variance=True)` adds a (B,) log-variance head."""

    @abc.abstractmethod
    def build(self, shape: tuple[int, ...], num_classes: int, *, log_variance: bool = False) -> Network:
        """A freshly initialised float32 network on the CPU.

        Initial weights come from torch's global CPU generator, which the trainer seeds from the stream ``init``.

        Args:
            shape: shape of one sample, (C, H, W) for images or (D,) for vectors.
            num_classes: number of real classes (null class excluded); 0 for unlabelled data.
            log_variance: add the log-variance head. Raises ValueError where not `accepts_log_variance`.
        """
