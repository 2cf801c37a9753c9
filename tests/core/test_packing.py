"""A pack: every member ends as it would have ended alone."""

from __future__ import annotations

import functools
import os
import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ablate_core import checkpoint, evaluation, trainer
from ablate_core.checkpoint import load_checkpoint
from ablate_core.config import TrialConfig
from ablate_core.methods import METHODS
from ablate_core.packing import Member, PackError, lockstep, pack_key, train_pack
from ablate_core.packing.calls import MemberCompute
from ablate_core.packing.rendezvous import Rendezvous
from ablate_core.random import Draws
from ablate_core.trainer import Result, train

MLP = {"name": "mlp", "width": 12, "depth": 2}
SIT = {"name": "sit", "size": "tiny/4", "depth": 1, "width": 16, "heads": 2}


def config(
    objective: object = "meanflow", architecture: object = MLP, *, steps: int = 8, **changes: Any
) -> TrialConfig:
    """A trial of a moment on the digits."""
    fields: dict[str, Any] = {
        "schedule": "linear",
        "objective": objective,
        "architecture": architecture,
        "data": "digits",
        "train": {"steps": steps, "batch_size": 28, "lr": 1e-3, "ema": [0.5], "log_every": 5, "checkpoint_every": 100},
        "eval": {"metric": "fd_digits", "samples": 20, "gallery": 0},
    }
    for path, value in changes.items():
        section, _, field = path.partition("__")
        fields[section] = {**fields[section], field: value} if field else value
    return TrialConfig.model_validate(fields)


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint.os, "fsync", lambda handle: None)


