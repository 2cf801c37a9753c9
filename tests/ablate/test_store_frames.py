"""What readers get: the frames of a report, states, costs, one trial, and the check of the whole."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from ablate.errors import NotHereError
from ablate.store import (
    Ingester,
    Journal,
    StorePaths,
    check,
    finished,
    measured,
    open_frames,
    rebuild,
    states,
    studies,
    throughput,
    trial_detail,
)
from ablate.store.record import AttemptRecord, end_attempt

TEXT, WHOLE, REAL, TIME, YES_NO = "str", "int64", "float64", "datetime64[us]", "bool"
DTYPES = {
    "arms": {"arm_id": TEXT, "label": TEXT, "config": TEXT, "num_parameters": REAL},
    "study_arms": {
        "arm_id": TEXT, "plan": TEXT, "kind": TEXT, "position": WHOLE, "label": TEXT, "axis": TEXT, "level": TEXT,
        "choice": TEXT,
    },
    "trials": {
        "trial_id": TEXT, "arm_id": TEXT, "seed": WHOLE, "status": TEXT, "reason": TEXT, "steps_planned": REAL,
        "steps_done": WHOLE, "wall_seconds": REAL, "cpu_seconds": REAL, "gpu_seconds": REAL, "peak_mem_mb": REAL,
        "attempts": WHOLE,
    },
    "measurements": {
        "trial_id": TEXT, "arm_id": TEXT, "seed": WHOLE, "metric_id": TEXT, "metric_name": TEXT, "cond_id": TEXT,
        "step": WHOLE, "draw": WHOLE, "n_samples": WHOLE, "value": REAL, "wall_seconds": REAL,
    },
    "curves": {"trial_id": TEXT, "arm_id": TEXT, "seed": WHOLE, "step": WHOLE, "name": TEXT, "value": REAL},
    "artifacts": {
        "trial_id": TEXT, "arm_id": TEXT, "seed": WHOLE, "kind": TEXT, "step": WHOLE, "path": TEXT, "mime": TEXT,
        "width": REAL, "height": REAL, "rows": REAL, "cols": REAL,
    },
    "metric_defs": {"metric_id": TEXT, "name": TEXT, "definition": TEXT, "higher_is_better": YES_NO},
    "conditions": {"cond_id": TEXT, "definition": TEXT},
    "environments": {"env_id": TEXT, "definition": TEXT},
    "attempts": {
        "trial_id": TEXT, "attempt": WHOLE, "host": TEXT, "device": TEXT, "started_at": TIME, "ended_at": TIME,
        "status": TEXT, "error_head": TEXT,
    },
    "skips": {"plan": TEXT, "label": TEXT, "reason": TEXT},
}  # fmt: skip


def write_study(journal: Journal, name: str, arms: dict[str, str], **more: object) -> None:
    journal.append(
        "study",
        {
            "study_id": f"id-{name}",
            "name": name,
            "question": "which?",
            "baseline_arm_id": next(iter(arms), None),
            "metric": {"name": "fd", "mode": "min", "at": "last"},
            "margin": 0.02,
            "alpha": 0.05,
            "space_yaml": f"name: {name}",
            "version": "0.1.0",
            **more,
        },
    )
    for position, (arm, label) in enumerate(arms.items()):
        journal.append("arm", {"arm_id": arm, "label": label, "config": {"arm": arm}})
        place = {
            "plan": "paper",
            "plan_kind": "list",
            "position": position,
            "label": label,
            "choice": {"objective": arm},
        }
        journal.append("study_arm", {"study_id": f"id-{name}", "arm_id": arm, **place})
        for seed in (0, 1):
            trial = {"trial_id": f"{arm}{seed}", "arm_id": arm, "seed": seed, "steps_planned": 20}
            journal.append("trial", trial)


def run_trial(journal: Journal, trial: str, status: str = "done", value: float | None = 2.0) -> AttemptRecord:
    record = AttemptRecord(journal, trial, eval_key=f"eval-{trial}", num_gpus=0.5)
    for step in (10, 20):
        record.report({"kind": "scalar", "step": step, "values": {"loss": 1 / step}, "wall_seconds": step / 10})
        record.report({"kind": "progress", "step": step, "steps": 20})
    folder = journal.paths.trial(trial)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "samples.png").write_bytes(b"png")
    picture = {"path": "samples.png", "mime": "image/png", "width": 8, "height": 8, "rows": 1, "cols": 1}
    record.report({"kind": "artifact", "artifact": "samples", "step": 20, "cond_id": "c", **picture})
    record.report(
        {
            "kind": "measurement",
            "metric_id": "m",
            "metric": {"name": "fd", "samples": 50, "higher_is_better": False},
            "cond_id": "c",
            "condition": {"nfe": 1},
            "step": 20,
            "draw": 0,
            "n_samples": 50,
            "value": value,
            "extra": {},
        }
    )
    costs = {"wall_seconds": 4.0, "cpu_seconds": 3.0, "gpu_seconds": 2.0, "peak_mem_mb": 100.0, "num_parameters": 1234}
    record.end(status, step=20, **costs)
    return record


@pytest.fixture
def paths(tmp_path: Path) -> StorePaths:
    return StorePaths(tmp_path / "runs")


@pytest.fixture
def journal(paths: StorePaths):
    with Journal(paths, "driver") as journal:
        yield journal


@pytest.mark.parametrize("filled", [True, False])
@pytest.mark.parametrize("published", [True, False])
def test_the_frames_have_the_agreed_columns_and_types_even_when_empty(paths, journal, filled, published):
    write_study(journal, "demo", {"a": "base", "b": "other"} if filled else {})
    if filled:
        run_trial(journal, "a0")
    if published:
        rebuild(paths)
    frames = open_frames(paths)
    for name, dtypes in DTYPES.items():
        frame = frames[name]
        assert list(frame.columns[: len(dtypes)]) == list(dtypes), name
        assert {column: str(frame[column].dtype) for column in dtypes} == dtypes, name
        assert len(frame) == 0 or filled
    assert set(frames) == {*DTYPES, "study", "published"}


def test_a_study_while_it_runs(paths, journal):
    skip = {"plan": "paper", "label": "c", "reason": "does not exist yet"}
    write_study(journal, "demo", {"a": "base", "b": "other"}, skips=[skip], published=[{"label": "A1", "fid": 6.09}])
    run_trial(journal, "a0")
    run_trial(journal, "a1", "diverged", value=float("nan"))
    record = AttemptRecord(journal, "b0", resumed_from_step=10)
    record.report({"kind": "scalar", "step": 15, "values": {"loss": float("inf")}})
    frames = open_frames(paths, "demo")
    study = frames["study"]
    assert study["metric"] == {"name": "fd", "mode": "min", "at": "last"}
    assert (study["name"], study["baseline_arm_id"], study["margin"], study["alpha"]) == ("demo", "a", 0.02, 0.05)
    assert study["created_at"].endswith("Z")
    assert frames["published"] == [{"label": "A1", "fid": 6.09}]
    assert frames["skips"].to_dict("records") == [skip]
    trials = frames["trials"].set_index("trial_id")
    assert trials["status"].to_dict() == {"a0": "done", "a1": "diverged", "b0": "running", "b1": "planned"}
    assert trials["steps_done"].to_dict() == {"a0": 20, "a1": 20, "b0": 15, "b1": 0}
    assert trials["attempts"].to_dict() == {"a0": 1, "a1": 1, "b0": 1, "b1": 0}
    assert trials.loc["a0", "wall_seconds"] == 4.0
    values = frames["measurements"].set_index("trial_id")["value"]
    assert values["a0"] == 2.0
    assert pd.isna(values["a1"])
    assert set(frames["measurements"]["metric_name"]) == {"fd"}
    assert pd.isna(frames["curves"].set_index("trial_id").loc["b0", "value"])
    assert frames["arms"].set_index("arm_id")["num_parameters"].to_dict()["a"] == 1234
    assert frames["artifacts"]["path"].tolist() == [str(paths.trial(t) / "samples.png") for t in ("a0", "a1")]
    assert Path(frames["artifacts"]["path"][0]).read_bytes() == b"png"
    assert len(frames["environments"]) == 1
    assert finished(paths) == {"a0": "done", "a1": "diverged"}
    assert measured(paths) == {("a0", "eval-a0")}
    assert throughput(paths) == {"a": 0.2}


def test_a_trial_that_two_studies_share_belongs_to_both_under_each_ones_label(paths, journal):
    write_study(journal, "one", {"a": "base", "b": "tweak"})
    write_study(journal, "two", {"b": "control", "c": "new"})
    run_trial(journal, "b0")
    one, two = open_frames(paths, "one"), open_frames(paths, "two")
    assert one["measurements"]["trial_id"].tolist() == two["measurements"]["trial_id"].tolist() == ["b0"]
    assert one["arms"].set_index("arm_id")["label"].to_dict() == {"a": "base", "b": "tweak"}
    assert two["arms"].set_index("arm_id")["label"].to_dict() == {"b": "control", "c": "new"}
    assert sorted(two["trials"]["trial_id"]) == ["b0", "b1", "c0", "c1"]
    assert open_frames(paths)["study"]["name"] == "two"  # the one that ran last
    listed = {study["name"]: study for study in studies(paths)}
    assert list(listed) == ["two", "one"]
    assert {k: listed["one"][k] for k in ("arms", "trials", "done", "other")} == {
        "arms": 2, "trials": 4, "done": 1, "other": 3,
    }  # fmt: skip


def test_of_a_study_whose_space_was_edited_the_newest_version_is_shown(paths, journal):
    write_study(journal, "demo", {"a": "base", "b": "gone"})
    write_study(journal, "demo", {"a": "base"}, study_id="id-demo-2")
    journal.append("study_arm", {"study_id": "id-demo-2", "arm_id": "a", "plan": "p", "label": "base"})
    assert open_frames(paths, "demo")["arms"]["arm_id"].tolist() == ["a"]
    assert open_frames(paths, "id-demo")["arms"]["arm_id"].tolist() == ["a", "b"]
    assert len(studies(paths)) == 1


def test_steps_repeated_after_a_resume_appear_once(paths, journal):
    write_study(journal, "demo", {"a": "base"})
    first, second = AttemptRecord(journal, "a0"), AttemptRecord(journal, "a0", resumed_from_step=10)
    for record, steps, factor in ((first, (10, 20, 30), 1.0), (second, (20, 30, 40), 2.0)):
        for step in steps:
            record.report({"kind": "scalar", "step": step, "values": {"loss": step * factor}})
    curves = open_frames(paths)["curves"]
    assert curves["step"].tolist() == [10, 20, 30, 40]
    assert curves["value"].tolist() == [10.0, 40.0, 60.0, 80.0]  # what the trial went on from


def test_a_report_reads_the_curves_of_one_scalar(paths, journal):
    write_study(journal, "demo", {"a": "base"})
    AttemptRecord(journal, "a0").report({"kind": "scalar", "step": 10, "values": {"loss": 1.0, "lr": 0.1}})
    asked = []
    curves = open_frames(paths, curves=lambda names: asked.extend(sorted(names)) or "loss")["curves"]
    assert asked == ["loss", "lr"]
    assert curves["name"].tolist() == ["loss"]
    assert len(open_frames(paths, curves=lambda names: None)["curves"]) == 0
    assert len(open_frames(paths)["curves"]) == 2


def test_a_killed_attempt_is_lost_and_its_successor_decides(paths, journal):
    write_study(journal, "demo", {"a": "base"})
    code = (
        "import os, sys; from ablate.store.journal import Journal; from ablate.store.paths import StorePaths\n"
        "from ablate.store.record import AttemptRecord\n"
        "AttemptRecord(Journal(StorePaths(sys.argv[1]), 'attempt'), 'a0'); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(paths.root)], check=False).returncode == -9
    state = states(paths)["a0"]
    assert (state.status, state.lost, state.attempts) == ("lost", 1, 1)
    assert "without a word" in state.reason
    assert states(paths)["a1"].status == "planned"
    run_trial(journal, "a0")
    frames = open_frames(paths)
    assert frames["attempts"]["status"].tolist() == ["lost", "done"]
    assert frames["attempts"]["attempt"].tolist() == [1, 2]
    assert frames["trials"].set_index("trial_id").loc["a0", "status"] == "done"


def test_when_process_and_driver_both_say_how_an_attempt_ended_the_one_that_claims_most_counts(paths, journal):
    write_study(journal, "demo", {"a": "base", "b": "other"})
    uid = run_trial(journal, "a0").uid
    end_attempt(journal, "a0", "lost", attempt=uid, error_type="WorkerDied")
    record = AttemptRecord(journal, "b0")
    end_attempt(journal, "b0", "failed", error_type="SIGSEGV")  # the driver does not know which attempt it was
    end_attempt(journal, "b1", "failed", error_type="never started")
    attempts = open_frames(paths)["attempts"]
    assert list(zip(attempts["trial_id"], attempts["status"], strict=True)) == [
        ("a0", "done"), ("b0", "failed"), ("b1", "failed"),
    ]  # fmt: skip
    assert states(paths)["b0"].error_type == "SIGSEGV"
    assert record.uid


def test_an_evaluation_that_was_cut_short_does_not_count_as_measured(paths, journal):
    write_study(journal, "demo", {"a": "base"})
    run_trial(journal, "a0")
    later = AttemptRecord(journal, "a0", eval_key="other", task="eval")
    value = {"metric_id": "m", "cond_id": "c2", "step": 20, "n_samples": 50, "value": 1.0}
    later.report({"kind": "measurement", **value})
    assert measured(paths) == {("a0", "eval-a0")}
    later.end("done", step=20, wall_seconds=100.0)
    assert measured(paths) == {("a0", "eval-a0"), ("a0", "other")}
    assert throughput(paths) == {"a": 0.2}
    assert open_frames(paths)["trials"].set_index("trial_id").loc["a0", "wall_seconds"] == 4.0


def test_a_resumed_attempt_is_timed_over_its_own_steps(paths, journal):
    write_study(journal, "demo", {"a": "base"})
    AttemptRecord(journal, "a0").end("interrupted", step=10, wall_seconds=1.0)
    AttemptRecord(journal, "a0", resumed_from_step=10).end("done", step=20, wall_seconds=3.0)
    assert throughput(paths) == {"a": pytest.approx(4.0 / 20)}


def test_the_seconds_of_a_trial_that_shared_its_process_are_its_part_of_the_slot(tmp_path: Path) -> None:
    paths = StorePaths(tmp_path)
    with Journal(paths, "test") as journal:
        write_study(journal, "s", {"a": "A"})
        alone, packed = AttemptRecord(journal, "a0"), AttemptRecord(journal, "a1", packed=4)
        alone.end("done", step=20, wall_seconds=10.0, cpu_seconds=9.0)
        packed.end("done", step=20, wall_seconds=20.0, cpu_seconds=4.0)
    trials = open_frames(paths, "s")["trials"].set_index("trial_id")
    assert trials["wall_seconds"].to_dict() == {"a0": 10.0, "a1": 5.0}
    assert trials["cpu_seconds"].to_dict() == {"a0": 9.0, "a1": 4.0}
    assert throughput(paths) == {"a": pytest.approx(15 / 40)}
    (attempt,) = trial_detail(paths, "a1")["attempts"]
    assert (attempt["wall_seconds"], attempt["packed"]) == (20.0, 4)


def test_everything_about_one_trial_by_the_beginning_of_its_key(paths, journal):
    write_study(journal, "demo", {"alpha": "base", "beta": "other"})
    run_trial(journal, "alpha0")
    run_trial(journal, "beta1", "failed")
    detail = trial_detail(paths, "alpha0")
    assert (detail["label"], detail["seed"], detail["status"], detail["steps_done"]) == ("base", 0, "done", 20)
    assert detail["config"] == {"arm": "alpha"}
    assert detail["studies"] == ["demo"]
    assert detail["measurements"][0]["value"] == 2.0
    assert detail["attempts"][0]["status"] == "done"
    assert detail["attempts"][0]["resumed_from_step"] is None
    assert Path(detail["artifacts"][0]["path"]).is_file()
    assert trial_detail(paths, "beta1")["status"] == "failed"
    with pytest.raises(NotHereError, match=r"several trials begin with 'b' \(beta0, beta1"):
        trial_detail(paths, "b")
    with pytest.raises(NotHereError, match="no trial begins with 'x'"):
        trial_detail(paths, "x")


def test_a_store_that_is_not_there_is_empty_and_stays_unmade(paths):
    assert (finished(paths), measured(paths), states(paths), studies(paths), throughput(paths)) == (
        {},
        set(),
        {},
        [],
        {},
    )
    assert check(paths) == []
    with pytest.raises(NotHereError, match="no study; there is none yet") as error:
        open_frames(paths)
    assert error.value.exit_code == 2
    assert not paths.root.exists()


def test_an_unknown_study_is_answered_with_those_there_are(paths, journal):
    write_study(journal, "demo", {"a": "base"})
    with pytest.raises(NotHereError, match="'dmeo'; there are demo"):
        open_frames(paths, "dmeo")


def test_reading_leaves_no_result_open_and_no_warning(paths, journal):
    """An open result over text columns at exit aborts the process (DuckDB 2.0.0), and `.df()` warns with pandas 3."""
    write_study(journal, "demo", {"a": "base"})
    run_trial(journal, "a0")
    code = (
        "import sys; from ablate.store import StorePaths, open_frames, trial_detail, check\n"
        "paths = StorePaths(sys.argv[1]); kept = open_frames(paths), trial_detail(paths, 'a0'), check(paths)"
    )
    command = [sys.executable, "-W", "error", "-c", code, str(paths.root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_healthy_store_has_no_problems(paths, journal):
    write_study(journal, "demo", {"a": "base"})
    run_trial(journal, "a0")
    assert check(paths) == []


def test_every_problem_is_found_and_said_in_one_line(paths, journal):
    write_study(journal, "demo", {"a": "base"})
    run_trial(journal, "a0")
    (paths.trial("a0") / "samples.png").unlink()
    row = {"cond_id": "c", "step": 1, "n_samples": 50, "value": 1.0}
    journal.append("measurement", {**row, "trial_id": "stray", "metric_id": "m"})
    journal.append("measurement", {**row, "trial_id": "a1", "metric_id": "unknown"})
    journal.append("measurement", {**row, "trial_id": "a1", "metric_id": "m", "n_samples": 49})
    journal.append("measurement", {**row, "trial_id": "a1", "metric_id": "late", "n_samples": 49})
    with Ingester(paths) as ingester:
        ingester.ingest()
    journal.append("metric_def", {"metric_id": "late", "definition": {"name": "late", "samples": 50}})
    journal.append("trial", {"trial_id": "orphan", "arm_id": "nowhere", "seed": 0})
    with journal.file.open("ab") as stream:
        stream.write(b'{"torn\n')
    with Ingester(paths) as ingester:
        ingester.ingest()
        ingester.publish_snapshot()
    expected = [
        "1 measurement(s) of trial stray",
        "1 trial(s) of arm nowhere",
        "under metric unknown",
        "of trial a1 used another number of samples than metric late",
        "49 samples were used, its metric is defined for 50",
        "1 torn line(s)",
        "samples.png of trial a0 is missing",
    ]
    problems = check(paths)
    assert len(problems) == len(expected)
    for fragment in expected:
        assert sum(fragment in problem for problem in problems) == 1, fragment
    assert not any("\n" in problem for problem in problems)


def test_a_journal_that_vanished_or_shrank_is_reported(paths, journal):
    write_study(journal, "demo", {"a": "base"})
    with Journal(paths, "attempt") as other:
        other.append("trial", {"trial_id": "x", "arm_id": "a", "seed": 5})
        other.append("trial", {"trial_id": "y", "arm_id": "a", "seed": 6})
    rebuild(paths)
    file = next(f for f in paths.journals() if f != journal.file)
    os.truncate(file, file.stat().st_size // 2)
    (problem,) = check(paths)
    assert f"{file.name} is shorter than what was read" in problem
    file.unlink()
    (problem,) = check(paths)
    assert f"{file.name} is gone" in problem
