"""A `should_stop` that times the steps of a training loop."""

from __future__ import annotations

import time

import torch


class Stopwatch:
    """Asked at every step boundary: it ends the trial after `steps`, and times those after the first `warm`.

    CPU seconds; on CUDA, seconds from an idle device to an idle device.
    """

    def __init__(self, steps: int, device: str = "cpu", warm: int = 3) -> None:
        self.steps, self.device, self.warm, self.asked = steps, device, warm, 0
        self.began = self.ended = 0.0

    def __call__(self) -> bool:
        if self.asked == self.warm:
            self.began = self._now()
        if self.asked == self.steps:
            self.ended = self._now()
        self.asked += 1
        return self.asked > self.steps

    def per_step(self) -> float:
        return (self.ended - self.began) / (self.steps - self.warm)

    def _now(self) -> float:
        if self.device == "cpu":
            return time.process_time()
        torch.cuda.synchronize()  # between the steps that are timed nothing waits
        return time.perf_counter()
