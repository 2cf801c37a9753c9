"""Defects of public training losses (design-space 5): what the defective formula gives, and that ours differs."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from golden_cases import GoldenNetwork, random_network
from partial_trials import partial_trial
from torch import Tensor
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from worlds import ExactNetwork, gaussian

from ablate_core.flow_map import FlowMap
from ablate_core.legality import check
from ablate_core.loss_metrics import LossMetric
from ablate_core.loss_metrics.mmd_laplace import MmdLaplace
from ablate_core.methods import METHODS
from ablate_core.objective import Batch, Objective
from ablate_core.parameterizations import Parameterization
from ablate_core.random import Draws
from ablate_core.schedules import Schedule
from ablate_core.state import Rows, State
from ablate_core.targets.continuous import Continuous
from ablate_core.time_samplers import TimeSampler
from ablate_core.time_samplers.base import TimeSample
from ablate_core.velocities.plugin import plugin_velocity
from ablate_core.weightings.variational import Variational

LINEAR = Schedule.model_validate("linear")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def draws(step: int = 0) -> Draws:
    return Draws(0, step, dtype=torch.float64)


def batch(n: int = 64, *, labels: bool = True) -> Batch:
    x0 = 0.5 * normal(n, 4)
    return Batch(x0, torch.arange(n) % 5, 5) if labels else Batch(x0)


def network(own: Objective, seed: int = 0) -> GoldenNetwork:
    heads = 1 + own.parameterization.needs_velocity_head
    return random_network((4,), seed=seed, guidance_inputs=own.guidance_inputs, heads=heads)


def state(x0: Tensor, t: Tensor, path: Schedule = LINEAR) -> State:
    noise = normal(*x0.shape, seed=9)
    x, v = path.interpolate(x0, noise, t)
    times = TimeSample(r=t, s=t, t=t, fm=torch.ones_like(t, dtype=torch.bool))
    return State(path, 1.0, x0, noise, x, v, times, None, None, 0)


def test_d1_the_log_variance_of_a_row_weighs_that_row() -> None:
    losses = torch.tensor([0.1, 1.0, 7.0], dtype=torch.float64)

    def slope(weigh: Any, lv: Tensor) -> float:
        lv = lv.clone().requires_grad_()
        return float(torch.autograd.grad(weigh(lv).mean(), lv)[0].abs().max())

    def broadcast(lv: Tensor) -> Tensor:
        return torch.exp(-lv[:, None]) * losses + lv[:, None]  # (3, 1) meets (3,)

    def ours(lv: Tensor) -> Tensor:
        return Variational().weigh(losses, at, lambda t: lv)[0]

    at = state(normal(3, 2), torch.full((3,), 0.5, dtype=torch.float64))
    each, one = losses.log(), torch.full_like(losses, math.log(float(losses.mean())))
    assert broadcast(each).shape == (3, 3)
    assert slope(broadcast, one) < 1e-15  # its optimum is one number for all rows
    assert slope(broadcast, each) > 0.1
    assert slope(ours, each) < 1e-15
    assert slope(ours, one) > 0.1
    with pytest.raises(AssertionError, match="log-variance"):
        Variational().weigh(losses, at, lambda t: torch.zeros(3, 1, dtype=torch.float64))


def test_d2_a_batch_without_a_guided_row_asks_the_network_for_nothing_foreign() -> None:
    off = {"name": "omega_kappa", "t_min": 0.99, "t_max": 1.0}
    own, net = Objective.model_validate({"name": "esc", "guidance": off}), random_network((4,))
    extra = {"step_r": torch.zeros(64), "global_step": 3}  # the reference hands these on in its fallback branch
    with pytest.raises(TypeError, match="unexpected keyword"):
        net(batch().x0, torch.zeros(64), torch.zeros(64), None, **extra)
    at = own.state(LINEAR, batch(), draws(), 0, 1)
    assert float(at.times.t.max()) < 0.99
    guided = own.guidance.guide(FlowMap(net, own.parameterization, LINEAR), at)
    assert torch.equal(guided, at.v)
    assert bool(torch.isfinite(own.loss(net, net, LINEAR, batch(), draws(), 0, 1).per_sample).all())


@pytest.mark.parametrize("name", METHODS)
def test_d2b_every_row_trains_without_labels(name: str) -> None:
    own, path = Objective.model_validate(name), Schedule.model_validate(METHODS[name].path)
    net = network(own)
    loss = own.loss(net, net, path, batch(labels=False), draws(3), 3, 10).per_sample
    assert bool(torch.isfinite(loss).all())  # the reference looks labels up unconditionally: KeyError


def test_d6_the_fixed_point_of_sct_is_the_map_that_its_sampler_uses() -> None:
    world = gaussian("cosine01", noise_std=0.5)
    own = Parameterization.model_validate({"name": "v_ddim", "sigma_data": 0.5})
    t = torch.linspace(0.1, 0.95, 16, dtype=torch.float64)
    zero, x = torch.zeros_like(t), world.mean + 0.5 * normal(16, 3)
    v = world.velocity(x, t)
    (abar, bbar), (d_abar, d_bbar) = (
        [c[:, None] for c in pair] for pair in (world.schedule.jump(t, zero), world.schedule.d_jump(t, zero))
    )

    class Reference(ExactNetwork):
        """F with a scale of its own: F = V / c_out where the sampler multiplies by c_out, F = V where it forgets to."""

        def __init__(self, factor: float) -> None:
            super().__init__(world, own)
            self.factor = factor

        def forward(self, *inputs: Any) -> Tensor:
            return self.factor * super().forward(*inputs)

    def residual(net: Reference, c_out: float) -> float:
        """|dX/dt| of X = abar x + bbar c_out F(x / sigma_data), for the network's own F."""
        raw, d_raw = torch.func.jvp(lambda x, t: net(x / 0.5, zero, t, None), (x, t), (v, torch.ones_like(t)))
        return float((d_abar * x + abar * v + c_out * (d_bbar * raw + bbar * d_raw)).detach().abs().max())

    assert residual(Reference(1.0), 0.5) < 1e-12
    assert residual(Reference(1.0), 1.0) > 0.1  # the reference's loss at the map that its sampler would use
    rows = Rows(x=x, v=v, r=zero, s=t, t=t, y=None, ladder_bottom=None, null=0)
    with torch.no_grad():
        slope = Continuous().slope(FlowMap(Reference(1.0), own, world.schedule), rows)
        target = Objective.model_validate("sct").tangent.target(slope, 10_000)
    assert_close(target, slope.raw, rtol=1e-10, atol=1e-11)