@pytest.fixture
def _float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks, data and noise in float64, so that nothing but a mistake is left between two results."""
    build, load = trainer.build_network, trainer.load_batch

    def wide(c: Any, data: Any, index: Tensor, step: int, device: Any) -> Any:
        batch = load(c, data, index, step, device)
        return type(batch)(batch.x0.double(), batch.y, batch.num_classes)

    monkeypatch.setattr(trainer, "build_network", lambda *a: build(*a).double())
    monkeypatch.setattr(trainer, "load_batch", wide)
    monkeypatch.setattr(trainer, "Draws", functools.partial(Draws, dtype=torch.float64))


def pack(configs: Sequence[TrialConfig], folder: Path, **more: Any) -> list[Result | Exception]:
    return train_pack([Member(c, folder / f"packed-{i}", **more) for i, c in enumerate(configs)])


def state(folder: Path) -> dict[str, Any]:
    loaded = load_checkpoint(folder)
    assert loaded is not None
    del loaded["clock"]
    return loaded


def furthest(a: Any, b: Any) -> float:
    """The largest difference of two nests of tensors and numbers with equal keys and shapes."""
    if isinstance(a, Tensor):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        return float((a - b).abs().max()) if a.numel() else 0.0
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        return max((furthest(a[key], b[key]) for key in a), default=0.0)
    if isinstance(a, list | tuple):
        return max((furthest(x, y) for x, y in zip(a, b, strict=True)), default=0.0)
    if isinstance(a, float):
        return abs(a - b)
    assert a == b
    return 0.0


def apart(configs: Sequence[TrialConfig], folder: Path) -> float:
    """How far the checkpoints of a pack are from those of the same trials alone."""
    ends = pack(configs, folder)
    differences = []
    for i, c in enumerate(configs):
        alone, end = train(c, folder / f"alone-{i}"), ends[i]
        assert isinstance(end, Result), end
        assert (end.status, end.step, end.num_parameters) == (alone.status, alone.step, alone.num_parameters)
        differences.append(furthest(state(folder / f"packed-{i}"), state(folder / f"alone-{i}")))
    return max(differences)


@pytest.fixture
def joint(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, int]]:
    """(role, method, members) of every call that was made as one, and ("net", "tangent", members who had one of it)."""
    seen: list[tuple[str, str, int]] = []
    made = Rendezvous._made_as_one

    def spy(self: Rendezvous, stack: Any, calls: Any) -> Any:
        seen.append((calls[0].kind.role, calls[0].kind.method, len(calls)))
        seen.append((calls[0].kind.role, "tangent", sum(call.tangents > 0 for call in calls)))
        return made(self, stack, calls)

    monkeypatch.setattr(Rendezvous, "_made_as_one", spy)
    return seen


def guided(name: str) -> dict[str, Any]:
    return {"name": name, "guidance": {"name": "omega_kappa", "kappa": 0.3}}


SHIFTED = {"name": "meanflow", "time_sampler": {"p_eq": 0.5}, "metric": {"p": 0.5}}


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize("architecture", [MLP, SIT], ids=["mlp", "sit"])
def test_members_that_differ_in_everything_but_their_shapes_equal_the_trials_alone(
    architecture: object, tmp_path: Path, joint: list[tuple[str, str, int]]
) -> None:
    """Fifty steps in float64: the objective, the optimiser, the rates, the seed, the number of steps may differ."""
    members = [
        config(guided("meanflow"), architecture, steps=50, seed=1),
        config(SHIFTED, architecture, steps=50, seed=2, train__lr=3e-3, train__optimizer="adamw",
               train__weight_decay=0.1),
        config("scd", architecture, steps=50, seed=2, train__lr_warmup_steps=9, train__grad_clip=0.1),
        config("fm", architecture, steps=21, seed=1, train__optimizer="radam", train__snapshot_every=7),
    ]  # fmt: skip
    assert apart(members, tmp_path) < 1e-10
    assert {("net", "forward", 4), ("net", "forward", 3), ("net", "tangent", 2)} <= set(joint)
    assert not any(method == "forward_and_tangent" for _, method, _ in joint)  # each was beside a prediction
    assert any(role == "eval" for role, _, _ in joint)


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_packs(method: str, tmp_path: Path, joint: list[tuple[str, str, int]]) -> None:
    slot = METHODS[method].slots["parameterization"]
    objective = {"name": method, "parameterization": {"sigma_data": 1.0}} if isinstance(slot, dict) else method
    members = [config(objective, schedule=METHODS[method].path, steps=3, seed=seed) for seed in (0, 1)]
    assert apart(members, tmp_path) < 1e-10
    assert joint


def test_float32_agrees_within_rounding_and_draws_the_same_numbers(tmp_path: Path) -> None:
    """One step from equal weights on equal random numbers: the logged losses agree to float32's rounding."""
    members = [config("esc", SIT, steps=1, seed=seed) for seed in (3, 4)]
    packed: list[list[dict[str, Any]]] = [[], []]
    train_pack([Member(c, tmp_path / f"p{i}", packed[i].append) for i, c in enumerate(members)])
    for i, c in enumerate(members):
        alone: list[dict[str, Any]] = []
        train(c, tmp_path / f"a{i}", report=alone.append)
        ours, theirs = packed[i][0]["values"], alone[0]["values"]
        assert ours["velocity_share"] == theirs["velocity_share"]  # of the drawn times
        assert ours["plugin_share"] == theirs["plugin_share"]
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-4)


def test_bf16_packs(tmp_path: Path, joint: list[tuple[str, str, int]]) -> None:
    members = [config("meanflow", SIT, steps=4, seed=seed, train__precision="bf16") for seed in (0, 1)]
    assert apart(members, tmp_path) < 1e-2
    assert ("net", "forward", 2) in joint


