"""Averages (O20), learning-rate warm-up, clipping."""

from __future__ import annotations

import math

import pytest
import torch
from golden_cases import arrays
from torch import nn
from torch.testing import assert_close

from ablate_core.config import TrainConfig
from ablate_core.ema import EMA, decay_of_halflife, follow
from ablate_core.optim import build_optimizer, clip_gradients, learning_rate


class WithBuffer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 2.0]))
        self.register_buffer("count", torch.tensor(0))


@pytest.mark.oracle("O20")
def test_average_follows_its_recursion_and_buffers_are_copied() -> None:
    net = WithBuffer()
    ema = EMA(net, (0.5, 0.9))
    expected = {0.5: 1.0, 0.9: 1.0}
    for step in range(1, 6):
        with torch.no_grad():
            net.weight += 1
            net.count += 1
        ema.update()
        for d in expected:
            expected[d] = d * expected[d] + (1 - d) * (1.0 + step)
    for d, value in expected.items():
        assert_close(ema.weights(d)["weight"][0], torch.tensor(value))
        assert ema.weights(d)["count"] == 5
    assert torch.equal(ema.weights(0)["weight"], net.weight)


def test_an_average_has_a_tied_parameter_under_all_its_names() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    net[1].weight = net[0].weight
    ema = EMA(net, (0.5,))
    with torch.no_grad():
        net[0].weight += 1
    ema.update()
    assert_close(ema.weights(0.5)["1.weight"], net[0].weight - 0.5)
    assert torch.equal(ema.weights(0)["1.weight"], net[0].weight)
    for decay in (0.5, 0):
        assert ema.weights(decay).keys() == net.state_dict().keys()


@pytest.mark.oracle("O20")
def test_updates_left_out_are_made_up_for() -> None:
    """Sixteen updates towards constant weights are one update of decay^16 (Gsunshine/py-meanflow models/ema.py)."""
    net = WithBuffer()
    often, rarely = EMA(net, (0.999,)), EMA(net, (0.999,))
    with torch.no_grad():
        net.weight += 1
    for _ in range(16):
        often.update()
    rarely.update(steps=16)
    assert_close(often.weights(0.999), rarely.weights(0.999), rtol=1e-6, atol=0)


@pytest.mark.oracle("O18", "O20")
def test_an_update_after_sixteen_steps_equals_the_original() -> None:
    """Gsunshine/py-meanflow and pMF update every sixteenth step; the recorded value was stored as float32."""
    stored = arrays("pmf_meanflow")
    before, weights, after = (
        torch.from_numpy(stored[f"pmf_ema_period16/{name}"])
        for name in ("ema_before", "weights", "ema_after_update_16")
    )
    net = nn.Module()
    net.weight = nn.Parameter(before.clone())
    ema = EMA(net, (0.999,))
    with torch.no_grad():
        net.weight.copy_(weights)
    ema.update(steps=16)
    assert_close(ema.weights(0.999)["weight"], after, rtol=0, atol=1e-7)


def test_an_average_that_was_not_kept_is_named() -> None:
    with pytest.raises(ValueError, match=r"no average of decay 0\.5 was kept; there are 0\.9"):
        EMA(WithBuffer(), (0.9,)).weights(0.5)


def test_averages_survive_saving_and_loading() -> None:
    net = WithBuffer()
    ema = EMA(net, (0.9,))
    with torch.no_grad():
        net.weight += 1
    ema.update()
    other = EMA(WithBuffer(), (0.9,))
    other.load_state_dict(ema.state_dict())
    assert torch.equal(other.weights(0.9)["weight"], ema.weights(0.9)["weight"])


@pytest.mark.oracle("O20")
def test_half_life_forgets_half_in_its_images() -> None:
    """O20: d^(halflife / B) = 0.5, and at most a fraction of the images seen counts."""
    d = decay_of_halflife(500_000, 256, math.inf)
    assert abs(d ** (500_000 / 256) - 0.5) < 1e-6
    early = decay_of_halflife(500_000, 256, 100_000, ramp=0.05)
    assert abs(early ** (5_000 / 256) - 0.5) < 1e-6
    assert decay_of_halflife(500_000, 256, 0) == 0
    with pytest.raises(ValueError, match="positive"):
        decay_of_halflife(0, 256, 1)


@pytest.mark.oracle("O20")
@pytest.mark.proves("target_network:ema")
def test_a_target_network_follows_parameters_and_copies_buffers() -> None:
    net, target = WithBuffer(), WithBuffer()
    with torch.no_grad():
        net.weight += 1
        net.count += 3
    follow(target, net, 0.75)
    assert target.weight.tolist() == [1.25, 2.25]
    assert target.count == 3


def test_learning_rate_rises_in_a_line_and_then_stays() -> None:
    config = TrainConfig(steps=10, batch_size=1, lr=0.4, lr_warmup_steps=4)
    rates = [learning_rate(config, step) for step in range(6)]
    assert_close(rates, [0.1, 0.2, 0.3, 0.4, 0.4, 0.4])
    assert learning_rate(TrainConfig(steps=1, batch_size=1, lr=0.4), 0) == 0.4


@pytest.mark.parametrize(
    ("name", "kind", "how"), [("adam", "Adam", "fused"), ("adamw", "AdamW", "fused"), ("radam", "RAdam", "foreach")]
)
def test_each_optimiser_is_the_one_it_is_called(name: str, kind: str, how: str) -> None:
    """Bit for bit, though torch's own methods import its compiler; either continues from the states of the other."""
    config = TrainConfig(steps=1, batch_size=1, lr=0.1, optimizer=name, weight_decay=0.1)
    nets = WithBuffer(), WithBuffer()
    torchs = getattr(torch.optim, kind)
    options = {"lr": 0.1, "betas": (0.9, 0.95), "weight_decay": 0.1, how: True}
    ours, plain = build_optimizer(config, list(nets[0].parameters())), torchs(nets[1].parameters(), **options)
    for step in range(8):
        if step == 4:
            states = ours.state_dict(), plain.state_dict()
            ours, plain = build_optimizer(config, list(nets[0].parameters())), torchs(nets[1].parameters(), **options)
            ours.load_state_dict(states[1])
            plain.load_state_dict(states[0])
        for net, optimizer in zip(nets, (ours, plain), strict=True):
            optimizer.zero_grad()
            net.weight.pow(3).sum().backward()
            optimizer.step()
        assert torch.equal(*(net.weight for net in nets))


def test_clipping_bounds_the_norm_and_returns_the_one_before() -> None:
    net = WithBuffer()
    (net.weight * torch.tensor([3.0, 4.0])).sum().backward()
    assert float(clip_gradients(list(net.parameters()), 0.0)) == 5
    assert net.weight.grad.tolist() == [3, 4], "0 only measures"
    assert float(clip_gradients(list(net.parameters()), 1.0)) == 5
    assert_close(net.weight.grad, torch.tensor([0.6, 0.8]), rtol=1e-5, atol=0)
