"""`fid`: clean-fid's resize and network on images in memory, references, weights, the canary.

Inception's weights are 91 MB from the network, so a random network of the same interface stands in for it here: a
TorchScript file whose ``layers`` maps (B, 3, 299, 299) to 2048 numbers. What Inception itself gives is clean-fid's and
NVIDIA's affair; what these tests hold is everything around it.
"""

from __future__ import annotations

import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ablate_core.fid import MetricError
from ablate_core.fid import frechet as frechet_module
from ablate_core.fid import inception as inception_module
from ablate_core.fid import reference as reference_module
from ablate_core.fid.device_moments import DeviceMoments
from ablate_core.fid.extractor import canary, check_canary
from ablate_core.fid.frechet import RunningMoments, frechet_from_features, moments
from ablate_core.fid.inception import InceptionExtractor, find_weights, resize_clean, resize_on_device
from ablate_core.fid.reference import features_of_data, reference_from_data, reference_from_npz

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "fid_resize.npz")


class StandIn(nn.Module):
    """Has what clean-fid's wrapper uses of the real file: ``layers``, and nothing else."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 7, stride=8), nn.ReLU(), nn.AdaptiveAvgPool2d(16), nn.Flatten())

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out


def stand_in_file(folder: Path, seed: int = 0) -> Path:
    file = folder / f"stand_in_{seed}.pt"
    torch.jit.script(StandIn(seed)).save(str(file))
    return file


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own, and no way out to the network."""
    monkeypatch.setenv("ABLATE_CACHE", str(tmp_path / "cache"))

    def offline(*_: object, **__: object) -> None:
        raise urllib.request.URLError("offline")  # type: ignore[attr-defined]

    monkeypatch.setattr(urllib.request, "urlopen", offline)
    return tmp_path / "cache"


@pytest.fixture
def extractor(tmp_path: Path) -> InceptionExtractor:
    return InceptionExtractor(stand_in_file(tmp_path))


def images(count: int, channels: int = 3, size: int = 12, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, channels, size, size), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize(("case", "seed"), [("resize_32x32", 1101), ("resize_45x17", 1102), ("resize_340x400", 1103)])
def test_the_resize_gives_the_recorded_pixels(case: str, seed: int) -> None:
    height, width = map(int, case.removeprefix("resize_").split("x"))
    image = np.random.RandomState(seed).randint(0, 256, (height, width, 3)).astype(np.uint8)
    out = resize_clean(torch.from_numpy(image).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
    rows = GOLDEN[f"{case}/rows"]
    np.testing.assert_allclose(out[::19, ::19], GOLDEN[f"{case}/clean_pil_bicubic.grid_16"], atol=1e-4)
    np.testing.assert_allclose(out[rows][:, ::3], GOLDEN[f"{case}/clean_pil_bicubic.row_values"], atol=1e-4)
    stats = [out.mean(dtype=np.float64), out.std(dtype=np.float64), out.min(), out.max()]
    np.testing.assert_allclose(stats, GOLDEN[f"{case}/clean_pil_bicubic.stats"], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 45, 17), (3, 340, 400), (3, 299, 299)])
