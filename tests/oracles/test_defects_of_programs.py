"""Defects of public training programs (design-space 5): commands, data, networks, sampling, evaluation."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden_cases import GoldenNetwork, random_network
from partial_trials import partial_trial
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from ablate.space import expand, space_from_text
from ablate_core.architectures import Architecture
from ablate_core.architectures.embeddings import TimeEmbedder, sinusoid
from ablate_core.architectures.pairs import Pair, attention
from ablate_core.batching import Batching
from ablate_core.checkpoint import load_checkpoint
from ablate_core.config import EvalConfig, TrialConfig
from ablate_core.datasets.latents import Latents
from ablate_core.ema import EMA
from ablate_core.fid.frechet import frechet_from_features
from ablate_core.legality import check, check_data_std
from ablate_core.methods import METHODS
from ablate_core.objective import Batch, Objective
from ablate_core.random import Draws, generator
from ablate_core.sampling import sample
from ablate_core.schedules import Schedule
from ablate_core.target_networks.ct_adaptive import CtAdaptive
from ablate_core.time_samplers import TimeSampler
from ablate_core.time_samplers.esc_gradual import EscGradual
from ablate_core.time_samplers.noise_grid import ct_scale
from ablate_core.trainer import train

ROOT = Path(__file__).parents[2]
LINEAR = Schedule.model_validate("linear")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def batch(n: int = 64) -> Batch:
    return Batch(0.5 * normal(n, 4), torch.arange(n) % 5, 5)


def draws(step: int = 0) -> Draws:
    return Draws(0, step, dtype=torch.float64)


def trial(objective: Any = "meanflow", **train: Any) -> dict[str, Any]:
    return {
        "schedule": "linear",
        "objective": objective,
        "architecture": {"name": "mlp", "width": 8, "depth": 1},
        "data": {"name": "gaussians", "size": 200},
        "train": {"steps": 3, "batch_size": 32, "lr": 1e-3, **train},
        "eval": {"metric": "energy_distance", "samples": 50, "gallery": 0},
    }


# --- commands and construction ---


def test_d3_the_objective_has_no_default() -> None:
    fields = trial()
    del fields["objective"]
    with pytest.raises(ValidationError, match="objective"):
        TrialConfig.model_validate(fields)
    with pytest.raises(ValueError, match="written as its name"):
        Objective.model_validate({})


def test_d4_settings_of_a_row_reach_its_loss() -> None:
    losses = {}
    for scale, dropout in ((1.0, 0.1), (4.0, 0.1), (1.0, 0.9)):
        settings = {"name": "scd", "guidance": {"name": "bootstrap", "scale": scale}, "label_dropout": dropout}
        own, net = Objective.model_validate(settings), random_network((4,))
        losses[scale, dropout] = own.loss(net, net, LINEAR, batch(), draws(), 0, 1).per_sample.detach()
    one, guided, dropped = losses.values()
    assert not torch.allclose(one[:16], guided[:16])  # in the reference the scale is always 1
    assert not torch.allclose(one[16:], dropped[16:])


def test_d5_a_ramp_of_no_steps_is_off() -> None:
    def ratio(step: int, steps: int) -> float:
        return min(1.0, step / steps)

    with pytest.raises(ZeroDivisionError):
        ratio(3, 0)
    for name in ("sct", "sct_linear", "esc"):
        settings: dict[str, Any] = {"name": name, "tangent": {"warmup_steps": 0}}
        if name == "esc":
            settings["time_sampler"] = {"zero_steps": 0}
        own, net = Objective.model_validate(settings), random_network((4,))
        assert bool(torch.isfinite(own.loss(net, net, LINEAR, batch(), draws(), 0, 1).per_sample).all())
    assert EscGradual(zero_steps=0).p_zero(0) == 0.0


@pytest.mark.parametrize("name", METHODS)
def test_d5b_a_row_is_consistent_with_its_own_times(name: str) -> None:
    problems = check(partial_trial(name, METHODS[name].path))
    assert [problem for problem in problems if problem.level == "error"] == []


def test_d5c_batches_need_not_be_of_one_class() -> None:
    for rule, y in (("iid", None), ("iid", torch.arange(40) % 4), ("class_consistent", torch.arange(40) % 4)):
        order = Batching.model_validate(rule).epoch(40, y, 8, generator(0, "data", 0))
        assert order.shape[1] == 8


@pytest.mark.parametrize("path", sorted(Schedule.choices))
def test_d5d_esc_has_every_path_in_unit_time_and_says_early_where_it_has_none(path: str) -> None:
    schedule = Schedule.model_validate(path)
    errors = [problem.code for problem in check(partial_trial("esc", path)) if problem.level == "error"]
    assert errors == ([] if schedule.unit_time else ["C17"])
    if not errors:
        own, net = Objective.model_validate("esc"), random_network((4,))
        assert bool(torch.isfinite(own.loss(net, net, schedule, batch(), draws(), 0, 1).per_sample).all())


def test_d5e_the_number_of_steps_is_the_one_that_was_asked_for(tmp_path: Path) -> None:
    text = "base: {objective: fm}\naxes: {schedule: [linear, cosine01]}\n"
    plan = expand(space_from_text(text, overrides=["train.steps=7"]))
    assert {t.config.train.steps for t in plan.trials} == {7}
    events: list[dict[str, Any]] = []
    result = train(TrialConfig.model_validate(trial(steps=7)), tmp_path, report=events.append)
    assert (result.status, result.step) == ("done", 7)
    stored = load_checkpoint(tmp_path)  # on one process, without a wrapper to unwrap
    assert stored is not None
    assert stored["step"] == 7
    assert any("grad_norm" in event["values"] for event in events if event["kind"] == "scalar")


# --- data and batches ---


def test_d11_a_class_is_refilled_in_time_shuffled_and_shown_whole() -> None:
    queue, taken = list(range(1250)), []

    def forty_batches() -> None:
        """Refilled below 32 instead of below the batch, popped from the end, never shuffled."""
        for _ in range(40):
            if len(queue) < 32:
                queue[:] = range(1250)
            taken.append([queue.pop() for _ in range(64)])

    with pytest.raises(IndexError):
        forty_batches()
    assert len(taken) == 19
    y, seen, orders = torch.zeros(1250, dtype=torch.int64), set(), []
    for number in range(40):
        order = Batching.model_validate("class_consistent").epoch(1250, y, 64, generator(0, "data", number))
        assert order.shape == (19, 64)
        seen |= set(order.flatten().tolist())
        orders.append(order)
    assert seen == set(range(1250))
    assert not torch.equal(orders[0], orders[1])


def test_d12_noise_levels_are_mapped_to_the_linear_path_by_equal_log_snr() -> None:
    n = 1281
    index = torch.arange(n - 1, dtype=torch.float64)
    low, high = 0.002 ** (1 / 7), 80.0 ** (1 / 7)
    twice = (high + index / (n - 1) / (n - 1) * (low - high)) ** 7
    t = torch.sigmoid(torch.log(twice / 80.0))
    assert 0.4989 < float(t.min())
    assert float(t.max()) <= 0.5  # sampling starts at t = 1
    own = TimeSampler.model_validate({"name": "ct_progressive", "s0": n - 1, "s1": n - 1})
    at = own.sample(40_000, draws(), schedule=LINEAR, noise_std=1.0, step=0, total_steps=1)
    assert float(at.t.max()) == pytest.approx(80 / 81, rel=1e-9)
    assert float(at.s.min()) == pytest.approx(0.002 / 1.002, rel=1e-9)


def test_d15_latents_have_the_published_scale_and_sigma_data_is_compared_with_the_data() -> None:
    assert Latents(path="x").scale == 0.18215
    own = Objective.model_validate({"name": "imm", "parameterization": {"sigma_data": 0.5}})
    problem = check_data_std(own, 1.0)
    assert problem is not None
    assert (problem.code, problem.level) == ("C25", "error")
    assert check_data_std(own, 0.5) is None


# --- networks ---


def test_d22_times_keep_their_precision_so_that_differences_agree_with_derivatives() -> None:
    torch.manual_seed(0)
    embedder = TimeEmbedder(16).double()
    for p in embedder.parameters():
        nn.init.normal_(p, std=0.4)

    def rounded(t: Tensor) -> Tensor:
        out: Tensor = embedder.outer(F.silu(embedder.inner(sinusoid(t.float()).double())))
        return out

    embedder.requires_grad_(False)
    t, one = torch.linspace(0.1, 0.9, 8, dtype=torch.float64), torch.ones(8, dtype=torch.float64)
    _, exact = torch.func.jvp(embedder, (t,), (one,))

    def error(f: Any, h: float) -> float:
        return float(((f(t + h) - f(t - h)) / (2 * h) - exact).norm() / exact.norm())

    assert error(embedder, 1e-5) < 1e-9
    assert error(rounded, 1e-5) > 1e-5
    assert error(rounded, 1e-3) > 1e-6


@pytest.mark.oracle("O5")
@pytest.mark.proves("architecture:{name}")
@pytest.mark.parametrize("name", ["mlp", "sit", "unet"])
def test_d22_whole_networks_agree_with_differences(name: str) -> None:
    torch.manual_seed(0)
    small: dict[str, dict[str, Any]] = {
        "mlp": {"width": 8},
        "sit": {"size": "tiny/4", "depth": 1},
        "unet": {"model_channels": 8, "channel_mult": [1, 1], "blocks": 1, "attention": [4]},
    }
    net = Architecture.model_validate({"name": name, **small[name]}).build((1, 8, 8), 5).double()
    for p in net.parameters():
        nn.init.normal_(p, std=0.1)
    net.eval()
    t, x, dx = torch.linspace(0.2, 0.9, 4, dtype=torch.float64), normal(4, 1, 8, 8), normal(4, 1, 8, 8, seed=1)
    r, y, one, h = 0.3 * t, torch.arange(4), torch.ones(4, dtype=torch.float64), 1e-5
    with torch.no_grad():
        _, slope = net.forward_and_tangent(x, r, t, y, dx, one)
        difference = (net(x + h * dx, r, t + h, y) - net(x - h * dx, r, t - h, y)) / (2 * h)
    assert float((difference - slope).norm() / slope.norm()) < 1e-7


def test_d23_the_shape_of_the_ramp_is_a_setting() -> None:
    halfway = {
        shape: EscGradual(zero_steps=1000, shape=shape).p_zero(500) for shape in ("arccos", "cosine", "half_cosine")
    }
    assert halfway == pytest.approx({"arccos": 2 / 3, "cosine": math.cos(math.pi / 4), "half_cosine": 0.5})
    assert EscGradual().shape == "arccos"


def test_d24_averages_have_the_buffers_of_the_network() -> None:
    net = nn.BatchNorm1d(2)
    average = EMA(net, (0.9,))
    net(torch.tensor([[1.0, 2.0], [3.0, 5.0]]))
    average.update()
    assert torch.equal(average.weights(0.9)["running_mean"], net.running_mean)  # type: ignore[arg-type]
    only = dict(average.weights(0.9)).keys() & dict(net.named_parameters()).keys()
    assert "running_mean" not in only  # an average of parameters alone has none


def test_d25_attention_blocks_and_interpolation_are_those_of_the_papers() -> None:
    q, k, v = (normal(2, 3, 5, 8, seed=seed) for seed in range(3))
    ours = attention(Pair(q), Pair(k), Pair(v), fused=False).value
    assert_close(ours, F.scaled_dot_product_attention(q, k, v), rtol=1e-12, atol=1e-13)
    by_d = (q @ k.transpose(-2, -1) / 8).softmax(-1) @ v
    assert not torch.allclose(ours, by_d)
    net = Architecture.model_validate({"name": "sit", "size": "tiny/4"}).build((1, 8, 8), 5)
    last = [
        m
        for name, m in net.named_modules()
        if name.endswith("modulation")
        for m in m.modules()
        if isinstance(m, nn.Linear)
    ]
    assert last
    assert all(not bool(m.weight.any()) and not bool(m.bias.any()) for m in last)
    x0, noise, one = normal(3, 2), normal(3, 2, seed=1), torch.ones(3, dtype=torch.float64)
    assert torch.equal(LINEAR.interpolate(x0, noise, one)[0], noise)  # not 1e-5 of the data left in it


SECRET = re.compile(
    r"(AKIA[0-9A-Z]{16}|ghp_[0-9A-Za-z]{30}|hf_[0-9A-Za-z]{30}|sk-[0-9A-Za-z]{30}|-----BEGIN [A-Z ]*PRIVATE KEY"
    r"|(?i:api_?key|token|secret|password|login)[\"']?\s*[=:(]\s*[\"'][0-9A-Za-z+/_-]{20,}[\"'])"
)


def test_d27_no_file_holds_a_credential() -> None:
    key = "a1b2c3d4e5" * 4
    for line in (f'API_KEY = "{key}"', f"login('{key}')", f"token: '{key}'", f"hf_{key}"):
        assert SECRET.search(line)
    kinds, found = {".py", ".yaml", ".yml", ".toml", ".md", ".sh", ".sbatch", ".json", ".sql", ".js", ".j2", ""}, []
    for folder in ("ablate", "core", "reports", "spaces", "docs", "docker", "benchmarks", "tests", ".ci"):
        for file in (ROOT / folder).rglob("*"):
            if file.is_file() and file.suffix in kinds and file != Path(__file__):
                found += [
                    f"{file.relative_to(ROOT)}"
                    for _ in SECRET.finditer(file.read_text(encoding="utf-8", errors="ignore"))
                ]
    assert found == []


def test_d30_noise_levels_below_1_look_different_to_the_network() -> None:
    sigma = torch.tensor([0.002, 0.01, 0.1, 1.0], dtype=torch.float64)
    told = Schedule.model_validate("ve").network_time(sigma)
    assert_close(told, sigma.log() / 4, rtol=1e-12, atol=1e-13)
    assert float(told.diff().min()) > 0.3
    assert float((sigma / 80).diff().max()) < 0.012  # sigma / sigma_max under frequencies of at most 1


# --- sampling and evaluation ---


def test_n1_guided_samples_do_not_depend_on_the_batch() -> None:
    own, net = Objective.model_validate({"name": "sct", "parameterization": {"sigma_data": 0.5}}), random_network((4,))
    weights = {name: p.detach().float() for name, p in net.named_parameters()}
    scale, doubled = torch.ones(4, 1), torch.zeros(8, 4)
    with pytest.raises(RuntimeError, match="size"):  # c_in of the batch against the doubled batch
        scale * doubled
    schedule, sets = Schedule.model_validate("cosine01"), []
    for size in (1, 4, 8):
        how = EvalConfig(metric="energy_distance", guidance=2.0, batch_size=size)
        sets.append(sample(own, schedule, GoldenNetwork(weights), 8, (4,), how, num_classes=5))
    assert_close(sets[0], sets[1], rtol=1e-5, atol=1e-6)
    assert_close(sets[0], sets[2], rtol=1e-5, atol=1e-6)


@pytest.mark.oracle("O20")
@pytest.mark.proves("target_network:ct_adaptive")
def test_n3_the_target_decay_uses_the_number_of_intervals() -> None:
    own = CtAdaptive(mu0=0.9, s0=2, s1=150)
    table = {0: 0.81, 1000: 0.95873, 100_000: 0.99603, 800_000: 0.9986}
    for step, decay in table.items():
        assert own.decay(step, 800_000) == pytest.approx(decay, abs=5e-6 if step < 800_000 else 5e-5)
    after = math.exp(2 * math.log(0.9) / (ct_scale(0, 800_000, 2, 150) + 1))
    assert after == pytest.approx(0.9)  # with N after its + 1, as one reference has it


def exact(a: np.ndarray, b: np.ndarray) -> float:
    """|m1 - m2|^2 + tr C1 + tr C2 - 2 |A1 A2^T|_*."""
    one, two = ((x - x.mean(0)) / math.sqrt(len(x) - 1) for x in (a, b))
    nuclear = np.linalg.svd(one @ two.T, compute_uv=False).sum()
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + (one**2).sum() + (two**2).sum() - 2 * nuclear)


def test_n4_with_fewer_samples_than_dimensions_the_distance_is_exact() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(40, 200)), 0.5 + 0.8 * rng.normal(size=(30, 200))
    assert frechet_from_features(a, b) == pytest.approx(exact(a, b), rel=1e-10)


def test_n5_no_matrix_square_root_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    import scipy.linalg

    def gone(*_: Any, **__: Any) -> None:
        raise AssertionError("sqrtm is called")

    monkeypatch.setattr(scipy.linalg, "sqrtm", gone)
    rng = np.random.default_rng(0)
    for n in (40, 400):
        a, b = rng.normal(size=(n, 60)), 0.5 + 0.8 * rng.normal(size=(n, 60))
        assert frechet_from_features(a, b) == pytest.approx(exact(a, b), rel=1e-8)
    texts = {file.name: file.read_text(encoding="utf-8") for file in (ROOT / "core" / "ablate_core").rglob("*.py")}
    assert sum(text.count("sqrtm(") for text in texts.values()) == 1  # the slow form that tests compare with
    assert [name for name, text in texts.items() if "frechet_by_square_root" in text] == ["frechet.py"]
