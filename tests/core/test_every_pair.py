"""Every path with every published row: what is legal trains, what is not is refused with a reason."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from ablate_core.batches import Batches
from ablate_core.config import TrialConfig
from ablate_core.ema import follow
from ablate_core.legality import Problem, check
from ablate_core.methods import METHODS
from ablate_core.optim import build_optimizer, clip_gradients
from ablate_core.preparation import build_network, load_batch, load_data, require_legal
from ablate_core.random import Draws
from ablate_core.schedules import Schedule

STEPS = 20


def trial(method: Any, path: str) -> TrialConfig:
    return TrialConfig.model_validate(
        {
            "schedule": path,
            "objective": method,
            "architecture": {"name": "mlp", "width": 16, "depth": 2, "frequencies": 2},
            "data": {"name": "gaussians", "size": 512},
            "train": {"steps": STEPS, "batch_size": 32, "lr": 1e-3},
            "eval": {"metric": "energy_distance"},
        }
    )


def errors(config: TrialConfig) -> list[Problem]:
    return [problem for problem in check(config) if problem.level == "error"]


PAIRS = [(path, name) for path in sorted(Schedule.choices) for name in METHODS]
LEGAL = [pair for pair in PAIRS if not errors(trial(pair[1], pair[0]))]


def trains(config: TrialConfig) -> None:
    """The steps of `trainer.train`, with a look at every gradient."""
    data, own, train = load_data(config), config.objective, config.train
    batches = Batches(own.batching, len(data.x), data.y, train.batch_size, config.seed)
    net = build_network(config, data, "cpu")
    target = copy.deepcopy(net).requires_grad_(False)
    optimizer = build_optimizer(train, list(net.parameters()))
    moved = dict.fromkeys(dict(net.named_parameters()), False)
    for step in range(STEPS):
        batch = load_batch(config, data, batches.indices(step), step, "cpu")
        decay = own.target_network.decay(step, STEPS)
        loss = own.loss(net, net if decay is None else target, config.schedule, batch, Draws(0, step), step, STEPS)
        assert bool(torch.isfinite(loss.per_sample).all()), f"step {step}"
        loss.per_sample.mean().backward()
        for name, p in net.named_parameters():
            assert p.grad is None or bool(torch.isfinite(p.grad).all()), f"{name} at step {step}"
            moved[name] |= p.grad is not None and bool((p.grad != 0).any())
        clip_gradients(list(net.parameters()), train.grad_clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if decay is not None:
            follow(target, net, decay)
    assert all(moved.values()), f"never a gradient: {[name for name, any_at_all in moved.items() if not any_at_all]}"


@pytest.mark.contract("schedule:{path}", "row:{name}", "architecture:mlp", "dataset:gaussians")
@pytest.mark.parametrize(("path", "name"), LEGAL)
def test_a_legal_pair_trains_twenty_steps_with_a_gradient_in_every_weight(path: str, name: str) -> None:
    trains(trial(name, path))


@pytest.mark.parametrize(("path", "name"), [pair for pair in PAIRS if pair not in LEGAL])
def test_a_pair_that_does_not_fit_is_refused_with_code_place_reason_and_nearest_choice(path: str, name: str) -> None:
    config = trial(name, path)
    for problem in errors(config):
        assert problem.code in {"C3", "C16", "C17"}  # rows are consistent in themselves: what is left is the path
        assert problem.message
        assert problem.nearest is not None
        assert ":" in problem.nearest
    with pytest.raises(ValueError, match=errors(config)[0].code):
        require_legal(config)


def test_every_row_trains_on_its_own_path_and_every_path_has_rows() -> None:
    assert {(METHODS[name].path, name) for name in METHODS} <= set(LEGAL)
    assert {path for path, _ in LEGAL} == set(Schedule.choices)
