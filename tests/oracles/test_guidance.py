"""Guidance inside training: fixed points, windows, dropped rows, what the network is told (O15)."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from golden_cases import GoldenNetwork, random_network
from torch import Tensor, nn
from torch.testing import assert_close
from worlds import Gaussian, MarginalVelocity, gaussian

from ablate_core.architectures.base import Network
from ablate_core.flow_map import FlowMap
from ablate_core.guidance import Guidance
from ablate_core.objective import Batch, Objective
from ablate_core.parameterizations import Parameterization
from ablate_core.random import Draws
from ablate_core.schedules import Schedule
from ablate_core.state import Rows, State
from ablate_core.time_samplers.base import TimeSample

U = Parameterization.model_validate("u")
LINEAR = Schedule.model_validate("linear")
VELOCITY, NULL = 3.0, 1.0
"""The data's velocity of the class, and the network's of nobody."""


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def state(t: Any, *, labels: list[int] | None = None, dropped: tuple[int, ...] = (), g: Any = None) -> State:
    """Rows whose velocity is VELOCITY, at times `t`; `dropped` are told the null class, 5."""
    t = torch.as_tensor(t, dtype=torch.float64)
    n = len(t)
    classes = torch.arange(n) % 5 if labels is None else torch.tensor(labels)
    y = classes.clone()
    y[list(dropped)] = 5
    x0, noise = normal(n, 1), normal(n, 1, seed=9)
    x, _ = LINEAR.interpolate(x0, noise, t)
    times = TimeSample(r=t, s=t, t=t, fm=torch.ones_like(t, dtype=torch.bool))
    told = None if g is None else torch.as_tensor(g, dtype=torch.float64)
    return State(LINEAR, 1.0, x0, noise, x, torch.full_like(x, VELOCITY), times, classes, y, 5, told)


class TwoVelocities(Network):
    """A constant for the null class and another for every real class; `asked` keeps what it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.conditional, self.null = 0.0, NULL
        self.asked: list[tuple[Tensor, Tensor | None]] = []

    def forward(self, x: Tensor, r: Tensor, t: Tensor, y: Tensor | None, g: Tensor | None = None) -> Tensor:
        assert y is not None
        self.asked.append((y, g))
        return torch.where(y == 5, x.new_tensor(self.null), x.new_tensor(self.conditional))[:, None].expand_as(x)


def settled(settings: dict[str, Any], g: Any = None) -> float:
    """Where v_c ends when the network is set to its own guided target again and again."""
    own, net, rows = Guidance.model_validate(settings), TwoVelocities(), state([0.5], g=g)
    for _ in range(1000):
        net.conditional = float(own.guide(FlowMap(net, U, LINEAR), rows))
    return net.conditional


FIXED_POINTS = [
    ({"name": "omega_kappa", "omega": 1.0, "kappa": 0.5}, None, 2.0),
    ({"name": "omega_kappa", "omega": 0.2, "kappa": 0.92}, None, 2.5),
    ({"name": "omega_kappa", "omega": 2.0, "kappa": 0.0}, None, 2.0),
    ({"name": "omega_kappa", "omega": 3.0, "kappa": 0.0}, None, 3.0),
    ({"name": "mg", "om": 0.5}, None, 2.0),
    ({"name": "mg", "om": 0.6}, None, 2.5),
    ({"name": "omega_conditioned"}, [[1 - 1 / 1.5, 0.0, 1.0]], 1.5),
    ({"name": "omega_conditioned"}, [[1 - 1 / 3.0, 0.0, 1.0]], 3.0),
    ({"name": "omega_conditioned"}, [[1 - 1 / 8.0, 0.0, 1.0]], 8.0),
    ({"name": "tvm", "w_min": 1.75, "w_max": 1.75}, [[1 / 1.75]], 1.75),
    ({"name": "tvm"}, [[1 / 2.0]], 2.0),
]


@pytest.mark.oracle("O15")
@pytest.mark.proves("guidance:{settings}")
@pytest.mark.parametrize(("settings", "g", "scale"), FIXED_POINTS, ids=lambda v: str(v))
def test_guided_velocities_settle_at_classifier_free_guidance(settings: dict[str, Any], g: Any, scale: float) -> None:
    assert settled(settings, g) == pytest.approx(scale * VELOCITY + (1 - scale) * NULL, rel=1e-9)
    declared = Guidance.model_validate(settings).effective_scale
    assert declared is None or declared == pytest.approx(scale)


