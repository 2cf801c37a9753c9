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
from ablate_core.testing import time_samplers as contract
from ablate_core.time_samplers import TimeSampler
from ablate_core.time_samplers.alpha_ratio import AlphaRatio
from ablate_core.time_samplers.base import TimeSample
from ablate_core.time_samplers.ct_progressive import CtProgressive
from ablate_core.time_samplers.dyadic import Dyadic
from ablate_core.time_samplers.ect import Ect
from ablate_core.time_samplers.esc_gradual import EscGradual

N = 20_000
PATHS = sorted(Schedule.choices)
ANYWHERE = [name for name in sorted(TimeSampler.choices) if TimeSampler.choices[name].any_path]
UNIT_PATHS = [path for path in PATHS if Schedule.choices[path].unit_time]
LEGAL = [(path, name) for name in sorted(TimeSampler.choices) for path in (PATHS if name in ANYWHERE else UNIT_PATHS)]


def sample(
    settings: Any, *, n: int = N, path: Any = "linear", step: int = 0, noise_std: float = 1.0, seed: int = 0
) -> TimeSample:
    sampler, schedule = TimeSampler.model_validate(settings), Schedule.model_validate(path)
    draws = Draws(seed, step, dtype=torch.float64)
    return sampler.sample(n, draws, schedule=schedule, noise_std=noise_std, step=step, total_steps=1000)


@pytest.mark.oracle("O10")
@pytest.mark.contract("time_sampler:{name}", "schedule:{path}")
@pytest.mark.parametrize(("path", "name"), LEGAL)
def test_times_are_ordered_on_the_path_and_have_the_declared_capabilities(path: str, name: str) -> None:
    own, here = TimeSampler.model_validate(name), Schedule.model_validate(path)
    contract.orders_its_times(own, [here])
    contract.declares_its_times(own, [here])


@pytest.mark.parametrize("path", UNIT_PATHS)
def test_times_cut_at_the_end_of_a_path_keep_their_order(path: str) -> None:
    r, s, t = torch.tensor([[0.2, 0.999_99, 1.0, 0.3], [0.5, 0.999_99, 1.0, 0.999_99], [0.9, 1.0, 1.0, 1.0]])
    end = 0.9995
    times = TimeSample(r=r, s=s, t=t, fm=torch.tensor([False, False, True, False])).up_to(end)
    assert times.fm.tolist() == [False, True, True, False]
    assert bool(((times.r <= times.s) & (times.s <= times.t) & (times.t <= end)).all())
    assert bool((times.s < times.t)[~times.fm].all())


@pytest.mark.contract("time_sampler:{name}")
@pytest.mark.parametrize("name", sorted(TimeSampler.choices))
def test_equal_seeds_give_equal_times_and_float32_is_legal(name: str) -> None:
    contract.repeats_its_times(TimeSampler.model_validate(name))


def ks(values: torch.Tensor, cdf: Any) -> float:
    return float(stats.kstest(values.numpy(), cdf).pvalue)


def below(q: Any, mu: float = -0.4, sd: float = 1.0) -> Any:
    """P(LN(mu, sd) <= q)."""
    return stats.norm.cdf((stats.logistic.ppf(q) - mu) / sd)


@pytest.mark.oracle("O10")
@pytest.mark.proves("time_sampler:ln_minmax", "time_sampler:logit_normal")
def test_ordered_logit_normal_times_have_their_closed_distributions() -> None:
    times = sample({"name": "ln_minmax", "p_eq": 0.0})
    assert ks(times.t, lambda q: below(q) ** 2) > 1e-3
    assert ks(times.r, lambda q: 1 - (1 - below(q)) ** 2) > 1e-3
    single = sample("logit_normal")
    assert ks(single.t, below) > 1e-3
    equal = sample("ln_minmax")
    assert float(equal.fm.double().mean()) == pytest.approx(0.75, abs=0.015)
    assert ks(equal.t[equal.fm], lambda q: below(q) ** 2) > 1e-3  # those rows follow the maximum, not LN


@pytest.mark.oracle("O10")
@pytest.mark.proves("time_sampler:ln_indep")
def test_independent_times_meet_more_often_than_asked() -> None:
    share = float(sample("ln_indep").fm.double().mean())
    assert share == pytest.approx(1 - 0.75 * (1 - 0.0665), abs=0.012)


@pytest.mark.oracle("O10")
@pytest.mark.proves("time_sampler:esc_gradual")
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


