"""Closed-form properties of the slots: derivatives, velocities, metrics, weights, guidance (O5, O9, O11 - O16)."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from golden_cases import GoldenNetwork, random_network
from torch import Tensor
from torch.testing import assert_close
from worlds import ExactNetwork, gaussian, mixture

from ablate_core.flow_map import FlowMap
from ablate_core.loss_metrics import LossMetric
from ablate_core.loss_metrics.mmd_laplace import MmdLaplace
from ablate_core.methods import METHODS
from ablate_core.objective import Batch, Objective
from ablate_core.parameterizations import Parameterization
from ablate_core.random import Draws
from ablate_core.schedules import Schedule
from ablate_core.state import Rows, State
from ablate_core.tangents.base import Slope
from ablate_core.tangents.shaped import Shaped
from ablate_core.targets.continuous import Continuous
from ablate_core.time_samplers.base import TimeSample
from ablate_core.velocities.plugin import Plugin, plugin_velocity
from ablate_core.weightings.variational import Variational

U = Parameterization.model_validate("u")
LINEAR = Schedule.model_validate("linear")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def state(
    x0: Tensor, t: Tensor, *, path: Schedule = LINEAR, labels: Tensor | None = None, y: Tensor | None = None
) -> State:
    noise = normal(*x0.shape, seed=9)
    x, v = path.interpolate(x0, noise, t)
    times = TimeSample(r=t, s=t, t=t, fm=torch.ones_like(t, dtype=torch.bool))
    return State(path, 1.0, x0, noise, x, v, times, labels, labels if y is None else y, 5)


# --- O5: the derivative along the path ---


def derivative_rows() -> tuple[FlowMap, Rows]:
    t = torch.linspace(0.2, 0.9, 6, dtype=torch.float64)
    x, v = LINEAR.interpolate(normal(6, 4), normal(6, 4, seed=1), t)
    own = Parameterization.model_validate({"name": "v_ddim", "sigma_data": 0.5, "scale_input": "unit_variance"})
    rows = Rows(x, v, 0.3 * t, t, t, torch.arange(6) % 5, None, 5)
    return FlowMap(random_network((4,)), own, LINEAR), rows


@pytest.mark.oracle("O5")
@pytest.mark.proves("limit:continuous")
def test_the_derivative_is_the_limit_of_central_differences_and_they_converge_at_second_order() -> None:
    flow_map, rows = derivative_rows()
    with torch.no_grad():
        value, exact = Continuous().derivative(flow_map, rows)
        errors = [
            float((Continuous(jvp_backend="finite_diff", h=h).derivative(flow_map, rows)[1] - exact).abs().max())
            for h in (1e-2, 5e-3, 1e-4)
        ]
        assert torch.equal(value, flow_map.velocity(rows.x, rows.r, rows.t, rows.y))
    assert 3.8 < errors[0] / errors[1] < 4.2
    assert errors[2] < 1e-6


@pytest.mark.oracle("O5")
@pytest.mark.proves("limit:continuous")
def test_the_derivative_is_the_same_with_gradients_on_and_equals_the_double_backward_trick() -> None:
    flow_map, rows = derivative_rows()
    with torch.no_grad():
        _, quiet = Continuous().derivative(flow_map, rows)
    _, loud = Continuous().derivative(flow_map, rows)
    assert torch.equal(quiet, loud.detach())
    inputs, tangents = (rows.x, rows.t), (rows.v, torch.ones_like(rows.t))
    _, double = torch.autograd.functional.jvp(lambda x, t: flow_map.velocity(x, rows.r, t, rows.y), inputs, tangents)
    assert_close(double, quiet, rtol=1e-13, atol=1e-14)


@pytest.mark.oracle("O16")
def test_targets_record_no_graph_and_only_rows_that_jump_are_differentiated(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, bool]] = []  # defect D20: the reference differentiates the whole batch with a graph
    forward = GoldenNetwork.forward

    def counted(self: GoldenNetwork, x: Tensor, *rest: Any) -> Tensor:
        calls.append((len(x), torch.is_grad_enabled()))
        return forward(self, x, *rest)

    monkeypatch.setattr(GoldenNetwork, "forward", counted)
    objective = Objective.model_validate({"name": "meanflow", "time_sampler": {"p_eq": 0.75}})
    net, draws = random_network((4,)), Draws(0, 0, dtype=torch.float64)
    loss = objective.loss(net, net, LINEAR, Batch(normal(64, 4)), draws, 0, 1)
    jumps = int((~loss.rows.velocity).sum())
    assert calls == [(64, True), (jumps, False)]
    assert 4 <= jumps <= 30


# --- O9: plug-in velocity ---


@pytest.mark.oracle("O9")
@pytest.mark.proves("velocity:plugin")
@pytest.mark.parametrize("path", sorted(Schedule.choices))
def test_plugin_velocities_equal_the_naive_sum_over_pairs(path: str) -> None:
    own, t = Schedule.model_validate(path), torch.linspace(0.3, 0.97, 12, dtype=torch.float64)
    s = state(0.3 * normal(12, 3), t, path=own)
    velocity, weights = plugin_velocity(s, torch.arange(12))
    a, b, da, db = own.at(t)
    for i in range(12):
        logits = torch.stack([-(s.x[i] - a[i] * s.x0[j]).square().sum() / (2 * b[i] ** 2) for j in range(12)])
        w = torch.softmax(logits, 0)
        x0 = (w[:, None] * s.x0).sum(0)
        assert_close(weights[i], w, rtol=1e-11, atol=1e-13)
        assert_close(velocity[i], da[i] * x0 + db[i] * (s.x[i] - a[i] * x0) / b[i], rtol=1e-10, atol=1e-11)
    ess = 1 / weights.square().sum(1)
    assert bool((ess >= 1 - 1e-12).all())
    assert bool((ess <= 12 + 1e-9).all())


@pytest.mark.oracle("O9")
@pytest.mark.proves("velocity:plugin")
def test_the_plugin_velocity_approaches_the_marginal_one_as_the_batch_grows() -> None:
    world, errors = mixture(dim=2), []
    for batch in (64, 256, 1024):
        total = 0.0
        for trial in range(8):
            g = torch.Generator().manual_seed(1000 * trial + batch)
            which = torch.multinomial(world.shares, batch, replacement=True, generator=g)
            x0 = world.centres[which] + world.width * torch.randn(batch, 2, generator=g, dtype=torch.float64)
            t = torch.full((batch,), 0.5, dtype=torch.float64)
            noise = torch.randn(batch, 2, generator=g, dtype=torch.float64)
            x, v = world.schedule.interpolate(x0, noise, t)
            s = State(world.schedule, 1.0, x0, noise, x, v, TimeSample(t, t, t, t > 2), None, None, 0)
            velocity, _ = plugin_velocity(s, torch.arange(64))
            total += float((velocity - world.velocity(x, t)[:64]).square().sum(1).mean()) / 8
        errors.append(math.log(total))
    slope = (errors[0] - errors[2]) / math.log(1024 / 64)
    assert 0.8 < slope < 1.3, errors


@pytest.mark.oracle("O9")
@pytest.mark.proves("velocity:plugin")
def test_the_plugin_velocity_is_the_conditional_one_at_the_data_end() -> None:
    t = torch.zeros(8, dtype=torch.float64)  # defect D21: the reference raises at t = 0
    s = state(normal(8, 3), t)
    v, _ = Plugin(prob=1.0).estimate(s, Draws(0, 0, dtype=torch.float64))
    assert torch.equal(v, s.v)
    near = state(normal(8, 3), t + 1e-3)
    assert_close(plugin_velocity(near, torch.arange(8))[0], near.v, rtol=1e-12, atol=1e-12)


@pytest.mark.oracle("O9")
@pytest.mark.proves("velocity:plugin")
def test_the_class_mask_is_a_call_per_class_and_rows_without_class_see_everything() -> None:
    t, labels = torch.full((12,), 0.9, dtype=torch.float64), torch.arange(12) % 3
    y = labels.clone()
    y[0] = 5  # dropped
    x0 = normal(12, 3)
    masked, _ = plugin_velocity(state(x0, t, labels=labels, y=y), torch.arange(12), same_class=True)
    whole = state(x0, t)
    assert_close(masked[0], plugin_velocity(whole, torch.arange(1))[0][0], rtol=1e-12, atol=1e-12)
    rows = torch.nonzero(labels == 1).squeeze(1)
    part = State(
        LINEAR,
        1.0,
        x0[rows],
        whole.noise[rows],
        whole.x[rows],
        whole.v[rows],
        TimeSample(t[rows], t[rows], t[rows], t[rows] > 2),
        None,
        None,
        5,
    )
    assert_close(masked[rows], plugin_velocity(part, torch.arange(len(rows)))[0], rtol=1e-11, atol=1e-12)


@pytest.mark.oracle("O9")
@pytest.mark.proves("velocity:plugin")
def test_plugin_velocities_follow_a_permutation_of_the_batch() -> None:
    s, order = state(normal(10, 3), torch.linspace(0.5, 0.99, 10, dtype=torch.float64)), torch.randperm(10)
    times = TimeSample(*(s.times.t[order],) * 3, s.times.fm[order])
    moved = State(LINEAR, 1.0, s.x0[order], s.noise[order], s.x[order], s.v[order], times, None, None, 5)
    straight, permuted = plugin_velocity(s, torch.arange(10))[0], plugin_velocity(moved, torch.arange(10))[0]
    assert_close(permuted, straight[order], rtol=1e-11, atol=1e-12)


@pytest.mark.proves("velocity:plugin")
def test_plugin_velocities_in_float32_equal_those_in_float64() -> None:
    x0, t = 0.2 * normal(64, 768), torch.linspace(0.02, 0.99, 64, dtype=torch.float64)
    s = state(x0, t)
    half = State(
        LINEAR,
        1.0,
        *(part.float() for part in (s.x0, s.noise, s.x, s.v)),
        TimeSample(*(t.float(),) * 3, t > 2),
        None,
        None,
        5,
    )
    exact, rough = plugin_velocity(s, torch.arange(64))[0], plugin_velocity(half, torch.arange(64))[0]
    assert float((exact - rough).norm() / exact.norm()) < 1e-4


# --- O11, O12: metrics ---


def distance(metric: Any, error: Tensor, group: int = 1, reach: float = 1.0) -> Tensor:
    own = LossMetric.model_validate(metric)
    return own.distance(
        error, torch.zeros_like(error), group=group, reach=torch.full((len(error),), reach, dtype=error.dtype)
    )


@pytest.mark.oracle("O11")
@pytest.mark.proves("metric:adaptive")
def test_the_adaptive_metric_has_the_gradient_of_l_over_a_power_of_itself() -> None:
    error = normal(4, 5).requires_grad_()
    squares = error.detach().square().sum(1)
    for p, c in ((1.0, 1e-3), (0.75, 1e-2)):
        (gradient,) = torch.autograd.grad(distance({"name": "adaptive", "p": p, "c": c}, error).sum(), error)
        assert_close(gradient, 2 * error.detach() * ((squares + c) ** -p)[:, None], rtol=1e-12, atol=1e-14)
    scaled = distance("adaptive", 1e4 * error.detach())
    assert_close(scaled, torch.ones_like(scaled), rtol=1e-8, atol=0)


@pytest.mark.oracle("O11")
@pytest.mark.proves("metric:adaptive", "metric:adaptive_sq")
def test_adaptive_and_adaptive_sq_are_two_metrics() -> None:
    error = torch.full((1, 4), 0.05, dtype=torch.float64).requires_grad_()  # defect D14: one name in the reference
    slopes = {}
    for name in ("adaptive", "adaptive_sq"):
        (gradient,) = torch.autograd.grad(distance(name, error).sum(), error)
        slopes[name] = float(gradient.norm() / (2 * error.detach()).norm())
    loss = 0.01
    assert slopes["adaptive"] == pytest.approx(1 / (loss + 1e-3), rel=1e-12)
    assert slopes["adaptive_sq"] == pytest.approx(2 * loss / (loss**2 + 1e-3), rel=1e-12)


@pytest.mark.oracle("O11")
@pytest.mark.proves("metric:pseudo_huber")
def test_pseudo_huber_is_quadratic_near_zero_and_a_norm_far_away() -> None:
    direction = torch.ones(1, 9, dtype=torch.float64) / 3
    c = 0.00054 * 3
    assert float(distance("pseudo_huber", 1e-6 * direction)) == pytest.approx(1e-12 / (2 * c), rel=1e-5)
    assert float(distance("pseudo_huber", 100 * direction)) == pytest.approx(100 - c, rel=1e-9)


@pytest.mark.oracle("O11")
@pytest.mark.proves("metric:l2_sum", "metric:l2_mean")
def test_l2_sum_is_l2_mean_times_the_dimension() -> None:
    error = normal(3, 2, 4)
    assert_close(distance("l2_sum", error), 8 * distance("l2_mean", error), rtol=1e-14, atol=0)


@pytest.mark.oracle("O11")
@pytest.mark.contract("metric:{name}")
@pytest.mark.parametrize("name", sorted(n for n, own in LossMetric.choices.items() if not own.needs_weights))
def test_a_metric_is_zero_and_has_a_finite_gradient_at_equality(name: str) -> None:
    error = torch.zeros(4, 3, dtype=torch.float64, requires_grad=True)
    loss = distance(name, error, group=4)
    assert_close(loss.detach(), torch.zeros(4, dtype=torch.float64), rtol=0, atol=1e-12)
    (gradient,) = torch.autograd.grad(loss.sum(), error)
    assert bool(torch.isfinite(gradient).all())


@pytest.mark.oracle("O12")
@pytest.mark.proves("metric:mmd_laplace")
def test_the_gram_matrix_is_a_kernel_matrix() -> None:
    y, w = normal(3, 5, 4), torch.tensor([0.5, 1.0, 8.0], dtype=torch.float64)
    gram = MmdLaplace().kernel(y, y, w)
    assert_close(gram, gram.transpose(1, 2))
    assert float(torch.linalg.eigvalsh(gram).min()) > 0
    assert_close(gram.diagonal(dim1=1, dim2=2), torch.ones(3, 5, dtype=torch.float64), rtol=1e-6, atol=0)


@pytest.mark.oracle("O12")
@pytest.mark.proves("metric:mmd_laplace")
def test_groups_do_not_touch_each_other_and_their_order_inside_does_not_matter() -> None:
    metric, y, aim = MmdLaplace(), normal(8, 3), normal(8, 3, seed=1)
    reach = torch.tensor([0.2] * 4 + [0.9] * 4, dtype=torch.float64)
    loss = metric.distance(y, aim, group=4, reach=reach)
    assert loss.shape == (8,)
    other, wide = y.clone(), reach.clone()
    other[4:] += 1.0
    wide[4:] = 3.0  # defect D7: the reference applies every group's bandwidth to every group
    changed = metric.distance(other, aim, group=4, reach=wide)
    assert torch.equal(changed[:4], loss[:4])
    assert not torch.allclose(changed[4:], loss[4:])
    shuffled = metric.distance(y[[2, 0, 3, 1, 4, 5, 6, 7]], aim, group=4, reach=reach)
    assert_close(shuffled, loss, rtol=1e-12, atol=1e-15)


@pytest.mark.oracle("O12")
@pytest.mark.proves("metric:mmd_laplace")
def test_the_v_statistic_of_equal_distributions_has_its_closed_mean() -> None:
    groups, m = 20_000, 4
    y, aim = normal(groups * m, 2), normal(groups * m, 2, seed=1)
    reach = torch.full((groups * m,), 0.5, dtype=torch.float64)
    loss = MmdLaplace().distance(y, aim, group=m, reach=reach)[::m]
    k = torch.exp(-(y - aim).norm(dim=1) / ((0.5 + 1e-6) * 2)).mean()
    assert float((loss.mean() - 2 / m * (1 - k)).abs()) < 4 * float(loss.std()) / groups**0.5


# --- O13: learned weighting ---


@pytest.mark.oracle("O13")
@pytest.mark.proves("weighting:variational")
def test_the_learned_log_variance_belongs_to_its_own_row_and_its_optimum_is_the_log_loss() -> None:
    losses = torch.tensor([0.1, 1.0, 7.0], dtype=torch.float64)
    lv = losses.log().requires_grad_()
    s = state(normal(3, 2), torch.full((3,), 0.5, dtype=torch.float64))
    weighted, _ = Variational().weigh(losses, s, lambda t: lv)
    assert weighted.shape == (3,)
    (gradient,) = torch.autograd.grad(weighted.sum(), lv)
    assert_close(gradient, torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-15)
    off = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    (one,) = torch.autograd.grad(Variational().weigh(losses, s, lambda t: off)[0][1], off)
    assert one.tolist() == [0, 0, 0]


# --- O14: tangents ---


def slope(n: int = 3) -> Slope:
    one = torch.ones(n, dtype=torch.float64)
    return Slope(normal(n, 4), None, -one, normal(n, 4, seed=1), 50 * normal(n, 4, seed=2), LINEAR, 0.5 * one)


@pytest.mark.oracle("O14")
@pytest.mark.proves("tangent:shaped")
def test_the_warm_up_begins_at_the_velocity_and_ends_at_the_exact_target() -> None:
    s, shaped = slope(), Shaped(warmup_steps=100)
    assert torch.equal(shaped.target(s, 0), s.straight)
    assert torch.equal(shaped.target(s, 100), s.straight + s.curved)
    assert_close(shaped.target(s, 25), s.straight + 0.25 * s.curved)
    assert Shaped(warmup_steps=0, weight="alpha").rho(0) == 1.0  # defect D5: the reference divides by 0


@pytest.mark.oracle("O14")
@pytest.mark.proves("tangent:shaped")
def test_normalised_tangents_have_the_stated_length() -> None:
    s = slope()
    for kind, length in (("rms", 2.0), ("l2", 1.0)):
        g = Shaped(warmup_steps=0, normalize=kind, c=1e-6).target(s, 0) - s.raw
        assert_close(g.norm(dim=1), torch.full((3,), length, dtype=torch.float64), rtol=1e-5, atol=0)
    assert float((Shaped(warmup_steps=0, normalize="clip").target(s, 0) - s.raw).abs().max()) == pytest.approx(1.0)


# --- O16: stop-gradient ---


@pytest.mark.oracle("O16")
@pytest.mark.proves("target_network:stop_gradient")
@pytest.mark.parametrize("name", METHODS)
def test_the_target_carries_no_gradient(name: str) -> None:
    objective, path = Objective.model_validate(name), Schedule.model_validate(METHODS[name].path)
    heads = 1 + objective.parameterization.needs_velocity_head
    net, frozen = (random_network((4,), heads=heads) for _ in range(2))
    batch, gradients = Batch(0.5 * normal(64, 4), torch.arange(64) % 5, 5), []
    for target in (net, frozen):
        net.zero_grad()
        draws = Draws(0, 0, dtype=torch.float64)
        objective.loss(net, target, path, batch, draws, 7, 10).per_sample.mean().backward()
        gradients.append([torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in net.parameters()])
    # Beside its own target a prediction is computed with its rows in another order: sums differ by rounding.
    assert all(torch.allclose(a, b, rtol=1e-11, atol=1e-13) for a, b in zip(*gradients, strict=True))
    assert all(p.grad is None for p in frozen.parameters())


@pytest.mark.oracle("O19")
def test_an_exact_network_predicts_the_exact_landing() -> None:
    world = gaussian("cosine01")
    for name in ("u", "v_ddim"):
        objective = Objective.model_validate({"name": "meanflow", "parameterization": name})
        net = ExactNetwork(world, objective.parameterization)
        t = torch.full((5,), 1.0, dtype=torch.float64)
        r, x = torch.linspace(0, 1, 5, dtype=torch.float64), normal(5, 3)
        landed = objective.predict(net, world.schedule, x, r, t, None)
        assert_close(landed, world.flow(x, r, t), rtol=1e-11, atol=1e-12)
