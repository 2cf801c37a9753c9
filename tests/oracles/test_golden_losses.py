"""Losses and gradients equal those of public references for the same weights and random numbers (O18)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from golden_cases import Case, GoldenNetwork, Recorded, TimeInRadians, case, cases
from torch import Tensor
from torch.testing import assert_close

from ablate_core.flow_map import FlowMap
from ablate_core.objective import Objective
from ablate_core.schedules import Schedule
from ablate_core.state import Rows
from ablate_core.time_samplers.base import TimeSample

CLOSE = {"rtol": 1e-10, "atol": 1e-12}


class GivenTimes:
    """Stands in for a time sampler where a reference's times are handed over instead of drawn."""

    label_rows = "all"

    def __init__(self, times: TimeSample) -> None:
        self.times = times

    def sample(self, n: int, draws: Recorded, **_: Any) -> TimeSample:
        return self.times


def path(c: Case) -> Schedule:
    return Schedule.model_validate("cosine01" if c.config["path"].startswith("cosine01") else "linear")


def metric(c: Case) -> dict[str, Any] | str:
    name, p = c.config["metric"], c.config["adaptive_p"]
    if not name.startswith("adaptive"):
        return name
    constant = float(name.split("c=")[1].rstrip(")")) if "c=" in name else 1e-3
    return {"name": name.split(" ")[0], "p": p, "c": constant}


def guidance(c: Case) -> dict[str, Any]:
    t_min, t_max = c.config["window"]
    scales = {"omega": c.config["omega"], "kappa": c.config["kappa"]}
    return {"name": "omega_kappa", **scales, "t_min": t_min, "t_max": t_max}


def pair(c: Case, name: str = "ln_minmax") -> dict[str, Any]:
    return {"name": name, "mu": c.config["time_mu"], "sd": c.config["time_sigma"], "p_eq": c.config["p_r_equals_t"]}


def draws(c: Case, noise: Tensor, **more: Tensor) -> Recorded:
    """The draws every MeanFlow-like case has; a draw the reference does not make decides nothing."""
    n = len(noise)
    numbers = {"noise": noise, "dropout__label": torch.ones(n)}
    if "draw_label_drop_uniform" in c:
        numbers["dropout__label"] = c["draw_label_drop_uniform"]
    if "draw_time" in c:
        time = c["draw_time"]
        numbers |= {"time__t": time[:, 0], "time__r": time[:, 1]} if time.ndim == 2 else {"time__t": time}
    if "draw_r_equals_t_uniform" in c:
        numbers["time__equal"] = c["draw_r_equals_t_uniform"]
    return Recorded(**(numbers | more))


def agrees(
    c: Case, objective: Objective, numbers: Recorded, *, step: int = 0, labels: bool = True, reduced: bool = False
) -> Tensor:
    """Assert equality of loss and gradients; returns the loss."""
    batch, _ = c.batch(labels=labels)
    net, target = c.network(), c.network("target_net")
    loss = objective.loss(net, target, path(c), batch, numbers, step, 10**9).per_sample
    assert loss.shape == (len(batch.x0),)
    wanted = c["loss_own"] if reduced else c["loss"]
    assert_close(loss.detach(), wanted, **CLOSE)
    (loss.mean() if reduced else loss.sum()).backward()
    same_gradients(net, c.gradients("grad_of_reduced_loss" if reduced else "grad"))
    assert all(p.grad is None for p in target.parameters())
    return loss


def same_gradients(net: GoldenNetwork, wanted: dict[str, Tensor], scale: float = 1.0) -> None:
    for name, gradient in wanted.items():
        own = net.get_parameter(name).grad
        own = torch.zeros_like(gradient) if own is None else own * scale
        assert_close(own, gradient, rtol=1e-10, atol=1e-10 * float(gradient.abs().max()) + 1e-15, msg=name)


@pytest.mark.oracle("O18")
@pytest.mark.proves("row:meanflow", "guidance:omega_kappa", "time_sampler:uniform_minmax")
@pytest.mark.parametrize("c", cases("meanflow", group="esc_meanflow") + cases("meanflow", group="zy_meanflow"), ids=str)
def test_meanflow_equals_the_esc_and_zhuyu_references(c: Case) -> None:
    labels = c.config.get("labels", True)
    sampler = pair(c)
    if c.config.get("time_sampler") == "uniform":
        sampler = {"name": "uniform_minmax", "p_eq": c.config["p_r_equals_t"]}
    objective = Objective.model_validate(
        {
            "name": "meanflow",
            "time_sampler": sampler,
            "metric": metric(c),
            "guidance": guidance(c) if labels else "none",
            "label_dropout": c.config["label_dropout"] or 0.0,
        }
    )
    batch, noise = c.batch()
    numbers = draws(c, noise)
    state = objective.state(path(c), batch, numbers, 0, 1)
    assert_close(state.times.t, c["t"], **CLOSE)
    assert_close(state.times.r, c["r"], **CLOSE)
    agrees(c, objective, numbers, labels=labels)


