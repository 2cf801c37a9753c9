"""The training template: one loss for every method, composed of slots (docs/objectives.md; design-space 1.3).

    times    r <= s <= t                                  time_sampler
    state    x_t = alpha x0 + sigma e, velocity v         schedule, parameterization (its noise level)
    velocity v <- estimate, v <- guided                   velocity, guidance
    target   two steps t -> s -> r, their limit, or v     limit, first_step, second_step, tangent, target_network
    loss     weight * distance(prediction, target)        metric, weighting

The loss knows no method by name; a method is a row of choices in `methods/`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, field_validator, model_validator
from torch import Tensor

from ablate_core.architectures.base import Network
from ablate_core.batching import Batching
from ablate_core.component import Component, unknown_name
from ablate_core.first_steps import FirstStep
from ablate_core.flow_map import FlowMap
from ablate_core.guidance import Guidance
from ablate_core.host import on_host, sent
from ablate_core.loss_metrics import LossMetric
from ablate_core.methods import method
from ablate_core.parameterizations import Parameterization
from ablate_core.progress import LoggedRows
from ablate_core.random import Draws
from ablate_core.schedules import Schedule
from ablate_core.second_steps import SecondStep
from ablate_core.state import Batch as Batch
from ablate_core.state import State
from ablate_core.tangents import Tangent
from ablate_core.target_networks import TargetNetwork
from ablate_core.target_networks.none import NoTargetNetwork
from ablate_core.targets import Limit
from ablate_core.targets.base import Regression, same_outputs
from ablate_core.targets.none import NoLimit
from ablate_core.time_samplers import TimeSampler
from ablate_core.time_samplers.base import TimeSample
from ablate_core.velocities import Velocity
from ablate_core.weightings import Weighting


@dataclass(frozen=True)
class Loss:
    """What a training step minimises.

    Attributes:
        per_sample: (B,), with a graph; the trainer minimises its mean.
        scalars: detached numbers for the log, each of shape ().
        rows: what the log sums up by rows, only when it is written.
    """

    per_sample: Tensor
    scalars: dict[str, Tensor]
    rows: LoggedRows


class Objective(BaseModel):
    """A method's row of slot choices with the overrides of a space; fully resolved and frozen.

    Written ``objective: meanflow`` or ``objective: {name: esc, velocity: {prob: 0.2}}``: an override without a name, or
    with the row's own, is merged into the row's component; one with another name replaces it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str = Field(description="the row it started from; a label, outside every key")
    parameterization: SerializeAsAny[Parameterization]
    time_sampler: SerializeAsAny[TimeSampler]
    first_step: SerializeAsAny[FirstStep]
    second_step: SerializeAsAny[SecondStep]
    limit: SerializeAsAny[Limit]
    velocity: SerializeAsAny[Velocity]
    guidance: SerializeAsAny[Guidance]
    target_network: SerializeAsAny[TargetNetwork]
    metric: SerializeAsAny[LossMetric]
    weighting: SerializeAsAny[Weighting]
    tangent: SerializeAsAny[Tangent]
    batching: SerializeAsAny[Batching]
    label_dropout: float = Field(ge=0, le=1, description="probability that a row is trained without its class")

    @model_validator(mode="before")
    @classmethod
    def _from_row(cls, value: Any) -> Any:
        if isinstance(value, Objective):
            return value
        fields = {"name": value} if isinstance(value, str) else value
        if not isinstance(fields, dict) or "name" not in fields:
            raise ValueError(f"an objective is written as its name or as {{name: ..., slot: ...}}, got {value!r}")
        row = method(fields["name"]).slots
        for slot in fields:
            if slot not in cls.model_fields:
                raise ValueError(unknown_name("slot of an objective", slot, row))
        return {"name": fields["name"]} | {slot: _merged(row[slot], fields.get(slot, row[slot])) for slot in row}

    @field_validator("*", mode="after")
    @classmethod
    def _simplest(cls, value: Any) -> Any:
        return value.simplest() if isinstance(value, Component) else value

    @model_validator(mode="after")
    def _drop_unused_target_network(self) -> Self:
        if not self.uses_target_network:  # equal computations, equal configs
            self.__dict__["target_network"] = NoTargetNetwork()
        return self

    def preflight(self) -> None:
        """Cheap look whether the files of its components can be there. Raises ValueError, one line."""
        self.metric.preflight()
        self.target_network.preflight()

    @property
    def uses_target_network(self) -> bool:
        """True where a target or a guided velocity is computed with a network."""
        return self.limit.learns_jumps or self.guidance.needs_velocity or self.velocity.uses_network

    @property
    def trains_velocity(self) -> bool:
        """True where u(x, t, t), or a velocity head in its place, is trained: it may then be evaluated."""
        times, head = self.time_sampler, self.parameterization.needs_velocity_head
        return times.velocity_share > 0 or times.velocity_weight > 0 or head

    @property
    def random_landing_time(self) -> bool:
        """True where the model may be asked to land at any r, so that ``pushforward`` sampling is legal."""
        return self.time_sampler.random_landing_time

    @property
    def needs_log_variance(self) -> bool:
        """True where the network needs a log-variance head."""
        return self.weighting.needs_log_variance

    @property
    def guidance_inputs(self) -> int:
        """Number of guidance inputs per row that the network is told."""
        return len(self.guidance.inputs)

    @property
    def noise_std(self) -> float:
        """Standard deviation s0 of the noise that sampling starts from."""
        return self.parameterization.noise_std

    def start_time(self, schedule: Schedule) -> float:
        """The largest trained time, where sampling may start instead of at 1."""
        return self.time_sampler.start_time(schedule, self.noise_std)

    @property
    def last_time(self) -> float:
        """The smallest trained landing time, where sampling ends."""
        return self.time_sampler.last_time

    def predict(
        self,
        net: Network,
        schedule: Schedule,
        x: Tensor,
        r: Tensor,
        t: Tensor,
        y: Tensor | None,
        g: Tensor | None = None,
    ) -> Tensor:
        """The one-step map X_{t,r}(x) that samplers use.

        A network that learned the velocity only is evaluated at (t, t) and steps with its velocity.

        Args:
            net: the network.
            schedule: the flow path.
            x: states, (B, *shape).
            r: landing times, (B,), in [0, schedule.end], r <= t.
            t: start times, (B,).
            y: classes, (B,) int64 with num_classes as the null class, or None for unlabelled data.
            g: guidance inputs, (B, K), or None for a network without.

        Returns:
            (B, *shape), dtype of x.
        """
        flow_map = FlowMap(net, self.parameterization, schedule)
        asked = r if self.limit.learns_jumps else t
        return flow_map.landed(flow_map.velocity(x, asked, t, y, g), x, r, t)

    def velocity_at(
        self, net: Network, schedule: Schedule, x: Tensor, t: Tensor, y: Tensor | None, g: Tensor | None = None
    ) -> Tensor:
        """The marginal velocity v_t(x), (B, *shape), where `trains_velocity`; arguments as in `predict`."""
        return FlowMap(net, self.parameterization, schedule).marginal(x, t, y, g)

    def loss(
        self,
        net: Network,
        target_net: Network,
        schedule: Schedule,
        batch: Batch,
        draws: Draws,
        step: int,
        total_steps: int,
    ) -> Loss:
        """The loss of one batch.

        Args:
            net: the online network; gradients flow into it alone.
            target_net: what targets are computed with: `net` itself, or the copy that `target_network` asks for.
            schedule: the flow path.
            batch: data and classes.
            draws: random numbers of this step.
            step: optimiser step, from 0.
            total_steps: optimiser steps of the whole run; grids that are refined while training follow step / total.

        Raises:
            ValueError: where guidance meets unlabelled data.
        """
        state = self.state(schedule, batch, draws, step, total_steps)
        target = FlowMap(target_net, self.parameterization, schedule)
        state, scalars = self.estimated(state, draws)
        direction = self.velocity.direction(target, state)
        if direction is not None:
            state = replace(state, direction=direction)
        online = self.guidance.wrap_online(FlowMap(net, self.parameterization, schedule), state)
        state = self.guided(online, target, state)
        regression = self.limit.regress(self, online, target, state, step)
        distance, weighted, extra = self.measured(regression, state, net)
        if state.times.velocity_t is not None:
            second = self.velocity_term(online, target, state, draws, step)
            _, weighted_second, _ = self.measured(*second, net)
            share = self.time_sampler.velocity_weight
            weighted = (1 - share) * weighted + share * weighted_second
        scalars = scalars | regression.scalars | extra | {"target_variance": variance(regression.target)}
        end, times = state.schedule.end, state.times
        return Loss(weighted, scalars, LoggedRows(distance.detach(), times.t if end == 1 else times.t / end, times.fm))

    def state(self, schedule: Schedule, batch: Batch, draws: Draws, step: int, total_steps: int) -> State:
        """Times, noise, noisy states, conditional velocities and dropped labels of a batch."""
        n = len(batch.x0)
        # Everything that is one number per row is drawn and decided on the host (`ablate_core.host`).
        here, device = draws.on_host(), batch.x0.device
        known = self.time_sampler.sample(
            n, here, schedule=schedule, noise_std=self.noise_std, step=step, total_steps=total_steps
        )
        if schedule.unit_time and schedule.end < 1:
            known = known.up_to(schedule.end)
        times = known.sent(device)
        noise = draws.normal("noise", *batch.x0.shape)
        if self.noise_std != 1:
            noise = self.noise_std * noise
        x, v = schedule.interpolate(batch.x0, noise, times.t)
        y = batch.y
        if y is not None and self.label_dropout:  # the labels reach the network also with dropout 0 (defect D19)
            dropped = here.uniform("dropout.label", n) < self.label_dropout
            if self.time_sampler.label_rows == "fm":
                dropped &= known.fm
            y = sent(on_host(y).masked_fill(dropped, batch.num_classes), device)
        g = None
        if self.guidance.inputs:
            if y is None:
                raise ValueError("guidance needs labelled data; set objective.guidance: none for this data set")
            g = self._told(on_host(y) != batch.num_classes, known.fm, here, device)
        return State(
            schedule=schedule,
            noise_std=self.noise_std,
            x0=batch.x0,
            noise=noise,
            x=x,
            v=v,
            times=times,
            labels=batch.y,
            y=y,
            null=batch.num_classes,
            g=g,
        )

    def _told(self, kept: Tensor, fm: Tensor, draws: Draws, device: torch.device) -> Tensor | None:
        """The guidance inputs of a batch, drawn on the host."""
        g = self.guidance.draw(kept, fm, draws)
        return None if g is None else sent(g, device)

    def estimated(self, state: State, draws: Draws) -> tuple[State, dict[str, Tensor]]:
        """The state with the velocity estimate that targets use, in the form that the parameterization can reach."""
        v, scalars = self.velocity.estimate(state, draws)
        return state.with_velocity(self.parameterization.data_velocity(v, state.times.t, state.schedule)), scalars

    def guided(self, online: FlowMap, target: FlowMap, state: State) -> State:
        """The state with the velocity after guidance, without what the prediction of its own rows will give."""
        if not (self.guidance.needs_velocity and self.limit.shares_prediction and same_outputs(online, target)):
            return state.with_velocity(self.guidance.guide(target, state))
        fm, r, t = (on_host(of) for of in (state.times.fm, state.times.r, state.times.t))
        own = fm & (r == t)
        v, lacking = self.guidance.guide_beside(target, state, own)
        return replace(state, v=v, own=lacking)

    def measured(self, regression: Regression, state: State, net: Network) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Distance (B,), weighted distance (B,) and the weighting's scalars; a velocity head's distance is added."""
        distance = self.distance(regression.prediction, regression.target, state)
        if regression.velocity_head is not None:
            own = FlowMap(net, self.parameterization, state.schedule)
            aim = own.comparable(state.v, state.x, state.times.t, state.g)
            distance = distance + self.distance(regression.velocity_head, aim, state)
        weighted, extra = self.weighting.weigh(
            distance, state, lambda t: net.log_variance(state.schedule.network_time(t))
        )
        assert weighted.shape == (len(state.x0),), f"a loss is (B,), got {tuple(weighted.shape)}"
        return distance, weighted, extra

    def velocity_term(
        self, online: FlowMap, target: FlowMap, state: State, draws: Draws, step: int
    ) -> tuple[Regression, State]:
        """The second, flow matching term of time samplers that draw times for one: same data, noise and labels."""
        t = state.times.velocity_t
        assert t is not None
        x, v = state.schedule.interpolate(state.x0, state.noise, t)
        everywhere = torch.ones_like(on_host(state.times.fm))
        times = TimeSample(r=t, s=t, t=t, fm=sent(everywhere, t.device))
        g = self._told(state.kept, everywhere, draws.on_host(), t.device) if self.guidance.inputs else None
        second, _ = self.estimated(replace(state, times=times, x=x, v=v, g=g, direction=None, own=None), draws)
        second = self.guided(online, target, second)
        return NoLimit().regress(self, online, target, second, step), second

    def distance(self, prediction: Tensor, aim: Tensor, state: State) -> Tensor:
        """Unweighted distance per row, (B,)."""
        assert not aim.requires_grad, "a target carries no graph"
        own, times, schedule = self.parameterization, state.times, state.schedule
        straight = own.moves_straight(schedule)
        reach = times.t - times.r if straight else own.jump(schedule, times.t, times.r).move.abs()
        scale = own.output_scale(times.t, schedule, state.g)
        reach = reach if scale is None else reach * scale.abs()
        distance = self.metric.distance(prediction, aim, group=times.group, reach=reach)
        assert distance.shape == times.t.shape, f"a distance is (B,), got {tuple(distance.shape)}"
        return distance


def variance(target: Tensor) -> Tensor:
    """Mean over the entries of a target, (B, *shape), of its variance over the batch: how noisy it is."""
    centred = torch.sub(target, target.sum(0), alpha=1 / len(target)).flatten(1)
    length: Tensor = torch.linalg.vector_norm(torch.linalg.vector_norm(centred, dim=1))  # of all at once it is rough
    return length.square() / target.numel()


def _merged(row: Any, override: Any) -> Any:
    """The row's choice for a slot with an override: merged where the name is absent or the same, else replaced."""
    if isinstance(override, Component) or not isinstance(row, str | dict):
        return override
    base = {"name": row} if isinstance(row, str) else row
    fields = {"name": override} if isinstance(override, str) else override
    if not isinstance(fields, dict):
        return override
    return base | fields if fields.get("name", base["name"]) == base["name"] else fields
