"""Does a metric measure what it says on this machine? What is looked at has a known answer (`ablate doctor metric`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ablate_core.datasets.base import Samples
from ablate_core.fid.canary import CANARY_RTOL
from ablate_core.fid.frechet import frechet_from_features
from ablate_core.fid.metrics import FrechetMetric
from ablate_core.identity import arrays_sha256, content_id
from ablate_core.random import generator

SHIFT_RTOL = 1e-8
BRIGHTER = (2, 16)
"""Grey levels that are added to all pixels."""


class Look(NamedTuple):
    """One look and what came of it."""

    what: str
    status: Literal["ok", "warning", "error"]
    found: str
    mend: str = ""


def examine(metric: FrechetMetric, data: Samples, to_uint8: Callable[[Tensor], Tensor], images: int) -> Iterator[Look]:
    """Look at a metric of images; its extractor's canary was compared when it was loaded.

    Args:
        metric: as `build_metric` gives it.
        data: the data set its reference is of.
        to_uint8: the data set's rounding.
        images: at most so many of the data are used; at least 8.
    """
    name, definition = metric.definition["name"], metric.definition
    yield Look(f"{name}: metric id", "ok", f"{content_id(definition)}, {definition['samples']:,} samples")
    moments = metric.reference
    digest = arrays_sha256({"mu": moments.mean, "sigma": moments.cov})
    made = f"{moments.count:,} images" if moments.count else "an npz"
    yield Look(f"{name}: reference", "ok", f"mean and covariance {digest[:12]}, of {made}")

    order = torch.randperm(len(data.x), generator=generator(0, "eval.doctor"))[:images]
    chosen = to_uint8(data.x[order.sort().values])
    features = np.concatenate([metric.extractor.features(part) for part in torch.split(chosen, 64)])
    yield _batch_sizes(name, metric, chosen, features)
    yield _known_shift(name, features)
    halves = frechet_from_features(features[::2], features[1::2])
    yield Look(
        f"{name}: half of the data against the other", "ok", f"{halves:.4g} of {len(features) // 2} images each: the "
        "bias of so few"
    )  # fmt: skip
    yield _brighter(name, metric, chosen, features)
    yield _of_this_data(name, metric, features, halves)


def _batch_sizes(name: str, metric: FrechetMetric, images: Tensor, features: NDArray[np.float32]) -> Look:
    some = images[:21]
    scale = float(np.abs(features).max()) or 1.0
    off = 0.0
    for size in (1, 7):
        again = np.concatenate([metric.extractor.features(part) for part in torch.split(some, size)])
        off = max(off, float(np.abs(again - features[: len(some)]).max()) / scale)
    good = off <= CANARY_RTOL
    mend = "" if good else "numbers would depend on eval.batch_size: check TF32 and the torch version"
    return Look(f"{name}: batches of 1, 7 and 64", "ok" if good else "error", f"features differ by {off:.1e}", mend)


def _known_shift(name: str, features: NDArray[np.float32]) -> Look:
    """Features that are all moved by a vector are at the distance of its square."""
    wide = features.astype(np.float64)
    shift = wide.std(axis=0).mean() * np.cos(np.arange(wide.shape[1]))
    expected = float(shift @ shift)
    off = abs(frechet_from_features(wide + shift, wide) / expected - 1) if expected else 0.0
    good = off <= SHIFT_RTOL
    mend = "" if good else "the linear algebra library of this machine is at fault: run benchmarks/frechet.py"
    return Look(f"{name}: features moved by a known vector", "ok" if good else "error", f"off by {off:.1e}", mend)


def _brighter(name: str, metric: FrechetMetric, images: Tensor, features: NDArray[np.float32]) -> Look:
    """The same images with more light: the distance grows with it."""
    found = []
    for levels in BRIGHTER:
        changed = (images.int() + levels).clamp(0, 255).to(torch.uint8)
        moved = np.concatenate([metric.extractor.features(part) for part in torch.split(changed, 64)])
        found.append(frechet_from_features(moved, features))
    good = 0 < found[0] < found[1]
    mend = "" if good else "a visible change must cost something, and more of it more: is it the right network?"
    what = f"{found[0]:.2g} and {found[1]:.2g}"
    few, many = BRIGHTER
    return Look(f"{name}: the same images {few} and {many} grey levels brighter", "ok" if good else "error", what, mend)


def _of_this_data(name: str, metric: FrechetMetric, features: NDArray[np.float32], halves: float) -> Look:
    value = frechet_from_features(features, metric.reference)
    same = value <= max(halves, 1e-9)
    what = f"{value:.4g} from {len(features)} images of the data"
    mend = "the reference is of other images, or of another resize or network; eval.reference: null makes it anew"
    return Look(f"{name}: the reference is of this data", "ok" if same else "warning", what, "" if same else mend)
