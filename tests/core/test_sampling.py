"""What few-step samplers ask of a network, the noise they draw, their times and the condition of a measurement."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from golden_cases import random_network
from torch import Tensor
from torch.testing import assert_close

from ablate_core.architectures.base import Network
from ablate_core.config import EvalConfig, TrialConfig
from ablate_core.evaluation import condition, network_samples
from ablate_core.flow_map import FlowMap
from ablate_core.objective import Objective
from ablate_core.preparation import build_network
from ablate_core.sampling import (
    GuidedNetwork,
    sample,
    sample_labels,
    sample_noise,
)
from ablate_core.sampling_steps import resolve_sampler, sampling_condition, step_times
from ablate_core.schedules import Schedule

LINEAR = Schedule.model_validate("linear")
PATHS = sorted(Schedule.choices)
CLOSE = {"rtol": 1e-10, "atol": 1e-12}


def path(name: str) -> Schedule:
    return Schedule.model_validate(name)


def how(**fields: Any) -> EvalConfig:
    return EvalConfig.model_validate(fields)


# -- what the network is asked -----------------------------------------------------------------------------------


class Seen(Network):
    """Remembers what it was asked, and returns a number that depends on all of it."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[tuple[float, float]] = []
        self.rows: list[int] = []
        self.told: list[Tensor | None] = []
        self.stds: list[float] = []

    def forward(self, x: Tensor, r: Tensor, t: Tensor, y: Tensor | None, g: Tensor | None = None) -> Tensor:
        self.times.append((round(float(t[0]), 4), round(float(r[0]), 4)))
        self.rows.append(len(x))
        self.told.append(g)
        self.stds.append(float(x.std()))
        return torch.sin(x) + (0 if y is None else y.reshape(-1, *[1] * (x.ndim - 1)) / 7)


def asked(objective: Any, **fields: Any) -> list[tuple[float, float]]:
    net = Seen()
    sample(Objective.model_validate(objective), LINEAR, net, 4, (2,), how(**fields))
    return net.times


def test_each_method_is_sampled_as_it_was_trained() -> None:
    assert asked("meanflow", nfe=2) == [(1, 0.5), (0.5, 0)]
    assert asked("fm", nfe=2) == [(1, 1), (0.5, 0.5)], "flow matching learned the velocity only"
    assert asked("sct_linear", nfe=2) == [(1, 0), (0.5, 0)], "landing at 0 only: restart"
    assert asked("meanflow", nfe=2, sampler="restart") == [(1, 0), (0.5, 0)]
    assert asked("imm", nfe=1) == [(0.994, 0)]
    short = {"name": "imm", "time_sampler": {"t_min": 0.006}}
    assert asked(short, nfe=2) == [(0.994, 0.5), (0.5, 0.006)], "nothing was trained to land below t_min"
    assert asked(short, nfe=2, sampler="restart") == [(0.994, 0.006), (0.5, 0.006)]


def test_what_the_new_samplers_ask() -> None:
    assert asked("meanflow", nfe=2, sampler="gamma", gamma=0.6) == [(1, 0.4), (0.5, 0)]
    assert asked("meanflow", nfe=2, sampler="euler") == [(1, 1), (0.5, 0.5)]
    assert asked("meanflow", nfe=1, sampler="euler") == [(1, 1)]
    assert asked("meanflow", nfe=3, sampler="heun") == [(1, 1), (0.5, 0.5), (0.5, 0.5)]
    assert asked("meanflow", nfe=1, sampler="heun") == [(1, 1)]


def test_a_velocity_head_is_what_is_integrated() -> None:
    objective = Objective.model_validate({"name": "meanflow", "parameterization": "uv_dual"})
    net = random_network((2,), heads=2, dtype=torch.float32)
    x = sample_noise(0, 0, 4, (2,))
    t = torch.ones(4)
    y = sample_labels(0, 4, 5)
    drawn = sample(objective, LINEAR, net, 4, (2,), how(sampler="euler"), num_classes=5)
    assert_close(drawn, x - net.forward_heads(x, t, t, y)[1])
    guided = sample(objective, LINEAR, net, 4, (2,), how(sampler="euler", guidance=2.0), num_classes=5)
    null, label = (net.forward_heads(x, t, t, labels)[1] for labels in (torch.full((4,), 5), y))
    assert_close(guided, x - (null + 2 * (label - null)))


