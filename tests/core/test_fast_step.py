"""The fast path of a training step against the slow one: what one pass shares, loss, gradient, fifty steps, keys."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from architecture_cases import IMF, SIT, SIT_OPTIONS, UNET, inputs, randomised
from torch import Tensor, nn
from torch.testing import assert_close

from ablate.space import train_key
from ablate_core.architectures.base import Network
from ablate_core.checkpoint import training_id
from ablate_core.config import TrialConfig
from ablate_core.objective import Batch, Objective
from ablate_core.random import Draws
from ablate_core.schedules import Schedule

OMEGA_KAPPA = {"name": "omega_kappa", "omega": 1.2, "kappa": 0.4, "t_max": 0.9}
CONDITIONED = {"name": "omega_conditioned"}
NETWORKS: dict[str, dict[str, Any]] = {
    "plain": SIT,
    "naive": SIT | {"fused_attention": False},
    **{name: SIT | fields for name, fields in SIT_OPTIONS.items() if not name.startswith(("init", "own"))},
    "unet": UNET | {"dropout": 0.0},
    "unet-dropout": UNET | {"dropout": 0.5},
    "mlp": {"name": "mlp", "width": 16},
}


def network(fields: dict[str, Any], dtype: torch.dtype = torch.float64, **more: Any) -> Network:
    torch.manual_seed(0)
    architecture = TrialConfig.model_validate(TRIAL | {"architecture": fields}).architecture
    net: Network = randomised(architecture.build((1, 8, 8), 10, **more).to(dtype))
    return net


TRIAL: dict[str, Any] = {
    "schedule": "linear",
    "objective": "meanflow",
    "data": "digits",
    "train": {"steps": 10, "batch_size": 8, "lr": 1e-3},
    "eval": {"metric": "fd_digits", "samples": 100},
}


def gradients(net: nn.Module, loss: Tensor) -> Tensor:
    slopes = torch.autograd.grad(loss, list(net.parameters()), allow_unused=True)
    return torch.cat([torch.zeros(1, dtype=loss.dtype) if s is None else s.flatten() for s in slopes])


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("rows", [1, 3])
def test_one_pass_gives_the_output_of_all_rows_and_the_tangent_of_the_last(name: str, rows: int) -> None:
    """1e-12 of a forward pass and of torch's forward mode, in float64; the value has its graph, the tangent none."""
    net = network(NETWORKS[name])
    net.use_dropout(3)
    x, r, t, y = inputs(torch.float64)
    dx, dt = torch.randn_like(x[-rows:]), torch.rand_like(t[-rows:])
    value, tangent = net.forward_beside_tangent(x, r, t, y, dx, dt)
    expected = net(x, r, t, y)
    assert_close(value, expected, rtol=1e-12, atol=1e-12)
    assert_close(gradients(net, value.square().sum()), gradients(net, expected.square().sum()), rtol=1e-10, atol=1e-10)
    assert value.requires_grad
    assert not tangent.requires_grad
    slope = Network.forward_and_tangent(net, x[-rows:], r[-rows:], t[-rows:], y[-rows:], dx, dt)[1]
    assert_close(tangent, slope, rtol=1e-12, atol=1e-12)
    assert slope.abs().max() > 1e-3


