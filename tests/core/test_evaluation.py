"""`evaluate` and what it returns: exact counts, identities, pictures, reasons instead of NaN."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ablate_core import evaluation
from ablate_core.checkpoint import save_checkpoint, training_id
from ablate_core.config import TrialConfig
from ablate_core.evaluation import chosen_ema, evaluate, evaluate_checkpoint, network_samples
from ablate_core.fid import MetricError
from ablate_core.fid.canary import canary_drift, canary_sample
from ablate_core.fid.energy import energy_distance
from ablate_core.fid.extractor import canary
from ablate_core.fid.fd_digits import digits_extractor
from ablate_core.fid.metrics import build_metric, rescore
from ablate_core.gallery import NEIGHBOURS, grid_shape, image_grid, nearest, png_bytes, point_density
from ablate_core.identity import content_id, diff
from ablate_core.preparation import build_network
from ablate_core.sampling import sample

SAMPLES = 70


def config(data: str = "digits", metric: str = "fd_digits", **changes: Any) -> TrialConfig:
    """A tiny trial; `changes` go into `eval`."""
    return TrialConfig.model_validate(
        {
            "schedule": "linear",
            "objective": "meanflow",
            "architecture": "mlp" if data == "gaussians" else {"name": "sit", "size": "tiny/2"},
            "data": data,
            "train": {"steps": 1, "batch_size": 8, "ema": [0.9, 0.99]},
            "eval": {"metric": metric, "samples": SAMPLES, "batch_size": 32, "gallery": 20, **changes},
        }
    )


def weights(trial: TrialConfig, seed: int = 0) -> dict[str, Tensor]:
    """Small random weights: a fresh network may be zero at its output, which would hide differences."""
    net = build_network(trial, trial.data.load(), "cpu")
    generator = torch.Generator().manual_seed(seed)
    return {k: v + 0.1 * torch.randn(v.shape, generator=generator) for k, v in net.state_dict().items()}


def measured(trial: TrialConfig, folder: Path, **more: Any) -> dict[str, Any]:
    event = evaluate(trial, more.pop("weights", {}), 7, folder, **more)[0]
    assert event["kind"] == "measurement"
    return event


def test_the_events_are_plain_json_and_carry_their_identities(tmp_path: Path) -> None:
    trial = config()
    events = evaluate(trial, weights(trial), 7, tmp_path)
    assert json.loads(json.dumps(events, allow_nan=False)) == events
    measurement, artifact = events
    assert measurement["metric_id"] == content_id(measurement["metric"])
    assert measurement["cond_id"] == artifact["cond_id"] == content_id(measurement["condition"])
    assert measurement["condition"] == {
        "nfe": 1,
        "sampler": "one_step",
        "guidance": 1.0,
        "ema": 0.99,
        "dtype": "float32",
        "labels": "balanced: sample i has class i mod number of classes",
    }
    assert measurement["n_samples"] == measurement["metric"]["samples"] == SAMPLES
    assert (measurement["step"], measurement["draw"], measurement["sample_seed"]) == (7, 0, 0)
    assert measurement["value"] > 0
    assert measurement["wall_seconds"] > 0


def test_what_the_network_makes_of_fixed_images_is_kept_with_the_number(tmp_path: Path) -> None:
    kept = measured(config(), tmp_path, weights=weights(config()))["extra"]["canary"]
    now = canary(digits_extractor())
    assert len(kept) == 16
    assert kept[:2] == pytest.approx([now[0, 0], now[0, 12]], rel=1e-5)
    assert canary_drift(kept, canary_sample(now)) < 1e-5
    moved = now * (1 + 2e-3 * np.sign(np.cos(np.arange(now.size)).reshape(now.shape)))
    assert 1e-3 < canary_drift(kept, canary_sample(moved)) < 3e-3
    assert math.isinf(canary_drift(kept, kept[:3]))


def test_the_picture_is_written_with_its_hash_and_size(tmp_path: Path) -> None:
    trial = config()
    _, artifact = evaluate(trial, weights(trial), 7, tmp_path)
    content = (tmp_path / artifact["path"]).read_bytes()
    assert hashlib.sha256(content).hexdigest() == artifact["sha256"]
    with Image.open(tmp_path / artifact["path"]) as image:
        assert image.size == (artifact["width"], artifact["height"])
    assert (artifact["rows"], artifact["cols"], artifact["mime"]) == (2, 10, "image/png")
    assert not list(tmp_path.glob("*.tmp"))


def test_the_same_weights_give_the_same_value_and_picture_whatever_the_batch_size(tmp_path: Path) -> None:
    trial, w = config(), weights(config())
    one = evaluate(trial, w, 7, tmp_path)
    other = evaluate(config(batch_size=7), w, 7, tmp_path)
    assert one[0]["value"] == pytest.approx(other[0]["value"], rel=1e-4)
    assert one[0]["metric_id"] == other[0]["metric_id"]
    assert one[1]["sha256"] == other[1]["sha256"]
    assert evaluate(trial, w, 7, tmp_path)[0]["value"] == one[0]["value"]
    assert evaluate(trial, weights(trial, seed=1), 7, tmp_path)[0]["value"] != one[0]["value"]


def test_evaluating_leaves_weights_and_random_state_alone(tmp_path: Path) -> None:
    trial, w = config(), weights(config())
    before, state = {k: v.clone() for k, v in w.items()}, torch.get_rng_state()
    evaluate(trial, w, 7, tmp_path)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(w[k], before[k]) for k in w)


def test_digits_themselves_score_zero_and_half_of_them_nearly(tmp_path: Path) -> None:
    trial = config(samples=1797)
    data = trial.data.load()
    exact = measured(trial, tmp_path, data=data, batches=torch.split(data.x, 500))
    assert exact["value"] == pytest.approx(0, abs=1e-6)
    half = measured(config(samples=899), tmp_path, data=data, batches=[data.x[::2]])
    assert 0.05 < half["value"] < 2
    assert diff(exact["metric"], half["metric"]) == {"samples": (1797, 899)}
    assert exact["metric_id"] != half["metric_id"]
    assert exact["cond_id"] == half["cond_id"]


def test_few_samples_use_the_features_and_many_the_moments_with_one_answer(tmp_path: Path) -> None:
    trial = config(samples=40)
    data = trial.data.load()
    metric = build_metric(trial.eval, trial.data, data)
    metric.update(data.x[:40])
    few = metric.value()
    statistics = metric.statistics()
    assert statistics is not None
    assert statistics["features"].shape == (40, 48)
    assert rescore(statistics, digits_extractor().reference) == few


def test_kept_statistics_give_the_value_again_without_sampling(tmp_path: Path) -> None:
    trial = config(samples=300)
    data = trial.data.load()
    event = measured(trial, tmp_path, data=data, batches=[data.x[:300]])
    (file,) = tmp_path.glob("statistics-*.npz")
    assert file.name == f"statistics-{event['metric_id']}-{event['cond_id']}.npz"
    with np.load(file, allow_pickle=False) as stored:
        assert set(stored.files) == {"mu", "sigma_upper", "count", "step"}
        again = rescore({name: stored[name] for name in stored.files}, digits_extractor().reference)
    assert again == pytest.approx(event["value"], rel=1e-12)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_samples_that_are_not_finite_give_no_value_and_a_reason(tmp_path: Path, bad: float) -> None:
    trial = config()
    x = trial.data.load().x[:SAMPLES].clone()
    x[40, 0, 3, 3] = bad
    events = evaluate(trial, {}, 7, tmp_path, batches=torch.split(x, 32))
    assert events[0]["value"] is None
    assert events[0]["extra"]["reason"] == "1 of samples 32 to 63 are not finite"
    assert events[1]["kind"] == "artifact"
    assert not list(tmp_path.glob("statistics-*"))
    json.dumps(events, allow_nan=False)


def test_a_picture_of_samples_that_are_not_finite_is_still_a_picture(tmp_path: Path) -> None:
    event = evaluate(config(), {}, 7, tmp_path, batches=[torch.full((SAMPLES, 1, 8, 8), math.nan)])[1]
    with Image.open(tmp_path / event["path"]) as image:
        assert np.asarray(image)[4, 4] == config().data.to_uint8(torch.zeros(1)).item()


def test_finite_points_too_far_away_to_measure_give_a_reason(tmp_path: Path) -> None:
    far = torch.full((SAMPLES, 2), 1e30, dtype=torch.float64) ** 8
    event = measured(config("gaussians", "energy_distance"), tmp_path, batches=[far])
    assert event["value"] is None
    assert "overflowed" in event["extra"]["reason"]


@pytest.mark.parametrize("given", [SAMPLES - 1, SAMPLES + 1])
def test_another_count_of_samples_than_asked_for_is_refused(tmp_path: Path, given: int) -> None:
    trial = config()
    with pytest.raises(MetricError, match=f"eval.samples is {SAMPLES}, {given} samples were given"):
        evaluate(trial, {}, 7, tmp_path, batches=[trial.data.load().x[:given]])


def test_no_gallery_means_no_picture(tmp_path: Path) -> None:
    trial = config(gallery=0)
    events = evaluate(trial, {}, 7, tmp_path, batches=[trial.data.load().x[:SAMPLES]])
    assert [e["kind"] for e in events] == ["measurement"]
    assert not list(tmp_path.glob("*.png"))


def test_all_samples_come_from_the_network_in_order(tmp_path: Path) -> None:
    trial = config()
    data = trial.data.load()
    batches = list(network_samples(trial, weights(trial), data, "cpu"))
    assert [len(x) for x in batches] == [32, 32, 6]
    net = build_network(trial, data, "cpu")
    net.load_state_dict(weights(trial))
    whole = sample(trial.objective, trial.schedule, net, SAMPLES, data.shape, num_classes=10)
    torch.testing.assert_close(torch.cat(batches), whole)
    assert len(torch.unique(whole, dim=0)) == SAMPLES


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"nfe": 2}, "nfe"),
        ({"guidance": 1.5}, "guidance"),
        ({"ema": 0.9}, "ema"),
        ({"ema": 0.0}, "ema"),
    ],
)
def test_how_samples_were_drawn_is_the_condition_and_not_the_metric(
    tmp_path: Path, changed: dict[str, Any], field: str
) -> None:
    x = [config().data.load().x[:SAMPLES]]
    a, b = measured(config(), tmp_path, batches=x), measured(config(**changed), tmp_path, batches=x)
    assert field in diff(a["condition"], b["condition"])
    assert a["cond_id"] != b["cond_id"]
    assert a["metric_id"] == b["metric_id"]


@pytest.mark.parametrize(("ema", "decay"), [(None, 0.99), (0.9, 0.9), (0.99, 0.99), (0.0, 0.0)])
def test_the_longest_average_is_sampled_unless_another_is_asked_for(ema: float | None, decay: float) -> None:
    assert chosen_ema(config(ema=ema)) == decay


def test_an_average_that_is_not_kept_is_refused() -> None:
    with pytest.raises(MetricError, match=r"no average of decay 0.5 is kept; train.ema has 0.9, 0.99, and 0 is raw"):
        chosen_ema(config(ema=0.5))


def checkpoint(trial: TrialConfig, folder: Path) -> dict[str, dict[str, Tensor]]:
    net, short, long = (weights(trial, seed) for seed in range(3))
    ema = {"0.9": short, "0.99": long}
    save_checkpoint(folder, {"step": 5, "net": net, "ema": ema, "trial": training_id(trial)})
    return {"raw": net, **ema}


@pytest.mark.parametrize(("ema", "which"), [(None, "0.99"), (0.9, "0.9"), (0.0, "raw")])
def test_a_checkpoint_is_measured_from_the_average_asked_for(tmp_path: Path, ema: float | None, which: str) -> None:
    trial = config(ema=ema)
    saved = checkpoint(trial, tmp_path)
    told: list[dict[str, Any]] = []
    events = evaluate_checkpoint(trial, tmp_path, report=told.append)
    assert told == events
    assert events[0]["step"] == 5
    assert events[0]["value"] == measured(trial, tmp_path, weights=saved[which])["value"]


def test_an_average_of_tied_weights_is_measured_and_not_what_they_are_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A state dict has a tied parameter twice, an average once."""

    def tied(*given: Any) -> Any:
        net: Any = build_network(*given)
        net.hidden[1].weight = net.hidden[0].weight
        return net

    monkeypatch.setattr(evaluation, "build_network", tied)
    trial = config("gaussians", "energy_distance", ema=0.9)
    now, average = weights(trial, 0), weights(trial, 1)
    averaged = {**average, "hidden.1.weight": average["hidden.0.weight"]}
    now["hidden.1.weight"] = now["hidden.0.weight"]
    kept = {name: tensor for name, tensor in averaged.items() if name != "hidden.1.weight"}
    save_checkpoint(tmp_path, {"step": 5, "net": now, "ema": {"0.9": kept}, "trial": training_id(trial)})
    value = evaluate_checkpoint(trial, tmp_path)[0]["value"]
    assert value == measured(trial, tmp_path, weights=averaged)["value"]
    assert value != measured(trial, tmp_path, weights=now)["value"]