@pytest.mark.oracle("O10")
@pytest.mark.proves("time_sampler:scm_lognormal")
@pytest.mark.parametrize("path", PATHS)
def test_the_log_normal_noise_level_is_the_same_on_every_path(path: str) -> None:
    times, schedule = sample("scm_lognormal", path=path, noise_std=0.5), Schedule.model_validate(path)
    sigma = 0.5 * schedule.ratio(times.t)
    assert ks(sigma.log(), lambda q: stats.norm.cdf((q + 1.0) / 1.4)) > 1e-3


@pytest.mark.oracle("O10")
@pytest.mark.proves("time_sampler:{name}")
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", ["ct_progressive", "ict"])
def test_consistency_times_are_neighbours_on_the_noise_grid(path: str, name: str) -> None:
    own, schedule = TimeSampler.model_validate(name), Schedule.model_validate(path)
    noise_std = 0.5 if own.path_problem(schedule, 0.5) is None else 1.0
    times = sample(name, path=path, step=500, noise_std=noise_std)
    upper, lower = (noise_std * schedule.ratio(time) for time in (times.t, times.s))
    levels = own.levels(500, 1000)  # type: ignore[attr-defined]
    gap = (upper ** (1 / 7) - lower ** (1 / 7)) * (levels - 1)
    assert_close(gap, torch.full_like(gap, 80 ** (1 / 7) - 0.002 ** (1 / 7)), rtol=1e-8, atol=0)
    end = float(schedule.time_of_ratio(torch.tensor(80.0 / noise_std, dtype=torch.float64)))
    assert own.start_time(schedule, noise_std) == pytest.approx(end, rel=1e-6)


@pytest.mark.parametrize(("path", "most"), [("ve", 40.0), ("vp_sqrt", 50.0)])
def test_a_grid_that_reaches_beyond_the_path_is_not_drawn_at_its_end(path: str, most: float) -> None:
    own, schedule = TimeSampler.model_validate("ict"), Schedule.model_validate(path)
    assert own.path_problem(schedule, 1.0) is None
    problem = own.path_problem(schedule, 0.5)  # else t = s at the end, and the target divides by t - s
    assert problem is not None
    assert "ends at" in problem[0]
    assert float(problem[1].removeprefix("objective.time_sampler.sigma_max: ")) == pytest.approx(most, rel=1e-3)
    mended = TimeSampler.model_validate({"name": "ict", "sigma_max": problem[1].split(": ")[1]})
    assert mended.path_problem(schedule, 0.5) is None


@pytest.mark.oracle("O10")
@pytest.mark.proves("time_sampler:ct_progressive")
def test_the_grid_of_consistency_training_grows_as_published() -> None:
    own = CtProgressive(s1=150)
    table = {0: 2, 1: 3, 1000: 6, 10_000: 17, 100_000: 54, 400_000: 107, 800_000: 151}
    assert {k: own.levels(k, 800_000) for k in table} == table


@pytest.mark.oracle("O10")
@pytest.mark.proves("time_sampler:ict")
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


@pytest.mark.oracle("O10")
@pytest.mark.proves("time_sampler:ln_mask_first")
def test_the_first_rows_of_a_masked_batch_follow_the_logit_normal_itself() -> None:
    n, rho = 2 * N, 0.5
    times = sample("ln_mask_first", n=n)
    assert torch.equal(times.fm, torch.arange(n) < n * rho)
    assert sample({"name": "ln_mask_first", "rho": 0.3}, n=10).fm.tolist() == [True] * 3 + [False] * 7
    assert ks(times.t[times.fm], lambda q: below(q, 0.8, 0.8)) > 1e-3  # unlike ln_minmax, whose rows follow the maximum
    assert ks(times.t[~times.fm], lambda q: below(q, 0.8, 0.8) ** 2) > 1e-3
    assert ks(times.r[~times.fm], lambda q: 1 - (1 - below(q, 0.8, 0.8)) ** 2) > 1e-3
    mixed = sample({"name": "ln_mask_first", "uniform": 0.4}, n=n)
    assert ks(mixed.t[mixed.fm], lambda q: 0.6 * below(q, 0.8, 0.8) + 0.4 * q) > 1e-3


