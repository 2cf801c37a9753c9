"""Which ways of sampling a trained model are refused: C4, C16, C30. The nearest choice that is named is a legal one."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from partial_trials import partial_trial

from ablate_core.legality import Problem, check

FIXED_VELOCITY = {"name": "sct_linear", "time_sampler": {"p_eq": 0.5}}
TOLD = {"name": "meanflow", "guidance": "omega_conditioned"}

REFUSED: list[tuple[str, Any, dict[str, Any]]] = [
    ("C4", "ct", {"nfe": 2, "sampler": "pushforward"}),
    ("C4", "sct", {"nfe": 2, "sampler": "gamma"}),
    ("C4", "sct_linear", {"nfe": 2, "sampler": "gamma", "gamma": 0}),
    ("C4", "ct", {"nfe": 2, "sampler": "euler"}),
    ("C4", "imm", {"nfe": 3, "sampler": "heun"}),
    ("C4", {"name": "meanflow", "time_sampler": {"p_eq": 0.0}}, {"nfe": 2, "sampler": "euler"}),
    ("C16", "scd", {"nfe": 3}),
    ("C16", "scd", {"nfe": 512}),
    ("C16", "scd", {"nfe": 3, "sampler": "restart"}),
    ("C16", "scd", {"nfe": 4, "sampler": "restart"}),
    ("C16", "scd", {"nfe": 2, "sampler": "gamma"}),
    ("C16", "scd", {"nfe": 2, "sampler": "euler"}),
    ("C16", "scd", {"nfe": 1, "sampler": "heun"}),
    ("C16", "scd", {"nfe": 2, "grid": "edm"}),
    ("C16", "scd", {"nfe": 2, "shift": 1.5}),
    ("C16", "scd", {"nfe": 2, "ratios": (2.0,)}),
    ("C30", "fm", {"nfe": 2, "sampler": "heun"}),
    ("C30", "fm", {"nfe": 32, "sampler": "heun"}),
    ("C30", "meanflow", {"gamma": 0.5}),
    ("C30", "meanflow", {"rho": 3.0}),
    ("C30", "meanflow", {"grid": "edm", "shift": 2.0}),
    ("C30", "meanflow", {"nfe": 2, "ratios": (1.0,), "shift": 2.0}),
    ("C30", "meanflow", {"nfe": 2, "ratios": (1.0,), "grid": "edm"}),
    ("C30", "meanflow", {"nfe": 4, "ratios": (1.0, 0.5)}),
    ("C30", "meanflow", {"nfe": 1, "ratios": (1.0,)}),
    ("C30", "meanflow", {"nfe": 9, "sampler": "heun", "ratios": (1.0,)}),
    ("C30", "imm", {"nfe": 2, "ratios": (500.0,)}),
    ("C30", {"name": "imm", "time_sampler": {"t_min": 0.006}}, {"nfe": 2, "ratios": (0.001,)}),
    ("C30", "ct", {"path": "ve", "nfe": 2, "ratios": (80.0,)}),
    ("C30", "meanflow", {"guidance_window": (0.0, 0.5)}),
    ("C30", "meanflow", {"guidance": 2.0, "guidance_window": (0.3, 0.8)}),
    ("C30", "meanflow", {"guidance": 2.0, "nfe": 2, "guidance_window": (0.6, 0.9)}),
    ("C30", TOLD, {"guidance": 2.0, "guidance_window": (0.6, 0.9)}),
    ("C30", {"name": "meanflow", "guidance": "tvm"}, {"guidance": 2.0, "guidance_window": (0.0, 0.5)}),
]

ALLOWED: list[tuple[Any, dict[str, Any]]] = [
    ("ct", {"nfe": 2, "sampler": "restart"}),
    ("ct", {"nfe": 1, "sampler": "pushforward"}),
    ("ct", {"nfe": 2, "sampler": "gamma", "gamma": 1}),
    ("meanflow", {"nfe": 4, "sampler": "pushforward"}),
    ("meanflow", {"nfe": 4, "sampler": "gamma", "gamma": 0.5}),
    ("meanflow", {"nfe": 1, "sampler": "gamma", "gamma": 0.5}),
    ("meanflow", {"nfe": 4, "sampler": "euler", "grid": "edm", "rho": 3.0}),
    (FIXED_VELOCITY, {"nfe": 3, "sampler": "heun"}),
    ("fm", {"nfe": 63, "sampler": "heun", "shift": 3.0}),
    ("fm", {"nfe": 50, "sampler": "euler", "path": "cosine01"}),
    ("scd", {"nfe": 128}),
    ("scd", {"nfe": 2, "sampler": "restart"}),
    ("scd", {"nfe": 4, "path": "linear"}),
    ({"name": "scd", "time_sampler": {"grid": "multiples"}}, {"nfe": 8}),
    ("ct", {"path": "ve", "nfe": 2, "ratios": (0.821,)}),
    ("imm", {"nfe": 3, "ratios": (1.0, 0.2), "sampler": "restart"}),
    ("meanflow", {"guidance": 2.0, "nfe": 2, "guidance_window": (0.3, 0.8)}),
    (TOLD, {"guidance": 2.0, "guidance_window": (0.4, 0.65)}),
    (TOLD, {"guidance": 1.0, "guidance_window": (0.4, 0.65)}),
]


def errors(objective: Any, fields: dict[str, Any]) -> list[Problem]:
    return [problem for problem in check(partial_trial(objective, **fields)) if problem.level == "error"]


@pytest.mark.parametrize(("code", "objective", "fields"), REFUSED, ids=str)
def test_a_way_of_sampling_that_cannot_work_is_refused(code: str, objective: Any, fields: dict[str, Any]) -> None:
    found = errors(objective, fields)
    assert code in {problem.code for problem in found}
    assert all("\n" not in str(problem) and problem.where.startswith("eval.") for problem in found)


@pytest.mark.parametrize(("code", "objective", "fields"), REFUSED, ids=str)
def test_doing_what_the_refusals_say_makes_it_legal(code: str, objective: Any, fields: dict[str, Any]) -> None:
    for _ in range(3):
        found = errors(objective, fields)
        if not found:
            return
        assert found[0].nearest is not None
        ((where, value),) = yaml.safe_load(found[0].nearest).items()
        value = tuple(map(float, value)) if isinstance(value, list) else value
        assert fields.get(where.removeprefix("eval.")) != value
        fields = {**fields, where.removeprefix("eval."): value}
    raise AssertionError(f"still refused: {found}")


@pytest.mark.parametrize(("objective", "fields"), ALLOWED, ids=str)
def test_a_way_of_sampling_that_was_trained_is_let_through(objective: Any, fields: dict[str, Any]) -> None:
    assert errors(objective, fields) == []
