"""The steps that `step.py` compares: ours, as the training loop makes it, and the straightforward one."""

from __future__ import annotations

import copy
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Any

import torch
from straight_sit import StraightSiT
from torch import Tensor

from ablate_core.architectures.base import Network
from ablate_core.architectures.native import written_out
from ablate_core.architectures.sit import SiT
from ablate_core.compute import ALONE, Compute
from ablate_core.config import TrainConfig
from ablate_core.ema import EMA
from ablate_core.flow_map import FlowMap
from ablate_core.guidance.omega_kappa import OmegaKappa
from ablate_core.objective import Batch, Objective
from ablate_core.random import Draws
from ablate_core.schedules import Schedule
from ablate_core.schedules.base import expand
from ablate_core.schedules.cosine01 import Cosine01
from ablate_core.schedules.linear import Linear
from ablate_core.state import State, rows_at
from ablate_core.targets.base import Regression
from ablate_core.targets.continuous import Continuous
from ablate_core.update import Update

GUIDED = {"name": "omega_kappa", "omega": 1.0, "kappa": 0.5}
METHODS: dict[str, Any] = {
    "fm": "fm",
    "meanflow": "meanflow",
    "meanflow, guided": {"name": "meanflow", "guidance": GUIDED},
    "esc": "esc",
    "esc, guided": {"name": "esc", "guidance": GUIDED},
    "sct_linear": "sct_linear",
    "sct": "sct",
}
STEP, TOTAL, CLASSES, DECAY = 30_000, 100_000, 10, 0.999


@dataclass(frozen=True)
class Size:
    architecture: SiT
    shape: tuple[int, int, int]
    batch: int


SIZES = {
    "tiny": Size(SiT(size="tiny/2"), (3, 8, 8), 32),
    "small": Size(SiT(size="S/2", depth=6, width=192, heads=3), (4, 16, 16), 32),
    "B2": Size(SiT(size="B/2"), (4, 32, 32), 32),
}


class Quarter(Draws):
    """Draws in which exactly a quarter of the rows have r != t where that goes by chance with probability 1/4."""

    def uniform(self, name: str, *shape: int) -> Tensor:
        if name != "time.equal":
            return super().uniform(name, *shape)
        order = torch.randperm(shape[0], generator=self._stream(name), device=self.device)
        return (order + 0.5) / shape[0]


class Run:
    """A network of a size with what a training step needs; `step` is one step."""

    def __init__(self, method: Any, size: Size, device: str, dtype: str) -> None:
        self.objective, self.size, self.device = Objective.model_validate(method), size, device
        self.schedule: Schedule = Cosine01() if method == "sct" else Linear()
        torch.manual_seed(0)
        head = self.objective.needs_log_variance
        self.net: Network = size.architecture.build(size.shape, CLASSES, log_variance=head).to(device)
        with torch.no_grad():  # what starts at zero would leave most gradients zero
            for p in self.net.parameters():
                p.add_(0.02 * torch.randn_like(p))
        self.parameters = list(self.net.parameters())
        self.autocast = dtype == "bf16"
        x0 = torch.randn(size.batch, *size.shape, device=device)
        self.batch = Batch(x0, torch.arange(size.batch, device=device) % CLASSES, CLASSES)
        self.count, self.compiled = 0, False

    def draws(self) -> Draws:
        return Quarter(1, self.count, device=self.device)

    def loss(self) -> Tensor:
        raise NotImplementedError

    def gradient(self) -> Tensor:
        """The gradient of one batch, all parameters in one."""
        self.differentiate()
        whole = torch.cat(
            [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in self.parameters]
        )
        self.forget()
        return whole

    def forget(self) -> None:
        """Empty the gradients."""
        for p in self.parameters:
            p.grad = None

    def differentiate(self) -> Tensor:
        with torch.autocast(self.device, torch.bfloat16, enabled=self.autocast):
            loss = self.loss()
        self.backward(loss)
        return loss

    def backward(self, loss: Tensor) -> None:
        loss.backward()  # type: ignore[no-untyped-call]

    def update(self) -> None:
        raise NotImplementedError

    def step(self) -> None:
        self.differentiate()
        self.update()
        self.count += 1


