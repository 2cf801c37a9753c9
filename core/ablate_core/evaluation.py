"""What a trained network is measured with: `evaluate` draws samples, scores them and keeps a picture of some.

Every arm is sampled from the same noise and the same labels (stream ``eval`` of `eval.seed`, one position per sample
index), so arms differ by their networks alone, whatever the batch size.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ablate_core.checkpoint import load_checkpoint, require_same_trial
from ablate_core.config import TrialConfig
from ablate_core.datasets.base import Samples
from ablate_core.fid import MetricError
from ablate_core.fid.files import atomic, save_npz
from ablate_core.fid.metrics import Metric, build_metric
from ablate_core.gallery import Picture, grid_shape, image_grid, png_bytes, point_density
from ablate_core.identity import content_id
from ablate_core.preparation import build_network
from ablate_core.sampling import resolve_sampler, sample_batches

Event = dict[str, Any]

POINTS_SHOWN = 20_000
"""Points in a density picture; a few dozen, as of images, would show no density."""

LABELS = "balanced: sample i has class i mod number of classes"


def chosen_ema(config: TrialConfig) -> float:
    """The decay of the average that `config.eval` samples from; 0 is the raw weights.

    Raises:
        MetricError: `eval.ema` asks for an average that `train.ema` does not keep.
    """
    wanted, kept = config.eval.ema, config.train.ema
    if wanted is None:
        return max(kept, default=0.0)
    if wanted != 0 and wanted not in kept:
        there = ", ".join(map(str, kept)) or "none"
        raise MetricError(
            f"eval.ema: no average of decay {wanted} is kept; train.ema has {there}, and 0 is raw weights"
        )
    return wanted


def condition(config: TrialConfig, num_classes: int) -> dict[str, Any]:
    """How the samples of a measurement were drawn: what may differ between two numbers only on purpose."""
    return {
        "nfe": config.eval.nfe,
        "sampler": resolve_sampler(config.objective, config.eval.sampler, config.eval.nfe),
        "guidance": config.eval.guidance,
        "ema": chosen_ema(config),
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
) -> list[Event]:
    """Measure one set of weights, as `config.eval` says.

    Neither the weights nor any random state of the caller is touched. Files are written into `folder`: the picture
    ``samples-<condition>-<step>.png`` and the statistics ``statistics-<metric>-<condition>.npz`` of the newest step.

    Args:
        config: the trial.
        weights: the state dict to sample from, of the average `chosen_ema(config)`.
        step: optimiser steps these weights have seen.
        folder: the trial's folder.
        data: what ``config.data.load()`` gives, when the caller has it.
        device: where the network runs.
        batches: samples made elsewhere, to score in place of the network's: (B, *shape) each, `eval.samples` in all.

    Returns:
        A ``measurement`` event and, with ``eval.gallery`` > 0, an ``artifact`` event; plain JSON types. A value that
        does not exist (samples that are not finite) is None, with the reason in ``extra``. The ``path`` of an artifact
        counts from `folder`.

    Raises:
        MetricError: the metric does not suit the data, or a file it needs is missing or wrong.
    """
    began = time.perf_counter()
    data = config.data.load() if data is None else data
    metric = build_metric(config.eval, config.data, data, str(device))
    how = condition(config, data.num_classes)
    if batches is None:
        batches = network_samples(config, weights, data, device)
    first, reason = _score(metric, batches, config)
    value, reason = _value(metric) if reason is None else (None, reason)
    measurement: Event = {
        "kind": "measurement",
        "metric_id": content_id(metric.definition),
        "metric": metric.definition,
        "cond_id": content_id(how),
        "condition": how,
        "step": step,
        "draw": 0,
        "n_samples": config.eval.samples,
        "value": value,
        "sample_seed": config.eval.seed,
        "extra": {} if reason is None else {"reason": reason},
    }
    statistics = metric.statistics() if value is not None else None
    if statistics is not None:
        save_npz(folder / f"statistics-{measurement['metric_id']}-{measurement['cond_id']}.npz", statistics)
    measurement["wall_seconds"] = time.perf_counter() - began
    picture = _picture(first, config, data)
    return [measurement] if picture is None else [measurement, _keep(picture, measurement, folder)]


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
        ValueError: the checkpoint is another trial's.
    """
    state = load_checkpoint(folder)
    if state is None:
        raise MetricError(f"no readable checkpoint in {folder}; train the trial before measuring it")
    require_same_trial(state, config, folder)
    decay = chosen_ema(config)
    averages = state["ema"]
    if decay and repr(decay) not in averages:
        there = ", ".join(averages) or "none"
        raise MetricError(f"eval.ema: the checkpoint in {folder} kept no average of decay {decay}; it has {there}")
    weights = {**state["net"], **(averages[repr(decay)] if decay else {})}  # averages hold parameters, not buffers
    events = evaluate(config, weights, int(state["step"]), folder, device=device)
    for event in events:
        if report is not None:
            report(event)
    return events


def network_samples(
    config: TrialConfig, weights: Mapping[str, Tensor], data: Samples, device: str | torch.device
) -> Iterator[Tensor]:
    """Samples from a network with these weights as `config.eval` says, batch by batch on `device`."""
    wanted, net = config.eval, build_network(config, data, device)
    net.load_state_dict(weights)
    pairs = sample_batches(
        config.objective,
        config.schedule,
        net.requires_grad_(False),
        wanted.samples,
        data.shape,
        first=0,
        num_classes=data.num_classes,
        labels=None,
        nfe=wanted.nfe,
        sampler=wanted.sampler,
        guidance=wanted.guidance,
        seed=wanted.seed,
        batch_size=wanted.batch_size,
        device=device,
    )
    return (x for x, _ in pairs)


def _score(metric: Metric, batches: Iterable[Tensor], config: TrialConfig) -> tuple[Tensor, str | None]:
    """Feed exactly `eval.samples` samples to the metric; the first ones for the picture, and why it stopped early."""
    seen, first = 0, []
    shown = POINTS_SHOWN if config.data.kind == "points" else config.eval.gallery
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


def _keep(picture: Picture, measurement: Event, folder: Path) -> Event:
    content = png_bytes(picture)
    path = folder / f"samples-{measurement['cond_id']}-{measurement['step']:08d}.png"
    with atomic(path) as file:
        file.write(content)
    height, width = picture.pixels.shape[:2]
    return {
        "kind": "artifact",
        "artifact": "samples",
        "step": measurement["step"],
        "cond_id": measurement["cond_id"],
        "path": path.name,
        "sha256": hashlib.sha256(content).hexdigest(),
        "mime": "image/png",
        "width": width,
        "height": height,
        "rows": picture.rows,
        "cols": picture.cols,
    }