def test_labels_reach_the_network_also_without_dropout() -> None:
    c = case("mf_l2_diff_dropout0")  # defect D19: the reference trains on no label at all
    assert not torch.allclose(c.plain("loss"), c["loss"])


def independent(c: Case) -> dict[str, Any]:
    """py-meanflow's samplers: v0 has one mean for both times, v1 one for each."""
    keys = {"mu_t": "mu_t", "sd_t": "sd_t", "mu_r": "mu_r", "sd_r": "sd_r"}
    if c.config["sampler"] == "ln_minmax":
        keys = {"mu": "mu_t", "sd": "sd_t"}
    settings = {ours: c.config[theirs] for ours, theirs in keys.items()}
    return {"name": c.config["sampler"], "p_eq": c.config["p_r_equals_t"], **settings}


@pytest.mark.oracle("O18")
@pytest.mark.proves("row:meanflow", "time_sampler:ln_indep")
@pytest.mark.parametrize("c", cases("meanflow", group="pmf_meanflow"), ids=str)
def test_meanflow_equals_py_meanflow(c: Case) -> None:
    sampler = independent(c)
    settings = {"name": "meanflow", "time_sampler": sampler, "metric": metric(c), "label_dropout": 0.0}
    _, noise = c.batch()
    numbers = draws(c, noise, time__t=c["draw_time_t"], time__r=c["draw_time_r"])
    agrees(c, Objective.model_validate(settings), numbers, labels=c.config["labels"], reduced=True)


@pytest.mark.oracle("O18")
@pytest.mark.proves("row:meanflow", "guidance:omega_kappa")
@pytest.mark.parametrize("c", cases("meanflow", group="mfjax_meanflow"), ids=str)
def test_meanflow_equals_the_jax_original(c: Case) -> None:
    _, noise = c.batch()
    n = len(noise)
    first = (torch.arange(n) >= int(n * c.config["data_proportion"])).double()  # r = t on the first rows (D16)
    dropped = (~c["label_dropped"]).double()
    settings = {
        "name": "meanflow",
        "time_sampler": {"mu": c.config["time_mu"], "sd": c.config["time_sigma"], "p_eq": 0.5},
        "metric": metric(c),
        "guidance": guidance(c),
    }
    more = {"time__t": c["draw_time_t"], "time__r": c["draw_time_r"], "time__equal": first, "dropout__label": dropped}
    agrees(c, Objective.model_validate(settings), draws(c, noise, **more), reduced=True)


@pytest.mark.oracle("O18")
@pytest.mark.proves("row:esc")
@pytest.mark.parametrize("c", cases("esc"), ids=str)
def test_esc_equals_the_reference_with_the_log_variance_mended(c: Case) -> None:
    step, fraction = c.config["global_step"], c.config["training_fraction"]
    settings = {
        "name": "esc",
        "time_sampler": {**pair(c, "esc_gradual"), "zero_steps": round(step / fraction)},
        "velocity": {"prob": c.config["plugin_prob"], "same_class": False} if c.config["use_plugin"] else "conditional",
        "metric": metric(c),
        "weighting": "variational" if c.config["variational"] else "none",
        "tangent": {"warmup_steps": c.config["warmup_steps"]},
        "guidance": guidance(c),
        "label_dropout": c.config["label_dropout"],
    }
    objective = Objective.model_validate(settings)
    batch, noise = c.batch()
    more = {"time__zero": c["draw_r_zero_uniform"], "dropout__plugin": c["draw_plugin_select_uniform"]}
    numbers = draws(c, noise, **more)
    state = objective.state(path(c), batch, numbers, step, 10**9)
    assert_close(state.times.r, c["r"], **CLOSE)
    if "velocity_used" in c:
        assert_close(objective.velocity.estimate(state, numbers)[0], c["velocity_used"], **CLOSE)
    agrees(c, objective, numbers, step=step)


def test_a_log_variance_of_shape_b_by_1_is_refused() -> None:
    c = case("esc_variational_broadcast_l2")  # defect D1
    objective = Objective.model_validate({"name": "esc", "time_sampler": pair(c), "velocity": "conditional"})
    batch, noise = c.batch()
    net = c.network()
    net.log_variance = lambda t: (net.a * t + net.b)[:, None]  # type: ignore[method-assign]
    with pytest.raises(AssertionError, match="log-variance"):
        objective.loss(net, net, path(c), batch, draws(c, noise), 0, 1)