def test_a_folder_without_the_trials_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MetricError, match="no readable checkpoint in"):
        evaluate_checkpoint(config(), tmp_path)
    checkpoint(config(), tmp_path)
    other = config().model_copy(update={"seed": 1})
    with pytest.raises(ValueError, match="another trial"):
        evaluate_checkpoint(other, tmp_path)


def test_points_are_scored_by_energy_distance_and_shown_as_densities(tmp_path: Path) -> None:
    trial = config("gaussians", "energy_distance", samples=2000)
    data = trial.data.load()
    near, picture = evaluate(trial, {}, 7, tmp_path, data=data, batches=[data.x[-2000:]])
    shrunk = measured(trial, tmp_path, data=data, batches=[data.x[-2000:] * 0.7])
    assert 0 < near["value"] < 0.01 < shrunk["value"]
    assert near["metric"]["reference"]["count"] == 2000
    with Image.open(tmp_path / picture["path"]) as image:
        pixels = np.asarray(image)
    assert (pixels[:, :256] < 255).sum() > 1000
    assert (picture["rows"], picture["cols"]) == (1, 2)


@pytest.mark.parametrize(
    ("data", "metric", "changes", "message"),
    [
        ("gaussians", "fd_digits", {}, "fd_digits is for images, data gaussians has points; use energy_distance"),
        ("gaussians", "fid", {}, "fid is for images, data gaussians has points; use energy_distance"),
        ("digits", "energy_distance", {}, "energy_distance is for points, data digits has images"),
        ("digits", "fd_digits", {"reference": "x.npz"}, "eval.reference is for fid; fd_digits has its own"),
        ("digits", "fd_digits", {"extractor": "x.pt"}, "eval.extractor is for fid; fd_digits has its own"),
        ("digits", "fd_digits", {"resize": "torch"}, "eval.resize is for fid; fd_digits takes images as they are"),
        ("gaussians", "energy_distance", {"also": ["kid"]}, "eval.also kid: needs features of images; leave it out"),
        ("digits", "fd_digits", {"also": ["infinity"]}, "a limit needs 3 sizes of at least 5,000 samples, got"),
        ("digits", "fid", {"extractor": "/none/x.pt"}, "eval.extractor: no Inception weights at /none/x.pt"),
    ],
)
def test_a_metric_that_does_not_suit_the_data_is_refused_before_anything_is_drawn(
    data: str, metric: str, changes: dict[str, Any], message: str
) -> None:
    trial = config(data, metric, **changes)
    with pytest.raises(MetricError, match=message):
        build_metric(trial.eval, trial.data, trial.data.load())


