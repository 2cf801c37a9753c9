"""Pictures of samples: a grid of images, or the density of points. Deterministic bytes for equal input."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

GAP = 1
"""Pixels of white between tiles, before enlarging."""
SMALLEST_TILE = 32
"""Small images are enlarged by a whole factor, without smoothing, until a tile has at least this many pixels."""
DENSITY_PIXELS = 256
NEIGHBOURS = 3
"""Training images laid beside each sample of a picture of neighbours."""
CHUNK = 2048


class Picture(NamedTuple):
    """uint8 pixels (H, W) or (H, W, 3) and the grid they show."""

    pixels: NDArray[np.uint8]
    rows: int
    cols: int


def grid_shape(count: int, num_classes: int) -> tuple[int, int]:
    """(rows, cols) for `count` samples: a column per class where there are few, else as square as it gets."""
    cols = num_classes if 2 <= num_classes <= 16 else math.isqrt(count)
    cols = max(1, min(cols, count))
    return max(1, count // cols), cols


def image_grid(images: Tensor, rows: int, cols: int) -> Picture:
    """Tile uint8 images (rows * cols, C, H, W) row by row. One channel gives grey; of more than three, the first."""
    n, c, h, w = images.shape
    if n != rows * cols:
        raise ValueError(f"a grid of {rows} x {cols} needs {rows * cols} images, got {n}")
    tiles = images[:, : 3 if c == 3 else 1].permute(0, 2, 3, 1).cpu().numpy()
    sheet = np.full((rows * (h + GAP) + GAP, cols * (w + GAP) + GAP, tiles.shape[-1]), 255, np.uint8)
    for i, tile in enumerate(tiles):
        y, x = GAP + (i // cols) * (h + GAP), GAP + (i % cols) * (w + GAP)
        sheet[y : y + h, x : x + w] = tile
    factor = max(1, math.ceil(SMALLEST_TILE / max(h, w)))
    sheet = sheet.repeat(factor, axis=0).repeat(factor, axis=1)
    return Picture(sheet if c == 3 else sheet[..., 0], rows, cols)


def nearest(x: Tensor, data: Tensor, count: int) -> Tensor:
    """(n, count) indices of the rows of `data` closest to each row of `x` in Euclidean distance, the closest first.

    Args:
        x: (n, *shape); few, all are held against every row at once.
        data: (N, *shape), N >= count; read in pieces.
    """
    rows = x.detach().cpu().flatten(1).double()
    squares = []
    for piece in torch.split(data, CHUNK):
        other = piece.detach().cpu().flatten(1).double()
        squares.append((other * other).sum(dim=1) - 2 * rows @ other.T)  # |x|^2 is the same for all
    return torch.cat(squares, dim=1).argsort(dim=1, stable=True)[:, :count]


def with_neighbours(x: Tensor, data: Tensor) -> tuple[Tensor, int, int]:
    """Samples (n, C, H, W), each followed by its nearest rows of `data`; all in the order of a grid, its rows, columns.

    Nearest in pixels is what a copied training image would be; a near miss says little, as pixels hide a shift.
    """
    count = min(NEIGHBOURS, len(data))
    found = data[nearest(x, data, count)].to(x)  # (n, count, C, H, W)
    return torch.cat([x[:, None], found], dim=1).flatten(0, 1), len(x), 1 + count


def point_density(points: Tensor, reference: Tensor) -> Picture:
    """Two densities over the reference's range, side by side: the samples left, the reference right, dark is dense.

    Args:
        points: (N, D) samples; the first two coordinates are shown.
        reference: (M, D) data.
    """
    known = reference.detach().cpu().double().numpy()
    known = known[:, :2] if known.shape[1] > 1 else np.hstack([known, np.zeros_like(known)])
    low, high = known.min(axis=0), known.max(axis=0)
    margin = 0.15 * np.maximum(high - low, 1e-6)
    shown = points.detach().cpu().double().numpy()
    shown = shown[:, :2] if shown.shape[1] > 1 else np.hstack([shown, np.zeros_like(shown)])
    window = list(zip(low - margin, high + margin, strict=True))
    panels = []
    for xy in (shown, known):
        counts, *_ = np.histogram2d(xy[:, 0], xy[:, 1], bins=DENSITY_PIXELS // 2, range=window)
        shade = np.sqrt(counts / max(counts.max(), 1.0))  # the square root keeps sparse regions visible
        panels.append(np.round(255 * (1 - shade)).astype(np.uint8).T[::-1])  # y upwards
    bar = np.full((DENSITY_PIXELS // 2, 2), 128, np.uint8)
    sheet = np.hstack([panels[0], bar, panels[1]])
    return Picture(sheet.repeat(2, axis=0).repeat(2, axis=1), 1, 2)


def png_bytes(picture: Picture) -> bytes:
    """The picture as PNG, without time stamps; a smaller one by a twentieth would take ten times as long."""
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture.pixels).save(buffer, format="PNG")
    return buffer.getvalue()
