"""What every network keeps to, in every option: initialisation, inputs, heads, derivatives, gradients through them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from architecture_cases import CASES, build, directions, inputs, randomised
from torch import Tensor
from torch.testing import assert_close

from ablate_core.architectures import Architecture, unet_blocks
from ablate_core.architectures.base import Network
from ablate_core.architectures.pairs import Pair, layer_norm
from ablate_core.architectures.sit_blocks import Norm

Choice = dict[str, Any]
accepting = [name for name, choice in CASES.items() if Architecture.model_validate(choice).accepts_velocity_head]
guided = [name for name, choice in CASES.items() if Architecture.model_validate(choice).accepts_guidance]


def full(choice: Choice) -> tuple[Network, Tensor | None]:
    """A network with all that the architecture accepts, random weights in float64, and its guidance inputs."""
    kind = Architecture.model_validate(choice)
    more = {"guidance_inputs": 3} if kind.accepts_guidance else {}
    if kind.accepts_velocity_head:
        more["velocity_head"] = True
    g = torch.rand(5, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    net = build(choice, log_variance=kind.accepts_log_variance, **more)
    return randomised(net.double()), g if kind.accepts_guidance else None


def plain_layer_norm(x: Pair, eps: float = 1e-6) -> Pair:
    centred = x.value - x.value.mean(dim=-1, keepdim=True)
    return Pair(centred * (centred.square().mean(dim=-1, keepdim=True) + eps).rsqrt())


@pytest.mark.contract("architecture:mlp", "architecture:sit", "architecture:unet")
@pytest.mark.parametrize("choice", CASES.values(), ids=CASES)
class TestEveryArchitecture:
    def test_output_is_zero_or_small_at_initialisation(self, choice: Choice) -> None:
        x, r, t, y = inputs(torch.float32)
        out = build(choice)(x, r, t, y)
        assert out.shape == x.shape
        assert out.abs().max() <= (0 if Architecture.model_validate(choice).zero_at_init else 1e-3)

    def test_output_depends_on_every_input(self, choice: Choice) -> None:
        net = randomised(build(choice).double(), std=0.2)
        x, r, t, y = inputs()
        with torch.no_grad():
            base = net(x, r, t, y)
            changed = {
                "x": net(x + 0.1, r, t, y),
                "r": net(x, r / 2, t, y),
                "t": net(x, r, (t + 1) / 2, y),
                "y": net(x, r, t, y * 0 + 10),
            }
        least = {name: float((out - base).abs().amax(dim=(1, 2, 3)).min()) for name, out in changed.items()}
        if not Architecture.model_validate(choice).sees_landing_time:
            assert least.pop("r") == 0
        assert min(least.values()) > 1e-6, least

    def test_gradient_reaches_every_parameter(self, choice: Choice) -> None:
        kind = Architecture.model_validate(choice)
        x, r, t, y = inputs(n=22)
        net, g = full(choice)
        told = () if g is None else (g.repeat(5, 1)[:22],)
        heads = net.forward_heads(x, r, t, y, *told) if kind.accepts_velocity_head else (net(x, r, t, y, *told),)
        loss = sum(head.square().mean() for head in heads)
        if kind.accepts_log_variance:
            loss = loss + net.log_variance(t).square().mean()
        loss.backward()
        assert [name for name, p in net.named_parameters() if p.grad is None or p.grad.abs().max() == 0] == []

    def test_log_variance_head_changes_nothing_else(self, choice: Choice) -> None:
        without, with_head = build(choice), build(choice, log_variance=True)
        shared = without.state_dict()
        assert all(torch.equal(shared[name], with_head.state_dict()[name]) for name in shared)
        t = torch.rand(7)
        assert torch.equal(with_head.log_variance(t), torch.zeros(7))
        with pytest.raises(TypeError, match="without a log-variance head"):
            without.log_variance(t)

    @pytest.mark.oracle("O5")
    @pytest.mark.parametrize("with_dr", [False, True])
    def test_written_tangents_equal_forward_mode(self, choice: Choice, with_dr: bool) -> None:
        """With a graph and without: the two are written in different operations."""
        net, g = full(choice)
        x, r, t, y = inputs()
        dx, dr, dt = directions(x, t)
        arguments = (x, r, t, y, dx, dt)
        more = {"dr": dr if with_dr else None, "g": g}
        out, slope = net.forward_and_tangent(*arguments, **more)
        reference = Network.forward_and_tangent(net, *arguments, **more)
        told = () if g is None else (g,)
        assert_close(out, net(x, r, t, y, *told), rtol=1e-12, atol=1e-12)
        assert_close(slope, reference[1], rtol=1e-10, atol=1e-12)
        with torch.no_grad():
            assert_close(net.forward_and_tangent(*arguments, **more), reference, rtol=1e-10, atol=1e-12)
        assert slope.abs().max() > 1e-3

    def test_gradients_through_the_tangent_equal_those_through_forward_mode(
        self, choice: Choice, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Lagrangian objectives minimise over the derivative: reverse over the written rule, and over torch's.

        The reference has its LayerNorms written out: torch's gradients through those are wrong (pytorch issue 196700).
        """
        net, g = full(choice)
        x, r, t, y = inputs()
        dx, dr, dt = directions(x, t)
        x, r = x.requires_grad_(), r.requires_grad_()

        def gradients(both: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
            (both[0] * dx.cos() + both[1] * dx.sin()).sum().backward()
            found = {"x": x, "r": r, **dict(net.named_parameters())}
            taken = {name: p.grad for name, p in found.items() if p.grad is not None}
            for p in found.values():
                p.grad = None
            return taken

        written = gradients(net.forward_and_tangent(x, r, t, y, dx, dt, dr=dr, g=g))
        monkeypatch.setattr(unet_blocks, "layer_norm", plain_layer_norm)
        for module in net.modules():
            if isinstance(module, Norm) and module.normalise is layer_norm:
                module.normalise = plain_layer_norm
        reference = gradients(Network.forward_and_tangent(net, x, r, t, y, dx, dt, dr=dr, g=g))
        assert written.keys() == reference.keys()
        for name, gradient in reference.items():
            assert_close(written[name], gradient, rtol=1e-9, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}")

    @pytest.mark.oracle("O5")
    @pytest.mark.proves("architecture:mlp", "architecture:sit", "architecture:unet")
    def test_forward_mode_equals_central_differences(self, choice: Choice) -> None:
        """O5: the error of a central difference falls as h^2, far below what a float32 time embedding allows."""
        net = randomised(build(choice).double())
        x, r, t, y = inputs()
        dx, dt = torch.randn_like(x), torch.ones_like(t)
        with torch.no_grad():
            slope = net.forward_and_tangent(x, r, t, y, dx, dt)[1]

            def error(h: float) -> float:
                ahead, behind = net(x + h * dx, r, t + h * dt, y), net(x - h * dx, r, t - h * dt, y)
                return float(((ahead - behind) / (2 * h) - slope).norm() / slope.norm())

            assert 80 < error(1e-3) / error(1e-4) < 120
            assert error(1e-4) < 1e-3

    def test_runs_without_labels_on_unlabelled_data(self, choice: Choice) -> None:
        net = randomised(build(choice, classes=0))
        x, r, t, _ = inputs(torch.float32)
        assert net(x, r, t, None).shape == x.shape
        with pytest.raises(ValueError, match="labelled data"):
            build(choice)(x, r, t, None)


@pytest.mark.parametrize("name", accepting)
def test_velocity_head_shares_the_trunk_and_changes_nothing_else(name: str) -> None:
    plain, dual = build(CASES[name]), build(CASES[name], velocity_head=True)
    shared = plain.state_dict()
    assert all(torch.equal(shared[key], dual.state_dict()[key]) for key in shared)
    x, r, t, y = inputs()
    with pytest.raises(TypeError, match="without a velocity head"):
        plain.forward_heads(x.float(), r.float(), t.float(), y)
    net = randomised(dual.double())
    u, v = net.forward_heads(x, r, t, y)
    assert_close(u, net(x, r, t, y), rtol=1e-12, atol=1e-13)
    assert (u - v).abs().max() > 1e-4
    v.sum().backward()
    both = {key for key, p in net.named_parameters() if p.grad is not None}
    net.zero_grad()
    u = net(x, r, t, y)
    u.sum().backward()
    only_u = {key for key, p in net.named_parameters() if p.grad is not None}
    assert both & only_u, "the two heads share nothing"
    assert both - only_u, "the velocity head has nothing of its own"


@pytest.mark.parametrize("name", guided)
def test_guidance_inputs_are_told_and_asked_for(name: str) -> None:
    net = randomised(build(CASES[name], guidance_inputs=2).double())
    x, r, t, y = inputs()
    g = torch.rand(5, 2, dtype=torch.float64)
    base = net(x, r, t, y, g)
    for column in (0, 1):
        changed = g.clone()
        changed[:, column] += 0.5
        assert (net(x, r, t, y, changed) - base).abs().amax(dim=(1, 2, 3)).min() > 1e-6
    with pytest.raises(ValueError, match="guidance inputs"):
        net(x, r, t, y)
