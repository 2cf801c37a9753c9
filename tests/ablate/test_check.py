"""`ablate check`: a study as a job of continuous integration, one exit code for each kind of news."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from written_study import CLAIMS, Call, call_ablate, measure, plan, value, write

from ablate.errors import ExitCode
from ablate.store import Journal, StorePaths, rebuild, record_plan

HOLDS, FAILS = "objective=meanflow is better than objective=fm.", "objective=fm is better than objective=meanflow."
UNDECIDED = "lr=0.002 is better than lr=0.001."
UNREADABLE = "nobody can read this"


STUDIES: dict[str, tuple[list[Any], ExitCode]] = {
    "good": ([HOLDS], ExitCode.COMPLETE),
    "bad": ([HOLDS, FAILS, UNDECIDED, {"better": ["meanflow/0.001", "fm/0.001"]}], ExitCode.CLAIM_FAILS),
    "open": ([HOLDS, UNDECIDED], ExitCode.CLAIM_UNDECIDED),
    "odd": ([HOLDS, UNREADABLE, UNDECIDED], ExitCode.USAGE),
    "both": ([FAILS, UNREADABLE], ExitCode.CLAIM_FAILS),
}
"""Studies of the same trials, which differ in what they claim."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> StorePaths:
    paths = StorePaths(tmp_path_factory.mktemp("check") / "store")
    write(paths, plan(claims="[]"))
    with Journal(paths, "driver") as journal:
        for name, (claims, _) in STUDIES.items():
            record_plan(journal, replace(plan(claims=json.dumps(claims)), name=name))
    rebuild(paths)
    return paths


@pytest.fixture
def ablate(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, store: StorePaths
) -> Call:
    call = call_ablate(capsys, monkeypatch, tmp_path)
    monkeypatch.setenv("ABLATE_HOME", str(store.root))
    return call


@pytest.mark.parametrize("name", STUDIES)
def test_the_exit_code_is_the_worst_news(ablate: Call, name: str) -> None:
    claims, code = STUDIES[name]
    ended = ablate("check", name, "--json")
    assert ended.code == code
    found = json.loads(ended.out)
    assert len(found["studies"][0]["claims"]) == len(claims)
    assert found["exit_code"] == code
    assert ended.err.count("\n") == (code == ExitCode.USAGE)


def test_undecided_claims_may_be_allowed_and_nothing_else(ablate: Call) -> None:
    assert ablate("check", "open", "--allow-undecided").code == ExitCode.COMPLETE
    assert ablate("check", "bad", "--allow-undecided").code == ExitCode.CLAIM_FAILS


def test_every_claim_is_a_line_with_its_reason(ablate: Call) -> None:
    ended = ablate("check", "bad")
    lines = [line for line in ended.out.splitlines() if line.strip()]
    assert sum(line.lstrip().startswith(("✓ holds", "✗ fails", "? undecided")) for line in lines) == 4
    assert "2 of 2 comparisons hold" in ended.out
    assert "meanflow/0.001 is better than fm/0.001" in ended.out, "a mapping without words is shown as it was read"
    assert "2 holds, 1 fails, 1 undecided; " in ended.out
    assert ended.err == ""


def test_the_judgement_is_that_of_the_report(ablate: Call) -> None:
    mine = json.loads(ablate("check", "open", "--json").out)["studies"][0]
    theirs = json.loads(ablate("report", "open", "--json", "--out", "-").out)["findings"]["claims"]
    assert (mine["claims"], mine["comparisons"]) == (theirs["judged"], theirs["comparisons"])
    assert (mine["planned"], mine["finished"], mine["left_out"]) == (18, 18, [])


def test_trials_that_are_not_finished_are_counted(
    ablate: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ABLATE_HOME", str(tmp_path / "store"))
    paths, wanted = StorePaths(tmp_path / "store"), plan(claims=f"['{HOLDS}']")
    with Journal(paths, "driver") as journal:
        record_plan(journal, wanted)
        measure(journal, wanted, [e for e in wanted.evaluations if e.seed < 2])
    assert "6 trials not finished: this may change" in ablate("check").out
    found = json.loads(ablate("check", "--json").out)["studies"][0]
    assert (found["planned"], found["finished"]) == (18, 12)


def test_nothing_to_check_is_a_mistake(ablate: Call) -> None:
    for words, part in (
        (["check", "paths"], "paths: the space declares no claims"),
        (["check", "pths"], "no study 'pths'"),
    ):
        ended = ablate(*words)
        assert (ended.code, ended.out) == (ExitCode.USAGE, "")
        assert ended.err.startswith("error: ")
        assert ended.err.count("\n") == 1
        assert part in ended.err


def test_several_studies_are_checked_in_one_call(ablate: Call) -> None:
    ended = ablate("check", "good", "open", "--json")
    assert ended.code == ExitCode.CLAIM_UNDECIDED
    assert [study["study"] for study in json.loads(ended.out)["studies"]] == ["good", "open"]


def test_a_claim_about_numbers_of_another_identity_is_refused_with_the_fields(
    ablate: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ABLATE_HOME", str(tmp_path / "store"))
    paths, wanted = StorePaths(tmp_path / "store"), plan(claims=CLAIMS)
    mine = {arm.id for arm in wanted.arms if arm.config.objective.name == "meanflow"}
    with Journal(paths, "driver") as journal:
        record_plan(journal, wanted)
        measure(journal, wanted, [e for e in wanted.evaluations if e.arm_id not in mine])
        measure(journal, wanted, [e for e in wanted.evaluations if e.arm_id in mine], value, reference_sha256="two")
    ended = ablate("check")
    assert ended.code == ExitCode.USAGE
    assert ended.err.count("\n") == 1
    assert "metric.reference_sha256 is 'two', compared is 'one'" in ended.err
    assert "`ablate eval paths --again`" in ended.err
    found = json.loads(ablate("check", "--allow-mixed", "--json").out)["studies"][0]
    assert len(found["left_out"]) == 2
    assert [c["status"] for c in found["claims"]] == ["undecided", "undecided"], "what is left out proves nothing"
    with Journal(paths, "driver") as journal:  # `ablate eval paths --again`
        measure(journal, wanted, wanted.evaluations, value, reference_sha256="two")
    assert ablate("check", "--allow-undecided").code == ExitCode.COMPLETE, "the identity that all arms have counts"


def test_a_claim_that_is_declared_after_the_results_is_said_to_be_no_prediction(
    ablate: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ABLATE_HOME", str(tmp_path / "store"))
    paths = StorePaths(tmp_path / "store")
    write(paths, plan(claims=f"['{HOLDS}']"))
    with Journal(paths, "driver") as journal:  # the space was edited, and run again
        record_plan(journal, plan(claims=f"['{UNDECIDED}', '{HOLDS}']"))
        record_plan(journal, plan(claims=f"['{UNDECIDED}', '{HOLDS}']"))
    ended = ablate("check", "--allow-undecided", "--json")
    found = json.loads(ended.out)["studies"][0]["claims"]
    assert [(c["text"], c["late"]) for c in found] == [(UNDECIDED, True), (HOLDS, False)]
    assert ended.code == ExitCode.COMPLETE, "it is said, and does not decide"
    assert ablate("check", "--allow-undecided").out.count("declared after the first result") == 1
