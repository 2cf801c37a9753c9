"""The options of `sit`: each against its formula, and the published networks they make together."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from architecture_cases import DMF, IMF, PMF, SIT, SIT_OPTIONS, TVM, inputs, randomised
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from ablate_core.architectures.base import Architecture, Network
from ablate_core.architectures.embeddings import rotary, sinusoid
from ablate_core.architectures.pairs import Pair
from ablate_core.architectures.sit import SiT
from ablate_core.architectures.sit_blocks import ModulatedBlock, Rotation
from ablate_core.architectures.sit_network import SiTNetwork
from ablate_core.architectures.unet import UNet
from ablate_core.config import TrialConfig
from ablate_core.preparation import build_network, load_batch, load_data, require_legal
from ablate_core.random import Draws

IMAGE = (2, 16, 16)


def sit(classes: int = 10, std: float = 0.2, **fields: Any) -> SiTNetwork:
    """A small network of random weights in float64, 4 x 4 patches of 4 x 4 pixels."""
    more = {name: fields.pop(name) for name in ("velocity_head", "guidance_inputs") if name in fields}
    net = SiT.model_validate(SIT | fields).build(IMAGE, classes, **more)
    randomised(net.double(), std)
    return net


def batch(n: int = 4) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(5)
    t = torch.rand(n, generator=g, dtype=torch.float64)
    r = t * torch.rand(n, generator=g, dtype=torch.float64)
    return torch.randn(n, *IMAGE, generator=g, dtype=torch.float64), r, t, torch.arange(n)


# ------------------------------------------------------------------------------------ published networks, written out


class Weights:
    """The parameters of a network by name, and what the written-out networks compute with them."""

    def __init__(self, net: nn.Module) -> None:
        self.p = dict(net.named_parameters())

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.p[f"{name}.weight"], self.p.get(f"{name}.bias"))

    def embed(self, name: str, t: Tensor) -> Tensor:
        k = torch.arange(128, dtype=torch.float64)
        angle = t[:, None] * torch.exp(-math.log(10_000) * k / 128)
        return self.linear(
            f"{name}.outer", F.silu(self.linear(f"{name}.inner", torch.cat([angle.cos(), angle.sin()], 1)))
        )

    def patches(self, x: Tensor) -> Tensor:
        if "squeeze_patch.weight" in self.p:
            x = F.conv2d(x, self.p["squeeze_patch.weight"].reshape(-1, 2, 4, 4), stride=4)
            weight = self.p["embed_patch.weight"][:, :, None, None]
        else:
            weight = self.p["embed_patch.weight"].reshape(-1, 2, 4, 4)
        out = F.conv2d(x, weight, self.p["embed_patch.bias"], stride=weight.shape[-1])
        return out.flatten(2).transpose(1, 2)

    def image(self, h: Tensor) -> Tensor:
        return torch.einsum("nhwpqc->nchpwq", h.reshape(len(h), 4, 4, 4, 4, 2)).reshape(len(h), *IMAGE)

    def attention(self, block: str, h: Tensor, turn: Callable[[Tensor], Tensor] = lambda q: q) -> Tensor:
        """Of heads with RMSNorm on queries and keys; `turn` acts on (B, tokens, heads, d)."""
        q, k, v = (part.reshape(*h.shape[:2], 4, -1) for part in self.linear(f"{block}.qkv", h).chunk(3, -1))
        q, k = rms(q, self.p.get(f"{block}.norm_q.weight")), rms(k, self.p.get(f"{block}.norm_k.weight"))
        scores = torch.einsum("bqhd,bkhd->bhqk", turn(q), turn(k)) / math.sqrt(q.shape[-1])
        out = torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v)
        return self.linear(f"{block}.project", out.reshape(h.shape))


def rms(x: Tensor, weight: Tensor | None = None) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], weight, eps=1e-6)


def turned(angles: Tensor) -> Callable[[Tensor], Tensor]:
    """Multiplies neighbouring channels, taken as complex numbers, of the last tokens by exp(i angles)."""

    def turn(q: Tensor) -> Tensor:
        z = torch.view_as_complex(q.reshape(*q.shape[:-1], -1, 2))
        first = z.shape[1] - len(angles)
        z = torch.cat([z[:, :first], z[:, first:] * torch.polar(torch.ones_like(angles), angles)[:, None]], dim=1)
        return torch.view_as_real(z).flatten(-2)

    return turn


def published_imf(
    w: Weights, x: Tensor, r: Tensor, t: Tensor, y: Tensor, g: Tensor, *, pixels: bool
) -> dict[str, Tensor]:
    """Both heads of iMF (Lyy-iiis/imeanflow imfDiT.py), or of pMF where `pixels` (Lyy-iiis/pMF pmfDiT.py)."""
    conditions = [w.p["embed_label.weight"][y], *(w.embed(f"embed_guidance.{k}", g[:, k]) for k in range(3))]
    conditions.append(w.embed("embed_gap", t - r))
    tokens = [w.p[f"tokens.{k}"] + c[:, None] for k, c in enumerate(conditions)]
    assert [token.shape[1] for token in tokens] == [8, 4, 2, 2, 4]
    h = torch.cat([*tokens, w.patches(x)], dim=1)
    frequency = 10_000.0 ** -(torch.arange(0, 8, 2, dtype=torch.float64) / 8)
    angles = torch.outer(torch.arange(36, dtype=torch.float64), frequency)
    if pixels:
        h = h + w.p["position"]
        frequency = 10_000.0 ** -(torch.arange(0, 4, 2, dtype=torch.float64) / 4)
        line = torch.outer(torch.arange(4, dtype=torch.float64), frequency)
        angles = torch.cat([line.repeat_interleave(4, 0), line.repeat(4, 1)], dim=1)

    def block(name: str, h: Tensor) -> Tensor:
        a = w.attention(name, rms(h, w.p[f"{name}.norm_attention.weight"]), turned(angles))
        h = h + a * w.p[f"{name}.gate_attention"]
        left, right = w.linear(f"{name}.expand", rms(h, w.p[f"{name}.norm_mlp.weight"])).chunk(2, -1)
        return h + w.linear(f"{name}.contract", F.silu(left) * right) * w.p[f"{name}.gate_mlp"]

    h = block("blocks.0", h)
    heads = {}
    for head, blocks, end in (("u", "blocks.1 blocks.2", ""), ("v", "", "velocity_head.")):
        out = h
        for name in blocks.split() or ["velocity_head.blocks.0", "velocity_head.blocks.1"]:
            out = block(name, out)
        heads[head] = w.image(w.linear(f"{end}output", rms(out[:, 20:], w.p[f"{end}norm.weight"])))
    return heads


@pytest.mark.proves("architecture:sit")
@pytest.mark.parametrize(("row", "pixels"), [(IMF, False), (PMF, True)], ids=["imf", "pmf"])
def test_row_of_imf_and_pmf_is_the_published_network(row: dict[str, Any], pixels: bool) -> None:
    net = sit(**row, velocity_head=True, guidance_inputs=3)
    x, r, t, y = batch()
    g = torch.rand(4, 3, dtype=torch.float64)
    u, v = net.forward_heads(x, r, t, y, g)
    expected = published_imf(Weights(net), x, r, t, y, g, pixels=pixels)
    assert_close(u, expected["u"], rtol=1e-6, atol=1e-7)  # the network keeps cosines and sines in float32
    assert_close(v, expected["v"], rtol=1e-6, atol=1e-7)


def published_dit(w: Weights, x: Tensor, conditions: list[Tensor], position: Tensor, *, tvm: bool) -> Tensor:
    """A DiT whose block k is modulated by `conditions[k]`; `tvm`: its norms (lumalabs/tvm training/dit.py)."""
    h = w.patches(x) + position
    norm = rms if tvm else lambda x: F.layer_norm(x, x.shape[-1:], eps=1e-6)

    def factors(name: str, c: Tensor, count: int) -> list[Tensor]:
        rows = w.linear(f"{name}modulation", F.silu(c)).reshape(len(c), count, -1)
        return list((rms(rows) if tvm else rows)[:, :, None].unbind(1))

    for k, c in enumerate(conditions):
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = factors(f"blocks.{k}.", c, 6)
        h = h + gate_a * w.attention(f"blocks.{k}", norm(h) * (1 + scale_a) + shift_a)
        z = w.linear(f"blocks.{k}.expand", norm(h) * (1 + scale_m) + shift_m)
        h = h + gate_m * w.linear(f"blocks.{k}.contract", F.gelu(z, approximate="tanh"))
    shift, scale = factors("", conditions[-1], 2)
    return w.image(w.linear("output", norm(h) * (1 + scale) + shift))


@pytest.mark.proves("architecture:sit")
def test_row_of_tvm_is_the_published_network() -> None:
    """t, t - r, beta and the class are embedded and added."""
    net = sit(**TVM, guidance_inputs=1)
    x, r, t, y = batch()
    w, beta = Weights(net), torch.rand(4, 1, dtype=torch.float64)
    c = w.embed("embed_t", t) + w.embed("embed_gap", t - r) + w.p["embed_label.weight"][y]
    c = c + w.embed("embed_guidance.0", beta[:, 0])
    assert net.position is not None
    expected = published_dit(w, x, [c] * 3, net.position, tvm=True)
    assert_close(net(x, r, t, y, beta), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.proves("architecture:sit")
def test_row_of_dmf_is_the_published_network() -> None:
    """Two of three blocks see t, the last and the final layer r, by one embedding; plain attention."""
    net = sit(**DMF, qk_norm=True)
    assert net.early_blocks == 2
    x, r, t, y = batch()
    w = Weights(net)
    label = w.p["embed_label.weight"][y]
    early, late = w.embed("embed_t", t) + label, w.embed("embed_t", r) + label
    assert net.position is not None
    expected = published_dit(w, x, [early, early, late], net.position, tvm=False)
    assert_close(net(x, r, t, y), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("depth", "h", "heads"), [(12, 768, 12), (24, 768, 12), (32, 1024, 16), (48, 1024, 16)], ids=["B", "M", "L", "XL"]
)
def test_row_of_imf_has_the_parameters_of_its_parts(depth: int, h: int, heads: int) -> None:
    """Counted part by part from imfDiT.py for 4x32x32 latents; the v head has 8 blocks of its own."""
    config = SiT.model_validate(IMF | {"name": "sit", "size": "B/2", "depth": depth, "width": h, "heads": heads})
    with torch.device("meta"):
        alone = config.build((4, 32, 32), 1000, guidance_inputs=3)
        dual = config.build((4, 32, 32), 1000, guidance_inputs=3, velocity_head=True)
    block = 4 * h * h + 3 * h * int(h * 8 / 3) + 2 * (h // heads) + 4 * h
    ending = h + 16 * h + 16
    rest = (16 * h + h) + 4 * (256 * h + h + h * h + h) + 1001 * h + 20 * h
    assert sum(p.numel() for p in alone.parameters()) == rest + depth * block + ending
    assert sum(p.numel() for p in dual.parameters()) == rest + (depth + 8) * block + 2 * ending


# ---------------------------------------------------------------------------------------------------- option by option


def test_rotated_scores_depend_on_the_distance_alone() -> None:
    g = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 8, generator=g, dtype=torch.float64)
    angles = rotary(torch.arange(12), 8)
    rotation = Rotation(angles.cos(), angles.sin())
    queries, keys = rotation.turn(Pair(q.expand(12, 8))).value, rotation.turn(Pair(k.expand(12, 8))).value
    scores = queries @ keys.T
    for gap in (-3, 0, 4):
        diagonal = scores.diagonal(gap)
        assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=1e-12, atol=1e-12)
    assert (scores.diagonal(0)[0] - scores.diagonal(4)[0]).abs() > 0.1
    assert_close(queries.norm(dim=1), q.norm().expand(12), rtol=1e-12, atol=0)


def test_two_dimensional_rotation_is_that_of_rows_and_of_columns() -> None:
    """Patches one row down differ from their neighbours above by the same turn everywhere, and columns likewise."""
    net = SiT.model_validate(SIT | {"rope": "2d"}).build((1, 8, 16), 10)
    assert net.cos is not None
    assert net.sin is not None
    angle = torch.atan2(net.sin, net.cos).reshape(2, 4, 4)  # rows, columns, pairs of a head of 8 channels
    assert_close(angle[1] - angle[0], torch.tensor([1.0, 0.01, 0, 0]).expand(4, 4))
    assert_close(angle[0, 1:] - angle[0, :-1], torch.tensor([0, 0, 1.0, 0.01]).expand(3, 4))


def test_tokens_of_the_condition_are_not_turned_in_two_dimensions() -> None:
    net = sit(**PMF, guidance_inputs=3)
    assert net.sin is not None
    assert net.prefix == 20
    assert not net.sin[:20].any()
    assert net.sin[21:].any(dim=1).all()


def test_without_positions_patches_may_be_exchanged() -> None:
    """A permutation of patches permutes the output; with any position it does not."""
    x, r, t, y = batch()
    tall = x[:, :, :, :4].reshape(4, 2, 4, 4, 4)  # 4 patches below one another

    def outputs(rope: str, still: bool) -> tuple[Tensor, Tensor]:
        net = SiT.model_validate(SIT | {"position": "none", "rope": rope}).build((2, 16, 4), 10)
        randomised(net.double(), 0.3)
        assert net.cos is not None
        assert net.sin is not None
        if still:
            net.cos.fill_(1)
            net.sin.fill_(0)
        swapped = tall.flip(2).reshape(4, 2, 16, 4)
        back = net(swapped, r, t, y).reshape(4, 2, 4, 4, 4).flip(2).reshape(4, 2, 16, 4)
        return net(tall.reshape(4, 2, 16, 4), r, t, y), back

    assert_close(*outputs("1d", still=True), rtol=1e-10, atol=1e-12)
    for rope in ("1d", "2d"):
        straight, back = outputs(rope, still=False)
        assert (straight - back).abs().max() > 1e-3


def test_time_inputs_are_what_they_are_called() -> None:
    x, r, t, y = batch()
    only_t = sit(time_inputs="t")
    assert torch.equal(only_t(x, r, t, y), only_t(x, r * 0, t, y))
    gap = sit(time_inputs="gap")
    assert_close(gap(x, r, t, y), gap(x, r - 0.3, t - 0.3, y), rtol=1e-10, atol=1e-12)
    both = sit(time_inputs="t_r")
    by_name = sit()
    by_name.load_state_dict(both.state_dict())
    assert_close(both(x, t - r, t, y), by_name(x, r, t, y), rtol=1e-12, atol=1e-12)


def test_halvings_are_the_integers_of_a_dyadic_ladder() -> None:
    """kvfrans/shortcut-models tells 0 for a jump of 1, 7 for one of 1/128 and for flow matching."""
    net, (x, _, _, y) = sit(time_inputs="t_log2_gap", std=0.3), batch()
    told: list[Tensor] = []
    assert net.embed_gap is not None
    net.embed_gap.register_forward_pre_hook(lambda module, args: told.append(args[0]))
    t = torch.ones(4, dtype=torch.float64)
    net(x, t - torch.tensor([1, 1 / 8, 1 / 128, 0], dtype=torch.float64), t, y)
    assert_close(told[0], torch.tensor([0, 3, 7, 7], dtype=torch.float64), rtol=0, atol=1e-12)


def test_time_inputs_without_t_read_the_log_variance_off_the_sinusoid() -> None:
    net = SiT.model_validate(SIT | {"time_inputs": "gap"}).build(IMAGE, 10, log_variance=True)
    randomised(net.double())
    t = torch.rand(5, dtype=torch.float64)
    head = net.log_variance_head
    assert head is not None
    assert_close(net.log_variance(t), sinusoid(t) @ head.weight + head.bias)


def test_early_blocks_of_a_decoupled_network_do_not_see_r() -> None:
    net = sit(**DMF, decoupled_blocks=1)
    assert net.embed_gap is None
    x, r, t, y = batch()
    seen: list[Tensor] = []
    net.blocks[0].register_forward_hook(lambda module, args, out: seen.append(out.value))
    outs = [net(x, landing, t, y) for landing in (r, r / 2)]
    assert torch.equal(seen[0], seen[1])
    assert (outs[0] - outs[1]).abs().max() > 1e-4


@pytest.mark.parametrize(("depth", "early"), [(28, 20), (12, 9), (3, 2)])
def test_decoupled_blocks_are_those_of_dmf_in_proportion(depth: int, early: int) -> None:
    assert SiT.model_validate(SIT | DMF | {"depth": depth}).early_blocks == early


def test_gates_of_a_network_in_context_start_closed() -> None:
    """Then no token sees another: the output does not depend on the condition, even with an output layer that does."""
    torch.manual_seed(0)
    net = SiT.model_validate(SIT | {"conditioning": "in_context"}).build(IMAGE, 10).double()
    nn.init.normal_(net.output.weight)
    x, r, t, y = batch()
    assert torch.equal(net(x, r, t, y), net(x, r / 2, t, y + 1))
    for block in net.blocks:
        nn.init.ones_(block.gate_attention)
    assert (net(x, r, t, y) - net(x, r / 2, t, y + 1)).abs().max() > 1e-4


def test_modulation_norm_bounds_every_factor() -> None:
    """Each of the six factors has a root mean square of 1, whatever the weights, and is 0 where they are."""
    net = sit(modulation_norm=True, std=3)
    block = net.blocks[0]
    assert isinstance(block, ModulatedBlock)
    c = torch.randn(4, 32, dtype=torch.float64)
    for factor in block.modulation.factors(Pair(c)):
        assert_close(factor.value.square().mean(-1), torch.ones(4, 1, dtype=torch.float64), rtol=1e-5, atol=0)
    nn.init.zeros_(block.modulation.weight)
    nn.init.zeros_(block.modulation.bias)
    assert all(not factor.value.any() for factor in block.modulation.factors(Pair(c)))


def test_qk_norm_makes_attention_blind_to_the_scale_of_its_queries() -> None:
    net, (x, r, t, y) = sit(qk_norm=True, attention_bias=False), batch()
    before = net(x, r, t, y)
    with torch.no_grad():
        for block in net.blocks:
            block.qkv.weight[:64] *= 50  # queries and keys
    assert_close(net(x, r, t, y), before, rtol=1e-3, atol=1e-5)


def test_swiglu_has_as_many_weights_as_gelu() -> None:
    gelu, swiglu = (SiT(size="B/2", mlp=mlp) for mlp in ("gelu", "swiglu"))
    assert 3 * swiglu.hidden_width == 2 * gelu.hidden_width == 2 * 4 * 768
    with torch.device("meta"):
        blocks = [config.build((4, 32, 32), 0).blocks[0] for config in (gelu, swiglu)]
    weights = [sum(p.numel() for p in (b.expand.weight, b.contract.weight)) for b in blocks]
    assert weights[0] == weights[1]
    assert blocks[1].expand.bias is None
    assert blocks[1].contract.bias is None


def test_velocity_head_has_the_blocks_it_is_given() -> None:
    own = {given: sit(velocity_head_blocks=given, velocity_head=True).velocity_head for given in (None, 0, 3)}
    assert {given: len(head.blocks) for given, head in own.items() if head is not None} == {None: 2, 0: 0, 3: 3}
    assert SiT(size="B/2").own_velocity_blocks == SiT(size="XL/2").own_velocity_blocks == 8


def test_initial_weights_follow_their_option() -> None:
    torch.manual_seed(0)
    big = SIT | {"width": 256, "depth": 1, "size": "tiny/2"}
    spectral = SiT.model_validate(big | {"init": "spectral"}).build((4, 16, 16), 10)
    for name, module in spectral.named_modules():
        if isinstance(module, nn.Linear) and "modulation" not in name and name != "output":
            assert_close(torch.linalg.matrix_norm(module.weight, 2), torch.tensor(1.0), rtol=1e-4, atol=0, msg=name)
    imf = SiT.model_validate(big | IMF).build((4, 16, 16), 200)
    weights = {name: p.detach() for name, p in imf.named_parameters()}
    expected = {
        "blocks.0.qkv.weight": 0.32 / 16,
        "blocks.0.contract.weight": 0.32 / math.sqrt(imf.blocks[0].contract.in_features),
        "embed_gap.inner.weight": 1 / 16,
        "embed_gap.outer.weight": 1 / 16,
        "embed_label.weight": 1 / 16,
        "tokens.0": 1 / 16,
        "embed_patch.weight": math.sqrt(2 / (16 + 256)),
    }
    for name, std in expected.items():
        assert abs(float(weights[name].std()) / std - 1) < 0.1, name
    assert not weights["output.weight"].any()
    assert not weights["blocks.0.gate_mlp"].any()
    torch.manual_seed(0)
    learned = SiT.model_validate(big | {"position": "learned"}).build((4, 16, 16), 10)
    assert isinstance(learned.position, nn.Parameter)
    assert abs(float(learned.position.detach().std()) / 0.02 - 1) < 0.1


@pytest.mark.parametrize("name", ["imf", "pmf", "tvm", "dmf", "layer-affine"])
def test_options_keep_times_and_output_in_float32_under_autocast(name: str) -> None:
    net = randomised(SiT.model_validate(SIT | SIT_OPTIONS[name]).build((1, 8, 8), 10))
    x, r, t, y = inputs(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out, slope = net.forward_and_tangent(x, r, t, y, x, torch.ones_like(t))
        assert net(x, r, t, y).dtype == out.dtype == slope.dtype == torch.float32
    exact = net.forward_and_tangent(x, r, t, y, x, torch.ones_like(t))[1]
    assert (slope - exact).norm() / exact.norm() < 0.05


def test_fields_that_came_later_are_neutral_at_their_default() -> None:
    """Trials trained before a field existed keep their keys."""
    first = {"name", "size", "depth", "width", "heads", "mlp_ratio", "time_scale", "fused_attention"}
    for name, field in SiT.model_fields.items():
        assert name in first or field.json_schema_extra == {"neutral": field.default}, name


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"position": "none"}, "without a place"),
        ({"rope": "2d", "width": 24}, "change heads"),
        ({"conditioning": "decoupled", "time_inputs": "t"}, "leave out time_inputs"),
        ({"decoupled_blocks": 1}, "for conditioning: decoupled"),
        ({"conditioning": "decoupled", "decoupled_blocks": 3}, "less than the depth 3"),
        ({"conditioning": "in_context", "modulation_norm": True}, "for adaLN"),
        ({"class_tokens": 4}, "class_tokens is for conditioning: in_context"),
        ({"velocity_head_blocks": 4}, "at most the depth, 3"),
        ({"init": "orthogonal"}, "'xavier', 'imf' or 'spectral'"),
    ],
)
def test_options_that_make_no_sense_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SiT.model_validate(SIT | fields)


def test_only_a_network_that_is_told_t_alone_does_not_see_the_landing_time() -> None:
    blind = {name for name, fields in SIT_OPTIONS.items() if not SiT.model_validate(SIT | fields).sees_landing_time}
    assert blind == {"t"}


def test_written_tangents_follow_a_guidance_input_and_the_second_time_alone() -> None:
    """Along dr only, as Lagrangian objectives differentiate."""
    net = sit(**IMF, guidance_inputs=1)
    x, r, t, y = batch()
    g = torch.rand(4, 1, dtype=torch.float64)
    still = (torch.zeros_like(x), torch.zeros_like(t))
    slope = net.forward_and_tangent(x, r, t, y, *still, dr=torch.ones_like(r), g=g)[1]
    reference = Network.forward_and_tangent(net, x, r, t, y, *still, dr=torch.ones_like(r), g=g)[1]
    assert_close(slope, reference, rtol=1e-10, atol=1e-12)
    assert slope.abs().max() > 1e-3


@pytest.mark.parametrize("architecture", [SiT, UNet])
def test_every_field_is_in_the_documentation(architecture: type[Architecture]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "architectures.md").read_text(encoding="utf-8")
    assert [name for name in architecture.model_fields if name != "name" and f"`{name}`" not in page] == []


@pytest.mark.parametrize(
    ("objective", "row"),
    [("imf", IMF), ("pmf", PMF), ("tvm", TVM), ("dmf", DMF), ("scd", {"time_inputs": "t_log2_gap"})],
    ids=["imf", "pmf", "tvm", "dmf", "scd"],
)
def test_published_networks_train_with_their_own_objective(objective: str, row: dict[str, Any]) -> None:
    """The objective asks for its heads and inputs; a few steps lower the loss of one batch; gradients are finite."""
    parts = {"schedule": "linear", "objective": objective, "architecture": SIT | row, "data": "digits"}
    config = TrialConfig.model_validate(parts | {"train": {"steps": 100, "batch_size": 32}})
    require_legal(config)
    data = load_data(config)
    net = build_network(config, data, "cpu")
    teacher = build_network(config, data, "cpu").requires_grad_(False)
    step = torch.optim.Adam(net.parameters(), lr=3e-4)
    samples = load_batch(config, data, torch.arange(32), 0, "cpu")
    losses = []
    for _ in range(6):
        draws = Draws(0, 0)
        loss = config.objective.loss(net, teacher, config.schedule, samples, draws, 50, 100).per_sample.mean()
        step.zero_grad()
        loss.backward()
        assert all(p.grad is None or torch.isfinite(p.grad).all() for p in net.parameters())
        step.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
