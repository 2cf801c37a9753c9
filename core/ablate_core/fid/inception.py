"""The extractor of `fid`: Inception v3 as clean-fid runs it, on images in memory.

clean-fid (Parmar, Zhang and Zhu, CVPR 2022) supplies the resize (mode ``clean``: PIL bicubic in float, per channel,
antialiased, to 299x299, not rounded) and the network's wrapper. What is done here instead of there, and why: its
download is neither locked, checked nor atomic and lands in a shared temporary folder; its statistics cache is keyed by
a name and lies in site-packages; its file pipeline needs PNG files and 12 workers; its generator interface draws
unseeded latents; its square root goes away with SciPy 1.18.

Weights are the TorchScript file ``inception-2015-12-05.pt`` (NVIDIA's port of the TensorFlow network of 2015).
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ablate_core.fid import MetricError
from ablate_core.fid.extractor import canary, check_canary
from ablate_core.fid.files import atomic, cache_dir, file_sha256, locked, save_npz

WEIGHTS = "inception-2015-12-05.pt"
DIMS = 2048
SIDE = 299
"""Height and width of what the network takes."""
DOWNLOAD_TIMEOUT = 60.0
_HOW = f"give eval.extractor the path of {WEIGHTS}"


class InceptionExtractor:
    """Inception v3 features (B, 2048) of uint8 RGB or grey images of any size.

    Args:
        weights: the TorchScript file.
        device: where the network runs; float32, with TF32 off while it does.
        resize: "pil" as clean-fid does it, on the CPU; "torch" the same filter on `device`.

    Raises:
        MetricError: the file is missing or is not such a network, or its canary moved since it was first used.
    """

    dims = DIMS
    image_shape = (3, 32, 32)

    def __init__(self, weights: Path, device: str = "cpu", resize: str = "pil") -> None:
        self.device = torch.device(device)
        self.resize, self.resize_definition = RESIZES[resize]
        self.weights_sha256 = file_sha256(weights)
        self.network = _load(weights).to(self.device)
        stored = cache_dir() / "canary" / f"inception-{self.weights_sha256[:16]}.npz"
        with locked(stored):
            if stored.exists():
                with np.load(stored, allow_pickle=False) as arrays:
                    self.canary = check_canary(self, arrays["features"], str(stored))
            else:
                self.canary = canary(self)
                save_npz(stored, {"features": self.canary})

    def definition(self) -> dict[str, Any]:
        return {
            "name": "inception-2015-12-05",
            "weights_sha256": self.weights_sha256,
            "layer": "pool3",
            "dims": DIMS,
            "dtype": "float32, no TF32",
            "jit": True,
            "resize": self.resize_definition,
            "channels": "grey repeated to RGB",
        }

    def features(self, images: Tensor) -> NDArray[np.float32]:
        """uint8 (B, 1 or 3, H, W) -> float32 (B, 2048). Raises MetricError on any other dtype or shape."""
        array: NDArray[np.float32] = self.on_device(images).cpu().numpy()
        return array

    def on_device(self, images: Tensor) -> Tensor:
        """As `features`, left on the device."""
        with torch.inference_mode(), _full_float32():
            features: Tensor = self.network(self.resize(images, self.device))
            return features.float()


def resize_clean(images: Tensor, device: torch.device | str = "cpu") -> Tensor:
    """clean-fid's ``clean`` resize: uint8 (B, 1 or 3, H, W) -> float32 (B, 3, 299, 299) in [0, 255], not rounded.

    On the CPU, with as many threads as torch has: Pillow lets go of the interpreter. The result is on `device`.
    """
    _require_uint8(images)
    resizer = _resizer()
    pixels = images.cpu().expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()
    if len(pixels) == 0:
        return torch.empty(0, 3, SIDE, SIDE, device=device)
    threads = min(torch.get_num_threads(), len(pixels))
    if threads > 1:
        with ThreadPoolExecutor(threads) as pool:
            resized = np.stack(list(pool.map(resizer, pixels)))
    else:
        resized = np.stack([resizer(image) for image in pixels])
    return torch.from_numpy(resized).permute(0, 3, 1, 2).contiguous().to(device)


def resize_on_device(images: Tensor, device: torch.device | str = "cpu") -> Tensor:
    """The same filter by torch, on `device`: within 0.01 grey levels of `resize_clean`."""
    _require_uint8(images)
    size, images = (SIDE, SIDE), images.to(device)
    if tuple(images.shape[2:]) == size:
        return images.float().expand(-1, 3, -1, -1)
    grey_or_rgb = F.interpolate(images.float(), size, mode="bicubic", antialias=True)  # before a grey one is repeated
    return grey_or_rgb.clamp(0, 255).expand(-1, 3, -1, -1)


RESIZES: dict[str, tuple[Callable[[Tensor, torch.device], Tensor], str]] = {
    "pil": (resize_clean, "clean-fid clean: PIL bicubic in float32 per channel, antialiased, 299x299, not rounded"),
    "torch": (resize_on_device, "torch bicubic in float32, antialiased, clipped to 0..255, 299x299, not rounded"),
}
"""`eval.resize` -> how it is done, and what the metric's identity says of it."""


