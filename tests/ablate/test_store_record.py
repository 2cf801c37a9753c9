"""Plans and attempts as events, and the environment they are recorded with."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import ablate
from ablate.space.plan import Arm, Evaluation, Membership, Metric, Plan, Skip, Trial
from ablate.store import open_frames, provenance, studies
from ablate.store.journal import Journal, read_events
from ablate.store.paths import StorePaths
from ablate.store.provenance import environment
from ablate.store.record import DEFAULT_ALPHA, ERROR_HEAD, AttemptRecord, end_attempt, record_plan
from ablate_core.identity import canonical_json, content_id


@pytest.fixture
def paths(tmp_path: Path) -> StorePaths:
    return StorePaths(tmp_path / "runs")


def events(paths: StorePaths, kind: str) -> list[dict]:
    return [event for event in read_events(paths) if event["kind"] == kind]


class Config:
    """Stands in for a TrialConfig: what the store asks of one."""

    train = SimpleNamespace(steps=30)

    def __init__(self, lr: float) -> None:
        self.lr = lr

    def resolved(self) -> dict:
        return {"lr": self.lr}


def plan(**change: object) -> Plan:
    arms = tuple(
        Arm(
            f"arm{n}",
            f"rate {lr}",
            Config(lr),
            {"lr": str(lr)},
            (Membership("grid", "grid", n, f"lr={lr}", "lr", str(lr)),),
            f"arm{n}",
            f"rate {lr}",
        )
        for n, lr in enumerate((0.1, 0.2))
    )
    known = {
        "name": "demo",
        "question": "which rate?",
        "space_yaml": "ablate: 1",
        "space_sha256": "ab",
        "baseline": arms[0],
        "arms": arms,
        "trials": tuple(Trial(f"{a.id}s{s}", "e", a.id, s, a.config) for a in arms for s in (0, 1, 2)),
        "evaluations": tuple(Evaluation(f"{a.id}s{s}", a.id, "e", s, a.config) for a in arms for s in (0, 1, 2)),
        "skips": (Skip("grid", "lr=0.3", "forbidden: too large"),),
        "metric": Metric("fd_digits", "min", "last"),
        "fidelity": None,
        "compare": {"margin": 0.03},
        "published": ({"label": "A1", "fid": 6.09},),
    }
    return Plan(**{**known, **change})


def test_a_plan_becomes_a_study_with_its_arms_and_trials(paths):
    with Journal(paths, "driver") as journal:
        study = record_plan(journal, plan())
    frames = open_frames(paths, "demo")
    assert frames["study"]["study_id"] == study
    assert (frames["study"]["margin"], frames["study"]["alpha"]) == (0.03, DEFAULT_ALPHA)
    assert frames["study"]["metric"] == {"name": "fd_digits", "mode": "min", "at": "last"}
    assert frames["arms"]["label"].tolist() == ["rate 0.1", "rate 0.2"]
    assert json.loads(frames["arms"]["config"][1]) == {"lr": 0.2}
    (first, _) = frames["study_arms"].to_dict("records")
    assert (first["plan"], first["kind"], first["label"]) == ("grid", "grid", "lr=0.1")
    assert (first["axis"], first["level"]) == ("lr", "0.1")
    assert json.loads(first["choice"]) == {"lr": "0.1"}
    assert frames["trials"][["seed", "steps_planned", "status"]].values.tolist() == [
        [seed, 30.0, "planned"] for _ in range(2) for seed in (0, 1, 2)
    ]
    assert frames["skips"].to_dict("records") == [{"plan": "grid", "label": "lr=0.3", "reason": "forbidden: too large"}]
    assert frames["published"] == [{"label": "A1", "fid": 6.09}]


def test_writing_a_plan_twice_changes_nothing_and_another_fidelity_is_another_version_of_the_study(paths):
    with Journal(paths, "driver") as journal:
        assert record_plan(journal, plan()) == record_plan(journal, plan())
        before = open_frames(paths)
        assert len(before["arms"]) == 2
        assert record_plan(journal, plan(fidelity="full", arms=plan().arms[:1])) != before["study"]["study_id"]
    assert open_frames(paths)["arms"]["label"].tolist() == ["rate 0.1"]
    assert len(studies(paths)) == 1


def two_ways() -> Plan:
    """One training of two seeds that two arms measure: the base, and another number of steps."""
    config = Config(0.1)
    arms = tuple(
        Arm(identity, f"nfe {nfe}", config, {"nfe": nfe}, (Membership("g", "grid", n, nfe),), "arm0", "trained")
        for n, (identity, nfe) in enumerate((("arm0", "1"), ("other", "2")))
    )
    trials = tuple(Trial(f"t{s}", f"e{s}-1", "arm0", s, config) for s in (0, 1))
    made = tuple(Evaluation(f"t{s}", a.id, f"e{s}-{a.choice['nfe']}", s, config) for a in arms for s in (0, 1))
    return plan(arms=arms, baseline=arms[0], trials=trials, evaluations=made, skips=(), published=())


def number(value: float, cond: str, draw: int = 0) -> dict:
    return {
        "kind": "measurement", "metric_id": "m", "metric": {"name": "fd", "samples": 5}, "cond_id": cond,
        "condition": {"nfe": cond}, "step": 30, "draw": draw, "n_samples": 5, "value": value,
    }  # fmt: skip


def test_a_network_that_two_arms_measure_is_one_trial_and_its_numbers_stand_under_the_arm_that_asked(paths):
    with Journal(paths, "driver") as journal:
        record_plan(journal, two_ways())
        for seed in (0, 1):
            record = AttemptRecord(journal, f"t{seed}", eval_key=f"e{seed}-1")
            record.report(number(1.0 + seed, "one"))
            record.end("done", step=30, num_parameters=7)
            later = AttemptRecord(journal, f"t{seed}", eval_key=f"e{seed}-2", task="eval")
            later.report(number(3.0 + seed, "two"))
            later.end("done", step=30)
        unasked = AttemptRecord(journal, "t0", eval_key="another", task="eval")
        unasked.report(number(9.0, "three"))
        unasked.report(number(8.0, "one", draw=4))
        unasked.end("done", step=30)
    frames = open_frames(paths, "demo")
    assert frames["trials"][["trial_id", "arm_id", "status"]].values.tolist() == [
        ["t0", "arm0", "done"], ["t1", "arm0", "done"],
    ]  # fmt: skip
    assert frames["arms"][["arm_id", "label", "trained_id", "trained_label", "num_parameters"]].values.tolist() == [
        ["arm0", "nfe 1", "arm0", "trained", 7.0],
        ["other", "nfe 2", "arm0", "trained", 7.0],
    ]
    assert sorted(frames["measurements"][["arm_id", "trial_id", "value", "declared"]].values.tolist()) == [
        ["arm0", "t0", 1.0, True], ["arm0", "t0", 8.0, False], ["arm0", "t0", 9.0, False], ["arm0", "t1", 2.0, True],
        ["other", "t0", 3.0, True], ["other", "t1", 4.0, True],
    ]  # fmt: skip
    assert {k: studies(paths)[0][k] for k in ("arms", "trials", "done")} == {"arms": 2, "trials": 2, "done": 2}


def test_a_number_that_two_evaluations_agree_on_belongs_to_both(paths):
    """``auto`` and ``pushforward`` are one sampler at one step: the number is kept once, and both arms have it."""
    with Journal(paths, "driver") as journal:
        record_plan(journal, two_ways())
        for key in ("e0-1", "e0-2"):
            record = AttemptRecord(journal, "t0", eval_key=key, task="eval")
            record.report(number(1.0, "one"))
            record.end("done", step=30)
    rows = open_frames(paths, "demo")["measurements"]
    assert sorted(rows[["arm_id", "value"]].values.tolist()) == [["arm0", 1.0], ["other", 1.0]]


def test_numbers_of_a_study_that_was_recorded_before_arms_asked_for_them_are_not_judged(paths):
    with Journal(paths, "driver") as journal:
        journal.append("study", {"study_id": "old", "name": "old"})
        journal.append("arm", {"arm_id": "arm0", "label": "a", "config": {}})
        journal.append("study_arm", {"study_id": "old", "arm_id": "arm0", "plan": "p", "label": "a"})
        journal.append("trial", {"trial_id": "t0", "arm_id": "arm0", "seed": 0})
        AttemptRecord(journal, "t0", eval_key="e").report(number(1.0, "one"))
    frames = open_frames(paths, "old")
    assert frames["measurements"]["declared"].isna().all()
    assert frames["arms"]["trained_id"].tolist() == ["arm0"]


def test_an_attempt_is_its_start_its_events_and_its_end(paths):
    with Journal(paths, "attempt") as journal:
        record = AttemptRecord(journal, "ab12", eval_key="e", device="cuda:1", num_gpus=0.5, resumed_from_step=7)
        record.report({"kind": "scalar", "step": 8, "values": {"loss": 1.0}, "wall_seconds": 0.1})
        record.report({"kind": "progress", "step": 8, "steps": 10})
        record.report({"kind": "measurement", "metric_id": "m", "cond_id": "c", "step": 10, "value": 1.0})
        record.report({"kind": "artifact", "artifact": "samples", "path": "x.png", "step": 10})
        record.end("done", step=10, wall_seconds=2.0)
    kinds = [event["kind"] for event in read_events(paths)]
    assert kinds == ["writer", "env", "attempt_started", "scalar", "measurement", "artifact", "attempt_ended"]
    (started,) = events(paths, "attempt_started")
    assert started["uid"] == record.uid
    assert (started["device"], started["num_gpus"], started["resumed_from_step"]) == ("cuda:1", 0.5, 7)
    assert started["env_id"] == events(paths, "env")[0]["env_id"]
    for kind in ("scalar", "measurement", "artifact", "attempt_ended"):
        assert [(e["trial_id"], e["attempt"]) for e in events(paths, kind)] == [("ab12", record.uid)]
    assert events(paths, "measurement")[0]["eval_key"] == events(paths, "attempt_ended")[0]["eval_key"] == "e"
    assert events(paths, "artifact")[0]["path"] == "trials/ab/ab12/x.png"


def test_an_attempt_that_did_not_finish_claims_no_evaluation(paths):
    with Journal(paths, "attempt") as journal:
        AttemptRecord(journal, "ab12", eval_key="e").end("failed", step=3, error_type="OSError", error_head="x" * 9999)
    (ended,) = events(paths, "attempt_ended")
    assert ended["eval_key"] is None
    assert len(ended["error_head"]) == ERROR_HEAD


def test_an_attempt_ends_in_one_of_five_ways(paths):
    with Journal(paths, "driver") as journal, pytest.raises(ValueError, match=r"done, diverged, .* not 'finished'"):
        end_attempt(journal, "t", "finished")


def test_the_environment_is_json_and_its_id_is_the_hash_of_the_rest():
    found = environment()
    assert json.loads(canonical_json(found)) == found
    assert found.pop("env_id") == content_id(found)
    assert found["ablate"] == ablate.__version__
    assert found["packages"]["duckdb"]
    assert found["cpu"]
    assert environment()["env_id"] == environment()["env_id"]


def test_recording_the_environment_imports_neither_torch_nor_duckdb():
    code = (
        "import sys; from ablate.store.record import AttemptRecord; from ablate.store.provenance import environment\n"
        "found = environment(); assert found['torch'] is None\n"
        "assert not {'torch', 'duckdb', 'pandas', 'pyarrow', 'ray'} & set(sys.modules), sorted(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def git(folder: Path, *arguments: str) -> None:
    command = ["git", "-c", "user.name=t", "-c", "user.email=t@t", "-C", str(folder), *arguments]
    subprocess.run(command, check=True, capture_output=True)


def test_the_state_of_the_checkout_is_recorded_and_an_edit_changes_it(tmp_path):
    package = tmp_path / "repo" / "ablate"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    git(tmp_path / "repo", "init", "-q")
    checkout = provenance._checkout.__wrapped__
    assert checkout(str(package))["git_sha"] is None  # in a repository, but not of it
    git(tmp_path / "repo", "add", ".")
    git(tmp_path / "repo", "commit", "-qm", "first")
    clean = checkout(str(package))
    assert len(clean["git_sha"]) == 40
    assert (clean["git_dirty"], clean["diff_sha256"]) == (False, None)
    (package / "__init__.py").write_text("x = 1\n")
    dirty = checkout(str(package))
    assert dirty["git_dirty"] is True
    assert dirty["git_sha"] == clean["git_sha"]
    (package / "__init__.py").write_text("x = 2\n")
    assert checkout(str(package))["diff_sha256"] != dirty["diff_sha256"]


def test_outside_a_checkout_or_without_git_nothing_is_claimed(tmp_path, monkeypatch):
    unknown = {"git_sha": None, "git_dirty": None, "diff_sha256": None}
    checkout = provenance._checkout.__wrapped__
    assert checkout(str(tmp_path)) == unknown
    monkeypatch.setenv("PATH", str(tmp_path))
    assert checkout(str(Path(ablate.__file__).parent)) == unknown
