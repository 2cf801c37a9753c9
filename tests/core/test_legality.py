"""Every constraint refuses what it is there for, says why, and names a nearest choice that is legal."""

from __future__ import annotations

from typing import Any

import pytest
from partial_trials import partial_trial

from ablate_core.legality import Problem, check, check_data_std
from ablate_core.objective import Objective


def problems(objective: Any, **more: Any) -> list[Problem]:
    return check(partial_trial(objective, **more))


REFUSED = [
    ("C1", {"name": "meanflow", "time_sampler": "dyadic"}, {}),
    ("C1", {"name": "meanflow", "time_sampler": "logit_normal"}, {}),
    ("C1", {"name": "fm", "time_sampler": "ln_minmax"}, {}),
    ("C1", "meanflow", {"jvp_safe": False}),
    ("C1", {"name": "meanflow", "velocity": "network", "limit": "lagrangian", "target_network": "ema"}, {}),
    ("C1", {"name": "scd", "velocity": "network"}, {}),
    ("C1", {"name": "fm", "velocity": "network"}, {}),
    ("C1", {"name": "fm", "time_sampler": "tvm"}, {}),
    ("C2", {"name": "ct", "time_sampler": "alpha_ratio", "target_network": "stop_gradient"}, {}),
    ("C2", {"name": "ct", "second_step": "identity"}, {}),
    ("C2", {"name": "ct", "time_sampler": "ln_minmax", "target_network": "stop_gradient"}, {}),
    ("C2", {"name": "ct", "second_step": "none"}, {}),
    ("C2", {"name": "meanflow", "first_step": "ddim"}, {}),
    ("C2", {"name": "meanflow", "target_network": "none"}, {}),
    ("C2", {"name": "meanflow", "weighting": "inv_dt"}, {}),
    ("C3", {"name": "ct", "parameterization": "edm"}, {"path": "linear"}),
    ("C3", {"name": "meanflow", "parameterization": "edm"}, {"path": "ve"}),
    ("C3", {"name": "imm", "parameterization": "edm"}, {"path": "ve"}),
    ("C3", {"name": "fm", "parameterization": "edm"}, {"path": "ve"}),
    ("C4", {"name": "ct", "first_step": "network"}, {}),
    ("C4", {"name": "sct", "limit": "lagrangian", "tangent": "none", "target_network": "ema"}, {}),
    ("C4", "meanflow", {"sees_landing_time": False}),
    ("C2", {"name": "ict", "second_step": "identity"}, {"path": "ve"}),
    ("C2", {"name": "alphaflow", "limit": {"name": "discrete", "compare": "velocities"}}, {}),
    ("C2", {"name": "alphaflow", "weighting": "inv_dt"}, {}),
    ("C2", {"name": "meanflow", "weighting": "inv_ratio"}, {}),
    ("C3", "ict", {"path": "linear"}),
    ("C3", {"name": "splitmeanflow", "parameterization": "edm"}, {"path": "ve"}),
    ("C3", {"name": "sct_linear", "parameterization": "edm"}, {"path": "ve"}),
    ("C4", "ct", {"nfe": 2, "sampler": "pushforward"}),
    ("C4", "meanflow", {"sees_landing_time": False}),
    ("C6", {"name": "imm", "weighting": "cauchy_lv"}, {}),
    ("C6", "imm", {"batch_size": 255}),
    ("C6", {"name": "ct", "metric": "mmd_laplace"}, {}),
    ("C6", {"name": "meanflow", "metric": "mmd_laplace"}, {}),
    ("C6", {"name": "imm", "weighting": "variational"}, {}),
    ("C6", {"name": "scd", "metric": "mmd_laplace", "limit": {"compare": "states"}}, {}),
    ("C7", "esc", {"batch_size": 1}),
    ("C7", "esc", {"coupled": True}),
    ("C7", "esc", {"coupled": True}),
    ("C10", {"name": "meanflow", "guidance": "omega_kappa", "label_dropout": 0.0}, {}),
    ("C10", {"name": "meanflow", "guidance": "omega_kappa", "time_sampler": {"p_eq": 0.0}}, {}),
    ("C10", {"name": "meanflow", "guidance": "omega_kappa"}, {"guidance": 2.0}),
    ("C10", {"name": "meanflow", "guidance": "bootstrap"}, {}),
    ("C10", {"name": "meanflow", "label_dropout": 0.0}, {"guidance": 2.0}),
    ("C10", {"name": "meanflow", "guidance": "ct_cfg"}, {}),
    ("C10", {"name": "meanflow", "guidance": {"name": "tvm"}}, {"guidance": 0.5}),
    ("C10", {"name": "meanflow", "velocity": "network", "time_sampler": {"p_eq": 0.0}}, {}),
    ("C11", {"name": "meanflow", "guidance": "omega_kappa"}, {"classes": 0}),
    ("C11", "meanflow", {"classes": 0, "guidance": 2.0}),
    ("C12", "sct", {"accepts_log_variance": False}),
    ("C12", "dmf", {"accepts_log_variance": False}),
    ("C15", {"name": "ct", "tangent": {"name": "shaped", "warmup_steps": 10}}, {}),
    ("C15", {"name": "sct", "tangent": {"warmup": "rcm"}}, {"path": "linear"}),
    ("C15", {"name": "meanflow", "tangent": {"name": "shaped", "warmup": "rcm"}}, {"path": "cosine01"}),
    ("C16", "scd", {"batch_size": 16}),
    ("C16", "scd", {"nfe": 3}),
    ("C16", "scd", {"nfe": 256}),
    ("C16", "scd", {"path": "cosine01"}),
    ("C17", "meanflow", {"path": "trig"}),
    ("C17", "meanflow", {"path": "ve"}),
    ("C17", {"name": "sct", "parameterization": "trig_F"}, {"path": "linear"}),
    ("C17", {"name": "sct", "parameterization": "x0"}, {"path": "trig"}),
    ("C20", {"name": "meanflow", "limit": "lagrangian"}, {}),
    ("C21", {"name": "esc", "batching": "class_consistent"}, {"classes": 0}),
    ("C25", {"name": "sct", "parameterization": {"sigma_data": 0.5}}, {"known_std": 1.0}),
    ("C28", {"name": "meanflow", "parameterization": "uv_dual"}, {"accepts_velocity_head": False}),
    ("C28", {"name": "meanflow", "guidance": "omega_conditioned"}, {"accepts_guidance": False}),
    ("C28", {"name": "meanflow", "parameterization": "scaled_u"}, {}),
    ("C28", {"name": "meanflow", "weighting": "inv_guidance"}, {}),
    ("C28", {"name": "meanflow", "parameterization": "uv_dual", "limit": "lagrangian", "target_network": "ema"}, {}),
]