def test_d7_a_group_has_its_own_bandwidth_and_one_number() -> None:
    y, aim = normal(2, 4, 3), normal(2, 4, 3, seed=1)
    reach = torch.tensor([0.2, 0.9], dtype=torch.float64)
    w = 1 / (reach + 1e-6)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        """With the bandwidth padded to six axes: every group's meets every group's distances."""
        distance = torch.cdist(a, b)[None, None, None]
        return torch.exp(-w[:, None, None, None, None, None] * distance / 3)

    broadcast = kernel(y, y) + kernel(aim, aim) - 2 * kernel(y, aim)
    assert broadcast.shape == (2, 1, 1, 2, 4, 4)
    ours = MmdLaplace().distance(y.reshape(8, 3), aim.reshape(8, 3), group=4, reach=reach.repeat_interleave(4))
    per_group = [float((broadcast[g, 0, 0, g]).mean()) for g in range(2)]
    assert_close(ours[::4], torch.tensor(per_group, dtype=torch.float64), rtol=1e-7, atol=1e-12)
    assert abs(float(broadcast[1, 0, 0, 0].mean()) - per_group[0]) > 1e-3


def test_d8_the_intermediate_time_never_falls_below_the_landing_time() -> None:
    own = TimeSampler.model_validate("imm_eta")
    at = own.sample(40_000, draws(), schedule=LINEAR, noise_std=1.0, step=0, total_steps=1)
    r, t = at.r[::4], at.t[::4]
    eta = t / (1 - t) - 0.994 / 0.006 / 2**12
    s = eta.clamp(min=0) / (1 + eta.clamp(min=0))
    assert float((s < r).double().mean()) == pytest.approx(0.116, abs=0.015)
    assert bool((at.r <= at.s).all())
    assert_close(at.s[::4], torch.maximum(r, torch.minimum(t - 1e-4, s)), rtol=1e-9, atol=1e-12)