def test_the_resize_on_the_device_is_the_same_filter(shape: tuple[int, int, int]) -> None:
    batch = torch.randint(0, 256, (2, *shape), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    there, here = resize_on_device(batch), resize_clean(batch)
    assert there.shape == here.shape == (2, 3, 299, 299)
    torch.testing.assert_close(there, here, atol=1e-2, rtol=0)
    assert there.min() >= 0
    assert there.max() <= 255


def test_threads_resize_to_the_same_bits() -> None:
    batch, before = images(9, size=24), torch.get_num_threads()
    one = resize_clean(batch)
    try:
        torch.set_num_threads(3)
        assert torch.equal(resize_clean(batch), one)
        assert resize_clean(batch[:0]).shape == (0, 3, 299, 299)
    finally:
        torch.set_num_threads(before)


def test_the_two_resizes_are_two_metrics_of_nearly_one_value(tmp_path: Path) -> None:
    file = stand_in_file(tmp_path)
    pil, there = InceptionExtractor(file), InceptionExtractor(file, resize="torch")  # one canary serves both
    assert {k for k, v in pil.definition().items() if v != there.definition()[k]} == {"resize"}
    batch = images(4)
    np.testing.assert_allclose(there.features(batch), pil.features(batch), rtol=1e-4, atol=1e-5)


def test_moments_on_a_device_are_the_streamed_ones() -> None:
    x = 50 + torch.randn(700, 24, generator=torch.Generator().manual_seed(0))
    here, there = RunningMoments(24), DeviceMoments(24, torch.device("cpu"))
    for part in torch.split(x, [1, 17, 0, 400, 282]):
        here.update(part.numpy())
        there.update(part)
    a, b = here.moments(), there.moments()
    assert b.count == a.count == 700
    np.testing.assert_allclose(b.mean, a.mean, rtol=1e-14)
    np.testing.assert_allclose(b.cov, a.cov, rtol=1e-10, atol=1e-13)
    x[[3, 600], 2] = float("nan")
    there.update(x)
    with pytest.raises(MetricError, match=r"^2 of 1400 feature vectors are not finite"):
        there.moments()
    with pytest.raises(MetricError, match=r"shape \(B, 24\) were expected, got \(5, 3\)"):
        there.update(x[:5, :3])
    with pytest.raises(MetricError, match="at least 2 feature vectors, got 0"):
        DeviceMoments(24, torch.device("cpu")).moments()


def test_features_stay_on_a_device_that_is_not_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a device that only says it is another one; the value is the one of the CPU."""
    from types import SimpleNamespace

    from ablate_core.config import TrialConfig
    from ablate_core.fid import metrics
    from ablate_core.fid.fd_digits import digits_extractor

    trial = TrialConfig.model_validate(
        {"schedule": "linear", "objective": "fm", "architecture": "mlp", "data": "digits",
         "train": {"steps": 1, "batch_size": 1}, "eval": {"metric": "fd_digits", "samples": 300, "also": ["kid"]}}
    )  # fmt: skip
    data = trial.data.load()

    def value() -> tuple[float, float]:
        metric = metrics.build_metric(trial.eval, trial.data, data)
        for part in torch.split(data.x[:300], 64):
            metric.update(part)
        found, (kernel,) = metric.value(), metric.beside()
        assert kernel.value is not None
        return found, kernel.value

    expected = value()
    monkeypatch.setattr(digits_extractor(), "device", SimpleNamespace(type="pretended"))
    monkeypatch.setattr(metrics, "DeviceMoments", lambda dims, device: DeviceMoments(dims, torch.device("cpu")))
    assert value() == pytest.approx(expected, rel=1e-10)


def test_features_equal_those_of_clean_fids_own_pipeline(extractor: InceptionExtractor, tmp_path: Path) -> None:
    from cleanfid.fid import get_folder_features
    from cleanfid.inception_torchscript import InceptionV3W
    from PIL import Image

    batch = images(5, size=20)
    folder, weights = tmp_path / "png", tmp_path / "weights"
    folder.mkdir()
    weights.mkdir()
    for i, image in enumerate(batch):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{i}.png")
    stand_in_file(tmp_path).rename(weights / "inception-2015-12-05.pt")
    theirs = get_folder_features(
        str(folder),
        InceptionV3W(str(weights), download=False),
        num_workers=0,
        device=torch.device("cpu"),
        verbose=False,
    )
    np.testing.assert_allclose(extractor.features(batch), theirs, rtol=1e-5, atol=1e-6)


def test_grey_images_are_grey_rgb_images(extractor: InceptionExtractor) -> None:
    grey = images(3, channels=1)
    np.testing.assert_array_equal(extractor.features(grey), extractor.features(grey.expand(-1, 3, -1, -1)))


def test_features_do_not_depend_on_the_batch_size(extractor: InceptionExtractor) -> None:
    batch = images(5)
    single = np.concatenate([extractor.features(part) for part in torch.split(batch, 1)])
    np.testing.assert_allclose(extractor.features(batch), single, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bad", [torch.zeros(2, 3, 8, 8), torch.zeros(2, 4, 8, 8).byte(), torch.zeros(3, 8, 8).byte()])
def test_other_tensors_than_uint8_images_are_refused(bad: Tensor) -> None:
    with pytest.raises(MetricError, match=r"uint8 images \(B, 1 or 3, H, W\), got torch"):
        resize_clean(bad)


def test_the_extractors_identity_is_its_weights(tmp_path: Path) -> None:
    a, b = InceptionExtractor(stand_in_file(tmp_path, 0)), InceptionExtractor(stand_in_file(tmp_path, 1))
    assert a.definition()["weights_sha256"] != b.definition()["weights_sha256"]
    assert {**a.definition(), "weights_sha256": ""} == {**b.definition(), "weights_sha256": ""}


def test_weights_that_moved_under_the_same_hash_are_caught_by_the_canary(
    extractor: InceptionExtractor, cache: Path
) -> None:
    stored = canary(extractor)
    check_canary(extractor, stored, "here")
    check_canary(extractor, stored * (1 + 5e-4), "here")
    for moved in (stored * 1.01, np.full_like(stored, np.nan), stored[:, :100]):
        with pytest.raises(MetricError, match=r"^here: "):
            check_canary(extractor, moved, "here")
    (file,) = (cache / "canary").glob("*.npz")
    np.savez(file, features=stored + 1)
    with pytest.raises(MetricError, match="features of the fixed test images moved by"):
        InceptionExtractor(next(cache.parent.glob("stand_in_0.pt")))


def test_without_weights_and_without_a_network_one_line_says_what_to_do() -> None:
    with pytest.raises(MetricError, match=r"download failed \(offline\); give eval.extractor the path of") as refused:
        find_weights(None)
    assert "\n" not in str(refused.value)


def test_a_missing_weights_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(MetricError, match=f"no Inception weights at {tmp_path}/none.pt"):
        find_weights(str(tmp_path / "none.pt"))
    with pytest.raises(MetricError, match=f"no Inception weights at {tmp_path}/inception-2015-12-05.pt"):
        find_weights(str(tmp_path))


def test_a_file_that_is_no_torchscript_inception_is_named(tmp_path: Path) -> None:
    torch.save({"a": 1}, tmp_path / "state.pt")
    torch.jit.script(nn.Linear(2, 2)).save(str(tmp_path / "linear.pt"))
    (tmp_path / "text.pt").write_text("hello")
    for name in ("state.pt", "linear.pt", "text.pt"):
        with pytest.raises(MetricError, match=f"{name} is not clean-fid's TorchScript Inception") as refused:
            InceptionExtractor(tmp_path / name)
        assert "\n" not in str(refused.value)


class Response:
    """What `urlopen` gives, from bytes."""

    def __init__(self, body: bytes, length: int) -> None:
        self.body, self.headers = body, {"Content-Length": str(length)}

    def __enter__(self) -> Response:
        return self

    def __exit__(self, *_: object) -> None: ...

    def read(self, size: int = -1) -> bytes:
        part, self.body = self.body[:size], self.body[size:]
        return part


def test_several_processes_download_the_weights_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def download(url: str, timeout: float) -> Response:
        calls.append(url)
        time.sleep(0.2)  # long enough for the others to arrive
        return Response(b"weights", 7)

    monkeypatch.setattr(urllib.request, "urlopen", download)
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(find_weights(None))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert calls[0].endswith("inception-2015-12-05.pt")
    assert found == [cache / "weights" / "inception-2015-12-05.pt"] * 4
    assert found[0].read_bytes() == b"weights"


def test_a_download_that_is_cut_short_leaves_no_file(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: Response(b"weig", 7))
    with pytest.raises(MetricError, match="4 of 7 bytes arrived"):
        find_weights(None)
    assert [p.name for p in (cache / "weights").iterdir() if p.suffix != ".lock"] == []


def test_a_reference_from_the_data_is_computed_once(extractor: InceptionExtractor, cache: Path) -> None:
    x = images(9).float()
    identity: dict[str, str | int | float] = {"name": "noise", "count": 9, "sha256": "ab"}
    made = reference_from_data(extractor, x, lambda v: v.byte(), identity, batch_size=4)
    np.testing.assert_allclose(made.moments.mean, moments(extractor.features(x.byte())).mean, rtol=1e-5)
    assert made.definition["data"] == identity

    def unused(_: Tensor) -> Tensor:
        raise AssertionError("the cached reference was not used")

    again = reference_from_data(extractor, x, unused, identity, batch_size=9)
    np.testing.assert_array_equal(again.moments.cov, made.moments.cov)
    assert again.moments.count == 9
    with pytest.raises(AssertionError, match="not used"):
        reference_from_data(extractor, x, unused, identity | {"sha256": "cd"}, batch_size=9)


def test_the_factor_of_a_reference_is_made_once_and_a_damaged_one_again(
    cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(frechet_module, "LARGE", 8)
    monkeypatch.setattr(reference_module, "LARGE", 8)
    m = moments(np.random.RandomState(0).randn(40, 8))
    np.savez(tmp_path / "a.npz", mu=m.mean, sigma=m.cov)

    def factor() -> Any:
        return reference_from_npz(str(tmp_path / "a.npz"), 8).moments.factor

    made = factor()
    np.testing.assert_allclose(made.T @ made, m.cov, atol=1e-14)
    (file,) = (cache / "factors").glob("*.npz")
    asked: list[int] = []
    eigh = np.linalg.eigh
    monkeypatch.setattr(np.linalg, "eigh", lambda a: (asked.append(1), eigh(a))[1])
    np.testing.assert_array_equal(factor(), made)
    assert asked == []
    for damage in (file.read_bytes()[:100], b""):
        file.write_bytes(damage)
        np.testing.assert_array_equal(factor(), made)
    np.savez(file, factor=made * 1.01)
    np.testing.assert_array_equal(factor(), made)
    assert len(asked) == 3


def test_features_of_the_data_are_kept_and_of_many_images_some_are_picked(
    extractor: InceptionExtractor, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference_module, "MOST_NEIGHBOURS", 6)
    x, asked = images(9).float(), []

    def to_uint8(v: Tensor) -> Tensor:
        asked.append(len(v))
        return v.byte()

    made = features_of_data(extractor, x, to_uint8, {"name": "noise"}, 4)
    assert made.features.shape == (6, 2048)
    assert (made.definition["count"], made.definition["features"]) == (9, 6)
    every = extractor.features(x.byte())
    assert all(np.isclose(every, row, rtol=1e-4).all(axis=1).any() for row in made.features)
    again = features_of_data(extractor, x, to_uint8, {"name": "noise"}, 9)
    assert asked == [4, 2]
    np.testing.assert_array_equal(again.features, made.features)


def test_a_damaged_cached_reference_is_computed_again(extractor: InceptionExtractor, cache: Path) -> None:
    x = images(4).float()
    made = reference_from_data(extractor, x, lambda v: v.byte(), {"name": "noise"}, batch_size=4)
    (file,) = (cache / "references").glob("*.npz")
    file.write_bytes(file.read_bytes()[:1000])
    again = reference_from_data(extractor, x, lambda v: v.byte(), {"name": "noise"}, batch_size=4)
    np.testing.assert_array_equal(again.moments.cov, made.moments.cov)


def test_a_reference_file_gives_its_moments_and_the_hash_of_its_arrays(tmp_path: Path) -> None:
    mu, sigma = np.arange(3.0), np.eye(3)
    np.savez(tmp_path / "a.npz", mu=mu, sigma=sigma)
    np.savez_compressed(tmp_path / "b.npz", sigma=sigma, mu=mu, comment=np.array("x"))
    np.savez(tmp_path / "c.npz", mu=mu.astype(np.float32), sigma=sigma.astype(np.float32))
    a, b, c = (reference_from_npz(str(tmp_path / f"{name}.npz"), 3) for name in "abc")
    np.testing.assert_array_equal(a.moments.mean, mu)
    np.testing.assert_array_equal(a.moments.cov, sigma)
    assert a.definition == b.definition
    assert a.definition != c.definition


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"mu": np.zeros(3)}, "has no sigma, only mu"),
        ({"mean": np.zeros(3), "cov": np.eye(3)}, "has no mu and no sigma, only mean, cov"),
        ({"mu": np.zeros(4), "sigma": np.eye(4)}, r"has mu \(4,\) and sigma \(4, 4\); this extractor needs \(3,\)"),
        ({"mu": np.zeros(3, int), "sigma": np.eye(3)}, "has mu int64 and sigma float64; floats are needed"),
        ({"mu": np.full(3, np.nan), "sigma": np.eye(3)}, "not finite"),
        ({"mu": np.array([None] * 3), "sigma": np.eye(3)}, "not a plain npz of arrays"),
    ],
)
def test_a_reference_file_with_wrong_content_is_refused(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "ref.npz", **arrays)
    with pytest.raises(MetricError, match=message) as refused:
        reference_from_npz(str(tmp_path / "ref.npz"), 3)
    assert "\n" not in str(refused.value)


def test_a_missing_or_damaged_reference_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MetricError, match=r"eval\.reference: no file"):
        reference_from_npz(str(tmp_path / "none.npz"), 3)
    (tmp_path / "text.npz").write_text("hello")
    np.savez(tmp_path / "cut.npz", mu=np.zeros(3), sigma=np.eye(3))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "cut.npz").read_bytes()[:200])
    np.save(tmp_path / "one.npy", np.zeros(3))
    for name in ("text.npz", "cut.npz", "one.npy"):
        with pytest.raises(MetricError, match=f"^eval.reference: .*{name} (is not a plain npz|holds one array)"):
            reference_from_npz(str(tmp_path / name), 3)


def test_the_whole_path_ranks_a_small_change_below_a_large_one(extractor: InceptionExtractor) -> None:
    x = images(12, size=16)
    near = (x.int() + 8).clamp(0, 255).byte()
    far = 255 - x // 4
    reference = moments(extractor.features(x))
    same, small, large = (frechet_from_features(extractor.features(v), reference) for v in (x, near, far))
    assert same < 1e-6 * small
    assert small < large


def test_the_training_runs_own_precision_comes_back(
    extractor: InceptionExtractor, monkeypatch: pytest.MonkeyPatch
) -> None:
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    seen: list[str] = []
    forward = extractor.network.forward
    monkeypatch.setattr(extractor.network, "forward", lambda x: (seen.append(matmul.fp32_precision), forward(x))[1])
    try:
        matmul.fp32_precision = "tf32"
        extractor.features(images(1))
        assert (seen, matmul.fp32_precision) == (["ieee"], "tf32")
    finally:
        matmul.fp32_precision = before


def test_the_extractor_of_a_process_is_loaded_once(tmp_path: Path) -> None:
    path = str(stand_in_file(tmp_path))
    assert inception_module.inception_extractor(path, "cpu") is inception_module.inception_extractor(path, "cpu")
