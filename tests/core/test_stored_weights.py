"""Trials that read trained weights: a frozen teacher as target network, a perceptual metric's network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from partial_trials import partial_trial
from perceptual_files import narrow_lpips
from torch import nn

from ablate_core import checkpoint
from ablate_core.batches import Batches
from ablate_core.checkpoint import load_checkpoint, training_id
from ablate_core.config import TrialConfig
from ablate_core.ema import follow
from ablate_core.fid.files import file_sha256
from ablate_core.legality import check
from ablate_core.optim import build_optimizer, clip_gradients, learning_rate, set_learning_rate
from ablate_core.preparation import build_network, load_batch, load_data
from ablate_core.random import Draws
from ablate_core.target_networks.frozen import Frozen
from ablate_core.trainer import train

WIDTH = 12


def config(
    objective: Any, *, steps: int = 6, width: int = WIDTH, data: Any = None, path: str = "linear"
) -> TrialConfig:
    return TrialConfig.model_validate(
        {
            "schedule": path,
            "objective": objective,
            "architecture": {"name": "mlp", "width": width, "depth": 1},
            "data": data or {"name": "gaussians", "size": 200},
            "train": {"steps": steps, "batch_size": 16, "lr": 1e-2, "ema": [0.5], "checkpoint_every": 3},
            "eval": {"metric": "fd_digits" if data else "energy_distance", "samples": 32, "gallery": 0},
        }
    )


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint.os, "fsync", lambda handle: None)


def state(folder: Path) -> dict[str, Any]:
    found = load_checkpoint(folder)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    train(config("meanflow"), folder)
    return folder / checkpoint.CURRENT


def student(teacher: Path, **change: Any) -> dict[str, Any]:
    fields = {"name": "frozen", "checkpoint": str(teacher), "sha256": file_sha256(teacher)} | change
    return {"name": "splitmeanflow", "target_network": fields}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.proves("target_network:frozen")
@pytest.mark.parametrize(("ema", "stored"), [(0.0, "net"), (0.5, "ema")])
def test_a_frozen_target_holds_the_teachers_weights_from_the_first_step_to_the_last(
    teacher: Path, tmp_path: Path, ema: float, stored: str
) -> None:
    wanted = torch.load(teacher, weights_only=True)[stored]
    wanted = wanted["0.5"] if stored == "ema" else wanted
    for steps, stopped in ((2, "a"), (6, "b")):
        train(config(student(teacher, ema=ema), steps=steps), tmp_path / stopped)
        assert same(state(tmp_path / stopped)["target"], wanted)
        assert not same(state(tmp_path / stopped)["net"], wanted)


@pytest.mark.proves("target_network:frozen")
def test_the_first_step_of_a_student_is_the_one_towards_its_teacher(teacher: Path, tmp_path: Path) -> None:
    trial = config(student(teacher), steps=1)
    train(trial, tmp_path)
    data = load_data(trial)
    online, target = (build_network(trial, data, "cpu") for _ in range(2))
    target.load_state_dict(torch.load(teacher, weights_only=True)["net"])
    index = Batches(trial.objective.batching, len(data.x), data.y, 16, trial.seed).indices(0)
    batch, draws = load_batch(trial, data, index, 0, "cpu"), Draws(trial.seed, 0)
    optimizer = build_optimizer(trial.train, list(online.parameters()))
    trial.objective.loss(online, target, trial.schedule, batch, draws, 0, 1).per_sample.mean().backward()
    clip_gradients(list(online.parameters()), trial.train.grad_clip)
    set_learning_rate(optimizer, learning_rate(trial.train, 0))
    optimizer.step()
    assert same(state(tmp_path)["net"], online.state_dict())
    (tmp_path / "own").mkdir()
    train(config({"name": "splitmeanflow"}, steps=1), tmp_path / "own")
    assert not same(state(tmp_path / "own")["net"], online.state_dict())


def test_an_interrupted_student_resumes_to_the_same_weights(teacher: Path, tmp_path: Path) -> None:
    train(config(student(teacher)), tmp_path / "whole")
    asked = iter(range(99))
    first = train(config(student(teacher)), tmp_path / "twice", should_stop=lambda: next(asked) == 4)
    assert first.status == "interrupted"
    train(config(student(teacher)), tmp_path / "twice")
    assert same(state(tmp_path / "whole")["net"], state(tmp_path / "twice")["net"])


def test_a_plain_state_dict_is_a_teacher_too(teacher: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain.pt"
    torch.save(torch.load(teacher, weights_only=True)["net"], plain)
    train(config(student(plain), steps=2), tmp_path / "trial")
    assert same(state(tmp_path / "trial")["target"], torch.load(plain, weights_only=True))


def test_a_teacher_of_tied_weights_is_its_average(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    net[1].weight = net[0].weight
    file = tmp_path / "teacher.pt"
    torch.save({"net": net.state_dict(), "ema": {"0.5": {"0.weight": torch.eye(2)}}}, file)
    Frozen(checkpoint=str(file), sha256=file_sha256(file), ema=0.5).prepare(net)
    assert torch.equal(net[0].weight, torch.eye(2))


def test_a_decay_of_1_leaves_buffers_alone_too() -> None:
    ours, theirs = (torch.nn.BatchNorm1d(3) for _ in range(2))
    theirs(torch.randn(8, 3) + 5)
    before = {name: tensor.clone() for name, tensor in ours.state_dict().items()}
    follow(ours, theirs, 1.0)
    assert same(ours.state_dict(), before)


def refused(objective: Any, tmp_path: Path, message: str, **more: Any) -> None:
    with pytest.raises(ValueError, match=message) as error:
        train(config(objective, **more), tmp_path)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []  # nothing was trained


def test_a_teacher_that_is_not_there_or_not_the_one_meant_is_refused_in_one_line(teacher: Path, tmp_path: Path) -> None:
    where = r"objective\.target_network"
    refused(student(teacher, checkpoint=None), tmp_path, rf"{where}\.checkpoint: no file is named; give the path of")
    refused(student(teacher, checkpoint="/no/such.pt"), tmp_path, rf"{where}\.checkpoint: there is no file '/no/such")
    hashed = file_sha256(teacher)
    refused(
        student(teacher, sha256=None), tmp_path, rf"{where}\.sha256: say which weights are meant; '.*' has {hashed}"
    )
    refused(
        student(teacher, sha256="0" * 64), tmp_path, rf"{where}\.sha256: '.*' has {hashed}, other weights than the 0"
    )
    refused(student(teacher, ema=0.9), tmp_path, rf"{where}\.ema: '.*' has no average of decay 0\.9; there are 0\.5")
    refused(
        student(teacher), tmp_path, rf"{where}\.checkpoint: '.*' has another architecture: \S+ is .* there", width=8
    )


def test_the_path_of_a_teacher_is_a_nuisance_and_its_hash_an_identity(teacher: Path) -> None:
    here = config(student(teacher))
    assert training_id(here) == training_id(config(student(teacher, checkpoint="/elsewhere.pt")))
    assert training_id(here) != training_id(config(student(teacher, sha256="0" * 64)))
    assert training_id(here) != training_id(config(student(teacher, ema=0.5)))


def test_a_teacher_is_warned_about_and_never_moves(teacher: Path) -> None:
    found = check(partial_trial(student(teacher)))
    assert [(p.code, p.level) for p in found] == [("C24", "warning")]
    own = Frozen()
    assert own.separate
    assert {own.decay(step, 10) for step in range(10)} == {1.0}


def test_a_perceptual_metric_trains_and_its_missing_file_is_found_before_training(tmp_path: Path) -> None:
    for name, metric in (("lpips", narrow_lpips()), ("stand_in", "random_features")):
        result = train(config({"name": "ct", "metric": metric}, steps=2, data="digits"), tmp_path / name)
        assert result.status == "done"
    empty = tmp_path / "empty"
    empty.mkdir()
    gone = {"name": "ct", "metric": {**narrow_lpips(), "weights": "/gone.pt"}}
    refused(gone, empty, r"objective\.metric\.weights: there is no file '/gone\.pt'", data="digits")