@pytest.mark.proves("guidance:mg")
def test_model_guidance_adds_the_difference_of_the_classes_to_the_velocity() -> None:
    net = TwoVelocities()
    net.conditional = 2.5
    guided = Guidance.model_validate({"name": "mg", "om": 0.6}).guide(FlowMap(net, U, LINEAR), state([0.5]))
    assert float(guided) == pytest.approx(VELOCITY + 0.6 * (2.5 - NULL))


@pytest.mark.oracle("O15")
@pytest.mark.proves("guidance:{settings}")
@pytest.mark.parametrize(
    "settings",
    [{"name": "omega_kappa", "t_min": 0.3, "t_max": 0.8}, {"name": "mg", "t_min": 0.3, "t_max": 0.8}],
    ids=str,
)
def test_rows_outside_the_window_or_without_label_keep_their_velocity(settings: dict[str, Any]) -> None:
    s = state([0.1, 0.3, 0.5, 0.8, 0.9, 0.5], dropped=(5,))
    guided = Guidance.model_validate(settings).guide(FlowMap(TwoVelocities(), U, LINEAR), s)
    assert (guided != s.v).squeeze(1).tolist() == [False, True, True, True, False, False]


@pytest.mark.oracle("O15")
@pytest.mark.proves("guidance:omega_conditioned")
def test_each_row_has_its_own_window_and_scale_and_rows_of_scale_1_are_left_alone() -> None:
    g = [[0.5, 0.3, 0.8], [0.5, 0.6, 0.8], [0.5, 0.0, 0.4], [0.0, 0.0, 1.0], [0.5, 0.0, 1.0], [0.75, 0.5, 0.5]]
    s, net = state([0.5] * 6, dropped=(4,), g=g), TwoVelocities()
    guided = Guidance.model_validate("omega_conditioned").guide(FlowMap(net, U, LINEAR), s)
    moved = [0.5 * (0 - NULL), 0, 0, 0, 0, 0.75 * (0 - NULL)]
    assert_close(guided.squeeze(1), VELOCITY + torch.tensor(moved, dtype=torch.float64))
    ((classes, told),) = net.asked  # one call for both
    assert classes.tolist() == [5, 5, 0, 0]
    assert told is not None
    assert s.g is not None
    assert_close(told[2:], s.g[[0, 5]])
    assert_close(told[:2, 1:], s.g[[0, 5]][:, 1:])
    assert_close(told[:2, 0], torch.zeros(2, dtype=torch.float64))  # nobody has scale 1, in the same window


@pytest.mark.oracle("O15")
@pytest.mark.proves("guidance:tvm")
def test_the_null_class_has_scale_1_and_is_told_so() -> None:
    s, net = state([0.5] * 4, dropped=(1,), g=[[0.5], [1.0], [1.0], [0.25]]), TwoVelocities()
    guided = Guidance.model_validate("tvm").guide(FlowMap(net, U, LINEAR), s)
    expected = [2 * VELOCITY - NULL, VELOCITY, VELOCITY, 4 * VELOCITY - 3 * NULL]
    assert_close(guided.squeeze(1), torch.tensor(expected, dtype=torch.float64))
    ((nobody, told),) = net.asked
    assert nobody.tolist() == [5, 5]
    assert told is not None
    assert told.tolist() == [[1.0], [1.0]]


# --- what is drawn, and what samplers tell the network ---


@pytest.mark.proves("guidance:omega_conditioned")
@pytest.mark.parametrize(("beta", "mean"), [(1.0, 3.366), (2.0, 2.377), (0.0, 4.5)])
def test_guidance_scales_have_the_stated_density(beta: float, mean: float) -> None:
    own = Guidance.model_validate({"name": "omega_conditioned", "beta": beta})
    n = 200_000
    kept, fm = torch.arange(n) % 4 != 0, torch.arange(n) % 3 == 0
    g = own.draw(kept, fm, Draws(0, 0, dtype=torch.float64))
    assert g is not None
    omega = 1 / (1 - g[:, 0])
    assert float(omega[kept].mean()) == pytest.approx(mean, abs=0.02)
    assert float(omega.max()) <= 8 + 1e-9
    quantile = (1 - 3.0 ** (1 - beta)) / (1 - 8.0 ** (1 - beta)) if beta != 1 else math.log(3) / math.log(8)
    assert float((omega[kept] < 3).double().mean()) == pytest.approx(quantile, abs=0.005)
    assert torch.equal(g[~kept, 0], torch.zeros_like(g[~kept, 0]))
    assert torch.equal(g[fm, 1:], torch.tensor([0.0, 1.0], dtype=torch.float64).expand(int(fm.sum()), 2))
    first, last = g[~fm, 1], g[~fm, 2]
    assert float(first.max()) < 0.5 <= float(last.min())
    assert float(first.mean()) == pytest.approx(0.25, abs=0.005)
    assert float(last.mean()) == pytest.approx(0.75, abs=0.005)


