"""The shipped digits classifier is what its card says, and its distance orders what a person would order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ablate_core.fid import MetricError, fd_digits
from ablate_core.fid.fd_digits import FILE, DigitsClassifier, DigitsExtractor, digits_extractor
from ablate_core.fid.frechet import frechet_distance, moments
from ablate_core.fid.train_digits_classifier import accuracy, digits_uint8, held_out, train

X, Y = digits_uint8()


def distance(images: Tensor) -> float:
    extractor = digits_extractor()
    return frechet_distance(moments(extractor.features(images)), extractor.reference)


def card(line: str) -> str:
    """The value of a line of the card in the module's docstring."""
    assert fd_digits.__doc__ is not None
    (row,) = [row for row in fd_digits.__doc__.splitlines() if row.startswith(f"{line}  ")]
    return row.removeprefix(line).strip()


def test_the_card_tells_the_truth() -> None:
    extractor = digits_extractor()
    test = torch.from_numpy(held_out(len(X)))
    right = int((extractor.network(X[test]).argmax(dim=1) == Y[test]).sum())
    assert (
        card("held-out accuracy") == f"{accuracy(extractor.network, X[test], Y[test]):.4f} ({right} of {len(Y[test])})"
    )
    assert card("weights sha256") == extractor.weights_sha256 == fd_digits.weights_sha256()
    assert f"the {int(test.sum())} images with index % 5 == 0; trained on the other {int((~test).sum())}" in card(
        "split"
    )
    assert f"{sum(p.numel() for p in extractor.network.parameters()):,} weights" in card("network")
    assert card("data").startswith(f"scikit-learn ``load_digits``: {len(X)} grey 8x8 images")


def test_the_file_is_small_and_holds_no_pickle() -> None:
    assert FILE.stat().st_size < 300_000
    with np.load(FILE, allow_pickle=False) as arrays:
        assert all(arrays[name].dtype.kind in "fi" for name in arrays.files)


def test_the_shipped_reference_is_that_of_all_digits() -> None:
    extractor = digits_extractor()
    now = moments(extractor.features(X))
    assert now.count == extractor.reference.count == 1797
    scale = float(np.trace(extractor.reference.cov))
    np.testing.assert_allclose(now.mean, extractor.reference.mean, atol=1e-6 * scale)
    np.testing.assert_allclose(now.cov, extractor.reference.cov, atol=1e-6 * scale)
    assert extractor.reference_definition()["sha256"] == extractor.reference_sha256
    assert distance(X) < 1e-6


def test_digits_are_far_nearer_than_anything_else() -> None:
    generator = torch.Generator().manual_seed(0)
    bootstrap = distance(X[torch.randint(len(X), (2048,), generator=generator)])
    static = distance(torch.randint(0, 256, (2048, 1, 8, 8), generator=generator, dtype=torch.uint8))
    one_image = distance(X[:1].expand(2048, 1, 8, 8))
    one_class = distance(X[Y == 0])
    blurred = distance(F.avg_pool2d(F.pad(X.float(), (1, 1, 1, 1)), 3, 1).byte())
    shifted = distance(X.roll(1, 3))
    assert bootstrap < 1
    assert min(static, one_image, one_class, blurred, shifted) > 50


def test_more_noise_is_further_away() -> None:
    noise = torch.randn(X.shape, generator=torch.Generator().manual_seed(0))
    distances = [distance((X + s * noise).round().clamp(0, 255).byte()) for s in (2, 5, 10, 20, 40, 80)]
    assert distances == sorted(distances)
    assert distances[-1] > 100 * distances[0]


def test_a_missing_class_is_noticed() -> None:
    for digit in range(10):
        assert distance(X[digit != Y]) > 3


@pytest.mark.parametrize("bad", [X.float(), X[:, 0], X.expand(-1, 3, -1, -1), X.repeat(1, 1, 2, 2)])
def test_other_tensors_than_8x8_grey_uint8_images_are_refused(bad: Tensor) -> None:
    with pytest.raises(MetricError, match=r"fd_digits takes uint8 images of shape \(1, 8, 8\), got"):
        digits_extractor().features(bad)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    damaged = tmp_path / "weights.npz"
    damaged.write_bytes(FILE.read_bytes()[:5000])
    for file in (damaged, tmp_path / "none.npz"):
        with pytest.raises(MetricError, match=f"{file.name}: the digits classifier cannot be read") as refused:
            DigitsExtractor(file)
        assert "\n" not in str(refused.value)


def test_changed_weights_are_caught_by_the_canary(tmp_path: Path) -> None:
    with np.load(FILE, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    arrays["w.hidden.bias"] = arrays["w.hidden.bias"] + 0.1
    np.savez(tmp_path / "weights.npz", **arrays)
    with pytest.raises(MetricError, match="features of the fixed test images moved by"):
        DigitsExtractor(tmp_path / "weights.npz")


def test_a_short_training_learns_and_repeats_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ablate_core.fid.train_digits_classifier.EPOCHS", 3)
    test = torch.from_numpy(held_out(len(X)))
    first, second = (train(X[~test][:600], Y[~test][:600]) for _ in range(2))
    assert accuracy(first, X[test], Y[test]) > 0.5
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_architecture_maps_images_to_48_features_and_10_logits() -> None:
    network = DigitsClassifier()
    assert network.features(X[:3]).shape == (3, fd_digits.DIMS)
    assert network(X[:3]).shape == (3, 10)


def test_the_documentation_repeats_the_card() -> None:
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    extractor = digits_extractor()
    for fact in (card("held-out accuracy"), extractor.weights_sha256, extractor.reference_sha256, card("split")):
        assert fact in page
