"""The U-Net: published parameter counts, parity with EDM's, dropout that a resumed run repeats, training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from architecture_cases import UNET, build, inputs, randomised
from golden_cases import arrays
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from ablate_core.architectures.pairs import Pair
from ablate_core.architectures.unet import UNet, UNetNetwork
from ablate_core.architectures.unet_blocks import Dropout, GroupNorm, Resample
from ablate_core.checkpoint import load_checkpoint
from ablate_core.config import TrialConfig
from ablate_core.trainer import train


@pytest.mark.oracle("O21")
@pytest.mark.proves("architecture:unet")
@pytest.mark.parametrize(
    ("fields", "augmentation", "count"),
    [
        ({}, 6, 55_932_419),
        ({}, 0, 55_929_347),
        ({"noise_mult": 1, "resample": (1, 1)}, 0, 55_798_275),
        ({"embedding": "fourier", "encoder": "residual"}, 0, 56_526_595),
    ],
    ids=["pmf10", "pmf10-unaugmented", "ddpmpp", "ncsnpp"],
)
def test_unet_has_the_published_number_of_parameters(fields: dict[str, Any], augmentation: int, count: int) -> None:
    """O21, section 7.2. EDM's six augmentation labels enter as guidance inputs do."""
    with torch.device("meta"):
        net = UNet.model_validate(fields).build((3, 32, 32), 0, guidance_inputs=augmentation)
    assert sum(p.numel() for p in net.parameters()) == count


def sine_weights(net: torch.nn.Module) -> None:
    """Weight k, flat index i: 1.4 / sqrt(fan_in) sin(1.3 i + 0.7 k + 0.1 sin(0.37 i^1.5)); fan_in 100 for vectors."""
    for k, p in enumerate(net.parameters()):
        fan_in = p[0].numel() if p.ndim > 1 else 100
        i = torch.arange(p.numel(), dtype=torch.float64)
        wave = torch.sin(1.3 * i + 0.7 * k + 0.1 * torch.sin(0.37 * i**1.5))
        with torch.no_grad():
            p.copy_((1.4 / fan_in**0.5 * wave).reshape(p.shape))


