"""Post-hoc averages (arXiv 2312.02696): closed forms, the recursion, reconstruction, snapshots that survive kills."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch import nn
from torch.testing import assert_close

from ablate_core import checkpoint
from ablate_core.checkpoint import SNAPSHOTS, load_checkpoint, load_snapshot, training_id
from ablate_core.config import EvalConfig, PostHocEMA, TrainConfig, TrialConfig
from ablate_core.evaluation import evaluate_checkpoint, post_hoc_weights
from ablate_core.fid import MetricError
from ablate_core.legality import check
from ablate_core.posthoc_ema import (
    MOST_MISFIT,
    PowerEMA,
    gamma_of,
    inner_product,
    misfit,
    recipe,
    reconstruct,
    share_of_new,
    sigma_rel_of,
    snapshot_steps,
    stored_averages,
)
from ablate_core.trainer import train

KEPT = (0.05, 0.10)


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint.os, "fsync", lambda handle: None)


def profile(t: float, gamma: float) -> Callable[[float], float]:
    """The continuous profile, written in a way that does not overflow."""
    return lambda tau: (gamma + 1) / t * (tau / t) ** gamma if tau <= t else 0.0


# -- closed forms


@pytest.mark.parametrize(("sigma_rel", "gamma"), [(0.05, 16.97), (0.10, 6.94)])
def test_the_exponents_printed_in_the_paper(sigma_rel: float, gamma: float) -> None:
    assert abs(gamma_of(sigma_rel) - gamma) < 0.005


@pytest.mark.parametrize("sigma_rel", [0.005, 0.05, 0.1, 0.2, 0.28])
def test_sigma_rel_is_the_standard_deviation_of_the_profile(sigma_rel: float) -> None:
    gamma, t = gamma_of(sigma_rel), 700.0
    assert math.isclose(sigma_rel_of(gamma), sigma_rel, rel_tol=1e-10)
    p, inside = profile(t, gamma), {"points": [0.9 * t], "epsabs": 0, "epsrel": 1e-11}
    mean = quad(lambda tau: tau * p(tau), 0, t, **inside)[0]
    variance = quad(lambda tau: (tau - mean) ** 2 * p(tau), 0, t, **inside)[0]
    assert math.isclose(quad(p, 0, t, **inside)[0], 1, rel_tol=1e-9)
    assert math.isclose(math.sqrt(variance) / t, sigma_rel, rel_tol=1e-8)


@pytest.mark.parametrize("wrong", [0.0, -0.1, 0.3])
def test_a_length_out_of_range_is_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match="sigma_rel is above 0 and at most"):
        gamma_of(wrong)


@pytest.mark.parametrize(
    ("t_a", "sigma_a", "t_b", "sigma_b"),
    [(100, 0.05, 100, 0.1), (60, 0.05, 100, 0.1), (100, 0.1, 60, 0.05), (7, 0.28, 100, 0.02), (100, 0.2, 100, 0.2)],
)
def test_inner_products_agree_with_numerical_integration(t_a: int, sigma_a: float, t_b: int, sigma_b: float) -> None:
    a, b = gamma_of(sigma_a), gamma_of(sigma_b)
    pa, pb, end = profile(t_a, a), profile(t_b, b), min(t_a, t_b)
    expected = quad(lambda tau: pa(tau) * pb(tau), 0, end, points=[0.9 * end], epsabs=0, epsrel=1e-11)[0]
    assert math.isclose(float(inner_product(t_a, a, t_b, b)), expected, rel_tol=1e-9)


def test_inner_products_do_not_overflow_at_long_trainings() -> None:
    g = gamma_of(0.01)
    found = inner_product([600_000, 5_000], g, [5_000, 600_000], g)
    assert np.isfinite(found).all()
    assert math.isclose(found[0], found[1], rel_tol=1e-12)


# -- the recursion


class Weights(nn.Module):
    def __init__(self, start: float = 0.0, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.full((3,), start, dtype=dtype))


def tracked(trajectory: torch.Tensor, sigmas: tuple[float, ...], every: int) -> dict[int, dict[str, Any]]:
    """The averages over `trajectory` (steps, 3), as they stood at each of its snapshot steps."""
    net = Weights(start=1e6, dtype=trajectory.dtype)  # an initialisation that would show if it were remembered
    ema, found = PowerEMA(net, sigmas), {}
    for step, weights in enumerate(trajectory, start=1):
        with torch.no_grad():
            net.w.copy_(weights)
        ema.update(step)
        if step in snapshot_steps(len(trajectory), every):
            found[step] = {s: {n: t.clone() for n, t in average.items()} for s, average in ema.state_dict().items()}
    return found


def wandering(steps: int, seed: int = 0) -> torch.Tensor:
    """A random walk that slows down, around a curve: (steps, 3) float64."""
    generator = torch.Generator().manual_seed(seed)
    walk = torch.randn(steps, 3, generator=generator, dtype=torch.float64).cumsum(0) / steps**0.5
    t = torch.linspace(0, 1, steps, dtype=torch.float64)[:, None]
    return walk + torch.cat([5 * t, torch.exp(-4 * t), torch.sin(7 * t)], 1)


@pytest.mark.parametrize("sigma_rel", [0.03, 0.05, 0.1, 0.25])
def test_the_running_update_is_the_explicit_weighted_sum(sigma_rel: float) -> None:
    """Step s ends with the weight (s^(g+1) - (s-1)^(g+1)) / t^(g+1): the profile integrated over [s - 1, s]."""
    trajectory, power = wandering(60), gamma_of(sigma_rel) + 1
    s = torch.arange(1, 61, dtype=torch.float64)
    shares = (s / 60) ** power - ((s - 1) / 60) ** power
    assert math.isclose(float(shares.sum()), 1, rel_tol=1e-12)
    expected = (shares[:, None] * trajectory).sum(0)
    assert_close(tracked(trajectory, (sigma_rel,), 60)[60][repr(sigma_rel)]["w"], expected, rtol=1e-11, atol=1e-11)


def test_the_share_of_new_weights_is_exact_where_it_is_small() -> None:
    gamma, step = gamma_of(0.1), 10**7
    assert math.isclose(share_of_new(gamma, step), (gamma + 1) / step, rel_tol=1e-6)
    assert share_of_new(gamma, 1) == 1


# -- reconstruction


def rebuilt(stored: dict[int, dict[str, Any]], sigma_rel: float, every: int, kept: tuple[float, ...] = KEPT) -> Any:
    return reconstruct(sigma_rel, max(stored), every, kept, stored.__getitem__)["w"]


@pytest.mark.parametrize("sigma_rel", KEPT)
def test_a_stored_average_comes_back_exactly(sigma_rel: float) -> None:
    stored = tracked(wandering(400).float(), KEPT, 50)
    found = rebuilt(stored, sigma_rel, 50)
    assert torch.equal(found, stored[400][repr(sigma_rel)]["w"])
    coefficients = recipe(stored_averages(400, 50, KEPT), 400, sigma_rel).coefficients
    assert_close(torch.tensor(coefficients[-2:]), torch.eye(2).double()[KEPT.index(sigma_rel)], rtol=0, atol=1e-7)
    assert np.abs(coefficients[:-2]).max() < 1e-7, "and the equations agree: all of it from that average"


@pytest.mark.parametrize("sigma_rel", [0.03, 0.07, 0.13, 0.15, 0.2, 0.25])
def test_an_unseen_length_agrees_with_the_average_that_was_tracked(sigma_rel: float) -> None:
    """Within a tenth of how far the nearest stored average is off, and within the bound that its misfit gives."""
    steps, every = 1600, 100
    trajectory = wandering(steps)
    direct = tracked(trajectory, (sigma_rel,), steps)[steps][repr(sigma_rel)]["w"]
    stored = tracked(trajectory, KEPT, every)
    off = (rebuilt(stored, sigma_rel, every) - direct).abs()
    nearest = min((stored[steps][repr(s)]["w"] - direct).abs().max() for s in KEPT)
    assert off.max() < 0.1 * nearest
    # |integral (p - q) w| <= |p - q| |w - c| for any constant c, since both profiles integrate to 1
    norm = math.sqrt(float(inner_product(steps, gamma_of(sigma_rel), steps, gamma_of(sigma_rel))))
    fluctuation = (trajectory - direct).square().sum(0).sqrt()
    assert (off <= misfit(sigma_rel, steps, every, KEPT) * norm * fluctuation + 1e-9).all()


def test_weights_that_stand_still_are_reproduced_exactly_however_bad_the_fit() -> None:
    found = recipe(stored_averages(1000, 250, KEPT), 1000, 0.25)
    assert found.misfit > MOST_MISFIT
    assert math.isclose(found.coefficients.sum(), 1, rel_tol=1e-12)


def test_a_misfit_is_the_distance_of_the_profiles() -> None:
    steps, every, sigma_rel = 200, 50, 0.15
    found, gamma = recipe(stored_averages(steps, every, KEPT), steps, sigma_rel), gamma_of(sigma_rel)
    parts = [
        (c, profile(t, gamma_of(s)))
        for c, (t, s) in zip(found.coefficients, stored_averages(steps, every, KEPT), strict=True)
    ]
    wanted = profile(steps, gamma)
    edges = {"points": snapshot_steps(steps, every)[:-1], "limit": 400, "epsrel": 1e-9}
    distance = quad(lambda t: (wanted(t) - sum(c * p(t) for c, p in parts)) ** 2, 0, steps, **edges)[0]
    norm = quad(lambda t: wanted(t) ** 2, 0, steps, **edges)[0]
    assert math.isclose(found.misfit, math.sqrt(distance / norm), rel_tol=1e-5)


def test_no_other_combination_is_nearer() -> None:
    stored, step, sigma_rel = stored_averages(300, 60, KEPT), 300, 0.2
    times, gammas = np.array([t for t, _ in stored], float), np.array([gamma_of(s) for _, s in stored])
    gram = inner_product(times[:, None], gammas[:, None], times, gammas)
    wanted = inner_product(times, gammas, step, gamma_of(sigma_rel))
    best = recipe(stored, step, sigma_rel).coefficients
    rng = np.random.default_rng(0)
    for _ in range(50):
        change = rng.normal(size=len(best)) * 0.01
        other = best + change - change.mean()  # still sums to 1
        assert other @ gram @ other - 2 * wanted @ other > best @ gram @ best - 2 * wanted @ best


def test_more_snapshots_describe_more_lengths() -> None:
    finer = [misfit(0.25, 1600, 1600 // n, KEPT) for n in (2, 4, 8, 16, 32)]
    assert finer == sorted(finer, reverse=True)
    assert all(misfit(s, 1600, 100, KEPT) < MOST_MISFIT for s in (0.025, 0.25)), "what TrainConfig.snapshot_every says"
    assert misfit(0.1, 1600, 1600, KEPT) == 0


def test_a_length_that_the_snapshots_cannot_describe_is_refused_in_one_line() -> None:
    stored = tracked(wandering(400), KEPT, 200)
    with pytest.raises(
        ValueError, match=r"4 stored averages describe sigma_rel 0\.25 only within \d+%, not within 10%"
    ):
        rebuilt(stored, 0.25, 200)


# -- in a trial


def trial(**changes: Any) -> TrialConfig:
    fields: dict[str, Any] = {
        "schedule": "linear",
        "objective": "meanflow",
        "architecture": {"name": "mlp", "width": 16, "depth": 2},
        "data": {"name": "gaussians", "size": 400},
        "train": {"steps": 24, "batch_size": 32, "lr": 1e-2, "ema": [0.9], "log_every": 5, "checkpoint_every": 7}
        | {"snapshot_every": 3},
        "eval": {"metric": "energy_distance", "samples": 100, "gallery": 0, "ema": {"sigma_rel": 0.15}},
    }
    for path, value in changes.items():
        section, _, field = path.partition("__")
        fields[section] = {**fields[section], field: value}
    return TrialConfig.model_validate(fields)


def files(folder: Path) -> dict[str, Any]:
    return {p.name: torch.load(p, weights_only=True) for p in sorted((folder / SNAPSHOTS).iterdir())}


def flat(value: Any) -> list[Any]:
    return [x for part in value.values() for x in flat(part)] if isinstance(value, dict) else [value]


def assert_same(a: Any, b: Any) -> None:
    left, right = flat(a), flat(b)
    assert len(left) == len(right)
    for x, y in zip(left, right, strict=True):
        assert torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y


def measured(events: list[dict[str, Any]]) -> list[tuple[int, float, Any]]:
    return [(e["step"], e["value"], e["condition"]["ema"]) for e in events if e["kind"] == "measurement"]


def test_a_trial_is_measured_from_its_post_hoc_average_and_again_later(tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []
    train(trial(eval__every=6), tmp_path, report=events.append)
    found = measured(events)
    assert [(step, ema) for step, _, ema in found] == [(24, {"sigma_rel": 0.15})], "at the end only"
    assert [f"{s:08d}.pt" for s in (3, 6, 9, 12, 15, 18, 21)] == sorted(files(tmp_path)), "the last is the checkpoint's"
    assert measured(evaluate_checkpoint(trial(), tmp_path)) == found
    other = evaluate_checkpoint(trial(eval__ema={"sigma_rel": 0.2}), tmp_path)
    assert other[0]["cond_id"] != events[-1]["cond_id"]
    assert other[0]["value"] != found[0][1]


def test_the_average_of_a_trial_is_the_one_that_would_have_been_tracked(tmp_path: Path) -> None:
    """A training with three tracked lengths has the third as a post-hoc average of the first two."""
    three = trial(train__snapshot_sigma_rel=[0.05, 0.10, 0.15], train__ema=[])
    train(three, tmp_path / "three")
    train(trial(train__ema=[]), tmp_path / "two")
    states = {name: load_checkpoint(tmp_path / name) for name in ("two", "three")}
    assert states["two"] is not None
    assert states["three"] is not None
    direct = states["three"]["power_ema"]["0.15"]
    found = post_hoc_weights(trial(train__ema=[]), PostHocEMA(sigma_rel=0.15), tmp_path / "two", 24,
                             states["two"]["power_ema"])  # fmt: skip
    for name, tensor in direct.items():
        shorter = (states["two"]["power_ema"]["0.1"][name] - tensor).abs().max()
        assert (found[name] - tensor).abs().max() <= 0.1 * shorter + 1e-6, name


def test_keeping_snapshots_changes_no_weight(tmp_path: Path) -> None:
    train(trial(eval__ema=None), tmp_path / "with")
    train(trial(eval__ema=None, train__snapshot_every=0), tmp_path / "without")
    a, b = load_checkpoint(tmp_path / "with"), load_checkpoint(tmp_path / "without")
    assert a is not None
    assert b is not None
    for part in ("net", "ema", "optimizer"):
        assert_same(a[part], b[part])
    assert b["power_ema"] == {}
    assert not (tmp_path / "without" / SNAPSHOTS).exists()


def test_an_interrupted_trial_has_the_same_snapshots_and_value_bit_for_bit(tmp_path: Path) -> None:
    whole: list[dict[str, Any]] = []
    parts: list[dict[str, Any]] = []
    train(trial(), tmp_path / "whole", report=whole.append)

    for stop in (4, 3, 10):
        asked = iter(range(100))
        train(trial(), tmp_path / "parts", should_stop=lambda asked=asked, stop=stop: next(asked) == stop)
    train(trial(), tmp_path / "parts", report=parts.append)
    assert_same(files(tmp_path / "whole"), files(tmp_path / "parts"))
    assert measured(whole) == measured(parts)


def test_a_kill_while_a_snapshot_is_written_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    real = checkpoint.os.replace

    def die_at_15(source: Path, target: Path) -> None:
        if Path(target).name == "00000015.pt":
            raise Killed
        real(source, target)

    monkeypatch.setattr(checkpoint.os, "replace", die_at_15)
    with pytest.raises(Killed):
        train(trial(), tmp_path / "parts")
    monkeypatch.undo()
    monkeypatch.setattr(checkpoint.os, "fsync", lambda handle: None)
    assert sorted(p.name for p in (tmp_path / "parts" / SNAPSHOTS).iterdir())[-1] == "00000012.pt"
    state = load_checkpoint(tmp_path / "parts")
    assert state is not None
    assert state["step"] == 14, "snapshots up to the checkpoint are there, later ones are written again"
    train(trial(), tmp_path / "parts")
    train(trial(), tmp_path / "whole")
    assert_same(files(tmp_path / "whole"), files(tmp_path / "parts"))


@pytest.mark.parametrize("damage", ["gone", "cut", "other"])
def test_a_snapshot_that_is_missing_or_damaged_is_named_and_never_left_out(tmp_path: Path, damage: str) -> None:
    train(trial(), tmp_path)
    path = tmp_path / SNAPSHOTS / "00000009.pt"
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    else:
        torch.save({**torch.load(path, weights_only=True), "trial": "another"}, path)
    with pytest.raises(MetricError, match=r"00000009\.pt"):
        evaluate_checkpoint(trial(), tmp_path)
    evaluate_checkpoint(trial(eval__ema=0.9), tmp_path)  # the others need none


def test_no_code_is_unpickled_from_a_snapshot(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "ran",))  # type: ignore[return-value]

    (tmp_path / SNAPSHOTS).mkdir()
    torch.save({"averages": Evil()}, tmp_path / SNAPSHOTS / "00000001.pt")
    with pytest.raises(ValueError, match="cannot be read"):
        load_snapshot(tmp_path, 1, "any")
    assert not (tmp_path / "ran").exists()


# -- what may be asked for


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eval__ema": 0.5}, "no average of decay 0.5 is kept; train.ema has 0.9"),
        ({"train__snapshot_every": 0}, "needs snapshots, and this trial keeps none; nearest: train.snapshot_every: 1"),
        (
            {"train__snapshot_every": 12, "eval__ema": {"sigma_rel": 0.2}},
            "describe sigma_rel 0.2 only within 45%, not within 10%; nearest: train.snapshot_every: 3",
        ),
    ],
)
def test_an_average_that_is_not_kept_is_refused_before_any_training(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    (problem,) = [p for p in check(trial(**changes)) if p.level == "error"]
    assert problem.code == "C29"
    assert message in str(problem)
    with pytest.raises(ValueError, match=r"C29 eval\.ema"):
        train(trial(**changes), tmp_path)
    with pytest.raises(ValueError, match=r"C29 eval\.ema"):
        evaluate_checkpoint(trial(**changes), tmp_path)


@pytest.mark.parametrize("ema", [None, 0, 0.9, {"sigma_rel": 0.15}])
def test_what_is_kept_is_accepted(ema: Any) -> None:
    assert not [p for p in check(trial(eval__ema=ema)) if p.level == "error"]


def test_an_average_reads_back_from_json_as_what_it_was() -> None:
    for written in (None, 0.9, {"sigma_rel": 0.15}):
        config = EvalConfig(ema=written)  # type: ignore[arg-type]
        assert EvalConfig.model_validate_json(config.model_dump_json()) == config
    with pytest.raises(ValueError, match=r"less than or equal to 0\.28"):
        EvalConfig(ema={"sigma_rel": 0.4})  # type: ignore[arg-type]


def test_tracked_lengths_are_distinct_in_range_and_only_written_where_they_are_used() -> None:
    def lengths(*values: float, every: int = 1) -> tuple[float, ...]:
        config = TrainConfig(steps=1, batch_size=1, snapshot_every=every, snapshot_sigma_rel=values)
        return config.snapshot_sigma_rel

    assert lengths(0.2, 0.05) == (0.05, 0.2)
    for wrong in ((0.1, 0.1), (0.4,), (0.0,)):
        with pytest.raises(ValueError, match="lengths are distinct"):
            lengths(*wrong)
    with pytest.raises(ValueError, match=r"nothing is tracked without train\.snapshot_every"):
        lengths(0.2, every=0)


def test_checkpoints_of_trials_without_snapshots_are_still_theirs() -> None:
    """The fields that were added are outside the id at their neutral values; pinned from before they existed."""
    old = {
        "schedule": "linear", "objective": {"name": "meanflow", "label_dropout": 0.1},
        "architecture": {"name": "sit", "size": "tiny/2"}, "data": "digits",
        "train": {"steps": 100, "batch_size": 64, "lr": 0.001, "ema": [0.99]},
        "eval": {"metric": "fd_digits", "samples": 100},
    }  # fmt: skip
    assert training_id(TrialConfig.model_validate(old)) == "38dfc2490fec"
    assert training_id(trial()) != training_id(trial(train__snapshot_every=4))
