"""Which samples make the batch of a step: a pure function of (seed, step), so a resume needs only the step.

Two ways: `iid` walks through a fresh permutation of the data in every epoch; `class_consistent` gives every batch one
class, which makes the plug-in velocity of the batch a class-conditional one (design-space 2.15).
"""

from __future__ import annotations

import abc

import torch
from torch import Tensor

from ablate_core.random import generator

BLOCK = 4096
"""Classes are drawn in blocks of this many steps, so that the visits before any step are counted block by block."""


class Batches(abc.ABC):
    """Indices of the batch of each step."""

    @abc.abstractmethod
    def indices(self, step: int) -> Tensor:
        """(batch_size,) int64 indices of step 0, 1, ...; any order of calls gives the same answers."""


class IID(Batches):
    """One permutation per epoch, seeded by (seed, "data", epoch); a batch may span the border of two epochs."""

    def __init__(self, count: int, batch_size: int, seed: int) -> None:
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self._orders: dict[int, Tensor] = {}

    def indices(self, step: int) -> Tensor:
        epoch, start = divmod(step * self.batch_size, self.count)
        last = (start + self.batch_size - 1) // self.count
        epochs = range(epoch, epoch + last + 1)
        self._orders = {e: self._orders[e] if e in self._orders else self._order(e) for e in epochs}
        pieces = [
            order[max(0, start - k * self.count) : start + self.batch_size - k * self.count]
            for k, order in enumerate(self._orders.values())
        ]
        return torch.cat(pieces)

    def _order(self, epoch: int) -> Tensor:
        return torch.randperm(self.count, generator=generator(self.seed, "data", epoch))


class ClassConsistent(Batches):
    """Every batch holds one class, drawn anew at each step.

    Inside a class each pass is a fresh permutation; what remains of it when less than a batch is left is dropped, so
    no batch holds a sample twice. EDAPINENUT/ExplicitShortCut datasets/dataset_lc.py:143-156 never shuffles, never
    shows the remainder and fails for some class sizes (design-space D11).

    Args:
        labels: (N,) int64 class of each sample.
        batch_size: at most the size of the smallest class, unless `replacement`.
        seed: the trial's seed.
        proportional: draw classes with probability proportional to their size, which keeps the data distribution;
            otherwise uniformly.
        replacement: draw samples of the class with replacement; then any class size will do.

    Raises:
        ValueError: a class is smaller than the batch and `replacement` is off.
    """

    def __init__(
        self, labels: Tensor, batch_size: int, seed: int, *, proportional: bool = False, replacement: bool = False
    ) -> None:
        classes, sizes = torch.unique(labels, return_counts=True)
        smallest = int(sizes.argmin())
        if sizes[smallest] < batch_size and not replacement:
            raise ValueError(
                f"class-consistent batches of {batch_size} need classes of at least that many samples, but class "
                f"{int(classes[smallest])} has {int(sizes[smallest])}; set train.batch_size to {int(sizes[smallest])} "
                "or less, or draw with replacement"
            )
        self.batch_size, self.seed, self.replacement = batch_size, seed, replacement
        self.members = [torch.nonzero(labels == c).flatten() for c in classes]
        self.weights = sizes.double() if proportional else torch.ones(len(classes), dtype=torch.float64)
        self._blocks: dict[int, Tensor] = {}
        self._visits_before: list[Tensor] = [torch.zeros(len(classes), dtype=torch.int64)]
        self._orders: dict[int, tuple[int, Tensor]] = {}

    def indices(self, step: int) -> Tensor:
        block, position = divmod(step, BLOCK)
        classes = self._block(block)
        c = int(classes[position])
        if self.replacement:
            draw = generator(self.seed, "data.sample", step)
            return self.members[c][torch.randint(len(self.members[c]), (self.batch_size,), generator=draw)]
        visit = int(self._before(block)[c]) + int((classes[:position] == c).sum())
        run, slot = divmod(visit, len(self.members[c]) // self.batch_size)
        return self._order(c, run)[slot * self.batch_size : (slot + 1) * self.batch_size]

    def _block(self, block: int) -> Tensor:
        """The classes of the steps of `block`, as positions in `members`."""
        if block not in self._blocks:
            draw = generator(self.seed, "data.class", block)
            self._blocks = {block: torch.multinomial(self.weights, BLOCK, replacement=True, generator=draw)}
        return self._blocks[block]

    def _before(self, block: int) -> Tensor:
        """How often each class was drawn before `block`."""
        for b in range(len(self._visits_before) - 1, block):
            drawn = torch.bincount(self._block(b), minlength=len(self.members))
            self._visits_before.append(self._visits_before[-1] + drawn)
        return self._visits_before[block]

    def _order(self, c: int, run: int) -> Tensor:
        """The samples of class `c` in the order of its pass number `run`."""
        if self._orders.get(c, (-1,))[0] != run:
            draw = generator(self.seed, "data.order", c, run)
            self._orders[c] = (run, self.members[c][torch.randperm(len(self.members[c]), generator=draw)])
        return self._orders[c][1]
