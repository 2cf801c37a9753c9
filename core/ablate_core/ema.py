"""Evaluation averages of the weights: several exponential moving averages, kept beside the network while it trains."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ablate_core.flat import Flat


class Follower(NamedTuple):
    """Tensors that move by `share` of the way to the weights, which lie likewise, after an optimiser step."""

    tensors: list[Tensor]
    weights: list[Tensor]
    share: float

    @torch.no_grad()
    def move(self) -> None:
        torch._foreach_lerp_(self.tensors, self.weights, self.share)


class EMA:
    """``average <- d average + (1 - d) weights`` after every optimiser step, one average per decay d.

    Buffers are copied, not averaged and not forgotten (EDAPINENUT/ExplicitShortCut train.py:35-44 leaves them out).
    """

    def __init__(self, net: nn.Module, decays: Sequence[float], flat: Flat | None = None) -> None:
        """`flat`, where the parameters lie in one tensor: then each average does too."""
        parameters = dict(net.named_parameters())  # themselves, not their tensors of now: those may be moved
        self._live = {name: parameters[name] for name in net.state_dict() if name in parameters}
        self._tied = tied_names(net)
        known = parameters.keys() | self._tied.keys()
        self._buffers = {name: tensor for name, tensor in net.state_dict().items() if name not in known}
        self._moved, self._averages = averages_of(self._live, decays, flat)
        self._weights: list[Tensor] = list(self._live.values()) if flat is None else [flat.whole]

    @property
    def decays(self) -> tuple[float, ...]:
        return tuple(self._averages)

    def followers(self, steps: int = 1) -> list[Follower]:
        """How every average follows the weights; `steps` > 1 makes up for updates left out in between."""
        return [Follower(average, self._weights, 1 - decay**steps) for decay, average in self._moved.items()]

    def update(self, steps: int = 1) -> None:
        """Move every average towards the weights."""
        for follower in self.followers(steps):
            follower.move()

    def weights(self, decay: float) -> dict[str, Tensor]:
        """The average of `decay` as a state dict of the network. 0 gives the raw weights of now.

        Raises:
            ValueError: no average of that decay is kept.
        """
        if decay != 0 and decay not in self._averages:
            kept = ", ".join(map(str, self._averages)) or "none"
            raise ValueError(f"eval.ema: no average of decay {decay} was kept; there are {kept}, and 0 for raw weights")
        found = self._averages[decay] if decay else {name: p.detach() for name, p in self._live.items()}
        return {**found, **{name: found[first] for name, first in self._tied.items()}, **self._buffers}

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """Averages by decay, decays written as text."""
        return {repr(decay): average for decay, average in self._averages.items()}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        for decay, average in self._averages.items():
            for name, tensor in average.items():
                tensor.copy_(state[repr(decay)][name])


def averages_of(
    live: Mapping[str, Tensor], kinds: Iterable[float], flat: Flat | None
) -> tuple[dict[float, list[Tensor]], dict[float, dict[str, Tensor]]]:
    """Copies of the weights, one for each of `kinds`: as the tensors that are moved, and by name of the parameter."""
    if flat is None:
        named = {kind: {name: p.detach().clone() for name, p in live.items()} for kind in kinds}
        return {kind: list(average.values()) for kind, average in named.items()}, named
    wholes = {kind: flat.whole.detach().clone() for kind in kinds}
    cut = {kind: flat.named(whole) for kind, whole in wholes.items()}
    return {kind: [whole] for kind, whole in wholes.items()}, cut


def tied_names(net: nn.Module) -> dict[str, str]:
    """Of parameters that have several names: each further one -> the first, under which averages have them."""
    first = {p: name for name, p in net.named_parameters()}
    return {name: first[p] for name, p in net.named_parameters(remove_duplicate=False) if name != first[p]}


@torch.no_grad()
def follow(target: nn.Module, net: nn.Module, decay: float, wholes: tuple[Tensor, Tensor] | None = None) -> None:
    """``target <- decay target + (1 - decay) net`` for parameters; buffers are copied. Both are the same network.

    A decay of 1 leaves parameters and buffers alone. `wholes`: all parameters of `target` and of `net`, where both lie
    in one tensor in the same order.
    """
    if decay == 1:
        return
    if wholes is None:
        torch._foreach_lerp_(list(target.parameters()), list(net.parameters()), 1 - decay)
    else:
        wholes[0].lerp_(wholes[1], 1 - decay)
    for ours, theirs in zip(target.buffers(), net.buffers(), strict=True):
        ours.copy_(theirs)


def decay_of_halflife(halflife_images: float, batch_size: int, images: float, ramp: float = 0.05) -> float:
    """Decay per step whose average forgets half in `halflife_images`, at most `ramp` of the images seen so far.

    NVlabs/edm training_loop.py: d = 0.5^(B / max(min(halflife, ramp images), 1e-8)). A negative `ramp` is refused;
    an infinite one turns the ramp off.
    """
    if halflife_images <= 0 or batch_size <= 0 or ramp <= 0:
        raise ValueError(f"half-life, batch and ramp are positive, got {halflife_images}, {batch_size}, {ramp}")
    half = min(halflife_images, ramp * images) if images < float("inf") else halflife_images
    return float(0.5 ** (batch_size / max(half, 1e-8)))
