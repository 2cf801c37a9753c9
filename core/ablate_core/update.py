"""From gradients to new weights: clipping, the optimiser's step, and gradients that begin anew."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ablate_core.compute import PackError
from ablate_core.config import TrainConfig
from ablate_core.cpu_kernels import kernels, pointers
from ablate_core.ema import Follower
from ablate_core.flat import Flat
from ablate_core.optim import build_optimizer, clip_gradients, set_learning_rate


class Update:
    """The update of a network's weights; one operation of each kind where they lie in one tensor.

    An optimiser leaves a weight alone that got no gradient, its momentum and its count of steps too. In one tensor
    there is one count: where a step leaves out a parameter, all have optimiser states of their own from then on, and
    a state that was saved after such a step is continued that way.

    Attributes:
        flat: the weights in one tensor while they are updated as one; None where each is updated for itself.
    """

    def __init__(self, config: TrainConfig, net: nn.Module, flat: Flat | None) -> None:
        self.flat = flat
        self._config, self._parameters = config, list(net.parameters())
        self._optimizer = build_optimizer(config, self._parameters if flat is None else [flat.whole])

    def step(self, lr: float, followers: Sequence[Follower] = ()) -> Tensor:
        """Change the weights by their gradients, which are empty afterwards, and move what follows the weights.

        Returns:
            The norm of all gradients before clipping, a scalar left on its device.
        """
        if self.flat is not None and self.flat.holds_gradients and (unmet := self.flat.unmet()):
            states = self.flat.split(self._optimizer.state_dict())
            self.flat.release_gradients(unmet)
            self._one_by_one(states)
        flat = self.flat
        set_learning_rate(self._optimizer, lr)
        if flat is not None and (known := self._in_one_pass(flat, lr, followers)) is not None:
            return known
        norm = clip_gradients(self._parameters if flat is None else [flat.whole], self._config.grad_clip)
        self._optimizer.step()
        if flat is not None and flat.holds_gradients:
            flat.empty_gradients()
        else:
            self._optimizer.zero_grad(set_to_none=True)
        for follower in followers:
            follower.move()
        return norm

    def _in_one_pass(self, flat: Flat, lr: float, followers: Sequence[Follower]) -> Tensor | None:
        """`step` in C, on one thread of a CPU: the gradients are read twice, everything else once. None: not here."""
        weights, gradient = flat.whole, flat.whole.grad
        library: Any = kernels(weights.dtype) if weights.is_cpu and torch.get_num_threads() == 1 else None
        state, config = self._optimizer.state.get(weights), self._config
        if library is None or gradient is None or not state or config.optimizer == "radam":  # torch makes the state
            return None
        if any(follower.weights[0] is not weights for follower in followers):
            return None
        norm, count = gradient.new_empty(()), gradient.numel()
        library.norm(gradient.data_ptr(), norm.data_ptr(), count)
        known, largest = float(norm) + 1e-6, config.grad_clip
        by = largest / known if largest > 0 and not known <= largest else 1.0  # not a number is passed on
        shares = (ctypes.c_double * len(followers))(*(follower.share for follower in followers))
        state["step"] += 1
        step, (beta1, beta2) = float(state["step"]), config.betas
        library.adam(
            weights.data_ptr(), gradient.data_ptr(), state["exp_avg"].data_ptr(), state["exp_avg_sq"].data_ptr(),
            by, lr, beta1, beta2, self._optimizer.param_groups[0]["eps"], config.weight_decay,
            config.optimizer == "adamw", 1 - beta1**step, 1 - beta2**step, flat.holds_gradients,
            pointers([average for follower in followers for average in follower.tensors]), shares, len(shares), count,
        )  # fmt: skip
        if not flat.holds_gradients:
            weights.grad = None
        return norm

    def state_dict(self) -> dict[str, Any]:
        """That of an optimiser of the parameters one by one."""
        state = self._optimizer.state_dict()
        return state if self.flat is None else self.flat.split(state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if self.flat is None:
            self._optimizer.load_state_dict(dict(state))
        elif not _alike(state["state"], len(self._parameters)):
            if not self.flat.holds_gradients:
                raise PackError("parameters have taken different numbers of steps; such a trial goes on alone")
            self.flat.release_gradients(self._parameters)
            self._one_by_one(state)
        else:
            self._optimizer.load_state_dict(self.flat.joined(state))

    def _one_by_one(self, state: Mapping[str, Any]) -> None:
        self.flat = None
        self._optimizer = build_optimizer(self._config, self._parameters)
        self._optimizer.load_state_dict(dict(state))


def _alike(states: Mapping[int, Mapping[str, Any]], count: int) -> bool:
    """Whether all of `count` parameters have taken the same steps: none, or equally many."""
    return not states or (len(states) == count and len({float(own["step"]) for own in states.values()}) == 1)
