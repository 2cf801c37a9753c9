"""Closed forms of the weightings and of the metrics that belong to them (O11, O13; design-space 2.12)."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from ablate_core.architectures.base import Network
from ablate_core.loss_metrics import LossMetric
from ablate_core.objective import Batch, Objective
from ablate_core.random import Draws
from ablate_core.schedules import Schedule
from ablate_core.state import State
from ablate_core.time_samplers.base import TimeSample
from ablate_core.weightings import Weighting

EXACT = {"rtol": 1e-12, "atol": 1e-14}
T = torch.linspace(0.05, 0.95, 7, dtype=torch.float64)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def state(
    t: Tensor,
    *,
    r: Tensor | None = None,
    s: Tensor | None = None,
    fm: Tensor | None = None,
    path: Any = "linear",
    noise_std: float = 1.0,
    g: Tensor | None = None,
) -> State:
    own, n = Schedule.model_validate(path), len(t)
    x0, noise = normal(n, 3), noise_std * normal(n, 3, seed=1)
    x, v = own.interpolate(x0, noise, t)
    zero = torch.zeros_like(t)
    times = TimeSample(r=zero if r is None else r, s=t if s is None else s, t=t, fm=zero.bool() if fm is None else fm)
    return State(own, noise_std, x0, noise, x, v, times, None, None, 0, g)


def no_head(t: Tensor) -> Tensor:
    raise AssertionError("no log-variance is needed")


def weights(settings: Any, at: State, loss: Tensor | None = None) -> Tensor:
    """What `settings` multiplies a loss of 1 with, (B,)."""
    own = Weighting.model_validate(settings)
    weighted, scalars = own.weigh(torch.ones_like(at.times.t) if loss is None else loss, at, no_head)
    assert scalars == {}
    assert weighted.shape == at.times.t.shape
    return weighted


# --- learned: cauchy_lv ---


@pytest.mark.proves("weighting:cauchy_lv")
def test_the_cauchy_weighting_is_the_log_of_the_loss_plus_a_learned_constant() -> None:
    losses, lv = torch.tensor([0.02, 1.0, 7.0], dtype=torch.float64), torch.tensor([-1.0, 0.3, 2.0]).double()
    losses.requires_grad_()
    lv.requires_grad_()
    own = Weighting.model_validate("cauchy_lv")
    assert own.needs_log_variance
    assert own.per_row
    weighted, scalars = own.weigh(losses, state(T[:3]), lambda t: lv)
    constant = 0.01 * lv.exp()
    assert_close(weighted, torch.log(losses + constant), **EXACT)
    by_loss, by_lv = torch.autograd.grad(weighted.sum(), [losses, lv])
    assert_close(by_loss, 1 / (losses + constant).detach(), **EXACT)  # the slope of `adaptive` at p = 1, c = c exp(lv)
    assert_close(by_lv, (constant / (losses + constant)).detach(), **EXACT)
    assert float(scalars["log_variance"]) == pytest.approx(float(lv.detach().mean()))


@pytest.mark.oracle("O13")
@pytest.mark.proves("weighting:cauchy_lv")
def test_the_cauchy_weighting_has_no_optimal_log_variance_but_falls_to_the_log_loss() -> None:
    losses = torch.tensor([0.3, 1.5, 4.0], dtype=torch.float64)
    own = Weighting.model_validate("cauchy_lv")
    values = [float(own.weigh(losses, state(T[:3]), lambda t, lv=lv: lv + 0 * t)[0].mean()) for lv in (2, 0, -2, -20)]
    assert values == sorted(values, reverse=True)
    assert values[-1] == pytest.approx(float(losses.log().mean()), abs=1e-8)
    variational = Weighting.model_validate("variational")
    optimum = [
        float(variational.weigh(losses, state(T[:3]), lambda t, lv=lv: lv + 0 * t)[0].mean())
        for lv in (math.log(float(losses.mean())) + off for off in (-0.01, 0.0, 0.01))
    ]
    assert optimum[1] == min(optimum)


def test_a_log_variance_of_shape_b_by_1_is_refused_by_the_cauchy_weighting() -> None:
    with pytest.raises(AssertionError, match="log-variance"):  # defect D1
        Weighting.model_validate("cauchy_lv").weigh(torch.ones(3), state(T[:3]), lambda t: t[:, None])


# --- AlphaFlow: inv_ratio, adaptive on the mean ---


@pytest.mark.proves("weighting:inv_ratio")
def test_the_ratio_weighting_is_a_power_of_alpha_and_1_where_there_is_none() -> None:
    t = torch.tensor([0.9, 0.9, 0.9, 0.9], dtype=torch.float64)
    r = torch.tensor([0.1, 0.1, 0.1, 0.9], dtype=torch.float64)
    s = torch.tensor([0.7, 0.1, 0.9, 0.9], dtype=torch.float64)
    at = state(t, r=r, s=s, fm=r == t)
    assert_close(weights("inv_ratio", at), torch.tensor([4.0, 1.0, 1.0, 1.0]).double(), **EXACT)
    assert_close(weights({"name": "inv_ratio", "power": 1}, at), torch.tensor([0.25, 1, 1, 1]).double(), **EXACT)
    with pytest.raises(ValueError, match="power"):
        Weighting.model_validate({"name": "inv_ratio", "power": 2})


@pytest.mark.proves("weighting:inv_ratio")
def test_flow_matching_rows_of_a_dyadic_sampler_keep_weight_1() -> None:
    t = torch.tensor([0.5, 0.5], dtype=torch.float64)  # r = s = t - 1/M on flow matching rows
    at = state(t, r=t - 0.125, s=t - 0.125, fm=torch.tensor([True, False]))
    assert weights("inv_ratio", at).tolist() == [1.0, 1.0]
    assert weights("inv_dt", at).tolist() == [1.0, 8.0]


@pytest.mark.oracle("O11")
@pytest.mark.proves("metric:adaptive")
def test_the_adaptive_metric_on_the_mean_is_the_one_on_the_sum_with_a_larger_constant() -> None:
    error = normal(4, 2, 5)
    zero, reach = torch.zeros_like(error), torch.ones(4, dtype=torch.float64)

    def distance(**settings: Any) -> Tensor:
        own = LossMetric.model_validate({"name": "adaptive", **settings})
        return own.distance(error, zero, group=1, reach=reach)

    assert_close(distance(reduce="mean", c=1e-3), distance(c=1e-2), **EXACT)
    assert_close(distance(reduce="mean", c=1e-3, p=0.5), distance(c=1e-2, p=0.5) / 10**0.5, **EXACT)
    assert LossMetric.model_validate({"name": "adaptive", "p": 0, "reduce": "mean"}).simplest().name == "l2_mean"
    assert LossMetric.model_validate({"name": "adaptive", "p": 0}).simplest().name == "l2_sum"


# --- in the noise level: snr, tan_prior, min_snr ---

SIGNAL_PATHS = ["linear", "cosine01", "trig", "ve", "vp_sqrt"]


def times_of(path: str) -> Tensor:
    own = Schedule.model_validate(path)
    return own.time_of_ratio(torch.tensor([0.01, 0.3, 1.0, 2.0, 30.0], dtype=torch.float64))


@pytest.mark.proves("weighting:snr", "weighting:tan_prior", "weighting:min_snr", "schedule:{path}")
@pytest.mark.parametrize("path", SIGNAL_PATHS)
def test_weights_in_the_noise_level_are_the_same_function_of_it_on_every_path(path: str) -> None:
    at = state(times_of(path), path=path, noise_std=0.5)
    sigma = 0.5 * torch.tensor([0.01, 0.3, 1.0, 2.0, 30.0], dtype=torch.float64)
    closed = {
        "snr": sigma**-2,
        "snr_plus_1": sigma**-2 + 1,
        "karras": sigma**-2 + 4,
        "truncated": torch.maximum(torch.ones_like(sigma), sigma**-2),
    }
    for kind, wanted in closed.items():
        assert_close(weights({"name": "snr", "kind": kind, "sigma_data": 0.5}, at), wanted, rtol=1e-9, atol=1e-9)
    edm = (sigma**2 + 0.25) / (0.5 * sigma) ** 2
    assert_close(closed["karras"], edm, **EXACT)  # EDM's lambda is the same weight
    assert_close(weights("tan_prior", at), 1 / sigma, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["snr", "tan_prior"])
@pytest.mark.parametrize("path", ["linear", "cosine01", "trig"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_in_the_noise_level_are_finite_at_the_data_and_vanish_at_the_noise(
    path: str, name: str, dtype: torch.dtype
) -> None:
    own = Schedule.model_validate(path)
    ends = weights(name, state(torch.tensor([0.0, own.end], dtype=dtype), path=path))
    assert ends[0] == pytest.approx(0.002 ** (-2 if name == "snr" else -1), rel=1e-6)
    assert abs(float(ends[1])) < 1e-6  # float32 makes alpha(1) of a cosine -4e-8, not 0


def test_the_unused_scale_of_a_weight_leaves_no_trace() -> None:
    own = Weighting.model_validate({"name": "snr", "sigma_data": 0.5})
    assert own.simplest() == Weighting.model_validate("snr")
    karras = Weighting.model_validate({"name": "snr", "kind": "karras", "sigma_data": 0.5})
    assert karras.simplest() == karras


@pytest.mark.proves("weighting:min_snr")
@pytest.mark.parametrize("path", SIGNAL_PATHS)
def test_min_snr_weighs_an_error_equally_whatever_it_is_an_error_of(path: str) -> None:
    own, t = Schedule.model_validate(path), times_of(path)
    at, off = state(t, path=path), normal(len(t), 3, seed=7)
    x0, noise = own.endpoints(at.x, at.v, t)
    wrong_x0, wrong_noise = own.endpoints(at.x, at.v + off, t)  # an error of v at the same state
    errors = {"x0": wrong_x0 - x0, "eps": wrong_noise - noise, "v": off}
    losses = [
        weights({"name": "min_snr", "gamma": 5.0, "kind": kind}, at, error.square().sum(1))
        for kind, error in errors.items()
    ]
    assert_close(losses[0], losses[1], rtol=1e-9, atol=1e-12)
    assert_close(losses[0], losses[2], rtol=1e-9, atol=1e-12)
    snr = torch.tensor([0.01, 0.3, 1.0, 2.0, 30.0], dtype=torch.float64) ** -2
    assert_close(weights({"name": "min_snr", "kind": "x0"}, at), snr.clamp(max=5), rtol=1e-9, atol=0)


@pytest.mark.proves("weighting:min_snr")
def test_min_snr_of_a_velocity_has_the_published_form_on_the_circle_and_its_own_on_the_linear_path() -> None:
    circle, line = state(times_of("trig"), path="trig"), state(T)
    snr = torch.tan(circle.times.t) ** -2
    assert_close(weights("min_snr", circle), snr.clamp(max=5) / (snr + 1), rtol=1e-12, atol=1e-15)
    snr = ((1 - T) / T) ** 2
    assert_close(weights("min_snr", line), T**2 * snr.clamp(max=5), **EXACT)
    ends = state(torch.tensor([0.0, 1.0], dtype=torch.float64))
    for kind, wanted in (("x0", [5.0, 0.0]), ("eps", [0.0, 1.0]), ("v", [0.0, 0.0])):
        assert weights({"name": "min_snr", "kind": kind}, ends).tolist() == wanted


# --- TVM: inv_guidance ---


@pytest.mark.proves("weighting:inv_guidance")
def test_the_guidance_weight_is_one_over_the_squared_scale_of_the_row() -> None:
    scale = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)
    own = Weighting.model_validate("inv_guidance")
    assert own.needs_guidance_scale
    assert own.per_row
    assert_close(weights("inv_guidance", state(T[:3], g=1 / scale[:, None])), scale**-2, **EXACT)


@pytest.mark.proves("weighting:inv_guidance", "parameterization:scaled_u")
def test_a_scaled_velocity_has_the_guidance_weight_inside_its_squared_error() -> None:
    class Constant(Network):
        """Gives beta times a fixed field under `scaled_u`, and the field itself under `u`: the same velocity."""

        def __init__(self, scaled: bool) -> None:
            super().__init__()
            self.scaled = scaled

        def forward(self, x: Tensor, r: Tensor, t: Tensor, y: Tensor | None, g: Tensor | None = None) -> Tensor:
            assert y is not None
            assert g is not None
            field = torch.sin(x + t[:, None] + y[:, None])
            return field * g if self.scaled else field

    losses = []
    for parameterization, weighting in (("scaled_u", "none"), ("u", "inv_guidance")):
        slots = {"parameterization": parameterization, "weighting": weighting}
        settings = {"name": "fm", "guidance": {"name": "tvm", "w_max": 3.0}, "metric": "l2_mean", **slots}
        objective = Objective.model_validate(settings)
        net: Any = Constant(parameterization == "scaled_u")
        batch = Batch(normal(32, 3), torch.arange(32) % 5, 5)
        draws = Draws(0, 0, dtype=torch.float64)
        losses.append(objective.loss(net, net, Schedule.model_validate("linear"), batch, draws, 0, 1).per_sample)
    assert_close(losses[0], losses[1], rtol=1e-12, atol=1e-14)
