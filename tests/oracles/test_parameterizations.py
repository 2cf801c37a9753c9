"""Parameterisations against their published formulas, and their derivatives against differences (O5, O17)."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from golden_cases import GoldenNetwork, random_network
from test_exact_map import LEGAL, parameterization
from torch import Tensor
from torch.testing import assert_close
from worlds import MarginalVelocity, mixture

from ablate_core.flow_map import FlowMap
from ablate_core.objective import Batch, Objective
from ablate_core.parameterizations import Parameterization
from ablate_core.random import Draws
from ablate_core.schedules import Schedule
from ablate_core.state import Rows, State
from ablate_core.targets.continuous import Continuous
from ablate_core.time_samplers.base import TimeSample
from ablate_core.velocities.plugin import Plugin

CLOSE = {"rtol": 1e-12, "atol": 1e-13}
UNIT = sorted(name for name in Schedule.choices if Schedule.model_validate(name).unit_time)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def inputs(schedule: Schedule, n: int = 16) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, r, t, y with 0 < r < t < end."""
    t = torch.linspace(0.1, 0.95, n, dtype=torch.float64) * schedule.end
    return normal(n, 4), t * torch.linspace(0.05, 0.9, n, dtype=torch.float64), t, torch.arange(n) % 5


def pair(settings: Any, path: Any, **network: Any) -> tuple[FlowMap, GoldenNetwork]:
    net = random_network((4,), **network)
    return FlowMap(net, Parameterization.model_validate(settings), Schedule.model_validate(path)), net


# --- published maps ---


@pytest.mark.proves("parameterization:imm_simple_edm", "schedule:{path}")
@pytest.mark.parametrize("path", UNIT)
def test_imm_simple_edm_is_the_published_preconditioner(path: str) -> None:
    flow_map, net = pair({"name": "imm_simple_edm", "sigma_data": 0.5}, path)
    x, r, t, y = inputs(flow_map.schedule)
    (a, b, *_), (a_r, b_r, *_) = (flow_map.schedule.at(time) for time in (t, r))
    q = a**2 + b**2
    c_skip, c_out = (a * a_r + b * b_r) / q, -(a_r * b - a * b_r) * 0.5 / q.sqrt()
    wanted = c_skip[:, None] * x + c_out[:, None] * net(x / (0.5 * q.sqrt())[:, None], r, t, y)
    assert_close(flow_map.jump(x, r, t, y), wanted, rtol=1e-10, atol=1e-11)


@pytest.mark.proves("parameterization:imm_euler_fm", "schedule:{path}")
@pytest.mark.parametrize("path", UNIT)
def test_imm_euler_fm_is_the_published_preconditioner(path: str) -> None:
    flow_map, net = pair({"name": "imm_euler_fm", "sigma_data": 0.5}, path)
    x, r, t, y = inputs(flow_map.schedule)
    a, b, *_ = flow_map.schedule.at(t)
    scaled = x / (0.5 * (a**2 + b**2).sqrt())[:, None]
    assert_close(flow_map.jump(x, r, t, y), x - (t - r)[:, None] * 0.5 * net(scaled, r, t, y), **CLOSE)


@pytest.mark.proves("parameterization:edm", "schedule:ve")
@pytest.mark.parametrize("sigma_min", [0.002, 0.0])
def test_edm_is_the_published_preconditioner_and_its_boundary_is_exact(sigma_min: float) -> None:
    flow_map, net = pair({"name": "edm", "sigma_data": 0.5, "sigma_min": sigma_min}, "ve")
    sigma = torch.tensor([0.002, 0.1, 1.0, 7.0, 80.0], dtype=torch.float64)
    x, y = normal(5, 4), torch.arange(5)
    c_skip = 0.25 / ((sigma - sigma_min) ** 2 + 0.25)
    c_out = (sigma - sigma_min) * 0.5 / (sigma**2 + 0.25).sqrt()
    told = sigma.log() / 4
    raw = net(x / (sigma**2 + 0.25).sqrt()[:, None], torch.full_like(told, math.log(0.002) / 4), told, y)
    assert_close(flow_map.jump(x, 0 * sigma, sigma, y), c_skip[:, None] * x + c_out[:, None] * raw, **CLOSE)
    end = torch.full_like(sigma, sigma_min)
    assert torch.equal(flow_map.jump(x, 0 * end, end, y), x)
    assert torch.equal(flow_map.jump(x, end, end, y), x)


