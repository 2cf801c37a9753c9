"""A stack of networks gives what the networks give one by one, and their gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ablate_core.architectures import Architecture
from ablate_core.architectures.mlp import MLP
from ablate_core.architectures.sit import SiT
from ablate_core.flat import Flat
from ablate_core.packing.calls import Call, Kind, called
from ablate_core.packing.rendezvous import evened, made_as_one
from ablate_core.packing.stack import Stack, require_alike
from ablate_core.packing.stacked import UnstackableError

CLASSES, SHAPE = 3, (2, 4, 4)
TINY = {"size": "tiny/2", "depth": 3, "width": 16, "heads": 2}
NETWORKS: dict[str, tuple[Architecture, dict[str, Any]]] = {
    "mlp": (MLP(width=8), {"log_variance": True, "velocity_head": True, "guidance_inputs": 2}),
    "sit": (SiT(**TINY), {"log_variance": True}),
    "heads": (SiT(**TINY), {"velocity_head": True, "guidance_inputs": 3}),
    "in_context": (
        SiT(**TINY, conditioning="in_context", position="learned", rope="1d", mlp="swiglu", attention_bias=False,
            norm="rms", norm_affine=True, qk_norm=True, time_inputs="gap", patch_bottleneck=4, init="imf"),
        {"velocity_head": True, "guidance_inputs": 3, "log_variance": True},
    ),
    "decoupled": (
        SiT(**TINY, conditioning="decoupled", decoupled_blocks=1, norm_affine=True, modulation_norm=True, rope="2d",
            position="none", init="spectral"),
        {"guidance_inputs": 1},
    ),
}  # fmt: skip


def networks(name: str, count: int = 3) -> list[Any]:
    architecture, heads = NETWORKS[name]
    nets = []
    for seed in range(count):
        torch.manual_seed(seed)
        net = architecture.build(SHAPE, CLASSES, **heads).double()
        for p in net.parameters():
            torch.nn.init.normal_(p, std=0.3)  # nothing starts at zero, where every mistake would look right
        nets.append(net)
    return nets


def inputs(rows: int, guidance: int) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(rows)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw, dtype=torch.float64)

    r = torch.rand(rows, generator=draw, dtype=torch.float64) / 2
    given = {"x": normal(rows, *SHAPE), "r": r, "t": r + 0.3, "y": torch.arange(rows) % (CLASSES + 1)}
    return given | ({"g": normal(rows, guidance).sigmoid()} if guidance else {})


@pytest.mark.parametrize("graph", [True, False], ids=["graph", "no graph"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_stack_is_its_networks_side_by_side(name: str, graph: bool) -> None:
    """Every method, with equal rows and (without a graph) unequal ones, of all members and of a part of them."""
    nets, heads = networks(name), NETWORKS[name][1]
    stack = Stack([Flat(net) for net in nets])
    methods = ["forward", "forward_and_tangent"]
    methods += ["forward_heads"] * heads.get("velocity_head", False) + ["log_variance"] * heads.get(
        "log_variance", False
    )
    for method in methods:
        for members, counts in [((0, 1, 2), (4, 4, 4)), ((0, 2), (4, 4)), ((0, 1, 2), (2, 5, 1)), ((1, 2), (3, 1))]:
            if graph and len(set(counts)) > 1:
                continue
            given = [inputs(rows, heads.get("guidance_inputs", 0)) for rows in counts]
            if method == "forward_and_tangent":
                given = [{**one, "dx": one["x"].flip(0), "dt": one["t"]} for one in given]
            joined = {key: torch.cat([one[key] for one in given]) for key in given[0]}
            with torch.set_grad_enabled(graph):
                module = stack.module(members, counts if len(set(counts)) > 1 else None)
                ours = _flat(called(module, method, joined))
                theirs = [_flat(called(nets[i], method, one)) for i, one in zip(members, given, strict=True)]
                torch.testing.assert_close(ours, torch.cat(theirs), rtol=1e-10, atol=1e-10)
            if graph:
                _same_gradients(stack, members, ours, theirs)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_stack_carries_other_tangents_for_each_of_its_networks(name: str, device: str) -> None:
    """One call of all, or of two of them with unequal rows: some want a tangent of their last rows, one none.

    As a CPU does it, and as other devices do: as many tangents of each as of the one that wants most.
    """
    nets, heads = networks(name), NETWORKS[name][1]
    stack = Stack([Flat(net) for net in nets])
    for members, counts, tangents in [
        ((0, 1, 2), (4, 4, 4), (3, 0, 1)),
        ((0, 2), (5, 3), (2, 3)),
        ((1, 2), (2, 2), (2, 2)),
    ]:
        calls, theirs = [], []
        for place, rows, wanted in zip(members, counts, tangents, strict=True):
            given = inputs(rows, heads.get("guidance_inputs", 0))
            beside = (given["x"].flip(0)[rows - wanted :], given["t"][rows - wanted :]) if wanted else None
            kind = Kind("net", "forward", (), True, None)
            calls.append(Call(stack.flats[place], kind, given, rows, beside))
            theirs.append(called(nets[place], "forward", given, beside))
        carried = evened(tangents, min(counts), torch.device(device))
        assert (len(set(carried)) == 1) == (device == "cuda" or len(set(tangents)) == 1)
        ours = made_as_one(stack.module(members, tangents=carried), calls, max(counts), carried)
        torch.testing.assert_close(list(ours), theirs, rtol=1e-10, atol=1e-10)
        values = [
            [one if wanted == 0 else one[0] for one, wanted in zip(outs, tangents, strict=True)]
            for outs in (ours, theirs)
        ]
        _same_gradients(stack, members, torch.cat(values[0]), values[1])


def _flat(out: Any) -> Tensor:
    """All outputs of a call, (rows, entries)."""
    return torch.cat([x.reshape(len(x), -1) for x in (out if isinstance(out, tuple) else (out,))], dim=1)


def _same_gradients(stack: Stack, members: tuple[int, ...], ours: Tensor, theirs: list[Tensor]) -> None:
    ours.square().sum().backward()
    stack.hand_out_gradients({stack.flats[i] for i in members})
    for place, out in zip(members, theirs, strict=True):
        flat = stack.flats[place]
        assert flat.whole.grad is not None
        packed = flat.whole.grad.clone()
        flat.whole.grad = None
        out.square().sum().backward()
        flat.gather_gradients()
        assert flat.whole.grad is not None
        torch.testing.assert_close(packed, flat.whole.grad, rtol=1e-10, atol=1e-10)
        flat.whole.grad = None


def test_weights_moved_into_a_stack_are_one_storage_and_hold_what_they_held() -> None:
    nets = networks("sit", 2)
    before = [{name: p.clone() for name, p in net.state_dict().items()} for net in nets]
    stack = Stack([Flat(net) for net in nets])
    for net, kept in zip(nets, before, strict=True):
        torch.testing.assert_close(net.state_dict(), kept, rtol=0, atol=0)
    nets[1].output.weight.data.fill_(7.0)
    assert (stack.weights == 7.0).sum() == nets[1].output.weight.numel()


def test_networks_that_differ_are_not_stacked() -> None:
    small, other = networks("sit")[:1], networks("decoupled")[:1]
    with pytest.raises(UnstackableError, match="differ"):
        require_alike([*small, *other])
    frozen = networks("sit")[0].requires_grad_(False)
    with pytest.raises(UnstackableError, match="differ"):
        require_alike([*small, frozen])


def test_an_optimisers_state_is_split_and_joined_again() -> None:
    flat = Flat(networks("mlp")[0])
    optimizer = torch.optim.Adam([flat.whole])
    flat.whole.grad = torch.arange(float(len(flat.whole)), dtype=torch.float64)
    optimizer.step()
    apart = flat.split(optimizer.state_dict())
    ordinary = torch.optim.Adam(flat.net.parameters())
    ordinary.load_state_dict(apart)
    for p, shape in zip(flat.net.parameters(), flat.parts.values(), strict=True):
        assert ordinary.state[p]["exp_avg"].shape == shape[1]
    again = flat.joined(apart)["state"][0]
    for name, part in flat.named(again["exp_avg"]).items():
        torch.testing.assert_close(part, flat.named(optimizer.state[flat.whole]["exp_avg"])[name], rtol=0, atol=0)


def test_a_gradient_of_a_stack_that_is_to_be_differentiated_is_refused() -> None:
    """Also where the gradient of the output is a constant: that of the input would pass for one."""
    stack, given = Stack([Flat(net) for net in networks("mlp")]), inputs(6, 2)
    given["x"].requires_grad_()
    loss = stack.module(range(3))(**given).sum()
    with pytest.raises(RuntimeError, match="differentiated again"):
        torch.autograd.grad(loss, given["x"], create_graph=True)
    loss.backward()
