"""The SiT of the published size: parameter counts, parity with the recorded reference, initial weights, refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from architecture_cases import inputs, randomised
from golden_cases import arrays
from torch import nn
from torch.testing import assert_close

from ablate_core.architectures.base import Network
from ablate_core.architectures.embeddings import sincos_2d, sinusoid
from ablate_core.architectures.sit import SIZES, SiT
from ablate_core.architectures.sit_network import SiTNetwork


@pytest.mark.oracle("O21")
@pytest.mark.proves("architecture:sit")
@pytest.mark.parametrize(
    ("size", "total", "trainable"),
    [
        ("S/2", 33_203_728, 33_105_424),
        ("S/4", 33_166_912, 33_142_336),
        ("B/4", 131_214_400, 131_165_248),
        ("B/2", 131_288_080, 131_091_472),
        ("L/2", 459_399_184, 459_137_040),
        ("XL/2", 676_735_504, 676_440_592),
    ],
)
def test_sit_has_the_published_number_of_parameters(size: str, total: int, trainable: int) -> None:
    """O21, table 7.1; the fixed position embedding is a buffer here and counted in `total`."""
    sit = SiT(size=size)
    with torch.device("meta"):
        net = sit.build((4, 32, 32), 1000)
        with_head = sit.build((4, 32, 32), 1000, log_variance=True)
    count = sum(p.numel() for p in net.parameters())
    assert net.position is not None
    assert count == trainable
    assert count + net.position.numel() == total
    assert sum(p.numel() for p in with_head.parameters()) == trainable + sit.resolved_size.width + 1


@pytest.mark.oracle("O21")
@pytest.mark.parametrize("size", ["S/2", "B/4", "M/2", "L/2", "XL/2"])
@pytest.mark.parametrize(("side", "channels", "classes"), [(32, 4, 1000), (16, 3, 10)])
def test_sit_has_the_parameters_of_the_formula(size: str, side: int, channels: int, classes: int) -> None:
    """The formula of table 7.1, for sizes it gives no number for, and other images."""
    sit = SiT(size=size)
    depth, h, _ = sit.resolved_size
    pixels, tokens = sit.patch**2 * channels, (side // sit.patch) ** 2
    count = (pixels * h + h) + tokens * h + 2 * (256 * h + h + h * h + h) + (classes + 1) * h
    count += depth * (18 * h * h + 15 * h) + (h * pixels + pixels + 2 * h * h + 2 * h)
    with torch.device("meta"):
        net = sit.build((channels, side, side), classes)
        single = sit.model_copy(update={"time_inputs": "t"}).build((channels, side, side), classes)
    assert net.position is not None
    own = sum(p.numel() for p in net.parameters())
    assert own + net.position.numel() == count
    assert own - sum(p.numel() for p in single.parameters()) == 257 * h + h * h + h


def test_every_published_size_is_there() -> None:
    assert {name: size for name, size in SIZES.items() if name != "tiny"} == {
        "S": (12, 384, 6),
        "B": (12, 768, 12),
        "M": (16, 1024, 16),
        "L": (24, 1024, 16),
        "XL": (28, 1152, 16),
    }


def test_sit_counts_agree_with_the_recorded_table() -> None:
    for row in arrays("sit_architecture")["sit_counts_input32_K1000/table"].tolist():
        depth, width, patch, total, trainable, _, trainable_head, embedder, _ = row
        sit = SiT(size=f"B/{patch}", depth=depth, width=width, heads=16)
        with torch.device("meta"):
            net = sit.build((4, 32, 32), 1000, log_variance=True)
        assert sum(p.numel() for p in net.parameters()) == trainable_head
        assert net.embed_gap is not None
        assert net.position is not None
        assert sum(p.numel() for p in net.embed_gap.parameters()) == embedder
        assert net.position.numel() == total - trainable


def reference_weights(net: SiTNetwork, stored: dict[str, np.ndarray]) -> None:
    """Fill `net` with the sine weights of the recorded case, whose parameters are numbered by their old names."""
    names = {
        "adaLN_modulation.1": "modulation",
        "attn.qkv": "qkv",
        "attn.proj": "project",
        "mlp.fc1": "expand",
        "mlp.fc2": "contract",
        "final_layer.adaLN_modulation.1": "modulation",
        "final_layer.linear": "output",
        "r_embedder.mlp.0": "embed_gap.inner",
        "r_embedder.mlp.2": "embed_gap.outer",
        "t_embedder.mlp.0": "embed_t.inner",
        "t_embedder.mlp.2": "embed_t.outer",
        "x_embedder.proj": "embed_patch",
    }
    old: list[str] = []
    for b in range(2):
        for part in ("adaLN_modulation.1", "attn.proj", "attn.qkv", "mlp.fc1", "mlp.fc2"):
            old += [f"blocks.{b}.{part}.bias", f"blocks.{b}.{part}.weight"]
    for part in ("final_layer.adaLN_modulation.1", "final_layer.linear", "logvar_linear"):
        old += [f"{part}.bias", f"{part}.weight"]
    for part in ("r_embedder.mlp.0", "r_embedder.mlp.2", "t_embedder.mlp.0", "t_embedder.mlp.2", "x_embedder.proj"):
        old += [f"{part}.bias", f"{part}.weight"]
    old.append("y_embedder.embedding_table.weight")
    ours = dict(net.named_parameters())
    used = set()
    for k, name in enumerate(old):
        stem, kind = name.rsplit(".", 1)
        if stem == "logvar_linear":
            new = f"log_variance_head.{kind}"
        elif name.startswith("y_embedder"):
            new = "embed_label.weight"
        elif stem.startswith("blocks."):
            _, b, part = stem.split(".", 2)
            new = f"blocks.{b}.{names[part]}.{kind}"
        else:
            new = f"{names[stem]}.{kind}"
        p = ours[new]
        fan_in = p.shape[-1] if p.ndim else 1
        scale = 0.1 if kind == "bias" else 1 / math.sqrt(fan_in)
        i = torch.arange(p.numel(), dtype=torch.float64)
        with torch.no_grad():
            p.copy_((1.4 * scale * torch.sin(1.3 * i + 0.7 * k + 0.1 * torch.sin(0.37 * i**1.5))).reshape(p.shape))
        used.add(new)
    assert used == set(ours)
    assert net.position is not None
    assert sum(p.numel() for p in net.parameters()) + net.position.numel() == int(stored["param_count"])


@pytest.mark.proves("architecture:sit")
@pytest.mark.parametrize("fused", [False, True])
def test_sit_agrees_with_the_recorded_reference(fused: bool) -> None:
    """Output, log-variance, derivative and gradients; 1e-5, since the reference's angles are float32 (D22)."""
    stored = {k.split("/")[1]: v for k, v in arrays("sit_architecture").items() if k.startswith("sit_tiny_forward/")}
    sit = SiT(size="tiny/2", depth=2, width=32, heads=4, fused_attention=fused)
    net = sit.build((4, 8, 8), 5, log_variance=True).double()
    reference_weights(net, stored)
    images, dx, r, t, y = (torch.from_numpy(stored[k]) for k in ("images", "tangent_x", "r", "t", "labels"))

    out = net(images, r, t, y)
    assert_close(out, torch.from_numpy(stored["out"]), rtol=1e-5, atol=1e-5)
    assert_close(net.log_variance(t), torch.from_numpy(stored["logvar"]).squeeze(1), rtol=1e-5, atol=1e-5)
    slope = net.forward_and_tangent(images, r, t, y, dx, torch.ones_like(t))[1]
    assert_close(slope, torch.from_numpy(stored["du_dt"]), rtol=1e-4, atol=1e-5)

    (out * dx).sum().backward()
    for old, new in (
        ("blocks.0.attn.qkv.weight", "blocks.0.qkv.weight"),
        ("r_embedder.mlp.2.bias", "embed_gap.outer.bias"),
        ("x_embedder.proj.weight", "embed_patch.weight"),
        ("final_layer.linear.weight", "output.weight"),
    ):
        g = dict(net.named_parameters())[new].grad
        assert g is not None
        stats = torch.stack([g.sum(), g.square().sum(), g.flatten()[0], g.flatten()[-1]])
        assert_close(stats, torch.from_numpy(stored[f"grad_stats.{old}"]), rtol=1e-4, atol=1e-5)


