"""Time samplers: order, closed-form distributions, domains (O10)."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from scipy import stats
from torch.testing import assert_close

from ablate_core.random import Draws
from ablate_core.schedules import Schedule
from ablate_core.time_samplers import TimeSampler
from ablate_core.time_samplers.base import TimeSample
from ablate_core.time_samplers.ct_progressive import CtProgressive
from ablate_core.time_samplers.dyadic import Dyadic
from ablate_core.time_samplers.esc_gradual import EscGradual

N = 20_000


def sample(
    settings: Any, *, n: int = N, path: str = "linear", step: int = 0, noise_std: float = 1.0, seed: int = 0
) -> TimeSample:
    sampler, schedule = TimeSampler.model_validate(settings), Schedule.model_validate(path)
    draws = Draws(seed, step, dtype=torch.float64)
    return sampler.sample(n, draws, schedule=schedule, noise_std=noise_std, step=step, total_steps=1000)


@pytest.mark.parametrize("path", sorted(Schedule.choices))
@pytest.mark.parametrize("name", sorted(TimeSampler.choices))
@pytest.mark.parametrize("step", [0, 400, 999])
def test_times_are_ordered_inside_the_unit_interval_and_have_the_declared_capabilities(
    path: str, name: str, step: int
) -> None:
    own = TimeSampler.model_validate(name)
    times = sample(name, path=path, step=step)
    zero = torch.zeros_like(times.t)
    assert bool(((zero <= times.r) & (times.r <= times.s) & (times.s <= times.t) & (times.t <= 1)).all())
    jumps = ~times.fm
    assert own.jumps == bool(jumps.any())
    if own.intermediate:
        assert bool((times.s < times.t)[jumps].all())
    else:
        assert torch.equal(times.s, times.t)
    if not own.random_landing_time:
        assert float(times.r[jumps].max()) == 0
    share = float(times.fm.double().mean())
    assert share >= own.velocity_share - 0.02
    assert own.group_size == times.group


@pytest.mark.parametrize("name", sorted(TimeSampler.choices))
def test_equal_seeds_give_equal_times_and_float32_is_legal(name: str) -> None:
    schedule, own = Schedule.model_validate("cosine01"), TimeSampler.model_validate(name)
    draw = [own.sample(64, Draws(3, 5), schedule=schedule, noise_std=0.5, step=5, total_steps=10) for _ in range(2)]
    assert torch.equal(draw[0].t, draw[1].t)
    assert torch.equal(draw[0].r, draw[1].r)
    assert draw[0].t.dtype == torch.float32
    other = own.sample(64, Draws(4, 5), schedule=schedule, noise_std=0.5, step=5, total_steps=10)
    assert not torch.equal(draw[0].t, other.t)


def ks(values: torch.Tensor, cdf: Any) -> float:
    return float(stats.kstest(values.numpy(), cdf).pvalue)


def test_ordered_logit_normal_times_have_their_closed_distributions() -> None:
    mu, sd = -0.4, 1.0
    times = sample({"name": "ln_minmax", "p_eq": 0.0})

    def below(q: Any) -> Any:
        return stats.norm.cdf((stats.logistic.ppf(q) - mu) / sd)

    assert ks(times.t, lambda q: below(q) ** 2) > 1e-3
    assert ks(times.r, lambda q: 1 - (1 - below(q)) ** 2) > 1e-3
    single = sample("logit_normal")
    assert ks(single.t, below) > 1e-3
    equal = sample("ln_minmax")
    assert float(equal.fm.double().mean()) == pytest.approx(0.75, abs=0.015)
    assert ks(equal.t[equal.fm], lambda q: below(q) ** 2) > 1e-3  # those rows follow the maximum, not LN


def test_independent_times_meet_more_often_than_asked() -> None:
    share = float(sample("ln_indep").fm.double().mean())
    assert share == pytest.approx(1 - 0.75 * (1 - 0.0665), abs=0.012)


def test_the_landing_time_is_released_as_the_probability_says() -> None:
    for step in (0, 250, 500, 750, 1000, 2000):
        own = EscGradual(zero_steps=1000)
        times = sample({"name": "esc_gradual", "zero_steps": 1000}, step=step)
        wanted = 0.25 * own.p_zero(step)
        assert float((times.r == 0).double().mean()) == pytest.approx(wanted, abs=0.012)
        assert float(times.fm.double().mean()) == pytest.approx(0.75, abs=0.015)
    shapes = {
        shape: EscGradual(zero_steps=1000, shape=shape).p_zero(500) for shape in ("arccos", "cosine", "half_cosine")
    }
    assert shapes == pytest.approx({"arccos": 2 / 3, "cosine": 2**-0.5, "half_cosine": 0.5})  # defect D23
    assert EscGradual(zero_steps=0).p_zero(0) == 0.0  # the reference divides by it


@pytest.mark.parametrize("path", sorted(Schedule.choices))
def test_the_log_normal_noise_level_is_the_same_on_every_path(path: str) -> None:
    times, schedule = sample("scm_lognormal", path=path, noise_std=0.5), Schedule.model_validate(path)
    sigma = 0.5 * schedule.ratio(times.t)
    assert ks(sigma.log(), lambda q: stats.norm.cdf((q + 1.0) / 1.4)) > 1e-3


@pytest.mark.parametrize("path", sorted(Schedule.choices))
@pytest.mark.parametrize("name", ["ct_progressive", "ict"])
def test_consistency_times_are_neighbours_on_the_noise_grid(path: str, name: str) -> None:
    own, schedule = TimeSampler.model_validate(name), Schedule.model_validate(path)
    times = sample(name, path=path, step=500, noise_std=0.5)
    upper, lower = (0.5 * schedule.ratio(time) for time in (times.t, times.s))
    levels = own.levels(500, 1000)  # type: ignore[attr-defined]
    gap = (upper ** (1 / 7) - lower ** (1 / 7)) * (levels - 1)
    assert_close(gap, torch.full_like(gap, 80 ** (1 / 7) - 0.002 ** (1 / 7)), rtol=1e-8, atol=0)
    assert own.start_time(schedule, 0.5) == pytest.approx(float(schedule.time_of_ratio(torch.tensor(160.0))), rel=1e-6)


def test_the_grid_of_consistency_training_grows_as_published() -> None:
    own = CtProgressive(s1=150)
    table = {0: 2, 1: 3, 1000: 6, 10_000: 17, 100_000: 54, 400_000: 107, 800_000: 151}
    assert {k: own.levels(k, 800_000) for k in table} == table


def test_the_interval_of_improved_consistency_training_follows_its_density() -> None:
    own = TimeSampler.model_validate({"name": "ict", "s0": 40, "s1": 40})
    times = sample({"name": "ict", "s0": 40, "s1": 40})
    sigma = times.t / (1 - times.t)
    inside = stats.norm.cdf([(math.log(s) + 1.1) / 2 for s in (0.002, 80.0)])
    assert (
        ks(sigma.log(), lambda q: (stats.norm.cdf((q + 1.1) / 2) - inside[0]) / (inside[1] - inside[0])) < 1e-3
    )  # discrete
    assert float((sigma < 0.5).double().mean()) == pytest.approx(
        float(stats.norm.cdf((math.log(0.5) + 1.1) / 2)), abs=0.06
    )
    assert own.levels(0, 10) == 41  # type: ignore[attr-defined]


def test_dyadic_jumps_are_equally_frequent_and_t_lies_on_the_grid() -> None:
    for grid in ("any", "multiples"):
        times = sample({"name": "dyadic", "M": 16, "bootstrap": 0.5, "grid": grid}, n=512)
        jumps = (times.t - times.r)[~times.fm]
        counts = {float(d): int((jumps == d).sum()) for d in jumps.unique()}
        assert counts == {0.125: 64, 0.25: 64, 0.5: 64, 1.0: 64}
        units = times.t[~times.fm] / (jumps if grid == "multiples" else 1 / 16)
        assert torch.equal(units, units.round())
        assert torch.equal((times.s * 2), times.t + times.r) is False  # flow matching rows have s = r
        assert torch.equal((2 * times.s)[~times.fm], (times.t + times.r)[~times.fm])
        bottom = times.ladder_bottom
        assert bottom is not None
        assert torch.equal(bottom, (times.t - times.r == 0.125) & ~times.fm)


@pytest.mark.parametrize(("m", "nearest"), [(5, 4), (12, 16), (100, 128)])
def test_a_grid_that_is_no_power_of_two_is_refused_with_the_nearest(m: int, nearest: int) -> None:
    with pytest.raises(ValueError, match=f"power of two .* the nearest is {nearest}"):
        Dyadic(M=m)


def test_groups_share_their_times_and_s_stays_above_r() -> None:
    times = sample("imm_eta", path="cosine01")
    for time in (times.r, times.s, times.t):
        rows = time.reshape(-1, 4)
        assert torch.equal(rows, rows[:, :1].expand(-1, 4))
    assert len(times.t.unique()) == N // 4
    assert float(times.t.max()) <= 0.994


def test_the_streams_of_the_times_are_separate() -> None:
    a, b = sample("ln_minmax"), sample({"name": "esc_gradual", "zero_steps": 10})
    assert torch.equal(a.t, b.t)  # the arm that draws one number more sees the same times
    assert torch.equal(a.fm, b.fm)