def _require_uint8(images: Tensor) -> None:
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise MetricError(
            f"fid takes uint8 images (B, 1 or 3, H, W), got {images.dtype} {tuple(images.shape)}; "
            "latents have to be decoded to images first"
        )


def find_weights(path: str | None) -> Path:
    """The weights file: `path` (a file, or a folder that holds it), else the cached or fresh download of clean-fid's.

    Raises:
        MetricError: `path` does not exist, or there is neither a cached file nor a way to download one.
    """
    if path is not None:
        file = Path(path).expanduser()
        file = file / WEIGHTS if file.is_dir() else file
        if not file.is_file():
            raise MetricError(
                f"eval.extractor: no Inception weights at {file}; {_HOW} or leave it out to download them"
            )
        return file
    file = cache_dir() / "weights" / WEIGHTS
    with locked(file):
        if not file.is_file():
            _download(file)
    return file


def cached_weights() -> Path | None:
    """Inception weights that an earlier download left in the cache folder, or None; never downloads."""
    file = cache_dir() / "weights" / WEIGHTS
    return file if file.is_file() else None


def _download(file: Path) -> None:
    from cleanfid.downloads_helper import inception_url

    try:
        with urllib.request.urlopen(inception_url, timeout=DOWNLOAD_TIMEOUT) as response, atomic(file) as out:
            shutil.copyfileobj(response, out)
            expected = response.headers.get("Content-Length")
            if expected is not None and out.tell() != int(expected):
                raise OSError(f"{out.tell()} of {expected} bytes arrived")
    except OSError as error:  # URLError and timeouts are OSErrors
        reason = getattr(error, "reason", error)
        raise MetricError(
            f"fid needs Inception weights: none cached in {file.parent} and the download failed ({reason}); {_HOW}"
        ) from None


def _load(weights: Path) -> torch.nn.Module:
    """clean-fid's wrapper around the TorchScript file."""
    if not weights.is_file():
        raise MetricError(f"eval.extractor: no Inception weights at {weights}; {_HOW}")
    from cleanfid.inception_torchscript import InceptionV3W

    with tempfile.TemporaryDirectory() as folder:  # the wrapper opens a fixed name inside a folder
        (Path(folder) / WEIGHTS).symlink_to(weights.resolve())
        try:
            with warnings.catch_warnings():  # the file is TorchScript, whatever torch thinks of that by now
                warnings.simplefilter("ignore", FutureWarning)
                network: torch.nn.Module = InceptionV3W(folder, download=False, resize_inside=False)
        except (RuntimeError, AttributeError) as error:
            reason = str(error).strip().splitlines()[-1]
            raise MetricError(f"{weights} is not clean-fid's TorchScript Inception ({reason}); {_HOW}") from None
    return network.requires_grad_(False).eval()


@lru_cache(maxsize=1)
def _resizer() -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    from cleanfid.resize import build_resizer

    resizer: Callable[[NDArray[np.uint8]], NDArray[np.float32]] = build_resizer("clean")
    return resizer


@contextlib.contextmanager
def _full_float32() -> Iterator[None]:
    """TF32 moves features by 1e-3; the training run's own setting comes back afterwards."""
    matmul, conv = torch.backends.cuda.matmul, torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before = (matmul.fp32_precision, conv.fp32_precision)
    matmul.fp32_precision = conv.fp32_precision = "ieee"
    try:
        yield
    finally:
        matmul.fp32_precision, conv.fp32_precision = before


@lru_cache(maxsize=2)
def inception_extractor(path: str | None, device: str, resize: str = "pil") -> InceptionExtractor:
    """The extractor for `eval.extractor` and `eval.resize`, loaded and checked once per process."""
    return InceptionExtractor(find_weights(path), device, resize)