def test_embeddings_agree_with_the_recorded_ones() -> None:
    stored = arrays("sit_architecture")
    assert_close(sincos_2d(16, 4, 4), torch.from_numpy(stored["sincos_embeddings/pos_embed"]).float())
    times = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    expected = torch.from_numpy(stored["sincos_embeddings/time_embedding_256"])
    assert_close(sinusoid(times), expected, rtol=0, atol=2e-7)
    assert sinusoid(times.bfloat16()).dtype == torch.float32, "angles are never computed in less than float32"


@pytest.mark.oracle("O21")
def test_sit_at_equal_times_is_the_second_embedding_of_zero() -> None:
    """O21: conditioning on r = t adds emb(0), whatever t is."""
    net = randomised(SiT(size="tiny/4").build((1, 8, 8), 10).double())
    x, _, t, y = inputs()
    assert net.embed_gap is not None
    zero = net.embed_gap(torch.zeros_like(t))
    net.embed_gap.forward = lambda time: zero  # type: ignore[method-assign]
    same = net(x, t / 3, t, y)
    del net.embed_gap.forward
    assert_close(net(x, t, t, y), same, rtol=0, atol=0)


def test_fused_attention_gives_way_to_forward_mode() -> None:
    """Fused kernels have no forward derivative; the network must not use them there."""
    net = randomised(SiT(size="tiny/4", fused_attention=True).build((1, 8, 8), 10).double())
    x, r, t, y = inputs()
    plain = randomised(SiT(size="tiny/4", fused_attention=False).build((1, 8, 8), 10).double())
    assert_close(net(x, r, t, y), plain(x, r, t, y), rtol=1e-12, atol=1e-12)
    slope = torch.func.jvp(lambda time: net(x, r, time, y), (t,), (torch.ones_like(t),))[1]
    assert torch.isfinite(slope).all()


