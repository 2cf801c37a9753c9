"""Reference statistics of `fid`: given as npz, or computed once from the data and cached by content.

Beside them in the cache folder: their factors (``factors``), and features of the data for metrics that need the vectors
themselves (``features``).
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ablate_core.fid import MetricError
from ablate_core.fid.beside import MOST_NEIGHBOURS, Definition, Features, ReferenceFeatures
from ablate_core.fid.extractor import Extractor
from ablate_core.fid.files import cache_dir, locked, save_npz
from ablate_core.fid.frechet import LARGE, Array, Moments, RunningMoments
from ablate_core.identity import arrays_sha256, content_id
from ablate_core.random import generator

REFERENCE_SEED = 0


class Reference(NamedTuple):
    """Reference moments and what they are."""

    moments: Moments
    definition: dict[str, Any]


@dataclass(frozen=True)
class KeptMoments(Moments):
    """Moments whose factor is kept in the cache folder under `key`: one trial makes it, the others read it."""

    key: str = ""

    @cached_property
    def factor(self) -> Array:
        if len(self.mean) < LARGE:
            return Moments(self.mean, self.cov).factor
        file = cache_dir() / "factors" / f"{self.key}.npz"
        with locked(file):
            kept = _arrays(file).get("factor")
            if kept is None or not self.is_factor(kept):
                kept = Moments(self.mean, self.cov).factor
                save_npz(file, {"factor": kept})
        return kept


def reference_from_npz(path: str, dims: int, where: str = "eval.reference") -> Reference:
    """Moments from an npz with ``mu`` (D,) and ``sigma`` (D, D), as clean-fid, ADM, EDM and ESC write them.

    The identity is the hash of the two arrays as stored, so a float32 copy of a float64 file is another reference.

    Args:
        path: the file.
        dims: D of the extractor.
        where: what named the file, for messages.

    Raises:
        MetricError: the file is missing, is not an npz, lacks a key, or its arrays have wrong shapes or values.
    """
    file = Path(path).expanduser()
    mu, sigma = _mu_sigma(file, where)
    if mu.shape != (dims,) or sigma.shape != (dims, dims):
        raise MetricError(
            f"{where}: {file} has mu {mu.shape} and sigma {sigma.shape}; this extractor needs ({dims},) and "
            f"({dims}, {dims})"
        )
    if mu.dtype.kind != "f" or sigma.dtype.kind != "f":
        raise MetricError(f"{where}: {file} has mu {mu.dtype} and sigma {sigma.dtype}; floats are needed")
    definition = {
        "from": "npz",
        "sha256": arrays_sha256({"mu": mu, "sigma": sigma}),
        "dtype": f"{mu.dtype}, {sigma.dtype}",
    }
    kept = KeptMoments(mu.astype(np.float64), sigma.astype(np.float64), key=definition["sha256"][:24])
    return Reference(kept, definition)


def reference_from_data(
    extractor: Extractor,
    x: Tensor,
    to_uint8: Callable[[Tensor], Tensor],
    identity: dict[str, str | int | float],
    batch_size: int,
) -> Reference:
    """Moments of the features of all of a data set, computed once per cache folder.

    The identity is the recipe, not the hash of the result: features computed on two machines differ in their last
    bits, and would otherwise never be comparable. The recipe names the data by its own content hash, the extractor by
    its weights' hash; the extractor's canary catches what remains.

    Args:
        extractor: the network.
        x: (N, C, H, W), all samples in network units.
        to_uint8: the data set's rounding to displayable images.
        identity: `Samples.identity` of the data.
        batch_size: images per call of the extractor.
    """
    recipe = {"from": "data", "data": dict(identity), "count": len(x), "pixels": "uint8, round half up"}
    key = _key(extractor, recipe)
    file = cache_dir() / "references" / f"{key}.npz"
    with locked(file):
        cached = _cached(file, extractor.dims, len(x), key)
        if cached is None:
            running = RunningMoments(extractor.dims)
            for part in torch.split(x, batch_size):
                running.update(extractor.features(to_uint8(part)))
            made = running.moments()
            save_npz(file, {"mu": made.mean, "sigma": made.cov, "count": np.asarray(made.count)})
            cached = KeptMoments(made.mean, made.cov, made.count, key=key)
    return Reference(cached, recipe)


def features_of_data(
    extractor: Extractor,
    x: Tensor,
    to_uint8: Callable[[Tensor], Tensor],
    identity: dict[str, str | int | float],
    batch_size: int,
    *,
    keep: bool = True,
) -> ReferenceFeatures:
    """Features of the data themselves, of at most `MOST_NEIGHBOURS` of its samples, picked by a named seed.

    Args:
        keep: whether they are cached, as the moments of `reference_from_data` are; not worth it where they are cheap.
    """
    recipe: Definition = {"from": "data", "data": dict(identity), "count": len(x), "pixels": "uint8, round half up"}
    if len(x) > MOST_NEIGHBOURS:
        recipe |= {"features": MOST_NEIGHBOURS, "picked_by_seed": REFERENCE_SEED}
        order = torch.randperm(len(x), generator=generator(REFERENCE_SEED, "eval.reference"))
        x = x[order[:MOST_NEIGHBOURS].sort().values]

    def make() -> Features:
        return np.concatenate([extractor.features(to_uint8(part)) for part in torch.split(x, batch_size)])

    if not keep:
        return ReferenceFeatures(make(), recipe)
    file = cache_dir() / "features" / f"{_key(extractor, recipe)}.npz"
    with locked(file):
        found = _arrays(file).get("features")
        if found is None or found.shape != (len(x), extractor.dims) or found.dtype != np.float32:
            found = make()
            save_npz(file, {"features": found})
    return ReferenceFeatures(found, recipe)


def _key(extractor: Extractor, recipe: Definition) -> str:
    return content_id({"extractor": extractor.definition(), "reference": recipe}, length=24)


def _mu_sigma(file: Path, where: str) -> tuple[NDArray[Any], NDArray[Any]]:
    try:
        stored = np.load(file, allow_pickle=False)
        if isinstance(stored, np.ndarray):
            raise MetricError(f"{where}: {file} holds one array; an npz with mu and sigma is needed")
        with stored:
            if missing := [key for key in ("mu", "sigma") if key not in stored.files]:
                there = ", ".join(stored.files) or "nothing"
                raise MetricError(f"{where}: {file} has no {' and no '.join(missing)}, only {there}")
            return stored["mu"], stored["sigma"]
    except FileNotFoundError:
        raise MetricError(f"{where}: no file {file}; without one the reference is computed from the data") from None
    except MetricError:
        raise
    except (OSError, EOFError, zipfile.BadZipFile, ValueError) as error:  # damaged, cut short, or pickled
        raise MetricError(f"{where}: {file} is not a plain npz of arrays ({error})") from None


def _cached(file: Path, dims: int, count: int, key: str) -> KeptMoments | None:
    """What is cached, or None when nothing is or it is not what it should be (then it is made again)."""
    found = _arrays(file)
    try:
        mean, cov = found["mu"], found["sigma"]
        good = mean.shape == (dims,) and int(found["count"]) == count
        return KeptMoments(mean, cov, count, key=key) if good else None
    except (KeyError, ValueError):  # a MetricError is a ValueError
        return None


def _arrays(file: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a cached npz; empty when there is none or it is damaged."""
    try:
        with np.load(file, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (OSError, EOFError, ValueError, zipfile.BadZipFile):
        return {}
