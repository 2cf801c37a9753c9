"""Schedules, solvers, times, weights and plug-in velocities equal recorded numbers of public references (O18)."""

from __future__ import annotations

import pytest
import torch
from golden_cases import Case, Recorded, case, cases
from torch import Tensor
from torch.testing import assert_close

from ablate_core.first_steps import FirstStep
from ablate_core.flow_map import FlowMap
from ablate_core.loss_metrics.mmd_laplace import MmdLaplace
from ablate_core.parameterizations import Parameterization
from ablate_core.parameterizations.edm import Edm
from ablate_core.random import Draws
from ablate_core.schedules import Schedule
from ablate_core.state import Rows, State
from ablate_core.target_networks.ct_adaptive import CtAdaptive
from ablate_core.time_samplers import TimeSampler
from ablate_core.time_samplers.base import TimeSample
from ablate_core.time_samplers.esc_gradual import EscGradual
from ablate_core.time_samplers.ict import Ict
from ablate_core.time_samplers.imm_eta import ImmEta
from ablate_core.time_samplers.noise_grid import ct_scale, ict_scale, karras_grid
from ablate_core.velocities.plugin import plugin_velocity
from ablate_core.weightings.imm import Imm

CLOSE = {"rtol": 1e-12, "atol": 1e-13}


def schedule(name: str) -> Schedule:
    return Schedule.model_validate(name.split("_")[0])


@pytest.mark.oracle("O18")
@pytest.mark.proves("schedule:linear", "schedule:cosine01")
@pytest.mark.parametrize("name", ["linear_sd1", "linear_sd05", "cosine01_sd05", "cosine01_sd1"])
def test_path_coefficients_equal_the_reference(name: str) -> None:
    c, own = case(f"path_{name}"), schedule(name)
    t, r = c["t"], c["r"]
    point, jump, d_jump = own.at(t), own.jump(t, r), own.d_jump(t, r)
    for value, key in zip(
        (*point, *jump, *d_jump), ("a", "b", "da", "db", "abar", "bbar", "dabar_dt", "dbbar_dt"), strict=True
    ):
        assert_close(value, c[key], **CLOSE)
    sigma_data = 0.5 if name.endswith("05") else 1.0
    parameterization = Parameterization.model_validate({"name": "v_ddim", "sigma_data": sigma_data})
    for scale, key in (
        (parameterization.input_scale(t, own), "c_in"),
        (parameterization.output_scale(t, own), "c_out"),
    ):
        assert (scale is None) == (sigma_data == 1)  # nothing to multiply with
        assert_close(torch.ones_like(t) if scale is None else scale, c[key].expand_as(t), **CLOSE)


@pytest.mark.oracle("O18")
@pytest.mark.proves("schedule:trig")
def test_the_trigonometric_path_equals_the_reference_and_is_cosine01_in_radians() -> None:
    c, own, unit = case("path_trig_sd05"), schedule("trig"), torch.pi / 2
    point, jump, d_jump = own.at(c["t"]), own.jump(c["t"], c["r"]), own.d_jump(c["t"], c["r"])
    keys = ("a", "b", "da", "db", "abar", "bbar", "dabar_dt", "dbbar_dt")
    for value, key in zip((*point, *jump, *d_jump), keys, strict=True):
        assert_close(value, c[key], **CLOSE)
    t, r, other = c["t"] / unit, c["r"] / unit, schedule("cosine01")
    jump, d_jump = other.jump(t, r), other.d_jump(t, r)
    assert_close(jump.keep, c["abar"], **CLOSE)
    assert_close(jump.move * unit, c["bbar"], **CLOSE)  # velocity per unit t is pi / 2 times the one per radian
    assert_close(d_jump.keep / unit, c["dabar_dt"], **CLOSE)
    assert_close(d_jump.move, c["dbbar_dt"], **CLOSE)


