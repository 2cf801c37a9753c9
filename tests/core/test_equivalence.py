"""Equivalences E1 to E9: what shares a canonical form computes the same, and what nearly does is kept apart."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_cases import random_network
from torch import Tensor

from ablate_core.config import TrialConfig
from ablate_core.equivalence import EQUIVALENCES, canonical, expected
from ablate_core.legality import check
from ablate_core.objective import Batch, Objective
from ablate_core.random import Draws
from ablate_core.schedules import Schedule
from ablate_core.state import jump_rows
from ablate_core.trainer import train

STEPS = (0, 600, 999)


def trial(objective: Any, path: Any = "linear", **parts: Any) -> TrialConfig:
    plain = {
        "architecture": "mlp",
        "data": "digits",
        "train": {"steps": 1000, "batch_size": 64},
        "eval": {"metric": "fd_digits", "samples": 100},
    }
    return TrialConfig.model_validate({"schedule": path, "objective": objective} | plain | parts)


def legal(config: TrialConfig) -> bool:
    return not any(problem.level == "error" for problem in check(config))


def results(config: TrialConfig, step: int) -> list[Tensor]:
    """Loss per sample, every gradient, and a jump as samplers take it."""
    o, schedule = config.objective, config.schedule
    extras = {"guidance_inputs": o.guidance_inputs, "heads": 1 + o.parameterization.needs_velocity_head}
    net, target = (random_network((2, 3), seed=k, **extras) for k in (0, 1))
    g = torch.Generator().manual_seed(0)
    data = Batch(0.5 * torch.randn(64, 2, 3, generator=g, dtype=torch.float64), torch.arange(64) % 5, 5)
    loss = o.loss(net, target, schedule, data, Draws(0, step, dtype=torch.float64), step, 1000)
    loss.per_sample.sum().backward()
    gradients = [torch.zeros(()) if p.grad is None else p.grad for p in net.parameters()]
    t = torch.full((64,), 0.8 * schedule.end, dtype=torch.float64)
    told = None if not o.guidance.inputs else torch.ones(64, o.guidance_inputs, dtype=torch.float64)
    with torch.no_grad():
        jump = o.predict(net, schedule, data.x0, 0.25 * t, t, data.y, told)
    return [loss.per_sample.detach(), *gradients, jump, torch.tensor([o.noise_std, o.start_time(schedule)])]


def same(a: TrialConfig, b: TrialConfig, steps: tuple[int, ...] = STEPS) -> bool:
    pairs = [pair for step in steps for pair in zip(results(a, step), results(b, step), strict=True)]
    return all(torch.equal(x, y) for x, y in pairs)


PARAMETERIZATIONS: list[Any] = [
    "u",
    "v_ddim",
    {"name": "v_ddim", "sigma_data": 0.5},
    {"name": "v_ddim", "scale_input": "unit_variance"},
    "trig_F",
    "imm_euler_fm",
    "imm_simple_edm",
]
TWO_STEPS = {"first_step": "euler", "second_step": "network"}
CONSTANT = {"name": "alpha_ratio", "shape": "constant"}
HOSTS: list[dict[str, Any]] = [
    {"name": "fm"},
    {"name": "meanflow"},
    {"name": "esc"},
    {"name": "sct", "tangent": {"warmup_steps": 100}},
    {"name": "sct_linear"},
    {"name": "scd"},
    {"name": "ct"},
    {"name": "ct", "first_step": "euler"},
    {"name": "ct", "first_step": "euler", "limit": {"compare": "velocities"}},
    {"name": "imm"},
    {"name": "imm", "first_step": "euler"},
    {"name": "meanflow", "guidance": {"name": "mg", "om": 0.6}},
    {"name": "meanflow", "guidance": {"name": "mg", "om": 0.3, "t_min": 0.2, "t_max": 0.7}},
    {"name": "meanflow", "velocity": "network", "guidance": "mg"},
    *(
        {"name": "meanflow", "time_sampler": CONSTANT | {"alpha": alpha}, "limit": "annealed", **TWO_STEPS} | more
        for alpha in (0.0, 0.004, 0.006, 1.0)
        for more in (
            {},
            {"tangent": {"name": "shaped", "warmup_steps": 900}, "weighting": "variational"},
            {"weighting": {"name": "inv_ratio", "power": 1}},
        )
    ),
    {"name": "alphaflow", "time_sampler": {"shape": "constant", "alpha": 0}},
    {"name": "meanflow", "time_sampler": "alpha_ratio", "limit": "annealed", **TWO_STEPS},
]
CASES = [
    (i, own, path)
    for i, own, path in product(range(len(HOSTS)), PARAMETERIZATIONS, ("linear", "cosine01", "trig", "ve"))
    if not (HOSTS[i]["name"] == "esc" and path == "ve")
]


@pytest.mark.oracle("O17")
def test_what_shares_a_canonical_form_computes_the_same_bit_for_bit() -> None:
    """Every combination above: loss, gradients, the jump of samplers, where sampling starts."""
    seen: dict[str, int] = {}
    for i, own, path in CASES:
        config = trial(HOSTS[i] | {"parameterization": own}, path)
        form, rules = canonical(config)
        if not rules or not legal(config):
            continue
        assert legal(form), (HOSTS[i], own, path)
        assert same(config, form), (HOSTS[i], own, path)
        assert canonical(form) == (form, ())
        for rule in rules:
            seen[rule.code] = seen.get(rule.code, 0) + 1
    assert set(seen) == {"E1", "E4", "E7", "E10"}
    assert min(seen.values()) >= 3


POINTS = {
    "data": {"name": "gaussians", "size": 500},
    "architecture": {"name": "mlp", "width": 16, "depth": 1},
    "train": {"steps": 12, "batch_size": 16, "lr": 1e-3, "ema": [0.9]},
    "eval": {"metric": "energy_distance", "samples": 50, "gallery": 0, "nfe": 2, "every": 4},
}
TRAINED: dict[str, dict[str, Any]] = {
    "E1": {"name": "esc", "parameterization": "v_ddim"},
    "E4": {"name": "alphaflow", "time_sampler": {"shape": "constant", "alpha": 0}},
    "E7": {"name": "ct", "parameterization": "u", "first_step": "euler"},
    "E10": {"name": "meanflow", "guidance": {"name": "mg", "om": 0.5}},
}


@pytest.mark.parametrize("code", TRAINED)
def test_a_trained_network_and_its_number_are_those_of_the_canonical_form(code: str, tmp_path: Path) -> None:
    config = trial(TRAINED[code], **POINTS)
    form, rules = canonical(config)
    assert [rule.code for rule in rules] == [code]
    numbers = []
    for name, each in (("config", config), ("form", form)):
        events: list[dict[str, Any]] = []
        assert train(each, tmp_path / name, report=events.append).status == "done"
        numbers.append([(e["step"], e["value"]) for e in events if e["kind"] == "measurement"])
    assert len(numbers[0]) == 3
    assert numbers[0] == numbers[1]


ALPHA = {"limit": "annealed", **TWO_STEPS}
APART = {
    "another unit": (
        {"name": "meanflow", "parameterization": {"name": "v_ddim", "sigma_data": 0.9}},
        "meanflow",
        "linear",
    ),
    "another path": ({"name": "meanflow", "parameterization": "v_ddim"}, "meanflow", "cosine01"),
    "another input": (
        {"name": "meanflow", "parameterization": {"name": "v_ddim", "scale_input": "unit_variance"}},
        "meanflow",
        "linear",
    ),
    "a gap": (
        {"name": "meanflow", "time_sampler": CONSTANT | {"alpha": 0.05}, **ALPHA},
        {"name": "meanflow", "time_sampler": {"name": "ln_minmax", "p_eq": 0.5}},
        "linear",
    ),
    "a gap that closes": (
        {"name": "meanflow", "time_sampler": "alpha_ratio", **ALPHA},
        {"name": "meanflow", "time_sampler": {"name": "ln_minmax", "p_eq": 0.5}},
        "linear",
    ),
    "a curved path": ({"name": "ct", "first_step": "euler"}, "ct", "cosine01"),
    "another weight": (
        {"name": "meanflow", "guidance": {"name": "mg", "om": 0.5}},
        {"name": "meanflow", "guidance": {"name": "omega_kappa", "kappa": 0.4}},
        "linear",
    ),
    "another window": (
        {"name": "meanflow", "guidance": {"name": "mg", "om": 0.5, "t_max": 0.6}},
        {"name": "meanflow", "guidance": {"name": "omega_kappa", "kappa": 0.5}},
        "linear",
    ),
    "another outcome": (  # conditional velocities and equal scales: E9 is no reason to share a network
        {"name": "meanflow", "guidance": {"name": "omega_kappa", "omega": 2.0, "kappa": 0.0}},
        {"name": "meanflow", "guidance": {"name": "omega_kappa", "omega": 1.0, "kappa": 0.5}},
        "linear",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", APART)
def test_what_computes_something_else_has_another_canonical_form(name: str) -> None:
    one, other, path = APART[name]
    a, b = trial(one, path), trial(other, path)
    assert not same(a, b, (0,))
    assert canonical(a)[0].objective.model_dump(exclude={"name"}) != canonical(b)[0].objective.model_dump(
        exclude={"name"}
    )


def test_configs_that_differ_in_two_equivalent_choices_share_a_form_and_name_both_rules() -> None:
    a = trial({"name": "ct", "first_step": "euler"})
    b = trial({"name": "ct", "parameterization": "u"})
    assert canonical(a)[0] == canonical(b)[0]
    assert [rule.code for rule in canonical(a)[1]] == ["E1", "E7"]
    assert canonical(b)[1] == ()


def test_a_config_that_no_rule_touches_is_its_own_form() -> None:
    for name in ("meanflow", "fm", "scd", "esc", "sct_linear"):
        config = trial(name)
        assert canonical(config) == (config, ())
        assert canonical(config)[0] is config


# --- rules without a form: equal configs (E2, E5, E6), one component (E3)


def equal_but_for_the_label(a: Any, b: Any) -> bool:
    return Objective.model_validate(a).model_dump(exclude={"name"}) == Objective.model_validate(b).model_dump(
        exclude={"name"}
    )


@pytest.mark.oracle("O17")
def test_e2_meanflow_that_lands_at_zero_is_sct_linear_by_its_config() -> None:
    shared = {"time_sampler": "fixed0", "metric": "l2_mean", "weighting": "none", "tangent": "none"}
    assert equal_but_for_the_label({"name": "meanflow", **shared}, {"name": "sct_linear", **shared})
    assert same(trial({"name": "meanflow", **shared}), trial({"name": "sct_linear", **shared}))


@pytest.mark.oracle("O17")
@pytest.mark.proves("first_step:ddim", "velocity:conditional")
def test_e3_a_ddim_step_along_the_conditional_velocity_is_renoising_with_the_same_noise() -> None:
    for path in ("linear", "cosine01", "trig"):
        config = trial({"name": "ct", "parameterization": "v_ddim"}, path)
        o, schedule = config.objective, config.schedule
        data = Batch(torch.randn(64, 2, 3, dtype=torch.float64), torch.arange(64) % 5, 5)
        state = o.state(schedule, data, Draws(0, 600, dtype=torch.float64), 600, 1000)
        index, rows = jump_rows(state)
        x_s, _ = o.first_step.step(None, rows) if o.first_step.euler else o.first_step.step(_Map(schedule), rows)  # type: ignore[arg-type]
        renoised, _ = schedule.interpolate(state.x0[index], state.noise[index], rows.s)
        torch.testing.assert_close(x_s, renoised, rtol=0, atol=1e-12)


class _Map:
    """As much of a flow map as a step along a velocity looks at."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule


