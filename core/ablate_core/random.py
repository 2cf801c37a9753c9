"""Named random streams: every random number of a trial comes from (seed, name, counters) and from nothing else.

A stream is re-derived at every step, so a resumed run needs the step number and no generator state, and a component
that draws one number more never shifts the numbers of another: two arms with one seed see the same data order, the
same noise and, where they draw the same quantity, the same times.
"""

from __future__ import annotations

import copy
import hashlib

import torch
from torch import Tensor

STREAMS = ("init", "data", "noise", "time", "dropout", "eval")
"""The independent streams of a trial; a finer name is written ``stream.detail``, as in ``time.landing``."""


def stream_seed(seed: int, name: str, *counters: int) -> int:
    """A 63-bit seed for the stream `name` at `counters` (a step, an epoch, a sample index).

    Args:
        seed: the trial's seed.
        name: a stream of `STREAMS`, or a refinement of one: ``time.landing``.
        counters: whole numbers that select a position in the stream.

    Raises:
        ValueError: if `name` belongs to no stream.
    """
    if name.split(".", 1)[0] not in STREAMS:
        raise ValueError(f"no random stream is named {name!r}; there are {', '.join(STREAMS)}")
    text = "/".join([str(seed), name, *map(str, counters)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(seed: int, name: str, *counters: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator on `device`, seeded by `stream_seed`."""
    return torch.Generator(device=device).manual_seed(stream_seed(seed, name, *counters))


class Draws:
    """The random numbers of one training step. Each name is drawn once and is a stream of its own.

    Tests that replay recorded numbers of a reference subclass this and override `normal`, `uniform` and `integers`.
    """

    def __init__(
        self,
        seed: int,
        step: int,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.seed = seed
        self.step = step
        self.device = device
        self.dtype = dtype
        self._generator = torch.Generator(device=device)

    def normal(self, name: str, *shape: int) -> Tensor:
        """Standard normal numbers of `shape`."""
        return torch.randn(shape, generator=self._stream(name), device=self.device, dtype=self.dtype)

    def uniform(self, name: str, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1) of `shape`."""
        return torch.rand(shape, generator=self._stream(name), device=self.device, dtype=self.dtype)

    def integers(self, name: str, high: int, *shape: int) -> Tensor:
        """Uniform int64 numbers in 0 .. high - 1 of `shape`."""
        return torch.randint(high, shape, generator=self._stream(name), device=self.device)

    def on_host(self) -> Draws:
        """The same streams drawn on the CPU, for what the host has to know."""
        if torch.device(self.device).type == "cpu":
            return self
        here = copy.copy(self)
        here.device, here._generator = "cpu", torch.Generator()
        return here

    def _stream(self, name: str) -> torch.Generator:
        """The one generator there is, sent to the beginning of the stream: a new one costs as much as a small draw."""
        return self._generator.manual_seed(stream_seed(self.seed, name, self.step))
