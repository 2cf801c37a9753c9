"""`ablate eval --rescore`: another reference, the same samples. Attempts are made in this process, without Ray."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ablate.errors import AblateError, ExitCode
from ablate.launch import agenda as agendas
from ablate.launch.attempt import Context, run_attempt
from ablate.launch.rescore import rescore_networks
from ablate.space import expand, space_from_text
from ablate.store import Journal, StorePaths, check, measured, open_frames, read_events, record_plan, states
from ablate_core.config import TrialConfig
from ablate_core.evaluation import condition
from ablate_core.fid.fd_digits import digits_extractor
from ablate_core.fid.frechet import frechet_distance, moments
from ablate_core.identity import content_id, diff
from ablate_reports import StudyFrames, analyse, render_html

SPACE = """
name: again
base:
  objective: meanflow
  architecture: {name: sit, size: tiny/4, depth: 1, width: 16, heads: 2}
  data: digits
  train: {steps: 8, batch_size: 16, lr: 5e-3, checkpoint_every: 8}
  eval: {metric: fd_digits, samples: 120, every: 4, gallery: 4, keep_statistics: true, also: [kid, curve], sizes: [60]}
axes: {objective: [meanflow, fm]}
plans: {ways: {kind: grid, axes: [objective]}}
seeds: 1
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> StorePaths:
    """Trials of two arms, measured at steps 4 and 8."""
    paths = StorePaths(tmp_path_factory.mktemp("again") / "store")
    plan = expand(space_from_text(SPACE, name="again"))
    with Journal(paths, "driver") as journal:
        record_plan(journal, plan)
    with Journal(paths, "attempt") as journal:
        for task in agendas.agenda(plan, states(paths), measured(paths)).tasks:
            assert run_attempt(task, Context(str(paths.root)), journal).status == "done"
    return paths


@pytest.fixture
def store(trained: StorePaths, tmp_path: Path) -> StorePaths:
    """A copy to write into."""
    shutil.copytree(trained.root, tmp_path / "store")
    return StorePaths(tmp_path / "store")


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    """Moments of the features of half of the digits."""
    data = TrialConfig.model_validate({"schedule": "linear", "objective": "fm", "architecture": "mlp",
                                       "data": "digits", "train": {"steps": 1, "batch_size": 1}}).data  # fmt: skip
    half = moments(digits_extractor().features(data.to_uint8(data.load().x[::2])))
    np.savez(tmp_path / "half.npz", mu=half.mean, sigma=half.cov)
    return tmp_path / "half.npz"


def test_kept_samples_are_scored_against_another_reference_under_another_identity(
    store: StorePaths, reference: Path
) -> None:
    before = open_frames(store, "again")["measurements"]
    found = rescore_networks(store, ["again"], str(reference))
    assert found.refused == []
    assert [(r["step"], r["new"]) for r in found.rows] == [(4, True), (8, True)] * 2
    with np.load(reference) as arrays:
        other = type(digits_extractor().reference)(arrays["mu"], arrays["sigma"])
    frames = open_frames(store, "again")
    defs = {d["metric_id"]: json.loads(d["definition"]) for d in frames["metric_defs"].to_dict("records")}
    for row in found.rows:
        with np.load(store.trial(row["trial"]) / _statistics(store, row)) as kept:
            cov = np.zeros((48, 48))
            cov[np.triu_indices(48)] = kept["sigma_upper"]
            own = type(other)(kept["mu"], cov + np.triu(cov, 1).T)
        assert row["value"] == pytest.approx(frechet_distance(own, other), rel=1e-12)
        assert row["before"] == pytest.approx(frechet_distance(own, digits_extractor().reference), rel=1e-12)
        assert row["metric_id"] == content_id(defs[row["metric_id"]]) != row["was"]
        assert {f.split(".")[0] for f in diff(defs[row["metric_id"]], defs[row["was"]])} == {"reference"}
    after = frames["measurements"]
    assert len(after) == len(before) + 4
    assert not after[after["metric_id"] == found.rows[0]["metric_id"]]["declared"].any(), "the study did not ask for it"
    again = rescore_networks(store, [], str(reference))
    assert [r["new"] for r in again.rows] == [False] * 4
    assert [r["value"] for r in again.rows] == [r["value"] for r in found.rows]
    assert list(check(store)) == []


def _statistics(store: StorePaths, row: dict[str, Any]) -> str:
    (file,) = store.trial(row["trial"]).glob(f"statistics-{row['was']}-*-{row['step']:08d}.npz")
    return file.name


