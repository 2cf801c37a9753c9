"""Flow paths: closed forms, derivatives, inverse maps, conversions (O1, O2, O3)."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from ablate_core.schedules import Schedule
from ablate_core.schedules.base import with_rates
from ablate_core.schedules.ve import Ve
from ablate_core.testing import schedules as contract
from ablate_core.testing.schedules import times

PATHS = sorted(Schedule.choices)
CLOSE = {"rtol": 1e-12, "atol": 1e-13}


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest) -> Schedule:
    return Schedule.model_validate(request.param)


@pytest.mark.parametrize("check", [contract.goes_from_data_to_noise, contract.keeps_single_precision])
def test_a_path_grows_noisier_with_time_and_keeps_single_precision(
    path: Schedule, check: Callable[[Schedule], None]
) -> None:
    check(path)


@pytest.mark.oracle("O1")
@pytest.mark.proves("schedule:{path}")
def test_a_path_goes_from_data_to_noise(path: Schedule) -> None:
    point = path.at(torch.tensor([0.0, path.end], dtype=torch.float64))
    last = {"ve": (1.0, 80.0), "vp_sqrt": (math.sqrt(1 - 0.99995**2), 0.99995)}.get(path.name, (0.0, 1.0))
    assert_close(point.alpha, torch.tensor([1.0, last[0]], dtype=torch.float64), **CLOSE)
    assert_close(point.sigma, torch.tensor([0.0, last[1]], dtype=torch.float64), **CLOSE)


def test_what_a_path_declares_of_itself_is_so(path: Schedule) -> None:
    contract.declares_what_it_is(path)


@pytest.mark.oracle("O2")
@pytest.mark.proves("schedule:{path}")
def test_the_given_derivatives_are_those_of_the_path(path: Schedule) -> None:
    contract.has_its_derivatives(path)


@pytest.mark.oracle("O1", "O2")
@pytest.mark.proves("schedule:{path}")
def test_closed_jump_coefficients_equal_the_general_ones(path: Schedule) -> None:
    contract.has_its_jumps(path)


@pytest.mark.oracle("O2")
@pytest.mark.proves("schedule:{path}")
def test_the_rates_of_jump_coefficients_are_their_central_differences(path: Schedule) -> None:
    contract.has_its_rates(path)


@pytest.mark.oracle("O1")
@pytest.mark.proves("schedule:{path}")
def test_states_velocities_and_ratios_are_the_coefficients_of_the_path(path: Schedule) -> None:
    generator = torch.Generator().manual_seed(0)
    x0, noise = (torch.randn(9, 2, 3, generator=generator) for _ in range(2))
    t = torch.linspace(0, path.end, 9)
    for own, general in zip(path.interpolate(x0, noise, t), Schedule.interpolate(path, x0, noise, t), strict=True):
        assert torch.equal(own, general)
    assert torch.equal(path.ratio(t), Schedule.ratio(path, t))
    assert torch.equal(path.time_of_ratio(torch.tensor([torch.inf])), torch.tensor([path.end]))


@pytest.mark.oracle("O2")
def test_rates_are_those_of_forward_differentiation_and_there_is_none_of_a_constant(path: Schedule) -> None:
    t = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    with torch.no_grad():
        pairs = with_rates(lambda time: [path.at(time).sigma ** 2, torch.full_like(time, 2.0), None], t)
    value, rate = torch.func.jvp(lambda time: path.at(time).sigma ** 2, (t,), (torch.ones_like(t),))
    assert_close(pairs[0], (value, rate), rtol=1e-14, atol=1e-15)
    assert pairs[0][0] is not None
    assert not pairs[0][0].requires_grad
    assert pairs[1][1] is None
    assert pairs[2] == (None, None)


@pytest.mark.oracle("O1")
@pytest.mark.proves("schedule:{path}", "first_step:ddim")
def test_a_ddim_jump_with_the_conditional_velocity_is_exact_in_one_and_in_two_steps(path: Schedule) -> None:
    contract.jumps_along_itself(path)


@pytest.mark.oracle("O3")
@pytest.mark.proves("schedule:ve")
def test_heun_with_the_clean_sample_as_denoiser_is_euler_on_the_exploding_path() -> None:
    path = Ve()  # E7: the conditional path is straight, so the second evaluation changes nothing
    t, r = times(path)
    generator = torch.Generator().manual_seed(2)
    x0, noise = (torch.randn(64, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    x, _ = path.interpolate(x0, noise, t)
    gap = (r - t)[:, None]
    slope = (x - x0) / t[:, None]
    euler = x + gap * slope
    assert_close(x + gap * (slope + (euler - x0) / r[:, None]) / 2, euler, rtol=1e-12, atol=1e-12)


def test_the_time_of_a_noise_to_signal_ratio_is_found_back_and_ends_with_the_path(path: Schedule) -> None:
    contract.finds_its_times(path)


@pytest.mark.proves("schedule:{path}")
@pytest.mark.parametrize("other", PATHS)
def test_equal_log_snr_maps_states_of_one_path_to_those_of_another(path: Schedule, other: str) -> None:
    target = Schedule.model_validate(other)
    t, _ = times(path)
    t = t[path.ratio(t) < 50]  # inside every path
    there = target.time_of_ratio(path.ratio(t))
    generator = torch.Generator().manual_seed(3)
    x0, noise = (torch.randn(len(t), 3, generator=generator, dtype=torch.float64) for _ in range(2))
    here, mapped = path.interpolate(x0, noise, t)[0], target.interpolate(x0, noise, there)[0]
    scale = target.at(there).alpha / path.at(t).alpha  # from VE to linear: 1 - t
    assert_close(mapped, scale[:, None] * here, rtol=1e-10, atol=1e-11)


def test_the_conversions_have_their_closed_forms() -> None:
    sigma = torch.tensor([0.002, 0.5, 1.0, 7.0, 80.0], dtype=torch.float64)

    def time(name: str) -> Tensor:
        return Schedule.model_validate(name).time_of_ratio(sigma)

    assert_close(time("ve"), sigma, **CLOSE)
    assert_close(time("linear"), sigma / (1 + sigma), **CLOSE)
    assert_close(torch.tan(time("trig")), sigma, **CLOSE)
    assert_close(time("cosine01"), time("trig") * 2 / math.pi, **CLOSE)
    assert_close(time("vp_sqrt"), torch.sin(time("trig")), **CLOSE)


def test_the_network_is_told_the_log_of_an_exploding_noise_level_and_every_other_time_as_it_is(path: Schedule) -> None:
    t, _ = times(path)
    if path.name != "ve":
        assert path.network_time(t) is t
        return
    sigma = torch.tensor([0.0, 0.001, 0.002, 1.0, 80.0], dtype=torch.float64)  # defect D30: all below 1 looked alike
    wanted = torch.tensor([0.002, 0.002, 0.002, 1.0, 80.0], dtype=torch.float64).log() / 4
    assert_close(path.network_time(sigma), wanted, **CLOSE)


def test_an_exploding_path_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="sigma_min < sigma_max, got 2 and 1"):
        Ve(sigma_min=2.0, sigma_max=1.0)


def test_a_column_of_coefficients_is_refused() -> None:
    from ablate_core.schedules.base import expand  # the shape error behind defect D1

    with pytest.raises(AssertionError, match="per-sample"):
        expand(torch.ones(4, 1), torch.ones(4, 3))
