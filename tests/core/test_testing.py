"""The checks that the author of a plug-in runs: each refuses the defects it is there for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from pydantic import Field
from torch import Tensor, nn

from ablate_core.architectures import Architecture
from ablate_core.architectures.mlp import MLP, MLPNetwork
from ablate_core.datasets.base import Samples
from ablate_core.datasets.gaussians import Gaussians
from ablate_core.loss_metrics.l2_mean import L2Mean
from ablate_core.schedules.base import Jump, PathPoint
from ablate_core.schedules.linear import Linear
from ablate_core.testing import architectures as networks
from ablate_core.testing import checks_of, components, datasets, objectives, schedules, time_samplers
from ablate_core.time_samplers.base import TimeSample
from ablate_core.time_samplers.ln_minmax import LnMinmax

Shared = ClassVar[bool]  # a class that is `shared` itself is not registered: nobody else sees these


class Ends(Linear):
    shared: Shared = True

    def at(self, t: Tensor) -> PathPoint:
        return super().at(0.9 * t)


class Circular(Linear):
    shared: Shared = True
    circular: ClassVar[bool] = True


class WrongSlope(Linear):
    shared: Shared = True

    def at(self, t: Tensor) -> PathPoint:
        return super().at(t)._replace(d_sigma=2 * torch.ones_like(t))


class NoShape(Linear):
    shared: Shared = True

    def at(self, t: Tensor) -> PathPoint:
        return super().at(t)._replace(d_sigma=torch.ones(()))


class Backwards(Linear):
    shared: Shared = True

    def at(self, t: Tensor) -> PathPoint:
        return PathPoint(1 - t, -t, -torch.ones_like(t), -torch.ones_like(t))


class Drifts(Linear):
    shared: Shared = True

    def interpolate(self, x0: Tensor, noise: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        x, v = super().interpolate(x0, noise, t)
        return x, 1.01 * v


class Overshoots(Linear):
    shared: Shared = True

    def jump(self, t: Tensor, r: Tensor) -> Jump:
        return Jump(torch.ones_like(t), 1.01 * (r - t))


class WrongRate(Linear):
    shared: Shared = True

    def d_jump(self, t: Tensor, r: Tensor) -> Jump:
        return Jump(torch.zeros_like(t), torch.ones_like(t))


class NoInfinity(Linear):
    shared: Shared = True

    def time_of_ratio(self, ratio: Tensor) -> Tensor:
        return ratio / (1 + ratio)


class OtherInverse(Linear):
    shared: Shared = True

    def time_of_ratio(self, ratio: Tensor) -> Tensor:
        return ratio.clamp(max=1.0)


class Upcasts(Linear):
    shared: Shared = True

    def at(self, t: Tensor) -> PathPoint:
        return super().at(t.double())


class Swapped(LnMinmax):
    shared: Shared = True

    def sample(self, *args: Any, **more: Any) -> TimeSample:
        times = super().sample(*args, **more)
        return TimeSample(r=times.t, s=times.t, t=times.r, fm=times.fm)


class SaysMore(LnMinmax):
    shared: Shared = True

    @property
    def velocity_share(self) -> float:
        return 0.9


class SaysData(LnMinmax):
    shared: Shared = True
    random_landing_time: ClassVar[bool] = False


class SaysBetween(LnMinmax):
    shared: Shared = True
    intermediate: ClassVar[bool] = True


class SaysNoJump(LnMinmax):
    shared: Shared = True
    jumps: ClassVar[bool] = False


class SaysGroups(LnMinmax):
    shared: Shared = True

    def sample(self, *args: Any, **more: Any) -> TimeSample:
        times = super().sample(*args, **more)
        return TimeSample(r=times.r, s=times.s, t=times.t, fm=times.fm, group=2)


class OwnNumbers(LnMinmax):
    shared: Shared = True

    def sample(self, n: int, *args: Any, **more: Any) -> TimeSample:
        t = torch.rand(n)
        return TimeSample(r=t, s=t, t=t, fm=torch.ones(n, dtype=torch.bool))


class OneSeed(LnMinmax):
    shared: Shared = True

    def sample(self, n: int, *args: Any, **more: Any) -> TimeSample:
        t = torch.linspace(0, 1, n)
        return TimeSample(r=t, s=t, t=t, fm=torch.ones(n, dtype=torch.bool))


def network(change: Callable[[MLPNetwork], None] = lambda net: None, **methods: Any) -> Architecture:
    """An architecture like `mlp` whose networks are changed after they are built, or have other methods."""

    class Broken(MLP):
        shared: Shared = True

        def build(self, *args: Any, **more: Any) -> MLPNetwork:
            net = super().build(*args, **more)
            net.__class__ = type("BrokenNetwork", (MLPNetwork,), methods)
            change(net)
            return net

    return Broken(width=8, depth=2)


def lively(net: MLPNetwork) -> None:
    nn.init.ones_(net.output.weight)


def idle(net: MLPNetwork) -> None:
    net.spare = nn.Parameter(torch.ones(3))


def deaf(net: MLPNetwork, x: Tensor, r: Tensor, t: Tensor, y: Any, g: Any = None) -> Tensor:
    return MLPNetwork.forward(net, x, t, t, y, g)


def blind(net: MLPNetwork, x: Tensor, r: Tensor, t: Tensor, y: Any, g: Any = None) -> Tensor:
    return MLPNetwork.forward(net, x, r, t, None if y is None else y * 0, g)


def gossiping(net: MLPNetwork, x: Tensor, r: Tensor, t: Tensor, y: Any, g: Any = None) -> Tensor:
    out = MLPNetwork.forward(net, x, r, t, y, g)
    return out - out.mean(0)


def careless(net: MLPNetwork, x: Tensor, r: Tensor, t: Tensor, y: Any, g: Any = None) -> Tensor:
    return MLPNetwork.forward(net, x, r, t, torch.zeros(len(x), dtype=torch.int64) if y is None else y, g)


def slanted(net: MLPNetwork, *args: Any, dr: Any = None, g: Any = None) -> tuple[Tensor, Tensor]:
    out, slope = MLPNetwork.forward_and_tangent(net, *args, g=g)  # forgets dr
    return out, slope


def tilted(net: MLPNetwork, *args: Any, **more: Any) -> tuple[Tensor, Tensor]:
    out, slope = MLPNetwork.forward_and_tangent(net, *args, **more)
    return out, 1.001 * slope


class HeadFirst(MLP):
    shared: Shared = True

    def build(self, *args: Any, log_variance: bool = False, **more: Any) -> MLPNetwork:
        if log_variance:
            torch.rand(1)
        return super().build(*args, log_variance=log_variance, **more)


class Detached(L2Mean):
    shared: Shared = True

    def distance(self, prediction: Tensor, target: Tensor, *, group: int, reach: Tensor) -> Tensor:
        return super().distance(prediction.detach(), target, group=group, reach=reach)


class Partial(L2Mean):
    shared: Shared = True

    def distance(self, prediction: Tensor, target: Tensor, *, group: int, reach: Tensor) -> Tensor:
        nothing = prediction.flatten(1).sum(1) * 0
        return super().distance(prediction.detach(), target, group=group, reach=reach) + nothing


class Noisy(L2Mean):
    shared: Shared = True

    def distance(self, prediction: Tensor, target: Tensor, *, group: int, reach: Tensor) -> Tensor:
        return super().distance(prediction, target, group=group, reach=reach) * torch.rand(len(prediction))


class Infinite(L2Mean):
    shared: Shared = True

    def distance(self, prediction: Tensor, target: Tensor, *, group: int, reach: Tensor) -> Tensor:
        return super().distance(prediction, target, group=group, reach=reach) / 0


class Column(L2Mean):
    shared: Shared = True

    def distance(self, prediction: Tensor, target: Tensor, *, group: int, reach: Tensor) -> Tensor:
        return super().distance(prediction, target, group=group, reach=reach)[:, None]


class Undescribed(Linear):
    """A path."""

    shared: Shared = True
    bend: float = 0.5


class Silent(Linear):
    shared: Shared = True


class Forgetful(Linear):
    """A path."""

    shared: Shared = True
    bend: float = Field(0.5, exclude=True, description="lost on the way")


class Relabelled(Gaussians):
    shared: Shared = True

    def load(self) -> Samples:
        found = super().load()
        return Samples(found.x, found.y + 1, found.num_classes, found.identity)  # type: ignore[operator]


class Widened(Gaussians):
    shared: Shared = True
    known_std: ClassVar[float | None] = 2.0


class Drifting(Gaussians):
    shared: Shared = True

    def load(self) -> Samples:
        found = super().load()
        return Samples(found.x + torch.rand(1), found.y, found.num_classes, found.identity)


DEFECTS: list[tuple[Any, Callable[[Any], None], str]] = [
    (Ends(), schedules.goes_from_data_to_noise, r"sigma / alpha is 9 at the end"),
    (Backwards(), schedules.goes_from_data_to_noise, r"sigma / alpha is -inf at the end"),
    (Ends(), schedules.has_its_states, r"ratio"),
    (Drifts(), schedules.has_its_states, r"v of interpolate"),
    (Circular(), schedules.declares_what_it_is, "declares circular True, it is False"),
    (WrongSlope(), schedules.has_its_derivatives, "d_sigma"),
    (NoShape(), schedules.has_its_derivatives, "has not t's shape"),
    (Backwards(), schedules.has_its_derivatives, "wronskian falls to -1"),
    (Overshoots(), schedules.has_its_jumps, "move of jump"),
    (Overshoots(), schedules.jumps_along_itself, "a jump t -> r"),
    (WrongRate(), schedules.has_its_jumps, "move of d_jump"),
    (WrongRate(), schedules.has_its_rates, "d_jump"),
    (NoInfinity(), schedules.finds_its_times, "time_of_ratio of 0 and infinity"),
    (OtherInverse(), schedules.finds_its_times, r"time_of_ratio\(ratio\(t\)\)"),
    (Upcasts(), schedules.keeps_single_precision, "at of float32 times is torch.float64"),
    (Swapped(), time_samplers.orders_its_times, "not 0 <= r <= s <= t <= end"),
    (SaysMore(), time_samplers.declares_its_times, "0.75 of the rows train the velocity, 0.90 declared"),
    (SaysData(), time_samplers.declares_its_times, "lands at the data, but r > 0"),
    (SaysBetween(), time_samplers.declares_its_times, "declares an intermediate time, but s = t"),
    (SaysNoJump(), time_samplers.declares_its_times, "declares jumps False"),
    (SaysGroups(), time_samplers.declares_its_times, "group_size is not the group"),
    (OwnNumbers(), time_samplers.repeats_its_times, "r differs for one seed"),
    (OneSeed(), time_samplers.repeats_its_times, "t is the same for two seeds"),
    (network(lively), networks.starts_at_zero, "a fresh network gives up to .*; set its last layer to 0"),
    (network(forward=deaf), networks.sees_every_input, "does not depend on r"),
    (network(forward=blind), networks.sees_every_input, "does not depend on y"),
    (network(forward=gossiping), networks.sees_every_input, "a row by itself is not the row in a batch"),
    (network(idle), networks.trains_every_parameter, "no gradient, or none that is finite, in spare"),
    (network(forward_and_tangent=tilted), networks.differentiates_itself, r"the tangent along \(dx, dt\), and torch's"),
    (network(forward_and_tangent=slanted), networks.differentiates_itself, r"along \(dx, dr, dt\), and torch's"),
    (network(forward=careless), networks.takes_unlabelled_data, "takes y = None without a ValueError"),
    (HeadFirst(width=8), networks.adds_options_last, "the head moves other weights"),
    (Detached(), objectives.can_be_trained, "the loss carries no graph"),
    (Partial(), objectives.can_be_trained, "no gradient reaches embed_x.weight"),
    (Noisy(), objectives.can_be_trained, "one seed gives two losses"),
    (Infinite(), objectives.can_be_trained, "the loss is not finite"),
    (Column(), objectives.can_be_trained, r"a distance is \(B,\)"),
    (Undescribed(), components.says_what_it_is, "Undescribed.bend: has no description"),
    (Silent(), components.says_what_it_is, "has no docstring"),
    (Forgetful(bend=0.7), components.survives_being_written_down, "is another one after pickling|reads back as"),
    (Relabelled(), datasets.loads_what_it_declares, "labels are int64 in 0 .. num_classes - 1"),
    (Widened(), datasets.loads_what_it_declares, "declares standard deviation 2, it is 1"),
    (Drifting(), datasets.loads_the_same_again, "a second read is another data set"),
]


@pytest.mark.parametrize(
    ("component", "check", "message"), DEFECTS, ids=[f"{check.__name__}-{i}" for i, (_, check, _) in enumerate(DEFECTS)]
)
def test_a_check_refuses_the_defect_it_is_there_for(component: Any, check: Callable[[Any], None], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check(component)


def test_every_check_has_a_defect_that_it_refuses() -> None:
    every = {check for c in (Linear(), LnMinmax(), MLP(), Gaussians(), L2Mean()) for check in checks_of(c)}
    assert {check for _, check, _ in DEFECTS} == every