@pytest.mark.proves("architecture:unet")
@pytest.mark.parametrize(
    ("case", "fields"),
    [
        ("ddpmpp", {}),
        ("ncsnpp", {"encoder": "residual", "embedding": "fourier", "noise_mult": 1, "resample": (1, 1)}),
    ],
)
def test_unet_agrees_with_edm(case: str, fields: dict[str, Any]) -> None:
    """Output and derivative recorded from SongUNet of NVlabs/edm training/networks.py (0a2ff34) with these weights.

    Its embedding of one noise level was replaced by the two times side by side, its queries, keys and values, which it
    interleaves, put in our order.
    """
    stored = {k.split("/")[1]: torch.from_numpy(v) for k, v in arrays("edm_unet").items() if k.startswith(f"{case}/")}
    config = UNet(model_channels=16, channel_mult=(1, 2, 2), blocks=2, attention=(8,)).model_copy(update=fields)
    net = config.build((2, 16, 16), 0, guidance_inputs=6).double()
    sine_weights(net)
    if net.fourier is not None:
        net.fourier.copy_(stored["fourier"])
    x, dx, r, t, augment = (stored[name] for name in ("x", "dx", "r", "t", "augment"))
    out, slope = net.forward_and_tangent(x, r, t, None, dx, torch.ones_like(t), g=augment)
    assert_close(out, stored["out"], rtol=1e-10, atol=1e-12)
    assert_close(slope, stored["du_dt"], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("channels", [8, 24, 160, 256])
def test_group_norm_is_torchs(channels: int) -> None:
    norm = randomised(GroupNorm(channels).double(), 1.0)  # type: ignore[arg-type]
    x = torch.randn(2, channels, 4, 4, dtype=torch.float64)
    groups = min(32, channels // 4)
    assert_close(norm(Pair(x)).value, F.group_norm(x, groups, norm.weight, norm.bias, 1e-6), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("taps", [(1, 1), (1, 3, 3, 1)])
def test_resampling_keeps_constants_and_halving_is_the_adjoint_of_doubling(taps: tuple[int, ...]) -> None:
    down, up = Resample(taps, up=False).double(), Resample(taps, up=True).double()
    ones = torch.ones(1, 3, 8, 8, dtype=torch.float64)
    for layer, side in ((down, 4), (up, 16)):
        out = layer(Pair(ones)).value
        assert out.shape == (1, 3, side, side)
        assert_close(out[..., 1:-1, 1:-1], torch.ones_like(out)[..., 1:-1, 1:-1])
    fine, coarse = torch.randn(1, 3, 8, 8, dtype=torch.float64), torch.randn(1, 3, 4, 4, dtype=torch.float64)
    left = (down(Pair(fine)).value * coarse).sum()
    assert_close(left, (fine * up(Pair(coarse)).value).sum() / 4, rtol=1e-12, atol=1e-12)


def test_attention_is_where_it_is_asked_for_and_in_the_middle() -> None:
    net = UNet(model_channels=8, channel_mult=(1, 1, 1), blocks=2, attention=(8,)).build((1, 16, 16), 0)
    attended = {name.removesuffix(".attention") for name, _ in net.named_modules() if name.endswith(".attention")}
    assert attended == {
        *(f"encoder.levels.1.{k}" for k in range(2)),  # every block of the level on the way down
        "decoder.starts.0.0",  # the first block of the lowest level, always
        "decoder.levels.1.2",  # the last block of the level on the way up
    }


def test_fresh_output_is_small_and_of_the_published_scale() -> None:
    x, r, t, y = inputs(torch.float32, n=8)
    out = build({"name": "unet", "model_channels": 32, "channel_mult": (2, 2), "blocks": 1})(x, r, t, y)
    assert 1e-7 < float(out.detach().std()) < 1e-4


# ------------------------------------------------------------------------------------------------------------- dropout


def dropping(p: float = 0.3) -> UNetNetwork:
    net = build(UNET | {"dropout": p})
    assert isinstance(net, UNetNetwork)
    randomised(net.double())
    return net


def test_dropout_drops_nothing_until_it_has_a_seed() -> None:
    x, r, t, y = inputs()
    net = dropping()
    whole = net(x, r, t, y)
    assert torch.equal(whole, dropping(0)(x, r, t, y))
    net.use_dropout(3)
    assert not torch.equal(net(x, r, t, y), whole)
    net.use_dropout(None)
    assert torch.equal(net(x, r, t, y), whole)


def test_dropout_repeats_its_masks_for_one_seed_also_with_tangents() -> None:
    x, r, t, y = inputs()
    net = dropping()
    net.use_dropout(3)
    first = net(x, r, t, y)
    assert torch.equal(net(x, r, t, y), first)
    value, slope = net.forward_and_tangent(x, r, t, y, x, torch.ones_like(t))
    assert_close(value, first, rtol=1e-12, atol=1e-12)
    h = 1e-5
    with torch.no_grad():
        ahead, behind = net(x + h * x, r, t + h, y), net(x - h * x, r, t - h, y)
    assert_close(slope, (ahead - behind) / (2 * h), rtol=1e-5, atol=1e-8)
    net.use_dropout(4)
    assert not torch.equal(net(x, r, t, y), first)


def test_dropout_has_its_rate_and_keeps_the_mean_and_layers_differ() -> None:
    layer = Dropout(0.25)
    layer.seed = 1
    out = layer(Pair(torch.ones(400, 50))).value
    assert abs(float((out == 0).float().mean()) - 0.25) < 0.01
    assert_close(out.unique(), torch.tensor([0.0, 4 / 3]))
    net = dropping()
    net.use_dropout(0)
    seeds = [module.seed for module in net.modules() if isinstance(module, Dropout)]
    assert len(set(seeds)) == len(seeds) > 4


# ------------------------------------------------------------------------------------------------------------ training


def trial(**train_fields: Any) -> TrialConfig:
    return TrialConfig.model_validate(
        {
            "schedule": "linear",
            "objective": "meanflow",
            "architecture": UNET | {"dropout": 0.1},
            "data": "digits",
            "train": {"steps": 8, "batch_size": 32, "lr": 2e-3, "ema": [0.9], **train_fields},
            "eval": {"metric": "fd_digits", "samples": 300, "gallery": 0},
        }
    )


def weights(folder: Path) -> dict[str, Tensor]:
    state = load_checkpoint(folder)
    assert state is not None
    return state["net"]  # type: ignore[no-any-return]


def test_a_resumed_run_with_dropout_equals_the_uninterrupted_one(tmp_path: Path) -> None:
    config = trial()
    train(config, tmp_path / "whole")
    asked = iter([False] * 4 + [True])
    assert train(config, tmp_path / "cut", should_stop=lambda: next(asked)).step == 4
    train(config, tmp_path / "cut")
    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_dropout_is_on_while_training(tmp_path: Path) -> None:
    config = trial(steps=2)
    train(config, tmp_path / "with")
    architecture = config.architecture.model_copy(update={"dropout": 0.0})
    train(config.model_copy(update={"architecture": architecture}), tmp_path / "without")
    with_it, without = weights(tmp_path / "with"), weights(tmp_path / "without")
    assert not all(torch.equal(with_it[name], without[name]) for name in without)


def test_small_unet_learns_the_digits(tmp_path: Path) -> None:
    """One-step samples after 60 steps are far nearer to the digits than those after 1 step."""
    values = []
    for steps in (1, 60):
        events: list[dict[str, Any]] = []
        train(trial(steps=steps, lr=4e-3), tmp_path / str(steps), report=events.append)
        values += [event["value"] for event in events if event["kind"] == "measurement"]
    assert values[1] < 0.5 * values[0], values


@pytest.mark.parametrize(
    ("fields", "shape", "message"),
    [
        ({}, (3, 30, 30), "divisible by 4"),
        ({}, (7,), "needs images"),
        ({"model_channels": 2}, (3, 32, 32), "model_channels a multiple of 32"),
        ({"model_channels": 40, "channel_mult": (1, 3)}, (3, 32, 32), "model_channels a multiple of 32"),
        ({"resample": (1, 2, 1)}, (3, 32, 32), "even number of taps"),
    ],
)
def test_unet_refuses_what_does_not_fit(fields: dict[str, Any], shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UNet.model_validate(fields).build(shape, 10)