@pytest.mark.parametrize(("code", "objective", "more"), REFUSED, ids=lambda v: str(v))
def test_an_illegal_combination_is_refused_with_reason_and_nearest_choice(
    code: str, objective: Any, more: dict[str, Any]
) -> None:
    found = [problem for problem in problems(objective, **more) if problem.level == "error"]
    assert code in {problem.code for problem in found}
    for problem in found:
        assert problem.nearest, problem
        assert ":" in problem.nearest
        assert "\n" not in str(problem)


WARNED = [
    ("C6", {"name": "imm", "metric": "l2_mean"}, {}),
    ("C8", {"name": "esc", "velocity": {"same_class": False}}, {}),
    ("C9", "esc", {"dimension": 3072}),
    ("C9", "esc", {"dimension": 3072}),
    ("C13", "esc", {}),
    ("C13", {"name": "dmf", "metric": "adaptive"}, {}),
    ("C14", {"name": "sct", "metric": "adaptive"}, {}),
    ("C19", {"name": "ct", "first_step": "euler"}, {"path": "cosine01"}),
    ("C22", "meanflow", {"precision": "bf16"}),
    ("C23", {"name": "meanflow", "parameterization": {"name": "x0", "clip": 1e-3}}, {}),
    ("C22", "meanflow", {"precision": "bf16"}),
    ("C23", {"name": "pmf", "parameterization": {"clip": 0.001}}, {}),
    ("C25", "ct", {"known_std": 0.5}),
    ("C26", {"name": "ct", "time_sampler": {"s1": 50}}, {}),
    ("C26", {"name": "meanflow", "target_network": "ct_adaptive"}, {}),
    ("C27", "esc", {"steps": 5000}),
    ("C27", "sct", {"steps": 5000}),
]


@pytest.mark.parametrize(("code", "objective", "more"), WARNED, ids=lambda v: str(v))
def test_an_odd_combination_is_warned_about_and_allowed(code: str, objective: Any, more: dict[str, Any]) -> None:
    found = problems(objective, **more)
    assert code in {problem.code for problem in found if problem.level == "warning"}
    assert not [problem for problem in found if problem.level == "error"]