@pytest.mark.parametrize("name", ["plain", "imf", "tvm", "layer-affine"])
def test_the_tangent_beside_is_that_of_a_pass_of_its_own_under_autocast(name: str) -> None:
    net = network(NETWORKS[name], torch.float32)
    x, r, t, y = inputs(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        value, tangent = net.forward_beside_tangent(x, r, t, y, x[-2:], torch.ones_like(t[-2:]))
        exact = net.forward_and_tangent(x[-2:], r[-2:], t[-2:], y[-2:], x[-2:], torch.ones_like(t[-2:]))[1]
        assert_close(value, net(x, r, t, y))
    assert tangent.dtype == torch.float32
    assert (tangent - exact).norm() / exact.norm() < 0.05


class Counted(Network):
    """A network that counts the rows it is asked for, and is otherwise `net`."""

    def __init__(self, net: Network) -> None:
        super().__init__()
        self.net, self.rows, self.calls = net, 0, 0

    @property
    def drops(self) -> bool:
        return self.net.drops

    def forward(self, x: Tensor, r: Tensor, t: Tensor, y: Tensor | None, g: Tensor | None = None) -> Tensor:
        self.rows, self.calls = self.rows + len(x), self.calls + 1
        more = {} if g is None else {"g": g}
        out: Tensor = self.net(x, r, t, y, **more)
        return out

    def forward_beside_tangent(self, x: Tensor, *given: Any) -> tuple[Tensor, Tensor]:
        self.rows, self.calls = self.rows + len(x), self.calls + 1
        return self.net.forward_beside_tangent(x, *given)

    def log_variance(self, t: Tensor) -> Tensor:
        return self.net.log_variance(t)


LOSSES: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "meanflow": ("meanflow", "linear", SIT),
    "meanflow, every row": ({"name": "meanflow", "time_sampler": {"p_eq": 0.0}}, "linear", SIT),
    "meanflow, guided": ({"name": "meanflow", "guidance": OMEGA_KAPPA}, "linear", SIT),
    "meanflow, no null": ({"name": "meanflow", "guidance": {"name": "mg", "om": 0.4}}, "linear", SIT),
    "meanflow, told": ({"name": "meanflow", "guidance": CONDITIONED}, "linear", SIT | IMF),
    "fm, guided": ({"name": "fm", "guidance": OMEGA_KAPPA}, "linear", SIT),
    "dmf, guided": ({"name": "dmf", "guidance": "mg"}, "linear", SIT),
    "esc, guided": ({"name": "esc", "guidance": OMEGA_KAPPA}, "linear", SIT),
    "sct": ("sct", "cosine01", SIT),
    "sct, guided": ({"name": "meanflow", "parameterization": "v_ddim", "guidance": OMEGA_KAPPA}, "cosine01", SIT),
    "splitmeanflow, guided": ({"name": "splitmeanflow", "guidance": OMEGA_KAPPA}, "linear", SIT),
    "alphaflow, guided": ({"name": "alphaflow", "guidance": OMEGA_KAPPA}, "linear", SIT),
    "unet": ({"name": "meanflow", "guidance": OMEGA_KAPPA}, "linear", UNET | {"dropout": 0.0}),
}


def objective_and_network(name: str, dtype: torch.dtype) -> tuple[Objective, Schedule, Network]:
    fields, path, architecture = LOSSES[name]
    trial = TrialConfig.model_validate(TRIAL | {"schedule": path, "objective": fields, "architecture": architecture})
    needs = {"guidance_inputs": trial.objective.guidance_inputs, "log_variance": trial.objective.needs_log_variance}
    return trial.objective, trial.schedule, network(architecture, dtype, **needs)


def batch(dtype: torch.dtype) -> Batch:
    draw = torch.Generator().manual_seed(1)
    return Batch(torch.randn(12, 1, 8, 8, generator=draw, dtype=dtype), torch.arange(12) % 10, 10)


def loss_of(objective: Objective, net: Network, target: Network, schedule: Schedule, dtype: torch.dtype) -> Tensor:
    draws = Draws(4, 7, dtype=dtype)
    return objective.loss(net, target, schedule, batch(dtype), draws, 7, 10).per_sample.mean()


@pytest.mark.parametrize("name", LOSSES)
def test_loss_and_gradient_are_those_of_separate_passes(name: str) -> None:
    """A copy of the network as target shares nothing: the prediction, the target and guidance have passes each."""
    objective, schedule, net = objective_and_network(name, torch.float64)
    fast = loss_of(objective, net, net, schedule, torch.float64)
    slow = loss_of(objective, net, copy.deepcopy(net), schedule, torch.float64)
    assert_close(fast, slow, rtol=1e-10, atol=1e-12)
    assert_close(gradients(net, fast), gradients(net, slow), rtol=1e-10, atol=1e-10)


