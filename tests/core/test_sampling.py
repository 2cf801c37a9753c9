"""O19: few-step samplers against the recorded reference and against exact flow maps."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from golden_cases import GoldenNetwork, arrays
from torch import Tensor
from torch.testing import assert_close

from ablate_core.architectures.base import Network
from ablate_core.objective import Objective
from ablate_core.sampling import (
    GuidedNetwork,
    pushforward,
    resolve_sampler,
    restart,
    sample,
    sample_labels,
    sample_noise,
    step_times,
)
from ablate_core.schedules import Schedule

LINEAR = Schedule.model_validate("linear")
COSINE = Schedule.model_validate("cosine01")
RECORDED = [k.split("/")[0] for k in arrays("esc_samplers") if k.endswith("/final") and "edm" not in k]


def golden_network() -> GoldenNetwork:
    stored = arrays("inputs")
    names = ("W1", "w_t", "w_r", "b1", "E", "W2", "b2", "a", "b")
    return GoldenNetwork({name: torch.from_numpy(stored[f"d3.student/{name}"]) for name in names})


@pytest.mark.parametrize("case", RECORDED)
def test_pushforward_agrees_with_the_recorded_reference(case: str) -> None:
    """ESC sampler.py on the linear and the cosine path, with and without guidance, every state of the trajectory."""
    recorded = {k.split("/")[1]: v for k, v in arrays("esc_samplers").items() if k.split("/")[0] == case}
    stored = {name: torch.from_numpy(array) for name, array in recorded.items()}
    _, path, std, steps, cfg = case.split("_")
    scale, sigma_data, nfe = float(cfg.removeprefix("cfg")), float(std.removeprefix("sd")), int(steps[0])
    objective = Objective.model_validate(
        {"name": "meanflow", "parameterization": {"name": "v_ddim", "sigma_data": sigma_data}}
    )
    schedule = Schedule.model_validate(path)
    net: Network = golden_network()
    if scale != 1:
        net = GuidedNetwork(net, scale, null_class=5)
    y = torch.from_numpy(arrays("inputs")["d3/labels"])[:4]
    x, times = stored["noise"] * sigma_data, step_times(nfe)
    assert_close(torch.tensor(times, dtype=torch.float64), stored["t_steps"])
    for step, (t, r) in enumerate(itertools.pairwise(times)):
        x = pushforward(lambda x, r, t: objective.predict(net, schedule, x, r, t, y), x, [t, r])
        assert_close(x, stored["trajectory"][step], rtol=1e-10, atol=1e-12)
    assert_close(x, stored["final"], rtol=1e-10, atol=1e-12)


def exact_map(schedule: Schedule, mean: float, std: float) -> type[Network]:
    """A network whose raw output is the exact average velocity of N(mean, std^2) data (world G)."""

    class Exact(Network):
        def forward(self, x: Tensor, r: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
            at_t, at_r = schedule.at(t), schedule.at(r)
            gamma_t = torch.sqrt((at_t.alpha * std) ** 2 + at_t.sigma**2)
            gamma_r = torch.sqrt((at_r.alpha * std) ** 2 + at_r.sigma**2)
            c = (gamma_r / gamma_t)[:, None]
            landed = at_r.alpha[:, None] * mean + c * (x - at_t.alpha[:, None] * mean)
            return (landed - x) / (r - t)[:, None]

    return Exact


@pytest.mark.parametrize("schedule", [LINEAR, COSINE], ids=["linear", "cosine01"])
def test_steps_with_the_exact_map_compose(schedule: Schedule) -> None:
    net, objective = exact_map(schedule, 0.7, 0.3)(), Objective.model_validate("meanflow")
    z = torch.randn(64, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def jump(x: Tensor, r: Tensor, t: Tensor) -> Tensor:
        return objective.predict(net, schedule, x, r, t, None)

    one = pushforward(jump, z, step_times(1))
    assert_close(one, 0.7 + 0.3 * z, rtol=1e-12, atol=1e-12)
    for nfe in (2, 5):
        assert_close(pushforward(jump, z, step_times(nfe)), one, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("schedule", [LINEAR, COSINE], ids=["linear", "cosine01"])
def test_restart_with_the_exact_map_keeps_the_distribution(schedule: Schedule) -> None:
    net, objective, n = exact_map(schedule, 0.7, 0.3)(), Objective.model_validate("meanflow"), 40_000
    noises = [sample_noise(0, 0, n, (2,), level).double() for level in range(3)]
    x = restart(lambda x, r, t: objective.predict(net, schedule, x, r, t, None), noises, step_times(3), schedule)
    assert abs(float(x.mean()) - 0.7) < 5 * 0.3 / math.sqrt(2 * n)
    assert abs(float(x.std()) - 0.3) < 5 * 0.3 / math.sqrt(4 * n)
    assert abs(float((x * noises[0]).mean())) < 0.02 * 0.3 + 0.05, "fresh noise replaces most of the first one"


class Seen(Network):
    """Remembers what it was asked, and returns a number that depends on all of it."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[tuple[float, float]] = []

    def forward(self, x: Tensor, r: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        self.times.append((float(t[0]), float(r[0])))
        return torch.sin(x) + (0 if y is None else y.reshape(-1, *[1] * (x.ndim - 1)) / 7)


def times_asked(method: str, nfe: int, sampler: str = "auto") -> list[tuple[float, float]]:
    net = Seen()
    sample(Objective.model_validate(method), LINEAR, net, 4, (2,), nfe=nfe, sampler=sampler)
    return [(round(t, 4), round(r, 4)) for t, r in net.times]


def test_each_method_is_sampled_as_it_was_trained() -> None:
    assert times_asked("meanflow", 2) == [(1, 0.5), (0.5, 0)]
    assert times_asked("fm", 2) == [(1, 1), (0.5, 0.5)], "flow matching learned the velocity only"
    assert times_asked("sct_linear", 2) == [(1, 0), (0.5, 0)], "landing at 0 only: restart"
    assert times_asked("meanflow", 2, "restart") == [(1, 0), (0.5, 0)]
    assert times_asked("imm", 1) == [(0.994, 0)]


def test_with_one_step_there_is_one_sampler() -> None:
    objective = Objective.model_validate("meanflow")
    assert {resolve_sampler(objective, s, 1) for s in ("auto", "pushforward", "restart")} == {"one_step"}
    assert resolve_sampler(objective, "auto", 2) == "pushforward"
    assert resolve_sampler(Objective.model_validate("ct"), "auto", 2) == "restart"
    assert resolve_sampler(Objective.model_validate("fm"), "auto", 2) == "pushforward"


@pytest.mark.parametrize("sampler", ["pushforward", "restart"])
@pytest.mark.parametrize("batch_size", [1, 50, 64, 200])
def test_batch_size_and_count_change_no_sample(sampler: str, batch_size: int) -> None:
    def draw(count: int, batch: int, first: int = 0) -> Tensor:
        return sample(
            Objective.model_validate("meanflow"), LINEAR, Seen(), count, (1, 2, 2), first=first, num_classes=3,
            nfe=3, sampler=sampler, batch_size=batch, seed=5,
        )  # fmt: skip

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


def test_initial_noise_has_the_standard_deviation_of_the_path() -> None:
    net = golden_network()
    net.forward = lambda x, r, t, y: 0 * x  # type: ignore[method-assign]
    objective = Objective.model_validate(
        {"name": "meanflow", "parameterization": {"name": "v_ddim", "sigma_data": 0.5}}
    )
    x = sample(objective, LINEAR, net, 4000, (2,))
    assert abs(float(x.std()) - 0.5) < 0.02


def test_guidance_extrapolates_and_1_is_off() -> None:
    net = golden_network()
    x = torch.randn(5, 2, 4, 4, dtype=torch.float64)
    t, y = torch.full((5,), 0.8, dtype=torch.float64), torch.arange(5)
    null, label = net(x, t, t, torch.full_like(y, 5)), net(x, t, t, y)
    assert_close(GuidedNetwork(net, 2.5, 5)(x, t, t, y), null + 2.5 * (label - null))
    assert_close(GuidedNetwork(net, 1.0, 5)(x, t, t, y), label)
    assert_close(GuidedNetwork(net, 0.0, 5)(x, t, t, y), null)
    with pytest.raises(ValueError, match="guidance needs labelled data"):
        sample(Objective.model_validate("meanflow"), LINEAR, net, 2, (2, 4, 4), guidance=2.0)


def test_sampling_leaves_the_network_in_the_mode_it_was_in() -> None:
    net = Seen().train()
    x = sample(Objective.model_validate("meanflow"), LINEAR, net, 3, (2,))
    assert net.training
    assert not x.requires_grad
