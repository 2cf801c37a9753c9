"""Limits against formulas written out on their own: annealed, Lagrangian, network velocities, second terms (O4, O6)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from golden_cases import GoldenNetwork, random_network
from test_exact_map import parameterization
from torch import Tensor
from torch.testing import assert_close

from ablate_core.flow_map import FlowMap
from ablate_core.objective import Batch, Objective
from ablate_core.parameterizations import Parameterization
from ablate_core.random import Draws
from ablate_core.schedules import Schedule
from ablate_core.state import Rows
from ablate_core.targets.annealed import Annealed
from ablate_core.targets.continuous import Continuous
from ablate_core.targets.discrete import Discrete

LINEAR = Schedule.model_validate("linear")
PLAIN = {"metric": "l2_mean", "weighting": "none", "tangent": "none", "label_dropout": 0.1}
CLOSE = {"rtol": 1e-11, "atol": 1e-12}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def batch(n: int = 32) -> Batch:
    return Batch(0.5 * normal(n, 4), torch.arange(n) % 5, 5)


def draws(step: int = 3) -> Draws:
    return Draws(0, step, dtype=torch.float64)


def gradients(net: GoldenNetwork, loss: Tensor) -> dict[str, Tensor]:
    net.zero_grad()
    loss.backward()
    return {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in net.named_parameters()}


def same_in_value_and_gradient(net: GoldenNetwork, ours: Tensor, wanted: Tensor) -> None:
    assert_close(ours, wanted, **CLOSE)
    one, other = gradients(net, ours.mean()), gradients(net, wanted.mean())
    for name, gradient in one.items():
        assert_close(gradient, other[name], **CLOSE, msg=name)
    assert any(float(gradient.abs().max()) > 0 for gradient in one.values())


def rows(path: Schedule, share: float, power: float | None = None) -> Rows:
    """Rows that jump from t to share t, with s = t - 2^-power (t - r), or s = t."""
    t = torch.linspace(0.3, 0.9, 8, dtype=torch.float64) * path.end
    x, v = path.interpolate(normal(8, 4), normal(8, 4, seed=1), t)
    r = share * t
    s = t if power is None else t - 2.0**-power * (t - r)
    return Rows(x=x, v=v, r=r, s=s, t=t, y=torch.arange(8) % 5, ladder_bottom=None, null=5)


# --- O6: from two steps to their limit ---


@pytest.mark.oracle("O6")
@pytest.mark.proves(
    "limit:annealed", "limit:discrete", "parameterization:{name}", "schedule:{path}", "first_step:{step}"
)
@pytest.mark.parametrize(
    ("path", "step"),
    [("linear", "euler"), ("linear", "ddim"), ("cosine01", "ddim"), ("trig", "ddim"), ("vp_sqrt", "ddim")],
)
@pytest.mark.parametrize("name", ["u", "v_ddim", "x0", "imm_simple_edm"])
def test_two_steps_tend_to_the_continuous_branch_at_first_order_in_alpha(name: str, path: str, step: str) -> None:
    schedule, own = Schedule.model_validate(path), Parameterization.model_validate(parameterization(name))
    flow_map = FlowMap(random_network((4,)), own, schedule)
    slots = Objective.model_validate(
        {"name": "ct", "parameterization": own, "first_step": step, "limit": "annealed", **PLAIN}
    )
    limit, errors = Annealed(), []
    with torch.no_grad():
        far = rows(schedule, 0.3)
        u = flow_map.average(flow_map.velocity(far.x, far.r, far.t, far.y), far.x, far.r, far.t)
        residual = u - limit._limit(slots, flow_map, far, 0)
        for power in range(8, 14):
            near = rows(schedule, 0.3, power)
            finite = u - limit._two_steps(slots, flow_map, near, 0)
            errors.append(float((2.0**power * finite - residual).norm()))
    slopes = torch.tensor(errors).log2().diff()
    assert_close(slopes, torch.full_like(slopes, -1.0), rtol=0, atol=0.02)


@pytest.mark.proves("limit:annealed", "time_sampler:alpha_ratio")
@pytest.mark.parametrize("alpha", [1.0, 0.5, 0.1, 0.0])
def test_the_annealed_loss_is_alphaflow(alpha: float) -> None:
    """Target alpha v + (1 - alpha) u^-(x_t - alpha (t - r) v, r, s), and MeanFlow's at alpha = 0."""
    sampler = {"name": "alpha_ratio", "shape": "constant", "alpha": alpha, "p_eq": 0.25}
    slots = {"first_step": "euler", "second_step": "network", "limit": "annealed", "time_sampler": sampler}
    own = Objective.model_validate({"name": "ct", "parameterization": "u", "target_network": "ema", **slots, **PLAIN})
    net, slow = random_network((4,)), random_network((4,), seed=1)
    ours = own.loss(net, slow, LINEAR, batch(), draws(), 3, 10)
    state = own.state(LINEAR, batch(), draws(), 3, 10)
    x, v, r, t, y = state.x, state.v, state.times.r[:, None], state.times.t[:, None], state.y
    s = t - alpha * (t - r)
    with torch.no_grad():
        if alpha:
            aim = alpha * v + (1 - alpha) * slow(x - alpha * (t - r) * v, r[:, 0], s[:, 0], y)
        else:
            _, du = torch.func.jvp(lambda x, t: slow(x, r[:, 0], t, y), (x, t[:, 0]), (v, torch.ones_like(t[:, 0])))
            aim = v - (t - r) * du
        aim = torch.where(r == t, v, aim)
    wanted = (net(x, r[:, 0], t[:, 0], y) - aim).square().mean(1)
    same_in_value_and_gradient(net, ours.per_sample, wanted)


