"""The training loop: exact resume, divergence as a result, events, errors before the first step."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ablate_core import checkpoint, trainer, update
from ablate_core.batches import Batches
from ablate_core.checkpoint import CURRENT, load_checkpoint, training_id
from ablate_core.compute import Compute
from ablate_core.config import TrialConfig
from ablate_core.methods import METHODS
from ablate_core.trainer import Result, train

STEPS = 10


def config(objective: object = "meanflow", **changes: Any) -> TrialConfig:
    """A trial of a second: ten steps of a small network on the plane."""
    fields: dict[str, Any] = {
        "schedule": "linear",
        "objective": objective,
        "architecture": {"name": "mlp", "width": 16, "depth": 2},
        "data": {"name": "gaussians", "size": 400},
        "train": {"steps": STEPS, "batch_size": 32, "lr": 1e-2, "ema": [0.5, 0.9]}
        | {"log_every": 3, "checkpoint_every": 4},
        "eval": {"metric": "energy_distance", "samples": 100, "gallery": 0},
    }
    for path, value in changes.items():
        section, _, field = path.partition("__")
        fields[section] = {**fields[section], field: value} if field else value
    return TrialConfig.model_validate(fields)


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint.os, "fsync", lambda handle: None)  # its own test is in test_checkpoint.py


def stop_at(*steps: int) -> Callable[[], bool]:
    """Asked before every step of one attempt; says stop before the given steps (counted in questions)."""
    asked = -1

    def should_stop() -> bool:
        nonlocal asked
        asked += 1
        return asked in steps

    return should_stop


def state(folder: Path) -> dict[str, Any]:
    loaded = load_checkpoint(folder)
    assert loaded is not None
    del loaded["clock"]  # seconds are the one thing that differs
    return loaded


def assert_equal(a: Any, b: Any) -> None:
    """Exact equality of nested dicts, lists and tensors."""
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_equal(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_equal(x, y)
    else:
        assert a == b


def data_std_1(name: str) -> object:
    """The method's row, told that the data have standard deviation 1."""
    slot = METHODS[name].slots["parameterization"]
    return {"name": name, "parameterization": {"sigma_data": 1.0}} if isinstance(slot, dict) else name


@pytest.mark.parametrize("method", sorted(METHODS))
def test_an_interrupted_trial_equals_an_uninterrupted_one_bit_for_bit(method: str, tmp_path: Path) -> None:
    trial = config(data_std_1(method), schedule=METHODS[method].path)
    whole = train(trial, tmp_path / "whole")
    assert whole.status == "done"
    for steps in (0, 3, 1, 2):  # stopped at steps 0, 3, 4 and 6
        assert train(trial, tmp_path / "parts", should_stop=stop_at(steps)).status == "interrupted"
    assert train(trial, tmp_path / "parts").status == "done"
    assert_equal(state(tmp_path / "whole"), state(tmp_path / "parts"))


@pytest.mark.parametrize("optimizer", ["adamw", "radam"])
def test_resume_is_exact_for_other_optimisers_architectures_and_precisions(optimizer: str, tmp_path: Path) -> None:
    trial = config(
        data="digits", architecture={"name": "sit", "size": "tiny/4", "depth": 1, "width": 16, "heads": 2},
        eval={"metric": "fd_digits", "samples": 60, "gallery": 0},
        train__optimizer=optimizer, train__precision="bf16", train__lr_warmup_steps=6,
    )  # fmt: skip
    train(trial, tmp_path / "whole")
    train(trial, tmp_path / "parts", should_stop=stop_at(5))
    train(trial, tmp_path / "parts")
    assert_equal(state(tmp_path / "whole"), state(tmp_path / "parts"))


def test_a_killed_trial_continues_from_its_last_checkpoint_to_the_same_end(tmp_path: Path) -> None:
    trial, events = config(), []

    class Killed(BaseException):
        pass

    def die(event: dict[str, Any]) -> None:
        if event["kind"] == "scalar" and event["step"] == 9:
            raise Killed

    with pytest.raises(Killed):
        train(trial, tmp_path / "parts", report=die)
    assert load_checkpoint(tmp_path / "parts")["step"] == 8
    result = train(trial, tmp_path / "parts", report=events.append)
    assert [e["step"] for e in events if e["kind"] == "scalar"] == [9, 10]
    train(trial, tmp_path / "whole")
    assert result.status == "done"
    assert_equal(state(tmp_path / "whole"), state(tmp_path / "parts"))


def test_a_resumed_trial_reports_the_same_numbers(tmp_path: Path) -> None:
    def scalars(events: list[dict[str, Any]]) -> dict[int, float]:
        return {e["step"]: e["values"]["loss"] for e in events if e["kind"] == "scalar"}

    whole: list[dict[str, Any]] = []
    parts: list[dict[str, Any]] = []
    train(config(), tmp_path / "whole", report=whole.append)
    train(config(), tmp_path / "parts", report=parts.append, should_stop=stop_at(5))
    train(config(), tmp_path / "parts", report=parts.append)
    assert scalars(parts) == scalars(whole)
    values = [[e["value"] for e in events if e["kind"] == "measurement"] for events in (whole, parts)]
    assert values[0] == values[1]
    assert len(values[0]) == 1


