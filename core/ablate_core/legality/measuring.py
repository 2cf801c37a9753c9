"""Rule about what is measured beside the metric: C31."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from ablate_core.fid.sample_curve import LEAST, TOO_FEW, extrapolates, usual_sizes
from ablate_core.legality.problem import Problem

if TYPE_CHECKING:
    from ablate_core.config import EvalConfig, TrialConfig

SIZED = ("curve", "infinity")


def _beside(config: TrialConfig) -> Iterator[Problem]:
    """C31: the samples and the reference allow what `eval.also` asks for, and no field of it is without effect."""
    e = config.eval
    sized = [name for name in e.also if name in SIZED]
    if e.also and config.data.kind != "images":
        why = f"{', '.join(e.also)} need features of images, data {config.data.name} has {config.data.kind}"
        yield Problem("C31", "error", "eval.also", why, "eval.also: []")
    if (vectors := [name for name in e.also if name not in SIZED]) and e.reference is not None:
        why = f"{', '.join(vectors)}: features of the data are needed, an npz of eval.reference has their moments alone"
        yield Problem("C31", "error", "eval.also", why, "eval.reference: null")
    if e.sizes is not None and not sized:
        why = "without curve or infinity in eval.also it would have no effect"
        yield Problem("C31", "error", "eval.sizes", why, "eval.sizes: null")
    elif e.sizes is not None and e.sizes[-1] > e.samples:
        why = f"{e.sizes[-1]} of {e.samples} samples"
        yield Problem("C31", "error", "eval.sizes", why, f"eval.samples: {e.sizes[-1]}")
    elif "infinity" in e.also and not extrapolates(_sizes(e)):
        given = ", ".join(map(str, _sizes(e)))
        yield Problem("C31", "error", "eval.also", f"{TOO_FEW}, the sizes are {given}", _more(e))


def _sizes(e: EvalConfig) -> tuple[int, ...]:
    return e.sizes if e.sizes is not None else usual_sizes(e.samples)


def _more(e: EvalConfig) -> str | None:
    """What allows a limit: more samples, or sizes that are large enough."""
    if e.sizes is not None and e.samples >= LEAST + 2:
        return "eval.sizes: null" if extrapolates(usual_sizes(e.samples)) else None
    enough = next(n for n in range(LEAST, 4 * LEAST, 500) if extrapolates(usual_sizes(n)))
    return f"eval.samples: {enough}"


RULES: tuple[Callable[[TrialConfig], Iterator[Problem]], ...] = (_beside,)
