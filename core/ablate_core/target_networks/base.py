"""The axis `target_network`: the weights theta^- that targets are computed with (design-space 2.9)."""

from __future__ import annotations

import abc
from typing import ClassVar

from torch import nn

from ablate_core.component import Component


class TargetNetwork(Component):
    """Which weights targets use. The trainer keeps the copy, the component only says whether and how.

    Contract with the trainer: `decay(step, total_steps)` is None where targets use the online weights themselves, and
    the trainer then passes the online network as `target_net`. Otherwise it keeps a copy that starts equal to the
    online weights, is handed to `prepare`, and after the optimiser step number `step` (from 0) becomes
    mu copy + (1 - mu) online; mu = 1 leaves it alone.
    """

    name: str
    used: ClassVar[bool] = True
    """False for the choice that is none: no target is computed with a network."""
    separate: ClassVar[bool] = False
    """True where targets use a copy whose weights are not the online ones (C20)."""
    teacher: ClassVar[bool] = False
    """True where those weights were trained before (C24)."""

    @abc.abstractmethod
    def decay(self, step: int, total_steps: int) -> float | None:
        """mu of the update after optimiser step `step`, in [0, 1]; None: no copy."""

    def preflight(self) -> None:
        """Cheap look whether its files can be there; nothing to do for most. Raises ValueError, one line."""

    def prepare(self, copy: nn.Module) -> None:
        """Give the copy its first weights, where these are not the online ones. Raises ValueError, one line."""

    def scales(self) -> tuple[int, int] | None:
        """(s0, s1) of the grid that the decay follows, where it follows one."""
        return None
