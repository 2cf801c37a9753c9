"""One trial from its config to its measurements: the training loop, without any cluster.

In a notebook::

    from ablate_core.config import TrialConfig
    from ablate_core.trainer import train

    config = TrialConfig.model_validate({"schedule": "linear", "objective": "meanflow", "architecture": "mlp",
        "data": "gaussians", "train": {"steps": 1500, "batch_size": 512, "lr": 1e-3},
        "eval": {"metric": "energy_distance", "samples": 5000}})
    train(config, Path("runs/notebook"), report=print)

Every random number comes from a named stream and the step number (`ablate_core.random`), so a run that was interrupted
anywhere and resumed equals the uninterrupted one bit for bit on the same machine and number of threads.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from ablate_core.batches import Batches
from ablate_core.checkpoint import (
    load_checkpoint,
    require_same_trial,
    save_checkpoint,
    save_snapshot,
    training_id,
)
from ablate_core.compiled import chosen
from ablate_core.compute import ALONE, Compute
from ablate_core.config import PostHocEMA, TrialConfig
from ablate_core.ema import EMA, follow
from ablate_core.evaluation import chosen_ema, evaluate, post_hoc_weights
from ablate_core.fid.metrics import build_metric
from ablate_core.memory import give_back_memory, keep_memory, pass_over_modules
from ablate_core.optim import learning_rate
from ablate_core.posthoc_ema import PowerEMA
from ablate_core.preparation import build_network, load_batch, load_data, require_legal
from ablate_core.progress import Clock, Meter
from ablate_core.random import Draws, stream_seed
from ablate_core.update import Update

Event = dict[str, Any]
Report = Callable[[Event], None]


@dataclass(frozen=True)
class Result:
    """How a trial ended. Seconds count all attempts whose checkpoints this one continued."""

    status: Literal["done", "diverged", "interrupted"]
    step: int
    reason: str | None
    wall_seconds: float
    cpu_seconds: float
    peak_mem_mb: float
    num_parameters: int


def train(
    config: TrialConfig,
    folder: Path,
    *,
    device: str | torch.device = "cpu",
    report: Report | None = None,
    should_stop: Callable[[], bool] | None = None,
    compute: Compute = ALONE,
) -> Result:
    """Train and measure one trial; continue from `folder` where a checkpoint of the same trial is there.

    Args:
        config: the trial.
        folder: where its checkpoints and pictures live; made if missing.
        device: where it runs. The number of CPU threads is the caller's affair.
        report: gets events as plain dicts: ``scalar`` and ``progress`` every `train.log_every` steps, ``measurement``
            and ``artifact`` at every evaluation.
        should_stop: asked before every step; when true, the trial saves a checkpoint and returns "interrupted".
        compute: what evaluates and differentiates its networks; `packing` gives one that others have a part in.

    Returns:
        A `Result`. Divergence is a result, not an exception: a loss or gradient that is not finite, or a mean loss
        above `train.diverged_above`. The numbers of every step are kept on the device and looked at every `log_every`
        steps and before every checkpoint (fetching a number makes the host wait for the device), so the step it names
        is exact and no checkpoint ever holds a diverged network.

    Raises:
        ValueError: the config is illegal, the data cannot be read or do not suit it, or `folder` holds another trial.
    """
    keep_memory()
    pass_over_modules()
    tell = report or (lambda event: None)
    compute = chosen(config, compute)
    clock = Clock(device, compute.cpu_seconds)
    total, step = config.train.steps, 0

    # Everything that can be wrong with the config, the data or the metric is found here.
    require_legal(config)
    config.objective.preflight()
    data = load_data(config)
    build_metric(config.eval, config.data, data, str(device))
    measured = chosen_ema(config)
    measured_on_the_way = config.eval.every > 0 and not isinstance(measured, PostHocEMA)  # too few snapshots yet
    batches = Batches(config.objective.batching, len(data.x), data.y, config.train.batch_size, config.seed)

    net = build_network(config, data, device)
    online = compute.network(net, "net")
    flat = compute.flat(net)
    update = Update(config.train, net, flat)
    ema = EMA(net, config.train.ema, flat)
    power_ema = PowerEMA(net, config.train.snapshot_sigma_rel if config.train.snapshot_every else (), flat)
    has_target = config.objective.target_network.decay(0, total) is not None
    target = copy.deepcopy(net).requires_grad_(False) if has_target else None
    if target is not None:
        config.objective.target_network.prepare(target)
    config.objective.metric.prepare()
    target_net = online if target is None else compute.network(target, "target")
    flat_target = None if target is None else compute.flat(target)
    wholes = None if flat is None or flat_target is None else (flat_target.whole, flat.whole)
    meter = Meter(config.train.diverged_above)

    def save() -> None:
        state = {
            "format": 1, "trial": training_id(config), "step": step, "net": net.state_dict(),
            "optimizer": update.state_dict(),
            "ema": ema.state_dict(), "meter": meter.state_dict(), "power_ema": power_ema.state_dict(),
            "target": None if target is None else target.state_dict(), "clock": clock.state_dict(),
        }  # fmt: skip
        save_checkpoint(folder, state)

    def result(status: Literal["done", "diverged", "interrupted"], at: int, reason: str | None = None) -> Result:
        count = sum(p.numel() for p in net.parameters())
        return Result(status, at, reason, clock.wall(), clock.cpu(), clock.peak_mem_mb(), count)

    def measure() -> None:
        if isinstance(measured, PostHocEMA):
            averages = post_hoc_weights(config, measured, folder, step, power_ema.state_dict())
            weights = {**net.state_dict(), **averages}
        else:
            weights = ema.weights(measured)
        for event in evaluate(config, weights, step, folder, data=data, device=device, compute=compute):
            tell(event)
        give_back_memory()

    # Continue where an earlier attempt stopped.
    state = load_checkpoint(folder)
    if state is not None:
        require_same_trial(state, config, folder)
        step = state["step"]
        net.load_state_dict(state["net"])
        update.load_state_dict(state["optimizer"])
        ema.load_state_dict(state["ema"])
        power_ema.load_state_dict(state.get("power_ema", {}))  # checkpoints from before they existed keep none
        meter.load_state_dict(state["meter"])
        clock.load_state_dict(state["clock"])
        if target is not None:
            target.load_state_dict(state["target"])

    lap_began, measuring = step, dict[str, float]()  # what measurements since the last report have cost
    clock.lap()
    while step < total:
        if should_stop is not None and should_stop():
            if (found := meter.diverged()) is not None:
                return result("diverged", *found)
            save()
            return result("interrupted", step)

        # A batch of data, and the random numbers of this step.
        batch = load_batch(config, data, batches.indices(step), step, device)
        draws = Draws(config.seed, step, device=device)
        masks = stream_seed(config.seed, "dropout.network", step)
        online.use_dropout(masks)
        target_net.use_dropout(None if config.objective.target_network.teacher else masks)

        # Loss and gradients. Autocast covers the networks' matrix products; times and the loss stay float32.
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=config.train.precision == "bf16"):
            loss = config.objective.loss(online, target_net, config.schedule, batch, draws, step, total)
        mean_loss = loss.per_sample.mean()
        compute.backward(mean_loss, update.flat)

        # Update of the weights and of everything that follows them.
        lr = learning_rate(config.train, step)
        grad_norm = update.step(lr, [*ema.followers(), *power_ema.followers(step + 1)])
        decay = config.objective.target_network.decay(step, total)
        if target is not None and decay is not None:
            follow(target, net, decay, wholes)
        step += 1
        meter.add(step, mean_loss.detach(), grad_norm, loss.scalars, loss.rows)
        del loss, mean_loss  # and their graph, before the next one is made

        # Report, and look for divergence, where the host waits for the device anyway.
        last = step == total
        save_now = last or step % config.train.checkpoint_every == 0
        snapshot_now = config.train.snapshot_every > 0 and step % config.train.snapshot_every == 0
        measure_now = last or (measured_on_the_way and step % config.eval.every == 0)
        log_now = last or measure_now or step % config.train.log_every == 0
        if log_now or save_now or snapshot_now:
            if (found := meter.diverged()) is not None:
                tell({"kind": "scalar", "step": found[0], "values": meter.means(), "wall_seconds": clock.wall()})
                return result("diverged", *found)
        if log_now:
            costs = compute.costs()
            rate = config.train.batch_size * (step - lap_began) / (clock.lap() - costs.get("compile_seconds", 0.0))
            costs |= {name: spent + costs.get(name, 0.0) for name, spent in measuring.items()}  # of no lap
            values = {**meter.means(), **costs, "lr": lr, "images_per_second": rate}
            tell({"kind": "scalar", "step": step, "values": values, "wall_seconds": clock.wall()})
            tell({"kind": "progress", "step": step, "steps": total})
            meter.reset()
            lap_began, measuring = step, {}
        if snapshot_now and not last:  # the last one is in the checkpoint
            save_snapshot(folder, step, training_id(config), power_ema.state_dict())
        if measure_now and not last:
            measure()
            measuring = compute.costs()
            clock.lap()
        if save_now:
            save()

    measure()  # after the last checkpoint: a trial killed here only measures again
    return result("done", step)
