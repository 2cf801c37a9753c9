"""Trainers with the signature of `ablate_core.trainer.train` that misbehave on purpose; imported in forks."""

from __future__ import annotations

import ctypes
import os
import random
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ATTEMPTS = "attempts.txt"


def _result(status: str, step: int, reason: str | None = None) -> Any:
    return SimpleNamespace(status=status, step=step, reason=reason, num_parameters=7, peak_mem_mb=1.0)


def by_seed(config: Any, folder: Path, *, device: str = "cpu", report: Any = None, should_stop: Any = None) -> Any:
    """Seed 0 is done, 1 raises, 2 leaves with code 9, 3 segfaults, 4 diverges, 5 runs out of memory once."""
    with open(folder / ATTEMPTS, "a", encoding="ascii") as file:
        file.write(f"{os.getpid()}\n")
    attempts = len((folder / ATTEMPTS).read_text(encoding="ascii").splitlines())
    report({"kind": "progress", "step": 1, "steps": config.train.steps})
    if config.seed == 1:
        raise RuntimeError("seed one\nnever works")
    if config.seed == 2:
        os._exit(9)
    if config.seed == 3:
        ctypes.string_at(0)
    if config.seed == 4:
        return _result("diverged", 2, "loss is not finite at step 2")
    if config.seed == 5 and attempts == 1:
        raise MemoryError("one terabyte")
    report({"kind": "scalar", "step": 2, "values": {"loss": 0.5, "bad": float("nan")}, "wall_seconds": 0.1})
    return _result("done", config.train.steps)


def spans(config: Any, folder: Path, *, device: str = "cpu", report: Any = None, should_stop: Any = None) -> Any:
    """Leaves behind when it ran, and in how many threads."""
    import torch

    started = time.time()
    time.sleep(0.6)
    (folder / "span.txt").write_text(f"{started} {time.time()} {torch.get_num_threads()} {device}", encoding="ascii")
    return _result("done", config.train.steps)


def slow(config: Any, folder: Path, *, device: str = "cpu", report: Any = None, should_stop: Any = None) -> Any:
    """The real trainer, a hundredth of a second a step."""
    from ablate_core.trainer import train

    def stop_slowly() -> bool:
        time.sleep(0.01)
        return bool(should_stop())

    return train(config, folder, device=device, report=report, should_stop=stop_slowly)


def broken_later(config: Any, folder: Path, **more: Any) -> Any:
    """As `broken`, but not before the driver may have heard of the one before."""
    time.sleep(0.15)
    return broken(config, folder, **more)


def broken(config: Any, folder: Path, *, device: str = "cpu", report: Any = None, should_stop: Any = None) -> Any:
    raise RuntimeError("nothing works")


def leaves(config: Any, folder: Path, *, device: str = "cpu", report: Any = None, should_stop: Any = None) -> Any:
    """Ends as a script ends."""
    sys.exit("bye")


def body(task: dict[str, Any], send: Any, should_stop: Any) -> None:
    """Body for tests of the fork server itself."""
    if "forks" in task and (child := os.fork()) == 0:  # it holds whatever this process has open
        time.sleep(60)
        os._exit(0)
    if "forks" in task:
        send({"child": child})
    if task["do"] == "exit":
        os._exit(9)
    if task["do"] == "segfault":
        ctypes.string_at(0)
    if task["do"] == "raise":
        raise RuntimeError("in the fork")
    if task["do"] == "print":
        print("said in the fork")
    if task["do"] == "hooks":
        send({name: len(sys.modules[name].called) for name in task["modules"]} | {"random": random.random()})
    send({"pid": os.getpid(), "server": os.getppid(), "devices": os.environ.get("CUDA_VISIBLE_DEVICES")})
    while task["do"] == "wait" and not should_stop():
        time.sleep(0.01)
    send({"stopped": bool(should_stop())})


def broken_evaluator(config: Any, folder: Path, *, device: str = "cpu", report: Any = None) -> Any:
    """Finds no number."""
    raise RuntimeError("the extractor is gone")


def broken_pack(members: Any, *, device: str = "cpu") -> Any:
    """Fails as a whole."""
    raise RuntimeError("nothing stacks")


def entangled_pack(members: Any, *, device: str = "cpu") -> Any:
    """Two members fail together, and nobody knows who it was; the others are done."""
    from ablate_core.packing import PackError

    error = PackError("the backward pass of 2 trials as one: ValueError: no derivative")
    return [error if i < 2 else _result("done", member.config.train.steps) for i, member in enumerate(members)]


def hungry_pack(members: Any, *, device: str = "cpu") -> Any:
    """Needs more memory than there is."""
    raise MemoryError("a terabyte each")


def pack_with_a_crash(members: Any, *, device: str = "cpu") -> Any:
    """Seed 2 takes the whole process with it; the others are done."""
    for member in members:
        member.report({"kind": "progress", "step": 1, "steps": member.config.train.steps})
    if any(member.config.seed == 2 for member in members):
        ctypes.string_at(0)
    return [_result("done", member.config.train.steps) for member in members]


def crash_of_two(config: Any, folder: Path, *, device: str = "cpu", report: Any = None, should_stop: Any = None) -> Any:
    """The same alone."""
    if config.seed == 2:
        ctypes.string_at(0)
    return _result("done", config.train.steps)
