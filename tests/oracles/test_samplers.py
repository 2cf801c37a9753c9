"""O19: few-step samplers against recorded references and against exact flow maps, on every path."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from golden_cases import Case, GoldenNetwork, arrays, case, cases, random_network
from torch import Tensor
from torch.testing import assert_close
from worlds import ExactNetwork, gaussian

from ablate_core.architectures.base import Network
from ablate_core.config import EvalConfig
from ablate_core.flow_map import FlowMap
from ablate_core.objective import Objective
from ablate_core.sampling import (
    Field,
    GuidedNetwork,
    integrate,
    renoise,
    sample,
    sample_noise,
    walk,
)
from ablate_core.sampling_steps import Step, jumps, step_times
from ablate_core.schedules import Schedule

LINEAR = Schedule.model_validate("linear")
PATHS = sorted(Schedule.choices)
CLOSE = {"rtol": 1e-10, "atol": 1e-12}


def path(name: str) -> Schedule:
    return Schedule.model_validate(name)


def how(**fields: Any) -> EvalConfig:
    return EvalConfig.model_validate(fields)


# -- recorded references -----------------------------------------------------------------------------------------


class ToldNoiseLevel(GoldenNetwork):
    """The golden network in the convention of openai/consistency_models: t = ln(sigma) / 4, r = 0."""

    def forward(self, x: Tensor, r: Tensor, t: Tensor, y: Tensor | None, g: Tensor | None = None) -> Tensor:
        return super().forward(x, 0 * r, t, y)


class ToldShareOfNoise(GoldenNetwork):
    """In the convention of ESC's EDM scheduler: t = sigma / 80 (defect D30), r = 0."""

    def forward(self, x: Tensor, r: Tensor, t: Tensor, y: Tensor | None, g: Tensor | None = None) -> Tensor:
        return super().forward(x, 0 * r, torch.exp(4 * t) / 80, y)


def recorded_labels() -> Tensor:
    return torch.from_numpy(arrays("inputs")["d3/labels"])[:4]


def golden_network(kind: type[GoldenNetwork] = GoldenNetwork) -> GoldenNetwork:
    return case("sampler_linear_sd1.0_1step_cfg1.0").network("net", kind)


def recorded_field(objective: Objective, schedule: Schedule, net: Network, scale: float = 1.0) -> Field:
    guided = GuidedNetwork(net, scale, null_class=5)
    return Field(objective, schedule, net, guided if scale != 1 else net, (0.0, 1.0), recorded_labels(), None)


def esc_cases(*, edm: bool) -> list[Case]:
    return [c for c in cases("sampler", group="esc_samplers") if (c.config["path"] == "edm") == edm]


@pytest.mark.oracle("O18")
@pytest.mark.parametrize("c", esc_cases(edm=False), ids=str)
def test_pushforward_agrees_with_esc(c: Case) -> None:
    """ESC sampler.py on the linear and the cosine path, with and without guidance, every state of the trajectory."""
    own = {"name": "v_ddim", "sigma_data": c.config["sigma_data"]}
    objective = Objective.model_validate({"name": "meanflow", "parameterization": own})
    schedule, settings = path(c.config["path"]), how(nfe=c.config["steps"], sampler="pushforward")
    assert_close(torch.tensor(step_times(objective, schedule, settings), dtype=torch.float64), c["t_steps"])
    field = recorded_field(objective, schedule, golden_network(), c.config["cfg_scale"])
    x = c["noise"] * objective.noise_std
    for i, step in enumerate(jumps(objective, schedule, settings)):
        x = walk(field.jump, x, [step], field.renoise, never)
        assert_close(x, c["trajectory"][i], **CLOSE)
    assert_close(x, c["final"], **CLOSE)


@pytest.mark.oracle("O18")
@pytest.mark.parametrize("c", esc_cases(edm=True), ids=str)
def test_d13_a_model_that_lands_at_the_data_is_restarted(c: Case) -> None:
    """ESC pushes the EDM case forward with coefficients that ignore the landing time; restarting is what is right."""
    own = {"name": "edm", "sigma_data": c.config["sigma_data"]}
    objective = Objective.model_validate({"name": "ct", "parameterization": own})
    schedule, settings = path("ve"), how(nfe=c.config["steps"])
    field = recorded_field(objective, schedule, golden_network(ToldShareOfNoise))
    x = walk(
        field.jump,
        c["noise"] * 80,
        jumps(objective, schedule, settings),
        field.renoise,
        lambda level: c["restart_noise"][level - 1],
    )
    assert_close(x, c["final"], **CLOSE)
    assert settings.nfe == 1 or not torch.allclose(x, c.plain("final"), rtol=1e-3)