@pytest.mark.proves("second_step:identity", "time_sampler:lambda_split")
@pytest.mark.parametrize("first", ["euler", "ddim"])
def test_a_target_that_stops_where_it_lands_is_trajectory_flow_matching(first: str) -> None:
    """s = r: the target is the velocity itself, whatever the landing time; AlphaFlow with alpha = 1."""
    slots = {"first_step": first, "second_step": "identity", "time_sampler": {"name": "lambda_split", "split": 1.0}}
    own = Objective.model_validate(
        {
            "name": "ct",
            "parameterization": "u",
            "limit": {"compare": "velocities"},
            "target_network": "ema",
            **slots,
            **PLAIN,
        }
    )
    net = random_network((4,))
    state = own.state(LINEAR, batch(), draws(), 3, 10)
    wanted = (net(state.x, state.times.r, state.times.t, state.y) - state.v).square().mean(1)
    ours = own.loss(net, random_network((4,), seed=1), LINEAR, batch(), draws(), 3, 10).per_sample
    same_in_value_and_gradient(net, ours, wanted)
    assert torch.equal(state.times.s, state.times.r)


@pytest.mark.proves("limit:annealed")
def test_in_one_batch_rows_with_a_gap_take_two_steps_and_rows_without_their_limit() -> None:
    own = Objective.model_validate({"name": "alphaflow", "time_sampler": {"p_eq": 0.3}, **PLAIN})
    net, slow = (FlowMap(random_network((4,), seed=seed), own.parameterization, LINEAR) for seed in (0, 1))
    state = own.state(LINEAR, batch(), draws(), 3, 10)
    closed = torch.arange(32) % 2 == 0
    state = replace(state, times=replace(state.times, s=torch.where(closed, state.times.t, state.times.s)))
    mixed = own.limit.regress(own, net, slow, state, 3).target
    two = own.model_copy(update={"limit": Discrete(compare="velocities")})
    none = own.model_copy(update={"limit": Continuous()})
    apart, together = (other.limit.regress(other, net, slow, state, 3).target for other in (two, none))
    jumps = ~state.times.fm
    assert_close(mixed[jumps & ~closed], apart[jumps & ~closed], **CLOSE)
    assert_close(mixed[jumps & closed], together[jumps & closed], **CLOSE)
    assert torch.equal(mixed[~jumps], state.v[~jumps])
    assert min(int((jumps & closed).sum()), int((jumps & ~closed).sum()), int((~jumps).sum())) > 3