def test_d9_the_second_step_scales_by_its_own_time() -> None:
    own = Parameterization.model_validate({"name": "v_ddim", "sigma_data": 0.5, "scale_input": "unit_variance"})
    net, t = random_network((4,)), torch.linspace(0.3, 0.9, 8, dtype=torch.float64)
    rows = Rows(normal(8, 4), normal(8, 4, seed=1), 0.1 * t, 0.6 * t, t, torch.arange(8) % 5, None, 5)
    objective = Objective.model_validate("imm")
    x_s = normal(8, 4, seed=2)
    ours, _ = objective.second_step.step(FlowMap(net, own, LINEAR), x_s, rows)

    def jump(at: Tensor) -> Tensor:
        c_in = 1 / (0.5 * (at**2 + (1 - at) ** 2).sqrt())[:, None]
        return x_s + (rows.r - rows.s)[:, None] * 0.5 * net(c_in * x_s, rows.r, rows.s, rows.y)

    assert_close(ours, jump(rows.s), rtol=1e-12, atol=1e-13)
    assert not torch.allclose(ours, jump(rows.t))


def test_d10_guidance_pushes_towards_the_class_from_the_null_class() -> None:
    class Label(GoldenNetwork):
        """Outputs its label, and 0 for nobody."""

        def forward(self, x: Tensor, r: Tensor, t: Tensor, y: Tensor | None, g: Tensor | None = None) -> Tensor:
            assert y is not None
            return torch.where(y == 9, 0, y).to(x)[:, None].expand_as(x)

    x, t, y = normal(2, 1), torch.full((2,), 0.5, dtype=torch.float64), torch.tensor([3, 5])
    without, own = Label({})(torch.cat([x, x]), t, t, torch.cat([y, torch.zeros_like(y)])).chunk(2)  # halves swapped
    assert (without + 2 * (own - without)).flatten().tolist() == [-3, -5]
    objective = Objective.model_validate({"name": "ct", "guidance": {"name": "ct_cfg", "scale": 2.0}})
    rows = Rows(x, x, t, t, t, y, None, 9)
    guided = objective.guidance.wrap(FlowMap(Label({}), objective.parameterization, LINEAR), rows)
    assert guided.raw(x, t, t, y).flatten().tolist() == [6, 10]


def test_d14_one_name_is_one_reduction() -> None:
    error = 0.05 * torch.ones(3, 8, dtype=torch.float64)
    zero, reach = torch.zeros_like(error), torch.ones(3, dtype=torch.float64)
    values = {
        name: float(LossMetric.model_validate(name).distance(error, zero, group=1, reach=reach)[0])
        for name in ("l2_mean", "l2_sum", "adaptive", "adaptive_sq")
    }
    total = 8 * 0.05**2
    assert values == pytest.approx(
        {
            "l2_mean": total / 8,
            "l2_sum": total,
            "adaptive": total / (total + 1e-3),
            "adaptive_sq": total**2 / (total**2 + 1e-3),
        }
    )
    names = {Objective.model_validate(name).metric.name for name in ("meanflow", "esc", "ct_linear")}
    assert names == {"adaptive"}  # rows that share a metric's name share its formula


def test_d16_dropped_labels_and_rows_with_r_equal_t_are_independent() -> None:
    n, half, tenth = 20_000, 10_000, 2_000
    first = torch.arange(n)
    assert not bool(((first < tenth) & ~(first < half)).any())  # both masks are the first rows: no jump without a label
    own = Objective.model_validate({"name": "meanflow", "time_sampler": {"p_eq": 0.5}, "label_dropout": 0.1})
    at = own.state(LINEAR, Batch(torch.zeros(n, 1, dtype=torch.float64), first % 5, 5), draws(), 0, 1)
    for rows in (at.times.fm, ~at.times.fm):
        assert float((~at.kept)[rows].double().mean()) == pytest.approx(0.1, abs=0.01)


def test_d17_the_null_class_of_shortcut_models_gets_a_gradient_from_flow_matching_rows_only() -> None:
    own = Objective.model_validate({"name": "scd", "label_dropout": 1.0})
    net = network(own)
    own.loss(net, net, LINEAR, batch(), draws(), 0, 1).per_sample.sum().backward()
    assert net.E.grad is not None
    assert float(net.E.grad[5].abs().max()) > 0
    at = own.state(LINEAR, batch(), draws(), 0, 1)
    assert torch.equal(~at.kept, at.times.fm)
    late = network(own)  # the labels of a copy, edited after the forward pass: no effect
    output = late(at.x, at.times.r, at.times.t, batch().y)
    copy = batch().y.clone()  # type: ignore[union-attr]
    copy[:] = 5
    output.sum().backward()
    assert late.E.grad is not None
    assert float(late.E.grad[5].abs().max()) == 0