@pytest.mark.oracle("O18")
@pytest.mark.proves("schedule:ve", "parameterization:edm")
def test_the_exploding_path_and_its_boundary_equal_the_reference() -> None:
    c, own = case("path_edm"), schedule("ve")
    largest, sigma, r = c.config["sigma_max"], c["sigma"], c["r"] * c.config["sigma_max"]
    assert_close(c["t"] * largest, sigma, **CLOSE)  # its time is a share of the largest noise level
    point, jump = own.at(sigma), own.jump(sigma, r)
    assert_close(point.alpha, c["a"], **CLOSE)
    assert_close(point.sigma, c["b"], **CLOSE)
    assert_close(point.d_alpha, c["da"].expand_as(sigma), **CLOSE)
    assert_close(point.d_sigma * largest, c["db"].expand_as(sigma), **CLOSE)
    assert_close(jump.keep, c["abar_ve"], **CLOSE)  # defect D13: the reference's own coefficients ignore r
    assert_close(jump.move, c["bbar_ve"] * largest, **CLOSE)
    boundary = Edm(sigma_data=c.config["sigma_data"], sigma_min=c.config["sigma_min"])
    for landing in (0 * sigma, r):
        assert_close(boundary.jump(own, sigma, landing).keep, c["c_skip"], **CLOSE)
    assert_close(boundary.output_scale(sigma, own), c["c_out"], **CLOSE)
    assert_close(boundary.input_scale(sigma, own), c["c_in"], **CLOSE)


@pytest.mark.oracle("O18")
@pytest.mark.proves("first_step:ddim", "first_step:euler")
@pytest.mark.parametrize("name", ["linear", "cosine01"])
def test_ddim_and_euler_steps_equal_the_reference(name: str) -> None:
    c, own = case(f"solver_{name}"), schedule(name)
    rows = Rows(x=c["z"], v=c["v"], r=c["r"], s=c["r"], t=c["t"], y=None, ladder_bottom=None, null=0)
    target = FlowMap(lambda *_: c["v"], Parameterization.model_validate("u"), own)  # type: ignore[arg-type]
    for solver, key in (("ddim", "ddim_v"), ("euler", "euler_v")):
        x_s, mean = FirstStep.model_validate(solver).step(target, rows)
        assert_close(x_s, c[key], **CLOSE)
        assert_close(c["z"] + (c["r"] - c["t"])[:, None, None, None] * mean, c[key], **CLOSE)


@pytest.mark.oracle("O18")
@pytest.mark.proves("time_sampler:esc_gradual")
@pytest.mark.parametrize("c", cases("time_sampler", group="esc_loss"), ids=str)
def test_gradual_times_equal_the_reference(c: Case) -> None:
    z, base = c["draw_time"], c.config["base"]
    candidates = torch.sigmoid(c.config["time_mu"] + c.config["time_sigma"] * z) if base == "logit_normal" else z
    numbers = Recorded(time__zero=c["draw_r_zero_uniform"], time__equal=c["draw_r_equals_t_uniform"])
    for i, fraction in enumerate(c["training_fraction"].tolist()):
        sampler = EscGradual(p_eq=c.config["p_r_equals_t"], zero_steps=10**6)
        step = round(fraction * 10**6)
        assert sampler.p_zero(step) == pytest.approx(float(c["p_fix0"][i]), abs=2e-6)
        times = sampler.released(candidates[:, 0], candidates[:, 1], numbers, step)
        assert_close(times.r, c["r"][i], **CLOSE)
        assert_close(times.t, c["t"], **CLOSE)


@pytest.mark.oracle("O18")
@pytest.mark.proves("time_sampler:ln_minmax", "time_sampler:ln_indep")
@pytest.mark.parametrize("c", cases("time_sampler", group="pmf_meanflow"), ids=str)
def test_py_meanflow_times_equal_the_reference(c: Case) -> None:
    numbers = Recorded(time__t=c["draw_time_t"], time__r=c["draw_time_r"], time__equal=c["draw_r_equals_t_uniform"])
    keys = ("mu_t", "sd_t", "mu_r", "sd_r") if c.config["sampler"] == "ln_indep" else ("mu_t", "sd_t")
    names = keys if c.config["sampler"] == "ln_indep" else ("mu", "sd")
    settings = {ours: c.config[theirs] for ours, theirs in zip(names, keys, strict=True)}
    sampler = TimeSampler.model_validate({"name": c.config["sampler"], "p_eq": c.config["p_r_equals_t"], **settings})
    times = draw(sampler, len(c["t"]), numbers)
    assert_close(times.t, c["t"], **CLOSE)
    assert_close(times.r, c["r"], **CLOSE)


