"""`latents`: arrays on disk that were encoded before, such as the latents of an autoencoder; read piece by piece."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ablate_core.datasets.base import DataError, Dataset, Samples


class Latents(Dataset):
    """A folder with ``x.npy`` (N, C, H, W) and, for labelled data, ``y.npy`` (N,) whole numbers from 0.

    Both are memory-mapped: a batch reads only its rows. With `moments` the channels are the mean and then the
    log-variance of the encoder's posterior, (N, 2C, H, W), and every visit draws a fresh sample of it (as
    Gsunshine/meanflow and sihyun-yu/REPA do).
    """

    name: Literal["latents"] = "latents"
    path: str = Field(description="the folder; a relative path counts from the working folder")
    scale: float = Field(0.18215, gt=0, description="latents are multiplied by this (Stable Diffusion's VAE: 0.18215)")
    moments: bool = Field(False, description="x.npy holds posterior means and log-variances instead of latents")

    kind: ClassVar[str] = "latents"

    def preflight(self) -> None:
        if not (Path(self.path) / "x.npy").is_file():
            raise DataError(f"data.path: there is no {str(Path(self.path) / 'x.npy')!r}; encode the latents first")

    def load(self) -> Samples:
        folder = Path(self.path)
        x = _open(folder / "x.npy")
        if x.ndim != 4 or not np.issubdtype(x.dtype, np.floating) or (self.moments and x.shape[1] % 2):
            wanted = "(N, 2C, H, W)" if self.moments else "(N, C, H, W)"
            raise DataError(f"{str(folder / 'x.npy')!r} holds {x.dtype} {x.shape}, wanted floating {wanted}")
        y = None
        if (folder / "y.npy").exists():
            y = torch.from_numpy(np.array(_open(folder / "y.npy"))).long()
            if y.shape != x.shape[:1] or y.min() < 0:
                raise DataError(f"{str(folder / 'y.npy')!r} needs one class number from 0 per row of x.npy ({len(x)})")
        mean, *log_variance = torch.from_numpy(x).chunk(2 if self.moments else 1, dim=1)
        return Samples(
            x=mean,
            y=y,
            num_classes=0 if y is None else int(y.max()) + 1,
            identity={"name": "latents", "version": 1, "path": self.path, "count": len(x), "scale": self.scale},
            log_variance=log_variance[0] if log_variance else None,
        )

    def batch(self, samples: Samples, index: Tensor, generator: torch.Generator) -> Tensor:
        x = samples.x[index].float()
        if samples.log_variance is not None:
            std = (0.5 * samples.log_variance[index].float().clamp(-30.0, 20.0)).exp()
            x = x + std * torch.randn(x.shape, generator=generator)
        return x * self.scale

    def to_uint8(self, x: Tensor) -> Tensor:
        """Raises TypeError: showing latents needs their decoder, which is not part of this package."""
        raise TypeError("latents need their decoder to become images; evaluate them on decoded samples")


def _open(path: Path) -> np.ndarray:
    try:
        array: np.ndarray = np.load(path, mmap_mode="c", allow_pickle=False)  # copy on write: torch wants to write
        return array
    except FileNotFoundError:
        raise DataError(f"data.path: there is no file {str(path)!r}; encode the data set first") from None
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"cannot read {str(path)!r} ({str(error).splitlines()[0]}); encode it again") from error
