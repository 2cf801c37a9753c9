"""Which samples make the batch of a step: a pure function of (seed, step), so a resume needs only the step."""

from __future__ import annotations

from torch import Tensor

from ablate_core.batching import Batching
from ablate_core.random import generator


class Batches:
    """The batches of a trial, pass after pass; each pass is ordered by `batching` from (seed, "data", pass).

    Args:
        batching: the rule.
        count: number of samples.
        labels: their classes, (count,) int64, or None.
        batch_size: samples per batch.
        seed: the trial's seed.

    Raises:
        ValueError: the data cannot be batched this way.
    """

    def __init__(self, batching: Batching, count: int, labels: Tensor | None, batch_size: int, seed: int) -> None:
        self.batching, self.count, self.labels = batching, count, labels
        self.batch_size, self.seed = batch_size, seed
        self._number, self._order = 0, self._pass(0)

    def indices(self, step: int) -> Tensor:
        """(batch_size,) int64 on the CPU, for step 0, 1, ...; any order of calls gives the same answers."""
        number, position = divmod(step, len(self._order))  # every pass has the same number of batches
        if number != self._number:
            self._number, self._order = number, self._pass(number)
        return self._order[position]

    def _pass(self, number: int) -> Tensor:
        """The batches of one pass, (batches, batch_size)."""
        draw = generator(self.seed, "data", number)
        return self.batching.epoch(self.count, self.labels, self.batch_size, draw)
