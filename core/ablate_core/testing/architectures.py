"""What a network keeps: inputs, heads, initialisation, derivatives (O5, O21). Run on 1 x 8 x 8 images or 4 numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ablate_core.architectures.base import Architecture, Network
from ablate_core.testing.components import close, holds

CLASSES = 10
SHAPES: tuple[tuple[int, ...], ...] = ((1, 8, 8), (4,))


def build(architecture: Architecture, classes: int = CLASSES, **more: Any) -> tuple[Network, tuple[int, ...]]:
    """A fresh network of seed 0 for the first of `SHAPES` that it takes, built as the trainer does, and that shape."""
    refused = ""
    for shape in SHAPES:
        torch.manual_seed(0)
        try:
            return architecture.build(shape, classes, **{"log_variance": False, **more}), shape
        except ValueError as error:
            refused = str(error)
    raise AssertionError(f"{architecture.name}: builds for none of {SHAPES}: {refused}")


def full(architecture: Architecture) -> tuple[Network, tuple[int, ...], dict[str, Tensor]]:
    """A network with every option it accepts and random weights in float64, its shape, and its guidance inputs."""
    more: dict[str, Any] = {"log_variance": architecture.accepts_log_variance}
    if architecture.accepts_velocity_head:
        more["velocity_head"] = True
    if architecture.accepts_guidance:
        more["guidance_inputs"] = 2
    net, shape = build(architecture, **more)
    g = torch.rand(22, 2, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    return randomised(net), shape, {"g": g} if architecture.accepts_guidance else {}


def randomised(net: Network, std: float = 0.2) -> Network:
    """Random weights in float64: a fresh network has no derivative at all, and most faults would pass."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in net.double().parameters():
            parameter.normal_(std=std, generator=generator)
    return net


