"""The axis `architecture`: a network F(x, r, t, y) with two time inputs."""

from __future__ import annotations

import abc
from typing import ClassVar

import torch
from torch import Tensor, nn

from ablate_core.architectures.pairs import rows_at
from ablate_core.component import Component


class Network(nn.Module, abc.ABC):
    """What every objective and sampler may ask of a network."""

    @abc.abstractmethod
    def forward(self, x: Tensor, r: Tensor, t: Tensor, y: Tensor | None, g: Tensor | None = None) -> Tensor:
        """Raw output F.

        Args:
            x: state, (B, *shape), floating.
            r: landing time as the schedule tells it (`Schedule.network_time`; in [0, 1] on unit paths), (B,), r <= t.
            t: start time, likewise, (B,).
            y: class index, (B,) int64 with ``num_classes`` as the null class; None for unlabelled data.
            g: guidance inputs, (B, guidance_inputs); None where the network was built without. A network without them
                need not have the parameter: it is passed only where there is something to pass.

        Returns:
            (B, *shape), dtype of x.
        """

    def forward_heads(
        self, x: Tensor, r: Tensor, t: Tensor, y: Tensor | None, g: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Raw outputs of both heads, F and that of the velocity head, each (B, *shape); F equals `forward`.

        Raises TypeError where the network was built without a velocity head.
        """
        raise TypeError(f"{type(self).__name__} was built without a velocity head")

    def forward_and_tangent(
        self,
        x: Tensor,
        r: Tensor,
        t: Tensor,
        y: Tensor | None,
        dx: Tensor,
        dt: Tensor,
        *,
        dr: Tensor | None = None,
        g: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Output and its derivative along (dx, dr, dt) in (x, r, t), each (B, *shape); `dr` None is 0.

        Gradients flow through both (reverse over forward), which Lagrangian objectives need. A network may override it
        with hand-written tangents: torch's forward mode takes a slow path wherever a tensor with a tangent meets one
        without (every bias, every constant); a small SiT takes five times as long in it. A network with
        `torch.nn.functional.layer_norm` must, or write its norm out, where gradients are taken through the derivative:
        torch gets those wrong (pytorch issue 196700; `pairs.layer_norm` is right).
        """
        more = {} if g is None else {"g": g}
        if dr is None:
            both = torch.func.jvp(lambda state, time: self(state, r, time, y, **more), (x, t), (dx, dt))
        else:
            both = torch.func.jvp(lambda *inputs: self(*inputs, y, **more), (x, r, t), (dx, dr, dt))
        return both[0], both[1]

    def forward_beside_tangent(
        self,
        x: Tensor,
        r: Tensor,
        t: Tensor,
        y: Tensor | None,
        dx: Tensor,
        dt: Tensor,
        g: Tensor | None = None,
        *,
        index: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Output of all rows, and the derivative of some, such as the last ones, along (dx, dt) in (x, t), r fixed.

        The tangent carries no graph, so that the one pass costs a forward pass and a tangent of few rows. A network
        may override it; here it is two passes.

        Args:
            x: state, (B, *shape); r, t, y, g likewise, as in `forward`.
            dx: direction, (R, *shape) with R <= B, of the last R rows or of those at `index`.
            dt: likewise, (R,).
            index: rows with a derivative, (R,) int64; None: the last ones, which is faster.

        Returns:
            The output, (B, *shape), and the tangent, (R, *shape).
        """
        more = {} if g is None else {"g": g}
        own = len(dx) if index is None else index
        value: Tensor = self(x, r, t, y, **more)
        with torch.no_grad():
            more = {} if g is None else {"g": rows_at(g, own)}
            x, r, t = rows_at(x, own), rows_at(r, own), rows_at(t, own)
            return value, self.forward_and_tangent(x, r, t, None if y is None else rows_at(y, own), dx, dt, **more)[1]

    @property
    def drops(self) -> bool:
        """True where two calls with the same inputs may differ between two seeds of `use_dropout`."""
        return type(self).use_dropout is not Network.use_dropout

    def use_dropout(self, seed: int | None) -> None:
        """Draw all dropout masks from `seed` from now on; None, as at first, drops nothing.

        The trainer gives one seed per step to the network and to the copy that targets are computed with, so that both
        drop alike, and a resumed run drops what the uninterrupted one would. Does nothing where there is no dropout.
        """

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
    accepts_velocity_head: ClassVar[bool] = False
    """True where `build(velocity_head=True)` adds a second head on the same trunk (iMF)."""
    accepts_guidance: ClassVar[bool] = False
    """True where `build(guidance_inputs=K)` makes a network that is told K numbers per row about its guidance."""
    stackable: ClassVar[bool] = False
    """True where networks of several trials can be called as one (`packing.stacked` says what that asks of them), and
    every parameter has a gradient at every step: a pack updates all, a trial alone leaves out those that have none."""
    zero_at_init: ClassVar[bool] = True
    """True where the output of a fresh network is exactly 0; elsewhere it is small."""

    @property
    def sees_landing_time(self) -> bool:
        """False where the network is told t alone, so that it can only learn one landing time."""
        return True

    @abc.abstractmethod
    def build(
        self,
        shape: tuple[int, ...],
        num_classes: int,
        *,
        log_variance: bool = False,
        velocity_head: bool = False,
        guidance_inputs: int = 0,
    ) -> Network:
        """A freshly initialised float32 network on the CPU.

        Initial weights come from torch's global CPU generator, which the trainer seeds from the stream ``init``.

        Args:
            shape: shape of one sample, (C, H, W) for images or (D,) for vectors.
            num_classes: number of real classes (null class excluded); 0 for unlabelled data.
            log_variance: add the log-variance head. Raises ValueError where not `accepts_log_variance`.
            velocity_head: add the velocity head; only asked of an architecture that `accepts_velocity_head`. An
                architecture without it need not have the parameter, nor the next one.
            guidance_inputs: columns of `g`; only asked of an architecture that `accepts_guidance`.
        """
