"""The update of weights that lie in one tensor: that of the parameters one by one, and back to it where it must be."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ablate_core import checkpoint
from ablate_core.checkpoint import load_checkpoint, save_checkpoint
from ablate_core.compute import ALONE, Compute
from ablate_core.config import TrainConfig, TrialConfig
from ablate_core.cpu_kernels import kernels
from ablate_core.ema import EMA, Follower, follow
from ablate_core.flat import BLOCK, Flat, in_place_gradients, writing_gradients
from ablate_core.optim import clip_gradients
from ablate_core.posthoc_ema import PowerEMA
from ablate_core.trainer import train
from ablate_core.update import Update


class OneByOne(Compute):
    """Computes as a network whose parameters are of several kinds."""

    def flat(self, net: Any) -> None:
        return None


class Branches(nn.Module):
    """Two layers, of which a step may leave out the second."""

    def __init__(self) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(3)
        self.first, self.second = (nn.Parameter(torch.randn(n, 5, generator=draw, dtype=torch.float64)) for n in (5, 7))
        self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))

    def loss(self, step: int, both: bool = True) -> Tensor:
        x = torch.randn(6, 5, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        h = (x @ self.first.t()).tanh() * self.scale
        return ((h @ self.second.t()) - 1).square().mean() if both else (h - 1).square().mean()


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint.os, "fsync", lambda handle: None)


def settings(optimizer: str = "adam", **more: Any) -> TrainConfig:
    fields = {"steps": 50, "batch_size": 4, "lr": 1e-2, "optimizer": optimizer, "weight_decay": 0.1, "grad_clip": 0.3}
    return TrainConfig.model_validate(fields | more)


def assert_close(a: Any, b: Any) -> None:
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "radam"])
def test_fifty_steps_in_one_tensor_are_those_of_the_parameters_one_by_one(optimizer: str) -> None:
    """Float64: weights, norms, both averages, the target that follows, and the optimiser's state."""
    ends, norms = [], []
    for as_one in (True, False):
        net = Branches()
        flat = ALONE.flat(net) if as_one else None
        assert (flat is not None) == as_one
        update, ema = Update(settings(optimizer), net, flat), EMA(net, [0.9], flat)
        power, target = PowerEMA(net, [0.1], flat), copy.deepcopy(net).requires_grad_(False)
        wholes = None if flat is None else (ALONE.flat(target).whole, flat.whole)
        for step in range(50):
            ALONE.backward(net.loss(step), update.flat)
            norms.append(update.step(0.01 / (1 + step), [*ema.followers(), *power.followers(step + 1)]))
            follow(target, net, 0.7, wholes)
        assert (update.flat is not None) == as_one
        ends.append([net.state_dict(), ema.state_dict(), power.state_dict(), target.state_dict(), update.state_dict()])
    assert_close(ends[0][:4], ends[1][:4])
    assert_close(ends[0][4]["state"], ends[1][4]["state"])
    assert ends[0][4]["param_groups"] == ends[1][4]["param_groups"]
    assert_close(norms[:50], norms[50:])
    assert norms[0] > 0.3, "clipping had something to do"


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "radam"])
@pytest.mark.parametrize("without", [{0, 1, 2}, {7, 8, 20}])
def test_a_parameter_that_gets_no_gradient_keeps_its_weight_momentum_and_count(
    optimizer: str, without: set[int]
) -> None:
    """... as torch's optimisers do, and so does a trial that continues from a state saved anywhere."""
    plain, ends = Branches(), []
    reference = Update(settings(optimizer), plain, None)
    for step in range(25):
        ALONE.backward(plain.loss(step, step not in without), reference.flat)
        reference.step(0.01)
    for stop in (None, 5, 9):
        net = Branches()
        update = Update(settings(optimizer), net, ALONE.flat(net))
        for step in range(25):
            if step == stop:
                kept = copy.deepcopy((net.state_dict(), update.state_dict()))
                net = Branches()
                update = Update(settings(optimizer), net, ALONE.flat(net))
                net.load_state_dict(kept[0])
                update.load_state_dict(kept[1])
            ALONE.backward(net.loss(step, step not in without), update.flat)
            update.step(0.01)
        assert update.flat is None
        ends.append([net.state_dict(), update.state_dict()["state"]])
        assert_close(ends[-1], [plain.state_dict(), reference.state_dict()["state"]])
    torch.testing.assert_close(ends[1:], [ends[0], ends[0]], rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:Using backward")
def test_gradients_add_up_and_begin_anew() -> None:
    net, other = Branches(), Branches()
    flat, config = ALONE.flat(net), settings(grad_clip=0)
    update = Update(config, net, flat)
    for step in range(2):
        torch.autograd.grad(net.loss(9), list(net.parameters()))  # leaves them alone
        for again in range(2):
            ALONE.backward(net.loss(10 * step + again), flat)
            other.loss(10 * step + again).backward()
        net.loss(5).backward(create_graph=True)  # puts other tensors in the place of the views
        other.loss(5).backward()
        assert flat.unmet() == []
        wanted = [p.grad for p in other.parameters()]
        assert_close([p.grad for p in net.parameters()], wanted)
        assert_close(list(flat.named(flat.whole.grad).values()), wanted)
        flat.empty_gradients()
        assert flat.unmet() == [*net.parameters()], "since the last call"
        other.zero_grad()
    net.zero_grad()  # sets them to None
    ALONE.backward(net.loss(1), flat)
    before = flat.whole.detach().clone()
    update.step(0.01)
    assert not torch.equal(flat.whole, before)
    assert not flat.whole.grad.any()


def test_backward_functions_may_write_gradients_only_while_a_flat_network_is_differentiated() -> None:
    seen = []

    class Spy(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
            ctx.weight = weight
            ctx.save_for_backward(x)
            return x @ weight

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> tuple[None, Tensor | None]:
            seen.append(in_place_gradients())
            slope = ctx.saved_tensors[0].t() @ g
            if not seen[-1]:
                return None, slope
            ctx.weight.grad.add_(slope)
            return None, None

    net, x = nn.Linear(3, 2), torch.ones(4, 3)
    net.weight = nn.Parameter(torch.ones(3, 2))

    def loss() -> Tensor:
        return (Spy.apply(x, net.weight) + net.bias).square().sum()

    flat = ALONE.flat(net)
    ALONE.backward(loss(), None)
    wanted = flat.whole.grad.clone()
    flat.whole.grad.zero_()
    assert flat.unmet() == []
    ALONE.backward(loss(), flat)
    assert flat.unmet() == [], "what was written there counts as met"
    assert torch.equal(flat.whole.grad, wanted)
    torch.autograd.grad(loss(), net.weight)
    with writing_gradients():
        assert in_place_gradients()
    assert not in_place_gradients()
    assert seen == [False, True, False]


def test_a_gradient_that_torch_has_not_seen_is_met_where_it_is_not_zero_or_was_told() -> None:
    net = Branches()
    flat = ALONE.flat(net)
    net.first.grad.numpy()[0] = 1.0
    torch.autograd.graph.increment_version(net.second.grad)
    assert flat.unmet() == [net.scale]


def test_the_norm_of_a_large_gradient_is_right() -> None:
    """Summed in one row, float32 is off by a thousandth at this size; in blocks by rounding."""
    whole = nn.Parameter(torch.empty(8192 * BLOCK))
    whole.grad = torch.rand(len(whole), generator=torch.Generator().manual_seed(0))
    assert abs(float(clip_gradients([whole], 0.0)) / float(whole.grad.double().norm()) - 1) < 2e-6


def test_parameters_of_several_kinds_are_updated_one_by_one() -> None:
    net = Branches()
    net.second.requires_grad_(False)
    assert ALONE.flat(net) is None
    assert ALONE.flat(nn.Module()) is None
    assert not ALONE.flat(Branches().requires_grad_(False)).holds_gradients


def config(**changes: Any) -> TrialConfig:
    fields: dict[str, Any] = {
        "schedule": "linear", "objective": {"name": "scd", "target_network": {"mu": 0.9}},
        "architecture": {"name": "sit", "size": "tiny/4", "depth": 1, "width": 16, "heads": 2}, "data": "digits",
        "train": {"steps": 12, "batch_size": 28, "lr": 1e-3, "ema": [0.5], "snapshot_every": 8} | changes,
        "eval": {"metric": "fd_digits", "samples": 20, "gallery": 0},
    }  # fmt: skip
    return TrialConfig.model_validate(fields)


@pytest.mark.parametrize("first", [True, False])
def test_a_trial_continues_from_the_checkpoint_of_either_update(
    first: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint does not tell how the weights were updated: keys, shapes and order are the same.

    All of a SiT's weights get a gradient at every step, be it zero as that of closed gates at first.
    """
    monkeypatch.setattr(Flat, "release_gradients", lambda self, unmet: pytest.fail("a weight got no gradient"))
    trial, halfway = config(optimizer="adamw", weight_decay=0.1), iter([False] * 5 + [True])
    train(trial, tmp_path, should_stop=lambda: next(halfway), compute=ALONE if first else OneByOne())
    train(trial, tmp_path, compute=OneByOne() if first else ALONE)
    train(trial, tmp_path / "whole", compute=OneByOne())
    ends = [load_checkpoint(tmp_path), load_checkpoint(tmp_path / "whole")]
    assert ends[0]["trial"] == ends[1]["trial"]
    for part in ("net", "optimizer", "ema", "power_ema", "target"):
        torch.testing.assert_close(ends[0][part], ends[1][part], rtol=1e-3, atol=1e-6)


def test_a_checkpoint_holds_no_more_than_its_tensors(tmp_path: Path) -> None:
    net = nn.Linear(100, 100)
    save_checkpoint(tmp_path / "own", {"net": copy.deepcopy(net).state_dict()})
    flat = Flat(net)
    save_checkpoint(tmp_path / "flat", {"net": net.state_dict()})
    sizes = [(tmp_path / name / checkpoint.CURRENT).stat().st_size for name in ("own", "flat")]
    assert abs(sizes[0] - sizes[1]) < 500
    assert len(flat.whole) > 10_100


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_spoils_weights_and_norm(bad: float) -> None:
    """In C as in torch: nothing may hide a divergence."""
    ends = []
    for as_one in (True, False):
        net = Branches()
        step = Update(settings(), net, ALONE.flat(net) if as_one else None)
        for number in range(3):
            ALONE.backward(net.loss(number), step.flat)
            if number == 2:
                net.second.grad[0, 0] = bad
            norm = step.step(0.01)
        ends.append((net.first.detach().isfinite().all(), net.second.detach().isfinite().sum(), norm.isfinite()))
    assert ends[0] == ends[1]
    assert not norm.isfinite()


@pytest.mark.skipif(kernels(torch.float64) is None, reason="this machine has no C compiler")
def test_averages_that_move_with_the_weights_in_c_are_those_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shares below and above a half, and 1, which is the weights themselves; what is not a number stays so."""
    ends = []
    for in_c in (True, False):
        torch.manual_seed(0)
        net = nn.Linear(60, 70).double()
        flat = ALONE.flat(net)
        update = Update(settings(), net, flat)
        averages = [flat.whole.detach().clone() for _ in range(3)]
        followers = [Follower([x], [flat.whole], share) for x, share in zip(averages, (0.1, 0.7, 1.0), strict=True)]
        for number in range(4):
            ALONE.backward(net(torch.full((2, 60), 0.1 * number, dtype=torch.float64)).square().sum(), flat)
            if in_c and number > 0:  # torch makes the optimiser's state at the first step
                with monkeypatch.context() as patched:
                    patched.setattr(Follower, "move", lambda self: pytest.fail("C moves it"))
                    update.step(0.01, followers)
            else:
                update.step(0.01)
                for follower in followers:
                    follower.move()
            averages[0][7] = torch.nan
        assert torch.equal(averages[2], flat.whole)
        ends.append(averages)
    assert torch.isnan(ends[0][0]).sum() == 1
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-15, atol=1e-15, equal_nan=True)
