"""Operators and memory of a piece of eager code, for the benchmarks beside this file."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operators that are not views, and the bytes of live tensors that were made since it began."""

    FREE = ("empty", "new_empty", "lift_fresh", "set_")

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.launches, self.live, self.peak = 0, 0, 0
        self.seen: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        made = [self._watch(x) for x in torch.utils._pytree.tree_leaves(out) if isinstance(x, Tensor)]
        name = function.__name__.split(".")[0]
        writes = function._schema.is_mutable
        if (any(made) or writes) and not name.startswith(self.FREE):
            self.launches += 1
        return out

    def _watch(self, x: Tensor) -> bool:
        """True where the memory of `x` is new."""
        storage = x.untyped_storage()
        key = storage._cdata
        if key in self.seen:
            return False
        size = storage.nbytes()
        self.seen.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, key, size)
        return True

    def _forget(self, key: int, size: int) -> None:
        self.seen.discard(key)
        self.live -= size