@pytest.mark.oracle("O18")
@pytest.mark.proves("row:sct_linear")
@pytest.mark.parametrize("c", cases("scm_linear"), ids=str)
def test_sct_on_average_velocities_equals_the_reference(c: Case) -> None:
    settings = {
        "name": "sct_linear",
        "time_sampler": pair(c, "fixed0"),
        "metric": metric(c),
        "weighting": "variational" if c.config["variational"] else "none",
        "tangent": {"warmup_steps": c.config["warmup_steps"]},
        "guidance": guidance(c),
        "label_dropout": c.config["label_dropout"],
    }
    _, noise = c.batch()
    agrees(c, Objective.model_validate(settings), draws(c, noise), step=c.config["global_step"])


def sct(c: Case, **more: Any) -> Objective:
    settings = {
        "name": "sct",
        "parameterization": {"sigma_data": c.config["sigma_data"]},
        "tangent": {"warmup_steps": c.config["warmup_steps"], **more},
    }
    return Objective.model_validate(settings)


@pytest.mark.oracle("O18")
@pytest.mark.proves("row:sct")
@pytest.mark.parametrize("c", cases("scm_cosine"), ids=str)
def test_sct_on_the_cosine_path_equals_the_reference_with_c_out_mended(c: Case) -> None:
    objective = Objective.model_validate(
        {
            **sct(c).model_dump(),
            "time_sampler": {"mu": c.config["time_mu"], "sd": c.config["time_sigma"]},
            "metric": metric(c),
            "weighting": "variational" if c.config["variational"] else "none",
            "label_dropout": c.config["label_dropout"],
        }
    )
    _, noise = c.batch()
    agrees(c, objective, draws(c, noise), step=c.config["global_step"])
    assert not torch.allclose(c.plain("F_target"), c["F_target"])  # the reference forgets c_out in two places (D6)


@pytest.mark.oracle("O18")
@pytest.mark.proves("tangent:shaped", "limit:continuous")
@pytest.mark.parametrize("c", cases("scm_trigflow"), ids=str)
def test_the_tangent_on_cosine01_is_the_one_of_trigflow_per_unit_time(c: Case) -> None:
    objective = sct(c, normalize="none")
    batch, noise = c.batch(labels=False)
    schedule = Schedule.model_validate("cosine01")
    t = c["theta"] / (torch.pi / 2)
    x, v = schedule.interpolate(batch.x0, c.config["noise_scale"] * noise, t)
    rows = Rows(x=x, v=v, r=torch.zeros_like(t), s=t, t=t, y=None, ladder_bottom=None, null=0)
    target = FlowMap(c.network(kind=TimeInRadians), objective.parameterization, schedule)
    with torch.no_grad():
        slope = objective.limit.slope(target, rows)
        g = objective.tangent.target(slope, c.config["step"]) - slope.raw
    assert_close(g / (torch.pi / 2), c["tangent_before_normalisation_own"], **CLOSE)


@pytest.mark.oracle("O18")
@pytest.mark.proves("row:scd", "guidance:bootstrap")
@pytest.mark.parametrize("c", cases("scd", group="esc_scd"), ids=str)
def test_scd_equals_the_reference_with_label_dropout_mended(c: Case) -> None:
    settings = {
        "name": "scd",
        "time_sampler": {"M": c.config["M"], "bootstrap": c.config["bootstrap_fraction"]},
        "limit": {"clamp_state": c.config["clamp"], "clamp_target": c.config["clamp"]},
        "guidance": {"name": "bootstrap", "scale": c.config["omega"]},
        "metric": metric(c),
        "label_dropout": c.config["label_dropout"],
    }
    objective = Objective.model_validate(settings)
    batch, noise = c.batch()
    kept = torch.ones(c.config["bootstrap_rows"], dtype=torch.float64)
    more = {
        "time__t": c["draw_bootstrap_uniform"],
        "time__fm": c["draw_fm_step"] - 1,
        "dropout__label": torch.cat([kept, c["draw_label_drop_uniform"]]),
    }
    numbers = draws(c, noise, **more)
    state = objective.state(path(c), batch, numbers, 0, 1)
    assert torch.equal(state.times.t, c["t"])
    assert torch.equal(state.times.s, c["s"])
    assert torch.equal(state.times.r, c["r"])
    assert torch.equal(state.y, c["labels_used"])  # type: ignore[arg-type]
    assert int(state.times.ladder_bottom.sum()) == c.config["guided_rows"]  # type: ignore[union-attr]
    agrees(c, objective, numbers)


