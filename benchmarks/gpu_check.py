"""The core on a CUDA device: every method trains as on the CPU, resumes, and never waits; then the time of its steps.

Needs torch, pydantic and numpy only, no Ray: ``make gpu-check``. Without a CUDA device it says so and ends with 0, so
that `make bench` runs everywhere. Methods are checked side by side, then timed one by one.
"""

from __future__ import annotations

import itertools
import multiprocessing
import statistics
import sys
import tempfile
import time
import warnings
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ablate_core import legality, trainer
from ablate_core.config import TrialConfig
from ablate_core.methods import METHODS
from ablate_core.packing import Member, train_pack
from ablate_core.random import Draws
from ablate_core.trainer import train

STEPS = 40
KERNEL_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 5e-3}
TOLERANCE = 2e-3  # relative, on mean losses of ten steps in float32: reductions differ, and steps amplify it
AT_ONCE = 8
TIMED = ("fm", "meanflow", "esc", "sct", "scd", "imm")


class SameDraws(Draws):
    """Random numbers of the CPU wherever the trial runs: torch's generators differ from device to device."""

    def normal(self, name: str, *shape: int) -> Tensor:
        own = Draws(self.seed, self.step, dtype=self.dtype)
        return own.normal(name, *shape).to(self.device)

    def uniform(self, name: str, *shape: int) -> Tensor:
        own = Draws(self.seed, self.step, dtype=self.dtype)
        return own.uniform(name, *shape).to(self.device)

    def integers(self, name: str, high: int, *shape: int) -> Tensor:
        return Draws(self.seed, self.step).integers(name, high, *shape).to(self.device)


def config(method: str, **train_fields: Any) -> TrialConfig:
    """A small SiT on the embedded digits and the first path that suits, one measurement at the end."""
    fields = {"steps": STEPS, "batch_size": 128, "lr": 1e-3, "ema": [0.99], "log_every": 10, "checkpoint_every": 15}
    for schedule in ("linear", "cosine01", "ve"):
        found = TrialConfig.model_validate(
            {
                "schedule": schedule,
                "objective": method,
                "architecture": {"name": "sit", "size": "tiny/4"},
                "data": "digits",
                "train": {**fields, **train_fields},
                "eval": {"metric": "fd_digits", "samples": 500, "gallery": 0},
            }
        )
        if not any(problem.level == "error" for problem in legality.check(found)):
            return found
    raise ValueError(f"no path suits {method}")


def run(trial: TrialConfig, device: str, stop_at: int | None = None) -> dict[str, Any]:
    """Train; with `stop_at` interrupt there and go on, as a preempted trial does. Returns losses and final weights."""
    losses: dict[int, float] = {}

    def report(event: dict[str, Any]) -> None:
        if event["kind"] == "scalar" and "loss" in event["values"]:
            losses[event["step"]] = event["values"]["loss"]

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if stop_at is not None:
            calls = iter(range(10**9))
            first = train(trial, folder, device=device, report=report, should_stop=lambda: next(calls) >= stop_at)
            assert first.status == "interrupted", first
        result = train(trial, folder, device=device, report=report)
        state = torch.load(folder / "checkpoint.pt", weights_only=True, map_location="cpu")
    return {"status": result.status, "losses": losses, "state": state}