def test_d18_too_few_rows_for_the_ladder_are_refused() -> None:
    own, m = TimeSampler.model_validate("dyadic"), 128
    rows = math.floor(16 * 0.25)
    each = [rows // int(math.log2(m))] * int(math.log2(m))
    assert sum(each) == 0  # no rung gets a row, and all of the remainder is jump 1
    assert own.batch_problem(16) is not None
    assert {p.code for p in check(partial_trial("scd", batch_size=16)) if p.level == "error"} == {"C16"}
    at = own.sample(28, draws(), schedule=LINEAR, noise_std=1.0, step=0, total_steps=1)
    assert sorted((at.t - at.r)[:7].tolist()) == [2.0**-k for k in range(6, -1, -1)]


@pytest.mark.parametrize("name", METHODS)
def test_d19_labels_reach_the_network_also_without_dropout(name: str) -> None:
    own, path = (
        Objective.model_validate({"name": name, "label_dropout": 0.0}),
        Schedule.model_validate(METHODS[name].path),
    )
    net, data = network(own), batch()
    other = Batch(data.x0, (torch.arange(64) + 1) % 5, 5)
    one, two = (own.loss(net, net, path, b, draws(3), 3, 10).per_sample for b in (data, other))
    assert not torch.allclose(one, two)


def test_d20_targets_are_computed_without_a_graph_and_in_the_precision_of_the_prediction() -> None:
    seen: list[tuple[bool, bool]] = []

    class Spy(GoldenNetwork):
        def forward(self, *inputs: Any) -> Tensor:
            seen.append((torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")))
            return super().forward(*inputs)

    own = Objective.model_validate({"name": "meanflow", "guidance": "omega_kappa"})
    weights = {name: p.detach().float() for name, p in random_network((4,)).named_parameters()}
    net, slow, data = Spy(weights), Spy(weights), batch()
    with torch.autocast("cpu", torch.bfloat16):
        own.loss(net, slow, LINEAR, Batch(data.x0.float(), data.y, 5), Draws(0, 0), 0, 1)
    assert [graph for graph, _ in seen].count(True) == 1
    assert len(seen) == 3  # prediction, target, and the two velocities of guidance in one call
    assert all(autocast for _, autocast in seen)


class Largest(TorchDispatchMode):
    """The number of entries of the largest tensor that any operation makes."""

    entries = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for part in out if isinstance(out, tuple | list) else (out,):
            if isinstance(part, Tensor):
                self.entries = max(self.entries, part.numel())
        return out


def test_d21_plugin_weights_are_computed_only_where_used_from_a_matrix_and_finite_at_the_data_end() -> None:
    off = Objective.model_validate({"name": "esc", "velocity": {"prob": 0.0}})
    assert off.velocity.name == "conditional"  # the reference computes it and throws it away
    at = state(normal(64, 500), torch.linspace(0.1, 0.9, 64, dtype=torch.float64))
    with Largest() as seen:
        plugin_velocity(at, torch.arange(64))
    assert seen.entries == 64 * 500  # the reference: 64 * 64 * 500
    own = Objective.model_validate({"name": "esc", "velocity": {"prob": 1.0}})
    end = state(normal(8, 3), torch.zeros(8, dtype=torch.float64))
    with pytest.raises(ValueError, match="scale"):
        torch.distributions.Normal(end.x0, torch.zeros_like(end.x0), validate_args=True)
    assert torch.equal(own.velocity.estimate(end, draws())[0], end.v)


def test_d26_pseudo_huber_is_of_the_norm() -> None:
    error, c = normal(4, 9), 0.00054 * 3
    entries = ((error.square() + c**2).sqrt() - c).sum(1)
    norm = (error.square().sum(1) + c**2).sqrt() - c
    reach = torch.ones(4, dtype=torch.float64)
    ours = LossMetric.model_validate("pseudo_huber").distance(error, torch.zeros_like(error), group=1, reach=reach)
    assert_close(ours, norm, rtol=1e-12, atol=1e-14)
    assert not torch.allclose(ours, entries)


@pytest.mark.parametrize("name", METHODS)
def test_d28_a_loss_changes_nothing_it_is_given(name: str) -> None:
    own, path = Objective.model_validate(name), Schedule.model_validate(METHODS[name].path)
    net, data = network(own), batch()
    before = data.x0.clone(), data.y.clone()  # type: ignore[union-attr]
    own.loss(net, net, path, data, draws(3), 3, 10)
    assert torch.equal(data.x0, before[0])
    assert torch.equal(data.y, before[1])  # type: ignore[arg-type]


def test_d28_a_short_jump_is_no_product_of_zero_and_infinity_and_a_loss_that_is_not_finite_is_kept() -> None:
    own = Objective.model_validate("tvm")
    at = own.state(LINEAR, batch(), draws(), 0, 1)
    near = at.times.t.clone()
    near[::2] = torch.nextafter(near[::2], torch.zeros_like(near[::2]))
    times = replace(at.times, r=near, fm=near == at.times.t)
    net = network(own)
    flow_map = FlowMap(net, own.parameterization, LINEAR)
    regression = own.limit.regress(own, flow_map, flow_map, replace(at, times=times), 0)
    assert bool(torch.isfinite(regression.prediction).all())
    with torch.no_grad():
        net.b2.fill_(math.nan)
    loss = own.loss(net, net, LINEAR, batch(), draws(), 0, 1).per_sample
    assert bool(torch.isnan(loss).all())  # the reference replaces it by 0; here the trainer ends the trial as diverged


def permuted(x: Any, order: Tensor) -> Any:
    if isinstance(x, Tensor):
        return x[order]
    if isinstance(x, TimeSample):
        return replace(x, **{f.name: permuted(getattr(x, f.name), order) for f in fields(x)})
    return x


@pytest.mark.parametrize("name", sorted(METHODS.keys() - {"imm"}))
def test_d29_the_order_of_the_rows_decides_nothing(name: str) -> None:
    own, path = Objective.model_validate(name), Schedule.model_validate(METHODS[name].path)
    net, order = network(own), torch.randperm(64, generator=torch.Generator().manual_seed(0))
    flow_map = FlowMap(net, own.parameterization, path)
    at, _ = own.estimated(own.state(path, batch(), draws(3), 3, 10), draws(3))
    moved = replace(at, **{f.name: permuted(getattr(at, f.name), order) for f in fields(at) if f.name != "schedule"})
    straight, turned = (own.limit.regress(own, flow_map, flow_map, s, 3) for s in (at, moved))
    assert_close(turned.prediction, straight.prediction[order], rtol=1e-9, atol=1e-10)
    assert_close(turned.target, straight.target[order], rtol=1e-9, atol=1e-10)


def test_n2_the_floor_of_the_kernel_is_a_distance() -> None:
    near = 1e-6 * normal(4, 3)
    zero, reach = torch.zeros_like(near), torch.full((4,), 1e-4, dtype=torch.float64)
    loss = {
        floor: float(MmdLaplace(floor=floor).distance(near, zero, group=4, reach=reach)[0]) for floor in (1e-8, 1e-4)
    }
    assert loss[1e-4] == pytest.approx(0, abs=1e-15)  # a squared distance of 1e-8 hides all of them
    assert loss[1e-8] > 1e-4
    assert MmdLaplace().floor == 1e-8


def test_n6_in_high_dimension_the_plugin_velocity_is_the_conditional_one_and_the_log_says_so() -> None:
    own = Objective.model_validate({"name": "esc", "velocity": {"prob": 1.0}})
    data = Batch(normal(64, 768), torch.arange(64) % 5, 5)
    at = own.state(LINEAR, data, draws(), 0, 1)
    v, scalars = own.velocity.estimate(at, draws())
    assert float(scalars["plugin_ess"]) == pytest.approx(1, abs=0.05)
    early = at.times.t < 0.8
    assert_close(v[early], at.v[early], rtol=1e-6, atol=1e-6)
    assert "C9" in {problem.code for problem in check(partial_trial("esc", dimension=768))}
    assert "C9" not in {problem.code for problem in check(partial_trial("esc", dimension=2))}