def test_seconds_add_up_over_attempts(tmp_path: Path) -> None:
    assert train(config(), tmp_path, should_stop=stop_at(5)).wall_seconds < 1000
    stopped = load_checkpoint(tmp_path)
    assert stopped is not None
    stopped["clock"] = {"wall": 1000.0, "cpu": 500.0}
    checkpoint.save_checkpoint(tmp_path, stopped)
    result = train(config(), tmp_path)
    assert 1000 < result.wall_seconds < 2000
    assert 500 < result.cpu_seconds < 1000
    assert result.peak_mem_mb > 10


def test_the_target_network_is_the_average_it_is_said_to_be(tmp_path: Path) -> None:
    """A target of decay 0.9 and an evaluation average of decay 0.9 are the same weights."""
    train(config({"name": "scd", "target_network": {"mu": 0.9}}), tmp_path)
    end = state(tmp_path)
    assert_equal(dict(end["target"]), dict(end["ema"]["0.9"]))
    assert not torch.equal(end["target"]["output.weight"], end["net"]["output.weight"])


def test_no_target_network_is_kept_for_a_stop_gradient(tmp_path: Path) -> None:
    train(config("meanflow"), tmp_path)
    assert state(tmp_path)["target"] is None


def test_every_step_takes_its_own_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial, real, seen = config(), trainer.load_batch, {}

    def spy(c: Any, data: Any, index: torch.Tensor, step: int, device: Any) -> Any:
        seen[step] = index
        return real(c, data, index, step, device)

    monkeypatch.setattr(trainer, "load_batch", spy)
    train(trial, tmp_path, should_stop=stop_at(4))
    train(trial, tmp_path)
    data = trial.data.load()
    order = Batches(trial.objective.batching, len(data.x), data.y, 32, trial.seed)
    assert sorted(seen) == list(range(STEPS))
    assert all(torch.equal(seen[step], order.indices(step)) for step in seen)


def test_a_finished_trial_is_measured_again_and_not_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = config()
    train(trial, tmp_path)
    monkeypatch.setattr(trainer, "load_batch", lambda *a: pytest.fail("trained again"))
    events: list[dict[str, Any]] = []
    assert train(trial, tmp_path, report=events.append).status == "done"
    assert [e["kind"] for e in events] == ["measurement"]


