"""One optimiser step compiled, eager and as public code writes it; run ``python benchmarks/compiled.py``.

Times are those of ``benchmarks/step.py``, whose networks and formulations these are. Before, each method is compiled
twice in processes of their own: with an empty cache and with what the first left there (CPU seconds, those of the C++
compiler among them). Graphs are those of all steps that were made: more than one for each unit would be recompilations.
The number of rows that learn a jump is drawn anew at every step while they are counted; while steps are timed it is a
quarter.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from typing import Any

import torch
from step import over, seconds
from step_sides import METHODS, SIZES, Ours, Run, Size, Straightforward

from ablate_core.compiled import CompiledCompute
from ablate_core.random import Draws

COUNTED = 12
"""Steps in which graphs are counted."""


class Compiled(Ours):
    """The step of the training loop with `train.compile`."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.compute = CompiledCompute(self.size.architecture.model_dump(mode="json"))
        self.called = self.compute.network(self.net, "net")
        self.any_rows = False

    def draws(self) -> Draws:
        return Draws(1, self.count, device=self.device) if self.any_rows else super().draws()


def compile_costs(method: str, size: Size, device: str, dtype: str) -> dict[str, float]:
    """What compiling `method` costs in this process, with the cache as it is."""
    run = Compiled(METHODS[method], size, device, dtype)
    run.any_rows = True
    for _ in range(COUNTED):
        run.step()
    return run.compute.costs()


def in_own_process(given: argparse.Namespace, method: str, size: str, dtype: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--child", "--method", method, "--size", size, "--dtype", dtype]
    out = subprocess.run([*command, "--device", given.device], stdout=subprocess.PIPE, check=True, text=True).stdout
    costs: dict[str, float] = json.loads(out.splitlines()[-1])
    return costs


def compare(name: str, size: Size, device: str, dtype: str, rounds: int) -> str:
    """Milliseconds and ratios of one method."""
    runs: dict[str, Run] = {
        "straight": Straightforward(METHODS[name], size, device, dtype),
        "eager": Ours(METHODS[name], size, device, dtype),
        "compiled": Compiled(METHODS[name], size, device, dtype),
        "floor": Compiled(METHODS["fm"], size, device, dtype),
    }
    eager = runs["eager"].gradient()
    error = float((runs["compiled"].gradient() - eager).norm() / eager.norm())
    for run in runs.values():
        run.step()
    times: dict[str, list[float]] = {key: [] for key in runs}
    for _ in range(rounds):
        for key, run in runs.items():
            times[key].append(seconds(run.step, device))
    pairs = (("straight", "compiled"), ("eager", "compiled"), ("compiled", "floor"))
    ratios = [over(times, *pair) for pair in pairs]
    ms = [f"{1000 * statistics.median(times[key]):.1f}" for key in ("straight", "eager", "compiled")]
    return " | ".join([*ms, *(f"{ratio:.2f}x" for ratio in ratios[:2]), f"{ratios[2]:.3f}", f"{error:.0e}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=[*SIZES], default="small")
    parser.add_argument("--method", choices=[*METHODS], nargs="+", default=["fm", "meanflow", "meanflow, guided"])
    parser.add_argument("--dtype", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cache", help="folder of compiled code; default: a new one, so that everything is compiled")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    size = SIZES[given.size]
    if given.child:
        print(json.dumps(compile_costs(given.method[0], size, given.device, given.dtype)))
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ABLATE_CACHE"] = given.cache or folder
        print(f"{given.size}, {given.dtype}, {given.device}, batch {size.batch}, median of {given.rounds}\n")
        print("| method | cold CPU s | warm CPU s | graphs | straightforward ms | eager | compiled "
              "| over straightforward | over eager | over compiled flow matching | gradients differ |")  # fmt: skip
        print("|---" * 11 + "|")
        for name in given.method:
            cold, warm = (in_own_process(given, name, given.size, given.dtype) for _ in range(2))
            costs = (
                f"{cold['compile_cpu_seconds']:.0f} | {warm['compile_cpu_seconds']:.1f} | {warm['compiled_graphs']:.0f}"
            )
            print(f"| {name} | {costs} | {compare(name, size, given.device, given.dtype, given.rounds)} |", flush=True)


if __name__ == "__main__":
    main()
