"""What is loaded ahead is what a trial would load, and nothing else is kept."""

from __future__ import annotations

from collections.abc import Iterator
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
    monkeypatch.setattr(preparation, "_deviations", {})


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


def test_the_deviation_of_data_loaded_ahead_is_known_where_it_is_the_same_for_all_seeds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain, flipped = config("digits"), config({"name": "gaussians", "size": 50})
    with_noise = type(flipped.data).batch

    def batch(self: Any, data: Any, index: Any, generator: torch.Generator) -> torch.Tensor:
        x = with_noise(self, data, index, generator)
        return x + torch.randn(x.shape, generator=generator)

    monkeypatch.setattr(type(flipped.data), "batch", batch)
    expected = float(plain.data.load().x.double().std(correction=0))
    preparation.load_ahead([plain.resolved(), flipped.resolved()])
    assert list(preparation._deviations.values()) == [pytest.approx(expected, rel=1e-12)]
    monkeypatch.setattr(type(plain.data), "batch", lambda *_: pytest.fail("it is known"))
    preparation.load_data(plain)


def test_a_small_network_is_built_once_ahead_and_a_large_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[Any] = []
    monkeypatch.setattr(preparation, "build_network", lambda config, *_: built.append(config.architecture))
    small, large = config("digits"), config("digits").resolved()
    preparation.load_ahead([small.resolved(), {**large, "architecture": {"name": "sit", "size": "B/2"}}])
    assert built == [small.architecture]


def test_an_unwritten_network_has_the_shapes_of_the_real_one_and_draws_nothing() -> None:
    wanted, before = config("digits"), torch.random.get_rng_state()
    data = wanted.data.load()
    sketch = preparation.unwritten_network(wanted, data.shape, data.num_classes)
    assert torch.equal(torch.random.get_rng_state(), before)
    real = preparation.build_network(wanted, data, "cpu")
    assert type(sketch) is type(real)
    assert [p.shape for p in sketch.parameters()] == [p.shape for p in real.parameters()]


@pytest.fixture
def _not_a_number() -> Iterator[None]:
    """Memory that nothing was written to holds nan."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("_not_a_number")
@pytest.mark.parametrize("init", ["xavier", "imf", "spectral"])
def test_an_unwritten_network_is_sketched_whatever_its_memory_holds(init: str) -> None:
    asked = {**config("digits").resolved(), "architecture": {"name": "sit", "size": "tiny/4", "init": init}}
    wanted = TrialConfig.model_validate(asked)
    sketch = preparation.unwritten_network(wanted, (1, 8, 8), 10)
    real = preparation.build_network(wanted, wanted.data.load(), "cpu")
    assert [p.shape for p in sketch.parameters()] == [p.shape for p in real.parameters()]


def test_a_network_that_cannot_be_sketched_keeps_no_other_config_from_being_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def raises(*_: Any) -> Any:
        raise torch.linalg.LinAlgError("singular")

    monkeypatch.setattr(preparation, "unwritten_network", raises)
    preparation.load_ahead([config("digits").resolved(), config("gaussians").resolved()])
    assert len(preparation._ahead) == 2