@pytest.mark.proves("guidance:tvm")
def test_the_inverse_of_a_uniform_scale_is_told() -> None:
    own = Guidance.model_validate({"name": "tvm", "w_min": 1.0, "w_max": 3.0})
    n = 100_000
    kept = torch.arange(n) % 4 != 0
    g = own.draw(kept, kept, Draws(0, 0, dtype=torch.float64))
    assert g is not None
    w = 1 / g[:, 0]
    assert torch.equal(w[~kept], torch.ones_like(w[~kept]))
    assert float(w[kept].mean()) == pytest.approx(2.0, abs=0.01)
    assert float(w[kept].var()) == pytest.approx(4 / 12, abs=0.01)
    with pytest.raises(ValueError, match="w_min <= w_max"):
        Guidance.model_validate({"name": "tvm", "w_min": 3.0, "w_max": 2.0})


@pytest.mark.proves("guidance:{name}")
@pytest.mark.parametrize(
    ("name", "told"),
    [("omega_conditioned", [1 - 1 / 4, 0.2, 0.9]), ("tvm", [1 / 4]), ("omega_kappa", None), ("none", None)],
)
def test_a_sampler_tells_the_network_in_the_units_of_training(name: str, told: list[float] | None) -> None:
    g = Guidance.model_validate(name).sampling_inputs(3, 4.0, (0.2, 0.9))
    if told is None:
        assert g is None
    else:
        assert_close(g, torch.tensor([told] * 3))
    if name == "omega_conditioned":
        with pytest.raises(ValueError, match="at least 1"):
            Guidance.model_validate(name).sampling_inputs(3, 0.5, (0.0, 1.0))


# --- guided maps ---


class Guided(Network):
    """V_u = flow of nobody, V_c = V_u + (V of the class - V_u) / scale, all exact: the end of guided consistency."""

    def __init__(self, world: Gaussian, nobody: Gaussian, scale: float) -> None:
        super().__init__()
        self.world, self.nobody, self.scale = world, nobody, scale
        self.zero = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor, r: Tensor, t: Tensor, y: Tensor | None, g: Tensor | None = None) -> Tensor:
        assert y is not None
        safe = torch.where(r == t, torch.ones_like(t), r - t)[:, None]
        without, own = ((world.flow(x, r, t) - x) / safe for world in (self.nobody, self.world))
        return torch.where((y == 5)[:, None], without, without + (own - without) / self.scale) + self.zero


class ExactClassStep:
    """The exact flow of the row's class from t to s."""

    takes_step, euler, follows_velocity = True, False, True

    def __init__(self, world: Gaussian, nobody: Gaussian) -> None:
        self.world, self.nobody = world, nobody

    def step(self, target: Any, rows: Rows) -> tuple[Tensor, Tensor]:
        alone, together = (world.flow(rows.x, rows.s, rows.t) for world in (self.world, self.nobody))
        assert rows.y is not None
        x_s = torch.where((rows.y == 5)[:, None], together, alone)
        return x_s, (x_s - rows.x) / (rows.s - rows.t)[:, None]


@pytest.mark.oracle("O15")
@pytest.mark.proves("guidance:ct_cfg")
def test_guided_consistency_ends_at_the_class_itself_with_the_network_at_one_over_the_scale() -> None:
    world = gaussian("linear")
    nobody = Gaussian(LINEAR, torch.zeros(3, dtype=torch.float64), torch.full((3,), 1.3, dtype=torch.float64))
    slots = {"parameterization": "u", "guidance": {"name": "ct_cfg", "scale": 2.0}, "label_dropout": 0.3}
    own = Objective.model_validate({"name": "ct", "metric": "l2_mean", "target_network": "stop_gradient", **slots})
    own = own.model_copy(update={"first_step": ExactClassStep(world, nobody), "velocity": MarginalVelocity(world)})
    batch, draws = (
        Batch(world.mean + world.std * normal(64, 3), torch.arange(64) % 5, 5),
        Draws(0, 9, dtype=torch.float64),
    )
    losses = {}
    for scale in (2.0, 1.0, 0.5):
        net = Guided(world, nobody, scale)
        losses[scale] = float(own.loss(net, net, LINEAR, batch, draws, 9, 10).per_sample.detach().max())
    assert losses[2.0] < 1e-24
    assert min(losses[1.0], losses[0.5]) > 1e-4
    assert own.guidance.effective_scale == 0.5


