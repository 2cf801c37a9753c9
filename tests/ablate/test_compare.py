"""`ablate compare`: two arms by any of their names, the verdict of the report, and what they differ in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from written_study import Call, call_ablate, measure, plan, value, write

from ablate.cli.arms import arm_named, arms_named
from ablate.cli.report import study_frames
from ablate.errors import ExitCode, NotHereError
from ablate.store import Journal, StorePaths, rebuild, record_plan
from ablate_reports import StudyFrames


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> StorePaths:
    paths = StorePaths(tmp_path_factory.mktemp("compare") / "store")
    write(paths, plan())
    rebuild(paths)
    return paths


@pytest.fixture(scope="module")
def frames(store: StorePaths) -> StudyFrames:
    return study_frames(store, "paths")


@pytest.fixture
def ablate(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, store: StorePaths
) -> Call:
    call = call_ablate(capsys, monkeypatch, tmp_path)
    monkeypatch.setenv("ABLATE_HOME", str(store.root))
    return call


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("meanflow/0.002", ["meanflow/0.002"]),
        ("baseline", ["fm/0.001"]),
        ("objective=meanflow,lr=0.002", ["meanflow/0.002"]),
        ("lr=0.002", ["fm/0.002", "meanflow/0.002", "sct_linear/0.002"]),
        ("meanflow", ["meanflow/0.001", "meanflow/0.002"]),
    ],
)
def test_an_arm_has_many_names(frames: StudyFrames, name: str, labels: list[str]) -> None:
    assert [frames.label(arm) for arm in arms_named(frames, name)] == labels


def test_one_arm_of_several_is_the_one_that_is_as_the_baseline_otherwise(frames: StudyFrames) -> None:
    assert frames.label(arm_named(frames, "lr=0.002")) == "fm/0.002"
    assert frames.label(arm_named(frames, "objective=sct_linear")) == "sct_linear/0.001"
    known = arm_named(frames, "meanflow/0.001")
    assert arm_named(frames, known[:6]) == known
    with pytest.raises(NotHereError, match=r"'meanflow' stands for 2 arms \(meanflow/0.001, meanflow/0.002\)"):
        arm_named(frames, "meanflow")
    with pytest.raises(NotHereError, match="no arm has all of objective=fm,objective=meanflow"):
        arm_named(frames, "objective=fm,objective=meanflow")


def test_it_is_the_verdict_of_the_report_with_every_field_that_differs(ablate: Call) -> None:
    found = json.loads(ablate("compare", "objective=meanflow", "baseline", "paths", "--json").out)
    arms = json.loads(ablate("report", "--json", "--out", "-").out)["arms"]
    [row] = [arm for arm in arms if arm["label"] == "meanflow/0.001"]
    names = ("difference", "difference_low", "difference_high", "difference_low_single", "p", "p_family", "verdict")
    assert [found[name] for name in names] == [row[name] for name in names]
    assert (found["verdict"], found["comparisons"], found["common_seeds"]) == ("better", 5, 3)
    assert found["axes"] == [{"axis": "objective", "arm": "meanflow", "reference": "fm"}]
    differs = {row["field"]: (row["arm"], row["reference"]) for row in found["differs"]}
    assert differs["objective.name"] == ("meanflow", "fm")
    assert not any(field.startswith(("train", "data", "eval", "seed")) for field in differs)
    assert found["detectable"] > 0
    assert found["equivalence"]["equivalent"] is False


def test_two_arms_that_differ_in_several_axes_are_said_to(ablate: Call) -> None:
    ended = ablate("compare", "meanflow/0.002", "sct_linear/0.001")
    assert ended.code == ExitCode.COMPLETE
    for part in (
        "▼ better: meanflow/0.002 is better than sct_linear/0.001: −",
        "95% interval, all 15 pairs of arms",
        "They differ in lr and objective: the difference is that of all of them together.",
        "train.lr",
        "Equivalence alone: meanflow/0.002 is not worse than sct_linear/0.001 by 5% or more",
    ):
        assert part in ended.out, part


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["nothing", "baseline"], "paths: no arm or level is called 'nothing'; there are fm/0.001"),
        (["baseline", "base"], "paths: fm/0.001 is compared with itself"),
        (["baseline", "lr=0.002", "pths"], "no study 'pths'"),
    ],
)
def test_a_mistake_is_one_line(ablate: Call, words: list[str], part: str) -> None:
    ended = ablate("compare", *words)
    assert (ended.code, ended.out) == (ExitCode.USAGE, "")
    assert ended.err.count("\n") == 1
    assert part in ended.err


def test_numbers_of_another_meaning_are_never_compared(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ablate, paths, wanted = call_ablate(capsys, monkeypatch, tmp_path), StorePaths(tmp_path / "store"), plan()
    late = [e for e in wanted.evaluations if e.arm_id == wanted.arms[1].id and e.seed == 2]
    with Journal(paths, "driver") as journal:
        record_plan(journal, wanted)
        measure(journal, wanted, [e for e in wanted.evaluations if e not in late])
        measure(journal, wanted, late, value, reference_sha256="two")
    words = ("compare", wanted.arms[1].label, "baseline")
    ended = ablate(*words)
    assert ended.code == ExitCode.USAGE
    assert (
        "is not measured as it is compared (1 trial): metric.reference_sha256 is 'two', compared is 'one'" in ended.err
    )
    assert "--allow-mixed" in ended.err
    listed = {(t["arm"], t["seed"]): t["compared"] for t in json.loads(ablate("ls", "paths", "--json").out)}
    assert [place for place, same in listed.items() if not same] == [(wanted.arms[1].label, 2)]
    found = json.loads(ablate(*words, "--allow-mixed", "--json").out)
    assert (found["arm"]["n"], found["reference"]["n"], len(found["left_out"])) == (2, 3, 1)
    assert ablate("compare", wanted.arms[2].label, "baseline").code == ExitCode.COMPLETE, "others are not concerned"