def test_time_scale_multiplies_the_angles() -> None:
    x, r, t, y = inputs()
    fine = randomised(SiT(size="tiny/4", time_scale=1000).build((1, 8, 8), 10).double())
    coarse = randomised(SiT(size="tiny/4").build((1, 8, 8), 10).double())
    assert_close(fine(x, r, t, y), coarse(x, 1000 * r, 1000 * t, y), rtol=1e-9, atol=1e-9)


def test_written_tangents_follow_the_time_scale() -> None:
    net = randomised(SiT(size="tiny/4", depth=1, time_scale=1000).build((1, 8, 8), 10).double(), std=0.02)
    x, r, t, y = inputs()
    written = net.forward_and_tangent(x, r, t, y, x, torch.ones_like(t))[1]
    assert_close(written, Network.forward_and_tangent(net, x, r, t, y, x, torch.ones_like(t))[1], rtol=1e-9, atol=1e-9)


def test_bf16_autocast_keeps_times_and_output_in_float32() -> None:
    net = randomised(SiT(size="tiny/4").build((1, 8, 8), 10))
    x, r, t, y = inputs(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out, slope = net.forward_and_tangent(x, r, t, y, x, torch.ones_like(t))
        assert net(x, r, t, y).dtype == out.dtype == slope.dtype == torch.float32
    exact = net.forward_and_tangent(x, r, t, y, x, torch.ones_like(t))[1]
    assert (slope - exact).norm() / exact.norm() < 0.05


@pytest.mark.parametrize(
    ("fields", "shape", "message"),
    [
        ({"size": "H/2"}, (1, 8, 8), "SiT size"),
        ({"size": "B"}, (1, 8, 8), "SiT size"),
        ({"size": "tiny/3"}, (1, 8, 8), "divisible by its patch 3"),
        ({"size": "tiny/2"}, (2,), "images"),
        ({"size": "tiny/2", "width": 60, "heads": 7}, (1, 8, 8), "divisible by 4 and by its heads"),
    ],
)
def test_sit_refuses_what_does_not_fit(fields: dict[str, object], shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SiT.model_validate(fields).build(shape, 10)


def test_sit_starts_from_the_documented_distributions() -> None:
    torch.manual_seed(0)
    net = SiT(size="S/4").build((4, 32, 32), 10)
    modules = dict(net.named_modules())
    for name, std in (("embed_t.inner", 0.02), ("embed_gap.outer", 0.02), ("embed_label", 0.02)):
        module = modules[name]
        assert isinstance(module, nn.Linear | nn.Embedding)
        assert abs(float(module.weight.detach().std()) / std - 1) < 0.1
    qkv = modules["blocks.3.qkv"]
    assert isinstance(qkv, nn.Linear)
    assert abs(float(qkv.weight.detach().abs().max()) - math.sqrt(6 / (384 + 3 * 384))) < 1e-4, "xavier uniform"
    assert all(not m.bias.any() for m in modules.values() if isinstance(m, nn.Linear))
