"""`image_folder`: pictures in a folder, one subfolder per class, or all in one folder without labels."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ablate_core.datasets.base import DataError, Dataset, Samples, round_to_uint8

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})


class ImageFolder(Dataset):
    """All pictures of a folder in memory, scaled so that the short side is `size` and cropped at the centre.

    Subfolders are classes in alphabetical order. Network units are (grey value - mean) / std; the defaults give
    [-1, 1]. Methods that need a standard deviation of 1 need the pictures' own `mean` and `std`: the trainer measures
    them and names the values to write when they are off.
    """

    name: Literal["image_folder"] = "image_folder"
    path: str = Field(description="the folder; a relative path counts from the working folder")
    size: int = Field(32, gt=0, description="height and width in pixels")
    channels: Literal[1, 3] = Field(3, description="3: colour, 1: grey")
    flip: bool = Field(False, description="mirror every second picture at random while training")
    mean: float = Field(127.5, description="grey value in 0..255 that becomes 0")
    std: float = Field(127.5, gt=0, description="grey values in 0..255 that become 1")

    kind: ClassVar[str] = "images"

    def preflight(self) -> None:
        _find(Path(self.path))

    def load(self) -> Samples:
        paths, labels, classes = _find(Path(self.path))
        pixels = np.stack([_read(path, self.size, self.channels) for path in paths])  # [N, C, H, W] uint8
        x = torch.from_numpy(pixels).float().sub_(self.mean).div_(self.std)
        identity: dict[str, str | int | float] = {
            "name": "image_folder",
            "version": 1,
            "count": len(paths),
            "size": self.size,
            "channels": self.channels,
            "sha256": hashlib.sha256(pixels.tobytes() + bytes(str(labels), "ascii")).hexdigest(),
        }
        return Samples(x, torch.tensor(labels) if labels else None, classes, identity)

    def batch(self, samples: Samples, index: Tensor, generator: torch.Generator) -> Tensor:
        x = samples.x[index]
        if not self.flip:
            return x
        mirrored = torch.rand(len(x), 1, 1, 1, generator=generator) < 0.5
        return torch.where(mirrored, x.flip(-1), x)

    def to_uint8(self, x: Tensor) -> Tensor:
        return round_to_uint8(x * self.std + self.mean)


def _find(folder: Path) -> tuple[list[Path], list[int], int]:
    """Picture paths in a fixed order, their labels (empty when there are no subfolders), the number of classes."""
    if not folder.is_dir():
        raise DataError(f"data.path: there is no folder {str(folder)!r}; give an existing folder of pictures")
    classes = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    groups = [_pictures(c) for c in classes] or [_pictures(folder)]
    empty = [str(c) for c, g in zip(classes or [folder], groups, strict=True) if not g]
    if empty:
        raise DataError(f"data.path: no picture ({', '.join(sorted(SUFFIXES))}) in {empty[0]!r}; add some or remove it")
    paths = [p for group in groups for p in group]
    labels = [k for k, group in enumerate(groups) for _ in group] if classes else []
    return paths, labels, len(classes)


def _pictures(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))


def _read(path: Path, size: int, channels: int) -> np.ndarray:
    """One picture, (C, size, size) uint8: short side to `size` with a box and bicubic filter, then a centre crop."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            picture = image.convert("RGB" if channels == 3 else "L")
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"cannot read the picture {str(path)!r} ({reason}); replace or remove the file") from error
    short = min(picture.size)
    if short != size:
        width, height = (max(size, round(side * size / short)) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    left, top = ((side - size) // 2 for side in picture.size)
    array = np.asarray(picture.crop((left, top, left + size, top + size)))
    return array.reshape(size, size, channels).transpose(2, 0, 1)