def test_energy_distance_of_two_normals_has_its_closed_form() -> None:
    # E|X - Y| of N(0,1) and N(m,1) is sqrt(4/pi) exp(-m^2/4) + m erf(m/2); at m = 0 it is 2/sqrt(pi).
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(6000, 1, generator=generator, dtype=torch.float64) for _ in range(2))
    m = 1.5
    between = math.sqrt(4 / math.pi) * math.exp(-m * m / 4) + m * math.erf(m / 2)
    assert energy_distance(x, y + m) == pytest.approx(2 * between - 4 / math.sqrt(math.pi), rel=0.03)


def test_energy_distance_is_zero_for_equal_sets_symmetric_and_scales() -> None:
    x, y = torch.randn(2, 300, 2, generator=torch.Generator().manual_seed(1)).unbind()
    assert energy_distance(x, x[torch.randperm(300)]) == pytest.approx(0, abs=1e-12)
    assert energy_distance(x, y) == pytest.approx(energy_distance(y, x), rel=1e-10)
    assert energy_distance(3 * x, 3 * y) == pytest.approx(3 * energy_distance(x, y), rel=1e-6)


def test_energy_distance_in_chunks_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = torch.randn(2, 101, 2, generator=torch.Generator().manual_seed(2)).unbind()
    whole = energy_distance(x, y)
    monkeypatch.setattr("ablate_core.fid.energy._CHUNK_ELEMENTS", 700)
    assert energy_distance(x, y) == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.zeros(3, 2), torch.zeros(3, 1), r"got \(3, 2\) and \(3, 1\)"),
        (torch.zeros(0, 2), torch.zeros(3, 2), r"got \(0, 2\)"),
        (torch.full((3, 2), math.nan), torch.zeros(3, 2), "not finite"),
    ],
)
def test_points_that_cannot_be_compared_are_refused(x: Tensor, y: Tensor, message: str) -> None:
    with pytest.raises(MetricError, match=message):
        energy_distance(x, y)


