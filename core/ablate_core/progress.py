"""What the training loop measures about itself: means of scalars, divergence, time and memory."""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

MOST_WAITING = 256
"""Steps after which a meter fetches its numbers although nobody has asked."""
TIME_BINS = 4
"""Equal parts of [0, end] in which the loss is logged by the start time t."""


class LoggedRows(NamedTuple):
    """What is logged of the rows of a batch, (B,) each, detached.

    Attributes:
        distance: unweighted distance of prediction and target.
        time: start time, as a share of the end of the path.
        velocity: True on rows that regress on the velocity.
    """

    distance: Tensor
    time: Tensor
    velocity: Tensor


class Meter:
    """Means of training scalars since the last report, and the first step that diverged.

    Nothing is computed, and everything stays on the device, until `means`, `diverged` or `state_dict` is called: no
    step waits for a number. Sums are those of float64, one step after the other, wherever they are fetched.

    Args:
        loss_bound: a mean loss above this counts as divergence.
    """

    def __init__(self, loss_bound: float) -> None:
        self.loss_bound = loss_bound
        self._bad: tuple[int, float, float] | None = None  # step, loss, gradient norm
        self._waiting: list[tuple[int, dict[str, Tensor], LoggedRows | None]] = []
        self.reset()

    def add(
        self,
        step: int,
        loss: Tensor,
        grad_norm: Tensor,
        scalars: Mapping[str, Tensor],
        rows: LoggedRows | None = None,
    ) -> None:
        """Count one step. `loss` and `grad_norm` are scalars on the device, and so are all `scalars`.

        `rows`, as many at every step, are logged as ``distance``, ``velocity_share`` and ``distance_t0``, ...
        """
        numbers = {"loss": loss, "grad_norm": grad_norm, **scalars}
        self._waiting.append((step, {name: value.detach() for name, value in numbers.items()}, rows))
        if len(self._waiting) == MOST_WAITING:
            self._fetch()

    def means(self) -> dict[str, float | None]:
        """Mean of every scalar since `reset`; None where it is not finite (JSON has no such number)."""
        self._fetch()
        means = {name: total / self._counts[name] for name, total in self._sums.items()}
        # A part of time that no row fell into has no mean, and is left out.
        parts = enumerate(zip(*self._by_time, strict=True))
        means |= {f"distance_t{i}": total / rows for i, (total, rows) in parts if rows}
        return {name: mean if abs(mean) < float("inf") else None for name, mean in means.items()}

    def reset(self) -> None:
        self._fetch()
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}
        self._by_time = [[0.0] * TIME_BINS for _ in range(2)]  # sums of the distance, numbers of rows

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
        by_time = torch.tensor(self._by_time, dtype=torch.float64)
        return {"sums": sums, "counts": dict(self._counts), "by_time": by_time}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._sums = {name: float(total) for name, total in state["sums"].items()}
        self._counts = dict(state["counts"])
        by_time = state.get("by_time")  # not in checkpoints of version 0.1
        if by_time is not None:
            self._by_time = by_time.tolist()

    def _fetch(self) -> None:
        """Take in the steps that wait, with one transfer of their scalars and one of each column of their rows."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        numbers = iter(torch.stack([x for _, of_step, _ in waiting for x in of_step.values()]).tolist())
        for step, of_step, _ in waiting:
            now = dict(zip(of_step, numbers, strict=False))  # takes as many as there are names
            self._count(now)
            loss, norm = now["loss"], now["grad_norm"]
            if self._bad is None and not (math.isfinite(norm) and math.isfinite(loss) and loss <= self.loss_bound):
                self._bad = step, loss, norm
        rows = [rows for *_, rows in waiting if rows is not None]
        if rows:
            self._count_rows(*(torch.stack(column).cpu() for column in zip(*rows, strict=True)))

    def _count(self, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
            self._counts[name] = self._counts.get(name, 0) + 1

    def _count_rows(self, distance: Tensor, time: Tensor, velocity: Tensor) -> None:
        """`LoggedRows` of some steps, (steps, B) each, on the CPU."""
        steps, batch = distance.shape
        part = (time * TIME_BINS).long().clamp(0, TIME_BINS - 1) + TIME_BINS * torch.arange(steps)[:, None]
        sums, counts = (
            torch.bincount(part.flatten(), weights.flatten(), TIME_BINS * steps).view(steps, TIME_BINS).tolist()
            for weights in (distance.double(), torch.ones_like(distance, dtype=torch.float64))
        )
        for total, count, share in zip(sums, counts, velocity.double().mean(1).tolist(), strict=True):
            self._count({"distance": sum(total) / batch, "velocity_share": share})
            for so_far, more in zip(self._by_time, (total, count), strict=True):
                so_far[:] = (a + b for a, b in zip(so_far, more, strict=True))


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
