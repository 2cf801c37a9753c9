"""Trials that do nothing, in a module of their own: a fork imports it in no time."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any


def train(config: Any, folder: Path, *, device: str = "cpu", report: Any = None, should_stop: Any = None) -> Any:
    """A trainer that does nothing."""
    return SimpleNamespace(status="done", step=1, reason=None, num_parameters=0, peak_mem_mb=0.0)


def first_step(config: Any, folder: Path, *, device: str = "cpu", report: Any = None, should_stop: Any = None) -> Any:
    """The real trainer, until its first step begins: then it fails with the machine's time and its own."""
    from ablate_core.trainer import train as real

    def begins() -> bool:
        raise RuntimeError(f"{time.perf_counter()} {time.process_time()}")

    return real(config, folder, device=device, report=report, should_stop=begins)
