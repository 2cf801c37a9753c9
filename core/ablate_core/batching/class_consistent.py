"""Every batch holds one class, so that a plug-in velocity is class-conditional (ESC, arXiv 2512.11831).

The reference (EDAPINENUT/ExplicitShortCut datasets/dataset_lc.py:143-156) runs off the end of a class, keeps one order
for ever and never shows the first samples of a class (defect D11).
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from ablate_core.batching.base import Batching


class ClassConsistent(Batching):
    """Each class is shuffled anew in every pass and cut into batches; classes appear in proportion to their size."""

    name: Literal["class_consistent"] = "class_consistent"
    replacement: bool = Field(
        False, description="classes smaller than a batch repeat samples instead of being an error"
    )
    one_class: ClassVar[bool] = True

    def epoch(self, n: int, y: Tensor | None, batch_size: int, generator: torch.Generator) -> Tensor:
        if y is None:
            raise ValueError("objective.batching: class_consistent needs labelled data; use iid")
        batches = []
        for label in torch.unique(y).tolist():
            members = torch.nonzero(y == label).squeeze(1)
            order = members[torch.randperm(len(members), generator=generator)]
            if len(order) < batch_size:
                if not self.replacement:
                    raise ValueError(
                        f"class {label} has {len(order)} samples, fewer than train.batch_size = {batch_size}; "
                        f"lower the batch size or set objective.batching.replacement: true"
                    )
                order = order[torch.randint(len(order), (batch_size,), generator=generator)]
            batches.append(order[: len(order) - len(order) % batch_size].reshape(-1, batch_size))
        stacked = torch.cat(batches)
        return stacked[torch.randperm(len(stacked), generator=generator)]