@pytest.mark.oracle("O17")
@pytest.mark.proves("limit:annealed")
def test_e4_alphaflow_at_alpha_zero_is_meanflow_on_its_times_and_metric() -> None:
    own = {"metric": {"name": "adaptive", "reduce": "mean"}}
    alphaflow = trial({"name": "alphaflow", "time_sampler": {"shape": "constant", "alpha": 0}, **own})
    meanflow = trial({"name": "meanflow", "time_sampler": {"p_eq": 0.5}, **own})
    form, rules = canonical(alphaflow)
    assert [rule.code for rule in rules] == ["E4"]
    assert form.objective.model_dump(exclude={"name"}) == meanflow.objective.model_dump(exclude={"name"})
    assert same(alphaflow, meanflow)


@pytest.mark.oracle("O17")
def test_e5_split_meanflow_on_dyadic_times_is_a_shortcut_model_by_its_config() -> None:
    shared = {"time_sampler": "dyadic", "target_network": "stop_gradient", "limit": {"name": "discrete"}}
    shared["limit"] = {"name": "discrete", "compare": "velocities", "clamp_state": 0.0, "clamp_target": 0.0}
    a, b = {"name": "splitmeanflow", **shared}, {"name": "scd", **shared}
    assert equal_but_for_the_label(a, b)
    assert same(trial(a), trial(b))