@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize("sampler", ["auto", "pushforward", "restart", "gamma", "euler", "heun"])
def test_nfe_counts_the_evaluations_of_the_network(sampler: str, guidance: float) -> None:
    for nfe in (1, 3, 7):
        net = Seen()
        settings = how(nfe=nfe, sampler=sampler, guidance=guidance)
        sample(Objective.model_validate("meanflow"), LINEAR, net, 4, (2,), settings, num_classes=3)
        assert len(net.rows) == nfe
        assert set(net.rows) == {4 if guidance == 1 else 8}, "a guided evaluation is one, of twice the rows"


def test_with_one_step_there_is_one_sampler() -> None:
    def kinds(objective: str, nfe: int, *samplers: str) -> set[str]:
        return {resolve_sampler(Objective.model_validate(objective), how(sampler=s, nfe=nfe)) for s in samplers}

    assert kinds("meanflow", 1, "auto", "pushforward", "restart", "gamma") == {"one_step"}
    assert kinds("meanflow", 1, "euler", "heun") == {"euler"}
    assert kinds("meanflow", 2, "auto") == {"pushforward"}
    assert kinds("ct", 2, "auto") == {"restart"}
    assert kinds("fm", 2, "auto") == {"pushforward"}


@pytest.mark.parametrize("name", PATHS)
def test_initial_noise_has_the_standard_deviation_of_the_end_of_the_path(name: str) -> None:
    for row, s0 in (("u", 1.0), ({"name": "v_ddim", "sigma_data": 0.5}, 0.5)):
        objective, net = Objective.model_validate({"name": "meanflow", "parameterization": row}), Seen()
        sample(objective, path(name), net, 4000, (2,), how(batch_size=4000))
        scale = 80 if name == "ve" else 1
        seen = net.stds[0] * (1 if row == "u" else 0.5)  # the network is shown x / sigma_data
        assert seen == pytest.approx(scale * s0, rel=0.03)


def test_d13_a_trial_is_sampled_on_its_own_path_in_its_own_scaling() -> None:
    """The reference evaluates every checkpoint as linear with sigma_data 1, or cosine with 0.5."""
    trial = TrialConfig.model_validate(
        {
            "schedule": "cosine01",
            "objective": {"name": "imm", "parameterization": {"name": "imm_simple_edm", "sigma_data": 0.3}},
            "architecture": "mlp",
            "data": "gaussians",
            "train": {"steps": 1, "batch_size": 8},
            "eval": {"metric": "energy_distance", "samples": 50},
        }
    )
    data = trial.data.load()
    weights = {
        k: v + 0.1 * torch.randn(v.shape, generator=torch.Generator().manual_seed(0))
        for k, v in build_network(trial, data, "cpu").state_dict().items()
    }
    net = build_network(trial, data, "cpu")
    net.load_state_dict(weights)
    (x,) = network_samples(trial, weights, data, "cpu")
    noise = 0.3 * sample_noise(0, 0, 50, data.shape)
    times = torch.full((50,), 0.994)
    y = sample_labels(0, 50, data.num_classes)
    own = FlowMap(net, trial.objective.parameterization, trial.schedule)
    with torch.no_grad():
        assert_close(x, own.jump(noise, 0 * times, times, y))
        other = FlowMap(net, trial.objective.parameterization, LINEAR)
        assert not torch.allclose(x, other.jump(noise, 0 * times, times, y), rtol=1e-2)


# -- noise, labels, guidance -------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["pushforward", "restart", "gamma"])
@pytest.mark.parametrize("batch_size", [1, 50, 64, 200])
def test_batch_size_and_count_change_no_sample(sampler: str, batch_size: int) -> None:
    def draw(count: int, batch: int, first: int = 0) -> Tensor:
        settings = how(nfe=3, sampler=sampler, batch_size=batch, seed=5)
        objective = Objective.model_validate("meanflow")
        return sample(objective, LINEAR, Seen(), count, (1, 2, 2), settings, first=first, num_classes=3)

    whole = draw(150, 150)
    assert_close(draw(150, batch_size), whole)
    assert_close(draw(10, batch_size, first=123), whole[123:133])
    assert not torch.equal(whole[0], whole[64])


def test_noise_depends_on_seed_index_and_level_only() -> None:
    noise = sample_noise(0, 0, 200, (3,))
    assert torch.equal(sample_noise(0, 70, 5, (3,)), noise[70:75])
    assert not torch.equal(sample_noise(1, 0, 200, (3,)), noise)
    assert not torch.equal(sample_noise(0, 0, 200, (3,), level=1), noise)
    assert abs(float(sample_noise(0, 0, 20_000, (3,)).std()) - 1) < 0.01