class InRadians(GoldenNetwork):
    """The network of a path in radians, asked in unit time."""

    def forward(self, x: Tensor, r: Tensor, t: Tensor, y: Tensor | None, g: Tensor | None = None) -> Tensor:
        return super().forward(x, torch.pi / 2 * r, torch.pi / 2 * t, y, g)

    def log_variance(self, t: Tensor) -> Tensor:
        return super().log_variance(torch.pi / 2 * t)


@pytest.mark.proves("parameterization:trig_F", "schedule:trig")
def test_trig_f_is_the_published_map() -> None:
    flow_map, net = pair({"name": "trig_F", "sigma_data": 0.5}, "trig")
    x, r, t, y = inputs(flow_map.schedule)
    raw = net(x / 0.5, r, t, y)
    wanted = torch.cos(t - r)[:, None] * x - torch.sin(t - r)[:, None] * 0.5 * raw
    assert_close(flow_map.jump(x, r, t, y), wanted, **CLOSE)


@pytest.mark.oracle("O17")
@pytest.mark.proves("parameterization:trig_F", "schedule:trig", "schedule:cosine01", "tangent:shaped")
@pytest.mark.parametrize(
    "tangent", ["none", {"name": "shaped", "warmup_steps": 10, "normalize": "rms", "weight": "one"}]
)
def test_the_loss_of_trig_f_is_the_same_in_radians_and_in_unit_time(tangent: Any) -> None:
    """F is a velocity per radian on both, so prediction, target and log-variance are equal, not only proportional."""
    settings = {"name": "sct", "parameterization": {"name": "trig_F", "sigma_data": 0.5}, "tangent": tangent}
    own, net = Objective.model_validate(settings), random_network((4,))
    turned = InRadians({name: p.detach() for name, p in net.named_parameters()})
    batch, draws = Batch(0.5 * normal(32, 4), torch.arange(32) % 5, 5), Draws(0, 4, dtype=torch.float64)
    losses = []
    for asked, path in ((net, "trig"), (turned, "cosine01")):
        loss = own.loss(asked, asked, Schedule.model_validate(path), batch, draws, 4, 100).per_sample
        loss.mean().backward()
        losses.append(loss.detach())
    assert_close(*losses, rtol=1e-11, atol=1e-12)
    for name, p in net.named_parameters():
        if p.grad is not None:
            assert_close(p.grad, turned.get_parameter(name).grad, rtol=1e-10, atol=1e-12)


@pytest.mark.oracle("O17")
@pytest.mark.proves("parameterization:v_ddim", "parameterization:trig_F")
def test_on_the_trigonometric_path_v_ddim_is_trig_f() -> None:
    x, r, t, y = inputs(Schedule.model_validate("trig"))
    one, other = (pair({"name": name, "sigma_data": 0.5}, "trig")[0] for name in ("v_ddim", "trig_F"))
    assert_close(one.jump(x, r, t, y), other.jump(x, r, t, y), **CLOSE)
    x, r, t, y = inputs(Schedule.model_validate("cosine01"))
    one, other = (pair({"name": name, "sigma_data": 0.5}, "cosine01")[0] for name in ("v_ddim", "trig_F"))
    assert_close(one.velocity(x, r, t, y) * torch.pi / 2, other.velocity(x, r, t, y), **CLOSE)


# --- C23: the denoised sample, divided by no less than `clip` ---


def clipped_state(objective: Objective, n: int = 24) -> tuple[Any, State]:
    """States of a mixture in the plane at times on both sides of the bound."""
    world = mixture(dim=2)
    t = torch.linspace(0.01, 0.99, n, dtype=torch.float64)
    x0 = world.centres[torch.arange(n) % 3] + world.width * normal(n, 2)
    noise = normal(n, 2, seed=1)
    x, v = world.schedule.interpolate(x0, noise, t)
    times = TimeSample(r=t, s=t, t=t, fm=torch.ones_like(t, dtype=torch.bool))
    return world, State(world.schedule, 1.0, x0, noise, x, v, times, None, None, 0)


@pytest.mark.proves("parameterization:x0", "parameterization:x0_dual")
@pytest.mark.parametrize("name", ["x0", "x0_dual"])
def test_denoised_samples_are_divided_by_at_least_clip_in_prediction_and_target(name: str) -> None:
    own = Objective.model_validate({"name": "meanflow", "parameterization": name})
    flow_map, net = pair(name, "linear", heads=2)
    x, r, t, y = inputs(flow_map.schedule, 40)
    by = t.clamp(min=0.05)[:, None]
    assert_close(flow_map.jump(x, r, t, y), x + (r - t)[:, None] * (x - net(x, r, t, y)) / by, **CLOSE)
    _, state = clipped_state(own)
    bounded, _ = own.estimated(state, Draws(0, 0, dtype=torch.float64))
    t = state.times.t[:, None]
    assert_close(bounded.v, (state.x - state.x0) / t.clamp(min=0.05), rtol=1e-11, atol=1e-12)
    late = (t >= 0.05).squeeze(1)
    assert torch.equal(bounded.v[late], state.v[late])


