"""How a trial's networks are evaluated and differentiated: alone, or with others' in one call (`packing`)."""

from __future__ import annotations

import contextlib
import time

from torch import Tensor

from ablate_core.architectures.base import Network
from ablate_core.fid.extractor import Extractor
from ablate_core.flat import Flat, writing_gradients


class PackError(Exception):
    """A trial cannot go on in a pack, which says nothing about the trial: in a smaller one, or alone, it may."""


class Compute:
    """A trial that computes alone. The training loop calls its networks, and differentiates, through this only."""

    def network(self, net: Network, role: str) -> Network:
        """What to call in place of `net`, whose weights stay where the loop reads and writes them.

        Args:
            net: the module with the weights.
            role: "net", "target" or "eval": what it is in the trial; a trial has one network of each at a time.
        """
        return net

    def flat(self, net: Network) -> Flat | None:
        """The parameters of `net`, a module that was given to `network`, where they lie in one tensor.

        Asked for once. None where they do not fit into one.
        """
        try:
            flat = Flat(net)
        except ValueError:
            return None
        if flat.whole.requires_grad:
            flat.hold_gradients()
        return flat

    def backward(self, loss: Tensor, flat: Flat | None = None) -> None:
        """Add the derivative of `loss`, a scalar, to the ``grad`` of the parameters it was computed from.

        Args:
            loss: the scalar.
            flat: the trained network's parameters where they lie in one tensor.
        """
        with contextlib.nullcontext() if flat is None else writing_gradients():
            loss.backward()  # type: ignore[no-untyped-call]

    def extract(self, extractor: Extractor, images: Tensor) -> Tensor:
        """Features (B, dims) of uint8 images (B, C, H, W), on the extractor's device."""
        return extractor.on_device(images)

    def cpu_seconds(self) -> float:
        """CPU seconds this trial has used, counted from any moment."""
        return time.process_time()

    def costs(self) -> dict[str, float]:
        """What computing has cost since the last call beside the computation, by name, for the log."""
        return {}


ALONE = Compute()
