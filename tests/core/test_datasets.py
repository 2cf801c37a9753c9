"""Data sets: what they hold, their units, and one line for everything that can be wrong on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ablate_core.datasets import Dataset
from ablate_core.datasets.base import DataError
from ablate_core.datasets.digits import Digits
from ablate_core.datasets.gaussians import Gaussians
from ablate_core.datasets.image_folder import ImageFolder
from ablate_core.datasets.latents import Latents


def g(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.proves("dataset:digits")
def test_digits_are_those_of_scikit_learn_with_mean_0_and_std_1() -> None:
    from sklearn.datasets import load_digits

    theirs, data = load_digits(), Digits().load()
    assert data.x.shape == (1797, 1, 8, 8)
    assert data.shape == (1, 8, 8)
    assert np.array_equal(data.y.numpy(), theirs.target)
    assert abs(float(data.x.double().mean())) < 1e-6
    assert abs(float(data.x.double().std(correction=0)) - Digits.known_std) < 1e-6
    shown = Digits().to_uint8(data.x).squeeze(1).numpy()
    assert np.array_equal(shown, np.floor(theirs.images * 255 / 16 + 0.5).astype(np.uint8))
    assert data.num_classes == Digits.classes == 10


def test_uint8_rounds_half_up_and_clips() -> None:
    folder = ImageFolder(path="unused", mean=0.0, std=1.0)
    grey = torch.tensor([-3.0, 0.49, 0.5, 1.5, 254.49, 254.5, 300.0]).reshape(1, 1, 1, 7)
    assert folder.to_uint8(grey).flatten().tolist() == [0, 0, 1, 2, 254, 255, 255]


@pytest.mark.proves("dataset:gaussians")
def test_gaussians_have_the_moments_and_density_they_claim() -> None:
    mixture = Gaussians(modes=5, width=0.2, size=50_000)
    data = mixture.load()
    assert data.num_classes == 5
    assert abs(float(data.x.std(correction=0)) - 1) < 0.01
    for k, mean in enumerate(mixture.means):
        mode = data.x[data.y == k].double()
        assert (mode.mean(dim=0) - mean).abs().max() < 0.01
        assert (mode.std(dim=0) - 0.2).abs().max() < 0.01
    axis = torch.linspace(-4, 4, 401, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    assert abs(float(mixture.log_density(grid).exp().sum() * 0.02**2) - 1) < 1e-6
    assert torch.equal(mixture.load().x, data.x)


def paint(path: Path, value: int, size: tuple[int, int] = (12, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((size[1], size[0], 3), value, np.uint8)
    pixels[:, : size[0] // 2] //= 2  # the left half is darker, so a mirror image shows
    Image.fromarray(pixels).save(path)


@pytest.mark.proves("dataset:image_folder")
def test_image_folder_reads_classes_in_order_and_crops_the_centre(tmp_path: Path) -> None:
    for k, name in enumerate(("ape", "bee")):
        for i in range(2):
            paint(tmp_path / name / f"{i}.png", 100 + 50 * k + i)
    data = ImageFolder(path=str(tmp_path), size=8).load()
    assert data.x.shape == (4, 3, 8, 8)
    assert data.y.tolist() == [0, 0, 1, 1]
    assert data.num_classes == 2
    back = ImageFolder(path=str(tmp_path), size=8).to_uint8(data.x)
    assert back[:, 0, 0, -1].tolist() == [100, 101, 150, 151]
    assert back[0, 0, 0, 0] == 50
    small = ImageFolder(path=str(tmp_path), size=4).load()
    assert small.x.shape == (4, 3, 4, 4)
    assert abs(float(small.x.mean() - data.x.mean())) < 0.02, "scaled, not cut"


def test_image_folder_without_subfolders_is_unlabelled(tmp_path: Path) -> None:
    paint(tmp_path / "a.png", 10)
    paint(tmp_path / "b.jpg", 20)
    data = ImageFolder(path=str(tmp_path), size=8, channels=1).load()
    assert (data.y, data.num_classes, data.shape) == (None, 0, (1, 8, 8))


def test_image_folder_identity_follows_the_pixels(tmp_path: Path) -> None:
    paint(tmp_path / "a.png", 10)
    before = ImageFolder(path=str(tmp_path), size=8).load().identity
    assert ImageFolder(path=str(tmp_path), size=8).load().identity == before
    paint(tmp_path / "a.png", 11)
    assert ImageFolder(path=str(tmp_path), size=8).load().identity["sha256"] != before["sha256"]


def test_flip_mirrors_about_half_of_the_pictures_and_repeats_with_the_generator(tmp_path: Path) -> None:
    paint(tmp_path / "a.png", 100)
    dataset = ImageFolder(path=str(tmp_path), size=8, flip=True)
    data = dataset.load()
    index = torch.zeros(400, dtype=torch.int64)
    x = dataset.batch(data, index, g())
    mirrored = (x == data.x[0].flip(-1)).all(dim=(1, 2, 3))
    assert 160 < int(mirrored.sum()) < 240
    assert torch.equal(x[~mirrored], data.x[index[~mirrored]])
    assert torch.equal(dataset.batch(data, index, g()), x)


def test_a_bad_folder_or_picture_is_one_line_that_names_it(tmp_path: Path) -> None:
    def failure(path: Path) -> str:
        with pytest.raises(DataError) as caught:
            ImageFolder(path=str(path), size=8).load()
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "no folder" in failure(tmp_path / "gone")
    assert str(tmp_path / "gone") in failure(tmp_path / "gone")
    (tmp_path / "empty" / "class").mkdir(parents=True)
    assert "no picture" in failure(tmp_path / "empty")
    for name, content in (("cut.png", None), ("text.png", b"not a picture")):
        paint(tmp_path / name / name, 10)
        file = tmp_path / name / name
        file.write_bytes(file.read_bytes()[:-40] if content is None else content)
        assert str(file) in failure(tmp_path / name)
        assert "cannot read the picture" in failure(tmp_path / name)


@pytest.mark.proves("dataset:latents")
def test_latents_are_read_from_disk_row_by_row_and_scaled(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(6, 4, 2, 2)).astype(np.float16)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", np.array([0, 1, 2, 0, 1, 2]))
    dataset = Latents(path=str(tmp_path), scale=0.5)
    data = dataset.load()
    assert (data.num_classes, data.shape) == (3, (4, 2, 2))
    batch = dataset.batch(data, torch.tensor([5, 0]), g())
    assert torch.equal(batch, torch.from_numpy(x[[5, 0]]).float() * 0.5)


@pytest.mark.proves("dataset:latents")
def test_latent_moments_are_sampled_anew_at_every_visit(tmp_path: Path) -> None:
    mean, log_variance = np.full((1, 2, 1, 1), 3.0), np.full((1, 2, 1, 1), 2 * np.log(0.1))
    np.save(tmp_path / "x.npy", np.concatenate([mean, log_variance], axis=1).astype(np.float32))
    dataset = Latents(path=str(tmp_path), scale=2.0, moments=True)
    data = dataset.load()
    assert data.shape == (2, 1, 1)
    x = dataset.batch(data, torch.zeros(4000, dtype=torch.int64), g())
    assert abs(float(x.mean()) - 6.0) < 0.02
    assert abs(float(x.std()) - 0.2) < 0.02
    assert not torch.equal(x, dataset.batch(data, torch.zeros(4000, dtype=torch.int64), g(1)))


def test_bad_latents_are_one_line_that_names_the_file(tmp_path: Path) -> None:
    def failure() -> str:
        with pytest.raises(DataError) as caught:
            Latents(path=str(tmp_path)).load()
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "x.npy" in failure()
    (tmp_path / "x.npy").write_bytes(b"\x93NUMPY")
    assert "cannot read" in failure()
    np.save(tmp_path / "x.npy", np.zeros((3, 4)))
    assert "(N, C, H, W)" in failure()
    np.save(tmp_path / "x.npy", np.zeros((3, 4, 2, 2), np.float32))
    np.save(tmp_path / "y.npy", np.zeros(2, np.int64))
    assert "one class number" in failure()


@pytest.mark.contract("dataset:{name}")
@pytest.mark.parametrize("name", sorted(Dataset.choices))
def test_class_hints_of_every_data_set_are_declared(name: str) -> None:
    kind = Dataset.choices[name]
    assert kind.kind in {"images", "points", "latents"}
    assert kind.classes is None or kind.classes >= 0
    assert kind.known_std is None or kind.known_std > 0