class Denoiser(GoldenNetwork):
    """Outputs E[x0 | x_t] of a world."""

    def __init__(self, world: Any) -> None:
        super().__init__({})
        self.world = world

    def forward(self, x: Tensor, r: Tensor, t: Tensor, y: Tensor | None, g: Tensor | None = None) -> Tensor:
        return self.world.denoised(x, t)


@pytest.mark.proves("parameterization:x0", "velocity:plugin")
def test_a_perfect_denoiser_has_no_error_on_either_side_of_the_bound() -> None:
    own = Objective.model_validate({"name": "meanflow", "parameterization": "x0", "metric": "l2_mean"})
    world, state = clipped_state(own)
    exact = own.model_copy(update={"velocity": MarginalVelocity(world)})
    bounded, _ = exact.estimated(state, Draws(0, 0, dtype=torch.float64))
    flow_map = FlowMap(Denoiser(world), own.parameterization, world.schedule)
    error = flow_map.marginal(state.x, state.times.t, None) - bounded.v
    assert_close(error, torch.zeros_like(error), rtol=0, atol=1e-11)

    plugged = own.model_copy(update={"velocity": Plugin(prob=1.0)})  # the batch as the data: bounded in the same way
    bounded, _ = plugged.estimated(state, Draws(0, 0, dtype=torch.float64))
    t, x = state.times.t[:, None], state.x
    logits = -(x[:, None] - (1 - t[:, None]) * state.x0).square().sum(-1) / (2 * t**2)
    mean = torch.softmax(logits, dim=1) @ state.x0
    assert_close(bounded.v, (x - mean) / t.clamp(min=0.05), rtol=1e-8, atol=1e-9)


@pytest.mark.proves("parameterization:x0", "metric:mmd_laplace")
def test_the_bandwidth_of_a_group_is_the_length_of_the_jump_whatever_the_sign_of_c_out() -> None:
    """c_out of a denoised sample is negative; a negative bandwidth would make the kernel grow with the distance."""
    own = Objective.model_validate({"name": "imm", "parameterization": "x0", "weighting": "none"})
    state = own.state(Schedule.model_validate("linear"), Batch(normal(64, 4)), Draws(0, 0, dtype=torch.float64), 0, 1)
    y, aim = normal(64, 4, seed=1), normal(64, 4, seed=2)
    t, r = state.times.t[::4], state.times.r[::4]
    w = t.clamp(min=0.05) / (t - r)
    gram = [torch.exp(-w[:, None, None] * torch.cdist(*pair) / 4) for pair in _pairs(y, aim)]
    wanted = (gram[0] + gram[1] - 2 * gram[2]).mean((1, 2))
    assert_close(own.distance(y, aim, state)[::4], wanted, rtol=1e-3, atol=1e-5)


def _pairs(y: Tensor, aim: Tensor) -> list[tuple[Tensor, Tensor]]:
    one, other = y.reshape(-1, 4, 4), aim.reshape(-1, 4, 4)
    return [(one, one), (other, other), (one, other)]


# --- raw outputs, heads and guidance inputs ---


@pytest.mark.proves("parameterization:scaled_u")
def test_a_scaled_output_is_divided_by_beta_and_its_error_counts_beta_squared() -> None:
    flow_map, net = pair("scaled_u", "linear", guidance_inputs=1)
    x, r, t, y = inputs(flow_map.schedule)
    beta = torch.linspace(0.2, 1, 16, dtype=torch.float64)[:, None]
    assert_close(flow_map.velocity(x, r, t, y, beta), net(x, r, t, y, beta) / beta, **CLOSE)
    error = normal(16, 4)
    compared = flow_map.comparable(error, x, t, beta).square().sum(1)
    assert_close(compared, (beta.squeeze(1) ** 2) * error.square().sum(1), **CLOSE)
    with pytest.raises(ValueError, match=r"objective\.guidance: tvm"):
        flow_map.velocity(x, r, t, y)


