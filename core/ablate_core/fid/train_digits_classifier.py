"""Train the classifier of `fd_digits` and write the file that ships.

Run as ``python -m ablate_core.fid.train_digits_classifier``.

Deterministic on one machine and one version of torch (one thread, fixed seed). Elsewhere the weights come out equal
only up to rounding, so the shipped file, not this script, is what `fd_digits` means; its hash is in the metric's
identity. Takes about a minute of one CPU core.
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ablate_core.datasets.digits import Digits
from ablate_core.fid.extractor import canary_batch
from ablate_core.fid.fd_digits import FILE, SHAPE, DigitsClassifier
from ablate_core.fid.frechet import moments
from ablate_core.identity import arrays_sha256

SEED = 0
EPOCHS = 60
BATCH = 64
LR = 2e-3


def digits_uint8() -> tuple[Tensor, Tensor]:
    """The package's digits as the metric sees them: uint8 images (1797, 1, 8, 8), round half up of 255 v / 16."""
    dataset = Digits()
    data = dataset.load()
    assert data.y is not None, "digits are labelled"
    return dataset.to_uint8(data.x), data.y


def held_out(count: int) -> NDArray[np.bool_]:
    """The mask (count,) of the test split: every fifth image."""
    mask: NDArray[np.bool_] = np.arange(count) % 5 == 0
    return mask


def train(x: Tensor, y: Tensor) -> DigitsClassifier:
    """AdamW, cosine learning rate, cross entropy with label smoothing 0.05, on uint8 x (N, 1, 8, 8) and y (N,)."""
    torch.manual_seed(SEED)
    network = DigitsClassifier()
    optimiser = torch.optim.AdamW(network.parameters(), lr=LR, weight_decay=0.05)
    steps = EPOCHS * math.ceil(len(x) / BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(EPOCHS):
        for rows in torch.split(torch.randperm(len(x)), BATCH):
            loss = F.cross_entropy(network(x[rows]), y[rows], label_smoothing=0.05)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
    return network.requires_grad_(False).eval()


def accuracy(network: DigitsClassifier, x: Tensor, y: Tensor) -> float:
    """Share of right classes."""
    return float((network(x).argmax(dim=1) == y).double().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=FILE, help="the npz to write (default: the one that ships)")
    out: Path = parser.parse_args().out
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    x, y = digits_uint8()
    test = torch.from_numpy(held_out(len(x)))
    network = train(x[~test], y[~test])
    reference = moments(network.features(x).numpy())
    weights = {name: w.numpy() for name, w in network.state_dict().items()}
    arrays: dict[str, NDArray[np.generic]] = {f"w.{name}": w for name, w in weights.items()}
    arrays |= {
        "mu": reference.mean,
        "sigma": reference.cov,
        "count": np.asarray(reference.count),
        "canary": network.features(canary_batch(SHAPE)).numpy(),
    }
    with tempfile.NamedTemporaryFile(dir=out.parent, suffix=".npz", delete=False) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    os.chmod(file.name, 0o644)
    os.replace(file.name, out)
    print(f"held out {int(test.sum())} of {len(x)}: accuracy {accuracy(network, x[test], y[test]):.4f}")
    print(f"weights sha256 {arrays_sha256(weights)}")
    print(f"reference sha256 {arrays_sha256({'mu': reference.mean, 'sigma': reference.cov})}")


if __name__ == "__main__":
    main()
