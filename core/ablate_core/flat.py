"""The parameters of a network in one tensor, so that an optimiser's step is one operation and a pack can stack them."""

from __future__ import annotations

import contextlib
import copy
import threading
from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter, eq, is_
from typing import Any

import torch
from torch import Tensor, nn

ALIGN = 16
"""Each parameter begins at a multiple of this many numbers: a cache line of float32."""
BLOCK = 1024
"""There is a multiple of this many numbers: `optim.clip_gradients` takes the norm block by block."""


_thread = threading.local()


@contextlib.contextmanager
def writing_gradients() -> Iterator[None]:
    """Within, in this thread: every trained parameter that is met has a ``grad``, to which backward passes may add.

    On while the training loop differentiates a flat network, and nowhere else. Torch runs the backward pass of a CPU
    graph in the thread that asks for it, that of a CUDA graph in another, where this stays off.
    """
    before, _thread.writes = in_place_gradients(), True
    try:
        yield
    finally:
        _thread.writes = before


def in_place_gradients() -> bool:
    """Whether an `autograd.Function` may add a weight's gradient to its ``grad`` itself and return None for it.

    To be asked in ``backward``, not in ``forward``: the same graph may be differentiated by ``torch.autograd.grad``.
    What is not written by operations of torch is to be told by ``torch.autograd.graph.increment_version``: a parameter
    whose gradient was never changed counts as one without (`Flat.unmet`).
    """
    return getattr(_thread, "writes", False)


class Flat:
    """A network's parameters as views of `whole`, (P,); gaps between them are zero and stay zero.

    Attributes:
        whole: one parameter in place of all, for the optimiser; its ``grad`` holds all of theirs.
        parts: where each parameter lies in `whole`, by name, in the network's order.
    """

    def __init__(self, net: nn.Module) -> None:
        """Raises ValueError where the parameters differ in dtype, device, or in whether they are trained."""
        self.net = net
        named = dict(net.named_parameters())
        if len({(p.dtype, p.device, p.requires_grad) for p in named.values()}) != 1:
            raise ValueError("parameters of several kinds do not fit into one tensor")
        self.parts: dict[str, tuple[int, torch.Size]] = {}
        end = 0
        for name, p in named.items():
            self.parts[name] = (end, p.shape)
            end += -(-p.numel() // ALIGN) * ALIGN
        first = next(iter(named.values()))
        end = -(-end // BLOCK) * BLOCK
        self.whole = nn.Parameter(first.detach().new_zeros(end), requires_grad=first.requires_grad)
        self._parameters: list[nn.Parameter] = []
        self._held: list[Tensor] = []
        self._versions: list[int] = []
        for name, view in self.named(self.whole.detach()).items():
            named[name].data = view.copy_(named[name].detach())

    def named(self, whole: Tensor) -> dict[str, Tensor]:
        """`whole` (P,) cut into the parameters it holds, by name: views."""
        return {name: whole[at : at + shape.numel()].view(shape) for name, (at, shape) in self.parts.items()}

    @torch.no_grad()
    def move(self, to: Tensor) -> None:
        """Copy all values to `to`, (P,), and live there from now on."""
        self.whole.data = to.copy_(self.whole.detach())
        parameters = dict(self.net.named_parameters())
        for name, view in self.named(self.whole.detach()).items():
            parameters[name].data = view

    @torch.no_grad()
    def gather_gradients(self) -> set[str]:
        """Add the gradients that the parameters got one by one to that of `whole`.

        Returns:
            The names of the parameters that got none.
        """
        if self.whole.grad is None:
            self.whole.grad = torch.zeros_like(self.whole)
        parameters, unmet = dict(self.net.named_parameters()), set[str]()
        for name, view in self.named(self.whole.grad).items():
            if (own := parameters[name].grad) is not None:
                view.add_(own)
                parameters[name].grad = None
            else:
                unmet.add(name)
        return unmet

    @property
    def holds_gradients(self) -> bool:
        """Whether every parameter's ``grad`` is a view of that of `whole`."""
        return bool(self._held)

    def hold_gradients(self) -> None:
        """Let the ``grad`` of every parameter be a view of that of `whole`, zero for now; not to be moved after that.

        Backward passes then add to them in place. What a second one adds, or one that is itself differentiated, is
        there as well once `unmet` was called.
        """
        self.whole.grad = torch.zeros_like(self.whole)
        self._parameters = list(self.net.parameters())
        self._held = [view.data for view in self.named(self.whole.grad).values()]  # each counts its own changes
        self._versions = [own._version for own in self._held]
        for p, own in zip(self._parameters, self._held, strict=True):
            p.grad = own

    @torch.no_grad()
    def unmet(self) -> list[nn.Parameter]:
        """The parameters that no backward pass has added to since the last call, and whose gradient is zero."""
        grads = list(map(attrgetter("grad"), self._parameters))
        if not all(map(is_, grads, self._held)):  # somebody has put others in their place
            for p, grad, own in zip(self._parameters, grads, self._held, strict=True):
                if grad is not own:
                    p.grad = own if grad is None else own.copy_(grad)
        before, self._versions = self._versions, list(map(attrgetter("_version"), self._held))
        if not any(map(eq, before, self._versions)):
            return []
        parts = zip(self._parameters, self._held, before, self._versions, strict=True)
        return [p for p, own, a, b in parts if a == b and not own.any()]

    def empty_gradients(self) -> None:
        """Let the gradients that are held be zero."""
        assert self.whole.grad is not None
        self.whole.grad.zero_()

    @torch.no_grad()
    def release_gradients(self, unmet: Sequence[nn.Parameter]) -> None:
        """The opposite of `hold_gradients`: each parameter keeps the one it has got, `unmet` have none."""
        for p in unmet:
            p.grad = None
        self.whole.grad, self._held = None, []

    def split(self, optimizer: Mapping[str, Any]) -> dict[str, Any]:
        """The state dict of an optimiser of `whole`, as that of an optimiser of the parameters."""
        count = len(self.parts)
        groups = [{**group, "params": list(range(count))} for group in optimizer["param_groups"]]
        states: dict[int, dict[str, Any]] = {i: {} for i in range(count)} if optimizer["state"] else {}
        for key, value in optimizer["state"].get(0, {}).items():
            if isinstance(value, Tensor) and value.shape == self.whole.shape:
                values = list(self.named(value).values())
            else:  # such as a count of steps: each its own, since an optimiser counts in place
                values = [copy.deepcopy(value) for _ in states]
            for state, own in zip(states.values(), values, strict=True):
                state[key] = own
        return {"state": states, "param_groups": groups}

    def joined(self, optimizer: Mapping[str, Any]) -> dict[str, Any]:
        """The opposite of `split`. A parameter without a state (it never had a gradient) gets zeros."""
        groups = [{**group, "params": [0]} for group in optimizer["param_groups"]]
        states, whole = optimizer["state"], {}
        shapes = [shape for _, shape in self.parts.values()]
        for key, value in next(iter(states.values()), {}).items():
            if not any(shapes[i] and state[key].shape == shapes[i] for i, state in states.items()):
                whole[key] = value
                continue
            whole[key] = torch.zeros(len(self.whole), dtype=value.dtype)
            for i, part in enumerate(self.named(whole[key]).values()):
                if i in states:
                    part.copy_(states[i][key])
        return {"state": {0: whole} if whole else {}, "param_groups": groups}
