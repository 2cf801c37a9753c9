"""What a trained network is measured with: `evaluate` draws samples, scores them and keeps a picture of some.

Every arm is sampled from the same noise and the same labels (stream ``eval`` of `eval.seed`, one position per sample
index), so arms differ by their networks alone, whatever the batch size.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ablate_core.architectures.base import Network
from ablate_core.checkpoint import load_checkpoint, load_snapshot, require_same_trial, training_id
from ablate_core.compute import ALONE, Compute
from ablate_core.config import PostHocEMA, TrialConfig
from ablate_core.datasets.base import Samples
from ablate_core.ema import tied_names
from ablate_core.fid import MetricError
from ablate_core.fid.files import atomic, file_sha256, save_npz
from ablate_core.fid.metrics import Metric, build_metric
from ablate_core.gallery import Picture, grid_shape, image_grid, png_bytes, point_density, with_neighbours
from ablate_core.identity import content_id
from ablate_core.memory import give_back_memory, keep_memory
from ablate_core.posthoc_ema import Averages, reconstruct
from ablate_core.preparation import build_network, data_of, require_legal
from ablate_core.sampling import sample_batches
from ablate_core.sampling_steps import sampling_condition

Event = dict[str, Any]

POINTS_SHOWN = 20_000
"""Points in a density picture; a few dozen, as of images, would show no density."""

LABELS = "balanced: sample i has class i mod number of classes"


def chosen_ema(config: TrialConfig) -> float | PostHocEMA:
    """The average that `config.eval` samples from: a decay, 0 for the raw weights, or a post-hoc length.

    Raises:
        MetricError: `eval.ema` asks for an average that the trial does not keep.
    """
    wanted, train = config.eval.ema, config.train
    if wanted is None:
        return max(train.ema, default=0.0)
    if isinstance(wanted, PostHocEMA):
        if not train.snapshot_every:
            what = f"no snapshots are kept, from which sigma_rel {wanted.sigma_rel:g} could be reconstructed"
            raise MetricError(f"eval.ema: {what}; set train.snapshot_every")
        return wanted
    if wanted != 0 and wanted not in train.ema:
        there = ", ".join(map(str, train.ema)) or "none"
        raise MetricError(
            f"eval.ema: no average of decay {wanted} is kept; train.ema has {there}, and 0 is raw weights"
        )
    return wanted


def post_hoc_weights(
    config: TrialConfig, wanted: PostHocEMA, folder: Path, step: int, averages: Averages
) -> dict[str, Tensor]:
    """The parameters of a post-hoc average at `step`, from the snapshots in `folder` and the `averages` of now.

    Raises:
        MetricError: a snapshot is missing or damaged, or they are too few for this length.
    """
    trial = training_id(config)

    def read(at: int) -> Averages:
        return averages if at == step else load_snapshot(folder, at, trial)

    try:
        return reconstruct(wanted.sigma_rel, step, config.train.snapshot_every, config.train.snapshot_sigma_rel, read)
    except ValueError as error:
        raise MetricError(str(error)) from error


def condition(config: TrialConfig, num_classes: int) -> dict[str, Any]:
    """How the samples of a measurement were drawn: what may differ between two numbers only on purpose."""
    return {
        **sampling_condition(config.objective, config.schedule, config.eval),
        "ema": ema.model_dump() if isinstance(ema := chosen_ema(config), PostHocEMA) else ema,
        "dtype": "float32",
        "labels": LABELS if num_classes else None,
    }


def evaluate(
    config: TrialConfig,
    weights: Mapping[str, Tensor],
    step: int,
    folder: Path,
    *,
    data: Samples | None = None,
    device: str | torch.device = "cpu",
    batches: Iterable[Tensor] | None = None,
    compute: Compute = ALONE,
) -> list[Event]:
    """Measure one set of weights, as `config.eval` says.

    Neither the weights nor any random state of the caller is touched. Files are written into `folder`: the pictures
    ``samples-<condition>-<step>.png`` and ``neighbours-...``, and the statistics
    ``statistics-<metric>-<condition>.npz`` of the newest step, or of every step under its number, where
    `eval.keep_statistics` says so; with an `eval.seed` other than 0, ``-seed<n>`` follows the condition. The seed is
    the number of the draw.

    Args:
        config: the trial.
        weights: the state dict to sample from, of the average `chosen_ema(config)`.
        step: optimiser steps these weights have seen.
        folder: the trial's folder.
        data: what ``config.data.load()`` gives, when the caller has it.
        device: where the network runs.
        batches: samples made elsewhere, to score in place of the network's: (B, *shape) each, `eval.samples` in all.
        compute: who draws samples and extracts features: the trial alone, or with others.

    Returns:
        A ``measurement`` event, one more for each number that ``eval.also`` asks for, and an ``artifact`` event for
        every picture that ``eval.gallery`` and ``eval.neighbours`` ask for and for kept statistics; plain JSON types.
        A value that does not exist (samples that are not finite) is None, with the reason in ``extra``. The ``path``
        of an artifact counts from `folder`.

    Raises:
        MetricError: the metric does not suit the data, or a file it needs is missing or wrong.
    """
    began = time.perf_counter()
    data = data_of(config.data) if data is None else data
    metric = build_metric(config.eval, config.data, data, str(device))
    metric.extract = compute.extract
    how = condition(config, data.num_classes)
    if batches is None:
        batches = network_samples(config, weights, data, device, compute)
    first, reason = _score(metric, batches, config)
    value, reason = _value(metric) if reason is None else (None, reason)
    measurement: Event = {
        "kind": "measurement",
        "metric_id": content_id(metric.definition),
        "metric": metric.definition,
        "cond_id": content_id(how),
        "condition": how,
        "step": step,
        "draw": config.eval.seed,
        "n_samples": config.eval.samples,
        "value": value,
        "sample_seed": config.eval.seed,
        "extra": ({} if (seen := metric.canary()) is None else {"canary": seen})
        | ({} if reason is None else {"reason": reason}),
    }
    statistics = metric.statistics() if value is not None else None
    kept = [] if statistics is None else _keep_statistics(statistics, config, measurement, folder)
    measurement["wall_seconds"] = time.perf_counter() - began
    others = _others(metric, reason, measurement)
    pictures = {"samples": _picture(first, config, data), "neighbours": _neighbours(first, config, data)}
    shown = [_keep(kind, p, measurement, folder) for kind, p in pictures.items() if p is not None]
    return [measurement, *others, *shown, *kept]


def evaluate_checkpoint(
    config: TrialConfig,
    folder: Path,
    *,
    device: str | torch.device = "cpu",
    report: Callable[[Event], None] | None = None,
) -> list[Event]:
    """`evaluate` the newest checkpoint in `folder`, again and under any `config.eval`, without training.

    Raises:
        MetricError: there is no checkpoint, or it kept no such average.
        ValueError: the model cannot be sampled like that, or the checkpoint is another trial's.
    """
    keep_memory()
    require_legal(config)
    state = load_checkpoint(folder)
    if state is None:
        raise MetricError(f"no readable checkpoint in {folder}; train the trial before measuring it")
    require_same_trial(state, config, folder)
    weights = {**state["net"], **_checkpointed_average(config, state, folder)}  # averages hold no buffers
    events = evaluate(config, weights, int(state["step"]), folder, device=device)
    give_back_memory()
    for event in events:
        if report is not None:
            report(event)
    return events


def _checkpointed_average(config: TrialConfig, state: Mapping[str, Any], folder: Path) -> Mapping[str, Tensor]:
    """The parameters that `config.eval` samples from; empty for the raw weights."""
    wanted = chosen_ema(config)
    if isinstance(wanted, PostHocEMA):
        return post_hoc_weights(config, wanted, folder, int(state["step"]), state["power_ema"])
    averages: Averages = state["ema"]
    if wanted and repr(wanted) not in averages:
        there = ", ".join(averages) or "none"
        raise MetricError(f"eval.ema: the checkpoint in {folder} kept no average of decay {wanted}; it has {there}")
    return averages[repr(wanted)] if wanted else {}


def network_samples(
    config: TrialConfig,
    weights: Mapping[str, Tensor],
    data: Samples,
    device: str | torch.device,
    compute: Compute = ALONE,
) -> Iterator[Tensor]:
    """Samples from a network with these weights as `config.eval` says, batch by batch on `device`."""
    net = build_network(config, data, device)
    net.load_state_dict({**weights, **{name: weights[first] for name, first in tied_names(net).items()}})
    return samples_of(config, compute.network(net.requires_grad_(False), "eval"), data, device)


@torch.inference_mode()  # of a generator: entered anew for every batch, so the caller is not in it between them
def samples_of(config: TrialConfig, net: Network, data: Samples, device: str | torch.device) -> Iterator[Tensor]:
    """Samples from `net`, a network on `device` as it stands, as `config.eval` says, batch by batch.

    They are inference tensors: nothing can be differentiated through them.
    """
    wanted = config.eval
    pairs = sample_batches(
        config.objective,
        config.schedule,
        net,
        wanted.samples,
        data.shape,
        wanted,
        num_classes=data.num_classes,
        device=device,
    )
    for x, _ in pairs:
        yield x


def _score(metric: Metric, batches: Iterable[Tensor], config: TrialConfig) -> tuple[Tensor, str | None]:
    """Feed exactly `eval.samples` samples to the metric; the first ones for the picture, and why it stopped early."""
    seen, first = 0, []
    shown = POINTS_SHOWN if config.data.kind == "points" else max(config.eval.gallery, config.eval.neighbours)
    for x in batches:
        if seen < max(shown, 1):
            first.append(x.cpu())
        seen += len(x)
        bad = int((~torch.isfinite(x).flatten(1).all(dim=1)).sum())
        if bad:
            return torch.cat(first), f"{bad} of samples {seen - len(x)} to {seen - 1} are not finite"
        metric.update(x)
    if seen != config.eval.samples:
        raise MetricError(f"eval.samples is {config.eval.samples}, {seen} samples were given; the count is part of FID")
    return torch.cat(first), None


def _value(metric: Metric) -> tuple[float | None, str | None]:
    try:
        value = metric.value()
    except MetricError as error:  # finite samples can still give features beyond float32
        return None, str(error)
    return (value, None) if math.isfinite(value) else (None, f"the distance overflowed to {value}")


def _others(metric: Metric, reason: str | None, main: Event) -> list[Event]:
    """What `eval.also` asks for, of the same samples, as events like the main measurement."""
    began, events = time.perf_counter(), []
    for reading in metric.beside(reason):
        extra = {name: value for name, value in reading.extra.items() if value == value}  # no NaN in JSON
        seen = {"metric_id": content_id(reading.definition), "metric": reading.definition, "value": reading.value}
        events.append({**main, **seen, "n_samples": reading.definition["samples"], "extra": extra})
    spent = time.perf_counter() - began
    return [{**event, "wall_seconds": spent / len(events)} for event in events]


def _keep_statistics(
    statistics: Mapping[str, Any], config: TrialConfig, measurement: Event, folder: Path
) -> list[Event]:
    """Write them for `ablate eval --rescore`; the event of the artifact that they are where the config wants them."""
    name = f"statistics-{measurement['metric_id']}-{_drawn(measurement)}"
    path = folder / f"{name}-{measurement['step']:08d}.npz" if config.eval.keep_statistics else folder / f"{name}.npz"
    save_npz(path, {**statistics, "step": np.asarray(measurement["step"])})
    return [_artifact("statistics", path, measurement)] if config.eval.keep_statistics else []


def _picture(first: Tensor, config: TrialConfig, data: Samples) -> Picture | None:
    count = min(config.eval.gallery, len(first))
    if count == 0:
        return None
    if config.data.kind == "points":
        return point_density(first, data.x)
    if config.data.kind != "images":
        return None
    rows, cols = grid_shape(count, data.num_classes)
    return image_grid(config.data.to_uint8(torch.nan_to_num(first[: rows * cols])), rows, cols)


def _neighbours(first: Tensor, config: TrialConfig, data: Samples) -> Picture | None:
    count = min(config.eval.neighbours, len(first))
    if count == 0 or config.data.kind != "images":
        return None
    tiles, rows, cols = with_neighbours(torch.nan_to_num(first[:count]), data.x)
    return image_grid(config.data.to_uint8(tiles), rows, cols)


def _drawn(measurement: Event) -> str:
    """Names the samples of a measurement in file names: its condition, and its draw beyond the first."""
    draw = measurement["draw"]
    return f"{measurement['cond_id']}-seed{draw}" if draw else str(measurement["cond_id"])


def _keep(kind: str, picture: Picture, measurement: Event, folder: Path) -> Event:
    path = folder / f"{kind}-{_drawn(measurement)}-{measurement['step']:08d}.png"
    with atomic(path) as file:
        file.write(png_bytes(picture))
    height, width = picture.pixels.shape[:2]
    size = {"width": width, "height": height, "rows": picture.rows, "cols": picture.cols}
    return {**_artifact(kind, path, measurement), "mime": "image/png", **size}


def _artifact(kind: str, path: Path, measurement: Event) -> Event:
    """The event of a file that belongs to a measurement."""
    return {
        "kind": "artifact",
        "artifact": kind,
        "step": measurement["step"],
        "cond_id": measurement["cond_id"],
        "draw": measurement["draw"],
        "path": path.name,
        "sha256": file_sha256(path),
        "mime": "application/x-npz",
    }