@pytest.mark.oracle("O18")
@pytest.mark.proves("guidance:bootstrap")
@pytest.mark.parametrize("c", cases("scd", group="sm_shortcut_targets"), ids=str)
def test_the_bootstrap_target_equals_that_of_shortcut_models(c: Case) -> None:
    n = c.config["bootstrap_rows"]
    settings = {"name": "scd", "guidance": {"name": "bootstrap", "scale": c.config["cfg_scale"]}}
    objective = Objective.model_validate(settings if c.config["guided_rows"] else "scd")
    bottom = torch.arange(n) < c.config["guided_rows"]
    parts = {name: c[name][:n] for name in ("r", "s", "t")}
    x, y = c["x_t"][:n], c["labels_used"][:n]
    rows = Rows(x=x, v=torch.zeros_like(x), y=y, ladder_bottom=bottom, null=5, **parts)
    target = FlowMap(c.network("target_net"), objective.parameterization, path(c))
    with torch.no_grad():
        aim = objective.limit.two_step_target(objective, objective.guidance.wrap(target, rows), rows)
    assert_close(-aim, c["v_target_native"][:n], **CLOSE)


def imm(c: Case, floor: float, **sampler: Any) -> Objective:
    settings = {
        "name": "imm",
        "parameterization": {"sigma_data": c.config["sigma_data"]},
        "time_sampler": {"group": c.config["group_size"], **sampler},
        "metric": {"floor": floor},
        "label_dropout": c.config.get("label_dropout", 0.0),
    }
    return Objective.model_validate(settings)


@pytest.mark.oracle("O18")
@pytest.mark.proves("row:imm")
@pytest.mark.parametrize("c", cases("imm", group="esc_imm"), ids=str)
def test_imm_equals_the_reference_with_the_kernel_evaluated_per_group(c: Case) -> None:
    objective = imm(c, 1e-4, k=c.config["gamma"], gap=0.0)
    batch, noise = c.batch()
    group, net = c.config["group_size"], c.network()
    numbers = draws(c, noise, time__t=c["draw_t_uniform"], time__r=c["draw_r_uniform"])
    state = objective.state(path(c), batch, numbers, 0, 1)
    for name in ("r", "s", "t"):
        assert_close(getattr(state.times, name), c[name].repeat_interleave(group), rtol=1e-9, atol=1e-9)
    loss = objective.loss(net, c.network("target_net"), path(c), batch, numbers, 0, 1).per_sample
    assert_close(loss.detach(), c["loss"].repeat_interleave(group), rtol=1e-9, atol=1e-15)
    loss.sum().backward()
    same_gradients(net, c.gradients("grad"), 1 / group)
    exact = imm(c, 1e-8, k=c.config["gamma"], gap=0.0)
    loss = exact.loss(net, c.network("target_net"), path(c), batch, numbers, 0, 1).per_sample
    assert_close(loss.detach(), c["loss_distance_floor_1e-8"].repeat_interleave(group), rtol=1e-9, atol=1e-15)


@pytest.mark.oracle("O18")
@pytest.mark.proves("metric:mmd_laplace", "weighting:imm", "parameterization:v_ddim")
@pytest.mark.parametrize("c", cases("imm", group="immr_loss"), ids=str)
def test_imm_equals_the_second_reference(c: Case) -> None:
    group, net = c.config["group_size"], c.network()
    objective = imm(c, 1e-8)
    parameterization = objective.parameterization.model_copy(update={"scale_input": "unit_variance"})
    times = {name: c[name].repeat_interleave(group) for name in ("r", "s", "t")}
    fm = torch.zeros(len(times["t"]), dtype=torch.bool)
    update = {
        "time_sampler": GivenTimes(TimeSample(fm=fm, group=group, **times)),
        "parameterization": parameterization,
        "metric": objective.metric.model_copy(update={"eps": 0.0}),
    }
    objective = objective.model_copy(update=update)
    batch, noise = c.batch()
    loss = objective.loss(net, c.network("target_net"), path(c), batch, draws(c, noise), 0, 1).per_sample
    assert_close(loss.detach(), c["loss"].repeat_interleave(group), rtol=1e-9, atol=1e-15)
    loss.sum().backward()
    same_gradients(net, c.gradients("grad"), 1 / group)


@pytest.mark.oracle("O18")
@pytest.mark.proves("row:ct")
@pytest.mark.parametrize("c", cases("consistency_path"), ids=str)
def test_consistency_training_on_a_path_equals_the_reference_for_given_times(c: Case) -> None:
    settings = {"name": "ct", "metric": metric(c), "label_dropout": 0.0}
    objective = Objective.model_validate(settings)
    times = TimeSample(r=c["r"], s=c.plain("s"), t=c.plain("t"), fm=torch.zeros(len(c["r"]), dtype=torch.bool))
    objective = objective.model_copy(update={"time_sampler": GivenTimes(times)})
    _, noise = c.batch()
    agrees(c, objective, draws(c, noise))