@pytest.mark.parametrize(
    ("code", "objective", "more"),
    [
        ("C8", "esc", {}),
        ("C8", {"name": "meanflow", "velocity": "plugin", "batching": "class_consistent"}, {}),
        ("C8", {"name": "meanflow", "velocity": "plugin"}, {"classes": 0}),
        ("C13", {"name": "esc", "metric": {"p": 0.75}}, {}),
        ("C2", {"name": "alphaflow", "weighting": "inv_ratio"}, {}),
        ("C2", {"name": "alphaflow", "time_sampler": {"shape": "constant", "alpha": 0.5}}, {}),
        ("C3", "ict", {"path": "ve"}),
        ("C15", {"name": "sct", "tangent": {"warmup": "rcm"}}, {"path": "cosine01"}),
        ("C17", "ict", {"path": "ve"}),
        ("C20", "tvm", {}),
        ("C22", {"name": "meanflow", "limit": {"jvp_backend": "finite_diff"}}, {"precision": "bf16"}),
        ("C28", {"name": "tvm", "weighting": "inv_guidance", "guidance": "tvm"}, {}),
        ("C4", "ct", {"nfe": 2, "sampler": "restart"}),
        ("C4", "ct", {"nfe": 1, "sampler": "pushforward"}),
        ("C4", "meanflow", {"nfe": 4, "sampler": "pushforward"}),
        ("C16", "scd", {"nfe": 4, "batch_size": 28}),
        ("C1", {"name": "meanflow", "limit": {"jvp_backend": "finite_diff"}}, {"jvp_safe": False}),
        ("C1", {"name": "fm", "time_sampler": {"name": "ln_minmax", "p_eq": 1.0}}, {}),
        ("C11", {"name": "meanflow", "guidance": "omega_kappa"}, {"classes": None}),
        ("C26", {"name": "ct", "time_sampler": {"s1": 50}, "target_network": {"s1": 50}}, {}),
        ("C27", "esc", {}),
        ("C1", {"name": "scd", "velocity": "network", "first_step": "euler"}, {}),
        ("C2", {"name": "ct", "time_sampler": "alpha_ratio", "limit": "annealed", "target_network": "ema"}, {}),
        ("C3", {"name": "ct", "parameterization": "edm"}, {"path": "ve"}),
        ("C4", {"name": "ct", "first_step": "network", "time_sampler": "lambda_split", "target_network": "ema"}, {}),
        ("C9", "esc", {"dimension": 2}),
        ("C17", "sct", {"path": "trig"}),
        ("C17", "ct", {"path": "ve"}),
        ("C20", {"name": "meanflow", "limit": "lagrangian", "target_network": "ema"}, {}),
        ("C23", {"name": "meanflow", "parameterization": "x0"}, {}),
        ("C28", {"name": "meanflow", "parameterization": "scaled_u", "guidance": "tvm"}, {}),
    ],
    ids=lambda v: str(v),
)
def test_the_nearest_legal_neighbour_is_let_through(code: str, objective: Any, more: dict[str, Any]) -> None:
    assert code not in {problem.code for problem in problems(objective, **more)}


@pytest.mark.parametrize("path", ["linear", "cosine01"])
@pytest.mark.parametrize("name", ["ct", "sct", "imm", "esc", "meanflow", "fm", "sct_linear"])
def test_these_methods_run_on_both_paths(name: str, path: str) -> None:
    assert not [problem for problem in problems(name, path=path) if problem.level == "error"]


def test_errors_come_before_warnings_and_a_legal_config_has_neither() -> None:
    levels = [problem.level for problem in problems("esc", batch_size=1)]
    assert levels == sorted(levels)
    assert levels[0] == "error"
    assert problems("meanflow") == []


@pytest.mark.parametrize(
    "field",
    [
        {"metric": {"c": 0}},
        {"metric": {"p": -1}},
        {"metric": {"name": "adaptive_sq", "c": 0}},
        {"metric": {"name": "adaptive_sq", "p": -1}},
        {"metric": {"name": "pseudo_huber", "factor": 0}},
        {"metric": {"name": "l2_norm", "c": 0}},
        {"weighting": {"name": "cauchy_lv", "c": 0}},
        {"weighting": {"name": "min_snr", "gamma": 0}},
        {"weighting": {"name": "snr", "floor": 0}},
        {"tangent": {"name": "shaped", "c": 0}},
        {"guidance": {"name": "omega_kappa", "kappa": 1.0}},
    ],
    ids=str,
)
def test_constants_outside_their_range_are_refused_by_the_fields(field: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="Input should be"):  # C18 and the ranges of C10
        Objective.model_validate({"name": "meanflow", **field})


def test_the_standard_deviation_that_a_scaling_claims_must_be_that_of_the_data() -> None:
    sct = Objective.model_validate({"name": "sct", "parameterization": {"sigma_data": 0.5}})
    assert check_data_std(sct, 0.52) is None
    problem = check_data_std(sct, 1.0)  # defect D15
    assert problem is not None
    assert (problem.code, problem.level) == ("C25", "error")
    assert problem.nearest == "objective.parameterization.sigma_data: 1"
    mild = check_data_std(Objective.model_validate("ct"), 0.5)
    assert mild is not None
    assert mild.level == "warning"
    assert check_data_std(Objective.model_validate("meanflow"), 3.0) is None