def draw(sampler: TimeSampler, n: int, numbers: Draws, path: str = "linear", noise_std: float = 1.0) -> TimeSample:
    return sampler.sample(n, numbers, schedule=schedule(path), noise_std=noise_std, step=0, total_steps=1)


@pytest.mark.oracle("O18")
@pytest.mark.proves("time_sampler:dyadic")
@pytest.mark.parametrize("name", ["scd_times_B64_M128", "scd_times_B28_M128", "scd_times_B32_M16"])
def test_dyadic_times_equal_the_reference(name: str) -> None:
    c = case(name)
    sampler = TimeSampler.model_validate(
        {"name": "dyadic", "M": c.config["M"], "bootstrap": c.config["bootstrap_fraction"]}
    )
    times = draw(sampler, c.config["B"], Recorded(time__t=c["draw_bootstrap_uniform"], time__fm=c["draw_fm_step"] - 1))
    assert torch.equal(times.r, c["r"])
    assert torch.equal(times.s, c["s"])
    assert torch.equal(times.t, c["t"])


def test_too_few_bootstrap_rows_are_refused_instead_of_making_every_jump_1() -> None:
    c = case("scd_times_B16_M128")  # defect D18
    sampler = TimeSampler.model_validate({"name": "dyadic", "M": 128, "bootstrap": c.config["bootstrap_fraction"]})
    jumps = (c.plain("t") - c.plain("r"))[: c.config["bootstrap_rows"]]
    assert torch.equal(jumps, torch.ones_like(jumps))
    assert sampler.batch_problem(16) is not None
    assert sampler.batch_problem(28) is None


@pytest.mark.oracle("O18")
@pytest.mark.proves("time_sampler:imm_eta")
def test_grouped_times_equal_the_mended_reference() -> None:
    c = case("imm_times")
    t, r = c["t"], c["r"]
    without_gap = ImmEta(k=c.config["gamma"], gap=0.0).intermediate_time(r, t, schedule("linear"))
    assert_close(without_gap, c["s"], rtol=1e-9, atol=1e-12)
    with_gap = ImmEta(k=c.config["gamma"]).intermediate_time(r, t, schedule("linear"))
    assert_close(with_gap, c["s_with_gap"], rtol=1e-9, atol=1e-12)
    assert int((c.plain("s") < r).sum()) == 18  # defect D8: the reference steps below the landing time
    assert bool((without_gap >= r).all())


@pytest.mark.oracle("O18")
@pytest.mark.proves("weighting:imm")
@pytest.mark.parametrize(("key", "a", "b"), [("outer_weight_a2_b4", 2, 4.0), ("outer_weight_a1_b5", 1, 5.0)])
def test_imm_weights_equal_the_reference(key: str, a: int, b: float) -> None:
    c = case("imm_weights")
    assert_close(Imm(a=a, b=b).weight(schedule("linear").at(c["t"])), c[key], rtol=1e-12, atol=1e-300)


@pytest.mark.oracle("O18")
@pytest.mark.proves("metric:mmd_laplace")
def test_the_imm_bandwidth_equals_the_reference() -> None:
    c = case("imm_weights")
    reach = (c["t"] - c["r"]) * c.config["sigma_data"]
    zero, one = torch.zeros(len(reach), 1, 1, dtype=torch.float64), torch.ones(len(reach), 1, 1, dtype=torch.float64)
    kernel = MmdLaplace().kernel(zero, one, 1 / (reach + 1e-6))[:, 0, 0]
    assert_close(kernel, torch.exp(-c["kernel_weight"]), **CLOSE)