@pytest.mark.oracle("O10")
@pytest.mark.proves("time_sampler:lambda_split")
def test_a_split_is_uniform_between_both_times_and_a_fixed_one_is_the_midpoint_of_shortcut_models() -> None:
    times = sample("lambda_split")
    jumps = ~times.fm
    share = ((times.t - times.s) / (times.t - times.r))[jumps]
    assert ks(share, stats.uniform.cdf) > 1e-3
    assert float(jumps.double().mean()) == pytest.approx(0.5, abs=0.015)
    assert ks(times.t, lambda q: below(q) ** 2) > 1e-3
    middle = sample({"name": "lambda_split", "split": 0.5})
    assert_close(middle.s[~middle.fm], ((middle.t + middle.r) / 2)[~middle.fm], rtol=1e-14, atol=0)
    assert torch.equal(middle.t, times.t)
    whole = TimeSampler.model_validate({"name": "lambda_split", "split": 1.0})
    assert whole.lands_at_intermediate
    assert not TimeSampler.model_validate("lambda_split").lands_at_intermediate
    landed = sample(whole)
    assert torch.equal(landed.s[~landed.fm], landed.r[~landed.fm])
    flat = sample({"name": "lambda_split", "pair": "uniform"})
    assert ks(flat.t, lambda q: q**2) > 1e-3
    unused = {"name": "lambda_split", "pair": "uniform", "mu": 3.0}
    assert TimeSampler.model_validate(unused).simplest() == TimeSampler.model_validate(unused | {"mu": -0.4})


@pytest.mark.oracle("O10")
@pytest.mark.proves("time_sampler:alpha_ratio")
def test_the_ratio_goes_from_the_landing_time_to_the_start_time() -> None:
    own = AlphaRatio()
    table = {0: 1.0, 250: 0.998_073, 400: 0.924_142, 500: 0.5, 600: 0.075_858, 788: 0.0, 1000: 0.0}
    for step, wanted in table.items():
        wanted = 1.0 if wanted > 0.995 else wanted
        assert own.alpha_at(step, 1000) == pytest.approx(wanted, abs=1e-6)
        assert own.alpha_at(3 * step, 3000) == own.alpha_at(step, 1000)  # shares of the training, whatever its length
    late = AlphaRatio(k0=0.5, k1=5 / 6)  # 600k to 1M of 1.2M steps
    assert [late.alpha_at(k, 12) for k in (0, 6, 8, 10, 12)] == pytest.approx([1.0, 1.0, 0.5, 0.0, 0.0])
    assert [AlphaRatio(shape="constant", alpha=a).alpha_at(0, 1) for a in (0.004, 0.006, 0.994, 0.996)] == [
        0.0,
        0.006,
        0.994,
        1.0,
    ]
    for step in (0, 400, 500, 999):
        times, alpha = sample("alpha_ratio", step=step), own.alpha_at(step, 1000)
        assert_close(times.s, times.t - alpha * (times.t - times.r), rtol=1e-13, atol=1e-15)
        assert alpha not in (0.0, 1.0) or torch.equal(times.s, times.t if alpha == 0 else times.r)
        assert torch.equal(times.r, sample({"name": "ln_minmax", "p_eq": 0.5}, step=step).r)
    assert AlphaRatio(shape="constant", alpha=0.999).lands_at_intermediate
    assert not own.lands_at_intermediate
    assert AlphaRatio(alpha=0.3).simplest() == own
    with pytest.raises(ValueError, match="k0 < k1, got 1 and 1"):
        AlphaRatio(k0=1.0)


@pytest.mark.oracle("O10")
@pytest.mark.proves("time_sampler:ect")
def test_easy_consistency_times_land_at_the_data_as_often_as_the_closed_form_says() -> None:
    published = {0: 0.811, 1: 0.584, 2: 0.0}
    own = TimeSampler.model_validate("ect")
    assert isinstance(own, Ect)
    for stage, wanted in published.items():
        cut = (2 ** (stage + 1) - 1) / 8  # s = 0 where sigmoid(-sigma) is at least this
        closed = stats.norm.cdf((math.log(-math.log(cut / (1 - cut))) + 1.1) / 2) if cut < 0.5 else 0.0
        times = sample("ect", step=125 * stage)
        share = float((times.s == 0).double().mean())
        assert own.stage(125 * stage, 1000) == stage
        assert closed == pytest.approx(wanted, abs=1e-3)
        assert share == pytest.approx(closed, abs=0.012)
        assert ks((times.t / (1 - times.t)).log(), lambda q: stats.norm.cdf((q + 1.1) / 2)) > 1e-3
    assert [own.stage(step, 10) for step in range(10)] == [0, 0, 1, 2, 3, 4, 4, 5, 6, 7]
    at_the_end = sample({"name": "ect", "mu": 3.0}, path={"name": "ve", "sigma_max": 10.0}, step=999)
    last = at_the_end.t == 10.0
    assert 0.2 < float(last.double().mean()) < 0.8
    assert_close(at_the_end.s[last], own.lower(at_the_end.t[last], 7), rtol=1e-12, atol=0)  # a step from there on
    fixed = Ect(q=256, stages=1)
    assert {fixed.stage(step, 10) for step in range(10)} == {0}
    with pytest.raises(ValueError, match="lost to rounding; with q = 256 at most 2 stages"):
        Ect(q=256)