@pytest.mark.oracle("O17")
def test_e6_esc_without_its_parts_is_meanflow_by_its_config() -> None:
    off = {"velocity": {"prob": 0}, "time_sampler": {"zero_steps": 0}, "tangent": "none", "weighting": "none"}
    assert equal_but_for_the_label({"name": "esc", **off}, "meanflow")


# --- pairs that are expected to be equal and are trained both


def codes(a: TrialConfig, b: TrialConfig) -> list[tuple[str, str]]:
    assert expected([a, b]) == expected([b, a])
    return [(rule.code, rule.exactness) for rule, _ in expected([a, b])]


@pytest.mark.oracle("O17")
@pytest.mark.proves("first_step:euler")
def test_e7_on_average_velocities_is_equal_up_to_rounding_only() -> None:
    velocities = {"name": "ct", "limit": {"name": "discrete", "compare": "velocities"}}
    a, b = trial(velocities), trial(velocities | {"first_step": "euler"})
    assert canonical(a)[0] != canonical(b)[0]
    assert codes(a, b) == [("E7", "exact arithmetic")]
    assert not same(a, b, (600,))
    for x, y in zip(results(a, 600), results(b, 600), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-9)
    assert codes(trial(velocities, "cosine01"), trial(velocities | {"first_step": "euler"}, "cosine01")) == []
    assert codes(a, trial(velocities | {"first_step": "network"})) == []


