"""No step asks a device which rows are which: on torch's meta device, where no number exists, asking fails."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from torch import Tensor

from ablate_core import legality
from ablate_core.config import TrialConfig
from ablate_core.host import on_host, picked, rows_where, sent
from ablate_core.methods import METHODS
from ablate_core.preparation import build_network, load_batch, load_data
from ablate_core.random import Draws

GUIDED: dict[str, Any] = {
    "omega_kappa": {"name": "meanflow", "guidance": {"name": "omega_kappa", "omega": 1.2, "kappa": 0.5, "t_max": 0.7}},
    "omega_conditioned": {"name": "meanflow", "guidance": "omega_conditioned"},
    "tvm": {"name": "meanflow", "guidance": "tvm"},
    "bootstrap": {"name": "scd", "guidance": "bootstrap"},
    "ct_cfg": {"name": "ct", "guidance": "ct_cfg"},
    "plugin": {"name": "esc", "velocity": "plugin"},
    "forward_ad": {"name": "meanflow", "limit": {"name": "continuous", "jvp_backend": "forward_ad"}},
}
CASES = {**{name: name for name in METHODS}, **GUIDED}


class MetaDraws(Draws):
    """Noise that has a shape and a device, and no numbers; what is drawn on the host is drawn there."""

    def __init__(self, seed: int, step: int) -> None:
        super().__init__(seed, step)
        self.device = "meta"

    def normal(self, name: str, *shape: int) -> Tensor:
        return super().normal(name, *shape) if self.device == "cpu" else torch.empty(shape, device="meta")

    def uniform(self, name: str, *shape: int) -> Tensor:
        assert self.device == "cpu", f"{name} is drawn on the device"
        return super().uniform(name, *shape)

    def integers(self, name: str, high: int, *shape: int) -> Tensor:
        assert self.device == "cpu", f"{name} is drawn on the device"
        return super().integers(name, high, *shape)


def config(objective: Any) -> TrialConfig:
    """A trial with the first path on which the objective is legal."""
    for schedule in ("linear", "cosine01", "ve", "trig"):
        found = TrialConfig.model_validate(
            {
                "schedule": schedule,
                "objective": objective,
                "architecture": {"name": "sit", "size": "tiny/4", "depth": 1},
                "data": "digits",
                "train": {"steps": 100, "batch_size": 64, "lr": 1e-3},
                "eval": {"metric": "fd_digits", "samples": 100, "gallery": 0},
            }
        )
        if not any(problem.level == "error" for problem in legality.check(found)):
            return found
    raise AssertionError(f"no path suits {objective}")


@pytest.mark.parametrize("name", CASES)
def test_no_step_asks_the_device(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: contextlib.nullcontext())  # unknown to that device
    trial = config(CASES[name])
    data = load_data(trial)
    net = build_network(trial, data, "meta")
    target = build_network(trial, data, "meta").requires_grad_(False)
    own = trial.objective.target_network.decay(0, 100) is not None
    batch = load_batch(trial, data, torch.arange(64), 0, "meta")
    loss = trial.objective.loss(net, target if own else net, trial.schedule, batch, MetaDraws(0, 30), 30, 100)
    loss.per_sample.mean().backward()
    assert loss.per_sample.is_meta
    assert all(p.grad is None or p.grad.is_meta for p in net.parameters())
    assert any(p.grad is not None for p in net.parameters())


def test_what_was_sent_is_known() -> None:
    x = torch.tensor([True, False, True, True])
    there = sent(x, "meta")
    assert there.is_meta
    assert on_host(there) is x
    rows = rows_where(on_host(there), "meta")
    assert rows.is_meta
    assert on_host(rows).tolist() == [0, 2, 3]
    kept = picked(sent(torch.arange(4), "meta"), rows)
    assert kept.is_meta
    assert on_host(kept).tolist() == [0, 2, 3]


def test_on_the_cpu_it_is_the_tensor_itself() -> None:
    x = torch.arange(3)
    assert sent(x, "cpu") is x
    assert on_host(x) is x
    draws = Draws(0, 0)
    assert draws.on_host() is draws
