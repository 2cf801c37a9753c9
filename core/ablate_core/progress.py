"""What the training loop measures about itself: means of scalars, divergence, time and memory."""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

MOST_WAITING = 256
"""Steps after which a meter fetches its numbers although nobody has asked."""


class Meter:
    """Means of training scalars since the last report, and the first step that diverged.

    Nothing is computed, and everything stays on the device, until `means`, `diverged` or `state_dict` is called: no
    step waits for a number. Sums are those of float64, one step after the other, wherever they are fetched.

    Args:
        loss_bound: a mean loss above this counts as divergence.
        device: where the numbers are.
    """

    def __init__(self, loss_bound: float, device: str | torch.device) -> None:
        self.loss_bound = loss_bound
        self._device = device
        self._by_time: Tensor | None = None
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}
        self._bad: tuple[int, float, float] | None = None  # step, loss, gradient norm
        self._waiting: list[tuple[int, dict[str, Tensor]]] = []

    @torch.no_grad()
    def add(
        self,
        step: int,
        loss: Tensor,
        grad_norm: Tensor,
        scalars: Mapping[str, Tensor],
        by_time: Tensor | None = None,
    ) -> None:
        """Count one step. `loss` and `grad_norm` are scalars on the device, and so are all `scalars`.

        `by_time`: (2, bins), sums of the distance and numbers of rows by start time; logged as ``distance_t0``, ...
        """
        if by_time is not None:
            self._by_time = by_time if self._by_time is None else self._by_time + by_time
        numbers = {"loss": loss, "grad_norm": grad_norm, **scalars}
        self._waiting.append((step, {name: value.detach() for name, value in numbers.items()}))
        if len(self._waiting) == MOST_WAITING:
            self._fetch()

    def means(self) -> dict[str, float | None]:
        """Mean of every scalar since `reset`; None where it is not finite (JSON has no such number)."""
        self._fetch()
        means = {name: total / self._counts[name] for name, total in self._sums.items()}
        if self._by_time is not None:  # a part of time that no row fell into has no mean, and is left out
            parts = enumerate(zip(*self._by_time.tolist(), strict=True))
            means |= {f"distance_t{i}": total / rows for i, (total, rows) in parts if rows}
        return {name: mean if abs(mean) < float("inf") else None for name, mean in means.items()}

    def reset(self) -> None:
        self._fetch()
        self._sums, self._counts, self._by_time = {}, {}, None

    def diverged(self) -> tuple[int, str] | None:
        """The first step whose loss or gradient was out of bounds, and what was wrong; None while all is well."""
        self._fetch()
        if self._bad is None:
            return None
        step, loss, norm = self._bad
        if loss > self.loss_bound:
            return step, f"loss {loss:g} above {self.loss_bound:g} at step {step}"
        what, value = ("gradient norm", norm) if math.isfinite(loss) else ("loss", loss)
        return step, f"{what} {value:g} at step {step}"

    def state_dict(self) -> dict[str, Any]:
        self._fetch()
        sums = {name: torch.tensor(total, dtype=torch.float64) for name, total in self._sums.items()}
        return {"sums": sums, "counts": dict(self._counts), "by_time": self._by_time}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._sums = {name: float(total) for name, total in state["sums"].items()}
        self._counts = dict(state["counts"])
        by_time = state.get("by_time")  # not in checkpoints of version 0.1
        self._by_time = None if by_time is None else by_time.to(self._device)

    def _fetch(self) -> None:
        """Take in the steps that wait, with one transfer."""
        if not self._waiting:
            return
        numbers = iter(torch.stack([x for _, of_step in self._waiting for x in of_step.values()]).tolist())
        for step, of_step in self._waiting:
            now = dict(zip(of_step, numbers, strict=False))  # takes as many as there are names
            for name, value in now.items():
                self._sums[name] = self._sums.get(name, 0.0) + value
                self._counts[name] = self._counts.get(name, 0) + 1
            loss, norm = now["loss"], now["grad_norm"]
            if self._bad is None and not (math.isfinite(norm) and math.isfinite(loss) and loss <= self.loss_bound):
                self._bad = step, loss, norm
        self._waiting.clear()


class Clock:
    """Wall and CPU seconds of a trial, summed over the attempts whose checkpoints were continued.

    `cpu_seconds` reads the CPU time that is the trial's; the process' is, unless other trials share it.
    """

    def __init__(self, device: str | torch.device, cpu_seconds: Callable[[], float] = time.process_time) -> None:
        self._cuda = torch.device(device) if torch.device(device).type == "cuda" else None
        if self._cuda is not None:
            torch.cuda.reset_peak_memory_stats(self._cuda)
        self._cpu_seconds = cpu_seconds
        self._wall, self._cpu = -time.perf_counter(), -cpu_seconds()
        self._lap = time.perf_counter()

    def wall(self) -> float:
        return self._wall + time.perf_counter()

    def cpu(self) -> float:
        return self._cpu + self._cpu_seconds()

    def lap(self) -> float:
        """Seconds since the last call, at least a nanosecond."""
        before, self._lap = self._lap, time.perf_counter()
        return max(self._lap - before, 1e-9)

    def peak_mem_mb(self) -> float:
        """Largest memory in MiB: tensors on a GPU, else resident memory of the process, all its trials together."""
        if self._cuda is not None:
            return torch.cuda.max_memory_allocated(self._cuda) / 2**20
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / 2**20 if sys.platform == "darwin" else peak / 2**10

    def state_dict(self) -> dict[str, float]:
        return {"wall": self.wall(), "cpu": self.cpu()}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self._wall += state["wall"]
        self._cpu += state["cpu"]