@pytest.mark.parametrize(
    ("count", "classes", "shape"),
    [(64, 10, (6, 10)), (64, 0, (8, 8)), (64, 1000, (8, 8)), (5, 10, (1, 5)), (1, 0, (1, 1))],
)
def test_a_gallery_has_a_column_per_class_where_there_are_few(count: int, classes: int, shape: tuple[int, int]) -> None:
    assert grid_shape(count, classes) == shape


def test_tiles_lie_row_by_row_and_keep_their_pixels() -> None:
    images = torch.arange(6, dtype=torch.uint8).reshape(6, 1, 1, 1).expand(6, 1, 40, 40) * 40
    picture = image_grid(images, 2, 3)
    assert picture.pixels.shape == (83, 124)
    assert picture.pixels[20, [20, 61, 102]].tolist() == [0, 40, 80]
    assert picture.pixels[61, [20, 61, 102]].tolist() == [120, 160, 200]
    assert picture.pixels[0].tolist() == [255] * 124


def test_colour_images_stay_in_colour_and_equal_pictures_have_equal_bytes() -> None:
    images = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    picture = image_grid(images, 2, 2)
    assert picture.pixels.shape == (76, 76, 3)
    assert picture.pixels[4, 4].tolist() == images[0, :, 0, 0].tolist()
    assert png_bytes(picture) == png_bytes(image_grid(images.clone(), 2, 2))
    with pytest.raises(ValueError, match="2 x 3 needs 6 images, got 4"):
        image_grid(images, 2, 3)


