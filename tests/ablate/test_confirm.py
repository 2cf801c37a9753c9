"""`ablate confirm`: the same arms on seeds that nobody looked at, apart from everything that was explored."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from written_study import Call, call_ablate, measure, plan, value, write

from ablate import open as open_store
from ablate.errors import AblateError, ExitCode
from ablate.launch.confirm import FIRST_SEED, Confirming, confirming, fresh_seeds
from ablate.space.keys import train_key
from ablate.store import Journal, StorePaths, open_frames, record_confirmation, seeds, studies
from ablate_reports import StudyFrames, analyse, sections
from ablate_reports.accounting import by_level
from ablate_reports.findings import confirmation

FRESH = [FIRST_SEED + i for i in range(5)]


@pytest.fixture(scope="module")
def explored(tmp_path_factory: pytest.TempPathFactory) -> StorePaths:
    """A finished study; tests that write take a copy."""
    found = StorePaths(tmp_path_factory.mktemp("confirm") / "store")
    write(found, plan())
    return found


@pytest.fixture
def paths(explored: StorePaths, tmp_path: Path) -> StorePaths:
    shutil.copytree(explored.root, tmp_path / "store")
    return StorePaths(tmp_path / "store")


@pytest.fixture
def ablate(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Call:
    return call_ablate(capsys, monkeypatch, tmp_path)


def run(paths: StorePaths, *labels: str, number: int | None = None, lost: int = 0) -> Confirming:
    """What the command does, without training; the last `lost` evaluations diverge."""
    wanted = plan()
    made = confirming(paths, open_frames(paths, "paths"), [wanted.arm(label).id for label in labels], number)
    survivors = made.plan.evaluations[: len(made.plan.evaluations) - lost]
    with Journal(paths, "driver") as journal:
        record_confirmation(journal, made.plan)
        measure(journal, wanted, made.plan.evaluations, lambda p, e: value(p, e) if e in survivors else None)
    return made


def analysis(paths: StorePaths) -> Any:
    return analyse(StudyFrames.from_mapping(open_frames(paths, "paths")))


def confirmed(paths: StorePaths) -> Any:
    return confirmation(analysis(paths))


@pytest.mark.parametrize(
    ("number", "before", "explored", "found", "stale"),
    [
        (None, [], {0, 1, 2}, FRESH, ()),
        (2, [], {0, 1, 2}, FRESH[:2], ()),
        (None, FRESH[:2], {0, 1}, FRESH[:2], ()),
        (4, FRESH[:2], {0, 1}, FRESH[:4], ()),
        (1, FRESH[:2], {0, 1}, FRESH[:1], ()),
        (2, [], {0, 1500}, [2000, 2001], ()),
        (None, FRESH[:3], {0, 1000}, FRESH[1:3], (1000,)),
        (3, FRESH[:3], {0, 1000}, FRESH[1:4], (1000,)),
        (None, FRESH[:2], {1000, 1001}, [], (1000, 1001)),
        (2, FRESH[:2], {1000, 1001}, [2000, 2001], (1000, 1001)),
    ],
)
def test_seeds_are_those_of_before_and_new_ones_only_when_asked_for(
    number: int | None, before: list[int], explored: set[int], found: list[int], stale: tuple[int, ...]
) -> None:
    assert fresh_seeds(number, before, explored) == (tuple(found), stale)


def test_the_plan_is_the_recorded_arms_on_fresh_seeds(explored: StorePaths) -> None:
    wanted = plan()
    best = wanted.arm("meanflow/0.001")
    made = confirming(explored, open_frames(explored, "paths"), [best.id])
    assert [arm.id for arm in made.plan.arms] == [wanted.baseline.id, best.id]
    assert (made.seeds, made.new) == (tuple(FRESH), 5)
    assert len(made.plan.trials) == 10
    one = next(t for t in made.plan.trials if t.arm_id == best.trained and t.seed == FRESH[0])
    assert one.key == train_key(best.config.model_copy(update={"seed": FRESH[0]}))
    assert made.plan.resources["cpus"] == 1
    assert {m.kind for arm in made.plan.arms for m in arm.memberships} == {"confirm"}


def test_what_confirms_is_in_no_table_of_the_exploration(paths: StorePaths) -> None:
    before = analysis(paths)
    run(paths, "meanflow/0.001", lost=1)
    after = analysis(paths)
    assert after.rows == before.rows
    assert after.situation == before.situation
    assert by_level(after.frames, set()) == by_level(before.frames, set())
    frames = open_frames(paths, "paths")
    assert frames["trials"]["confirm"].sum() == 10
    assert not frames["trials"]["stale"].any()
    places = frames["study_arms"]
    assert places["kind"].tolist()[-2:] == ["confirm", "confirm"], (
        "after all others: the order of the arms is the space's"
    )
    assert studies(paths)[0]["trials"] == 18
    numbers = open_store(paths.root).measurements()
    assert numbers["confirm"].sum() == 9
    assert set(numbers.loc[numbers["confirm"], "seed"]) == set(FRESH)
    found = confirmation(after)
    [one] = found.found
    mine = list(found.model.values)
    assert [arm for arm in after.frames.ordered if arm in mine] == mine, "layers of one training depend on the order"
    assert (after.frames.label(one.arm), one.verdict, one.contrast.n, found.stale) == (
        "meanflow/0.001",
        "better",
        4,
        [],
    )
    assert seeds(paths, "paths") == ({0, 1, 2}, {one.arm: FRESH, plan().baseline.id: FRESH})


def test_only_numbers_that_mean_the_same_confirm(paths: StorePaths) -> None:
    made = confirming(paths, open_frames(paths, "paths"), [plan().arm("meanflow/0.001").id])
    with Journal(paths, "driver") as journal:
        record_confirmation(journal, made.plan)
        measure(journal, plan(), made.plan.evaluations, value, reference_sha256="two")
    found = analysis(paths)
    assert sections.confirmed(found, confirmation(found)) == [
        "meanflow/0.001 is not confirmed: the baseline has no value on fresh seeds.",
        "Of 10 confirming trials, 10 have no value that means the same as the explored ones.",
    ]


def test_a_second_call_continues_and_more_seeds_must_be_asked_for(paths: StorePaths) -> None:
    first = run(paths, "meanflow/0.001", number=2)
    write(paths, replace(plan(), space_sha256="0" * 64))  # an edited space keeps what was confirmed
    again = run(paths, "meanflow/0.001")
    assert (again.seeds, again.new) == (first.seeds, 0)
    assert {t.key for t in again.plan.trials} == {t.key for t in first.plan.trials}
    more = run(paths, "sct_linear/0.001", number=3)
    assert (more.seeds, more.new) == ((*first.seeds, FIRST_SEED + 2), 1)
    assert len(confirmed(paths).found) == 2


def test_seeds_that_are_explored_later_are_stale(paths: StorePaths) -> None:
    run(paths, "meanflow/0.001", number=2)
    write(paths, plan(f"0, 1, 2, {FIRST_SEED}, {FIRST_SEED + 1}"))
    frames = open_frames(paths, "paths")
    assert (frames["trials"]["confirm"].sum(), frames["trials"]["stale"].sum()) == (0, 4)
    found = analysis(paths)
    assert {row.n for row in found.rows} == {5}, "they belong to the exploration now"
    assert confirmation(found).stale == FRESH[:2]
    assert confirmation(found).found[0].verdict == "inconclusive"
    with pytest.raises(AblateError, match=r"seeds 1000, 1001 were run to confirm and explored since.*--seeds 2"):
        confirming(paths, frames, [])
    assert confirming(paths, frames, [], 2).seeds == (2000, 2001)


def test_the_command_picks_the_best_arm_and_says_what_fresh_seeds_say(ablate: Call, paths: StorePaths) -> None:
    shown = json.loads(ablate("confirm", "paths", "--dry-run", "--json").out)
    labels = [arm["label"] for arm in shown["arms"]]
    assert len(labels) == 1
    assert labels[0].startswith("meanflow/")
    assert (shown["seeds"], shown["new_seeds"], len(shown["trials"])) == (FRESH, 5, 10)
    run(paths, labels[0], lost=1)
    ended = ablate("confirm", "paths", "--yes")  # everything is stored: nothing is trained, and Ray is not started
    assert ended.code == ExitCode.COMPLETE
    assert "10 trials, 10 finished in the store" in ended.out
    assert f"Confirmed on 4 fresh seeds: {labels[0]} is better than the baseline fm/0.001, −" in ended.out
    assert "Of 10 confirming trials, 1 diverged." in ended.out


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["pths"], "no study 'pths'"),
        (["paths", "nothing"], "no arm or level is called 'nothing'"),
        (["paths", "baseline"], "the baseline always takes part; name an arm"),
        (["paths", "--seeds", "0"], "--seeds is the number of fresh seeds of each arm, at least 1, got 0"),
    ],
)
def test_a_mistake_is_one_line(
    ablate: Call, explored: StorePaths, monkeypatch: pytest.MonkeyPatch, words: list[str], part: str
) -> None:
    monkeypatch.setenv("ABLATE_HOME", str(explored.root))
    ended = ablate("confirm", *words)
    assert (ended.code, ended.out) == (ExitCode.USAGE, "")
    assert ended.err.count("\n") == 1
    assert part in ended.err


def test_a_baseline_that_is_best_is_not_confirmed_against_itself(ablate: Call, tmp_path: Path) -> None:
    write(
        StorePaths(tmp_path / "store"), plan(), lambda p, e: value(p, e) if e.arm_id == p.baseline.id else 5.0 + e.seed
    )
    ended = ablate("confirm", "paths")
    assert ended.code == ExitCode.USAGE
    assert "its best arm is the baseline, fm/0.001; name an arm" in ended.err


@pytest.mark.slow
def test_it_trains_on_a_real_ray_and_the_report_confirms(ablate: Call, tmp_path: Path) -> None:
    from written_study import SPACE

    (tmp_path / "paths.yaml").write_text(SPACE.format(seeds="0, 1", claims="[]"))
    command = [sys.executable, "-m", "ablate"]
    for words in (["run", "paths.yaml"], ["confirm", "paths", "meanflow/0.001", "--seeds", "2"]):
        done = subprocess.run([*command, *words, "--yes", "--gpus", "0"], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == ExitCode.COMPLETE, done.stderr
    assert "onfirmed on 2 fresh seeds: meanflow/0.001" in done.stdout
    found = analysis(StorePaths(tmp_path / "store"))
    assert {row.n for row in found.rows} == {2}
    assert confirmation(found).found[0].contrast.n == 2
    events = [json.loads(line) for line in ablate("confirm", "paths", "--json").out.splitlines()]
    assert [event["event"] for event in events] == ["summary", "confirmed"]
    assert events[0]["skipped"] == 4
    assert events[1]["confirmed"]["arms"][0]["contrast"]["n"] == 2
    report = json.loads(ablate("report", "--json", "--out", "-").out)
    assert report["findings"]["confirmed"] == events[1]["confirmed"]