@pytest.mark.oracle("O10")
@pytest.mark.proves("time_sampler:tvm")
def test_gaps_and_landing_times_of_terminal_velocity_matching_have_their_closed_distributions() -> None:
    times = sample("tvm", n=4 * N)
    gap = times.t - times.r
    assert ks(gap, lambda q: below(q, -0.8, 1.0)) > 1e-3
    # given the gap, r is LN(-.4, 1) cut at 1 - g: its quantile is uniform
    room = below((1 - gap).clamp(1e-12, 1 - 1e-12).numpy())
    assert ks(torch.from_numpy(below(times.r.numpy()) / room), stats.uniform.cdf) > 1e-3
    assert times.velocity_t is not None
    assert ks(times.velocity_t, below) > 1e-3
    for values, mean in ((gap, 0.3395), (times.r, 0.3467), (times.t, 0.6862)):
        assert float(values.mean()) == pytest.approx(mean, abs=0.003)


@pytest.mark.oracle("O10")
@pytest.mark.proves("time_sampler:dmf")
def test_both_terms_of_decoupled_meanflow_have_times_of_their_own() -> None:
    times = sample("dmf")
    assert ks(times.t, lambda q: below(q, -0.2) * below(q, 0.2)) > 1e-3
    assert ks(times.r, lambda q: 1 - (1 - below(q, -0.2)) * (1 - below(q, 0.2))) > 1e-3
    assert times.velocity_t is not None
    assert ks(times.velocity_t, below) > 1e-3
    assert abs(float(torch.corrcoef(torch.stack([times.velocity_t, times.t]))[0, 1])) < 0.03


@pytest.mark.oracle("O10")
@pytest.mark.proves("time_sampler:dyadic")
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


@pytest.mark.oracle("O10")
@pytest.mark.proves("time_sampler:imm_eta")
def test_groups_share_their_times_and_s_stays_above_r() -> None:
    times = sample("imm_eta", path="cosine01")
    for time in (times.r, times.s, times.t):
        rows = time.reshape(-1, 4)
        assert torch.equal(rows, rows[:, :1].expand(-1, 4))
    assert len(times.t.unique()) == N // 4
    assert float(times.t.max()) <= 0.994


@pytest.mark.parametrize(
    "settings", [{}, {"t_min": 0.3}, {"t_min": 1e-12}, {"k": 60.0, "gap": 0.0}], ids=["default", "late", "tiny", "fine"]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_groups_step_down_from_every_time_that_can_be_drawn(settings: dict[str, Any], dtype: torch.dtype) -> None:
    """The smallest and the largest uniform numbers too, once in some 1e7 groups."""
    eps = torch.finfo(dtype).eps
    edges = torch.tensor([0.0, eps / 2, eps, 0.5, 1 - eps / 2], dtype=dtype)

    class Edges(Draws):
        def uniform(self, name: str, *shape: int) -> torch.Tensor:
            return edges.repeat_interleave(5) if name == "time.t" else edges.repeat(5)

    own = TimeSampler.model_validate({"name": "imm_eta", **settings})
    for path in UNIT_PATHS:
        here = Schedule.model_validate(path)
        times = own.sample(100, Edges(0, 0), schedule=here, noise_std=1.0, step=0, total_steps=1)
        assert times.t.dtype == dtype
        assert bool(((own.last_time - eps <= times.r) & (times.r <= times.s) & (times.s < times.t)).all())
        assert bool((1 / (times.t - times.s)).isfinite().all())
        assert float(times.t.max()) <= 0.994


def test_the_streams_of_the_times_are_separate() -> None:
    a, b = sample("ln_minmax"), sample({"name": "esc_gradual", "zero_steps": 10})
    assert torch.equal(a.t, b.t)  # the arm that draws one number more sees the same times
    assert torch.equal(a.fm, b.fm)
