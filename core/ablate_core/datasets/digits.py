"""`digits`: 1797 handwritten digits of 8x8 pixels, shipped with the package.

E. Alpaydin, C. Kaynak (1998), Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, CC BY 4.0;
the 1797 test images, as scikit-learn's `load_digits` gives them (a test compares the two).
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from ablate_core.datasets.base import Dataset, Samples, round_to_uint8

PIXEL_MAX = 16.0
PIXEL_MEAN = 4.884164579855314
PIXEL_STD = 6.016787548672236
"""Mean and standard deviation of all pixels, which run from 0 to 16: subtracted and divided, so that the data the
network sees has mean 0 and standard deviation 1 (design-space C25, D15)."""


class Digits(Dataset):
    """Handwritten digits, (1, 8, 8), ten classes of about 180."""

    name: Literal["digits"] = "digits"
    kind: ClassVar[str] = "images"
    dimension: ClassVar[int] = 64
    classes: ClassVar[int | None] = 10
    known_std: ClassVar[float | None] = 1.0

    def load(self) -> Samples:
        return _load()

    def to_uint8(self, x: Tensor) -> Tensor:
        return round_to_uint8((x * PIXEL_STD + PIXEL_MEAN) * (255 / PIXEL_MAX))


@cache
def _load() -> Samples:
    with files(__package__).joinpath("digits.npz").open("rb") as file, np.load(file) as arrays:
        images, labels = arrays["images"], arrays["labels"]  # [1797, 8, 8] uint8 in 0..16, [1797] uint8
    sha256 = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
    x = (torch.from_numpy(images).double().unsqueeze(1) - PIXEL_MEAN) / PIXEL_STD
    return Samples(
        x=x.float(),
        y=torch.from_numpy(labels).long(),
        num_classes=10,
        identity={"name": "digits", "version": 1, "split": "all", "count": len(images), "sha256": sha256},
    )
