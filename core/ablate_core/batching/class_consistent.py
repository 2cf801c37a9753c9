"""Every batch holds one class, so that a plug-in velocity is class-conditional (ESC, arXiv 2512.11831).

The reference (EDAPINENUT/ExplicitShortCut datasets/dataset_lc.py:143-156) runs off the end of a class, keeps one order
for ever, never shows the first samples of a class and draws all classes alike, whatever their size (defect D11).
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from ablate_core.batching.base import Batching


class ClassConsistent(Batching):
    """Each class is shuffled anew in every pass and cut into batches; all batches of a pass are shuffled.

    ``whole``: a class has as many batches as it fills, n // B, so classes of 1.9 B and 1.1 B samples come up alike.
    ``proportional``: it has n / B in the mean, rounded up or down at random from pass to pass; a last batch that its
    samples do not fill is completed by other samples of the class.
    """

    name: Literal["class_consistent"] = "class_consistent"
    replacement: bool = Field(
        False, description="classes smaller than a batch repeat samples instead of being an error"
    )
    counts: Literal["whole", "proportional"] = Field(
        "whole",
        json_schema_extra={"neutral": "whole"},
        description="batches of a class per pass: those it fills, or its share of the data",
    )
    one_class: ClassVar[bool] = True

    def epoch(self, n: int, y: Tensor | None, batch_size: int, generator: torch.Generator) -> Tensor:
        if y is None:
            raise ValueError("objective.batching: class_consistent needs labelled data; use iid")
        classes = [torch.nonzero(y == label).squeeze(1) for label in torch.unique(y)]
        counts = [max(1, len(members) // batch_size) for members in classes]
        if self.counts == "proportional":
            counts = proportional_counts([len(members) for members in classes], batch_size, generator)
        batches = []
        for members, count in zip(classes, counts, strict=True):
            order = members[torch.randperm(len(members), generator=generator)]
            if len(order) < batch_size:
                if not self.replacement:
                    raise ValueError(
                        f"class {int(y[members[0]])} has {len(order)} samples, fewer than train.batch_size = "
                        f"{batch_size}; lower the batch size or set objective.batching.replacement: true"
                    )
                order = order[torch.randint(len(order), (count * batch_size,), generator=generator)]
            elif len(order) < count * batch_size:
                seen = len(order) - (count - 1) * batch_size  # these open the last batch and may not come again in it
                more = order[: len(order) - seen]
                more = more[torch.randperm(len(more), generator=generator)]
                if seen < 0:  # two batches are not filled by the order: nor may those who open the first come again
                    more = completing(more, order[len(order) - len(order) % batch_size :], batch_size)
                order = torch.cat([order, more])
            batches.append(order[: count * batch_size].reshape(-1, batch_size))
        stacked = torch.cat(batches)
        return stacked[torch.randperm(len(stacked), generator=generator)]


def completing(more: Tensor, opening: Tensor, batch_size: int) -> Tensor:
    """`more` in its order, but that what completes a batch after `opening` is the first of it that is not there."""
    free = torch.nonzero(~torch.isin(more, opening)).squeeze(1)[: batch_size - len(opening)]
    others = torch.ones(len(more), dtype=torch.bool).index_fill_(0, free, False)
    return torch.cat([more[free], more[others]])


def proportional_counts(sizes: list[int], batch_size: int, generator: torch.Generator) -> list[int]:
    """Batches of each class in one pass: about sizes / batch_size, with exactly that ratio in the mean.

    Systematic sampling: the classes lie end to end on a line that is cut at equal distances from a random start, so
    each count is its share rounded down or up, and their sum is the same in every pass.
    """
    total = max(1, round(sum(sizes) / batch_size))
    start = float(torch.rand((), generator=generator, dtype=torch.float64))
    edges = torch.tensor([0, *sizes], dtype=torch.float64).cumsum(0) * (total / sum(sizes)) + start
    whole = edges.floor().long()
    whole[-1] = whole[0] + total  # free of rounding
    return (whole[1:] - whole[:-1]).tolist()
