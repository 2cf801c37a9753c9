"""From gradients to new weights: clipping, the optimiser's step, and gradients that begin anew."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ablate_core.config import TrainConfig
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

    def step(self, lr: float) -> Tensor:
        """Change the weights by their gradients, which are empty afterwards.

        Returns:
            The norm of all gradients before clipping, a scalar left on its device.
        """
        if self.flat is not None and self.flat.holds_gradients and (unmet := self.flat.unmet()):
            states = self.flat.split(self._optimizer.state_dict())
            self.flat.release_gradients(unmet)
            self._one_by_one(states)
        flat = self.flat
        norm = clip_gradients(self._parameters if flat is None else [flat.whole], self._config.grad_clip)
        set_learning_rate(self._optimizer, lr)
        self._optimizer.step()
        if flat is not None and flat.holds_gradients:
            flat.empty_gradients()
        else:
            self._optimizer.zero_grad(set_to_none=True)
        return norm

    def state_dict(self) -> dict[str, Any]:
        """That of an optimiser of the parameters one by one."""
        state = self._optimizer.state_dict()
        return state if self.flat is None else self.flat.split(state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if self.flat is None:
            self._optimizer.load_state_dict(dict(state))
        elif self.flat.holds_gradients and not _alike(state["state"], len(self._parameters)):
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