def test_what_fails_or_diverges_leaves_the_others_as_they_would_have_been(tmp_path: Path) -> None:
    def broken(event: dict[str, Any]) -> None:
        raise OSError("the disk is full")

    good = config(seed=1)
    wild = config(seed=2, train__diverged_above=1e-6)
    ends = train_pack(
        [
            Member(good, tmp_path / "good"),
            Member(wild, tmp_path / "wild"),
            Member(config(seed=3), tmp_path / "broken", report=broken),
            Member(config(seed=4, eval={"metric": "energy_distance"}), tmp_path / "illegal"),
        ]
    )
    first, second, third, fourth = ends
    assert isinstance(first, Result)
    assert first.status == "done"
    assert isinstance(second, Result)
    assert second.status == "diverged"
    assert isinstance(third, OSError)
    assert isinstance(fourth, Exception)
    train(good, tmp_path / "alone")
    assert furthest(state(tmp_path / "good"), state(tmp_path / "alone")) < 1e-4


def broken_backward(monkeypatch: pytest.MonkeyPatch, number: int, error: Exception) -> None:
    """Let the derivative of this member's loss raise at its third step."""
    backward, asked = MemberCompute.backward, iter(range(100))

    def raises(gradient: Tensor) -> None:
        raise error

    def spy(self: MemberCompute, loss: Tensor, flat: Any = None) -> None:
        if self._player.number == number and next(asked) == 2:
            loss.register_hook(raises)
        backward(self, loss, flat)

    monkeypatch.setattr(MemberCompute, "backward", spy)


def test_a_backward_pass_that_fails_is_blamed_on_nobody_who_shared_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = [config(seed=1), config(seed=2), config("scd", seed=3), config(seed=4, steps=2)]
    broken_backward(monkeypatch, 1, ValueError("no derivative here"))
    *together, finished = pack(members, tmp_path / "together")
    assert [type(end) for end in together] == [PackError] * 3
    assert {str(end) for end in together} == {"the backward pass of 3 trials as one: ValueError: no derivative here"}
    assert isinstance(finished, Result)
    assert finished.status == "done"
    broken_backward(monkeypatch, 1, ValueError("no derivative here"))
    short, culprit = pack([config(seed=1, steps=2), config(seed=2)], tmp_path / "last")
    assert isinstance(short, Result)
    assert isinstance(culprit, ValueError), "who is left alone has only himself to blame"
    broken_backward(monkeypatch, 0, torch.OutOfMemoryError("a terabyte"))
    assert {type(end) for end in pack(members[:2], tmp_path / "large")} == {torch.OutOfMemoryError}


