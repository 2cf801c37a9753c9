"""Averages of the weights whose length is chosen after training (Karras et al. 2024, arXiv 2312.02696).

A power-function average at time t weighs the weights of time tau by p(tau) = (gamma + 1) tau^gamma / t^(gamma + 1):
it has no memory of the initialisation and its length is a fixed share of the training, written as the standard
deviation of p relative to t (section 3.1, appendix C)::

    sigma_rel = (gamma + 1)^(1/2) (gamma + 2)^(-1) (gamma + 3)^(-1/2)
    average(t) = beta(t) average(t - 1) + (1 - beta(t)) weights(t),    beta(t) = (1 - 1/t)^(gamma + 1)

Two of them are tracked and stored now and then. Any other length is afterwards the combination of the stored ones
whose profile is nearest in L2 (section 3.2): profiles of power functions have inner products in closed form, and the
recursion above is the exact integral of the continuous profile over weights that stay constant between steps.

Added here: the combination's coefficients sum to 1, so that weights that stand still are reproduced exactly; and the
distance that is left (`Recipe.misfit`) is known before any training, so a length that the snapshots cannot describe
is refused when the space is read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from ablate_core.ema import Follower, averages_of
from ablate_core.flat import Flat

LONGEST = 0.28
"""Largest sigma_rel: at 0.289 gamma is 0, the plain mean of all weights since the start."""
MOST_MISFIT = 0.1
"""A combination whose profile is further off than this, relative to the profile's norm, is another average."""

Averages = Mapping[str, Mapping[str, Tensor]]
"""sigma_rel as text -> name of the parameter -> its average."""


def gamma_of(sigma_rel: float) -> float:
    """The exponent of a relative standard deviation: the largest root of (g + 2)^2 (g + 3) = (g + 1) / sigma_rel^2."""
    if not 0 < sigma_rel <= LONGEST:
        raise ValueError(f"sigma_rel is above 0 and at most {LONGEST}, got {sigma_rel}")
    t = sigma_rel**-2
    return float(np.roots([1.0, 7.0, 16.0 - t, 12.0 - t]).real.max())


def sigma_rel_of(gamma: float) -> float:
    """The relative standard deviation of the profile of exponent `gamma` > -1."""
    return math.sqrt(gamma + 1) / ((gamma + 2) * math.sqrt(gamma + 3))


def share_of_new(gamma: float, step: int) -> float:
    """1 - beta(step) for step 1, 2, ...: the weight of the newest weights; 1 at the first step."""
    return 1.0 if step == 1 else -math.expm1((gamma + 1) * math.log1p(-1 / step))


def inner_product(t_a: ArrayLike, gamma_a: ArrayLike, t_b: ArrayLike, gamma_b: ArrayLike) -> NDArray[np.float64]:
    """Integral of the product of two profiles, elementwise over broadcast arrays (appendix C, algorithm 3).

    With m = min(t_a, t_b): (g_a + 1)(g_b + 1) m^(g_a + g_b + 1) / ((g_a + g_b + 1) t_a^(g_a + 1) t_b^(g_b + 1)).
    """
    ta, ga, tb, gb = (np.asarray(x, dtype=np.float64) for x in (t_a, gamma_a, t_b, gamma_b))
    ratio = (ta / tb) ** np.where(ta < tb, gb, -ga)  # powers of a ratio below 1: no overflow at any step count
    return (ga + 1) * (gb + 1) * ratio / ((ga + gb + 1) * np.maximum(ta, tb))


@dataclass(frozen=True)
class Recipe:
    """How one average is combined from stored ones.

    Attributes:
        coefficients: one per stored average, in the order given; they sum to 1.
        misfit: L2 distance of the combined profile to the wanted one, relative to the norm of the wanted one.
    """

    coefficients: NDArray[np.float64]
    misfit: float


def recipe(stored: Sequence[tuple[int, float]], step: int, sigma_rel: float) -> Recipe:
    """The combination of `stored` averages, each (step, sigma_rel), nearest to the average `sigma_rel` at `step`."""
    times, gammas = np.array([t for t, _ in stored], float), np.array([gamma_of(s) for _, s in stored])
    gamma, n = gamma_of(sigma_rel), len(stored)
    gram = inner_product(times[:, None], gammas[:, None], times, gammas)
    wanted = inner_product(times, gammas, step, gamma)
    norms = np.sqrt(np.diag(gram))
    # Least squares under "coefficients sum to 1", with a multiplier; profiles scaled to norm 1, for the conditioning.
    system = np.zeros((n + 1, n + 1))
    system[:n, :n] = gram / np.outer(norms, norms)
    system[:n, n] = system[n, :n] = norms.min() / norms
    right = np.append(wanted / norms, norms.min())
    x = np.linalg.lstsq(system, right, rcond=None)[0][:n] / norms
    own = float(inner_product(step, gamma, step, gamma))
    left = own - 2 * float(wanted @ x) + float(x @ gram @ x)
    return Recipe(x, math.sqrt(max(left, 0.0) / own))