@pytest.mark.proves("parameterization:uv_dual", "parameterization:x0_dual")
@pytest.mark.parametrize("name", ["uv_dual", "x0_dual"])
def test_the_velocity_head_is_what_the_marginal_velocity_is_read_from(name: str) -> None:
    flow_map, net = pair(name, "cosine01", heads=2)
    x, _, t, y = inputs(flow_map.schedule)
    head = net.forward_heads(x, t, t, y)[1]
    assert_close(flow_map.marginal(x, t, y), flow_map.scaled(head, x, t), **CLOSE)
    assert not torch.allclose(flow_map.marginal(x, t, y), flow_map.velocity(x, t, t, y))


@pytest.mark.parametrize(("name", "path"), sorted({(name, path) for _, name, path in LEGAL}))
def test_raw_outputs_are_found_back_from_velocities(name: str, path: str) -> None:
    flow_map, _ = pair(parameterization(name), path)
    x, _, t, _ = inputs(flow_map.schedule)
    raw, beta = normal(16, 4, seed=2), torch.full((16, 1), 0.7, dtype=torch.float64)
    velocity = flow_map.scaled(raw, x, t, beta)
    assert_close(flow_map.unscaled(velocity, x, t, beta), raw, rtol=1e-9, atol=1e-10)
    aim = flow_map.comparable(velocity, x, t, beta)
    assert_close(flow_map.compared(raw, x, t, beta), aim, rtol=1e-9, atol=1e-10)


# --- O5: the whole preconditioner is differentiated ---


@pytest.mark.oracle("O5")
@pytest.mark.proves("schedule:{path}", "parameterization:{name}")
@pytest.mark.parametrize(("name", "path"), sorted({(name, path) for _, name, path in LEGAL}))
def test_derivatives_along_the_path_and_by_the_landing_time_are_limits_of_differences(name: str, path: str) -> None:
    flow_map, _ = pair(parameterization(name), path, guidance_inputs=1, heads=2)
    x, r, t, y = inputs(flow_map.schedule)
    dx, beta = normal(16, 4, seed=3), torch.full((16, 1), 0.7, dtype=torch.float64)
    with torch.no_grad():
        value, slope = flow_map.velocity_and_tangent(x, r, t, y, dx, beta)
        again, by_r = flow_map.velocity_and_landing_tangent(x, r, t, y, beta)
        assert torch.equal(value, flow_map.velocity(x, r, t, y, beta))
        assert_close(again, value, **CLOSE)
        along, across = [], []
        for h in (2e-4, 1e-4):
            step = h * flow_map.schedule.end * torch.ones_like(t).minimum(t)
            at = [flow_map.velocity(x + k * step[:, None] * dx, r, t + k * step, y, beta) for k in (1, -1)]
            along.append(float(((at[0] - at[1]) / (2 * step[:, None]) - slope).norm() / slope.norm()))
            step = 0.1 * h * r
            at = [flow_map.velocity(x, r + k * step, t, y, beta) for k in (1, -1)]
            across.append(float(((at[0] - at[1]) / (2 * step[:, None]) - by_r).norm() / by_r.norm()))
    assert along[1] < 1e-3
    assert 3.5 < along[0] / along[1] < 4.5
    assert across[1] < 1e-5


@pytest.mark.oracle("O5")
@pytest.mark.proves("limit:continuous", "schedule:{path}")
@pytest.mark.parametrize("path", sorted(Schedule.choices))
@pytest.mark.parametrize("name", ["u", "v_ddim", "imm_simple_edm"])
def test_differences_stay_on_the_path_at_both_of_its_ends(name: str, path: str) -> None:
    flow_map, _ = pair(parameterization(name), path)
    end = flow_map.schedule.end
    t = torch.tensor([0.002, 0.5, 1.0], dtype=torch.float64) * end
    x, r = normal(3, 4), 0.3 * t
    rows = Rows(x=x, v=normal(3, 4, seed=1), r=r, s=t, t=t, y=torch.arange(3), ladder_bottom=None, null=5)
    with torch.no_grad():
        _, exact = Continuous().derivative(flow_map, rows)
        _, difference = Continuous(jvp_backend="finite_diff", h=1e-6 * end).derivative(flow_map, rows)
        _, wide = Continuous(jvp_backend="finite_diff", h=0.01 * end).derivative(flow_map, rows)
    assert_close(difference, exact, rtol=2e-2, atol=1e-3)  # of first order at the end, where vp_sqrt is steep
    assert_close(difference[1], exact[1], rtol=1e-6, atol=1e-8)
    assert bool(torch.isfinite(wide).all())
