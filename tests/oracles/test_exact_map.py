"""The exact flow map is a fixed point on every path, in every parameterisation and under every limit (O4, world G)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from partial_trials import partial_trial
from torch import Tensor
from torch.testing import assert_close
from worlds import ExactNetwork, ExactStep, Gaussian, MarginalVelocity, gaussian

from ablate_core.flow_map import FlowMap
from ablate_core.legality import check
from ablate_core.objective import Batch, Objective
from ablate_core.parameterizations import Parameterization
from ablate_core.random import Draws
from ablate_core.schedules import Schedule
from ablate_core.state import Rows
from ablate_core.targets.lagrangian import Lagrangian

PATHS = sorted(Schedule.choices)
PARAMETERIZATIONS = sorted(Parameterization.choices)
FINE: dict[str, Any] = {"ve": {"name": "ve", "sigma_min": 1e-6}}
"""Noise levels that no drawn time falls below: they would look alike to the network."""
PLAIN = {"metric": "l2_mean", "weighting": "none", "tangent": "none", "target_network": "stop_gradient"}


def parameterization(name: str) -> dict[str, Any]:
    """Data of half the unit spread where it scales by that, a bound that no drawn time reaches, and landing at 0."""
    own = Parameterization.choice(name)
    settings = {"sigma_data": 0.5, "clip": 1e-4, "sigma_min": 0.0}
    return {"name": name} | {field: value for field, value in settings.items() if field in own.model_fields}


def objective(row: str, name: str, **slots: Any) -> Objective:
    told = {"guidance": "tvm"} if Parameterization.choice(name).needs_guidance_scale else {}
    return Objective.model_validate({"name": row, "parameterization": parameterization(name), **PLAIN, **told, **slots})


def refusals(own: Objective, path: str) -> set[str]:
    return {problem.code for problem in check(partial_trial(own, path)) if problem.level == "error"}


LIMITS: dict[str, tuple[str, dict[str, Any]]] = {
    "velocity": ("fm", {}),
    "continuous": ("meanflow", {}),
    "continuous_to_data": ("meanflow", {"time_sampler": "scm_lognormal"}),
    "grid": ("ct", {"limit": {"compare": "states"}}),
    "grid_mean": ("ct", {"limit": {"compare": "velocities"}}),
    "split": ("ct", {"time_sampler": "lambda_split", "limit": {"compare": "states"}}),
    "split_mean": ("ct", {"time_sampler": "lambda_split", "limit": {"compare": "velocities"}}),
    "to_clean": ("ct", {"time_sampler": "ect"}),
    "annealed": ("ct", {"time_sampler": "alpha_ratio", "limit": "annealed"}),
    "lagrangian": ("meanflow", {"time_sampler": "tvm", "limit": "lagrangian", "target_network": "ema"}),
}
"""How prediction and target are formed: a row and what it changes."""
TRIPLES = [(limit, name, path) for limit in LIMITS for name in PARAMETERIZATIONS for path in PATHS]
LEGAL = [
    (limit, name, path)
    for limit, name, path in TRIPLES
    if not refusals(objective(*LIMITS[limit][:1], name, **LIMITS[limit][1]), path)
]


def batch(world: Gaussian, n: int = 128) -> Batch:
    z = torch.randn(n, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return Batch(world.mean + world.std * z, torch.arange(n) % 10, 10)


def exact_loss(own: Objective, path: str, step: int) -> Tensor:
    """Loss per row of the exact map with the marginal velocity, and an exact first step where one is taken."""
    world = gaussian(FINE.get(path, path), own.noise_std)
    net = ExactNetwork(world, own.parameterization)
    stand_ins: dict[str, Any] = {"velocity": MarginalVelocity(world)}
    if own.first_step.takes_step:
        stand_ins["first_step"] = ExactStep(world)
    own = own.model_copy(update=stand_ins)
    draws = Draws(0, step, dtype=torch.float64)
    loss = own.loss(net, net, world.schedule, batch(world), draws, step, 1000).per_sample
    loss.mean().backward()
    assert net.zero.grad is not None
    assert bool(torch.isfinite(net.zero.grad))
    return loss.detach()


def with_marks(limit: str, name: str, path: str) -> Any:
    own = objective(LIMITS[limit][0], name, **LIMITS[limit][1])
    held = (f"limit:{own.limit.name}", f"second_step:{own.second_step.name}", f"time_sampler:{own.time_sampler.name}")
    return pytest.param(limit, name, path, marks=pytest.mark.proves(*held))


@pytest.mark.oracle("O4")
@pytest.mark.proves("schedule:{path}", "parameterization:{name}", "tangent:none")
@pytest.mark.parametrize(("limit", "name", "path"), [with_marks(*triple) for triple in LEGAL])
def test_the_exact_map_has_no_loss_under_the_marginal_velocity(limit: str, name: str, path: str) -> None:
    row, slots = LIMITS[limit]
    for step in (100, 600, 999) if limit == "annealed" else (300,):  # alpha is 1, between, and 0
        loss = exact_loss(objective(row, name, **slots), path, step)
        assert float(loss.max()) < 1e-22  # rounding; the largest state is 80


def test_what_the_test_above_leaves_out_is_refused_for_the_path_the_landing_time_or_the_heads() -> None:
    codes = {
        triple: refusals(objective(LIMITS[triple[0]][0], triple[1], **LIMITS[triple[0]][1]), triple[2])
        for triple in TRIPLES
    }
    assert all(found <= {"C3", "C10", "C17", "C28"} for found in codes.values())
    assert {name for _, name, _ in LEGAL} == set(PARAMETERIZATIONS)
    assert {path for _, _, path in LEGAL} == set(PATHS)
    assert {limit for limit, _, _ in LEGAL} == set(LIMITS)


@pytest.mark.oracle("O4")
@pytest.mark.proves("limit:lagrangian", "schedule:{path}", "parameterization:{name}")
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", ["u", "v_ddim", "imm_euler_fm", "imm_simple_edm"])
def test_the_exact_map_moves_with_the_velocity_where_it_lands(path: str, name: str) -> None:
    own = Parameterization.model_validate(parameterization(name))
    world = gaussian(FINE.get(path, path), own.noise_std)
    t = torch.linspace(0.3, 0.95, 32, dtype=torch.float64) * world.schedule.end
    r, x = t * torch.linspace(0.1, 0.9, 32, dtype=torch.float64), batch(world, 32).x0
    rows = Rows(x=x, v=x, r=r, s=t, t=t, y=None, ladder_bottom=None, null=0)
    landed, rate = Lagrangian().landing(FlowMap(ExactNetwork(world, own), own, world.schedule), rows)
    assert_close(landed, world.flow(x, r, t), rtol=1e-11, atol=1e-11)
    assert_close(rate, world.velocity(landed, r), rtol=1e-9, atol=1e-10)


@pytest.mark.proves("velocity:network", "parameterization:{name}")
@pytest.mark.parametrize("name", ["u", "v_ddim", "uv_dual", "x0_dual"])
def test_the_exact_map_follows_its_own_velocity(name: str) -> None:
    own = objective("meanflow", name, velocity="network")
    world = gaussian("cosine01", own.noise_std)
    net = ExactNetwork(world, own.parameterization)
    state = own.state(world.schedule, batch(world), Draws(0, 0, dtype=torch.float64), 0, 1)
    along = own.velocity.direction(FlowMap(net, own.parameterization, world.schedule), state)
    jumps = ~state.times.fm
    assert along is not None
    assert_close(along[jumps], world.velocity(state.x, state.times.t)[jumps], rtol=1e-11, atol=1e-11)
    assert int(jumps.sum()) > 10