@pytest.mark.oracle("O18")
def test_restart_agrees_with_consistency_models() -> None:
    """openai/consistency_models: the levels of three indices of a grid of 40; the noise starts at sigma_min."""
    c = case("cm_multistep_restart")
    objective = Objective.model_validate({"name": "ct", "parameterization": {"name": "edm", "sigma_data": 0.5}})
    field = recorded_field(objective, path("ve"), golden_network(ToldNoiseLevel))
    settings = how(nfe=2, ratios=c["sigmas"][1:].tolist())
    steps = jumps(objective, path("ve"), settings)
    assert_close(torch.tensor([step.t for step in steps], dtype=torch.float64), c["sigmas"])
    x, fresh = c["x_init"], c["noise"]
    assert_close(field.jump(x, 0.0, 80.0), c["denoised"][0], **CLOSE)
    x = walk(field.jump, x, steps, field.renoise, lambda level: fresh[level - 1])
    assert_close(x, c["denoised"][1], **CLOSE)
    assert_close(x, c["final"], rtol=0, atol=1e-9)  # to which the reference adds noise of the root of a rounding error


@pytest.mark.oracle("O18")
def test_euler_and_heun_on_ve_are_the_samplers_of_edm() -> None:
    c, schedule = case("cm_ode_samplers"), path("ve")
    own = Objective.model_validate(
        {"name": "ct", "parameterization": {"name": "edm", "sigma_data": 0.5, "sigma_min": 0.0}}
    )
    denoiser = FlowMap(golden_network(ToldNoiseLevel), own.parameterization, schedule)

    def velocity(x: Tensor, t: float) -> Tensor:
        sigma = torch.full((len(x),), t, dtype=x.dtype)
        return (x - denoiser.jump(x, 0 * sigma, sigma, recorded_labels())) / t

    fm = Objective.model_validate({"name": "fm", "time_sampler": {"name": "logit_normal"}})
    assert_close(step_times(fm, schedule, how(sampler="euler", nfe=6, grid="edm")), c["sigmas"].tolist())
    assert_close(step_times(fm, schedule, how(sampler="heun", nfe=11, grid="edm")), c["sigmas"].tolist())
    times = c["sigmas"].tolist()
    assert_close(integrate(velocity, c["x_init"], times, heun=False), c["euler"], **CLOSE)
    assert_close(integrate(velocity, c["x_init"], times, heun=True), c["heun"], **CLOSE)
    assert_close(c["x_init"] - 80 * velocity(c["x_init"], 80.0), c["onestep"], **CLOSE)


IMM = [c for c in cases("sampler", group="samplers") if c.id.startswith("imm_")]


@pytest.mark.oracle("O18")
@pytest.mark.parametrize("c", IMM, ids=str)
def test_imm_samplers_agree_with_imm(c: Case) -> None:
    """lumalabs/imm: uniform and edm grids from T to eps, restart from given levels, guidance."""
    times = {"t_max": c.config["T"], "t_min": c.config["eps"]}
    own = {"name": "imm_euler_fm", "sigma_data": c.config["sigma_data"]}
    objective = Objective.model_validate({"name": "imm", "parameterization": own, "time_sampler": times})
    nfe = len(c["t_steps"]) - 1
    settings = how(
        nfe=nfe,
        sampler=c.config["sampler"],
        grid="edm" if c.config["discretization"] == "edm" else "uniform",
        ratios=c.config["mid_nt"],
    )
    assert_close(torch.tensor(step_times(objective, LINEAR, settings), dtype=torch.float64), c["t_steps"], **CLOSE)
    field = recorded_field(objective, LINEAR, golden_network(), c.config["cfg_scale"] or 1.0)
    seen: list[Tensor] = []

    def jump(x: Tensor, r: float, t: float) -> Tensor:
        seen.append(field.jump(x, r, t))
        return seen[-1]

    def fresh(level: int) -> Tensor:
        return c["noise"][level - 1] * objective.noise_std

    x = walk(jump, c["x_init"], jumps(objective, LINEAR, settings), field.renoise, fresh)
    assert_close(torch.stack(seen), c["jumps"], **CLOSE)
    assert_close(x, c["final"], **CLOSE)