def test_a_network_with_a_parameter_that_gets_no_gradient_is_not_for_a_pack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trial alone leaves such a parameter as it is; decay and momentum of a pack would move it."""
    build = trainer.build_network

    def with_spare(*given: Any) -> Any:
        net = build(*given)
        net.spare = torch.nn.Parameter(torch.ones(3))
        return net

    monkeypatch.setattr(trainer, "build_network", with_spare)
    monkeypatch.setattr(evaluation, "build_network", with_spare)
    members = [config(seed=seed, train__weight_decay=0.1, train__optimizer="adamw") for seed in (1, 2)]
    wider = config(seed=3, architecture={**MLP, "width": 13})  # called by itself
    for number, group in enumerate([members, [members[0], wider]]):
        ends = pack(group, tmp_path / str(number))
        assert [type(end) for end in ends] == [PackError] * 2
        assert all(str(end).startswith("spare: no gradient at this step") for end in ends)
    asked = iter(range(100))
    folder = tmp_path / "packed-0"
    train(members[0], folder, should_stop=lambda: next(asked) >= 3)
    first, second = pack(members, tmp_path)
    assert isinstance(first, PackError)
    assert "different numbers of steps" in str(first)
    assert isinstance(second, PackError)
    assert train(members[0], folder).status == "done"
    assert torch.equal(state(folder)["net"]["spare"], torch.ones(3))


@pytest.mark.usefixtures("_float64")
def test_a_pack_resumes_from_trials_alone_and_a_trial_alone_from_a_pack(tmp_path: Path) -> None:
    """Members at different steps, one of them finished: each continues from its own folder."""
    members = [config("scd", seed=seed, train__snapshot_every=2) for seed in (1, 2, 3)]

    def after(steps: int) -> Any:
        asked = iter(range(100))
        return lambda: next(asked) >= steps

    folders = [tmp_path / f"packed-{i}" for i in range(3)]
    train(members[0], folders[0], should_stop=after(3))
    train(members[1], folders[1])
    part = [Member(c, f, should_stop=after(2)) for c, f in zip(members, folders, strict=True)]
    ends = train_pack(part)
    assert [(end.status, end.step) for end in ends if isinstance(end, Result)] == [
        ("interrupted", 5), ("done", 8), ("interrupted", 2),
    ]  # fmt: skip
    assert isinstance(train_pack(part[:1])[0], Result)  # 7 steps
    train(members[2], folders[2], should_stop=after(3))  # 5 steps
    pack(members, tmp_path)
    for i, c in enumerate(members):
        train(c, tmp_path / f"alone-{i}")
        assert state(folders[i])["step"] == 8
        assert furthest(state(folders[i]), state(tmp_path / f"alone-{i}")) < 1e-10
        sizes = [(f / "checkpoint.pt").stat().st_size for f in (folders[i], tmp_path / f"alone-{i}")]
        assert sizes[0] == pytest.approx(sizes[1], rel=0.05)  # nothing of the others is inside


def test_an_interrupt_ends_all_members(tmp_path: Path) -> None:
    def interrupt() -> bool:
        raise KeyboardInterrupt

    members = [Member(config(seed=1), tmp_path / "a"), Member(config(seed=2), tmp_path / "b", should_stop=interrupt)]
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        train_pack(members)
    assert threading.active_count() == before


@pytest.mark.parametrize("moment", ["before", "after"])
def test_an_interrupt_while_turns_change_ends_all_members(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Ctrl-C comes just as a turn is about to be given, or when it has just come back."""
    give, turns = lockstep.Turn.give, iter(range(1000))

    def late(*nothing: object) -> None:
        raise AssertionError("the pack hangs")

    def interrupted(self: lockstep.Turn, players: Any) -> None:
        now = next(turns) == 9
        if now and moment == "before":
            os.kill(os.getpid(), signal.SIGINT)
        give(self, players)
        if now and moment == "after":
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(lockstep.Turn, "give", interrupted)
    before, alarm = threading.active_count(), signal.signal(signal.SIGALRM, late)
    signal.alarm(30)
    try:
        with pytest.raises(KeyboardInterrupt):
            pack([config(seed=seed, steps=10**6) for seed in (1, 2)], tmp_path)
        assert threading.active_count() == before
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, alarm)


def test_a_network_that_cannot_be_stacked_works_in_turn(tmp_path: Path, joint: list[tuple[str, str, int]]) -> None:
    unet = {"name": "unet", "model_channels": 8, "channel_mult": [1], "blocks": 1, "attention": [], "dropout": 0.1}
    members = [config("meanflow", unet, steps=2, seed=seed) for seed in (0, 1)]
    assert apart(members, tmp_path) < 1e-4
    assert not joint


def test_seconds_of_the_process_are_shared_by_those_who_live(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(lockstep.time, "process_time", lambda: now[0])
    shares = lockstep.Shares()
    shares.among(2)
    now[0] = 6.0
    shares.among(1)
    now[0] = 8.0
    assert shares.seconds() == 6 / 2 + 2


def test_the_pack_key_is_that_of_the_shapes() -> None:
    base = config()
    for same in (config("scd", seed=5), config(train__lr=1.0), config(steps=99), config(eval__samples=99)):
        assert pack_key(same) == pack_key(base)
    esc, wide = config("esc"), config(architecture={**MLP, "width": 13})
    keys = [pack_key(c) for c in (base, esc, wide, config(train__batch_size=27), config(train__precision="bf16"))]
    assert len(set(keys)) == 5
    assert pack_key(config(architecture={"name": "unet"})) is None
