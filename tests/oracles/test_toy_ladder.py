"""O22: the ladder of methods on five Gaussians in the plane without labels, in one step, over three seeds.

1500 steps of Adam, batches of 512, MLP of three layers of 128, squared errors, a quarter of the rows at r = t
(design-space 6.4, V14, one seed). A method is far off where its energy distance is more than twice that of V14. Samples
of one distribution have .0006, standard normal noise .067, the mean of the data 1.03.

V14 leaves open the learning rate, the distribution of times and how the network is told them. All three matter: one
step asks for the corner (r, t) = (0, 1), which LN(-.4, 1) hardly draws, and Fourier features of times extrapolate worse
than times as plain numbers. Here they are 1e-3, LN(-2, 2) and plain numbers, chosen by looking at seed 0. With
LN(-.4, 1) and Fourier features the methods that draw r at random are two to six times as far as V14, and at 2e-3
sCT-linear is at .3.

Measured over the three seeds (V14): oracle velocity .0024 to .0029 (.0219), plug-in velocity on every row .0030 to
.0039, MeanFlow .0044 to .0052 (.0767), ESC .0038 to .0065 (.0549), iMF .0047 to .0084 (.109), SplitMeanFlow .0042 to
.0072 (.175), AlphaFlow .0039 to .0051 (.215), SCD .0124 to .0150 (.0325), sCT-linear .0024 to .0034 (.0152), sCT .0024
to .0047 (.0200), CT-linear .0108 to .0124 (.0290), TVM .0014 to .0027 (.0089), IMM .0063 to .0134 (.0115), FM .79 to
.80 in one step and .0015 to .0028 in 64 (.645, .0015). The order by the variance of the velocity holds for every seed;
ESC, whose rows have the plug-in velocity half of the time, cannot be told from MeanFlow by three seeds.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from torch import Tensor
from worlds import Mixture

from ablate_core.config import TrialConfig
from ablate_core.datasets.base import Samples
from ablate_core.datasets.gaussians import Gaussians
from ablate_core.evaluation import evaluate_checkpoint
from ablate_core.schedules import Schedule
from ablate_core.trainer import train
from ablate_core.velocities.conditional import Conditional

pytestmark = [pytest.mark.slow, pytest.mark.oracle("O22"), pytest.mark.timeout(1800)]

SEEDS = (0, 1, 2)
PLAIN: dict[str, Any] = {"metric": "l2_mean", "weighting": "none", "tangent": "none"}
PAIR = {"mu": -2.0, "sd": 2.0, "p_eq": 0.25}
ROWS: dict[str, tuple[str, dict[str, Any], float | None]] = {
    "meanflow": ("linear", {"name": "meanflow", **PLAIN, "time_sampler": PAIR}, 0.0767),
    "esc": ("linear", {"name": "esc", **PLAIN, "time_sampler": {**PAIR, "zero_steps": 500}}, 0.0549),
    "oracle": ("linear", {"name": "meanflow", **PLAIN, "time_sampler": PAIR}, 0.0219),
    "plugin": (
        "linear",
        {"name": "meanflow", **PLAIN, "time_sampler": PAIR, "velocity": {"name": "plugin", "prob": 1.0}},
        None,
    ),
    "imf": ("linear", {"name": "imf", **PLAIN, "time_sampler": PAIR}, 0.109),
    "splitmeanflow": ("linear", {"name": "splitmeanflow", **PLAIN, "time_sampler": PAIR}, 0.175),
    "alphaflow": ("linear", {"name": "alphaflow", **PLAIN, "time_sampler": PAIR}, 0.215),
    "scd": ("linear", {"name": "scd", "time_sampler": {"bootstrap": 0.75}, "target_network": {"mu": 0.98}}, 0.0325),
    "sct_linear": ("linear", {"name": "sct_linear", **PLAIN, "time_sampler": {"p_eq": 0.25}}, 0.0152),
    "sct": ("cosine01", {"name": "sct", "weighting": "none", "tangent": {"warmup_steps": 100}}, 0.0200),
    "ct_linear": ("linear", {"name": "ct_linear", **PLAIN, "time_sampler": {"s1": 160}}, 0.0290),
    "tvm": ("linear", {"name": "tvm", **PLAIN, "guidance": "none", "parameterization": "u"}, 0.0089),
    "imm": ("linear", {"name": "imm", "time_sampler": {"group": 16, "k": 10}}, 0.0115),
}
"""Path, objective, and the energy distance of V14, where it has one."""


def without_labels(patch: pytest.MonkeyPatch) -> None:
    """The data of `gaussians` without their classes."""
    load = Gaussians.load

    def unlabelled(self: Gaussians) -> Samples:
        return replace(load(self), y=None, num_classes=0)

    patch.setattr(Gaussians, "load", unlabelled)


def with_the_marginal_velocity(patch: pytest.MonkeyPatch, path: str) -> None:
    """Every conditional velocity becomes the exact E[v | x_t]."""
    data = Gaussians()
    shares = torch.full((data.modes,), 1 / data.modes, dtype=torch.float64)
    world = Mixture(Schedule.model_validate(path), data.means, shares, data.width)

    def exact(self: Conditional, state: Any, draws: Any) -> tuple[Tensor, dict[str, Tensor]]:
        return world.velocity(state.x.double(), state.times.t.double()).float(), {}

    patch.setattr(Conditional, "estimate", exact)


def trial(method: Any, path: str, seed: int, nfe: int = 1) -> TrialConfig:
    return TrialConfig.model_validate(
        {
            "schedule": path,
            "objective": method,
            "architecture": {"name": "mlp", "frequencies": 0},
            "data": "gaussians",
            "train": {"steps": 1500, "batch_size": 512, "lr": 1e-3, "ema": [0.98], "log_every": 1500},
            "eval": {"metric": "energy_distance", "samples": 5000, "nfe": nfe, "gallery": 0},
            "seed": seed,
        }
    )


def energy(config: TrialConfig, folder: Path) -> float:
    events: list[dict[str, Any]] = []
    assert train(config, folder, report=events.append).status == "done"
    (value,) = [event["value"] for event in events if event["kind"] == "measurement"]
    return float(value)


@cache
def measured(name: str) -> tuple[float, ...]:
    """Energy distances of one-step samples, by seed."""
    path, objective, _ = ROWS[name]
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory() as folder:
        without_labels(patch)
        if name == "oracle":
            with_the_marginal_velocity(patch, path)
        return tuple(energy(trial(objective, path, seed), Path(folder) / str(seed)) for seed in SEEDS)


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row[2] is not None])
def test_a_method_is_within_twice_the_recorded_distance(name: str) -> None:
    recorded = ROWS[name][2]
    assert recorded is not None
    print(f"{name}: {', '.join(f'{value:.4f}' for value in measured(name))} (recorded {recorded})")
    assert max(measured(name)) < 2 * recorded


def test_less_variance_in_the_velocity_is_a_better_map() -> None:
    oracle, plugin, conditional = (mean(measured(name)) for name in ("oracle", "plugin", "meanflow"))
    assert oracle < plugin < conditional


def test_flow_matching_without_labels_needs_many_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_labels(monkeypatch)
    for seed in SEEDS:
        config, folder = trial("fm", "linear", seed), tmp_path / str(seed)
        one = energy(config, folder)
        (many,) = evaluate_checkpoint(trial("fm", "linear", seed, nfe=64), folder)
        print(f"fm: {one:.4f} in one step, {many['value']:.4f} in 64")
        assert one > 0.5
        assert many["value"] < 0.003  # twice the recorded .0015
