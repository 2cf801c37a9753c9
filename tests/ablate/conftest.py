"""Stores that nothing was trained for: written as a run writes them, with values from a formula."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # what tests of several commands share lies beside them

FilledStore = Callable[..., Path]


@pytest.fixture
def filled_store(tmp_path: Path) -> FilledStore:
    """``filled_store(name, {"base": 0.0, "new": -0.3})``: a study of these arms, log effects, three seeds, two steps.

    Call it again for a further study in the same store; `metric` is an identity, `running` a trial that only began.
    """
    from ablate.store import Journal, StorePaths
    from ablate.store.record import AttemptRecord

    paths = StorePaths(tmp_path / "filled")

    def fill(
        name: str,
        effects: Mapping[str, float],
        *,
        metric: str = "m",
        seeds: int = 3,
        running: str | None = None,
        **more: Any,
    ) -> Path:
        with Journal(paths, f"driver-{name}") as journal:
            study = {"study_id": f"id-{name}", "name": name, "question": "which?", "margin": 0.02, "alpha": 0.05}
            study |= {"metric": {"name": "fd_digits", "mode": "min", "at": "last"}, "version": "0.1.0"}
            study |= {"baseline_arm_id": f"{name}-{next(iter(effects))}", "space_yaml": f"name: {name}"}
            journal.append("study", study | more)
            for position, (label, effect) in enumerate(effects.items()):
                arm = f"{name}-{label}"
                config = {"objective": {"name": label}, "data": {"name": name}}
                journal.append("arm", {"arm_id": arm, "label": label, "config": config})
                place = {"plan": "all", "plan_kind": "list", "position": position, "label": label}
                choice = {"objective": label}
                journal.append("study_arm", {"study_id": f"id-{name}", "arm_id": arm, "choice": choice, **place})
                for seed in range(seeds):
                    key = f"{arm}-{seed}"
                    journal.append("trial", {"trial_id": key, "arm_id": arm, "seed": seed, "steps_planned": 20})
                    if key == running:
                        AttemptRecord(journal, key, eval_key=f"eval-{key}")
                        continue
                    _train(AttemptRecord(journal, key, eval_key=f"eval-{key}"), metric, effect, seed, position)
        return paths.root

    return fill


def _train(record: Any, metric: str, effect: float, seed: int, position: int) -> None:
    """Two measured steps of one trial; the noise is a fixed pattern, so that every arm has a spread of its own."""
    noise = 0.02 * math.sin(1 + 7 * seed + 3 * position) + 0.01 * seed
    for step in (10, 20):
        record.report({"kind": "scalar", "step": step, "values": {"loss": 1 / step}, "wall_seconds": step / 10})
        value = {"metric_id": metric, "cond_id": "c", "step": step, "draw": 0, "n_samples": 50, "extra": {}}
        value |= {"metric": {"name": "fd_digits", "samples": 50, "higher_is_better": False}, "condition": {"nfe": 1}}
        record.report({"kind": "measurement", "value": 400 / step * math.exp(effect + noise), **value})
        record.report({"kind": "progress", "step": step, "steps": 20})
    costs = {"wall_seconds": 4.0, "cpu_seconds": 3.0 + position, "gpu_seconds": 0.0, "peak_mem_mb": 100.0}
    record.end("done", step=20, num_parameters=1234, **costs)
