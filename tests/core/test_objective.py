"""The template: every component in every registry keeps the loss's contract; equal computations give equal losses."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from golden_cases import GoldenNetwork, random_network
from partial_trials import partial_trial
from perceptual_files import narrow_lpips
from torch import Tensor

from ablate_core.component import Component
from ablate_core.legality import check
from ablate_core.methods import METHODS
from ablate_core.objective import Batch, Loss, Objective
from ablate_core.random import Draws
from ablate_core.schedules import Schedule
from ablate_core.testing.objectives import NetworkOf, keeps_the_contract, loss_of, shape_of

SLOTS = {
    name: field.annotation for name, field in Objective.model_fields.items() if name not in ("name", "label_dropout")
}
PATHS = sorted(Schedule.choices)


def trial(objective: Objective, path: str = "linear", **more: Any) -> Any:
    """As much of a TrialConfig as legality looks at."""
    return partial_trial(objective, path, classes=5, batch_size=64, dimension=6, **more)


def legal(objective: Objective, path: str) -> bool:
    return not any(problem.level == "error" for problem in check(trial(objective, path)))


COMPANIONS: dict[tuple[str, str], dict[str, Any]] = {
    ("parameterization", "scaled_u"): {"guidance": "tvm"},
    ("weighting", "inv_guidance"): {"guidance": "tvm"},
    ("second_step", "identity"): {"time_sampler": {"name": "alpha_ratio", "shape": "constant", "alpha": 1.0}},
}
"""What else a row must choose before it can hold a choice."""
WRITTEN: dict[str, Any] = {"lpips": narrow_lpips()}
"""Choices that need more than their name."""


def hosts(slot: str, choice: str) -> tuple[Objective, str]:
    """A published row with one slot replaced by `choice`, the first that is legal on its own path, and that path."""
    for name, row in METHODS.items():
        objective = Objective.model_validate(
            {"name": name, **COMPANIONS.get((slot, choice), {}), slot: WRITTEN.get(choice, choice)}
        )
        if getattr(objective, slot).name == choice and legal(objective, row.path):
            return objective, row.path
    if choice == "none":
        return Objective.model_validate("fm"), "linear"
    raise AssertionError(f"no published row can hold {slot}: {choice}")


ROWS = [(name, Objective.model_validate(name)) for name in METHODS]
SWAPS = [
    (f"{slot}={choice}", slot, choice)
    for slot, axis in SLOTS.items()
    for choice in sorted(axis.choices)
    if choice != "none"  # type: ignore[union-attr]
]


def batch(n: int = 64, dtype: torch.dtype = torch.float64) -> Batch:
    g = torch.Generator().manual_seed(0)
    x0 = 0.5 * torch.randn(n, 2, 3, generator=g, dtype=torch.float64)
    return Batch(x0.to(dtype), torch.arange(n) % 5, 5)


def networks(objective: Objective) -> NetworkOf:
    """The golden network, by its seed and dtype, with what the objective needs of it."""
    extras = {"guidance_inputs": objective.guidance_inputs, "heads": 1 + objective.parameterization.needs_velocity_head}
    return lambda seed, dtype: random_network(shape_of(objective), seed=seed, dtype=dtype, **extras)


def compute(objective: Objective, path: str = "linear") -> tuple[Loss, Any]:
    return loss_of(objective, Schedule.model_validate(path), networks(objective))


def honours_the_contract(objective: Objective, path: str) -> None:
    def unused(name: str) -> bool:
        head = name in ("a", "b") and not objective.needs_log_variance
        return head or (name == "w_r" and not objective.random_landing_time)  # it multiplies r = 0

    keeps_the_contract(objective, Schedule.model_validate(path), networks(objective), unused)
    assert Objective.model_validate(json.loads(json.dumps(objective.model_dump(mode="json")))) == objective


@pytest.mark.contract("row:{name}", "schedule:{path}")
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", METHODS)
def test_every_published_row_is_legal_or_says_why_and_honours_the_contract(name: str, path: str) -> None:
    objective = Objective.model_validate(name)
    errors = [problem for problem in check(trial(objective, path)) if problem.level == "error"]
    assert {problem.code for problem in errors} <= {"C3", "C16", "C17"}  # what is about paths
    assert not errors or path != METHODS[name].path
    if not errors:
        honours_the_contract(objective, path)


@pytest.mark.contract("{slot}:{choice}")
@pytest.mark.parametrize(("slot", "choice"), [swap[1:] for swap in SWAPS], ids=[swap[0] for swap in SWAPS])
def test_every_component_honours_the_contract_in_some_published_row(slot: str, choice: str) -> None:
    honours_the_contract(*hosts(slot, choice))


@pytest.mark.parametrize(("slot", "choice"), [swap[1:] for swap in SWAPS], ids=[swap[0] for swap in SWAPS])
def test_every_component_says_what_it_is_and_what_its_fields_mean(slot: str, choice: str) -> None:
    own: type[Component] = SLOTS[slot].choices[choice]  # type: ignore[union-attr]
    assert own.__doc__
    assert not own.__doc__.startswith("Usage docs")
    for name, field in own.model_fields.items():
        assert name == "name" or field.description, f"{choice}.{name} has no description"


# --- reductions: equal computations give equal losses (O17, E1 - E6) ---


def same(a: Objective, b: Objective, path: str = "linear") -> None:
    results = []
    for objective in (a, b):
        loss, net = compute(objective, path)
        loss.per_sample.sum().backward()
        gradients = [torch.zeros(()) if p.grad is None else p.grad for p in net.parameters()]
        results.append((loss.per_sample.detach(), gradients))
    (first, grads), (second, other) = results
    assert torch.equal(first, second)
    assert all(torch.equal(x, y) for x, y in zip(grads, other, strict=True))


@pytest.mark.oracle("O17")
@pytest.mark.proves("limit:none", "schedule:{path}")
@pytest.mark.parametrize("path", PATHS)
def test_meanflow_with_r_equal_t_everywhere_is_flow_matching_bit_for_bit(path: str) -> None:
    sampler = {"name": "ln_minmax", "p_eq": 1.0}
    meanflow = Objective.model_validate({"name": "meanflow", "time_sampler": sampler, "metric": "l2_mean"})
    same(meanflow, Objective.model_validate({"name": "fm", "time_sampler": sampler}), path)


@pytest.mark.oracle("O17")
@pytest.mark.proves("parameterization:u", "parameterization:v_ddim")
@pytest.mark.parametrize("name", ["meanflow", "esc", "sct_linear", "scd"])
def test_on_the_linear_path_a_ddim_velocity_of_unit_scale_is_the_average_velocity(name: str) -> None:
    u = Objective.model_validate(name)  # E1
    same(u, Objective.model_validate({"name": name, "parameterization": "v_ddim"}))


@pytest.mark.oracle("O17")
def test_meanflow_with_fixed_landing_is_sct_linear() -> None:
    shared = {"time_sampler": "fixed0", "metric": "l2_mean", "weighting": "none", "tangent": "none"}  # E2
    meanflow = Objective.model_validate({"name": "meanflow", **shared})
    same(meanflow, Objective.model_validate({"name": "sct_linear", **shared}))


@pytest.mark.oracle("O17")
def test_esc_without_its_three_parts_is_meanflow_also_as_a_config() -> None:
    off = {
        "velocity": {"prob": 0},
        "time_sampler": {"zero_steps": 0},
        "tangent": {"warmup_steps": 0},
        "weighting": "none",
    }  # E6
    esc, meanflow = Objective.model_validate({"name": "esc", **off}), Objective.model_validate("meanflow")
    same(esc, meanflow)
    dumped = [objective.model_dump(exclude={"name"}) for objective in (esc, meanflow)]
    assert dumped[0] == dumped[1]


@pytest.mark.oracle("O17")
@pytest.mark.proves("velocity:plugin")
def test_a_plugin_whose_weights_are_one_hot_is_the_conditional_velocity() -> None:
    objectives = [
        Objective.model_validate({"name": "esc", "velocity": v}) for v in ({"prob": 1.0}, "conditional")
    ]  # E8
    losses = []
    for objective in objectives:
        far = Batch(1e4 * batch().x0, batch().y, 5)
        net = random_network((2, 3))
        losses.append(
            objective.loss(net, net, Schedule.model_validate("linear"), far, Draws(0, 0, dtype=torch.float64), 0, 1)
        )
    assert float(losses[0].scalars["plugin_ess"]) == pytest.approx(1.0)
    torch.testing.assert_close(losses[0].per_sample, losses[1].per_sample, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "off",
    [
        {"guidance": {"name": "omega_kappa", "omega": 1.0, "kappa": 0.0}},
        {"guidance": {"name": "omega_kappa", "t_min": 1.0, "t_max": 0.0}},
        {"tangent": {"name": "shaped", "warmup_steps": 0}},
        {"velocity": {"name": "plugin", "prob": 0.0}},
        {"limit": {"name": "continuous", "h": 0.1}},
        {"target_network": {"name": "ema", "mu": 0.0}},
        {"time_sampler": {"name": "esc_gradual", "zero_steps": 0}},
    ],
    ids=str,
)
def test_a_component_that_is_switched_off_leaves_no_trace_in_the_config(off: dict[str, Any]) -> None:
    assert Objective.model_validate({"name": "meanflow", **off}) == Objective.model_validate("meanflow")


@pytest.mark.proves("target_network:none")
def test_a_target_network_that_nothing_uses_leaves_no_trace() -> None:
    plain = Objective.model_validate("fm")
    assert plain == Objective.model_validate({"name": "fm", "target_network": "ema"})
    assert plain.target_network.name == "none"
    guided = Objective.model_validate({"name": "fm", "guidance": "omega_kappa"})
    assert guided.target_network.name == "stop_gradient"
    assert Objective.model_validate(guided.model_dump()) == guided


# --- writing an objective ---


def test_an_override_is_merged_into_the_row_unless_it_names_another_component() -> None:
    row = Objective.model_validate("sct")
    assert Objective.model_validate({"name": "sct", "tangent": {"warmup_steps": 7}}).tangent == row.tangent.model_copy(
        update={"warmup_steps": 7}
    )
    same_name = Objective.model_validate({"name": "sct", "tangent": {"name": "shaped", "c": 0.2}})
    assert same_name.tangent == row.tangent.model_copy(update={"c": 0.2})
    assert Objective.model_validate({"name": "sct", "tangent": "shaped"}) == row
    assert Objective.model_validate({"name": "sct", "tangent": "none"}).tangent.name == "none"


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("meanflo", "no objective is named 'meanflo'; did you mean meanflow"),
        ({"name": "esc", "velocty": 1}, "no slot of an objective is named 'velocty'; did you mean velocity"),
        ({"name": "esc", "velocity": "plugn"}, "no velocity is named 'plugn'; did you mean plugin"),
        ({"name": "esc", "velocity": {"prob": 1.5}}, "less than or equal to 1"),
        ({"name": "esc", "velocity": {"pro": 0.5}}, "pro"),
        ({"name": "esc", "tangent": {"warmup_steps": -1}}, "greater than or equal to 0"),
        ({"velocity": "plugin"}, "written as its name"),
        (3, "written as its name"),
        ({"name": "esc", "velocity": 3}, "a velocity is written as its name"),
    ],
    ids=str,
)
def test_a_wrong_objective_is_refused_with_the_nearest_names(written: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Objective.model_validate(written)


def test_labels_and_number_of_classes_belong_together() -> None:
    with pytest.raises(ValueError, match="give both or neither"):
        Batch(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64))


# --- labels ---


def test_dropped_labels_become_the_null_class_and_are_independent_of_r_equal_t() -> None:
    objective = Objective.model_validate({"name": "meanflow", "label_dropout": 0.3})
    n = 20_000
    x0, y = torch.zeros(n, 1, dtype=torch.float64), torch.arange(n) % 5
    state = objective.state(Schedule.model_validate("linear"), Batch(x0, y, 5), Draws(0, 0, dtype=torch.float64), 0, 1)
    dropped = ~state.kept
    assert torch.equal(state.y[state.kept], y[state.kept])  # type: ignore[index]
    assert float(dropped.double().mean()) == pytest.approx(0.3, abs=0.015)
    assert float(dropped[state.times.fm].double().mean()) == pytest.approx(0.3, abs=0.02)  # defect D16
    assert float(dropped[~state.times.fm].double().mean()) == pytest.approx(0.3, abs=0.03)


def test_the_null_class_of_shortcut_models_is_trained_on_flow_matching_rows_only() -> None:
    objective = Objective.model_validate(
        {"name": "scd", "label_dropout": 1.0}
    )  # defect D17: no effect in the reference
    loss, net = compute(objective)
    loss.per_sample.sum().backward()
    assert net.E.grad is not None
    assert float(net.E.grad[5].abs().max()) > 0
    state = objective.state(Schedule.model_validate("linear"), batch(), Draws(0, 3, dtype=torch.float64), 0, 1)
    assert torch.equal(~state.kept, state.times.fm)


def test_velocity_only_objectives_step_with_the_velocity() -> None:
    net, objective = random_network((2, 3)), Objective.model_validate("fm")
    x, one = batch().x0[:4], torch.ones(4, dtype=torch.float64)
    landed = objective.predict(net, Schedule.model_validate("linear"), x, 0.25 * one, one, None)
    velocity = net(x, one, one, None)
    torch.testing.assert_close(landed, x - 0.75 * velocity)
    jump = Objective.model_validate("meanflow").predict(
        net, Schedule.model_validate("linear"), x, 0.25 * one, one, None
    )
    torch.testing.assert_close(jump, x - 0.75 * net(x, 0.25 * one, one, None))


def test_the_network_is_asked_in_the_dtype_of_the_state_also_under_autocast() -> None:
    class Half(GoldenNetwork):
        def forward(self, x: Tensor, r: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
            return super().forward(x, r, t, y).bfloat16()

    weights = {k: v.detach() for k, v in random_network((2, 3), dtype=torch.float32).named_parameters()}
    objective, net = Objective.model_validate("fm"), Half(weights)
    loss = objective.loss(net, net, Schedule.model_validate("linear"), batch(dtype=torch.float32), Draws(0, 0), 0, 1)
    assert loss.per_sample.dtype == torch.float32
