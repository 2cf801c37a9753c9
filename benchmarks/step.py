"""One optimiser step of each method, ours against the straightforward one; run ``python benchmarks/step.py``.

Straightforward is what public code does (EDAPINENUT/ExplicitShortCut loss/meanflow_loss.py, train.py, arch/sit.py): a
network with attention written out, a forward pass of it for the prediction, ``torch.func.jvp`` on a deep copy for all
rows with gradients on (guided rows and others apart, after two forwards of the guided ones), an optimiser and an
average in loops over parameters, the norm of the gradients fetched at every step. The floor is flow matching of ours.
Before anything is timed, the gradients of both formulations are compared: relative difference of all gradients
together, at most 1e-6 in float32.

Each side is a process of its own that makes a step when it is told to. The straightforward one runs as public code
does, with the allocator as Python starts it; ours and the floor as the training loop does, which lets the process keep
the memory that a step frees (`ablate_core.memory`). What that alone would give the straightforward step is a column.

Times are CPU seconds of one thread (on CUDA: seconds between synchronisations), A B A B, medians; of two steps that
a side makes when it is its turn, the second. Memory is the peak of live tensors above what lives between steps,
gradients included; launches are operators that compute or copy, views left out, and loops in C. Both are of eager code:
a compiled run shows 0.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import itertools
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch
from launches import Watch
from step_sides import METHODS, SIZES, Ours, Run, Straightforward

from ablate_core.compiled import CompiledCompute
from ablate_core.cpu_kernels import SIGNATURES, kernels
from ablate_core.memory import keep_memory

SHORT = [
    "ours ms", "flow matching ms", "over it", "peak MiB", "over it", "launches", "flow matching"
]  # fmt: skip
HEADS = [
    "straightforward ms", "memory kept", "ours ms", "gain (at most)", "gain, memory kept", "over flow matching",
    "peak MiB", "ours", "over flow matching", "launches", "ours", "flow matching", "gradients differ",
]  # fmt: skip
"""Columns beside the method: of ours and the floor alone, and of all sides."""


@contextlib.contextmanager
def loops_counted(watch: Watch) -> Iterator[None]:
    """Within, calls of the loops in C are launches too."""
    library = kernels(torch.float32)
    own = {name: getattr(library, name) for name in SIGNATURES} if library else {}

    def counted(loop: Callable[..., None]) -> Callable[..., None]:
        def call(*args: Any) -> None:
            watch.launches += 1
            loop(*args)

        return call

    for name, loop in own.items():
        setattr(library, name, counted(loop))
    try:
        yield
    finally:
        for name, loop in own.items():
            setattr(library, name, loop)


def watched(run: Run) -> tuple[float, int]:
    """MiB of live tensors at the peak of the forward and backward pass, and launches of the whole step."""
    run.step()
    gc.collect()
    held = sum(p.grad.nbytes for p in run.parameters if p.grad is not None)
    with Watch() as passes, loops_counted(passes):
        run.differentiate()
    peak = held + passes.peak
    with Watch() as tail:
        run.update()
    return peak / 2**20, passes.launches + tail.launches


def operations(run: Run) -> float:
    """Floating-point operations of the matrix products and of fused attention of a step."""
    from torch.utils.flop_counter import FlopCounterMode  # warns of something of its own where it is imported

    with FlopCounterMode(display=False) as counted:
        run.step()
    return float(counted.get_total_flops())


def product_rate(dtype: str, n: int = 8192) -> float:
    """Operations per second of a large matrix product on the CUDA device: what a step could reach at most."""
    a, b = (torch.randn(n, n, device="cuda", dtype=torch.bfloat16 if dtype == "bf16" else None) for _ in range(2))
    a @ b
    return 2 * n**3 / statistics.median(seconds(lambda: a @ b, "cuda") for _ in range(5))


def next_seconds(step: Callable[[], object], device: str) -> float:
    """Seconds of a step that finds the caches as the one before it left them, as in a training loop."""
    step()
    return seconds(step, device)


def seconds(step: Callable[[], object], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
        began = time.perf_counter()
        step()
        torch.cuda.synchronize()
        return time.perf_counter() - began
    began = time.process_time()
    step()
    return time.process_time() - began


@dataclass(frozen=True)
class Side:
    """One of those that are compared, as its process is told.

    Attributes:
        ours: our step, else the straightforward one.
        method: a key of `METHODS`; likewise `size` of `SIZES`.
        batch: rows; 0: those of the size.
        kept: the process keeps the memory that a step frees.
        compiled: the networks run compiled.
    """

    ours: bool
    method: str
    size: str
    device: str
    dtype: str
    kept: bool
    compiled: bool = False
    batch: int = 0

    def start(self) -> Connection:
        """A process of its own that does what it is told; see `answer`."""
        here, there = multiprocessing.get_context("spawn").Pipe()
        multiprocessing.get_context("spawn").Process(target=answer, args=(self, there), daemon=True).start()
        there.close()  # else a child that ends would leave us waiting
        return here

    def build(self) -> Run:
        size = SIZES[self.size]
        size = replace(size, batch=self.batch or size.batch)
        if self.compiled:
            Ours.compute = CompiledCompute(size.architecture.model_dump(mode="json"))
        return (Ours if self.ours else Straightforward)(METHODS[self.method], size, self.device, self.dtype)


def answer(side: Side, pipe: Connection) -> None:
    """The life of a process: gradient, launches and steps as they are asked for, until the parent is gone."""
    torch.set_num_threads(1)
    if side.kept:
        keep_memory()
    run = side.build()
    answers: dict[str, Callable[[], Any]] = {
        "gradient": lambda: run.gradient().cpu().numpy(),
        "space": lambda: (0.0, 0) if run.compiled else watched(run),
        "step": lambda: next_seconds(run.step, side.device),
        "flops": lambda: operations(run),
        "rate": lambda: product_rate(side.dtype),
    }
    while True:
        try:
            wanted = pipe.recv()
        except EOFError:
            return
        pipe.send(answers[wanted]())


def asked(pipe: Connection, what: str) -> Any:
    pipe.send(what)
    return pipe.recv()


def in_turn(pipes: dict[str, Connection], rounds: int) -> dict[str, list[float]]:
    """Seconds of the steps of each side, one after the other, `rounds` times; two rounds before are not counted."""
    times: dict[str, list[float]] = {key: [] for key in pipes}
    for _ in range(rounds + 2):
        for key, pipe in pipes.items():
            times[key].append(asked(pipe, "step"))
    return {key: found[2:] for key, found in times.items()}


def shares(sides: dict[str, Side], times: dict[str, list[float]]) -> list[str]:
    """Of ours and of the floor: how much of a large product's rate a step reaches, as two cells; only on CUDA.

    Operations are counted in an eager step: in compiled code nobody sees them.
    """
    if sides["ours"].device != "cuda":
        return []
    cells = []
    for key in ("ours", "floor"):
        pipe = replace(sides[key], compiled=False).start()
        done = asked(pipe, "flops") / statistics.median(times[key])
        cells.append(f"{100 * done / asked(pipe, 'rate'):.0f} %")
        pipe.close()
    return cells


Measured = dict[str, list[float]]


def over(times: Measured, top: str, bottom: str) -> float:
    """Median ratio of neighbours: the machine may change its pace between two rounds."""
    return statistics.median(a / b for a, b in zip(times[top], times[bottom], strict=True))


def measured(pipes: dict[str, Connection], rounds: int) -> tuple[Measured, dict[str, tuple[float, int]]]:
    """Seconds of the steps of each side, and its space: MiB and launches. The sides end."""
    space = {key: asked(pipe, "space") for key, pipe in pipes.items() if key != "kept"}
    times = in_turn(pipes, rounds)
    for pipe in pipes.values():
        pipe.close()
    return times, space


def against_floor(own: Side, rounds: int) -> list[str]:
    """A line of the short table: ours and flow matching of ours."""
    sides = {"ours": own, "floor": replace(own, method="fm")}
    times, space = measured({key: side.start() for key, side in sides.items()}, rounds)
    (peak, launches), (least, fewest) = space["ours"], space["floor"]
    ms = [f"{1000 * statistics.median(times[key]):.1f}" for key in sides]
    ratio = f"{over(times, 'ours', 'floor'):.3f}"
    return [*ms, ratio, f"{peak:.0f}", f"{peak / (least or 1):.3f}", str(launches), str(fewest), *shares(sides, times)]


def compare(own: Side, rounds: int) -> list[str]:
    """A line of the table. Exits where gradients in float32 differ by more than 1e-6."""
    straight = replace(own, ours=False, kept=False, compiled=False)
    floor, kept = replace(own, method="fm"), replace(straight, kept=True)
    sides = {"ours": own, "straight": straight, "floor": floor, "kept": kept}
    pipes = {key: side.start() for key, side in sides.items()}
    ours, theirs = (asked(pipes[key], "gradient") for key in ("ours", "straight"))
    error = float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))
    if own.dtype == "fp32" and error > 1e-6:
        raise SystemExit(f"{own.method}: the gradients differ by {error:.1e}; nothing was timed")
    times, space = measured(pipes, rounds)
    peaks, launches = ({key: found[part] for key, found in space.items()} for part in (0, 1))
    return [
        *(f"{1000 * statistics.median(times[key]):.1f}" for key in ("straight", "kept", "ours")),
        f"{over(times, 'straight', 'ours'):.2f}x ({over(times, 'straight', 'floor'):.2f}x)",
        f"{over(times, 'kept', 'ours'):.2f}x",
        f"{over(times, 'ours', 'floor'):.3f}",
        f"{peaks['straight']:.0f}",
        f"{peaks['ours']:.0f}",
        f"{peaks['ours'] / (peaks['floor'] or 1):.3f}",
        *(str(launches[key]) for key in ("straight", "ours", "floor")),
        f"{error:.0e}",
        *shares(sides, times),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=[*SIZES], nargs="+", default=["tiny", "small"])
    parser.add_argument("--method", choices=[*METHODS], nargs="+", default=[*METHODS])
    parser.add_argument("--dtype", choices=["fp32", "bf16"], nargs="+", default=["fp32"])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, default=0, help="rows; 0: those of the size")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--floor", action="store_true", help="without the straightforward step: ours and the floor")
    parser.add_argument("--compile", action="store_true", help="ours and the floor run compiled, as train.compile does")
    given = parser.parse_args()
    line, heads = (against_floor, SHORT) if given.floor else (compare, HEADS)
    if given.device == "cuda":
        heads = [*heads, "of a product's rate", "flow matching"]
    for size, dtype in itertools.product(given.size, given.dtype):
        rows = given.batch or SIZES[size].batch
        print(f"\n{size}, {dtype}, {given.device}, batch {rows}, median of {given.rounds}\n")
        print(row(["method", *heads]))
        print("|---" * (1 + len(heads)) + "|")
        for name in given.method:
            own = Side(True, name, size, given.device, dtype, kept=True, compiled=given.compile, batch=given.batch)
            print(row([name, *line(own, given.rounds)]), flush=True)


def row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
