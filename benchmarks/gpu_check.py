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

import numpy as np
import torch
from stopwatch import Stopwatch
from torch import Tensor

from ablate_core import legality, trainer
from ablate_core.config import TrialConfig
from ablate_core.fid.device_moments import DeviceMoments
from ablate_core.methods import METHODS
from ablate_core.packing import Member, train_pack
from ablate_core.random import Draws
from ablate_core.trainer import train

STEPS = 40
KERNEL_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 5e-3}
TOLERANCE = 2e-3  # relative, on mean losses of ten steps in float32: reductions differ, and steps amplify it
AT_ONCE = 8
COMPILED = ("fm", "meanflow")
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
    worst = losses_apart(gpu, cpu)
    resumed = list(zip(tensors(whole["state"]["net"]), tensors(again["state"]["net"]), strict=True))
    apart = max(float((a - b).norm() / (a.norm() + 1e-12)) for a, b in resumed)
    waits = waiting(method)
    good = worst < TOLERANCE and gpu["status"] == bf16["status"] == "done" and apart < 1e-3 and not waits
    return good, (
        f"loss against CPU {worst:.1e}  weights after a resume {apart:.1e}  bf16 {bf16['status']}  "
        f"waits {'none' if not waits else waits}"
    )


def check_compiled(method: str) -> tuple[bool, str]:
    """Whether a compiled trial trains as the eager one does, warnings of failed compilations included."""
    torch.set_num_threads(1)
    eager = run(config(method), "cuda")
    began = time.perf_counter()
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        compiled = run(config(method, compile=True), "cuda")
    told = [str(w.message) for w in found if "train.compile" in str(w.message)]
    worst = losses_apart(compiled, eager)
    return worst < TOLERANCE and not told, (
        f"compiled: loss against eager {worst:.1e}, {time.perf_counter() - began:.0f} s{''.join(told)}"
    )


def check_pack() -> tuple[bool, str]:
    """Whether members of a pack that differ in method, seed and rate train as each does alone."""
    torch.set_num_threads(1)
    trials = [
        config(method, lr=lr).model_copy(update={"seed": seed})
        for seed, (method, lr) in enumerate((("meanflow", 1e-3), ("meanflow", 5e-4), ("fm", 1e-3), ("scd", 1e-3)))
    ]
    alone = [run(trial, "cuda") for trial in trials]
    losses: list[dict[int, float]] = [{} for _ in trials]

    def report_to(own: dict[int, float]) -> Any:
        return lambda event: own.update({event["step"]: event["values"]["loss"]} if event["kind"] == "scalar" else {})

    with tempfile.TemporaryDirectory() as name:
        folders = [Path(name, str(i)) for i in range(len(trials))]
        members = [
            Member(trial, folder, report=report_to(own))
            for trial, folder, own in zip(trials, folders, losses, strict=True)
        ]
        ends = train_pack(members, device="cuda")
    worst = max(losses_apart({"losses": own}, other) for own, other in zip(losses, alone, strict=True))
    done = all(not isinstance(end, Exception) and end.status == "done" for end in ends)
    return done and worst < TOLERANCE, f"loss of a pack's members against each alone {worst:.1e}"


def losses_apart(ours: dict[str, Any], theirs: dict[str, Any]) -> float:
    """The largest relative difference of the logged losses."""
    assert ours["losses"].keys() == theirs["losses"].keys()
    return max(abs(ours["losses"][k] - v) / max(abs(v), 1e-6) for k, v in theirs["losses"].items())


def moments_error() -> tuple[float, float]:
    """Relative error of the covariance that is summed on the device, and its seconds: 10,000 features of 2048."""
    features = torch.randn(10_000, 2048, device="cuda") + torch.randn(2048, device="cuda")
    exact = np.cov(features.cpu().double().numpy(), rowvar=False)
    for _ in range(2):
        torch.cuda.synchronize()
        began = time.perf_counter()
        moments = DeviceMoments(2048, torch.device("cuda"))
        for part in features.split(500):
            moments.update(part)
        torch.cuda.synchronize()
        took = time.perf_counter() - began
    return float(np.linalg.norm(moments.moments().cov - exact) / np.linalg.norm(exact)), took


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
            trials = [trial.model_copy(update={"seed": seed}) for seed in range(packed)]
            stops = [should_stop, *[lambda: asked["times"] > 30] * (packed - 1)]
            members = [Member(t, Path(folder, str(t.seed)), should_stop=s) for t, s in zip(trials, stops, strict=True)]
            train_pack(members, device="cuda")
        else:
            train(trial, Path(folder), device="cuda", should_stop=should_stop)
    torch.cuda.set_sync_debug_mode("default")
    synchronous = [w for w in found if "called a synchronizing" in str(w.message)]
    return dict(Counter(f"{Path(w.filename).name}:{w.lineno}" for w in synchronous))


def step_seconds(trial: TrialConfig, repeats: int = 3) -> float:
    """Median seconds of a step in the steady loop."""
    times = []
    for _ in range(repeats):
        watch = Stopwatch(120, "cuda", warm=20)
        with tempfile.TemporaryDirectory() as folder:
            train(trial, Path(folder), device="cuda", should_stop=watch)
        times.append(watch.per_step())
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
        found = [("a pack", pool.submit(check_pack))]
        found += [(method, pool.submit(check, method)) for method in METHODS]
        found += [(method, pool.submit(check_compiled, method)) for method in COMPILED]
        for name, future in found:
            good, line = future.result()
            bad += not good
            print(f"{'ok ' if good else 'BAD'} {name:13}  {line}", flush=True)
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
    error, took = moments_error()
    bad += error > 1e-12
    print(f"{'ok ' if error <= 1e-12 else 'BAD'} moments of 10,000 x 2048 features: {error:.1e}, {1000 * took:.0f} ms")
    measured = config("meanflow", snapshot_every=5).resolved()
    measured["eval"]["ema"] = {"sigma_rel": 0.15}
    end = run(TrialConfig.model_validate(measured), "cuda")["status"]  # averages of the device and stored ones
    bad += end != "done"
    print(f"post-hoc average: {end}")
    for method in TIMED:
        print(f"{method:10}  {1000 * step_seconds(config(method, steps=400, checkpoint_every=10_000)):.2f} ms/step")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
