"""Reference statistics of `fid`: given as npz, or computed once from the data and cached by content."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ablate_core.fid import MetricError
from ablate_core.fid.extractor import Extractor
from ablate_core.fid.files import cache_dir, locked, save_npz
from ablate_core.fid.frechet import Array, Moments, RunningMoments
from ablate_core.identity import arrays_sha256, content_id


class Reference(NamedTuple):
    """Reference moments and what they are."""

    moments: Moments
    definition: dict[str, Any]


def reference_from_npz(path: str, dims: int) -> Reference:
    """Moments from an npz with ``mu`` (D,) and ``sigma`` (D, D), as clean-fid, ADM, EDM and ESC write them.

    The identity is the hash of the two arrays as stored, so a float32 copy of a float64 file is another reference.

    Raises:
        MetricError: the file is missing, is not an npz, lacks a key, or its arrays have wrong shapes or values.
    """
    file = Path(path).expanduser()
    mu, sigma = _mu_sigma(file)
    if mu.shape != (dims,) or sigma.shape != (dims, dims):
        raise MetricError(
            f"eval.reference: {file} has mu {mu.shape} and sigma {sigma.shape}; this extractor needs ({dims},) and "
            f"({dims}, {dims})"
        )
    if mu.dtype.kind != "f" or sigma.dtype.kind != "f":
        raise MetricError(f"eval.reference: {file} has mu {mu.dtype} and sigma {sigma.dtype}; floats are needed")
    definition = {
        "from": "npz",
        "sha256": arrays_sha256({"mu": mu, "sigma": sigma}),
        "dtype": f"{mu.dtype}, {sigma.dtype}",
    }
    return Reference(Moments(mu.astype(np.float64), sigma.astype(np.float64)), definition)


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
    key = content_id({"extractor": extractor.definition(), "reference": recipe}, length=24)
    file = cache_dir() / "references" / f"{key}.npz"
    with locked(file):
        cached = _cached(file, extractor.dims, len(x))
        if cached is None:
            running = RunningMoments(extractor.dims)
            for part in torch.split(x, batch_size):
                running.update(extractor.features(to_uint8(part)))
            cached = running.moments()
            save_npz(file, {"mu": cached.mean, "sigma": cached.cov, "count": np.asarray(cached.count)})
    return Reference(cached, recipe)


def _mu_sigma(file: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    try:
        stored = np.load(file, allow_pickle=False)
        if isinstance(stored, np.ndarray):
            raise MetricError(f"eval.reference: {file} holds one array; an npz with mu and sigma is needed")
        with stored:
            if missing := [key for key in ("mu", "sigma") if key not in stored.files]:
                there = ", ".join(stored.files) or "nothing"
                raise MetricError(f"eval.reference: {file} has no {' and no '.join(missing)}, only {there}")
            return stored["mu"], stored["sigma"]
    except FileNotFoundError:
        raise MetricError(f"eval.reference: no file {file}; null computes the reference from the data") from None
    except MetricError:
        raise
    except (OSError, EOFError, zipfile.BadZipFile, ValueError) as error:  # damaged, cut short, or pickled
        raise MetricError(f"eval.reference: {file} is not a plain npz of arrays ({error})") from None


def _cached(file: Path, dims: int, count: int) -> Moments | None:
    """What is cached, or None when nothing is or it is not what it should be (then it is made again)."""
    try:
        with np.load(file, allow_pickle=False) as stored:
            mean: Array = stored["mu"]
            cov: Array = stored["sigma"]
            return Moments(mean, cov, count) if mean.shape == (dims,) and int(stored["count"]) == count else None
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile):
        return None
