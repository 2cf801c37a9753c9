"""As much of a TrialConfig as legality looks at, for tests that need no real data or network."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from ablate_core.config import EvalConfig
from ablate_core.objective import Objective
from ablate_core.schedules import Schedule

ARCHITECTURE = {
    "jvp_safe": True,
    "accepts_log_variance": True,
    "accepts_velocity_head": True,
    "accepts_guidance": True,
    "sees_landing_time": True,
}
DATA = {"classes": 10, "known_std": None, "coupled": False, "dimension": None, "kind": "images"}
TRAIN = {"batch_size": 256, "steps": 600_000, "precision": "fp32", "ema": (0.999,), "snapshot_every": 0}
EVAL = {"nfe": 1, "sampler": "auto", "guidance": 1.0, "ema": None} | {
    name: EvalConfig.model_fields[name].default
    for name in ("gamma", "grid", "rho", "shift", "ratios", "guidance_window", "also", "sizes", "reference")
}


def partial_trial(objective: Any, path: Any = "linear", **fields: Any) -> Any:
    """A trial of an objective on a path; `fields` replace single fields of architecture, data, train or eval."""
    parts = {}
    for part, known in (("architecture", ARCHITECTURE), ("data", DATA), ("train", TRAIN), ("eval", EVAL)):
        parts[part] = SimpleNamespace(**{name: fields.pop(name, value) for name, value in known.items()})
    assert not fields, f"no such fields: {sorted(fields)}"
    return SimpleNamespace(
        objective=Objective.model_validate(objective), schedule=Schedule.model_validate(path), **parts
    )