def test_events_are_plain_data_and_hold_what_a_curve_needs(tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []
    result = train(config(eval__every=5, eval__gallery=4), tmp_path, report=events.append)
    json.dumps(events, allow_nan=False)
    scalars = [e for e in events if e["kind"] == "scalar"]
    assert [e["step"] for e in scalars] == [3, 5, 6, 9, 10]
    assert {"loss", "grad_norm", "lr", "images_per_second", "velocity_share"} <= scalars[0]["values"].keys()
    assert [e["step"] for e in events if e["kind"] == "progress"] == [3, 5, 6, 9, 10]
    assert [e["step"] for e in events if e["kind"] == "measurement"] == [5, 10]
    pictures = [e for e in events if e["kind"] == "artifact"]
    assert all((tmp_path / e["path"]).exists() for e in pictures)
    assert len(pictures) == 2
    assert result == Result("done", 10, None, result.wall_seconds, result.cpu_seconds, result.peak_mem_mb, 754)


def test_what_a_measurement_compiles_is_reported_and_is_no_part_of_a_lap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Compiling(Compute):
        spent = 0.0

        def costs(self) -> dict[str, float]:
            spent, self.spent = self.spent, 0.0
            return {"compile_seconds": spent} if spent else {}

    compute = Compiling()

    def measure(*_: Any, **more: Any) -> list[Any]:
        compute.spent += 1000.0
        return []

    monkeypatch.setattr(trainer, "evaluate", measure)
    events: list[dict[str, Any]] = []
    train(config(eval__every=5, train__log_every=2), tmp_path, report=events.append, compute=compute)
    logged = {event["step"]: event["values"] for event in events if event["kind"] == "scalar"}
    assert all(values["images_per_second"] > 0 for values in logged.values())
    assert {step: values.get("compile_seconds") for step, values in logged.items()} == {
        2: None, 4: None, 5: None, 6: 1000.0, 8: None, 10: None,
    }  # fmt: skip


def test_evaluation_leaves_training_alone(tmp_path: Path) -> None:
    train(config(), tmp_path / "once")
    train(config(eval__every=2), tmp_path / "often")
    for part in ("net", "ema", "optimizer"):
        assert_equal(state(tmp_path / "once")[part], state(tmp_path / "often")[part])


def test_the_global_random_state_is_neither_used_nor_changed(tmp_path: Path) -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    train(config(), tmp_path / "a")
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    train(config(), tmp_path / "b")
    assert_equal(state(tmp_path / "a"), state(tmp_path / "b"))


def test_seeds_give_different_trials_and_logging_does_not(tmp_path: Path) -> None:
    train(config(), tmp_path / "a")
    train(config(seed=1), tmp_path / "b")
    train(config(train__log_every=7, train__checkpoint_every=1), tmp_path / "c")
    a, b, c = (state(tmp_path / name)["net"]["output.weight"] for name in "abc")
    assert not torch.equal(a, b)
    assert torch.equal(a, c)


def diverging(tmp_path: Path, **changes: Any) -> tuple[Result, list[dict[str, Any]]]:
    events: list[dict[str, Any]] = []
    return train(config("fm", **changes), tmp_path, report=events.append), events


def test_a_loss_above_the_bound_is_a_result_with_its_step(tmp_path: Path) -> None:
    result, events = diverging(tmp_path, train__diverged_above=1e-6)
    assert (result.status, result.step) == ("diverged", 1)
    assert "above 1e-06 at step 1" in result.reason
    assert not [e for e in events if e["kind"] == "measurement"]
    json.dumps(events, allow_nan=False)


@pytest.mark.parametrize("where", ["loss", "gradient norm"])
def test_what_is_not_finite_is_found_at_its_own_step(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Step 6 goes wrong; it is fetched at step 8, where a checkpoint is due, and named exactly."""
    if where == "loss":
        real = trainer.load_batch

        def poisoned(trial: TrialConfig, data: Any, index: Any, step: int, device: Any) -> Any:
            batch = real(trial, data, index, step, device)
            if step == 5:
                batch.x0[:] = float("nan")
            return batch

        monkeypatch.setattr(trainer, "load_batch", poisoned)
    else:
        real_step, calls = update.Update.step, []

        def step(self: update.Update, *given: Any) -> torch.Tensor:
            calls.append(1)
            norm = real_step(self, *given)
            return norm * float("inf") if len(calls) == 6 else norm

        monkeypatch.setattr(update.Update, "step", step)
    result, _ = diverging(tmp_path, train__log_every=100)
    assert (result.status, result.step) == ("diverged", 6)
    assert result.reason.startswith(where)
    assert load_checkpoint(tmp_path)["step"] == 4, "no checkpoint holds a diverged network"


def test_a_stopped_trial_that_diverged_says_so(tmp_path: Path) -> None:
    trial = config("fm", train__diverged_above=1e-6, train__log_every=100, train__checkpoint_every=100)
    assert train(trial, tmp_path, should_stop=stop_at(3)).status == "diverged"
    assert load_checkpoint(tmp_path) is None


def refused(tmp_path: Path, trial: TrialConfig) -> str:
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        train(trial, tmp_path)
    assert not (tmp_path / CURRENT).exists()
    return str(caught.value)


def test_an_illegal_combination_is_refused_before_the_first_step(tmp_path: Path) -> None:
    message = refused(tmp_path, config({"name": "fm", "limit": "continuous"}))
    assert "objective.time_sampler" in message


def test_data_of_another_standard_deviation_are_refused(tmp_path: Path) -> None:
    """C25: known beforehand where the data set says so, else measured on the loaded data."""
    imm = {"name": "imm", "parameterization": {"sigma_data": 0.5}}
    assert "C25" in refused(tmp_path, config(imm))
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(64, 1, 2, 2)).astype(np.float32))
    message = refused(tmp_path, config(imm, data={"name": "latents", "path": str(tmp_path), "scale": 1.0}))
    assert "C25" in message
    assert "data: latents" in message


def test_a_metric_that_does_not_suit_the_data_is_refused(tmp_path: Path) -> None:
    assert "fd_digits" in refused(tmp_path, config(eval__metric="fd_digits"))


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    trial = config(data={"name": "image_folder", "path": str(tmp_path / "gone")}, eval__metric="fid")
    assert "no folder" in refused(tmp_path, trial)


def test_an_average_that_is_not_kept_is_refused_before_the_first_step(tmp_path: Path) -> None:
    assert "eval.ema" in refused(tmp_path, config(eval__ema=0.123))


def test_a_folder_of_another_trial_is_refused(tmp_path: Path) -> None:
    train(config(), tmp_path)
    with pytest.raises(ValueError, match="checkpoint of another trial"):
        train(config(seed=1), tmp_path)


def test_what_belongs_to_training_decides_whose_checkpoint_it_is() -> None:
    base = training_id(config())
    for same in (config(eval__samples=7), config(train__log_every=1), config(train__checkpoint_every=1)):
        assert training_id(same) == base
    for other in (config(seed=1), config("fm"), config(train__lr=1e-3), config(train__ema=[0.5])):
        assert training_id(other) != base
