"""What a choice of a slot keeps: in a published row that can hold it, the loss is what the trainer expects."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, get_args, get_origin

import torch
from torch import Tensor

from ablate_core.architectures.base import Network
from ablate_core.architectures.mlp import MLP
from ablate_core.component import Component
from ablate_core.config import TrialConfig
from ablate_core.legality import check
from ablate_core.methods import METHODS
from ablate_core.objective import Batch, Loss, Objective
from ablate_core.random import Draws
from ablate_core.schedules import Schedule
from ablate_core.testing.components import holds

ROWS, CLASSES = 64, 5


def _slots() -> dict[str, str]:
    found = {}
    for slot, field in Objective.model_fields.items():
        kind = get_args(field.annotation)[0] if get_origin(field.annotation) is not None else field.annotation
        if isinstance(kind, type) and issubclass(kind, Component):
            found[kind.axis] = slot
    return found


SLOTS = _slots()
"""Axis -> the slot of an objective that holds its components."""

NetworkOf = Callable[[int, torch.dtype], Network]
"""(seed, dtype) -> a network with random weights for the objective at hand."""


def row_with(component: Component, companions: Mapping[str, Any] | None = None) -> tuple[Objective, Schedule]:
    """The first published row that can hold the component, and a path on which that is legal.

    Where no row can as it is, one more slot is changed; `companions` says which slots have to be, and to what.
    Raises AssertionError with the last reason where no row can hold it.
    """
    slot, reason = SLOTS[component.axis], "it collapses into another component"
    given = dict(companions or {})
    for name, more in itertools.chain(_rows(slot), _rows(slot, companions=True) if not given else ()):
        try:
            objective = Objective.model_validate({"name": name, **more, **given, slot: component})
        except ValueError:  # the companion needs more than its name
            continue
        if getattr(objective, slot) != component:
            continue
        for path in dict.fromkeys([METHODS[name].path, *sorted(Schedule.choices)]):
            found = next((p for p in check(_trial(objective, path)) if p.level == "error" and p.code != "C25"), None)
            if found is None:
                return objective, Schedule.model_validate(path)
            reason = str(found)
    raise AssertionError(f"{component!r}: no published row can hold it, with one more slot changed either; {reason}")


def _rows(slot: str, companions: bool = False) -> Iterator[tuple[str, dict[str, Any]]]:
    for name in METHODS:
        if not companions:
            yield name, {}
            continue
        for field in Objective.model_fields.values():
            kind = get_args(field.annotation)[0] if get_origin(field.annotation) is not None else field.annotation
            if isinstance(kind, type) and issubclass(kind, Component) and SLOTS[kind.axis] != slot:
                yield from ((name, {SLOTS[kind.axis]: choice}) for choice in sorted(kind.choices))


def _trial(objective: Objective, path: str) -> TrialConfig:
    """A trial of the objective on labelled images; whether their standard deviation fits is not asked (C25)."""
    fields: dict[str, Any] = {"schedule": path, "objective": objective, "architecture": "mlp", "data": "digits"}
    return TrialConfig.model_validate({**fields, "train": {"steps": 600_000, "batch_size": ROWS}})


def loss_of(
    objective: Objective, schedule: Schedule, network: NetworkOf, *, seed: int = 0, dtype: torch.dtype = torch.float64
) -> tuple[Loss, Network]:
    """One training step's loss on random data, and the network it was computed with."""
    net, target = network(0, dtype), network(1, dtype)
    g = torch.Generator().manual_seed(0)
    x0 = 0.5 * torch.randn(ROWS, *shape_of(objective), generator=g, dtype=torch.float64)
    batch = Batch(x0.to(dtype), torch.arange(ROWS) % CLASSES, CLASSES)
    return objective.loss(net, target, schedule, batch, Draws(seed, 3, dtype=dtype), 600, 1000), net


def shape_of(objective: Objective) -> tuple[int, ...]:
    """Shape of a sample: an image where the metric needs one."""
    return (3, 2, 2) if objective.metric.needs_images else (2, 3)


def small_network(objective: Objective) -> NetworkOf:
    """Small multilayer perceptrons with random weights and the heads that the objective needs."""

    def make(seed: int, dtype: torch.dtype) -> Network:
        net = MLP(width=8, depth=2, frequencies=2).build(
            shape_of(objective),
            CLASSES,
            log_variance=objective.needs_log_variance,
            velocity_head=objective.parameterization.needs_velocity_head,
            guidance_inputs=objective.guidance_inputs,
        )
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        return net.to(dtype)

    return make


def keeps_the_contract(
    objective: Objective,
    schedule: Schedule,
    network: NetworkOf,
    unused: Callable[[str], bool] = lambda parameter: False,
) -> None:
    """The loss is (B,), finite, repeatable and trains every parameter that is not `unused`, in both precisions."""
    said = f"{objective.name} on {schedule.name}"
    loss, net = loss_of(objective, schedule, network)
    holds(loss.per_sample.shape == (ROWS,), f"{said}: the loss is {tuple(loss.per_sample.shape)}, not (B,)")
    holds(torch.isfinite(loss.per_sample).all(), f"{said}: the loss is not finite")
    holds(loss.per_sample.requires_grad, f"{said}: the loss carries no graph")
    for name, value in loss.scalars.items():
        holds(value.shape == () and not value.requires_grad, f"{said}: scalar {name} is no detached number")
    loss.per_sample.mean().backward()  # type: ignore[no-untyped-call]
    for name, parameter in net.named_parameters():
        grad = parameter.grad
        holds(grad is None or torch.isfinite(grad).all(), f"{said}: the gradient of {name} is not finite")
        holds(unused(name) or _moves(grad), f"{said}: no gradient reaches {name}")
    again, _ = loss_of(objective, schedule, network)
    holds(torch.equal(loss.per_sample, again.per_sample), f"{said}: one seed gives two losses; use `draws`")
    other, _ = loss_of(objective, schedule, network, seed=1)
    holds(not torch.equal(loss.per_sample, other.per_sample), f"{said}: two seeds give one loss")
    single, _ = loss_of(objective, schedule, network, dtype=torch.float32)
    good = single.per_sample.dtype == torch.float32 and bool(torch.isfinite(single.per_sample).all())
    holds(good, f"{said}: in float32 the loss is {single.per_sample.dtype} or not finite")


def _moves(gradient: Tensor | None) -> bool:
    return gradient is not None and float(gradient.abs().max()) > 0


def can_be_trained(component: Component, companions: Mapping[str, Any] | None = None) -> None:
    """The component's loss keeps the contract of losses, in the first published row that can hold it."""
    objective, schedule = row_with(component, companions)
    keeps_the_contract(objective, schedule, small_network(objective))


CHECKS: tuple[Callable[..., None], ...] = (can_be_trained,)
