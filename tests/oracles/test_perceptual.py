"""Distances of pictures: LPIPS on weights from a file, and the random-feature stand-in (design-space 2.11, C5)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from partial_trials import partial_trial
from perceptual_files import narrow_lpips, random_weights, save
from torch import Tensor
from torch.testing import assert_close

from ablate_core.legality import check
from ablate_core.loss_metrics import LossMetric
from ablate_core.loss_metrics.lpips import Lpips, unit
from ablate_core.loss_metrics.random_features import RandomFeatures
from ablate_core.objective import Objective

METRICS = [{"name": "random_features"}, narrow_lpips()]


def pictures(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.tanh(torch.randn(*shape, generator=g, dtype=torch.float64)).to(dtype)


def distance(metric: Any, a: Tensor, b: Tensor) -> Tensor:
    own = LossMetric.model_validate(metric)
    return own.distance(a, b, group=1, reach=torch.ones(len(a), dtype=a.dtype))


# --- both ---


@pytest.mark.oracle("O11")
@pytest.mark.contract("metric:{metric}")
@pytest.mark.parametrize("metric", METRICS, ids=lambda m: m["name"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_perceptual_distance_is_zero_at_equality_only_and_symmetric(metric: dict[str, Any], channels: int) -> None:
    a, b = pictures(4, channels, 16, 16), pictures(4, channels, 16, 16, seed=1)
    assert distance(metric, a, a).tolist() == [0.0] * 4
    apart = distance(metric, a, b)
    assert apart.shape == (4,)
    assert bool((apart > 0).all())
    assert_close(distance(metric, b, a), apart, rtol=1e-12, atol=0)
    alone = torch.cat([distance(metric, a[i : i + 1], b[i : i + 1]) for i in range(4)])
    assert_close(alone, apart, rtol=1e-10, atol=0)  # rows do not touch each other


@pytest.mark.oracle("O11")
@pytest.mark.proves("metric:{metric}")
@pytest.mark.parametrize("metric", METRICS, ids=lambda m: m["name"])
def test_the_gradient_is_that_of_central_differences_and_finite_at_equality(metric: dict[str, Any]) -> None:
    a, b = pictures(2, 3, 16, 16), pictures(2, 3, 16, 16, seed=1)
    a.requires_grad_()
    (gradient,) = torch.autograd.grad(distance(metric, a, b).sum(), a)
    along, h = pictures(2, 3, 16, 16, seed=2), 1e-6
    ahead, behind = (distance(metric, a.detach() + d * along, b).sum() for d in (h, -h))
    assert float((gradient * along).sum()) == pytest.approx(float((ahead - behind) / (2 * h)), rel=1e-4)
    (gradient,) = torch.autograd.grad(distance(metric, a, a.detach()).sum(), a)
    assert float(gradient.abs().max()) == 0.0


@pytest.mark.oracle("O11")
@pytest.mark.proves("metric:lpips")
def test_features_of_length_0_have_a_finite_gradient() -> None:
    silent = torch.zeros(2, 4, 3, 3, dtype=torch.float64, requires_grad=True)  # no channel answers: a black picture
    (gradient,) = torch.autograd.grad(unit(silent).sum(), silent)
    assert bool(torch.isfinite(gradient).all())
    found = pictures(2, 4, 3, 3)
    assert_close(unit(found).norm(dim=1), torch.ones(2, 3, 3, dtype=torch.float64), rtol=1e-9, atol=0)


@pytest.mark.parametrize("metric", METRICS, ids=lambda m: m["name"])
def test_precision_and_autocast_do_not_change_what_is_measured(metric: dict[str, Any]) -> None:
    a, b = pictures(4, 3, 16, 16), pictures(4, 3, 16, 16, seed=1)
    exact = distance(metric, a, b)
    assert_close(distance(metric, a.float(), b.float()).double(), exact, rtol=1e-4, atol=0)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(distance(metric, a.float(), b.float()), distance(metric, a.float(), b.float()))
        inside = distance(metric, a.float(), b.float())
    assert torch.equal(inside, distance(metric, a.float(), b.float()))


@pytest.mark.parametrize("metric", METRICS, ids=lambda m: m["name"])
def test_pictures_are_compared_where_there_are_pictures(metric: dict[str, Any]) -> None:
    def codes(objective: Any, **more: Any) -> set[str]:
        return {p.code for p in check(partial_trial(objective, **more)) if p.level == "error"}

    assert "C5" not in codes({"name": "ct", "metric": metric})
    assert codes({"name": "ct", "metric": metric}, kind="latents") == {"C5"}
    assert codes({"name": "ct", "metric": metric}, kind="points") == {"C5"}
    assert codes({"name": "meanflow", "metric": metric}) == {"C5"}  # its targets are velocities
    assert codes({"name": "splitmeanflow", "metric": metric, "limit": {"compare": "states"}}) == {"C5"}  # r > 0


# --- random_features ---


def test_random_features_are_the_same_in_every_arm_and_move_with_their_seed() -> None:
    a, b = pictures(4, 3, 8, 8), pictures(4, 3, 8, 8, seed=1)
    torch.manual_seed(1)
    first = RandomFeatures().distance(a, b, group=1, reach=a[:, 0, 0, 0])
    torch.manual_seed(2)
    assert torch.equal(RandomFeatures().distance(a, b, group=1, reach=a[:, 0, 0, 0]), first)
    assert not torch.allclose(RandomFeatures(seed=1).distance(a, b, group=1, reach=a[:, 0, 0, 0]), first)
    deeper = RandomFeatures(depth=4).distance(a, b, group=1, reach=a[:, 0, 0, 0])
    assert bool((deeper > first).all())


@pytest.mark.proves("metric:random_features")
def test_random_features_keep_the_size_of_a_difference() -> None:
    a, b = pictures(64, 3, 16, 16), pictures(64, 3, 16, 16, seed=1)
    pixels = (a - b).square().mean()
    layers = RandomFeatures(depth=1, width=256).distance(a, b, group=1, reach=a[:, 0, 0, 0]).mean() - pixels
    assert 0.05 < float(layers / pixels) < 1.0  # N(0, 2 / fan-in) keeps it, the 2 x 2 average takes up to four fifths


# --- lpips ---


@pytest.mark.proves("metric:lpips")
def test_lpips_equals_an_independent_computation_on_torchvisions_network(tmp_path: Path) -> None:
    from torchvision.models.vgg import cfgs, make_layers

    stored = random_weights()
    metric = {"name": "lpips", "size": 24, **save(stored, tmp_path / "lpips.pt")}
    network = make_layers(cfgs["D"])
    network.load_state_dict({k.removeprefix("features."): v for k, v in stored.items() if k.startswith("features.")})
    a, b = (pictures(2, 3, 20, 20, seed=seed, dtype=torch.float32) for seed in (0, 1))
    total = torch.zeros(2)
    with torch.no_grad():
        for i, last in enumerate((3, 8, 15, 22, 29)):  # relu1_2, relu2_2, relu3_3, relu4_3, relu5_3
            units = []
            for x in (a, b):
                x = F.interpolate(x, size=(24, 24), mode="bilinear")
                shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
                maps = network[: last + 1]((x - shift[:, None, None]) / scale[:, None, None])
                units.append(maps / (maps.norm(dim=1, keepdim=True) + 1e-10))
            squares = (units[0] - units[1]) ** 2
            total += (squares * stored[f"lin{i}.model.1.weight"]).sum(1).mean((1, 2))
        assert_close(distance(metric, a, b), total, rtol=1e-4, atol=0)


def test_other_units_and_grey_pictures_are_brought_to_rgb_in_minus_1_to_1() -> None:
    a, b = pictures(2, 1, 16, 16), pictures(2, 1, 16, 16, seed=1)
    plain = distance(narrow_lpips(), a, b)
    assert_close(distance(narrow_lpips(), a.expand(-1, 3, -1, -1), b.expand(-1, 3, -1, -1)), plain, rtol=1e-12, atol=0)
    units = {"scale": 0.5, "offset": 0.25}
    assert_close(distance(narrow_lpips() | units, (a - 0.25) / 0.5, (b - 0.25) / 0.5), plain, rtol=1e-10, atol=0)
    with pytest.raises(ValueError, match=r"compares pictures \(B, 1 or 3, H, W\), got \(2, 4, 16, 16\)"):
        distance(narrow_lpips(), pictures(2, 4, 16, 16), pictures(2, 4, 16, 16))


def test_the_file_is_a_nuisance_and_its_hash_an_identity() -> None:
    from ablate.space.keys import essential

    named = Lpips.model_validate(narrow_lpips())
    moved = named.model_copy(update={"weights": "/elsewhere.pt"})
    assert essential(named) == essential(moved)
    assert essential(named)["sha256"] == named.sha256


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": None}, r"objective\.metric\.weights: no file is named; give the path of a torch file"),
        ({"weights": "/no/such.pt"}, r"objective\.metric\.weights: there is no file '/no/such\.pt'"),
        ({"sha256": None}, r"objective\.metric\.sha256: say which weights are meant; '.*narrow\.pt' has [0-9a-f]{64}"),
    ],
)
def test_a_missing_file_is_refused_in_one_line_before_anything_is_read(change: dict[str, Any], message: str) -> None:
    own = Lpips.model_validate(narrow_lpips() | change)
    for look in (own.preflight, own.prepare):
        with pytest.raises(ValueError, match=message) as error:
            look()
        assert "\n" not in str(error.value)


def test_a_wrong_file_is_refused_in_one_line(tmp_path: Path) -> None:
    for stored, message in (
        ({"features.0.weight": torch.zeros(4, 3, 3, 3)}, r"needs features\.0\.bias of 4, has None"),
        (
            random_weights((4, 4, 6, 6, 8)) | {"lin2.model.1.weight": torch.zeros(1, 5, 1, 1)},
            r"needs lin2\.model\.1\.weight of 1 x 6 x 1 x 1, has \(1, 5, 1, 1\)",
        ),
        ([1, 2], "it holds a list"),
    ):
        own = Lpips.model_validate({"name": "lpips", **save(stored, tmp_path / "wrong.pt")})  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=message):
            own.prepare()
    (tmp_path / "wrong.pt").write_bytes(b"no torch file")
    swapped = Lpips.model_validate(narrow_lpips() | {"weights": str(tmp_path / "wrong.pt")})
    with pytest.raises(ValueError, match=r"'.*wrong\.pt' has [0-9a-f]{64}, other weights than the [0-9a-f]{64}"):
        swapped.prepare()
    with pytest.raises(ValueError, match="String should match pattern"):
        Lpips(sha256="abc")


def test_an_objective_can_hold_it_and_comes_back_from_json() -> None:
    objective = Objective.model_validate({"name": "ct", "metric": narrow_lpips()})
    assert Objective.model_validate_json(objective.model_dump_json()) == objective
