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
    ("C2", {"name": "ct", "time_sampler": "ln_minmax", "target_network": "stop_gradient"}, {}),
    ("C2", {"name": "ct", "second_step": "none"}, {}),
    ("C2", {"name": "meanflow", "first_step": "ddim"}, {}),
    ("C2", {"name": "meanflow", "target_network": "none"}, {}),
    ("C2", {"name": "meanflow", "weighting": "inv_dt"}, {}),
    ("C4", "ct", {"nfe": 2, "sampler": "pushforward"}),
    ("C6", "imm", {"batch_size": 255}),
    ("C6", {"name": "ct", "metric": "mmd_laplace"}, {}),
    ("C6", {"name": "meanflow", "metric": "mmd_laplace"}, {}),
    ("C6", {"name": "imm", "weighting": "variational"}, {}),
    ("C7", "esc", {"batch_size": 1}),
    ("C10", {"name": "meanflow", "guidance": "omega_kappa", "label_dropout": 0.0}, {}),
    ("C10", {"name": "meanflow", "guidance": "omega_kappa", "time_sampler": {"p_eq": 0.0}}, {}),
    ("C10", {"name": "meanflow", "guidance": "omega_kappa"}, {"guidance": 2.0}),
    ("C10", {"name": "meanflow", "guidance": "bootstrap"}, {}),
    ("C10", {"name": "meanflow", "label_dropout": 0.0}, {"guidance": 2.0}),
    ("C11", {"name": "meanflow", "guidance": "omega_kappa"}, {"classes": 0}),
    ("C11", "meanflow", {"classes": 0, "guidance": 2.0}),
    ("C12", "sct", {"accepts_log_variance": False}),
    ("C15", {"name": "ct", "tangent": {"name": "shaped", "warmup_steps": 10}}, {}),
    ("C16", "scd", {"batch_size": 16}),
    ("C16", "scd", {"nfe": 3}),
    ("C16", "scd", {"nfe": 256}),
    ("C16", "scd", {"path": "cosine01"}),
    ("C21", {"name": "esc", "batching": "class_consistent"}, {"classes": 0}),
    ("C25", {"name": "sct", "parameterization": {"sigma_data": 0.5}}, {"known_std": 1.0}),
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
    ("C13", "esc", {}),
    ("C14", {"name": "sct", "metric": "adaptive"}, {}),
    ("C19", {"name": "ct", "first_step": "euler"}, {"path": "cosine01"}),
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
        ("C4", "ct", {"nfe": 2, "sampler": "restart"}),
        ("C4", "ct", {"nfe": 1, "sampler": "pushforward"}),
        ("C4", "meanflow", {"nfe": 4, "sampler": "pushforward"}),
        ("C16", "scd", {"nfe": 4, "batch_size": 28}),
        ("C1", {"name": "meanflow", "limit": {"jvp_backend": "finite_diff"}}, {"jvp_safe": False}),
        ("C1", {"name": "fm", "time_sampler": {"name": "ln_minmax", "p_eq": 1.0}}, {}),
        ("C11", {"name": "meanflow", "guidance": "omega_kappa"}, {"classes": None}),
        ("C26", {"name": "ct", "time_sampler": {"s1": 50}, "target_network": {"s1": 50}}, {}),
        ("C27", "esc", {}),
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
    "field", [{"metric": {"c": 0}}, {"metric": {"p": -1}}, {"guidance": {"name": "omega_kappa", "kappa": 1.0}}]
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