def test_a_density_picture_has_the_samples_left_and_the_data_right() -> None:
    reference = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    dark = np.argwhere(point_density(torch.tensor([[0.0, 0.0], [math.nan, 0.0]]), reference).pixels == 0)
    left, right = dark[dark[:, 1] < 256], dark[dark[:, 1] >= 260]
    assert len(left) == 4  # one point in the lower left: y points up
    assert left[:, 0].min() > 128
    assert left[:, 1].max() < 128
    assert len(right) == 8


@pytest.mark.parametrize("size", [5, 3000])
def test_nearest_is_what_the_full_table_of_distances_says(size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x, data = (torch.randn(n, 1, 3, 3, generator=generator) for n in (4, size))
    table = ((x[:, None] - data[None]) ** 2).flatten(2).sum(dim=2)
    assert torch.equal(nearest(x, data, 3), table.argsort(dim=1)[:, :3])


def test_a_picture_of_neighbours_lays_training_images_beside_their_copies(tmp_path: Path) -> None:
    trial = config(neighbours=6, gallery=0, samples=8)
    data = trial.data.load()
    copies = data.x[:8] + 0.01
    events = evaluate(trial, {}, 7, tmp_path, data=data, batches=[copies])
    assert [(e["kind"], e.get("artifact")) for e in events] == [("measurement", None), ("artifact", "neighbours")]
    assert (events[1]["rows"], events[1]["cols"]) == (6, 1 + NEIGHBOURS)
    with Image.open(tmp_path / events[1]["path"]) as image:
        pixels = np.asarray(image).astype(int)
    factor = pixels.shape[1] // (9 * (1 + NEIGHBOURS) + 1)  # tiles of 8 pixels and a gap of 1, enlarged
    tile = [pixels[:, factor * (1 + 9 * i) : factor * 9 * (i + 1)] for i in range(3)]
    assert np.abs(tile[0] - tile[1]).mean() < 1  # the copy beside its original
    assert np.abs(tile[0] - tile[2]).mean() > 10


def test_points_have_no_picture_of_neighbours(tmp_path: Path) -> None:
    trial = config("gaussians", "energy_distance", neighbours=4, gallery=0)
    assert len(evaluate(trial, weights(trial), 7, tmp_path)) == 1