def tensors(value: Any) -> list[torch.Tensor]:
    """All tensors of a nested checkpoint, in a fixed order."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        return [t for key in sorted(value, key=str) for t in tensors(value[key])]
    if isinstance(value, list | tuple):
        return [t for item in value for t in tensors(item)]
    return []


def check(method: str) -> tuple[bool, str]:
    """Whether a method does on CUDA what it does on the CPU, and a line about it."""
    torch.set_num_threads(1)
    vars(trainer)["Draws"] = SameDraws
    cpu, gpu = run(config(method), "cpu"), run(config(method), "cuda")
    vars(trainer)["Draws"] = Draws
    whole, again = run(config(method), "cuda"), run(config(method), "cuda", stop_at=STEPS // 2)
    bf16 = run(config(method, precision="bf16"), "cuda")
    worst = max(abs(gpu["losses"][k] - v) / max(abs(v), 1e-6) for k, v in cpu["losses"].items())
    resumed = list(zip(tensors(whole["state"]["net"]), tensors(again["state"]["net"]), strict=True))
    apart = max(float((a - b).norm() / (a.norm() + 1e-12)) for a, b in resumed)
    waits = waiting(method)
    good = worst < TOLERANCE and gpu["status"] == bf16["status"] == "done" and apart < 1e-3 and not waits
    return good, (
        f"loss against CPU {worst:.1e}  weights after a resume {apart:.1e}  bf16 {bf16['status']}  "
        f"waits {'none' if not waits else waits}"
    )


def waiting(method: str, packed: int = 0) -> dict[str, int]:
    """Where the host waits for the device in ten steps of the steady loop, by place, and how often."""
    trial = config(method, steps=200, log_every=100, checkpoint_every=10_000)
    asked = {"times": 0}

    def should_stop() -> bool:
        asked["times"] += 1
        torch.cuda.set_sync_debug_mode("warn" if 20 < asked["times"] <= 30 else "default")
        return asked["times"] > 30

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        if packed:
            alike = [config(method, **trial.train.model_dump()) for _ in range(packed)]
            members = [Member(one, Path(folder, str(i))) for i, one in enumerate(alike)]
            first, *others = members
            stops = [Member(first.config, first.folder, should_stop=should_stop)]
            stops += [Member(m.config, m.folder, should_stop=lambda: asked["times"] > 30) for m in others]
            train_pack(stops, device="cuda")
        else:
            train(trial, Path(folder), device="cuda", should_stop=should_stop)
    torch.cuda.set_sync_debug_mode("default")
    synchronous = [w for w in found if "called a synchronizing" in str(w.message)]
    return dict(Counter(f"{Path(w.filename).name}:{w.lineno}" for w in synchronous))


def step_seconds(trial: TrialConfig, repeats: int = 3) -> float:
    """Median seconds of a step in the steady loop, from an idle device to an idle device."""
    warm, timed = 20, 100
    times = []
    for _ in range(repeats):
        seen: list[float] = []

        def should_stop(seen: list[float] = seen) -> bool:
            seen.append(0.0)
            if len(seen) in (warm, warm + timed):
                torch.cuda.synchronize()
                seen[-1] = time.perf_counter()
            return len(seen) >= warm + timed

        with tempfile.TemporaryDirectory() as folder:
            train(trial, Path(folder), device="cuda", should_stop=should_stop)
        times.append((seen[-1] - seen[warm - 1]) / timed)
    return statistics.median(times)


def kernel_errors() -> dict[str, float]:
    """Relative error of the attention kernel, the larger of value and tangent, against float64 products."""
    from ablate_core.architectures.pairs import attention_tangent as explicit
    from ablate_core.attention_kernel import attention_tangent

    errors = {}
    for dtype, shape in itertools.product(KERNEL_TOLERANCE, ((8, 12, 256, 64), (4, 3, 70, 24), (2, 2, 64, 128))):
        given = [torch.randn(shape, device="cuda").to(dtype) for _ in range(6)]
        exact = explicit(*(x.double() for x in given))
        both = zip(attention_tangent(*given), exact, strict=True)
        errors[f"{dtype} {shape}"] = max(float((ours.double() - e).norm() / e.norm()) for ours, e in both)
    return errors


def kernel_gain() -> float:
    """How many times as fast as the products it replaces: bf16, 8 samples, 12 heads, 256 tokens of 64."""
    from ablate_core.architectures.pairs import attention_tangent as explicit
    from ablate_core.attention_kernel import attention_tangent

    given = [torch.randn(8, 256, 12, 64, device="cuda", dtype=torch.bfloat16).transpose(1, 2) for _ in range(6)]
    found: dict[Any, list[float]] = {attention_tangent: [], explicit: []}
    for _ in range(30):
        for way, times in found.items():
            torch.cuda.synchronize()
            began = time.perf_counter()
            for _ in range(10):
                way(*given)
            torch.cuda.synchronize()
            times.append(time.perf_counter() - began)
    return statistics.median(found[explicit]) / statistics.median(found[attention_tangent])


def main() -> int:
    if not torch.cuda.is_available():
        print("gpu-check: no CUDA device; nothing was checked")
        return 0
    print(f"gpu-check: {torch.cuda.get_device_name()}, torch {torch.__version__}")
    bad = 0
    with ProcessPoolExecutor(AT_ONCE, multiprocessing.get_context("spawn")) as pool:
        for method, (good, line) in zip(METHODS, pool.map(check, METHODS), strict=True):
            bad += not good
            print(f"{'ok ' if good else 'BAD'} {method:10}  {line}", flush=True)
    try:
        errors = kernel_errors()
        print(f"attention kernel: {kernel_gain():.2f} times as fast as the products it replaces")
    except ImportError:
        errors = {}
        print("attention kernel: Triton is not installed; not used, not checked")
    for case, error in errors.items():
        good = error < next(bound for dtype, bound in KERNEL_TOLERANCE.items() if case.startswith(str(dtype)))
        bad += not good
        print(f"{'ok ' if good else 'BAD'} attention kernel {case}: {error:.1e}")
    waits = waiting("meanflow", packed=4)
    bad += bool(waits)
    print(f"{'BAD' if waits else 'ok '} a pack waits: {waits or 'nowhere'}")
    measured = config("meanflow", snapshot_every=5).resolved()
    measured["eval"]["ema"] = {"sigma_rel": 0.15}
    found = run(TrialConfig.model_validate(measured), "cuda")  # combines averages of the device with stored ones
    bad += found["status"] != "done"
    print(f"post-hoc average: {found['status']}")
    for method in TIMED:
        print(f"{method:10}  {1000 * step_seconds(config(method, steps=400, checkpoint_every=10_000)):.2f} ms/step")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
