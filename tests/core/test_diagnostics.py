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
from ablate_core.objective import Batch, Loss, Objective
from ablate_core.progress import MOST_WAITING, TIME_BINS, LoggedRows, Meter
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


def logged(result: Loss) -> dict[str, float | None]:
    """What a report says of one step."""
    meter, one = Meter(1e6), torch.tensor(1.0)
    meter.add(1, one, one, result.scalars, result.rows)
    return meter.means()


@pytest.mark.parametrize("path", ["linear", "trig", "ve"])
def test_the_distance_by_start_time_adds_up_to_the_whole(path: str) -> None:
    result, state, *_ = loss({"name": "sct", "weighting": "none", "tangent": "none"}, path)
    means, distance, t = logged(result), result.per_sample.detach(), state.times.t
    assert means["distance"] == pytest.approx(float(distance.mean()))
    edges = torch.linspace(0, state.schedule.end, TIME_BINS + 1, dtype=torch.float64)
    last = edges[1:].clone()
    last[-1] = torch.inf
    for i in range(TIME_BINS):
        inside = (t >= edges[i]) & (t < last[i])
        assert (f"distance_t{i}" in means) == bool(inside.any())
        if inside.any():
            assert means[f"distance_t{i}"] == pytest.approx(float(distance[inside].mean()))


def test_target_variance_and_share_of_flow_matching_rows_are_those_of_the_batch() -> None:
    result, state, *_ = loss({"name": "fm"})
    assert_close(result.scalars["target_variance"], state.v.flatten(1).var(dim=0, correction=0).mean())
    assert logged(result)["velocity_share"] == 1
    mixed, state, *_ = loss("meanflow")
    assert logged(mixed)["velocity_share"] == float((state.times.r == state.times.t).double().mean())


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
    meter, one = Meter(1e6), torch.tensor(1.0)
    for step, distance, time in ((1, [2.0, 5.0], [0.0, 1.0]), (2, [1.0, 3.0], [0.1, 0.2])):
        meter.add(
            step, one, one, {}, LoggedRows(torch.tensor(distance), torch.tensor(time), torch.tensor([True, False]))
        )
    wanted = {"loss": 1.0, "grad_norm": 1.0, "distance": 2.75, "velocity_share": 0.5}
    assert meter.means() == wanted | {"distance_t0": 2.0, "distance_t3": 5.0}
    other = Meter(1e6)
    other.load_state_dict(meter.state_dict())
    assert other.means() == meter.means()
    meter.reset()
    assert meter.means() == {}


def test_means_do_not_depend_on_when_the_numbers_were_fetched() -> None:
    """A trial that was interrupted reports what the uninterrupted one does, to the last bit."""
    once, often = Meter(1e6), Meter(1e6)
    for step in range(MOST_WAITING + 3):
        x = torch.randn(6, generator=torch.Generator().manual_seed(step))
        rows = LoggedRows(x.square(), x.sigmoid(), x > 0)
        for meter in (once, often):
            meter.add(step, x[0], x[1].abs(), {"other": x[2]} if step % 3 else {}, rows)
        if step % 7 == 0:
            assert often.diverged() is None
        if step == 50:
            saved, often = often.state_dict(), Meter(1e6)
            often.load_state_dict(saved)
    assert once.means() == often.means()
    assert once.means()["other"] is not None


@pytest.mark.parametrize(
    ("loss", "norm", "said"),
    [(2e6, 1.0, "loss 2e+06 above"), (float("nan"), 1.0, "loss nan"), (1.0, float("inf"), "gradient norm inf")],
)
def test_the_first_step_that_diverged_is_named_however_late_it_is_asked(loss: float, norm: float, said: str) -> None:
    meter, one = Meter(1e6), torch.tensor(1.0)
    for step in range(2 * MOST_WAITING):
        bad = step >= MOST_WAITING // 2
        meter.add(step, torch.tensor(loss) if bad else one, torch.tensor(norm) if bad else one, {})
    found = meter.diverged()
    assert found is not None
    assert found[0] == MOST_WAITING // 2
    assert found[1].startswith(said)


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
