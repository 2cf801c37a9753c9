"""The core on a CUDA device: every method trains, agrees with the CPU, resumes bit for bit; then step times.

Needs torch, pydantic and numpy only, no Ray: ``make gpu-check``. Without a CUDA device it says so and ends with 0, so
that `make bench` runs everywhere.
"""

from __future__ import annotations

import itertools
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from ablate_core.config import TrialConfig
from ablate_core.methods import METHODS
from ablate_core.trainer import train

STEPS = 40
KERNEL_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 5e-3}
TOLERANCE = 2e-2  # relative, on the mean loss of the first 40 steps in float32: reductions differ, and steps amplify it


def config(method: str, **train_fields: Any) -> TrialConfig:
    """A small SiT on the embedded digits, one measurement at the end."""
    fields = {"steps": STEPS, "batch_size": 128, "lr": 1e-3, "ema": [0.99], "log_every": 10, "checkpoint_every": 15}
    return TrialConfig.model_validate(
        {
            "schedule": "linear",
            "objective": method,
            "architecture": {"name": "sit", "size": "tiny/4"},
            "data": "digits",
            "train": {**fields, **train_fields},
            "eval": {"metric": "fd_digits", "samples": 500, "gallery": 0},
        }
    )


def run(trial: TrialConfig, device: str, stop_at: int | None = None, folder: Path | None = None) -> dict[str, Any]:
    """Train; with `stop_at` interrupt there and go on, as a preempted trial does. Returns losses and final weights."""
    folder = folder or Path(tempfile.mkdtemp())
    losses: dict[int, float] = {}
    seen = {"step": 0}

    def report(event: dict[str, Any]) -> None:
        seen["step"] = max(seen["step"], int(event.get("step") or 0))
        if event["kind"] == "scalar" and "loss" in event["values"]:
            losses[event["step"]] = event["values"]["loss"]

    if stop_at is not None:
        calls = iter(range(10**9))
        first = train(trial, folder, device=device, report=report, should_stop=lambda: next(calls) >= stop_at)
        assert first.status == "interrupted", first
    result = train(trial, folder, device=device, report=report)
    state = torch.load(folder / "checkpoint.pt", weights_only=True, map_location="cpu")
    return {"status": result.status, "losses": losses, "state": state, "wall": result.wall_seconds}


def tensors(value: Any) -> list[torch.Tensor]:
    """All tensors of a nested checkpoint, in a fixed order."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        return [t for key in sorted(value, key=str) for t in tensors(value[key])]
    if isinstance(value, list | tuple):
        return [t for item in value for t in tensors(item)]
    return []


def step_seconds(trial: TrialConfig, device: str, repeats: int = 3) -> float:
    """Median seconds per step after a warm-up run, whole training loop included."""
    run(trial, device)
    times = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        start = time.perf_counter()
        run(trial, device)
        torch.cuda.synchronize()
        times.append((time.perf_counter() - start) / trial.train.steps)
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


def main() -> int:
    if not torch.cuda.is_available():
        print("gpu-check: no CUDA device; nothing was checked")
        return 0
    print(f"gpu-check: {torch.cuda.get_device_name()}, torch {torch.__version__}")
    bad = 0
    for method in METHODS:
        cpu, gpu = run(config(method), "cpu"), run(config(method), "cuda")
        again = run(config(method), "cuda", stop_at=STEPS // 2)
        bf16 = run(config(method, precision="bf16"), "cuda")
        worst = max(abs(gpu["losses"][k] - v) / max(abs(v), 1e-6) for k, v in cpu["losses"].items())
        exact = all(torch.equal(a, b) for a, b in zip(tensors(gpu["state"]), tensors(again["state"]), strict=True))
        good = worst < TOLERANCE and gpu["status"] == bf16["status"] == "done"
        bad += not good
        ms = 1000 * step_seconds(config(method, steps=200, checkpoint_every=10_000), "cuda")
        print(
            f"{'ok ' if good else 'BAD'} {method:10}  loss against CPU {worst:.1e}  resume bit-exact {exact}  "
            f"bf16 {bf16['status']}  {ms:.2f} ms/step"
        )
    try:
        errors = kernel_errors()
    except ImportError:
        errors = {}
        print("attention kernel: Triton is not installed; not used, not checked")
    for case, error in errors.items():
        good = error < next(bound for dtype, bound in KERNEL_TOLERANCE.items() if case.startswith(str(dtype)))
        bad += not good
        print(f"{'ok ' if good else 'BAD'} attention kernel {case}: {error:.1e}")
    measured = config("meanflow", snapshot_every=5).resolved()
    measured["eval"]["ema"] = {"sigma_rel": 0.15}
    found = run(TrialConfig.model_validate(measured), "cuda")  # combines averages of the device with stored ones
    bad += found["status"] != "done"
    print(f"post-hoc average: {found['status']}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