def test_labels_are_the_classes_in_turn() -> None:
    assert sample_labels(8, 5, 10).tolist() == [8, 9, 0, 1, 2]
    assert sample_labels(0, 5, 0) is None


@pytest.mark.oracle("O19")
def test_guidance_extrapolates_and_1_is_off() -> None:
    net = random_network((2, 4, 4))
    x = torch.randn(5, 2, 4, 4, dtype=torch.float64)
    t, y = torch.full((5,), 0.8, dtype=torch.float64), torch.arange(5)
    null, label = net(x, t, t, torch.full_like(y, 5)), net(x, t, t, y)
    assert_close(GuidedNetwork(net, 2.5, 5)(x, t, t, y), null + 2.5 * (label - null))
    assert_close(GuidedNetwork(net, 1.0, 5)(x, t, t, y), label)
    assert_close(GuidedNetwork(net, 0.0, 5)(x, t, t, y), null)
    with pytest.raises(ValueError, match="guidance needs labelled data"):
        sample(Objective.model_validate("meanflow"), LINEAR, net, 2, (2, 4, 4), how(guidance=2.0))


@pytest.mark.parametrize("name", PATHS)
def test_n1_a_guided_batch_of_many_rows_is_the_rows_one_by_one(name: str) -> None:
    """The reference multiplies the doubled batch by a per-row c_in and fails for more than one row."""
    own = {"name": "edm", "sigma_data": 0.5} if name == "ve" else {"name": "imm_simple_edm", "sigma_data": 0.5}
    objective = Objective.model_validate({"name": "ct", "parameterization": own})
    net, schedule = random_network((2,), dtype=torch.float32), path(name)

    def drawn(batch_size: int, guidance: float = 2.5) -> Tensor:
        settings = how(nfe=2, guidance=guidance, batch_size=batch_size)
        return sample(objective, schedule, net, 7, (2,), settings, num_classes=5)

    assert_close(drawn(7), drawn(1))
    assert not torch.allclose(drawn(7), drawn(7, guidance=1.0), rtol=1e-2)


def guided_rows(name: str, window: list[float], **fields: Any) -> list[bool]:
    net = Seen()
    settings = how(guidance=2.0, guidance_window=window, **fields)
    sample(Objective.model_validate("meanflow"), path(name), net, 4, (2,), settings, num_classes=3)
    return [rows == 8 for rows in net.rows]


def test_guidance_acts_inside_its_window() -> None:
    assert guided_rows("linear", [0.3, 0.6], nfe=4) == [False, False, True, False]
    assert guided_rows("linear", [0.5, 1.0], nfe=2) == [True, True], "both ends are included"
    assert guided_rows("linear", [0.0, 0.6], nfe=3, sampler="heun") == [False, True, True]
    assert guided_rows("trig", [0.3, 0.6], nfe=4) == [False, False, True, False]
    assert guided_rows("ve", [0.4, 1.0], nfe=4) == [True, True, True, False]


def test_a_network_that_is_told_its_guidance_is_told_scale_and_window() -> None:
    net = Seen()
    objective = Objective.model_validate({"name": "meanflow", "guidance": "omega_conditioned"})
    settings = how(guidance=4.0, guidance_window=[0.4, 0.65])
    sample(objective, LINEAR, net, 3, (2,), settings, num_classes=3)
    assert net.rows == [3]
    assert net.told[0] is not None
    assert_close(net.told[0], torch.tensor([[0.75, 0.4, 0.65]]).expand(3, 3))


def test_sampling_leaves_the_network_in_the_mode_it_was_in() -> None:
    net = Seen().train()
    x = sample(Objective.model_validate("meanflow"), LINEAR, net, 3, (2,))
    assert net.training
    assert not x.requires_grad


# -- times and conditions ----------------------------------------------------------------------------------------


def times(name: str = "linear", objective: Any = "meanflow", **fields: Any) -> list[float]:
    return step_times(Objective.model_validate(objective), path(name), how(**fields))


@pytest.mark.parametrize("fields", [{}, {"grid": "edm"}, {"grid": "edm", "rho": 1}, {"shift": 0.3}, {"shift": 5}])
@pytest.mark.parametrize("name", PATHS)
def test_times_fall_from_the_end_of_the_path_to_the_data(name: str, fields: dict[str, Any]) -> None:
    for nfe in (1, 2, 3, 18):
        grid = times(name, nfe=nfe, **fields)
        assert len(grid) == nfe + 1
        assert (grid[0], grid[-1]) == (path(name).end, 0)
        assert all(a > b for a, b in itertools.pairwise(grid))