@pytest.mark.proves("guidance:ct_cfg")
def test_both_maps_are_guided_in_prediction_and_target_and_gradients_flow_through_both_classes() -> None:
    own = Objective.model_validate({"name": "ct", "guidance": {"name": "ct_cfg", "scale": 2.0}, "label_dropout": 0.3})
    net, slow = random_network((4,)), random_network((4,), seed=1)
    batch, draws = Batch(0.5 * normal(32, 4), torch.arange(32) % 5, 5), Draws(0, 9, dtype=torch.float64)
    s = own.state(LINEAR, batch, draws, 9, 10)
    x, y, r, mid, t = s.x, s.y, s.times.r, s.times.s, s.times.t
    null = torch.full_like(t, 5).long()

    def guided(net: GoldenNetwork, x: Tensor, t: Tensor) -> Tensor:
        without = net(x, r, t, null)
        velocity = without + 2 * (net(x, r, t, y) - without)
        return x + (r - t)[:, None] * velocity

    with torch.no_grad():
        aim = guided(slow, x + (mid - t)[:, None] * s.v, mid)
    wanted = (guided(net, x, t) - aim).square().mean(1)
    ours = own.loss(net, slow, LINEAR, batch, draws, 9, 10).per_sample
    assert_close(ours, wanted, rtol=1e-10, atol=1e-12)
    ours.mean().backward()
    mine = net.E.grad.clone()
    net.zero_grad()
    wanted.mean().backward()
    assert_close(mine, net.E.grad, rtol=1e-9, atol=1e-12)
    assert float(mine[5].abs().max()) > 0


@pytest.mark.proves("guidance:bootstrap")
def test_only_the_smallest_jumps_are_guided_in_both_half_steps() -> None:
    own = Guidance.model_validate({"name": "bootstrap", "scale": 1.5})
    net = TwoVelocities()
    net.conditional = VELOCITY
    t = torch.tensor([0.5, 0.5, 0.5], dtype=torch.float64)
    rows = Rows(
        normal(3, 1), normal(3, 1), t / 2, t * 0.75, t, torch.tensor([1, 2, 5]), torch.tensor([True, False, True]), 5
    )
    out = own.wrap(FlowMap(net, U, LINEAR), rows).velocity(rows.x, rows.r, rows.t, rows.y)
    assert_close(out.squeeze(1), torch.tensor([NULL + 1.5 * (VELOCITY - NULL), VELOCITY, NULL], dtype=torch.float64))
    assert own.effective_scale == 1.5


# --- D10: the null class ---


@pytest.mark.proves("guidance:omega_kappa")
def test_forwards_with_coefficient_zero_are_skipped_and_the_null_class_is_the_last() -> None:
    s, net = state([0.5] * 4, labels=[0, 1, 2, 0]), TwoVelocities()  # defect D10: class 0 as null class, halves swapped
    null, own_class = [5] * 4, [0, 1, 2, 0]
    for omega, kappa, labels in ((2.0, 0.0, null), (0.5, 0.5, own_class), (1.0, 0.5, null + own_class)):
        net.asked.clear()
        own = Guidance.model_validate({"name": "omega_kappa", "omega": omega, "kappa": kappa})
        own.guide(FlowMap(net, U, LINEAR), s)
        assert [y.tolist() for y, _ in net.asked] == [labels]


@pytest.mark.parametrize("name", sorted(set(Guidance.choices) - {"none"}))
def test_guidance_on_unlabelled_data_says_what_to_do(name: str) -> None:
    row = "scd" if name == "bootstrap" else "ct" if name == "ct_cfg" else "meanflow"
    objective = Objective.model_validate({"name": row, "guidance": name})
    net = random_network((4,))
    with pytest.raises(ValueError, match=r"objective\.guidance: none"):
        objective.loss(net, net, LINEAR, Batch(normal(64, 4)), Draws(0, 0, dtype=torch.float64), 0, 1)


@pytest.mark.proves("guidance:{off}")
@pytest.mark.parametrize(
    "off",
    [
        {"name": "omega_kappa", "omega": 1.0, "kappa": 0.0},
        {"name": "mg", "om": 0.0},
        {"name": "mg", "t_min": 1.0, "t_max": 0.0},
        {"name": "bootstrap", "scale": 1.0},
        {"name": "ct_cfg", "scale": 1.0},
    ],
    ids=str,
)
def test_guidance_that_does_nothing_is_no_guidance(off: dict[str, Any]) -> None:
    assert Objective.model_validate({"name": "meanflow", "guidance": off}) == Objective.model_validate("meanflow")
