"""The exact flow map of a closed-form world is a fixed point of every objective (O4, O6, O7, O8)."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from golden_cases import case
from torch import Tensor
from torch.testing import assert_close
from worlds import ExactNetwork, Gaussian, MarginalVelocity, gaussian, mixture

from ablate_core.flow_map import FlowMap
from ablate_core.objective import Batch, Objective
from ablate_core.parameterizations import Parameterization
from ablate_core.random import Draws
from ablate_core.schedules import Schedule
from ablate_core.state import Rows
from ablate_core.targets.continuous import Continuous
from ablate_core.targets.discrete import Discrete

PATHS = ["linear", "cosine01"]


def data(world: Gaussian, n: int, seed: int = 0) -> Batch:
    z = torch.randn(n, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Batch(world.mean + world.std * z)


def draws(seed: int = 0) -> Draws:
    return Draws(seed, 0, dtype=torch.float64)


def loss(
    settings: dict[str, Any], world: Any, batch: Batch, *, marginal: bool, step: int = 0
) -> tuple[Tensor, ExactNetwork]:
    objective = Objective.model_validate(settings)
    net = ExactNetwork(world, objective.parameterization)
    if marginal:
        objective = objective.model_copy(update={"velocity": MarginalVelocity(world)})
    return objective.loss(net, net, world.schedule, batch, draws(), step, 100).per_sample.detach(), net


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("parameterization", ["u", {"name": "v_ddim", "sigma_data": 0.5}], ids=["u", "v_ddim"])
@pytest.mark.parametrize("sampler", ["ln_minmax", "fixed0", "scm_lognormal"])
def test_the_exact_map_has_no_continuous_loss_under_the_marginal_velocity(
    path: str, parameterization: Any, sampler: str
) -> None:
    noise_std = Parameterization.model_validate(parameterization).noise_std
    world = gaussian(path, noise_std)
    settings = {
        "name": "meanflow",
        "parameterization": parameterization,
        "time_sampler": sampler,
        "metric": "l2_mean",
    }
    per_sample, _ = loss(settings, world, data(world, 256), marginal=True)
    assert float(per_sample.max()) < 1e-18


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("weight", ["one", "alpha"])
@pytest.mark.parametrize("normalize", ["none", "rms", "l2", "clip"])
def test_shaping_a_tangent_that_vanishes_keeps_the_fixed_point(path: str, weight: str, normalize: str) -> None:
    world = gaussian(path, 0.5)
    tangent = {"warmup_steps": 0, "weight": weight, "normalize": normalize}
    settings = {"name": "sct", "tangent": tangent, "weighting": "none"}
    per_sample, _ = loss(settings, world, data(world, 256), marginal=True)
    assert float(per_sample.max()) < 1e-18


@pytest.mark.parametrize("path", PATHS)
def test_the_exact_map_satisfies_the_semigroup_identity_in_both_spaces(path: str) -> None:
    world = gaussian(path)
    t = torch.linspace(0.1, 0.95, 64, dtype=torch.float64)
    r, s = 0.2 * t, 0.7 * t
    x = data(world, 64).x0
    rows = Rows(x=x, v=x, r=r, s=s, t=t, y=None, ladder_bottom=None, null=0)
    for name in ("u", "v_ddim"):
        own = Parameterization.model_validate(name)
        exact = FlowMap(ExactNetwork(world, own), own, world.schedule)
        scd = Objective.model_validate(
            {"name": "scd", "parameterization": name, "limit": {"clamp_state": 0, "clamp_target": 0}}
        )
        u = scd.limit.two_step_target(scd, exact, rows)  # type: ignore[attr-defined]
        assert_close(u, (world.flow(x, r, t) - x) / (r - t)[:, None], rtol=1e-10, atol=1e-11)
        states = scd.model_copy(update={"limit": Discrete(compare="states")})
        x_r = states.limit.two_step_target(states, exact, rows)  # type: ignore[attr-defined]
        assert_close(x_r, world.flow(x, r, t), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("path", PATHS)
def test_the_exact_map_follows_the_velocity_at_its_landing_time(path: str) -> None:
    world = gaussian(path)
    t = torch.full((32,), 0.9, dtype=torch.float64)
    r = torch.linspace(0.05, 0.85, 32, dtype=torch.float64)
    x = data(world, 32).x0
    for name in ("u", "v_ddim"):
        own = Parameterization.model_validate(name)
        exact = FlowMap(ExactNetwork(world, own), own, world.schedule)
        landed, slope = torch.func.jvp(
            lambda r, m=exact: m.jump(x, r, t, None), (r,), (torch.ones_like(r),)
        )  # Lagrangian
        assert_close(slope, world.velocity(landed, r), rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["ct", "imm", "scd"])
def test_discrete_objectives_accept_the_exact_map(path: str, method: str) -> None:
    world = gaussian(path, Objective.model_validate(method).noise_std)
    settings = {"name": method, "metric": "l2_mean", "weighting": "none"}
    if method == "scd":
        settings["limit"] = {"clamp_state": 0, "clamp_target": 0}
    per_sample, _ = loss(settings, world, data(world, 256), marginal=True, step=99)
    if method == "scd":  # no velocity enters its jumps: the residual is rounding
        learnt = per_sample[: 256 // 4]
        assert float(learnt.max()) < 1e-20
    else:  # a DDIM step with the marginal velocity is only first order in t - s
        assert float(per_sample.mean()) < 5e-3


@pytest.mark.parametrize("path", PATHS)
def test_the_gradient_vanishes_in_expectation_at_the_exact_map_with_conditional_velocities(path: str) -> None:
    world = gaussian(path)
    batch = data(world, 40_000)
    settings = {"name": "meanflow", "metric": "l2_mean", "time_sampler": {"p_eq": 0.5}}
    objective = Objective.model_validate(settings)
    net = ExactNetwork(world, objective.parameterization)
    state = objective.state(world.schedule, batch, draws(3), 0, 1)
    flow_map = FlowMap(net, objective.parameterization, world.schedule)
    regression = objective.limit.regress(objective, flow_map, flow_map, state, 0)
    residual = (regression.prediction - regression.target).detach()
    error = residual.mean(0) / (residual.std(0) / len(residual) ** 0.5)
    assert float(error.abs().max()) < 4


def test_the_target_with_conditional_velocities_is_unbiased_and_its_covariance_is_carried_by_the_map() -> None:
    n, world = 200_000, gaussian("linear")
    t, r = (torch.full((n,), value, dtype=torch.float64) for value in (0.7, 0.2))
    x = torch.tensor([0.3, -0.8, 0.1], dtype=torch.float64).repeat(n, 1)
    z = torch.randn(n, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    x0 = world.posterior(x, t, z)
    _, v = world.schedule.interpolate(x0, (x - (1 - 0.7) * x0) / 0.7, t)
    own = Parameterization.model_validate("u")
    exact = FlowMap(ExactNetwork(world, own), own, world.schedule)
    rows = Rows(x=x, v=v, r=r, s=t, t=t, y=None, ladder_bottom=None, null=0)
    objective = Objective.model_validate("meanflow")
    with torch.no_grad():
        aim = objective.tangent.target(Continuous().slope(exact, rows), 0)
    u = (world.flow(x[:1], r[:1], t[:1]) - x[:1]) / (0.2 - 0.7)
    assert float(((aim.mean(0) - u) / (aim.std(0) / n**0.5)).abs().max()) < 4
    spread = world.spread(r[:1]) / world.spread(t[:1])  # dX/dx, diagonal
    assert_close(aim.var(0), (spread**2).squeeze(0) * v.var(0), rtol=0.02, atol=1e-4)


@pytest.mark.parametrize("path", PATHS)
def test_the_discrete_target_tends_to_the_continuous_one_at_first_order(path: str) -> None:
    c = case("mf_l2_same_nocfg")
    net, schedule = c.network(), Schedule.model_validate(path)
    batch, noise = c.batch()
    t = torch.linspace(0.3, 0.9, 8, dtype=torch.float64)
    r = 0.3 * t
    x, v = schedule.interpolate(batch.x0, noise, t)
    own = Parameterization.model_validate("u")
    flow_map = FlowMap(net, own, schedule)
    continuous = Objective.model_validate("meanflow")
    discrete = Objective.model_validate({"name": "ct", "parameterization": "u", "limit": {"compare": "velocities"}})
    errors = []
    with torch.no_grad():
        u = flow_map.raw(x, r, t, batch.y)
        for power in range(8, 14):
            rows = Rows(x=x, v=v, r=r, s=t - 2.0**-power, t=t, y=batch.y, ladder_bottom=None, null=5)
            limit = u - continuous.tangent.target(Continuous().slope(flow_map, rows), 0)
            finite = u - discrete.limit.two_step_target(discrete, flow_map, rows)  # type: ignore[attr-defined]
            errors.append(float(((t - r)[:, None, None, None] * 2.0**power * finite - limit).norm()))
    slopes = torch.tensor(errors).log2().diff()
    assert_close(slopes, torch.full_like(slopes, -1.0), rtol=0, atol=0.02)


def test_the_bias_of_a_discrete_target_with_conditional_velocities_is_of_second_order() -> None:
    world = mixture("linear")  # world Q: exact map by quantiles, posterior by quadrature
    t, x = 0.6, torch.tensor([[0.35]], dtype=torch.float64)
    grid = torch.linspace(-4, 4, 4001, dtype=torch.float64)
    prior = (world.shares * torch.exp(-((grid[:, None] - world.centres[:, 0]) ** 2) / (2 * 0.25**2))).sum(1)
    weight = prior * torch.exp(-((x[0, 0] - (1 - t) * grid) ** 2) / (2 * t**2))
    weight = weight / weight.sum()
    exact = world.flow(x, torch.zeros(1, dtype=torch.float64), torch.full((1,), t, dtype=torch.float64))
    biases = []
    for gap in (0.1, 0.05, 0.025, 0.0125):
        v = (x[0, 0] - (1 - t) * grid) / t - grid
        full = torch.full_like(grid, t)
        rows = Rows(x.expand(4001, 1), v[:, None], 0 * full, full - gap, full, None, None, 0)
        own = Parameterization.model_validate("v_ddim")
        objective = Objective.model_validate("ct")
        flow_map = FlowMap(ExactNetwork(world, own), own, world.schedule)
        with torch.no_grad():
            aim = objective.limit.two_step_target(objective, flow_map, rows)  # type: ignore[attr-defined]
        biases.append(float((weight[:, None] * aim).sum() - exact))
    ratios = [a / b for a, b in itertools.pairwise(biases)]
    assert all(3 < ratio < 5 for ratio in ratios[1:]), ratios


def test_a_ddim_first_step_with_the_conditional_velocity_is_renoising_with_the_same_noise() -> None:
    world = gaussian("cosine01")  # E3
    objective = Objective.model_validate("ct")
    state = objective.state(world.schedule, data(world, 16), draws(), 50, 100)
    rows = Rows(state.x, state.v, state.times.r, state.times.s, state.times.t, None, None, 0)
    own = Parameterization.model_validate("v_ddim")
    x_s, _ = objective.first_step.step(FlowMap(ExactNetwork(world, own), own, world.schedule), rows)
    assert_close(x_s, world.schedule.interpolate(state.x0, state.noise, state.times.s)[0], rtol=1e-12, atol=1e-12)
