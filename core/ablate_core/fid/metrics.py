"""The metrics of `eval.metric`: each takes samples batch by batch, gives one number and says what that number is."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ablate_core.fid import MetricError
from ablate_core.fid.beside import Beside, Reading, ReferenceFeatures, build_beside
from ablate_core.fid.canary import canary_sample
from ablate_core.fid.device_moments import DeviceMoments
from ablate_core.fid.energy import energy_distance
from ablate_core.fid.extractor import Extractor
from ablate_core.fid.frechet import Moments, RunningMoments, frechet_distance, frechet_from_features
from ablate_core.fid.reference import Reference, features_of_data, reference_from_data, reference_from_npz
from ablate_core.fid.sample_curve import usual_sizes
from ablate_core.random import generator

if TYPE_CHECKING:
    from ablate_core.config import EvalConfig
    from ablate_core.datasets import Dataset
    from ablate_core.datasets.base import Samples

SMALL = 512
"""Dimensions up to which kept moments stay float64 (1 MB at most); 2048 of them as float32 are 8.4 MB."""

QUANTISATION = "uint8, round half up, clipped to 0..255, in memory"


class Metric(abc.ABC):
    """One measurement in the making: `update` with all samples in order, then `value`. Lower is better."""

    definition: dict[str, Any]
    """Everything that decides what the number means; numbers of different definitions are never compared."""
    extract: Callable[[Extractor, Tensor], Tensor] = staticmethod(lambda extractor, images: extractor.on_device(images))
    """Who extracts features: the extractor itself, unless the caller has others to do it with (`Compute.extract`)."""

    @abc.abstractmethod
    def update(self, x: Tensor) -> None:
        """Add samples (B, *shape) in network units, all finite."""

    @abc.abstractmethod
    def value(self) -> float:
        """The number. Raises MetricError when the samples do not allow one."""

    def beside(self, reason: str | None = None) -> list[Reading]:
        """What `eval.also` asked for, after `value`; without numbers where the samples had none for a `reason`."""
        return []

    def canary(self) -> list[float] | None:
        """What the extractor makes of the fixed test images, kept with the value; None where there is no extractor."""
        return None

    def statistics(self) -> dict[str, NDArray[Any]] | None:
        """What is kept beside the checkpoint to score the samples again without drawing them; None: nothing."""
        return None


INCEPTION_NAMES = {
    "kid": "kid",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
    "infinity": "fid_infinity",
}
DIGITS_NAMES = {
    "kid": "kd_digits",
    "precision": "precision_digits",
    "recall": "recall_digits",
    "density": "density_digits",
    "coverage": "coverage_digits",
    "infinity": "fd_digits_infinity",
}
"""What the numbers of `eval.also` are called: a kernel distance on other features is not KID."""


class FrechetMetric(Metric):
    """`fid` and `fd_digits`: the Frechet distance of `samples` images to a reference, on an extractor's features.

    Where something is measured beside it all features are kept, dims x 4 bytes a sample.
    """

    def __init__(self, name: str, extractor: Extractor, reference: Reference, dataset: Dataset, samples: int) -> None:
        self.extractor, self.reference, self.dataset = extractor, reference.moments, dataset
        # Below full rank the features themselves give the exact value; above, moments need less memory.
        self.running: RunningMoments | None = None
        self.running_there: DeviceMoments | None = None
        if samples > extractor.dims and extractor.device.type == "cpu":
            self.running = RunningMoments(extractor.dims)
        elif samples > extractor.dims:
            self.running_there = DeviceMoments(extractor.dims, extractor.device)
        self.kept: list[Tensor] = []
        self.others: tuple[Beside, ...] = ()
        self.definition = {
            "name": name,
            "version": 1,
            "higher_is_better": False,
            "estimator": "squared Frechet distance, covariance with divisor n - 1, float64",
            "samples": samples,
            "quantisation": QUANTISATION,
            "extractor": extractor.definition(),
            "reference": reference.definition,
        }

    def update(self, x: Tensor) -> None:
        features = self.extract(self.extractor, self.dataset.to_uint8(x))
        if self.others or not (self.running or self.running_there):
            self.kept.append(features)
        if self.running is not None:
            self.running.update(features.numpy())
        elif self.running_there is not None:
            self.running_there.update(features)

    def value(self) -> float:
        moments = self._moments()
        if moments is None:
            return frechet_from_features(self._features(), self.reference)
        return frechet_distance(moments, self.reference)

    def beside(self, reason: str | None = None) -> list[Reading]:
        if reason is not None:
            return [reading for other in self.others for reading in other.without(reason)]
        features = self._features() if self.others else None
        return [] if features is None else [r for other in self.others for r in other.readings(features)]

    def canary(self) -> list[float]:
        return canary_sample(self.extractor.canary)

    def statistics(self) -> dict[str, NDArray[Any]]:
        moments = self._moments()
        if moments is None:
            return {"features": self._features()}
        dtype = np.float64 if len(moments.mean) <= SMALL else np.float32
        upper = moments.cov[np.triu_indices(len(moments.mean))]
        count = np.asarray(moments.count)
        return {"mu": moments.mean.astype(dtype), "sigma_upper": upper.astype(dtype), "count": count}

    def _moments(self) -> Moments | None:
        running = self.running or self.running_there
        return None if running is None else running.moments()

    def _features(self) -> NDArray[np.float32]:
        features: NDArray[np.float32] = torch.cat(self.kept).cpu().numpy()
        return features


class EnergyMetric(Metric):
    """`energy_distance` of 2-D (or D-dimensional) samples to as many points of the data, drawn with a fixed seed."""

    def __init__(self, data: Samples, samples: int, seed: int) -> None:
        count = min(samples, len(data.x))
        order = torch.randperm(len(data.x), generator=generator(seed, "eval.reference"))
        self.reference = data.x[order[:count].sort().values]
        self.kept: list[Tensor] = []
        self.definition = {
            "name": "energy_distance",
            "version": 1,
            "higher_is_better": False,
            "estimator": "2 E|X-Y| - E|X-X'| - E|Y-Y'| over all pairs (V-statistic), float64, network units",
            "samples": samples,
            "reference": {"from": "data", "data": dict(data.identity), "count": count, "seed": seed},
        }

    def update(self, x: Tensor) -> None:
        self.kept.append(x.detach().cpu())

    def value(self) -> float:
        return energy_distance(torch.cat(self.kept), self.reference)


def build_metric(config: EvalConfig, dataset: Dataset, data: Samples, device: str = "cpu") -> Metric:
    """The metric of `config.metric`, with its extractor loaded and its reference ready.

    May download Inception weights and compute reference statistics, once per cache folder; calling it before training
    finds a missing file before the training is paid for.

    Raises:
        MetricError: the metric does not suit the data, or a file it needs is missing or wrong.
    """
    if config.metric == "energy_distance":
        if dataset.kind != "points":
            raise MetricError(f"eval.metric energy_distance is for points, data {dataset.name} has {dataset.kind}")
        if config.also:
            raise MetricError(f"eval.also {', '.join(config.also)}: needs features of images; leave it out")
        return EnergyMetric(data, config.samples, config.seed)
    if dataset.kind != "images":
        mend = "use energy_distance" if dataset.kind == "points" else "decode the samples to images first"
        raise MetricError(f"eval.metric {config.metric} is for images, data {dataset.name} has {dataset.kind}; {mend}")
    if config.metric == "fd_digits":
        return _fd_digits(config, dataset, data)
    from ablate_core.fid.inception import inception_extractor

    extractor = inception_extractor(config.extractor, device, config.resize)
    if config.reference is not None:
        reference = reference_from_npz(config.reference, extractor.dims)
    else:
        reference = reference_from_data(extractor, data.x, dataset.to_uint8, data.identity, config.batch_size)
    metric = FrechetMetric("fid", extractor, reference, dataset, config.samples)
    return _with_others(metric, config, data, INCEPTION_NAMES, keep=True)


def load_metric_ahead(config: EvalConfig, dataset: Dataset, data: Samples) -> None:
    """Make what a process keeps of a metric once it has been built, where that needs no file, network or device."""
    if config.metric == "fd_digits":
        metric = build_metric(config.model_copy(update={"also": ()}), dataset, data)
        assert isinstance(metric, FrechetMetric)
        _ = metric.reference.factor


def _fd_digits(config: EvalConfig, dataset: Dataset, data: Samples) -> Metric:
    from ablate_core.fid.fd_digits import SHAPE, digits_extractor

    for field in ("reference", "extractor"):
        if getattr(config, field) is not None:
            raise MetricError(f"eval.{field} is for fid; fd_digits has its own, remove the field")
    if config.resize != "pil":
        raise MetricError("eval.resize is for fid; fd_digits takes images as they are, remove the field")
    if data.shape != SHAPE or data.identity.get("name") != "digits":
        raise MetricError(
            f"eval.metric fd_digits is for data digits, got {dataset.name} of shape {data.shape}; use eval.metric fid"
        )
    extractor = digits_extractor()
    reference = Reference(extractor.reference, extractor.reference_definition())
    metric = FrechetMetric("fd_digits", extractor, reference, dataset, config.samples)
    return _with_others(metric, config, data, DIGITS_NAMES, keep=False)


def _with_others(
    metric: FrechetMetric, config: EvalConfig, data: Samples, names: dict[str, str], *, keep: bool
) -> FrechetMetric:
    """`metric`, which then also measures what `eval.also` asks for; `keep`: features of the data are cached."""

    def of_data() -> ReferenceFeatures:
        if config.reference is not None:
            what = "features of the data, and eval.reference gives their moments alone"
            raise MetricError(f"eval.also {', '.join(config.also)}: needs {what}; leave eval.reference out")
        given = (data.x, metric.dataset.to_uint8, data.identity, config.batch_size)
        return features_of_data(metric.extractor, *given, keep=keep)

    sizes = config.sizes if config.sizes is not None else usual_sizes(config.samples)
    metric.others = build_beside(config.also, metric.definition, sizes, metric.reference, names, of_data)
    return metric


def rescore(statistics: dict[str, NDArray[Any]], reference: Moments) -> float:
    """The Frechet distance of kept statistics (`FrechetMetric.statistics`) to another reference.

    Exact to rounding from features and from moments of few dimensions; moments of more than `SMALL` are kept in
    float32, and the value agrees with the first one to about 1e-5 relative.
    """
    if "features" in statistics:
        return frechet_from_features(statistics["features"], reference)
    mean = statistics["mu"].astype(np.float64)
    cov = np.zeros((len(mean), len(mean)))
    cov[np.triu_indices(len(mean))] = statistics["sigma_upper"]
    cov = cov + np.triu(cov, 1).T
    return frechet_distance(Moments(mean, cov, int(statistics["count"])), reference)