class Ours(Run):
    """The step of the training loop."""

    compute: Compute = ALONE

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.called = self.compute.network(self.net, "net")
        self.compiled = self.called is not self.net
        config = TrainConfig.model_validate({"steps": TOTAL, "batch_size": self.size.batch, "lr": 1e-4})
        flat = self.compute.flat(self.net)
        self.tail, self.ema = Update(config, self.net, flat), EMA(self.net, [DECAY], flat)

    def loss(self) -> Tensor:
        found = self.objective.loss(self.called, self.called, self.schedule, self.batch, self.draws(), STEP, TOTAL)
        return found.per_sample.mean()

    def backward(self, loss: Tensor) -> None:
        self.compute.backward(loss, self.tail.flat)

    def forget(self) -> None:
        assert self.tail.flat is not None
        self.tail.flat.unmet()
        self.tail.flat.empty_gradients()

    def update(self) -> None:
        self.tail.step(1e-4, self.ema.followers())


class Straightforward(Run):
    """The step as public code writes it (EDAPINENUT/ExplicitShortCut loss/meanflow_loss.py, train.py, arch/sit.py)."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.net = StraightSiT(self.net)
        self.target, self.average = copy.deepcopy(self.net), copy.deepcopy(self.net).requires_grad_(False)
        self.optimizer = torch.optim.Adam(self.parameters, lr=1e-4)

    @written_out(False)
    def loss(self) -> Tensor:
        objective, schedule = self.objective, self.schedule
        draws = self.draws()
        state = objective.state(schedule, self.batch, draws, STEP, TOTAL)
        state, _ = objective.estimated(state, draws)
        online, target = (FlowMap(net, objective.parameterization, schedule) for net in (self.net, self.target))
        x, times = state.x, state.times
        raw = online.raw(x, times.r, times.t, state.y)
        state, parts = self.guided(state, target)
        aim = online.comparable(state.v, x, times.t)
        if objective.limit.learns_jumps:
            there = torch.zeros_like(raw)
            for index in parts:
                slope = Continuous(jvp_backend="forward_ad").slope(target, rows_at(state, index))
                there[index] = objective.tangent.target(slope, STEP).detach()
            aim = torch.where(expand(times.fm, aim), aim, there)
        regression = Regression(online.compared(raw, x, times.t), aim)
        return objective.measured(regression, state, self.net)[1].mean()

    def guided(self, state: State, target: FlowMap) -> tuple[State, list[Tensor]]:
        """The state with guided velocities, and its rows in parts whose slopes are taken one after the other."""
        y, own = state.y, self.objective.guidance
        assert y is not None
        if not isinstance(own, OmegaKappa):
            return state, [torch.arange(len(y), device=y.device)]
        told, dropped = torch.where(y != state.null)[0], torch.where(y == state.null)[0]
        twice, t, labels = state.x[told].repeat(2, 1, 1, 1), state.times.t[told].repeat(2), y[told]
        with torch.no_grad():
            both = target.velocity(twice, t, t, torch.cat([labels, torch.full_like(labels, state.null)]))
            class_, null = both.chunk(2)
            v = own.omega * state.v[told] + own.kappa * class_ + (1 - own.omega - own.kappa) * null
        return replace(state, v=state.v.index_copy(0, told, v)), [part for part in (told, dropped) if len(part)]

    def update(self) -> None:
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0).item()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.target.zero_grad(set_to_none=True)
        average_of(self.average, self.net)
        self.target.load_state_dict(self.net.state_dict())


@torch.no_grad()
def average_of(average: Network, net: Network) -> None:
    """Move `average` towards `net`, one parameter after the other."""
    mine = OrderedDict(average.named_parameters())
    for name, weight in net.named_parameters():
        mine[name].mul_(DECAY).add_(weight.data, alpha=1 - DECAY)