@pytest.mark.proves("time_sampler:lambda_split", "first_step:network", "second_step:network", "limit:discrete")
def test_two_network_steps_are_splitmeanflow() -> None:
    """Target (1 - l) u^-(x_s, r, s) + l u^-(x_t, s, t) with s = (1 - l) t + l r."""
    slots = {"first_step": "network", "second_step": "network", "limit": {"compare": "velocities"}}
    own = Objective.model_validate(
        {
            "name": "ct",
            "parameterization": "u",
            "time_sampler": "lambda_split",
            "target_network": "ema",
            **slots,
            **PLAIN,
        }
    )
    net, slow = random_network((4,)), random_network((4,), seed=1)
    state = own.state(LINEAR, batch(), draws(), 3, 10)
    x, r, s, t, y = state.x, state.times.r, state.times.s, state.times.t, state.y
    with torch.no_grad():
        first = slow(x, s, t, y)
        x_s = x - (t - s)[:, None] * first
        share = torch.where(r == t, torch.ones_like(t), (t - s) / (t - r))[:, None]
        aim = torch.where((r == t)[:, None], state.v, (1 - share) * slow(x_s, r, s, y) + share * first)
    wanted = (net(x, r, t, y) - aim).square().mean(1)
    same_in_value_and_gradient(net, own.loss(net, slow, LINEAR, batch(), draws(), 3, 10).per_sample, wanted)


# --- iMF: the tangent follows the network's own velocity ---


@pytest.mark.oracle("O16")
@pytest.mark.proves("velocity:network", "parameterization:uv_dual", "limit:continuous", "loss_metric:adaptive")
def test_network_velocity_and_two_heads_are_imf() -> None:
    """ad(|u + (t - r) sg(du) - v|^2) + ad(|v_head - v|^2), du along the head's own velocity at (t, t)."""
    metric = {"name": "adaptive", "p": 1.0, "c": 0.01}
    sampler = {"name": "ln_minmax", "p_eq": 0.5}
    slots = {"parameterization": "uv_dual", "velocity": "network", "time_sampler": sampler, "metric": metric}
    own = Objective.model_validate({"name": "meanflow", **slots})
    net = random_network((4,), heads=2)
    state = own.state(LINEAR, batch(), draws(), 3, 10)
    x, v, r, t, y = state.x, state.v, state.times.r, state.times.t, state.y
    with torch.no_grad():
        along = net.forward_heads(x, t, t, y)[1]
        _, du = torch.func.jvp(lambda x, t: net(x, r, t, y), (x, t), (along, torch.ones_like(t)))
    u, head = net.forward_heads(x, r, t, y)

    def adaptive(error: Tensor) -> Tensor:
        square = error.square().sum(1)
        return square / (square.detach() + 0.01)

    wanted = adaptive(u + (t - r)[:, None] * du - v) + adaptive(head - v)
    ours = own.loss(net, net, LINEAR, batch(), draws(), 3, 10).per_sample
    same_in_value_and_gradient(net, ours, wanted)
    assert int((r < t).sum()) > 8