def test_grids_are_what_they_say() -> None:
    assert times(nfe=4, shift=3.0) == pytest.approx([1, 9 / 10, 3 / 4, 1 / 2, 0])
    assert times("trig", nfe=2, shift=3.0) == pytest.approx([math.pi / 2, 3 / 4 * math.pi / 2, 0])
    assert times(nfe=3, ratios=[1.0, 0.25]) == pytest.approx([1, 0.5, 0.2, 0])
    assert times("cosine01", nfe=2, ratios=[1.0]) == pytest.approx([1, 0.5, 0])
    assert times("ve", nfe=2, ratios=[0.821]) == pytest.approx([80, 0.821, 0])
    for name in PATHS:  # equal noise-to-signal ratios on every path; vp_sqrt starts at 100 instead of 80
        levels = torch.tensor(times(name, nfe=6, grid="edm", rho=3)[1:-1], dtype=torch.float64)
        ratios = path(name).ratio(levels)
        assert float(ratios[-1]) == pytest.approx(0.002)
        assert_close(ratios.pow(1 / 3).diff(), ratios.pow(1 / 3).diff()[:1].expand(4))


def test_a_condition_has_what_changes_samples_and_nothing_else() -> None:
    def of(objective: Any = "meanflow", **fields: Any) -> dict[str, Any]:
        return sampling_condition(Objective.model_validate(objective), LINEAR, how(**fields))

    assert of() == {"nfe": 1, "sampler": "one_step", "guidance": 1.0}
    assert of(sampler="gamma", gamma=0.5, grid="edm", shift=2) == of(), "one step has neither noise nor grid"
    two = of(nfe=2)
    assert two == {"nfe": 2, "sampler": "pushforward", "guidance": 1.0}
    assert of(nfe=2, sampler="gamma") == {"nfe": 2, "sampler": "gamma", "gamma": 0.9, "guidance": 1.0}
    assert of(nfe=2, sampler="gamma", gamma=0) == two
    assert of(nfe=2, shift=3) == {**two, "shift": 3.0}
    assert of(nfe=2, grid="edm") == {**two, "grid": {"name": "edm", "rho": 7.0}}
    assert of(nfe=2, ratios=[0.5]) == {**two, "ratios": [0.5]}
    assert of(nfe=3, sampler="heun") == {"nfe": 3, "sampler": "heun", "guidance": 1.0}
    assert of(guidance_window=[0, 0.5]) == of(), "guidance 1 is off"
    assert of(nfe=2, guidance=2, guidance_window=[0.4, 1]) == {**two, "guidance": 2.0}, "every step is inside"
    assert of(nfe=2, guidance=2, guidance_window=[0, 0.5]) == {**two, "guidance": 2.0, "guidance_window": [0, 0.5]}
    told = {"name": "meanflow", "guidance": "omega_conditioned"}
    assert of(told, guidance_window=[0.4, 0.6])["guidance_window"] == [0.4, 0.6]
    assert "guidance_window" not in of(told)


def test_a_condition_is_plain_json_beside_what_else_was_drawn() -> None:
    trial = TrialConfig.model_validate(
        {
            "schedule": "linear",
            "objective": "meanflow",
            "architecture": "mlp",
            "data": "gaussians",
            "train": {"steps": 1, "batch_size": 8},
            "eval": {"nfe": 2, "ratios": [0.5], "guidance": 2, "guidance_window": [0, 0.4]},
        }
    )
    assert condition(trial, 5) == {
        "nfe": 2,
        "sampler": "pushforward",
        "guidance": 2.0,
        "ratios": [0.5],
        "guidance_window": [0.0, 0.4],
        "ema": 0.999,
        "dtype": "float32",
        "labels": "balanced: sample i has class i mod number of classes",
    }


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ratios": [1.0, 2.0]}, "ratios fall and are above 0"),
        ({"ratios": []}, "ratios fall and are above 0"),
        ({"ratios": [1.0, 0.0]}, "ratios fall and are above 0"),
        ({"guidance_window": [0.5, 0.2]}, "0 <= low < high <= 1"),
        ({"guidance_window": [0.0, 80.0]}, "0 <= low < high <= 1"),
        ({"gamma": 1.5}, "less than or equal to 1"),
        ({"shift": 0}, "greater than 0"),
    ],
)
def test_fields_out_of_their_range_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        how(**fields)
