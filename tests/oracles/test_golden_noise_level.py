"""Methods on noise levels (consistency training, iCT, ECT) and IMM's preconditioners equal public references (O18).

Networks of this family are told ln(sigma) / 4, which the path `ve` does by itself, and no landing time.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from golden_cases import Case, GoldenNetwork, Recorded, case, cases
from test_golden_losses import GivenTimes, same_gradients
from torch import Tensor
from torch.testing import assert_close

from ablate_core.flow_map import FlowMap
from ablate_core.objective import Objective
from ablate_core.parameterizations import Parameterization
from ablate_core.parameterizations.edm import Edm
from ablate_core.schedules import Schedule
from ablate_core.schedules.base import expand
from ablate_core.time_samplers.base import TimeSample
from ablate_core.time_samplers.ect import Ect
from ablate_core.time_samplers.ict import Ict
from ablate_core.time_samplers.noise_grid import ict_scale, karras_grid
from ablate_core.weightings.snr import Snr

CLOSE = {"rtol": 1e-10, "atol": 1e-12}
VE = Schedule.model_validate("ve")


class NoLanding(GoldenNetwork):
    """The golden network with r = 0, wherever the map lands."""

    def forward(self, x: Tensor, r: Tensor, t: Tensor, y: Tensor | None, g: Tensor | None = None) -> Tensor:
        return super().forward(x, torch.zeros_like(r), t, y)


class Unscaled(NoLanding):
    """Takes c_in back, for a reference that has none; sigma = exp(4 t)."""

    def forward(self, x: Tensor, r: Tensor, t: Tensor, y: Tensor | None, g: Tensor | None = None) -> Tensor:
        scale = torch.sqrt(torch.exp(8 * t) + 0.25)
        return super().forward(expand(scale, x) * x, r, t, y)


class ShareOfLargest(NoLanding):
    """Told sigma / 80, as the EDM path of the ESC code does (defect D30)."""

    def forward(self, x: Tensor, r: Tensor, t: Tensor, y: Tensor | None, g: Tensor | None = None) -> Tensor:
        return super().forward(x, r, torch.exp(4 * t) / 80, y)


def edm(sigma_min: float = 0.002) -> dict[str, Any]:
    return {"name": "edm", "sigma_data": 0.5, "sigma_min": sigma_min}


def at_levels(settings: dict[str, Any], sigma_t: Tensor, sigma_s: Tensor) -> Objective:
    """An objective at given noise levels."""
    objective = Objective.model_validate({**settings, "label_dropout": 0.0})
    fm = torch.zeros(len(sigma_t), dtype=torch.bool)
    times = GivenTimes(TimeSample(r=torch.zeros_like(sigma_t), s=sigma_s, t=sigma_t, fm=fm))
    return objective.model_copy(update={"time_sampler": times})


def agrees(
    c: Case, objective: Objective, kind: type[GoldenNetwork], *, labels: bool, loss_key: str = "loss", **close: float
) -> None:
    """Assert equality of loss, target and gradients."""
    close = close or CLOSE
    batch, noise = c.batch(labels=labels)
    net, target = c.network(kind=kind), c.network("target_net", kind)
    numbers = Recorded(noise=noise, dropout__label=torch.ones(len(noise)))
    loss = objective.loss(net, target, VE, batch, numbers, 0, 1).per_sample
    assert_close(loss.detach(), c[loss_key], **close)
    loss.sum().backward()
    wanted = c.gradients("grad")
    if "rtol" in close and close["rtol"] < 1e-9:
        same_gradients(net, wanted)
        return
    for name, gradient in wanted.items():
        own = net.get_parameter(name).grad
        own = torch.zeros_like(gradient) if own is None else own
        assert_close(own, gradient, rtol=close["rtol"], atol=close["rtol"] * float(gradient.abs().max()) + 1e-15)


def two_step_target(c: Case, objective: Objective, kind: type[GoldenNetwork], labels: bool) -> Tensor:
    batch, noise = c.batch(labels=labels)
    numbers = Recorded(noise=noise, dropout__label=torch.ones(len(noise)))
    state = objective.state(VE, batch, numbers, 0, 1)
    target = FlowMap(c.network("target_net", kind), objective.parameterization, VE)
    return objective.limit.regress(objective, target, target, state, 0).target


# --- openai/consistency_models ---


@pytest.mark.oracle("O18")
@pytest.mark.proves("parameterization:edm", "metric:l1_mean", "metric:l2_mean")
@pytest.mark.parametrize("name", ["cm_l2_karras_diff_N18", "cm_l1_uniform_same_N40"])
def test_consistency_training_equals_the_original(name: str) -> None:
    c = case(name)
    grid = karras_grid(c.config["N"], 0.002, 80.0, 7.0, c["sigma_t"][:0])
    assert_close(grid[c["draw_index"]], c["sigma_t"], rtol=1e-12, atol=0)
    assert_close(grid[c["draw_index"] + 1], c["sigma_s"], rtol=1e-12, atol=0)
    weighting: Any = {"name": "snr", "kind": "karras", "sigma_data": 0.5} if "karras" in name else "none"
    settings = {"name": "ct", "parameterization": edm(), "metric": c.config["metric"], "weighting": weighting}
    objective = at_levels(settings, c["sigma_t"], c["sigma_s"])
    labels = c.config["labels"]
    assert_close(two_step_target(c, objective, NoLanding, labels), c["x_target"], **CLOSE)
    agrees(c, objective, NoLanding, labels=labels)


@pytest.mark.oracle("O18")
@pytest.mark.proves("parameterization:edm")
def test_the_denoising_loss_and_its_weight_equal_the_original() -> None:
    c = case("cm_edm_denoising")
    sigma, own = c["sigma"], Edm(sigma_data=0.5, sigma_min=0.0)
    batch, noise = c.batch()
    x, _ = VE.interpolate(batch.x0, noise, sigma)
    net = c.network(kind=NoLanding)
    denoised = FlowMap(net, own, VE).jump(x, torch.zeros_like(sigma), sigma, batch.y)
    loss = (denoised - batch.x0).square().flatten(1).mean(1)
    weight = Snr(kind="karras", sigma_data=0.5).weight(sigma)
    assert_close(loss.detach(), c["unweighted_mse"], **CLOSE)
    assert_close(weight, c["weight"], rtol=1e-12, atol=0)
    assert_close((weight * loss).detach(), c["loss"], **CLOSE)
    (weight * loss).sum().backward()
    same_gradients(net, c.gradients("grad"))


@pytest.mark.oracle("O18")
@pytest.mark.proves("weighting:snr")
@pytest.mark.parametrize(
    ("kind", "key"), [("snr", "snr"), ("snr_plus_1", "snr+1"), ("karras", "karras"), ("truncated", "truncated-snr")]
)
def test_weights_in_the_noise_level_equal_the_original(kind: Any, key: str) -> None:
    c = case("cm_tables")
    own = Snr(kind=kind, sigma_data=c.config["sigma_data"])
    assert_close(own.weight(c["sigma"]), c[f"weight_{key}"], rtol=1e-12, atol=0)


@pytest.mark.oracle("O18")
@pytest.mark.proves("parameterization:edm")
@pytest.mark.parametrize(("key", "sigma_min"), [("boundary", 0.002), ("edm", 0.0)])
def test_the_scalings_of_edm_equal_the_original(key: str, sigma_min: float) -> None:
    c = case("cm_tables")
    own, sigma = Edm(sigma_data=0.5, sigma_min=sigma_min), c["sigma"]
    assert_close(own.jump(VE, sigma, 0 * sigma).keep, c[f"{key}_c_skip"], rtol=1e-12, atol=1e-15)
    assert_close(own.output_scale(sigma, VE), c[f"{key}_c_out"], rtol=1e-12, atol=1e-15)
    assert_close(own.input_scale(sigma, VE), c[f"{key}_c_in"], rtol=1e-12, atol=1e-15)


@pytest.mark.proves("parameterization:edm")
def test_the_boundary_of_edm_holds_exactly() -> None:
    own, sigma = Edm(sigma_data=0.5), torch.tensor([0.002], dtype=torch.float64)
    assert own.jump(VE, sigma, sigma).keep.tolist() == [1.0]
    assert own.output_scale(sigma, VE).tolist() == [0.0]


# --- the EDM branch of EDAPINENUT/ExplicitShortCut ---


@pytest.mark.oracle("O18")
@pytest.mark.proves("parameterization:edm", "guidance:ct_cfg", "schedule:ve")
@pytest.mark.parametrize("c", cases("consistency_edm", group="esc_consistency"), ids=str)
def test_consistency_training_equals_the_edm_branch_of_esc_with_its_guidance_mended(c: Case) -> None:
    metric = {"name": c.config["metric"]}
    if metric["name"].startswith("adaptive"):
        metric |= {"p": c.config["adaptive_p"]}
    guidance: Any = {"name": "ct_cfg", "scale": c.config["cfg_omega"]}
    settings = {"name": "ct", "parameterization": edm(), "metric": metric, "guidance": guidance}
    objective = at_levels(settings, c["sigma_t"], c["sigma_s"])
    assert_close(two_step_target(c, objective, ShareOfLargest, True), c["x_target"], **CLOSE)
    agrees(c, objective, ShareOfLargest, labels=True)


def test_the_guided_halves_are_the_right_way_round() -> None:
    c = case("ct_edm_cfg2_diff_N18")  # defect D10: the reference pushes towards class 0
    assert not torch.allclose(c.plain("x_target"), c["x_target"])


# --- iCT: Kinyugo/consistency_models ---


@pytest.mark.oracle("O18")
@pytest.mark.proves("row:ict")
@pytest.mark.parametrize("c", cases("ict"), ids=str)
def test_improved_consistency_training_equals_the_reference_with_the_norm_mended(c: Case) -> None:
    step, total = c.config["step"], c.config["total_steps"]
    levels = ict_scale(step, total, 10, 1280) + 1
    assert levels == c.config["N"]
    grid = karras_grid(levels, 0.002, 80.0, 7.0, c["sigma_t"][:0]).flip(0)
    assert_close(grid, c["sigma_grid"], rtol=1e-12, atol=0)
    sampler = Ict(mu=c.config["lognormal_mean"], sd=c.config["lognormal_std"])
    assert_close(sampler.pdf(grid), c["pdf"], rtol=1e-10, atol=1e-12)
    cdf = torch.cat([torch.zeros(1, dtype=torch.float64), sampler.pdf(grid).cumsum(0)])
    middle = ((cdf[:-1] + cdf[1:]) / 2)[c["draw_index"]]
    numbers = Recorded(time__index=middle)
    times = sampler.sample(8, numbers, schedule=VE, noise_std=1.0, step=step, total_steps=total)
    assert_close(times.t, c["sigma_t"], rtol=1e-12, atol=0)
    assert_close(times.s, c["sigma_s"], rtol=1e-12, atol=0)
    objective = at_levels({"name": "ict", "parameterization": edm()}, c["sigma_t"], c["sigma_s"])
    assert_close(two_step_target(c, objective, Unscaled, True), c["x_target"], **CLOSE)
    agrees(c, objective, Unscaled, labels=True)
    assert not torch.allclose(c.plain("loss_reduced"), c["loss"].mean(), rtol=0.1)  # defect D26: element by element


# --- ECT: locuslab/ect ---


def ect(c: Case) -> Ect:
    return Ect(**{name: c.config[name] for name in ("q", "k", "b")})


@pytest.mark.oracle("O18")
@pytest.mark.proves("time_sampler:ect")
def test_easy_consistency_training_lands_where_the_reference_does() -> None:
    c = case("ect_landing_map")
    for i, stage in enumerate(c.config["stages"]):
        assert_close(ect(c).lower(c["sigma_t"], stage), c["sigma_s"][i], rtol=1e-12, atol=1e-14)


@pytest.mark.oracle("O18")
@pytest.mark.proves("row:ect", "metric:l2_norm")
@pytest.mark.parametrize("c", cases("ect"), ids=str)
def test_easy_consistency_training_equals_the_reference(c: Case) -> None:
    sampler, stage = ect(c), c.config["stage"]
    numbers = Recorded(time__t=c["draw_time"])
    times = sampler.sample(8, numbers, schedule=VE, noise_std=1.0, step=stage, total_steps=sampler.stages)
    assert_close(times.t, c["sigma_t"], rtol=1e-12, atol=0)
    assert_close(times.s, c["sigma_s"], rtol=1e-12, atol=1e-14)
    settings = {
        "name": "ect",
        "parameterization": edm(0.0),
        "metric": {"name": "l2_norm", "c": c.config["c"] or 1e-30},  # c = 0 has no gradient at a zero error
    }
    objective = at_levels(settings, c["sigma_t"], c["sigma_s"])
    rough = {"rtol": 2e-5, "atol": 1e-6} if "float32" in c.id else CLOSE  # a float32 cast inside that reference
    assert_close(two_step_target(c, objective, NoLanding, True), c["x_target"], **rough)
    landed = c["sigma_s"] == 0
    clean = c.batch()[0].x0[landed]
    assert_close(two_step_target(c, objective, NoLanding, True)[landed], clean, rtol=1e-13, atol=1e-13)
    agrees(c, objective, NoLanding, labels=True, **rough)


@pytest.mark.oracle("O18")
@pytest.mark.proves("parameterization:edm")
@pytest.mark.parametrize(("key", "sigma_min"), [("denoised_train", 0.0), ("denoised_eval", 0.003)])
def test_the_preconditioner_of_easy_consistency_training_equals_the_reference(key: str, sigma_min: float) -> None:
    c = case("ect_precond")
    c.config["student"] = c.config["net"]
    sigma, (batch, noise) = c["sigma"], c.batch()
    x, _ = VE.interpolate(batch.x0, noise, sigma)
    own = Edm(sigma_data=0.5, sigma_min=sigma_min)
    landed = FlowMap(c.network(kind=NoLanding), own, VE).jump(x, torch.zeros_like(sigma), sigma, batch.y)
    assert_close(landed.detach(), c[key], **CLOSE)


# --- IMM: lumalabs/imm ---


class Stride(GoldenNetwork):
    """Told t - r in place of r."""

    def forward(self, x: Tensor, r: Tensor, t: Tensor, y: Tensor | None, g: Tensor | None = None) -> Tensor:
        return super().forward(x, t - r, t, y)


@pytest.mark.oracle("O18")
@pytest.mark.proves("parameterization:imm_euler_fm", "parameterization:imm_simple_edm")
@pytest.mark.parametrize(
    ("name", "own", "path"),
    [
        ("imm_precond_fm_euler_fm_identity", "imm_euler_fm", "linear"),
        ("imm_precond_fm_euler_fm_stride", "imm_euler_fm", "linear"),
        ("imm_precond_vp_cosine_simple_edm_identity", "imm_simple_edm", "cosine01"),
    ],
)
def test_the_preconditioners_of_imm_equal_the_original(name: str, own: str, path: str) -> None:
    c = case(name)
    c.config["student"] = c.config["net"]
    batch, noise = c.batch()
    parameterization = Parameterization.model_validate({"name": own, "sigma_data": c.config["sigma_data"]})
    kind = Stride if c.config["temb_type"] == "stride" else GoldenNetwork
    flow_map = FlowMap(c.network(kind=kind), parameterization, Schedule.model_validate(path))
    x, r, t = batch.x0 + 0.3 * noise, c["s_landing"], c["t"]
    assert batch.y is not None
    landed = flow_map.jump(x, r, t, batch.y)
    assert_close(landed.detach(), c["x_out"], **CLOSE)
    r, t = torch.full_like(t, c.config["cfg_s"]), torch.full_like(t, c.config["cfg_t"])
    guided, null = flow_map.velocity(x, r, t, batch.y), flow_map.velocity(x, r, t, torch.full_like(batch.y, 5))
    guided = null + c.config["cfg_scale"] * (guided - null)
    assert_close(flow_map.landed(guided, x, r, t).detach(), c["x_out_cfg"], **CLOSE)


@pytest.mark.oracle("O18")
@pytest.mark.proves("parameterization:imm_euler_fm", "parameterization:x0")
def test_the_denoising_output_of_imm_equals_the_original() -> None:
    """The original's `identity`: the input of `imm_euler_fm`, whose output is the denoised sample as in `x0`."""
    c = case("imm_precond_fm_identity_stride")
    c.config["student"] = c.config["net"]
    batch, noise = c.batch()
    schedule = Schedule.model_validate("linear")
    scaled = Parameterization.model_validate({"name": "imm_euler_fm", "sigma_data": c.config["sigma_data"]})
    told = FlowMap(c.network(kind=Stride), scaled, schedule)
    denoising = FlowMap(told.net, Parameterization.model_validate({"name": "x0", "clip": 1e-6}), schedule)
    x, r, t = batch.x0 + 0.3 * noise, c["s_landing"], c["t"]
    assert batch.y is not None
    landed = denoising.landed(denoising.scaled(told.raw(x, r, t, batch.y), x, t), x, r, t)
    assert_close(landed.detach(), c["x_out"], **CLOSE)
    r, t = torch.full_like(t, c.config["cfg_s"]), torch.full_like(t, c.config["cfg_t"])
    guided, null = told.raw(x, r, t, batch.y), told.raw(x, r, t, torch.full_like(batch.y, 5))
    guided = null + c.config["cfg_scale"] * (guided - null)
    assert_close(denoising.landed(denoising.scaled(guided, x, t), x, r, t).detach(), c["x_out_cfg"], **CLOSE)


@pytest.mark.oracle("O18")
@pytest.mark.proves("schedule:{path}")
@pytest.mark.parametrize(("key", "path"), [("fm", "linear"), ("vp_cosine", "cosine01")])
def test_the_noise_to_signal_ratio_of_imm_is_that_of_our_paths(key: str, path: str) -> None:
    c, own = case("imm_eta_tables"), Schedule.model_validate(path)
    ratio = own.ratio(c["t"])
    assert_close(ratio, c[f"{key}_eta"], rtol=1e-10, atol=1e-12)
    assert_close(-2 * torch.log(ratio), c[f"{key}_logsnr"], rtol=1e-9, atol=1e-9)
    assert_close(own.time_of_ratio(ratio), c[f"{key}_eta_inverse"], rtol=1e-10, atol=1e-12)
