"""Objectives at the exact flow map of a closed-form world: bias, variance, semigroup, moments (O4, O7, O8, O12)."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from worlds import ExactNetwork, Gaussian, MarginalVelocity, gaussian, mixture

from ablate_core.flow_map import FlowMap
from ablate_core.objective import Batch, Objective
from ablate_core.parameterizations import Parameterization
from ablate_core.random import Draws
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


@pytest.mark.oracle("O14")
@pytest.mark.proves("tangent:shaped")
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("weight", ["one", "alpha"])
@pytest.mark.parametrize("normalize", ["none", "rms", "l2", "clip"])
def test_shaping_a_tangent_that_vanishes_keeps_the_fixed_point(path: str, weight: str, normalize: str) -> None:
    world = gaussian(path, 0.5)
    tangent = {"warmup_steps": 0, "weight": weight, "normalize": normalize}
    settings = {"name": "sct", "tangent": tangent, "weighting": "none"}
    per_sample, _ = loss(settings, world, data(world, 256), marginal=True)
    assert float(per_sample.max()) < 1e-18


@pytest.mark.oracle("O4")
@pytest.mark.proves("first_step:network", "second_step:network", "limit:discrete")
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


@pytest.mark.oracle("O4")
@pytest.mark.proves("first_step:ddim", "second_step:network", "limit:discrete")
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


@pytest.mark.oracle("O7")
@pytest.mark.proves("velocity:conditional")
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


@pytest.mark.oracle("O7")
@pytest.mark.proves("velocity:conditional", "limit:continuous")
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


@pytest.mark.oracle("O8")
@pytest.mark.proves("limit:discrete", "velocity:conditional")
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


@pytest.mark.oracle("O12")
@pytest.mark.proves("metric:mmd_laplace")
@pytest.mark.parametrize("path", PATHS)
def test_at_the_exact_map_moments_match_but_for_the_diagonal(path: str) -> None:
    """The V-statistic of X_{t,r}(x_t) and X_{s,r}(x_s) has mean (2 / M)(1 - E k(y_j, y'_j)), its rest has mean 0."""
    m, groups = 4, 30_000
    world = gaussian(path)
    own = Objective.model_validate({"name": "imm", "weighting": "none", "time_sampler": {"k": 4.0}})
    net, batch = ExactNetwork(world, own.parameterization), data(world, m * groups)
    state = own.state(world.schedule, batch, draws(), 0, 1)
    flow_map = FlowMap(net, own.parameterization, world.schedule)
    with torch.no_grad():
        regression = own.limit.regress(own, flow_map, flow_map, state, 0)
        loss = own.distance(regression.prediction, regression.target, state)[::m]
    reach = own.parameterization.jump(world.schedule, state.times.t, state.times.r).move.abs() + 1e-6
    same = torch.exp(-(regression.prediction - regression.target).norm(dim=1) / (3 * reach))
    diagonal = 2 / m * (1 - same.reshape(-1, m).mean(1))
    assert float(diagonal.mean()) > 1e-3
    rest = loss - diagonal
    assert float(rest.mean().abs()) < 4 * float(rest.std()) / groups**0.5
    assert float(loss.mean()) == pytest.approx(float(diagonal.mean()), abs=4 * float(rest.std()) / groups**0.5)
