"""Features of the samples of a pack's members are extracted together, and are those of each alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ablate_core.config import TrialConfig
from ablate_core.fid.fd_digits import DigitsExtractor, digits_extractor
from ablate_core.packing import Member, rendezvous, train_pack
from ablate_core.packing.calls import Extract
from ablate_core.packing.lockstep import Player, Turn
from ablate_core.trainer import train


def config(seed: int) -> TrialConfig:
    return TrialConfig.model_validate(
        {
            "schedule": "linear",
            "objective": "fm",
            "architecture": {"name": "mlp", "width": 12, "depth": 2},
            "data": "digits",
            "train": {"steps": 3, "batch_size": 16, "lr": 1e-3},
            "eval": {"metric": "fd_digits", "samples": 50, "batch_size": 20, "gallery": 0},
            "seed": seed,
        }
    )


@pytest.fixture
def extracted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Images of each call of the extractor."""
    seen: list[int] = []
    own = DigitsExtractor.on_device

    def spy(self: DigitsExtractor, images: Tensor) -> Tensor:
        seen.append(len(images))
        return own(self, images)

    monkeypatch.setattr(DigitsExtractor, "on_device", spy)
    return seen


def test_members_that_measure_share_the_extractor_and_their_values_are_their_own(
    tmp_path: Path, extracted: list[int]
) -> None:
    events: dict[str, list[dict[str, Any]]] = {}
    members = [
        Member(config(i), tmp_path / f"packed-{i}", report=events.setdefault(f"packed-{i}", []).append)
        for i in range(3)
    ]
    extracted.clear()
    train_pack(members)
    assert [count for count in extracted if count >= 30] == [60, 60, 30]
    for i in range(3):
        train(config(i), tmp_path / f"alone-{i}", report=events.setdefault(f"alone-{i}", []).append)
    packed, alone = (
        [[e["value"] for e in events[f"{how}-{i}"] if e["kind"] == "measurement"] for i in range(3)]
        for how in ("packed", "alone")
    )
    assert len({value for (value,) in alone}) == 3
    torch.testing.assert_close(torch.tensor(packed), torch.tensor(alone), rtol=1e-4, atol=0.0)


class Strange:
    """An extractor of another kind: the mean of an image. It refuses what is not uint8."""

    def on_device(self, images: Tensor) -> Tensor:
        if images.dtype != torch.uint8:
            raise ValueError("uint8 images only")
        return images.float().mean((1, 2, 3), keepdim=False)[:, None]


def asking(extractor: Any, *images: Tensor) -> list[Player[Any]]:
    return [Player(i, lambda _: None, Turn(), asked=Extract(extractor, x)) for i, x in enumerate(images)]


def digits(count: int, seed: int) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, 1, 8, 8), generator=draw, dtype=torch.uint8)


def test_no_call_is_larger_than_is_usual_and_each_gets_its_own(
    monkeypatch: pytest.MonkeyPatch, extracted: list[int]
) -> None:
    monkeypatch.setattr(rendezvous, "MOST_IMAGES", 30)
    players = asking(digits_extractor(), *(digits(count, seed) for seed, count in enumerate((20, 15, 10, 40))))
    strange = asking(Strange(), digits(5, 9), digits(7, 10))
    extracted.clear()
    rendezvous._extract([*players, *strange])
    assert sorted(extracted) == [15, 30, 40]
    for player in [*players, *strange]:
        alone = player.asked.extractor.on_device(player.asked.images)
        torch.testing.assert_close(player.answer, alone, rtol=1e-5, atol=1e-6)


def test_who_asks_for_what_cannot_be_done_is_told() -> None:
    good, bad = asking(Strange(), digits(3, 0), torch.zeros(3, 1, 8, 8))
    rendezvous._extract([good, bad])
    assert isinstance(bad.answer, ValueError)
    assert good.answer.shape == (3, 1)