@pytest.mark.oracle("O16")
@pytest.mark.proves("velocity:network", "parameterization:x0_dual", "time_sampler:ln_mask_first")
def test_two_heads_that_denoise_are_pmf() -> None:
    """As iMF, with u = (x - F) / max(t, clip) for both heads inside the derivative, and v = (x - x0) / max(t, clip)."""
    clip = 0.65  # rows on either side
    own = Objective.model_validate({"name": "pmf", "parameterization": {"clip": clip}, "metric": "l2_sum"})
    net = random_network((4,), heads=2)
    state = own.state(LINEAR, batch(), draws(), 3, 10)
    x, r, t, y = state.x, state.times.r, state.times.t, state.y

    def velocities(x: Tensor, r: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        by = t.clamp(min=clip)[:, None]
        u, head = net.forward_heads(x, r, t, y)
        return (x - u) / by, (x - head) / by

    v = (x - state.x0) / t.clamp(min=clip)[:, None]
    with torch.no_grad():
        along = velocities(x, t, t)[1]
        _, du = torch.func.jvp(lambda x, t: velocities(x, r, t)[0], (x, t), (along, torch.ones_like(t)))
    u, head = velocities(x, r, t)
    wanted = (u + (t - r)[:, None] * du - v).square().sum(1) + (head - v).square().sum(1)
    same_in_value_and_gradient(net, own.loss(net, net, LINEAR, batch(), draws(), 3, 10).per_sample, wanted)
    assert bool((t < clip).any())
    assert bool((t > clip).any())


@pytest.mark.proves("velocity:network")
def test_without_a_head_the_tangent_follows_the_map_at_r_equal_t() -> None:
    own = Objective.model_validate({"name": "meanflow", "velocity": "network", **PLAIN})
    net, slow = random_network((4,)), random_network((4,), seed=1)
    state = own.state(LINEAR, batch(), draws(), 3, 10)
    x, v, r, t, y = state.x, state.v, state.times.r, state.times.t, state.y
    with torch.no_grad():
        along = slow(x, t, t, y)
        _, du = torch.func.jvp(lambda x, t: slow(x, r, t, y), (x, t), (along, torch.ones_like(t)))
        aim = v - (t - r)[:, None] * du
    wanted = (net(x, r, t, y) - aim).square().mean(1)
    same_in_value_and_gradient(net, own.loss(net, slow, LINEAR, batch(), draws(), 3, 10).per_sample, wanted)


# --- TVM: the loss is differentiated through the derivative by the landing time ---


def landing_rate(
    net: GoldenNetwork, x: Tensor, r: Tensor, t: Tensor, y: Tensor | None, *g: Tensor
) -> tuple[Tensor, Tensor]:
    """X_{t,r} and its derivative by r, by two backward passes (ours is forward over reverse)."""

    def landed(r: Tensor) -> Tensor:
        return x + (r - t)[:, None] * net(x, r, t, y, *g)

    return torch.autograd.functional.jvp(landed, (r,), (torch.ones_like(r),), create_graph=True)


@pytest.mark.oracle("O16")
@pytest.mark.proves("limit:lagrangian", "time_sampler:tvm", "guidance:tvm", "parameterization:{name}")
@pytest.mark.parametrize("name", ["u", "scaled_u"])
def test_the_lagrangian_loss_is_tvm(name: str) -> None:
    """Half |dX/dr - u^-(X, r, r)|^2 at (r, t) and half |u(x', s', s') - v'|^2 at s'; over w^2 for scaled_u."""
    slots = {"parameterization": name, "limit": "lagrangian", "time_sampler": "tvm", "target_network": "ema"}
    own = Objective.model_validate({"name": "meanflow", "guidance": {"name": "tvm", "w_max": 3.0}, **slots, **PLAIN})
    net, slow = (random_network((4,), seed=seed, guidance_inputs=1) for seed in (0, 1))
    state = own.state(LINEAR, batch(), draws(), 3, 10)
    x, r, t, y, g = state.x, state.times.r, state.times.t, state.y, state.g
    s = state.times.velocity_t
    assert g is not None
    assert s is not None
    beta = g if name == "scaled_u" else torch.ones_like(g)
    w = torch.where((y == 5)[:, None], torch.ones_like(g), 1 / g)

    class Scaled(GoldenNetwork):
        def forward(self, *inputs: Any) -> Tensor:
            return super().forward(*inputs) / beta

    scaled, slow_scaled = Scaled({}), Scaled({})
    scaled.__dict__["_parameters"], slow_scaled.__dict__["_parameters"] = net._parameters, slow._parameters
    landed, rate = landing_rate(scaled, x, r, t, y, g)
    with torch.no_grad():
        aim = slow_scaled(landed, r, r, y, g)
        x_s = (1 - s)[:, None] * state.x0 + s[:, None] * state.noise
        null = slow(x_s, s, s, torch.full_like(s, 5).long(), torch.ones_like(g))
        guided = w * (state.noise - state.x0) + (1 - w) * null
    terminal = (beta * (rate - aim)).square().mean(1)
    velocity = (beta * (scaled(x_s, s, s, y, g) - guided)).square().mean(1)
    ours = own.loss(net, slow, LINEAR, batch(), draws(), 3, 10).per_sample
    same_in_value_and_gradient(net, ours, (terminal + velocity) / 2)
    assert all(p.grad is None for p in slow.parameters())


@pytest.mark.proves("time_sampler:dmf")
def test_the_second_term_is_flow_matching_with_the_estimate_of_the_velocity_slot() -> None:
    slots = {"time_sampler": "dmf", "velocity": {"name": "plugin", "prob": 1.0}, "label_dropout": 0.0}
    own = Objective.model_validate({"name": "meanflow", **PLAIN, **slots})
    net = random_network((4,))
    state = own.state(LINEAR, batch(), draws(), 3, 10)
    t, y = state.times.velocity_t, state.y
    assert t is not None
    x = (1 - t)[:, None] * state.x0 + t[:, None] * state.noise
    weights = torch.softmax(
        -torch.cdist(x / (1 - t)[:, None], state.x0).square() * ((1 - t) / t).square()[:, None] / 2, 1
    )
    v = (x - weights @ state.x0) / t[:, None]
    second = (net(x, t, t, y) - v).square().mean(1)
    flow_map = FlowMap(net, own.parameterization, LINEAR)
    jumps = own.limit.regress(own, flow_map, flow_map, own.estimated(state, draws())[0], 3)
    first = (jumps.prediction - jumps.target).square().mean(1)
    ours = own.loss(net, net, LINEAR, batch(), draws(), 3, 10).per_sample
    same_in_value_and_gradient(net, ours, (first + second) / 2)


@pytest.mark.proves("limit:annealed")
def test_the_step_of_a_difference_that_is_not_taken_leaves_no_trace() -> None:
    plain = Objective.model_validate("alphaflow")
    assert Objective.model_validate({"name": "alphaflow", "limit": {"h": 0.1}}) == plain
    taken = Objective.model_validate({"name": "alphaflow", "limit": {"h": 0.1, "jvp_backend": "finite_diff"}})
    assert taken.limit.h == 0.1  # type: ignore[attr-defined]


@pytest.mark.proves("time_sampler:dmf", "guidance:omega_conditioned")
def test_rows_of_the_second_term_are_told_the_window_of_flow_matching_rows() -> None:
    own = Objective.model_validate({"name": "dmf", "guidance": "omega_conditioned", "label_dropout": 0.0})
    told: list[Tensor] = []

    class Spy(GoldenNetwork):
        def forward(self, x: Tensor, r: Tensor, t: Tensor, y: Tensor | None, g: Tensor | None = None) -> Tensor:
            if torch.is_grad_enabled():
                assert g is not None
                told.append(g)
            return super().forward(x, r, t, y, g)

    net = Spy({name: p.detach() for name, p in random_network((4,), guidance_inputs=3).named_parameters()})
    own.loss(net, net, LINEAR, batch(), draws(), 3, 10)
    jumps, velocities = told
    assert torch.equal(jumps[:, 0], velocities[:, 0])  # one scale per row
    assert float(jumps[:, 1].max()) > 0
    assert velocities[:, 1:].unique(dim=0).tolist() == [[0.0, 1.0]]
