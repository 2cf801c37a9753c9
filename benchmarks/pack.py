"""A pack of small trials against the same trials one after another; run ``python benchmarks/pack.py``.

Time of one optimiser step, per member (CPU seconds of one thread; on CUDA seconds from an idle device to an idle
device): of the pack; of `trainer.train` alone; and of the straightforward formulation that public code uses (a separate
forward pass, ``torch.func.jvp`` on a copy of the network for all rows, gradients on, averages in a Python loop, the
norm of the gradients fetched at every step). MeanFlow on a small SiT (depth 4, width 64, 8x8x3 images, patches of 2).
Interleaved; medians over the repeats. All three keep the memory that a step frees, as the training loop does: without
it (`--sweep`, where each is a process of its own) the straightforward step is slower.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import ClassVar, Literal

import torch
from step_sides import Size, Straightforward
from stopwatch import Stopwatch
from torch import Tensor

from ablate_core.architectures.sit import SiT
from ablate_core.config import TrialConfig
from ablate_core.datasets.base import Dataset, Samples
from ablate_core.memory import keep_memory
from ablate_core.packing import Member, train_pack
from ablate_core.trainer import train


class ColourNoise(Dataset):
    """Standard normal 8x8x3 images of ten classes: the contents do not matter here."""

    name: Literal["colour_noise"] = "colour_noise"
    kind: ClassVar[str] = "points"
    dimension: ClassVar[int] = 192
    classes: ClassVar[int | None] = 10

    def load(self) -> Samples:
        draw = torch.Generator().manual_seed(0)
        x = torch.randn(2000, 3, 8, 8, generator=draw)
        return Samples(x=x, y=torch.arange(2000) % 10, num_classes=10, identity={"name": self.name})

    def to_uint8(self, x: Tensor) -> Tensor:
        raise NotImplementedError


def config(seed: int, batch: int, steps: int) -> TrialConfig:
    return TrialConfig.model_validate(
        {
            "schedule": "linear",
            "objective": "meanflow",
            "architecture": {"name": "sit", "size": "tiny/2", "depth": 4, "width": 64, "heads": 4},
            "data": "colour_noise",
            "train": {"steps": steps, "batch_size": batch, "lr": 1e-4 * (1 + seed % 4), "optimizer": "adamw"},
            "eval": {"metric": "energy_distance", "samples": 10, "gallery": 0},
            "seed": seed,
        }
    )


def packed(members: int, batch: int, steps: int, device: str = "cpu") -> float:
    """Seconds of a step of one member in a pack."""
    watches = [Stopwatch(steps, device)] + [Stopwatch(steps) for _ in range(members - 1)]
    with tempfile.TemporaryDirectory() as folder:
        group = [
            Member(config(i, batch, steps + 9), Path(folder, str(i)), should_stop=watch)
            for i, watch in enumerate(watches)
        ]
        ends = train_pack(group, device=device)
    assert all(not isinstance(end, Exception) and end.status == "interrupted" for end in ends), ends
    return watches[0].per_step() / members


def alone(batch: int, steps: int, device: str = "cpu") -> float:
    """Seconds of a step of one trial of ours."""
    watch = Stopwatch(steps, device)
    with tempfile.TemporaryDirectory() as folder:
        train(config(0, batch, steps + 9), Path(folder), should_stop=watch, device=device)
    return watch.per_step()


def straightforward(batch: int, steps: int, device: str = "cpu") -> float:
    """Seconds of a step as public code writes it; see `step_sides`. Its optimiser is the one of `config`."""
    architecture = config(0, batch, steps).architecture
    assert isinstance(architecture, SiT)
    run = Straightforward("meanflow", Size(architecture, (3, 8, 8), batch), device, "fp32")
    run.optimizer = torch.optim.AdamW(run.parameters, lr=1e-4, betas=(0.9, 0.95), foreach=True)
    watch = Stopwatch(steps, device)
    while not watch():
        run.step()
    return watch.per_step()


def sweep(trials: int, steps: int) -> dict[str, float]:
    """CPU seconds of whole lives, imports included: a fresh interpreter for each trial, and one for a pack of all."""
    calls = {
        "straightforward, a process each": [f"pack.straightforward(8, {steps})"] * trials,
        "trainer.train, a process each": [f"pack.alone(8, {steps})"] * trials,
        "one pack": [f"pack.packed({trials}, 8, {steps})"],
    }
    return {name: sum(map(life, bodies)) for name, bodies in calls.items()}


def life(body: str) -> float:
    """CPU seconds of a fresh interpreter that runs `body` on one thread."""
    code = f"import torch; torch.set_num_threads(1); import pack; {body}"
    where = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
        "OMP_NUM_THREADS": "1",
    }
    process = subprocess.Popen([sys.executable, "-c", code], env=where)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{body} ended with code {process.returncode}")
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, default=16)
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--sweep", type=int, default=0, metavar="N", help="whole lives of N trials instead of steps")
    wanted = parser.parse_args()
    torch.set_num_threads(1)
    keep_memory()
    if wanted.sweep:
        rounds = [sweep(wanted.sweep, 60) for _ in range(wanted.repeats)]
        print(f"CPU seconds of {wanted.sweep} trials of 60 steps of 8, whole lives; median of {wanted.repeats}")
        medians = {name: statistics.median(row[name] for row in rounds) for name in rounds[0]}
        for name, seconds in medians.items():
            print(f"{name:<34}{seconds:>8.1f}{seconds / medians['one pack']:>8.1f}")
        return
    kind = "CPU ms" if wanted.device == "cpu" else f"ms on {torch.cuda.get_device_name()}"
    print(f"{kind} of one step of one member, median of {wanted.repeats}; {wanted.members} members")
    print(f"{'batch':>5}{'straightforward':>17}{'alone':>8}{'packed':>8}{'ratio':>8}{'to alone':>10}")
    for batch in wanted.batches:
        ways = {
            "straightforward": lambda batch=batch: straightforward(batch, wanted.steps, wanted.device),
            "alone": lambda batch=batch: alone(batch, wanted.steps, wanted.device),
            "packed": lambda batch=batch: packed(wanted.members, batch, wanted.steps, wanted.device),
        }
        found: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(wanted.repeats):
            for name, way in ways.items():
                found[name].append(way() * 1e3)
        slow, own, fast = (statistics.median(found[name]) for name in ways)
        print(f"{batch:>5}{slow:>17.2f}{own:>8.2f}{fast:>8.2f}{slow / fast:>8.1f}{own / fast:>10.1f}")


if __name__ == "__main__":
    main()