# -- exact flow maps ---------------------------------------------------------------------------------------------


def spread_states(name: str, t: float, n: int = 64) -> Tensor:
    """States of world G at the time t, (n, 3) float64."""
    world = gaussian(name)
    time = torch.full((n,), t, dtype=torch.float64)
    z = torch.randn(n, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return world.schedule.at(time).alpha[:, None] * world.mean + world.spread(time) * z


def exact_jump(name: str) -> Any:
    world = gaussian(name)

    def jump(x: Tensor, r: float, t: float) -> Tensor:
        return world.flow(x, *(torch.full((len(x),), time, dtype=x.dtype) for time in (r, t)))

    return jump


@pytest.mark.oracle("O19")
@pytest.mark.parametrize("grid", [{}, {"grid": "edm"}, {"shift": 3.0}], ids=["uniform", "edm", "shift"])
@pytest.mark.parametrize("name", PATHS)
def test_steps_with_the_exact_map_compose(name: str, grid: dict[str, Any]) -> None:
    objective, schedule = Objective.model_validate("meanflow"), path(name)
    x, jump = spread_states(name, schedule.end), exact_jump(name)
    one = jump(x, 0.0, schedule.end)
    for nfe in (2, 5):
        steps = jumps(objective, schedule, how(nfe=nfe, sampler="pushforward", **grid))
        assert len(steps) == nfe
        assert_close(walk(jump, x, steps, never, never), one, rtol=1e-12, atol=1e-12)


def never(*_: Any) -> Tensor:
    raise AssertionError("no noise is added here")


@pytest.mark.oracle("O19")
@pytest.mark.parametrize("name", PATHS)
def test_a_network_that_is_the_exact_map_gives_the_data(name: str) -> None:
    """End to end, in float32: the mean and the spread of world G after one step, and no other ones after four."""
    objective, schedule = Objective.model_validate("meanflow"), path(name)
    world = gaussian(name)
    net = ExactNetwork(world, objective.parameterization)
    one, four = (
        sample(objective, schedule, net, 4000, (3,), how(nfe=nfe, sampler="pushforward", seed=1)) for nfe in (1, 4)
    )
    assert_close(four, one, rtol=0, atol=2e-4)
    assert_close(one.double().mean(0), world.mean, rtol=0, atol=0.1)
    assert_close(one.double().std(0), world.std, rtol=0.06, atol=0)


@pytest.mark.parametrize("name", PATHS)
def test_noise_on_the_way_makes_the_state_of_the_later_time_exactly(name: str) -> None:
    """Of world G at `at` with signal m and spread Gam: both are those of `to` afterwards, on every path."""
    world = gaussian(name, noise_std=0.5)
    one = torch.ones(1, 3, dtype=torch.float64)
    for to_share, at_share in itertools.product((0.2, 0.5, 0.9), (0.0, 0.1, 0.5, 1.0)):
        to, at = to_share * world.schedule.end, at_share * to_share * world.schedule.end
        k = renoise(world.schedule, one, at, to, 0 * one)
        added = renoise(world.schedule, 0 * one, at, to, 0.5 * one)
        times = [torch.tensor([time], dtype=torch.float64) for time in (at, to)]
        lower, upper = (world.spread(time) for time in times)
        assert_close((k * lower).square() + added.square(), upper.square(), rtol=1e-12, atol=1e-12)
        alphas = [world.schedule.at(time).alpha for time in times]
        assert_close(k[:, 0] * alphas[0], alphas[1], rtol=1e-12, atol=1e-12)


@pytest.mark.oracle("O19")
@pytest.mark.parametrize("fields", [{"sampler": "restart"}, {"sampler": "gamma"}, {"sampler": "gamma", "gamma": 0.5}])
@pytest.mark.parametrize("name", PATHS)
def test_noise_between_exact_jumps_keeps_the_distribution(name: str, fields: dict[str, Any]) -> None:
    """Statistical: three steps from the marginal of the end give mean and standard deviation of the data."""
    objective, schedule, n = Objective.model_validate("meanflow"), path(name), 40_000
    world, first = gaussian(name), spread_states(name, schedule.end, n)
    x = walk(
        exact_jump(name),
        first,
        jumps(objective, schedule, how(nfe=3, **fields)),
        lambda x, at, to, noise: renoise(schedule, x, at, to, noise),
        lambda level: sample_noise(0, 0, n, (3,), level).double(),
    )
    assert bool(((x.mean(0) - world.mean).abs() < 5 * world.std / math.sqrt(n)).all())
    assert bool((x.std(0) / world.std - 1).abs().max() < 5 / math.sqrt(2 * n))
    off = (first - first.mean(0)) / first.std(0)
    shared = (off * (x - world.mean) / world.std).mean(0)
    assert bool((shared < 0.999).all()), "some of the first noise is replaced"


@pytest.mark.oracle("O19")
@pytest.mark.parametrize("name", PATHS)
def test_gamma_0_is_pushforward_and_1_is_restart(name: str) -> None:
    objective, schedule = Objective.model_validate("meanflow"), path(name)
    net = random_network((2,), dtype=torch.float32)

    def drawn(**fields: Any) -> Tensor:
        return sample(objective, schedule, net, 8, (2,), how(nfe=3, **fields))

    push, restart = drawn(sampler="pushforward"), drawn(sampler="restart")
    assert torch.equal(drawn(sampler="gamma", gamma=0), push)
    assert torch.equal(drawn(sampler="gamma", gamma=1), restart)
    near = {"rtol": 1e-3, "atol": 1e-3 * float(push.abs().max())}
    assert_close(drawn(sampler="gamma", gamma=1e-4), push, **near)
    assert_close(drawn(sampler="gamma", gamma=1 - 1e-13), restart, **near)
    assert not torch.allclose(drawn(sampler="gamma"), restart, rtol=1e-2)


@pytest.mark.oracle("O19")
def test_gamma_on_ve_is_that_of_ctm() -> None:
    """CTM lands at sqrt(1 - gamma^2) sigma and adds gamma sigma of noise."""
    objective, schedule = Objective.model_validate("meanflow"), path("ve")
    steps = jumps(objective, schedule, how(nfe=2, sampler="gamma", gamma=0.6))
    assert steps == [Step(80.0, pytest.approx(0.8 * 40), 40.0), Step(40.0, 0.0, 0.0)]
    one = torch.ones(1, 1, dtype=torch.float64)
    assert float(renoise(schedule, 0 * one, 32.0, 40.0, one)) == pytest.approx(0.6 * 40)
    assert float(renoise(schedule, one, 32.0, 40.0, 0 * one)) == 1


@pytest.mark.oracle("O19")
@pytest.mark.parametrize(("heun", "order"), [(False, 1), (True, 2)])
@pytest.mark.parametrize("name", PATHS)
def test_euler_and_heun_converge_at_their_order(name: str, heun: bool, order: int) -> None:
    world = gaussian(name)
    start, last = (0.8, 0.3) if world.schedule.unit_time or name == "trig" else (4.0, 0.5)
    x = spread_states(name, start)
    exact = exact_jump(name)(x, last, start)

    def error(steps: int) -> float:
        times = [start + (last - start) * i / steps for i in range(steps + 1)]
        moved = integrate(lambda x, t: world.velocity(x, torch.full((len(x),), t).double()), x, times, heun=heun)
        return float((moved - exact).norm())

    assert math.log2(error(64) / error(128)) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize("name", PATHS)
def test_the_network_is_integrated_along_its_velocity(name: str) -> None:
    objective, schedule = Objective.model_validate("meanflow"), path(name)
    world = gaussian(name)
    net = ExactNetwork(world, objective.parameterization)
    one = sample(objective, schedule, net, 200, (3,), how())
    many = [sample(objective, schedule, net, 200, (3,), how(sampler="heun", nfe=n, grid="edm")) for n in (41, 161)]
    coarse, fine = (float((x - one).norm()) / float(one.norm()) for x in many)
    assert fine < 0.02
    assert fine < coarse / 3
