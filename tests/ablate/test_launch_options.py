"""What may be asked of a run, and how trials are placed on a cluster."""

from __future__ import annotations

import math

import pytest

from ablate.errors import AblateError, ClusterError, ExitCode
from ablate.launch.agenda import check_resources, retries
from ablate.launch.options import RunOptions, RunSummary, place

NODE = {"CPU": 8.0, "GPU": 4.0}


@pytest.mark.parametrize(
    ("options", "nodes", "slots"),
    [
        (RunOptions(), [{"CPU": 2.0}], 2),
        (RunOptions(cpus_per_trial=2), [{"CPU": 3.0}, {"CPU": 3.0}], 2),  # a trial does not span nodes
        (RunOptions(gpus=3), [NODE], 3),
        (RunOptions(gpus=2, gpus_per_trial=0.5), [NODE], 4),
        (RunOptions(gpus=0.3, gpus_per_trial=0.1), [NODE], 3),  # 0.3 / 0.1 is 2.9999999999999996
        (RunOptions(gpus_per_trial=0.4, cpus_per_trial=0.1), [NODE], 8),  # two fit on a GPU, the rest of it is idle
        (RunOptions(gpus=0), [NODE], 8),
        (RunOptions(), [NODE], 4),
        (RunOptions(max_concurrent=3), [NODE], 3),
        (RunOptions(gpus=4, gpus_per_trial=0.25, cpus_per_trial=1), [NODE], 8),
    ],
)
def test_slots_follow_from_resources_and_caps(options: RunOptions, nodes: list[dict[str, float]], slots: int) -> None:
    assert place(options, 0, 0, nodes).slots == slots


def test_flags_win_over_the_space() -> None:
    placement = place(RunOptions(cpus_per_trial=2, gpus_per_trial=0.5), 4, 1, [NODE])
    assert (placement.cpus_per_trial, placement.gpus_per_trial) == (2, 0.5)
    assert place(RunOptions(), 4, 0.25, [NODE]).threads == 4
    assert place(RunOptions(), 4, 0.25, [NODE]).gpus_per_trial == 0.25


def test_more_gpus_than_the_cluster_has_is_an_error_with_both_numbers() -> None:
    with pytest.raises(ClusterError, match=r"6 GPUs but the cluster has 4") as caught:
        place(RunOptions(gpus=6), 0, 0, [NODE])
    assert caught.value.exit_code is ExitCode.USAGE


@pytest.mark.parametrize(
    ("options", "wanted", "nodes", "message"),
    [
        (RunOptions(), 1.0, [{"CPU": 2.0}], "1 GPU but the cluster has 0"),
        (RunOptions(cpus_per_trial=9), 0.0, [{"CPU": 8.0}], "9 CPUs"),
        (RunOptions(), 8.0, [NODE], "several GPUs does not exist yet"),
        (RunOptions(gpus=0.5), 1.0, [NODE], "less than the 1 one trial takes"),
    ],
)
def test_what_no_node_can_hold_is_a_cluster_error(
    options: RunOptions, wanted: float, nodes: list[dict[str, float]], message: str
) -> None:
    with pytest.raises(ClusterError, match=message):
        place(options, 0, wanted, nodes)


@pytest.mark.parametrize(
    "wrong",
    [
        {"gpus": -1},
        {"gpus_per_trial": 1.5},
        {"cpus_per_trial": 0},
        {"max_concurrent": 0},
        {"time_limit": -3},
        {"max_failures": "a few"},
        {"max_failures": -1},
        {"max_failures": "120%"},
        {"max_failures": 1.5},
    ],
)
def test_an_option_out_of_range_is_refused_in_one_line(wrong: dict[str, object]) -> None:
    with pytest.raises(AblateError, match="--") as caught:
        RunOptions(**wrong)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_the_circuit_breaker_is_a_count_or_a_share() -> None:
    assert RunOptions().failure_limit(100) == math.inf
    assert RunOptions(max_failures=3).failure_limit(100) == 3
    assert RunOptions(max_failures="3").failure_limit(100) == 3
    assert RunOptions(max_failures="10%").failure_limit(24) == 2
    assert RunOptions(max_failures="0%").failure_limit(24) == 0


def test_retries_come_from_the_space_by_cause() -> None:
    assert retries({}) == {"oom": 0, "crash": 0, "preempt": 2}
    assert retries({"retries": {"oom": 1, "preempt": "unlimited"}}) == {"oom": 1, "crash": 0, "preempt": -1}


def test_resources_that_nobody_heeds_yet_are_refused() -> None:
    check_resources({"gpus": 1, "cpus": 2, "per_arm": {}, "gpu_mem": None})
    with pytest.raises(AblateError, match=r"resources\.gpu_mem does not exist yet"):
        check_resources({"gpu_mem": "40GiB"})


def test_the_summary_names_what_there_was() -> None:
    assert RunSummary(wall_seconds=2).line() == "nothing to do in 2 s"
    line = RunSummary(done=3, failed=1, skipped=2, wall_seconds=9.6, reason="because").line()
    assert line == "3 done, 1 failed, 2 already in the store in 10 s; because"