def test_the_report_compares_the_number_of_all_samples_and_keeps_what_is_beside_it_apart(
    store: StorePaths, reference: Path
) -> None:
    rescore_networks(store, ["again"], str(reference))
    frames = StudyFrames.from_mapping(open_frames(store, "again"))
    analysis = analyse(frames)
    assert analysis.primary is not None
    assert analysis.primary.metric["samples"] == 120
    assert analysis.primary.metric["reference"]["data"] == "sklearn-digits"
    beside = {(g.name, g.metric["samples"]) for g in analysis.groups if g is not analysis.primary}
    assert beside == {("fd_digits", 60), ("fd_digits", 120), ("kd_digits", 120)}
    (family,) = [f for f in analysis.findings.samples if len(f.metric_ids) > 1]
    assert list(family.metric_ids) == [60, 120]
    assert "kernel distance on digit-classifier features" in render_html(frames)


def test_another_machines_features_of_the_fixed_images_are_a_problem_of_the_store(store: StorePaths) -> None:
    event = next(e for e in read_events(store) if e["kind"] == "measurement")
    kept = event["extra"]["canary"]
    for step, factor in ((100, 1 + 1e-5), (101, 1.002)):
        extra = {"canary": [value * factor for value in kept]}
        other = {k: v for k, v in event.items() if k not in ("v", "uid", "at", "kind", "attempt")}
        with Journal(store, "attempt") as journal:
            journal.append("measurement", {**other, "step": step, "extra": extra})
    (problem,) = check(store)
    assert problem.startswith(f"metric {event['metric_id']}: features of the fixed test images on an unknown machine")
    assert "are 2.0e-03 from those on" in problem
    assert "not comparable" in problem


def test_a_file_of_an_earlier_version_is_of_the_newest_step(store: StorePaths, reference: Path) -> None:
    for trial in {r["trial"] for r in rescore_networks(store, [], str(reference)).rows}:
        for file in store.trial(trial).glob("statistics-*.npz"):
            with np.load(file) as kept:
                arrays = {name: kept[name] for name in kept.files if name != "step"}
            newest = file.name.endswith("-00000008.npz")
            file.unlink()
            if newest:
                np.savez(file.with_name(file.name.replace("-00000008", "")), **arrays)
    assert [(r["step"], r["new"]) for r in rescore_networks(store, [], str(reference)).rows] == [(8, False)] * 2


def test_what_cannot_be_scored_is_named(store: StorePaths, reference: Path) -> None:
    first, second = (store.trial(key) for key in sorted(states(store)))
    for file in first.glob("statistics-*"):
        file.unlink()
    damaged, other = sorted(second.glob("statistics-*"))
    damaged.write_bytes(b"PK")
    other.rename(other.with_name("statistics-0123456789ab-0123456789ab-00000008.npz"))
    found = rescore_networks(store, [], str(reference))
    assert found.rows == []
    text = "\n".join(sorted(found.refused))
    assert f"no statistics are left in {first}" in text
    assert "cannot be read" in text
    assert "belongs to no measurement of this store" in text


@pytest.mark.parametrize(("name", "message"), [("none.npz", "no file"), ("wide.npz", r"needs \(48,\) and \(48, 48\)")])
def test_a_reference_that_does_not_do_is_one_line(store: StorePaths, tmp_path: Path, name: str, message: str) -> None:
    np.savez(tmp_path / "wide.npz", mu=np.zeros(3), sigma=np.eye(3))
    with pytest.raises(AblateError, match=f"^--reference: .*{message}") as refused:
        rescore_networks(store, [], str(tmp_path / name))
    assert "\n" not in str(refused.value)


def test_the_command_prints_the_numbers_and_says_what_goes_together(
    store: StorePaths, reference: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from ablate.cli import main

    def call(*words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["ablate", "eval", *words, "--store", str(store.root)])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0)

    against = ("--reference", str(reference))
    assert call("again", "--rescore", *against, "--json") == ExitCode.COMPLETE
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 4
    assert all(r["new"] and r["value"] > 0 and r["metric"] == "fd_digits" for r in rows)
    assert call("again", "--rescore", *against) == ExitCode.COMPLETE
    assert capsys.readouterr().out.count("in the store already") == 4
    assert call("again", *against) == ExitCode.USAGE
    assert "--reference: is for --rescore" in capsys.readouterr().err
    assert call("again", "--rescore") == ExitCode.USAGE
    assert "against what?" in capsys.readouterr().err
    assert call("again", "--rescore", *against, "--set", "eval.nfe=2") == ExitCode.USAGE
    assert "--rescore draws no samples" in capsys.readouterr().err


def test_the_condition_is_the_one_of_the_samples(store: StorePaths, reference: Path) -> None:
    plan = expand(space_from_text(SPACE, name="again"))
    rescore_networks(store, [], str(reference))
    conditions = set(open_frames(store, "again")["measurements"]["cond_id"])
    assert conditions == {content_id(condition(plan.arms[0].config, 10))}
