"""The extractor of `fd_digits`: a small classifier of scikit-learn's digits, shipped with the package.

A Frechet distance on its features is *not* FID: the network, the image size and the reference are different ones. It
ranks generators of 8x8 digits, on a CPU, in milliseconds, and nothing else.

The card of the classifier (made by ``python -m ablate_core.fid.train_digits_classifier``; a test checks every line):

==================  ==============================================================================================
data                scikit-learn ``load_digits``: 1797 grey 8x8 images of 10 classes (UCI, CC BY 4.0)
split               held out: the 360 images with index % 5 == 0; trained on the other 1437
network             conv 3x3 (24), conv 3x3 stride 2 (32), linear 512 -> 48, linear 48 -> 10; GELU; 32,298 weights
features            the 48 outputs of the first linear layer, before its activation
held-out accuracy   0.9889 (356 of 360)
weights sha256      61ee9209ce22129fd1cc2276819bc418657716203dd7a08a5689909567c27840
==================  ==============================================================================================

The reference of `fd_digits` is the mean and covariance of the features of all 1797 images, and ships in the same file.
"""

from __future__ import annotations

import zipfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ablate_core.fid import MetricError
from ablate_core.fid.extractor import check_canary
from ablate_core.fid.frechet import Moments
from ablate_core.identity import arrays_sha256

FILE = Path(__file__).with_name("digits_classifier.npz")
SHAPE = (1, 8, 8)
DIMS = 48


class DigitsClassifier(nn.Module):
    """uint8 images (B, 1, 8, 8) -> logits (B, 10); `features` -> (B, 48)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 24, 3, padding=1)
        self.conv2 = nn.Conv2d(24, 32, 3, stride=2, padding=1)
        self.hidden = nn.Linear(32 * 4 * 4, DIMS)
        self.out = nn.Linear(DIMS, 10)

    def features(self, images: Tensor) -> Tensor:
        x = images.float() / 127.5 - 1
        x = F.gelu(self.conv2(F.gelu(self.conv1(x))))
        features: Tensor = self.hidden(x.flatten(1))
        return features

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.out(F.gelu(self.features(images)))
        return logits


class DigitsExtractor:
    """The shipped classifier as an extractor, on the CPU; `reference` are the shipped moments of all 1797 digits."""

    dims = DIMS
    image_shape = SHAPE
    device = torch.device("cpu")

    def __init__(self, file: Path = FILE) -> None:
        try:
            with np.load(file, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
        except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
            raise MetricError(
                f"{file}: the digits classifier cannot be read ({error}); reinstall the package"
            ) from None
        weights = {name.removeprefix("w."): a for name, a in arrays.items() if name.startswith("w.")}
        self.weights_sha256 = arrays_sha256(weights)
        self.network = DigitsClassifier()
        self.network.load_state_dict({name: torch.from_numpy(a) for name, a in weights.items()})
        self.network.requires_grad_(False).eval()
        self.reference = Moments(arrays["mu"], arrays["sigma"], int(arrays["count"]))
        self.reference_sha256 = arrays_sha256({"mu": arrays["mu"], "sigma": arrays["sigma"]})
        self.canary = check_canary(self, arrays["canary"], str(file))

    def definition(self) -> dict[str, Any]:
        return {
            "name": "ablate-digits-cnn",
            "weights_sha256": self.weights_sha256,
            "layer": "hidden, before its activation",
            "dims": DIMS,
            "dtype": "float32",
            "resize": "none: 8x8 images as they are",
        }

    def reference_definition(self) -> dict[str, Any]:
        return {
            "data": "sklearn-digits",
            "split": "all",
            "count": self.reference.count,
            "sha256": self.reference_sha256,
        }

    def features(self, images: Tensor) -> NDArray[np.float32]:
        """uint8 (B, 1, 8, 8) -> float32 (B, 48). Raises MetricError on any other dtype or shape."""
        features: NDArray[np.float32] = self.on_device(images).numpy()
        return features

    def on_device(self, images: Tensor) -> Tensor:
        """As `features`; the device is the CPU."""
        if images.dtype != torch.uint8 or tuple(images.shape[1:]) != SHAPE:
            raise MetricError(
                f"fd_digits takes uint8 images of shape {SHAPE}, got {images.dtype} {tuple(images.shape[1:])}; "
                "use it with data: digits, or eval.metric: fid for other images"
            )
        with torch.inference_mode():
            return self.network.features(images.cpu())


@lru_cache(maxsize=1)
def digits_extractor() -> DigitsExtractor:
    """The shipped extractor, loaded and checked once per process."""
    return DigitsExtractor()


def weights_sha256() -> str:
    """The hash of the shipped weights, after the canary was checked."""
    return digits_extractor().weights_sha256
