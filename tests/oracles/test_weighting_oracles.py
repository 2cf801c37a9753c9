"""Closed forms of the weightings and of the metrics that belong to them (O11, O13; design-space 2.12)."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from ablate_core.loss_metrics import LossMetric
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


def test_the_ratio_weighting_is_a_power_of_alpha_and_1_where_there_is_none() -> None:
    t = torch.tensor([0.9, 0.9, 0.9, 0.9], dtype=torch.float64)
    r = torch.tensor([0.1, 0.1, 0.1, 0.9], dtype=torch.float64)
    s = torch.tensor([0.7, 0.1, 0.9, 0.9], dtype=torch.float64)
    at = state(t, r=r, s=s, fm=r == t)
    assert_close(weights("inv_ratio", at), torch.tensor([4.0, 1.0, 1.0, 1.0]).double(), **EXACT)
    assert_close(weights({"name": "inv_ratio", "power": 1}, at), torch.tensor([0.25, 1, 1, 1]).double(), **EXACT)
    with pytest.raises(ValueError, match="power"):
        Weighting.model_validate({"name": "inv_ratio", "power": 2})


def test_flow_matching_rows_of_a_dyadic_sampler_keep_weight_1() -> None:
    t = torch.tensor([0.5, 0.5], dtype=torch.float64)  # r = s = t - 1/M on flow matching rows
    at = state(t, r=t - 0.125, s=t - 0.125, fm=torch.tensor([True, False]))
    assert weights("inv_ratio", at).tolist() == [1.0, 1.0]
    assert weights("inv_dt", at).tolist() == [1.0, 8.0]


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
