"""A study written through the journal as a run writes it, with numbers that nobody measured."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ablate.cli import main
from ablate.space import expand, space_from_text
from ablate.space.plan import Evaluation, Plan
from ablate.store import Journal, StorePaths, record_plan
from ablate.store.record import AttemptRecord

SPACE = """
name: paths
question: Which objective is best?
base:
  objective: fm
  architecture: {{name: mlp, width: 16, depth: 1}}
  data: {{name: gaussians, size: 500}}
  train: {{steps: 20, batch_size: 16, lr: 1e-3}}
  eval: {{metric: energy_distance, samples: 60, gallery: 0}}
axes:
  objective: [fm, meanflow, sct_linear]
  lr: {{path: train.lr, levels: [1e-3, 2e-3]}}
plans: {{cross: {{kind: grid}}}}
seeds: {{list: [{seeds}]}}
resources: {{cpus: 1}}
compare: {{margin: 0.05}}
claims: {claims}
"""
CLAIMS = "[objective=meanflow is better than objective=fm., lr=0.002 is equivalent to lr=0.001.]"
WORTH = {"fm": 0.0, "meanflow": -0.5, "sct_linear": -0.3}
METRIC = {"name": "energy_distance", "samples": 60, "higher_is_better": False, "reference_sha256": "one"}
Value = Callable[[Plan, Evaluation], float | None]


def plan(seeds: str = "0, 1, 2", claims: str = CLAIMS, text: str = SPACE) -> Plan:
    return expand(space_from_text(text.format(seeds=seeds, claims=claims), name="paths"))


def value(plan: Plan, evaluation: Evaluation, noise: float = 0.01) -> float:
    """The metric of an arm: what its objective is worth, a seed effect, and residuals that no generator draws."""
    arm = next(arm for arm in plan.arms if arm.id == evaluation.arm_id)
    place = [a.id for a in plan.arms].index(arm.id)
    residual = math.sin(7.3 * evaluation.seed + 2.1 * place)
    return math.exp(WORTH[arm.config.objective.name] + 0.05 * math.cos(evaluation.seed) + noise * residual)


def measure(journal: Journal, plan: Plan, evaluations: Iterable[Evaluation], of: Value = value, **metric: Any) -> None:
    """Finish the trials of some evaluations, each with one number; None diverges. `metric` changes what it means."""
    definition = METRIC | metric
    for e in evaluations:
        record = AttemptRecord(journal, e.trial, eval_key=e.eval_key)
        number = of(plan, e)
        if number is None:
            record.end("diverged", step=7, reason="loss is not finite at step 7")
            continue
        record.report({
            "kind": "measurement", "metric_id": f"m-{definition['reference_sha256']}", "metric": definition,
            "cond_id": "c", "condition": {"nfe": 1}, "step": 20, "draw": 0, "n_samples": 60, "value": number,
        })  # fmt: skip
        record.end("done", step=20, wall_seconds=1.0, cpu_seconds=1.0, gpu_seconds=0.0, num_parameters=9)


def write(paths: StorePaths, wanted: Plan, of: Value = value, **metric: Any) -> Plan:
    """Record a plan and finish all of it."""
    with Journal(paths, "driver") as journal:
        record_plan(journal, wanted)
        measure(journal, wanted, wanted.evaluations, of, **metric)
    return wanted


class Ended(NamedTuple):
    code: int
    out: str
    err: str


Call = Callable[..., Ended]


def call_ablate(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, folder: Path) -> Call:
    """Call the program in this process, in an empty folder, with a store of its own below it."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("ABLATE_HOME", str(folder / "store"))

    def call(*words: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["ablate", *words])
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        printed = capsys.readouterr()
        return Ended(code, printed.out, printed.err)

    return call
