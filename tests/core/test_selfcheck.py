"""`examine`: a sound metric passes every look, and each fault is seen by the look that is for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from ablate_core.config import TrialConfig
from ablate_core.fid import selfcheck
from ablate_core.fid.frechet import Moments
from ablate_core.fid.metrics import FrechetMetric, build_metric
from ablate_core.fid.selfcheck import Look, examine

TRIAL = TrialConfig.model_validate(
    {"schedule": "linear", "objective": "fm", "architecture": "mlp", "data": "digits",
     "train": {"steps": 1, "batch_size": 1}, "eval": {"metric": "fd_digits", "samples": 2000}}
)  # fmt: skip


class Changed:
    """The digits extractor, with its features changed."""

    def __init__(self, inner: Any, change: Any) -> None:
        self.inner, self.change, self.dims, self.image_shape = inner, change, inner.dims, inner.image_shape
        self.device = inner.device

    def definition(self) -> dict[str, Any]:
        return dict(self.inner.definition())

    def features(self, images: Tensor) -> NDArray[np.float32]:
        found: NDArray[np.float32] = self.change(self.inner.features(images))
        return found

    def on_device(self, images: Tensor) -> Tensor:
        return torch.from_numpy(self.features(images))


def looks(change: Any = None, moments: Moments | None = None) -> dict[str, Look]:
    data = TRIAL.data.load()
    metric = build_metric(TRIAL.eval, TRIAL.data, data)
    assert isinstance(metric, FrechetMetric)
    if change is not None:
        metric.extractor = Changed(metric.extractor, change)
    metric.reference = moments or metric.reference
    return {look.what.removeprefix("fd_digits: "): look for look in examine(metric, data, TRIAL.data.to_uint8, 200)}


def faults(found: dict[str, Look]) -> set[str]:
    return {what for what, look in found.items() if look.status != "ok"}


def test_a_sound_metric_passes_every_look_and_says_what_it_is() -> None:
    found = looks()
    assert faults(found) == set()
    assert found["reference"].found == "mean and covariance a045f9e9adf1, of 1,797 images"
    assert found["metric id"].found.endswith(", 2,000 samples")
    assert len(found) == 7


def test_features_that_depend_on_the_batch_are_seen() -> None:
    assert "batches of 1, 7 and 64" in faults(looks(lambda f: f * (1 + 0.01 * len(f))))


def test_a_reference_of_other_images_is_a_warning() -> None:
    m = build_metric(TRIAL.eval, TRIAL.data, TRIAL.data.load()).reference  # type: ignore[attr-defined]
    found = looks(moments=Moments(m.mean + 1, m.cov))
    assert faults(found) == {"the reference is of this data"}
    assert found["the reference is of this data"].status == "warning"
    assert found["reference"].found.endswith("of an npz")


def test_a_network_that_does_not_look_at_the_images_is_seen() -> None:
    fixed = torch.randn(1000, 48, generator=torch.Generator().manual_seed(0)).numpy()
    assert "the same images 2 and 16 grey levels brighter" in faults(looks(lambda f: fixed[: len(f)]))


def test_wrong_arithmetic_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    right = selfcheck.frechet_from_features
    monkeypatch.setattr(selfcheck, "frechet_from_features", lambda a, b: right(a, b) * 1.001)
    assert faults(looks()) == {"features moved by a known vector"}