def test_guidance_asks_only_for_what_no_prediction_holds() -> None:
    """One call of 12 rows for the prediction; before it one of the null class for the kept rows, and of the class for
    those of them that jump: 1.25 instead of 2 passes at a quarter of jumps."""
    fields = {"name": "meanflow", "guidance": OMEGA_KAPPA | {"t_max": 1.0}, "label_dropout": 0.3}
    objective = Objective.model_validate(fields)
    schedule, own = objective_and_network("meanflow", torch.float32)[1], network(SIT, torch.float32)
    state = objective.state(schedule, batch(torch.float32), Draws(4, 7), 7, 10)
    kept, jumps = state.kept, ~state.times.fm
    assert 0 < int((kept & jumps).sum()) < int(kept.sum()) < 12
    net = Counted(own)
    objective.loss(net, net, schedule, batch(torch.float32), Draws(4, 7), 7, 10)
    assert (net.calls, net.rows) == (2, 12 + int(kept.sum()) + int((kept & jumps).sum()))
    free = Objective.model_validate(fields | {"guidance": {"name": "omega_kappa", "omega": 0.6, "kappa": 0.4}})
    net = Counted(own)
    free.loss(net, net, schedule, batch(torch.float32), Draws(4, 7), 7, 10)
    assert (net.calls, net.rows) == (2, 12 + int((kept & jumps).sum()))  # the null class has no share


def trained(fields: dict[str, Any], dtype: torch.dtype, steps: int = 50) -> tuple[list[float], Tensor]:
    objective, schedule = Objective.model_validate(fields), objective_and_network("meanflow", dtype)[1]
    net = network(SIT | {"depth": 1, "width": 16, "heads": 2}, dtype)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    losses = []
    for step in range(steps):
        loss = objective.loss(net, net, schedule, batch(dtype), Draws(4, step, dtype=dtype), step, steps)
        mean = loss.per_sample.mean()
        optimizer.zero_grad()
        mean.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(mean.detach()))
    return losses, nn.utils.parameters_to_vector(net.parameters()).detach()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-8), (torch.float32, 2e-3)])
def test_fifty_steps_are_those_of_the_slow_path(dtype: torch.dtype, tolerance: float) -> None:
    """`jvp_backend: forward_ad` is the slow path: torch's forward mode, and every guidance forward."""
    fields: dict[str, Any] = {"name": "meanflow", "guidance": OMEGA_KAPPA}
    fast, slow = (trained(fields | {"limit": {"jvp_backend": b}}, dtype) for b in ("explicit", "forward_ad"))
    assert_close(torch.tensor(fast[0]), torch.tensor(slow[0]), rtol=tolerance, atol=0)
    assert float((fast[1] - slow[1]).norm() / slow[1].norm()) < tolerance
    assert fast[0][-1] != fast[0][0]


@pytest.mark.parametrize("name", ["meanflow", "alphaflow"])
def test_the_two_exact_backends_have_one_key_and_the_difference_another(name: str) -> None:
    """They compute one derivative: no trial that was trained before the choice existed loses its key."""
    sit = {"name": "sit", "size": "tiny/2"}
    trials = {
        backend: TrialConfig.model_validate(
            TRIAL | {"architecture": sit, "objective": {"name": name, "limit": {"jvp_backend": backend}}}
        )
        for backend in ("explicit", "forward_ad", "finite_diff")
    }
    default = TrialConfig.model_validate(TRIAL | {"architecture": sit, "objective": name})
    assert default == trials["explicit"] != trials["forward_ad"]
    for key in (train_key, training_id):
        assert key(default) == key(trials["explicit"]) == key(trials["forward_ad"]) != key(trials["finite_diff"])
