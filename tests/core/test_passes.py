"""Counted passes of a step against what the papers' algorithms ask for."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ablate_core.config import TrialConfig
from ablate_core.objective import Objective
from ablate_core.passes import Asked, asked_by_a_step


def config(objective: Any = "fm", data: str = "digits", **train: Any) -> TrialConfig:
    metric = {"metric": "energy_distance", "samples": 8}
    return TrialConfig.model_validate(
        {
            "schedule": "linear",
            "objective": objective,
            "architecture": "mlp" if data == "gaussians" else {"name": "sit", "size": "tiny/4"},
            "data": data,
            "train": {"steps": 8, "batch_size": 64, **train},
            "eval": metric,
        }
    )


@pytest.mark.parametrize("data", ["digits", "gaussians"])
def test_flow_matching_is_a_pass_and_its_derivative(data: str) -> None:
    assert asked_by_a_step(config(data=data)) == Asked(3, tangents=False)


def test_a_target_of_a_network_is_one_pass_more() -> None:
    assert asked_by_a_step(config("ct")) == Asked(4, tangents=False)


def test_a_tangent_of_some_rows_is_that_share_of_a_pass() -> None:
    found = asked_by_a_step(config("meanflow", batch_size=2048))
    assert found is not None
    assert found.passes == pytest.approx(3.25, abs=0.03)  # a quarter of the rows jump
    assert found.tangents


def test_random_state_of_the_caller_stays_and_counts_do_not_depend_on_it() -> None:
    before = torch.random.get_rng_state()
    first = asked_by_a_step(config("meanflow"))
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(3)
    assert asked_by_a_step(config("meanflow")) == first


def test_a_loss_that_wants_a_real_network_has_no_count(monkeypatch: pytest.MonkeyPatch) -> None:
    def wants_more(*_: Any) -> None:
        raise KeyError("a layer of the network")

    monkeypatch.setattr(Objective, "loss", wants_more)
    assert asked_by_a_step(config()) is None