def guided(omega: float, kappa: float, **more: Any) -> TrialConfig:
    return trial({"name": "meanflow", "guidance": {"name": "omega_kappa", "omega": omega, "kappa": kappa, **more}})


def test_e9_names_mixtures_of_equal_scale_and_window() -> None:
    assert codes(guided(2.0, 0.0), guided(1.0, 0.5)) == [("E9", "fixed point")]
    assert codes(guided(2.5, 0.0), trial({"name": "meanflow", "guidance": {"name": "mg", "om": 0.6}})) == [
        ("E9", "fixed point")
    ]
    assert codes(guided(2.0, 0.0), guided(1.0, 0.4)) == []
    assert codes(guided(2.0, 0.0), guided(1.0, 0.5, t_max=0.8)) == []
    other = guided(1.0, 0.5)
    assert codes(guided(2.0, 0.0), other.model_copy(update={"train": other.train.model_copy(update={"lr": 1.0})})) == []


def test_expectations_are_groups_and_look_at_training_only() -> None:
    arms = [
        guided(2.0, 0.0),
        trial("meanflow"),
        guided(1.0, 0.5),
        guided(3.0, 0.0),
        guided(0.5, 0.75),
        guided(1.5, 0.5),
    ]
    assert [(rule.code, group) for rule, group in expected(arms)] == [("E9", (0, 2, 4)), ("E9", (3, 5))]
    measured = arms[2].model_copy(update={"eval": arms[2].eval.model_copy(update={"samples": 7}), "seed": 3})
    assert len(expected([arms[0], measured])) == 1
    assert expected([]) == []


@pytest.mark.oracle("O17")
def test_e9_holds_at_the_fixed_point() -> None:
    """Iterating v_g = om v + ka v_g + (1 - om - ka) v_null leads both mixtures to one velocity."""
    v, null = torch.tensor(1.7, dtype=torch.float64), torch.tensor(-0.4, dtype=torch.float64)
    ends = []
    for omega, kappa in ((2.0, 0.0), (1.0, 0.5), (0.2, 0.9)):
        guided_v = v.clone()
        for _ in range(500):
            guided_v = omega * v + kappa * guided_v + (1 - omega - kappa) * null
        ends.append(float(guided_v))
    assert ends == pytest.approx([float(2 * v - null)] * 3)


def test_e8_is_named_where_a_plugin_is_expected_to_do_nothing() -> None:
    small = [trial({"name": "meanflow", "velocity": v}) for v in ("conditional", {"name": "plugin", "prob": 1.0})]
    assert codes(*small) == []  # 64 entries a sample
    data = {"data": {"name": "image_folder", "path": "pictures", "size": 32}, "eval": {"metric": "fid"}}
    large = [
        trial({"name": "meanflow", "velocity": v}, **data) for v in ("conditional", {"name": "plugin", "prob": 1.0})
    ]
    assert codes(*large) == [("E8", "in effect")]


def test_every_equivalence_of_the_design_is_in_the_table() -> None:
    assert {rule.code for rule in EQUIVALENCES} == {f"E{i}" for i in range(1, 11)}
    for rule in EQUIVALENCES:
        assert rule.canonical is None or rule.exactness == "identical"
        assert rule.expects is None or rule.exactness != "identical"
