"""What every trial logs about itself: where the loss is, how noisy the target is, what the tangent weighs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from golden_cases import random_network
from torch.testing import assert_close

from ablate_core.config import TrialConfig
from ablate_core.flow_map import FlowMap
from ablate_core.objective import TIME_BINS, Batch, Objective
from ablate_core.progress import Meter
from ablate_core.random import Draws
from ablate_core.schedules import Schedule
from ablate_core.targets.continuous import Continuous
from ablate_core.trainer import train


def batch(n: int = 64) -> Batch:
    g = torch.Generator().manual_seed(0)
    return Batch(torch.randn(n, 2, 3, generator=g, dtype=torch.float64), torch.arange(n) % 5, 5)


def loss(objective: Any, path: str = "linear") -> Any:
    net, own = random_network((2, 3)), Objective.model_validate(objective)
    schedule, draws = Schedule.model_validate(path), Draws(0, 3, dtype=torch.float64)
    state = own.state(schedule, batch(), draws, 600, 1000)
    return own.loss(net, net, schedule, batch(), draws, 600, 1000), state, net, own


@pytest.mark.parametrize("path", ["linear", "trig", "ve"])
def test_the_distance_by_start_time_adds_up_to_the_whole(path: str) -> None:
    result, state, *_ = loss({"name": "sct", "weighting": "none", "tangent": "none"}, path)
    sums, counts = result.by_time
    assert float(counts.sum()) == 64
    assert_close(sums.sum() / 64, result.scalars["distance"])
    edges = torch.linspace(0, state.schedule.end, TIME_BINS + 1, dtype=torch.float64)
    inside = (state.times.t >= edges[-2]).sum()
    assert int(counts[-1]) == int(inside)
    assert_close(sums[-1], result.per_sample.detach()[state.times.t >= edges[-2]].sum())


def test_target_variance_and_share_of_flow_matching_rows_are_those_of_the_batch() -> None:
    result, state, *_ = loss({"name": "fm"})
    assert_close(result.scalars["target_variance"], state.v.flatten(1).var(dim=0, correction=0).mean())
    assert float(result.scalars["velocity_share"]) == 1
    mixed, state, *_ = loss("meanflow")
    assert float(mixed.scalars["velocity_share"]) == float((state.times.r == state.times.t).double().mean())


def test_the_weight_of_the_tangent_is_its_norm_over_that_of_the_target() -> None:
    result, state, net, own = loss({"name": "meanflow", "time_sampler": {"p_eq": 0.0}})
    flow_map = FlowMap(net, own.parameterization, state.schedule)
    tangent = torch.func.jvp(
        lambda x, t: flow_map.velocity(x, state.times.r, t, state.y),
        (state.x, state.times.t),
        (state.v, torch.ones_like(state.times.t)),
    )[1]
    move = (state.times.r - state.times.t)[:, None, None] * tangent
    assert_close(result.scalars["jvp_ratio"], (move.norm() / (state.v + move).norm()).detach())
    assert isinstance(own.limit, Continuous)


def test_the_learned_log_variance_is_logged_with_its_range() -> None:
    result, state, net, _ = loss({"name": "sct_linear"})
    lv = net.log_variance(state.times.t).detach()
    assert_close(result.scalars["log_variance_min"], lv.min())
    assert_close(result.scalars["log_variance_max"], lv.max())


def test_parts_of_time_without_rows_are_left_out_and_means_are_over_rows() -> None:
    meter = Meter(1e6, "cpu")
    for step, row in ((1, [[2.0, 0.0], [1.0, 0.0]]), (2, [[4.0, 0.0], [2.0, 0.0]])):
        meter.add(step, torch.tensor(1.0), torch.tensor(1.0), {}, torch.tensor(row))
    assert meter.means() == {"loss": 1.0, "grad_norm": 1.0, "distance_t0": 2.0}
    other = Meter(1e6, "cpu")
    other.load_state_dict(meter.state_dict())
    assert other.means() == meter.means()
    meter.reset()
    assert meter.means() == {}


def test_a_trial_reports_them(tmp_path: Path) -> None:
    config = TrialConfig.model_validate(
        {
            "schedule": "linear",
            "objective": {"name": "esc", "weighting": "variational"},
            "architecture": {"name": "mlp", "width": 16},
            "data": "gaussians",
            "train": {"steps": 20, "batch_size": 64, "lr": 1e-3, "log_every": 10},
            "eval": {"metric": "energy_distance", "samples": 100, "gallery": 0},
        }
    )
    events: list[dict[str, Any]] = []
    train(config, tmp_path, report=events.append)
    values = next(event["values"] for event in reversed(events) if event["kind"] == "scalar")
    names = {"loss", "grad_norm", "distance", "velocity_share", "target_variance", "jvp_ratio", "plugin_ess"}
    names |= {"plugin_share", "log_variance", "log_variance_min", "log_variance_max", "distance_t1", "distance_t2"}
    assert names <= set(values)
    assert all(value is not None for value in values.values())