@pytest.mark.oracle("O9", "O18")
@pytest.mark.proves("velocity:plugin")
def test_plugin_velocities_and_weights_equal_the_reference() -> None:
    c = case("esc_plugin_velocity")
    velocity, weights = plugin_velocity(plugin_state(c["images"], c["noise"], c["t"]), torch.arange(16))
    assert_close(velocity, c["plugin_velocity"], rtol=1e-10, atol=1e-11)
    assert_close(weights, c["weights_own"], rtol=1e-10, atol=1e-12)
    assert_close(1 / weights.square().sum(1), c["ess_own"], rtol=1e-10, atol=1e-12)


def plugin_state(x0: Tensor, noise: Tensor, t: Tensor) -> State:
    own = schedule("linear")
    x, v = own.interpolate(x0, noise, t)
    times = TimeSample(r=t, s=t, t=t, fm=torch.ones_like(t, dtype=torch.bool))
    return State(own, 1.0, x0, noise, x, v, times, None, None, 0)


@pytest.mark.oracle("O18")
@pytest.mark.proves("time_sampler:ct_progressive")
@pytest.mark.parametrize("n", [5, 18, 40])
def test_the_noise_grid_equals_openai(n: int) -> None:
    grid = case("cm_tables")[f"karras_sigmas_n{n}"]
    like = torch.empty(0, dtype=torch.float64)
    assert_close(karras_grid(n, 0.002, 80.0, 7.0, like), grid[:-1], **CLOSE)


@pytest.mark.oracle("O18", "O20")
@pytest.mark.proves("time_sampler:ct_progressive", "target_network:ct_adaptive")
def test_the_grid_size_and_the_target_decay_follow_openai() -> None:
    for mode, mu0, s0, s1, total, step, decay, levels in case("cm_ema_scales")["table"].tolist():
        assert ct_scale(int(step), int(total), int(s0), int(s1)) + 1 == levels
        if mode == 0:
            own = CtAdaptive(mu0=mu0, s0=int(s0), s1=int(s1)).decay(int(step), int(total))
            assert own == pytest.approx(decay, rel=1e-12)


def test_the_target_decay_uses_its_own_number_of_intervals() -> None:
    assert CtAdaptive(mu0=0.9, s0=4, s1=50).decay(0, 100) == pytest.approx(0.9 ** (4 / 3))  # the table has s0 = 2 only


@pytest.mark.oracle("O18")
@pytest.mark.proves("time_sampler:ict")
def test_the_grid_of_improved_consistency_training_equals_the_reference() -> None:
    total = case("ict_schedules").config["total_steps"]
    for step, levels, ct_levels, _ in case("ict_schedules")["table"].tolist():
        assert ict_scale(int(step), total, 10, 1280) + 1 == levels
        assert ct_scale(int(step), total, 2, 150) + 1 == ct_levels


@pytest.mark.oracle("O18")
@pytest.mark.proves("time_sampler:ict")
def test_noise_levels_are_mapped_to_the_linear_path_by_equal_log_snr() -> None:
    c = case("ct_linear_l2_diff_sampler")  # defect D12: the reference never leaves [.4989, .5]
    sampler = Ict(s0=63, s1=63, mu=c.config["time_mu"], sd=c.config["time_sigma"])
    assert_close(sampler.pdf(c["sigma_grid"]), c["pdf"], rtol=1e-10, atol=1e-12)
    cdf = torch.cat([torch.zeros(1, dtype=torch.float64), c["pdf"].flip(0).cumsum(0)])
    middle = ((cdf[:-1] + cdf[1:]) / 2)[62 - c["draw_index"]]  # the recorded grid descends, ours ascends
    times = draw(sampler, len(middle), Recorded(time__index=middle))
    assert_close(times.t, c["t"], rtol=1e-10, atol=1e-12)
    assert_close(times.s, c["s"], rtol=1e-10, atol=1e-12)
    assert float(c.plain("t").max()) <= 0.5
