"""Metrics beside the main one: kernel distance, neighbours, the FID_N curve and its limit, and their identities."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from ablate_core.config import TrialConfig
from ablate_core.evaluation import evaluate
from ablate_core.fid import MetricError
from ablate_core.fid import beside as beside_module
from ablate_core.fid.frechet import frechet_distance, moments
from ablate_core.fid.kernel import kernel_distance, seeded_subsets
from ablate_core.fid.manifolds import density_coverage, precision_recall
from ablate_core.fid.sample_curve import extrapolate, usual_sizes
from ablate_core.identity import content_id, diff
from ablate_core.legality import check

Array = NDArray[np.float64]


def normal(n: int, d: int, seed: int, shift: float = 0.0) -> Array:
    return np.random.RandomState(seed).randn(n, d) + shift


# -- kernel distance


def pairwise(x: Array, y: Array) -> float:
    """The definition, pair by pair."""

    def k(a: Array, b: Array) -> float:
        return float((a @ b / len(a) + 1) ** 3)

    within = [np.mean([k(a, b) for a, b in itertools.permutations(z, 2)]) for z in (x, y)]
    return float(sum(within) - 2 * np.mean([k(a, b) for a in x for b in y]))


def test_a_kernel_distance_is_its_definition_summed_pair_by_pair() -> None:
    x, y = normal(9, 4, 0), normal(7, 4, 1, 0.5)
    value, error = kernel_distance(x, y, [(np.arange(9), np.arange(7))])
    assert value == pytest.approx(pairwise(x, y), rel=1e-12)
    assert math.isnan(error)
    some = [(np.array([0, 3, 5]), np.array([1, 2, 6])), (np.array([1, 2, 8]), np.array([0, 4, 5]))]
    values = [pairwise(x[i], y[j]) for i, j in some]
    value, error = kernel_distance(x, y, some)
    assert value == pytest.approx(np.mean(values), rel=1e-12)
    assert error == pytest.approx(abs(values[0] - values[1]) / 2, rel=1e-12)


def test_on_the_same_subsets_it_is_clean_fids_number() -> None:
    from cleanfid.fid import kernel_distance as theirs

    x, y = normal(80, 6, 2), normal(90, 6, 3, 0.3)
    np.random.seed(5)
    expected = theirs(x, y, num_subsets=4, max_subset_size=50)
    np.random.seed(5)
    subsets = []
    for _ in range(4):  # it draws from the second set first
        j, i = np.random.choice(90, 50, replace=False), np.random.choice(80, 50, replace=False)
        subsets.append((i, j))
    assert kernel_distance(x, y, subsets)[0] == pytest.approx(float(expected), rel=1e-10)


def test_subsets_come_from_the_seed_alone_and_without_replacement() -> None:
    first, again, other = (list(seeded_subsets(40, 1200, seed, 3)) for seed in (0, 0, 1))
    assert all(np.array_equal(a, b) for p, q in zip(first, again, strict=True) for a, b in zip(p, q, strict=True))
    assert not np.array_equal(first[0][0], other[0][0])
    assert not np.array_equal(first[0][0], first[1][0])
    assert all(len(i) == len(set(i)) == len(j) == len(set(j)) == 40 for i, j in first)
    assert max(i.max() for i, _ in first) == 39


def test_it_is_unbiased_whatever_the_number_of_samples() -> None:
    """In one dimension the population value is sum_j binom(3, j) (E x^j - E y^j)^2."""
    m_x, m_y = (0.0, 1.0, 0.0), (0.5, 1.25, 1.625)  # moments of N(0, 1) and N(0.5, 1)
    exact = sum(math.comb(3, j + 1) * (a - b) ** 2 for j, (a, b) in enumerate(zip(m_x, m_y, strict=True)))
    for n in (5, 40):
        runs = 10_000 // n
        found = [
            kernel_distance(normal(n, 1, 2 * r), normal(n, 1, 2 * r + 1, 0.5), [(np.arange(n), np.arange(n))])[0]
            for r in range(runs)
        ]
        assert abs(np.mean(found) - exact) < 4 * np.std(found) / math.sqrt(runs)


def test_what_has_no_kernel_distance_is_refused() -> None:
    x = normal(5, 3, 0)
    every = [(np.arange(5), np.arange(5))]
    with pytest.raises(MetricError, match="not finite"):
        kernel_distance(x, x * np.nan, every)
    with pytest.raises(MetricError, match=r"got \(5, 3\) and \(5, 2\)"):
        kernel_distance(x, x[:, :2], every)
    with pytest.raises(MetricError, match="two vectors of each set, got 1 and 5"):
        kernel_distance(x, x, [(np.arange(1), np.arange(5))])
    with pytest.raises(MetricError, match="no subset"):
        kernel_distance(x, x, [])


# -- neighbours


def by_brute_force(x: Array, y: Array, k: int) -> tuple[float, float, float, float]:
    """Precision, recall, density, coverage, distance by distance."""

    def radius(points: Array, i: int) -> float:
        return float(sorted(np.linalg.norm(points[i] - p) for j, p in enumerate(points) if j != i)[k - 1])

    r_x, r_y = [radius(x, i) for i in range(len(x))], [radius(y, i) for i in range(len(y))]
    d = np.array([[np.linalg.norm(a - b) for b in y] for a in x])
    precision = np.mean([any(d[i, j] <= r_y[j] for j in range(len(y))) for i in range(len(x))])
    recall = np.mean([any(d[i, j] <= r_x[i] for i in range(len(x))) for j in range(len(y))])
    density = sum(d[i, j] < r_y[j] for i in range(len(x)) for j in range(len(y))) / (k * len(x))
    coverage = np.mean([any(d[i, j] < r_y[j] for i in range(len(x))) for j in range(len(y))])
    return float(precision), float(recall), float(density), float(coverage)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_neighbours_agree_with_brute_force(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from ablate_core.fid import manifolds

    x, y = normal(31, 5, 0, 0.4) + 100, normal(23, 5, 1) + 100  # a large mean, as of rectified features
    expected = by_brute_force(x, y, k)
    for chunk in (4_000_000, 100):  # whole, and in blocks of a few rows
        monkeypatch.setattr(manifolds, "_CHUNK_ELEMENTS", chunk)
        assert (*precision_recall(x, y, k), *density_coverage(x, y, k)) == pytest.approx(expected, abs=1e-12)


def test_the_data_themselves_are_covered_and_what_is_far_away_is_not() -> None:
    y = normal(50, 4, 0)
    assert precision_recall(y, y, 3) == (1.0, 1.0)
    assert density_coverage(y, y, 5).coverage == 1.0
    assert (*precision_recall(y + 100, y, 3), *density_coverage(y + 100, y, 5)) == (0, 0, 0, 0)
    few = np.concatenate([y[:1]] * 50)  # one image, many times: all precise, little covered
    assert precision_recall(few, y, 3).precision == 1.0
    assert precision_recall(few, y, 3).recall == 0.02
    assert 0 < density_coverage(few, y, 5).coverage < 0.5


def test_too_few_points_have_no_neighbours() -> None:
    x = normal(4, 2, 0)
    with pytest.raises(MetricError, match="5-th neighbour needs 6 points on a side, got 4 and 4"):
        density_coverage(x, x, 5)
    with pytest.raises(MetricError, match="not finite"):
        precision_recall(x, x * np.inf, 1)


# -- the curve


def test_a_line_in_one_over_n_is_found_and_few_samples_are_refused() -> None:
    curve = {n: 3.0 + 900 / n for n in (1000, 5000, 10_000, 20_000, 50_000)}
    curve[1000] = 40.0  # below 5,000 the bias is no line
    limit = extrapolate(curve)
    assert (limit.value, limit.slope) == pytest.approx((3.0, 900.0), rel=1e-10)
    assert limit.standard_error < 1e-8
    with pytest.raises(MetricError, match="not extrapolated: a limit needs 3 sizes of at least 5,000 samples, got"):
        extrapolate({1000: 1.0, 5000: 1.0, 10_000: 1.0})


def test_the_limit_agrees_with_the_reports_own_fit() -> None:
    from ablate_reports.sample_bias import sample_bias

    values = {n: 3.0 + 900 / n + 0.01 * math.sin(n) for n in (5000, 8000, 20_000, 50_000)}
    theirs = sample_bias({"trial/0": values})
    ours = extrapolate(values)
    assert (ours.value, ours.slope) == pytest.approx((theirs.infinity, theirs.slope), rel=1e-10)


def test_sizes_are_ten_and_end_at_all_samples() -> None:
    assert usual_sizes(50_000) == tuple(range(5000, 50_001, 5000))
    assert usual_sizes(15) == (3, 4, 6, 7, 9, 10, 12, 13, 15)


# -- what `evaluate` makes of it


def config(**changes: Any) -> TrialConfig:
    return TrialConfig.model_validate(
        {
            "schedule": "linear", "objective": "meanflow", "architecture": {"name": "sit", "size": "tiny/2"},
            "data": changes.pop("data", "digits"), "train": {"steps": 1, "batch_size": 8},
            "eval": {"metric": "fd_digits", "samples": 300, "gallery": 0, **changes},
        }
    )  # fmt: skip


ALL = ["kid", "precision_recall", "density_coverage", "curve"]


def measured(trial: TrialConfig, folder: Path, seed: int = 0) -> list[dict[str, Any]]:
    """Scores digits with noise on them."""
    data = trial.data.load()
    random = torch.Generator().manual_seed(seed)
    count = trial.eval.samples
    x = data.x[torch.randint(len(data.x), (count,), generator=random)]
    x = x + 0.05 * torch.randn(x.shape, generator=random)
    return evaluate(trial, {}, 7, folder, data=data, batches=torch.split(x, 70))


def test_each_number_beside_has_an_identity_of_its_own_and_the_main_one_is_as_without(tmp_path: Path) -> None:
    alone, *rest = measured(config(), tmp_path)
    assert rest == []
    main, *others = measured(config(also=ALL, sizes=[30, 100, 300]), tmp_path)
    assert {**main, "wall_seconds": 0} == {**alone, "wall_seconds": 0}
    names = [(e["metric"]["name"], e["n_samples"]) for e in others]
    assert names == [
        ("fd_digits", 30), ("fd_digits", 100), ("density_digits", 300), ("coverage_digits", 300), ("kd_digits", 300),
        ("precision_digits", 300), ("recall_digits", 300),
    ]  # fmt: skip
    assert all(e["metric_id"] == content_id(e["metric"]) and e["kind"] == "measurement" for e in others)
    assert len({e["metric_id"] for e in (main, *others)}) == 8
    assert {e["cond_id"] for e in others} == {main["cond_id"]}
    assert all(e["n_samples"] == e["metric"]["samples"] for e in others)
    assert [e["metric"]["higher_is_better"] for e in others] == [False, False, True, True, False, True, True]
    by = {e["metric"]["name"]: e for e in others[2:]}
    assert by["kd_digits"]["extra"]["standard_error"] > 0
    assert (by["kd_digits"]["metric"]["subset_size"], by["precision_digits"]["metric"]["k"]) == (300, 3)


def test_they_are_the_numbers_of_the_features(tmp_path: Path) -> None:
    from ablate_core.fid.fd_digits import digits_extractor

    trial = config(also=ALL)
    data = trial.data.load()
    real = digits_extractor().features(trial.data.to_uint8(data.x))
    x = data.x[:300]
    _, *others = evaluate(trial, {}, 7, tmp_path, data=data, batches=torch.split(x, 70))
    fake = digits_extractor().features(trial.data.to_uint8(x))
    value = {e["metric"]["name"]: e["value"] for e in others}
    assert value["kd_digits"] == kernel_distance(fake, real, seeded_subsets(300, len(real), 0))[0]
    assert value["precision_digits"] == 1.0, "a digit is in its own ball"
    assert value["recall_digits"] == precision_recall(fake, real, 3).recall < 1
    assert value["coverage_digits"] == density_coverage(fake, real, 5).coverage < 1


def test_the_curve_is_what_fewer_samples_would_have_measured(tmp_path: Path) -> None:
    main, *others = measured(config(also=["curve"], sizes=[40, 150, 300]), tmp_path)
    reference = digits_reference()
    for event in others:
        n = event["n_samples"]
        fewer = config(samples=n)
        data = fewer.data.load()
        random = torch.Generator().manual_seed(0)
        x = data.x[torch.randint(len(data.x), (300,), generator=random)]
        x = (x + 0.05 * torch.randn(x.shape, generator=random))[:n]
        alone = evaluate(fewer, {}, 7, tmp_path, data=data, batches=[x])[0]
        assert alone["metric_id"] == event["metric_id"], diff(alone["metric"], event["metric"])
        assert event["value"] == pytest.approx(alone["value"], rel=1e-5)  # features of other batches differ in rounding
    assert main["n_samples"] == 300
    assert reference.count == 1797


def digits_reference() -> Any:
    from ablate_core.fid.fd_digits import digits_extractor

    return digits_extractor().reference


def test_a_limit_is_below_the_curve_and_names_its_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (beside_module, __import__("ablate_core.fid.sample_curve", fromlist=["LEAST"])):
        monkeypatch.setattr(module, "LEAST", 400)  # 48 dimensions: their bias is a line much earlier
    trial = config(samples=2000, also=["infinity"], sizes=[100, 500, 1000, 2000])
    main, limit = measured(trial, tmp_path)
    assert limit["metric"]["name"] == "fd_digits_infinity"
    assert limit["metric"]["sizes"] == [500, 1000, 2000]
    assert set(limit["extra"]["curve"]) == {"500", "1000", "2000"}
    assert limit["extra"]["slope"] > 0
    assert limit["value"] < main["value"] == pytest.approx(limit["extra"]["curve"]["2000"], rel=1e-9)


def test_features_drawn_from_the_reference_have_a_limit_near_zero() -> None:
    """B / N is all there is: the distance of n normal vectors to their own distribution."""
    d, reference = 6, moments(normal(200_000, 6, 1))
    x = normal(40_000, d, 0)
    curve = {n: frechet_distance(moments(x[:n]), reference) for n in (5000, 10_000, 20_000, 40_000)}
    limit = extrapolate(curve)
    assert abs(limit.value) < 0.2 * curve[5000]


def test_samples_that_are_not_finite_leave_every_number_out_with_the_reason(tmp_path: Path) -> None:
    trial = config(also=ALL, samples=60)
    x = trial.data.load().x[:60].clone()
    x[3] = math.nan
    events = evaluate(trial, {}, 7, tmp_path, batches=[x])
    assert len(events) == 1 + 9 + 5
    assert {e["value"] for e in events} == {None}
    assert {e["extra"]["reason"] for e in events} == {"1 of samples 0 to 59 are not finite"}


def test_neighbours_are_sought_among_the_first_samples_where_there_are_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beside_module, "MOST_NEIGHBOURS", 100)
    main, precision, _ = measured(config(also=["precision_recall"]), tmp_path)
    assert (main["n_samples"], precision["n_samples"], precision["metric"]["samples"]) == (300, 100, 100)


def test_kept_statistics_are_an_artifact_of_every_step_and_give_the_value_again(tmp_path: Path) -> None:
    from ablate_core.fid.metrics import rescore

    trial = config(keep_statistics=True)
    data = trial.data.load()
    for step in (7, 9):
        main, artifact = evaluate(trial, {}, step, tmp_path, data=data, batches=[data.x[step : 300 + step]])
        assert (artifact["kind"], artifact["artifact"], artifact["step"]) == ("artifact", "statistics", step)
        assert artifact["path"] == f"statistics-{main['metric_id']}-{main['cond_id']}-{step:08d}.npz"
        with np.load(tmp_path / artifact["path"]) as stored:
            arrays = dict(stored)
        assert int(arrays["step"]) == step
        assert rescore(arrays, digits_reference()) == pytest.approx(main["value"], rel=1e-12)


@pytest.mark.parametrize(
    ("changes", "message", "mend"),
    [
        ({"also": ["infinity"]}, "needs 3 sizes of at least 5,000 samples, the sizes are 30", "eval.samples"),
        ({"also": ["infinity"], "samples": 60_000, "sizes": [9, 6000]}, "the sizes are 9, 6000", "eval.sizes: null"),
        ({"sizes": [100]}, "without curve or infinity in eval.also it would have no effect", "eval.sizes: null"),
        ({"also": ["curve"], "sizes": [100, 400]}, "400 of 300 samples", "eval.samples: 400"),
        ({"also": ["kid"], "metric": "fid", "reference": "a.npz"}, "features of the data are needed", "eval.reference"),
        ({"also": ["kid"], "metric": "energy_distance", "data": "gaussians"}, "need features of images", "eval.also: "),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_beside_is_refused_before_training(
    changes: dict[str, Any], message: str, mend: str
) -> None:
    (problem,) = [p for p in check(config(**changes)) if p.code == "C31"]
    assert problem.level == "error"
    assert message in problem.message
    assert str(problem.nearest).startswith(mend)


def test_a_metric_is_asked_for_once_and_the_order_means_nothing() -> None:
    assert config(also=["kid", "curve"]) == config(also=["curve", "kid"])
    with pytest.raises(ValidationError, match="each metric once"):
        config(also=["kid", "kid"])
    assert config(also=["curve"], sizes=[5, 3, 5]).eval.sizes == (3, 5)


def test_nothing_beside_leaves_the_keys_alone() -> None:
    from ablate.space import eval_key, train_key

    plain = config()
    for same in (config(also=[]), config(sizes=None), config(keep_statistics=True)):
        assert eval_key(same) == eval_key(plain)
    more = config(also=["curve"])
    assert train_key(more) == train_key(plain)
    assert len({eval_key(plain), eval_key(more), eval_key(config(also=["curve"], sizes=[100]))}) == 3
