"""What is loaded ahead is what a trial would load, and nothing else is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ablate_core import preparation
from ablate_core.config import TrialConfig
from ablate_core.fid import metrics
from ablate_core.fid.fd_digits import digits_extractor


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "_ahead", {})


def config(data: Any, metric: str = "energy_distance") -> TrialConfig:
    parts = {"schedule": "linear", "objective": "fm", "architecture": "mlp", "data": data}
    sizes = {"train": {"steps": 1, "batch_size": 4}, "eval": {"metric": metric, "samples": 8}}
    return TrialConfig.model_validate({**parts, **sizes})


def test_data_are_kept_only_where_they_were_asked_for_and_only_of_equal_configs() -> None:
    small, large = config({"name": "gaussians", "size": 50}), config({"name": "gaussians", "size": 60})
    preparation.load_data(large)
    assert preparation.data_of(large.data) is not preparation.data_of(large.data)
    preparation.load_ahead([small.resolved(), small.resolved()])
    kept = preparation.load_data(small)
    assert kept is preparation.load_data(small)
    assert torch.equal(kept.x, small.data.load().x)
    assert len(preparation.load_data(large).x) == 60
    assert len(preparation._ahead) == 1


def test_what_cannot_be_loaded_ahead_is_left_to_the_trials(tmp_path: Path) -> None:
    missing = config({"name": "image_folder", "path": str(tmp_path / "none"), "size": 8}, "fid")
    preparation.load_ahead([missing.resolved(), config("gaussians").resolved()])
    assert [len(samples.x) for samples in preparation._ahead.values()] == [20_000]
    with pytest.raises(ValueError, match="no folder"):
        preparation.load_data(missing)


def test_loading_ahead_prepares_the_shipped_extractor_and_leaves_the_threads_as_they_were() -> None:
    digits_extractor.cache_clear()
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        preparation.load_ahead([config("digits", "fd_digits").resolved()])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert digits_extractor.cache_info().currsize == 1
    assert "factor" in vars(digits_extractor().reference)


def test_no_other_metric_is_made_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """That of `fid` may have to download its weights, and belongs on the device."""
    monkeypatch.setattr(metrics, "build_metric", lambda *_: pytest.fail("built"))
    preparation.load_ahead([config("digits", "fid").resolved()])
    assert len(preparation._ahead) == 1