def snapshot_steps(step: int, every: int) -> list[int]:
    """Steps whose averages exist at `step`: every multiple of `every` so far, and `step` itself."""
    return sorted({*range(every, step + 1, every), step})


def stored_averages(step: int, every: int, kept: Sequence[float]) -> list[tuple[int, float]]:
    """(step, sigma_rel) of all averages that exist at `step`, in the order `reconstruct` combines them."""
    return [(t, s) for t in snapshot_steps(step, every) for s in kept]


@lru_cache(maxsize=256)
def misfit(sigma_rel: float, step: int, every: int, kept: tuple[float, ...]) -> float:
    """How far the average `sigma_rel` at `step` is from what the snapshots can describe; 0 for a tracked one."""
    return 0.0 if sigma_rel in kept else recipe(stored_averages(step, every, kept), step, sigma_rel).misfit


def reconstruct(
    sigma_rel: float, step: int, every: int, kept: Sequence[float], read: Callable[[int], Averages]
) -> dict[str, Tensor]:
    """The average of length `sigma_rel` at `step`, by name of the parameter; combined on the CPU.

    Args:
        sigma_rel: the wanted length. One that is in `kept` is returned as it was tracked.
        step: steps trained.
        every: steps between snapshots.
        kept: the lengths that were tracked.
        read: step -> the averages stored there; called once for each of `snapshot_steps`, the last one for `step`.

    Raises:
        ValueError: the stored averages describe it less well than `MOST_MISFIT`.
    """
    if sigma_rel in kept:
        return {name: tensor.clone() for name, tensor in read(step)[repr(sigma_rel)].items()}
    stored = stored_averages(step, every, kept)
    found = recipe(stored, step, sigma_rel)
    if found.misfit > MOST_MISFIT:
        raise ValueError(
            f"eval.ema: {len(stored)} stored averages describe sigma_rel {sigma_rel:g} only within {found.misfit:.0%}, "
            f"not within {MOST_MISFIT:.0%}; it needs a smaller train.snapshot_every"
        )
    total: dict[str, Tensor] = {}
    dtypes: dict[str, torch.dtype] = {}
    coefficients = iter(found.coefficients.tolist())
    for t in snapshot_steps(step, every):
        averages = read(t)
        for sigma in kept:
            share = next(coefficients)
            for name, tensor in averages[repr(sigma)].items():
                dtypes[name] = tensor.dtype
                part = share * tensor.double().cpu()  # both signs: float32 sums lose digits; files are read to the CPU
                total[name] = total[name] + part if name in total else part
    return {name: tensor.to(dtypes[name]) for name, tensor in total.items()}


class PowerEMA:
    """The tracked power-function averages of a network's parameters, one per sigma_rel; buffers are not averaged."""

    def __init__(self, net: nn.Module, kept: Sequence[float], flat: Flat | None = None) -> None:
        """`flat`, where the parameters lie in one tensor: then each average does too."""
        live = dict(net.named_parameters())
        self._moved, self._averages = averages_of(live, kept, flat)
        self._weights: list[Tensor] = list(live.values()) if flat is None else [flat.whole]
        self._gammas = {s: gamma_of(s) for s in kept}

    def followers(self, step: int) -> list[Follower]:
        """How the averages take in the weights after optimiser step 1, 2, ...; the first one replaces what is there."""
        shares = {sigma: share_of_new(gamma, step) for sigma, gamma in self._gammas.items()}
        return [Follower(average, self._weights, shares[sigma]) for sigma, average in self._moved.items()]

    def update(self, step: int) -> None:
        """Take in the weights after optimiser step 1, 2, ..."""
        for follower in self.followers(step):
            follower.move()

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """Averages by sigma_rel, written as text."""
        return {repr(sigma): average for sigma, average in self._averages.items()}

    @torch.no_grad()
    def load_state_dict(self, state: Averages) -> None:
        for sigma, average in self._averages.items():
            for name, tensor in average.items():
                tensor.copy_(state[repr(sigma)][name])