def inputs(shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, r, t and y of 22 rows: every class twice, the null class too."""
    g = torch.Generator().manual_seed(2)
    x = torch.randn(22, *shape, generator=g, dtype=dtype)
    t = 0.05 + 0.9 * torch.rand(22, generator=g, dtype=dtype)
    r = t * (0.05 + 0.9 * torch.rand(22, generator=g, dtype=dtype))
    return x, r, t, torch.arange(22) % (CLASSES + 1)


def starts_at_zero(architecture: Architecture) -> None:
    """The output of a fresh network is exactly 0 (small where not `zero_at_init`), of x's shape and dtype."""
    net, shape = build(architecture)
    x, r, t, y = inputs(shape, torch.float32)
    out = net(x, r, t, y)
    holds(out.shape == x.shape and out.dtype == x.dtype, f"{architecture.name}: output {tuple(out.shape)}, {out.dtype}")
    bound, largest = 0.0 if architecture.zero_at_init else 1e-3, float(out.detach().abs().max())
    holds(largest <= bound, f"{architecture.name}: a fresh network gives up to {largest:g}; set its last layer to 0")
    weights = [p.detach().clone() for p in net.parameters()]
    again, _ = build(architecture)
    same = all(torch.equal(a, b) for a, b in zip(weights, again.parameters(), strict=True))
    holds(same, f"{architecture.name}: two networks of one seed differ; draw from torch's global generator")


def sees_every_input(architecture: Architecture) -> None:
    """The output changes with x, t, y and, where the architecture says so, r and g; and with no other row."""
    net, shape, more = full(architecture)
    x, r, t, y = inputs(shape)
    with torch.no_grad():
        base = net(x, r, t, y, **more)
        changed = {
            "x": net(x + 0.1, r, t, y, **more),
            "t": net(x, r, (t + 1) / 2, y, **more),
            "y": net(x, r, t, (y + 1) % (CLASSES + 1), **more),
            **({"g": net(x, r, t, y, g=more["g"] + 0.5)} if more else {}),
        }
        landing = net(x, r / 2, t, y, **more)
        alone = net(x[3:4], r[3:4], t[3:4], y[3:4], **{name: g[3:4] for name, g in more.items()})
    for name, out in {**changed, **({"r": landing} if architecture.sees_landing_time else {})}.items():
        least = float((out - base).flatten(1).abs().amax(1).min())
        holds(least > 1e-7, f"{architecture.name}: the output does not depend on {name}")
    if not architecture.sees_landing_time:
        holds(torch.equal(landing, base), f"{architecture.name}: declares that it does not see r, and depends on it")
    close(alone, base[3:4], f"{architecture.name}: a row by itself is not the row in a batch", rtol=1e-9, atol=1e-10)


def trains_every_parameter(architecture: Architecture) -> None:
    """A finite gradient, not 0, in every parameter."""
    net, shape, more = full(architecture)
    x, r, t, y = inputs(shape)
    heads = net.forward_heads(x, r, t, y, **more) if architecture.accepts_velocity_head else (net(x, r, t, y, **more),)
    close(heads[0], net(x, r, t, y, **more), f"{architecture.name}: the first head is not forward", rtol=1e-10)
    loss = torch.stack([head.square().mean() for head in heads]).sum()
    if architecture.accepts_log_variance:
        variance = net.log_variance(t)
        holds(variance.shape == t.shape, f"{architecture.name}: log_variance is {tuple(variance.shape)}, not (B,)")
        loss = loss + variance.square().mean()
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = {name: p.grad for name, p in net.named_parameters() if p.requires_grad}
    dead = [name for name, g in gradients.items() if g is None or not torch.isfinite(g).all() or not g.abs().max() > 0]
    holds(not dead, f"{architecture.name}: no gradient, or none that is finite, in {', '.join(dead)}")


def differentiates_itself(architecture: Architecture) -> None:
    """forward_and_tangent equals torch's forward mode, with and without dr, and central differences; if `jvp_safe`."""
    if not architecture.jvp_safe:
        return
    net, shape, more = full(architecture)
    x, r, t, y = inputs(shape)
    g = torch.Generator().manual_seed(5)
    dx = torch.randn(x.shape, generator=g, dtype=x.dtype)
    dt, dr = (torch.rand(t.shape, generator=g, dtype=x.dtype) for _ in range(2))
    with torch.no_grad():
        for along in (None, dr):
            said = f"{architecture.name}: the tangent along {'(dx, dt)' if along is None else '(dx, dr, dt)'}"
            given = {**more, **({} if along is None else {"dr": along})}
            out, slope = net.forward_and_tangent(x, r, t, y, dx, dt, **given)
            reference = Network.forward_and_tangent(net, x, r, t, y, dx, dt, **given)
            close(out, net(x, r, t, y, **more), f"{said}: its output is not forward", rtol=1e-10, atol=1e-11)
            close(slope, reference[1], f"{said}, and torch's", rtol=1e-8, atol=1e-10)
            h, moved = 1e-5, torch.zeros_like(r) if along is None else along
            ahead, behind = (net(x + d * dx, r + d * moved, t + d * dt, y, **more) for d in (h, -h))
            error = float(((ahead - behind) / (2 * h) - slope).norm() / slope.norm())
            holds(error < 1e-3, f"{said} is off its central difference by {error:.1e}")


def takes_unlabelled_data(architecture: Architecture) -> None:
    """Built for no classes it takes y = None; built for some it refuses that with a ValueError."""
    net, shape = build(architecture, classes=0)
    x, r, t, _ = inputs(shape, torch.float32)
    holds(net(x, r, t, None).shape == x.shape, f"{architecture.name}: another shape for unlabelled data")
    labelled, _ = build(architecture)
    try:
        labelled(x, r, t, None)
    except ValueError:
        return
    raise AssertionError(f"{architecture.name}: built for labels, it takes y = None without a ValueError")


def adds_options_last(architecture: Architecture) -> None:
    """What an option adds changes no other initial weight: arms with and without it start alike. Else: ValueError."""
    plain, shape = build(architecture)
    if not architecture.accepts_log_variance:
        try:
            architecture.build(shape, CLASSES, log_variance=True)
        except ValueError:
            return
        raise AssertionError(f"{architecture.name}: has no log-variance head, and builds one without a ValueError")
    with_head, _ = build(architecture, log_variance=True)
    own, more = plain.state_dict(), with_head.state_dict()
    holds(all(torch.equal(own[name], more[name]) for name in own), f"{architecture.name}: the head moves other weights")
    zero = with_head.log_variance(torch.rand(7)).detach().abs().max()
    holds(zero == 0, f"{architecture.name}: a fresh log-variance head gives {float(zero):g}, not 0")


CHECKS: tuple[Callable[[Any], None], ...] = (
    starts_at_zero,
    sees_every_input,
    trains_every_parameter,
    differentiates_itself,
    takes_unlabelled_data,
    adds_options_last,
)
