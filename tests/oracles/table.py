"""The table of which test proves what, collected from the tests: `python tests/oracles/table.py` writes README.md.

Markers say it: ``oracle("O4")``, ``proves("limit:lagrangian")`` for a closed form or an independent formula,
``contract("limit:lagrangian")`` for a test that runs a component without knowing the right answer. A name in braces is
a parameter of the test: ``proves("schedule:{path}")``. ``row:meanflow`` stands for every choice of a row: all of it in
a contract, what enters the loss in a proof. A test named ``test_d8_...`` or ``test_n4_...`` is that of the defect.
Test modules are collected in a process of their own, so that the answer is the same in any selection of tests; where
all tests are selected, `conftest.py` reads it from them.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
README = HERE / "README.md"
FOLDERS = ("tests/core", "tests/oracles")
OUTPUT = "ABLATE_TABLE_OUTPUT"
SLOTS = {"metric": "loss_metric"}
"""Slots of an objective that are not called like their axis."""

ORACLES = {
    "O1": "paths: closed and general coefficients, exact DDIM jumps, endpoints",
    "O2": "paths: derivatives of coefficients",
    "O3": "solvers: Euler is DDIM on straight paths only, Heun with the clean sample is Euler on VE",
    "O4": "identities of the exact flow map: Eulerian, Lagrangian, semigroup, MeanFlow, sCT, SplitMeanFlow",
    "O5": "derivatives: central differences at second order, double backward, equal without a graph",
    "O6": "two steps tend to their continuous limit at first order; AlphaFlow likewise",
    "O7": "targets with conditional velocities are unbiased, their covariance is carried by the map",
    "O8": "the bias of two-step targets with conditional velocities falls as (t - s)^2",
    "O9": "plug-in velocity: naive sum, error as 1 / B, effective sample size, class mask, permutation",
    "O10": "time samplers: closed distributions, order, shares, grids",
    "O11": "metrics: gradients, limits, zero at equality",
    "O12": "MMD: kernel matrix, closed mean, groups apart",
    "O13": "learned weighting: optimum, shape, rows apart",
    "O14": "tangents: warm-up, length, off",
    "O15": "guidance: fixed points, windows, dropped rows",
    "O16": "targets carry no gradient; losses that are differentiated through a derivative are",
    "O17": "reductions E1 to E9",
    "O18": "recorded numbers of public references",
    "O19": "samplers: exact maps compose, restarts keep the distribution, guidance 1 is off",
    "O20": "averages: half-life, adaptive decay",
    "O21": "networks: zero at the start, parameter counts, conditioning",
    "O22": "whole trials on a toy",
    "O23": "batches: one class, every sample, any size",
}

DEFECTS = {
    "D1": "log-variance of shape (B, 1)",
    "D2": "foreign arguments where no row is guided",
    "D2b": "labels needed where there are none",
    "D3": "every baseline command trains ESC",
    "D4": "settings that never reach SCD",
    "D5": "division by a warm-up of 0",
    "D5b": "a row that refuses its own time sampler",
    "D5c": "no batches but those of one class",
    "D5d": "one path only, found out late",
    "D5e": "steps overwritten, checkpoint of a wrapper, gradient norm undefined",
    "D6": "sCT target without c_out",
    "D7": "MMD bandwidth of every group on every group",
    "D8": "intermediate time below the landing time",
    "D9": "coefficients of t used at s",
    "D10": "guided halves swapped, class 0 as null class",
    "D11": "class-consistent batches run off the end",
    "D12": "noise levels squeezed into [0.4989, 0.5]",
    "D13": "sampling with another preconditioner than training",
    "D14": "one name for two reductions",
    "D15": "latent scale transposed, sigma_data off by two",
    "D16": "labels dropped on r = t rows only",
    "D17": "label dropout after the forward pass",
    "D18": "every jump of a small batch is 1",
    "D19": "no labels without label dropout",
    "D20": "targets with a graph, in another precision",
    "D21": "plug-in computed where unused, from (B, B, D), failing at t = 0",
    "D22": "float32 cast in the time embedding",
    "D23": "ramp shape fixed and misnamed",
    "D24": "averages without buffers",
    "D25": "attention over d, no zero-init, data left in the noise",
    "D26": "pseudo-Huber per entry",
    "D27": "a credential in the source",
    "D28": "labels edited in place, NaN hidden",
    "D29": "row order decides",
    "D30": "noise levels below 1 look alike",
    "N1": "guided sampling fails for batches above 1",
    "N2": "kernel floor on the squared distance",
    "N3": "target decay from N after its + 1",
    "N4": "Frechet distance of few samples",
    "N5": "matrix square root of a removed signature",
    "N6": "one-hot plug-in weights in high dimension",
}


@dataclass
class Collected:
    """What the tests say. Names of tests are ``file::function``; sets of them by oracle, component or defect."""

    components: list[str] = field(default_factory=list)
    oracles: dict[str, list[str]] = field(default_factory=dict)
    proofs: dict[str, list[str]] = field(default_factory=dict)
    contracts: dict[str, list[str]] = field(default_factory=dict)
    defects: dict[str, list[str]] = field(default_factory=dict)


whole_run: Collected | None = None
"""What this process has collected, where that is all tests."""


# --- inside the process that collects ---


class Collector:
    """The pytest plugin of that process."""

    def __init__(self) -> None:
        from ablate_core import config  # registers every component
        from ablate_core.component import Component, axes
        from ablate_core.methods import METHODS

        Objective = config.Objective
        known = {axis: sorted(own.choices) for axis, own in axes().items()}
        self.rows: dict[str, dict[str, str]] = {}
        for row in METHODS:
            own = Objective.model_validate(row)
            axis_of = {slot: getattr(own, slot) for slot in Objective.model_fields}
            self.rows[row] = {c.axis: c.name for c in axis_of.values() if isinstance(c, Component)}
        self.found = Collected(components=[f"{axis}:{name}" for axis in sorted(known) for name in known[axis]])

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        for item in items:
            test = f"{Path(item.path).relative_to(ROOT / 'tests').as_posix()}::{item.originalname}"
            for marker in item.iter_markers("oracle"):
                _add(self.found.oracles, marker.args, test)
            for kind, into in (("proves", self.found.proofs), ("contract", self.found.contracts)):
                for marker in item.iter_markers(kind):
                    for pattern in marker.args:
                        _add(into, self.components(_filled(pattern, item), of_the_loss=kind == "proves"), test)
            defect = re.match(r"test_([dn]\d+[a-e]?)_", item.originalname)
            if defect:
                _add(self.found.defects, [defect[1][0].upper() + defect[1][1:]], test)

    def components(self, name: str, *, of_the_loss: bool) -> list[str]:
        """What ``axis:choice`` or ``row:method`` stands for, by the names of the registry."""
        axis, _, choice = name.partition(":")
        if axis != "row":
            return [f"{SLOTS.get(axis, axis)}:{choice}"]
        outside = ("target_network", "batching") if of_the_loss else ()
        return [f"{axis}:{choice}" for axis, choice in self.rows[choice].items() if axis not in outside]

    def pytest_collection_finish(self) -> None:
        Path(os.environ[OUTPUT]).write_text(json.dumps(self.found.__dict__), encoding="utf-8")


def pytest_configure(config: Any) -> None:
    if OUTPUT in os.environ:
        config.pluginmanager.register(Collector())


def _add(into: dict[str, list[str]], keys: Iterable[str], test: str) -> None:
    for key in keys:
        tests = into.setdefault(key, [])
        if test not in tests:
            tests.append(test)


def _filled(pattern: str, item: Any) -> str:
    """The pattern with parameters of the test in place of names in braces."""
    params = item.callspec.params if hasattr(item, "callspec") else {}
    return re.sub(r"\{(\w+)\}", lambda m: _name(params[m[1]]), pattern)


def _name(value: Any) -> str:
    """The name of a component that is written in any of its forms."""
    if isinstance(value, dict):
        return str(value["name"])
    return str(getattr(value, "name", value))


# --- outside it ---


def collect() -> Collected:
    """What all tests say, from a process that collects them and runs none, unless this one has collected them."""
    if whole_run is not None:
        return whole_run
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "found.json"
        command = [sys.executable, "-m", "pytest", "--collect-only", "-qq", "-p", "table", "-p", "no:cacheprovider"]
        paths = [str(HERE), str(ROOT / "core"), os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {OUTPUT: str(output), "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        options = ["-o", "addopts=--strict-markers --import-mode=importlib"]
        done = subprocess.run(
            [*command, *options, *FOLDERS], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode or not output.exists():
            raise RuntimeError(f"the tests cannot be collected:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
        return Collected(**json.loads(output.read_text(encoding="utf-8")))


def table(found: Collected) -> str:
    """The README of the oracles."""
    lines = [
        "# What proves what",
        "",
        "Written by `python tests/oracles/table.py` from the markers of the tests; `test_table.py` fails where it is",
        "not current. *Closed form*: a test that knows the right answer, from a formula written out on its own, a",
        "simulation, differences, or recorded numbers of a public reference. *Contract*: a test that runs it in legal",
        "combinations (finite, differentiable, repeatable) and knows no right answer. Tests are",
        "functions `test_...`, written with spaces; each runs over its parameters.",
        "",
        "## Oracles",
        "",
        "| oracle | property | tests |",
        "| --- | --- | --- |",
        *(f"| {key} | {what} | {_tests(found.oracles.get(key, []))} |" for key, what in ORACLES.items()),
        "",
        "## Components",
        "",
        "| axis | choice | closed form | contract |",
        "| --- | --- | --- | --- |",
    ]
    for component in found.components:
        axis, _, choice = component.partition(":")
        proofs, contracts = found.proofs.get(component, []), found.contracts.get(component, [])
        lines.append(f"| `{axis}` | `{choice}` | {_tests(proofs)} | {_tests(contracts)} |")
    lines += [
        "",
        "## Defects",
        "",
        "Faults of public reference implementations. A test evaluates the faulty formula and shows that ours differs,",
        "or holds the property that the fault breaks.",
        "",
        "| defect | what went wrong there | tests |",
        "| --- | --- | --- |",
        *(f"| {key} | {what} | {_tests(found.defects.get(key, []))} |" for key, what in DEFECTS.items()),
    ]
    return "\n".join(lines) + "\n"


def _tests(names: list[str]) -> str:
    """Tests by file, as sentences."""
    by_file: dict[str, list[str]] = {}
    for name in names:
        file, _, function = name.partition("::")
        by_file.setdefault(file, []).append(function.removeprefix("test_").replace("_", " "))
    return "; ".join(f"`{Path(file).stem}`: {', '.join(by_file[file])}" for file in sorted(by_file))


if __name__ == "__main__":
    README.write_text(table(collect()), encoding="utf-8")
