"""Axes under eval, and `ablate eval`: one training, many numbers. Attempts are made in this process, without Ray."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ablate.errors import AblateError, ExitCode, NotHereError
from ablate.launch import agenda as agendas
from ablate.launch.attempt import Context, Task, run_attempt
from ablate.launch.evaluate import Asked, asked, changed, combinations, networks
from ablate.space import estimate, expand, space_from_text
from ablate.space.plan import Plan
from ablate.store import Journal, StorePaths, measured, open_frames, read_events, record_plan, states, studies
from ablate_core import checkpoint
from ablate_reports import StudyFrames, analyse, render_html, render_markdown

SPACE = """
name: ways
base:
  objective: meanflow
  architecture: {name: mlp, width: 16, depth: 1}
  data: {name: gaussians, size: 400}
  train: {steps: 32, batch_size: 16, lr: 5e-3, log_every: 16, checkpoint_every: 16, snapshot_every: 2}
  eval: {metric: energy_distance, samples: 60, gallery: 4}
axes:
  objective: [meanflow, fm]
  nfe: {path: eval.nfe, levels: [%s]}
  ema: {path: eval.ema, levels: [0.99, {sigma_rel: 0.15}], label: {sigma_rel=0.15: post-hoc 0.15}}
plans:
  steps: {kind: grid, axes: [objective, nfe]}
  lengths: {kind: ofat, axes: [ema]}
seeds: 2
"""


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint.os, "fsync", lambda handle: None)


def plan(nfe: str = "1, 2", text: str = SPACE) -> Plan:
    return expand(space_from_text(text % nfe if "%s" in text else text, name="ways"))


def work(paths: StorePaths, tasks: list[Task]) -> list[str]:
    context = Context(str(paths.root))
    with Journal(paths, "attempt") as journal:
        return [run_attempt(task, context, journal).status for task in tasks]


def run(paths: StorePaths, wanted: Plan) -> list[Task]:
    """What `run_plan` does, one task after another."""
    with Journal(paths, "driver") as journal:
        record_plan(journal, wanted)
    todo = agendas.agenda(wanted, states(paths), measured(paths))
    assert set(work(paths, list(todo.tasks))) <= {"done"}
    return list(todo.tasks)


def trainings(paths: StorePaths) -> Counter[str]:
    """Trial -> how often training it was begun."""
    events = [e for e in read_events(paths) if e["kind"] == "attempt_started"]
    return Counter(e["trial_id"] for e in events if e["task"] == "train")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> StorePaths:
    """A finished study; tests that write take a copy."""
    paths = StorePaths(tmp_path_factory.mktemp("ways") / "store")
    run(paths, plan())
    return paths


@pytest.fixture
def copied(store: StorePaths, tmp_path: Path) -> StorePaths:
    import shutil

    shutil.copytree(store.root, tmp_path / "store")
    return StorePaths(tmp_path / "store")


# -- axes


def test_a_plan_trains_once_and_measures_every_level() -> None:
    wanted = plan()
    assert [arm.label for arm in wanted.arms] == ["meanflow/1", "meanflow/2", "fm/1", "fm/2", "post-hoc 0.15"]
    assert [arm.trained_label for arm in wanted.arms] == ["meanflow", "meanflow", "fm", "fm", "meanflow"]
    assert len({arm.trained for arm in wanted.arms}) == 2
    assert (len(wanted.trials), len(wanted.evaluations)) == (4, 10)
    assert len({arm.id for arm in wanted.arms}) == 5
    assert wanted.baseline.id == wanted.baseline.trained, "measured as the base is: the id it has always had"


def test_the_cost_counts_each_training_once() -> None:
    wanted = plan()
    cost = estimate(wanted)
    assert (cost["to_train"], cost["steps"], cost["evaluations"], cost["to_evaluate"]) == (4, 4 * 32, 10, 6)
    assert "4 of 4 trials to train, 128 steps, 6 evaluations of trained networks beside" in cost["text"]
    done = {trial.key: "done" for trial in wanted.trials}
    own = {(trial.key, trial.eval_key) for trial in wanted.trials}
    assert (
        "all 4 trials are finished; 6 evaluations of trained networks to make"
        in estimate(wanted, done, measured=own)["text"]
    )
    assert estimate(wanted, dict.fromkeys(done, "diverged"))["to_evaluate"] == 0


def test_levels_that_measure_alike_are_one_arm() -> None:
    """With one step there is but one sampler, and null is the longest average kept."""
    text = SPACE.replace("levels: [%s]", "levels: [1, 2]").replace(
        "plans:",
        "  sampler: {path: eval.sampler, levels: [auto, restart]}\nplans:\n  s: {kind: grid, axes: [nfe, sampler]}",
    )
    wanted = plan(text=text)
    by = {m.label: arm.label for arm in wanted.arms for m in arm.memberships if m.plan == "s"}
    assert by["1/auto"] == by["1/restart"]
    assert by["2/auto"] != by["2/restart"]
    explicit = SPACE.replace("gallery: 4", "gallery: 4, ema: 0.99")
    assert [a.id for a in plan(text=explicit % "1").arms] == [a.id for a in plan("1").arms]


def test_a_way_of_measuring_that_a_network_does_not_allow_is_skipped_with_the_reason() -> None:
    text = SPACE.replace("[meanflow, fm]", "[meanflow, sct_linear]").replace(
        "[objective, nfe]", "[objective, nfe, sampler]"
    )
    text = text.replace("plans:", "  sampler: {path: eval.sampler, levels: [auto, pushforward]}\nplans:")
    wanted = plan(text=text)
    assert {s.label: s.reason.split(";")[0] for s in wanted.skips if s.plan == "steps"} == {
        "sct_linear/2/pushforward": "C4 eval.sampler: this objective only learns to land at the data (r = 0), so it "
        "cannot stop on the way"
    }


def test_an_axis_over_measuring_needs_no_exception_from_fairness_however_it_is_written() -> None:
    text = SPACE.replace("nfe: {path: eval.nfe, levels: [%s]}", "nfe: {levels: {1: {}, few: {eval: {nfe: 2}}}}")
    assert "meanflow/few" in [arm.label for arm in plan(text=text).arms]


# -- runs


def test_a_run_trains_each_network_once_a_second_run_does_nothing_a_new_level_only_measures(copied: StorePaths) -> None:
    assert run(copied, plan()) == []
    assert set(trainings(copied).values()) == {1}
    added = run(copied, plan("1, 2, 4"))
    assert [(task.kind, task.label) for task in added] == [
        ("eval", "meanflow/4"), ("eval", "fm/4"), ("eval", "meanflow/4"), ("eval", "fm/4"),
    ]  # fmt: skip
    assert set(trainings(copied).values()) == {1}
    assert run(copied, plan("1, 2, 4")) == []
    assert {k: studies(copied)[0][k] for k in ("arms", "trials", "done")} == {"arms": 7, "trials": 4, "done": 4}


def test_a_report_has_each_level_as_an_arm_of_its_own(store: StorePaths) -> None:
    frames = StudyFrames.from_mapping(open_frames(store, "ways"))
    found = analyse(frames)
    assert {row.label for row in found.rows} == {"meanflow/1", "meanflow/2", "fm/1", "fm/2", "post-hoc 0.15"}
    assert all(row.n == 2 for row in found.rows)
    assert len({row.value for row in found.rows}) == 5
    methods = {row.label: row.contrast.method for row in found.rows if row.contrast is not None}
    assert methods["meanflow/2"] in ("within", "welch")
    assert methods["fm/1"] in ("pooled", "welch")
    page = render_html(frames)
    assert "nfe × objective" in page, "the grid has its map"
    assert all(label in page for label in ("meanflow/2", "post-hoc 0.15"))


# -- ablate eval


def test_finished_networks_are_measured_in_other_ways_and_never_again(copied: StorePaths) -> None:
    found = asked(copied, ["ways"], ["eval.nfe=4,8"])
    assert (len(found.tasks), found.skipped, found.refused) == (2 * 2 * 3, [], []), "networks, seeds and lengths x ways"
    assert {task.kind for task in found.tasks} == {"eval"}
    assert set(work(copied, found.tasks)) == {"done"}
    again = asked(copied, ["ways"], ["eval.nfe=8,4"])
    assert (again.tasks, len(again.skipped)) == ([], 12)
    assert set(trainings(copied).values()) == {1}
    text = render_markdown(StudyFrames.from_mapping(open_frames(copied, "ways")))
    assert text.count("Kept apart") == 4, "two numbers of steps, from two averages"
    assert "condition.nfe | 1, 2 | 8" in text.replace("\\", "")
    assert "| fm | " in text


def test_a_study_that_declares_a_level_later_owns_what_was_measured_before(copied: StorePaths) -> None:
    work(copied, asked(copied, ["ways"], ["eval.nfe=4"]).tasks)
    assert run(copied, plan("1, 2, 4")) == []
    found = analyse(StudyFrames.from_mapping(open_frames(copied, "ways")))
    assert {row.label: row.n for row in found.rows}["fm/4"] == 2


def test_several_settings_are_combined_and_equal_ones_are_made_once(store: StorePaths) -> None:
    trial = next(iter(trainings(store)))
    found = asked(store, [trial[:10]], ["eval.nfe=2,4", "eval.sampler=pushforward,auto", "eval.seed=0,1"])
    conditions = {(t.config["eval"]["nfe"], t.config["eval"]["seed"]) for t in found.tasks}
    assert conditions == {(2, 0), (2, 1), (4, 0), (4, 1)}
    assert len(found.tasks) == 4, "auto is pushforward for this network"


def test_samples_of_another_seed_are_another_draw_of_the_same_number(copied: StorePaths) -> None:
    text = SPACE.replace("energy_distance", "fd_digits").replace("{name: gaussians, size: 400}", "digits")
    text = text.replace("{name: mlp, width: 16, depth: 1}", "{name: sit, size: tiny/4, depth: 1, width: 16, heads: 2}")
    text = text.replace("nfe: {path: eval.nfe, levels: [%s]}", "nfe: {path: eval.seed, levels: [0, 1]}")
    text = (
        text.replace("name: ways", "name: draws")
        .replace("seeds: 2", "seeds: 1")
        .replace("[meanflow, fm]", "[meanflow]")
    )
    paths = StorePaths(copied.root.parent / "draws")
    run(paths, plan(text=text))
    rows = open_frames(paths, "draws")["measurements"]
    assert sorted(set(rows["draw"])) == [0, 1]
    seeds = rows[rows["arm_id"] != rows["arm_id"].iloc[0]]
    assert len(set(rows["value"])) == len(rows), "no two numbers are one"
    assert len(seeds) > 0
    pictures = open_frames(paths, "draws")["artifacts"]
    assert len(set(pictures["path"])) == len(pictures) == 3


def test_what_a_network_does_not_allow_is_named_once_and_the_rest_is_measured(copied: StorePaths) -> None:
    found = asked(copied, ["ways"], ["eval.ema={sigma_rel: 0.2},0.5"])
    assert len(found.tasks) == 2 * 2 * 2
    assert len(found.refused) == 2, "one line for what was trained, whatever the seeds and arms"
    assert found.refused[0].startswith("meanflow/1 eval.ema=0.5: C29 eval.ema: no average of decay 0.5 is kept")
    assert found.lost == 0


def test_a_network_without_a_checkpoint_is_named_and_the_others_are_measured(copied: StorePaths) -> None:
    trial = next(iter(trainings(copied)))
    for file in copied.trial(trial).glob("checkpoint*"):
        file.unlink()
    found = asked(copied, ["ways"], ["eval.nfe=4"])
    (line,) = found.refused
    assert trial in line
    assert "no checkpoint is left" in line
    assert found.lost == 1
    assert trial not in {task.key for task in found.tasks}
    assert len(found.tasks) == 4, "meanflow of the other seed from two averages, fm of both seeds"


def test_a_network_that_is_not_trained_yet_is_named(tmp_path: Path) -> None:
    paths = StorePaths(tmp_path)
    with Journal(paths, "driver") as journal:
        record_plan(journal, plan())
    found = asked(paths, [], ["eval.nfe=4"])
    assert (found.tasks, found.lost, len(found.refused)) == ([], 0, 4)
    assert "not evaluated, its training is planned" in found.refused[0]


def test_a_network_of_another_training_semantics_is_not_measured_under_this_one(
    store: StorePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ablate.space import keys

    monkeypatch.setattr(keys, "TRAINING_SEMANTICS", 2)
    found = asked(store, ["ways"], ["eval.nfe=4"])
    assert (found.tasks, found.lost) == ([], 4)
    assert "another trial to this version" in found.refused[0]


def test_names_may_be_studies_and_trials_and_are_taken_once(store: StorePaths) -> None:
    trial = next(iter(trainings(store)))
    assert {n.key for n in networks(store, ["ways", trial])} == set(trainings(store))
    assert [n.key for n in networks(store, [trial[:12]])] == [trial]
    assert {n.key for n in networks(store, ["spaces/ways.yaml"])} == set(trainings(store)), "what people type"
    with pytest.raises(NotHereError, match=r"'xyz' is no study \(ways\)"):
        list(networks(store, ["xyz"]))


def test_without_a_name_the_store_must_hold_one_study(tmp_path: Path) -> None:
    with pytest.raises(NotHereError, match="which study\\? it is empty: run a space first"):
        asked(StorePaths(tmp_path), [], ["eval.nfe=2"])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("eval.nfe", r"--set eval.nfe: write eval.FIELD=VALUE or several values, e.g. eval.nfe=1,2,4"),
        ("train.steps=3", r"only what is under eval can change without a training"),
        ("eval.nfee=3", r"no key is named 'nfee'; did you mean nfe\?"),
        ("eval.every=3", r"it says when a trial is measured, not how"),
        ("eval.gallery=3", r"it changes no number"),
        ("eval=3", r"only what is under eval can change"),
    ],
)
def test_a_setting_that_says_nothing_about_measuring_is_refused(setting: str, message: str) -> None:
    with pytest.raises(AblateError, match=message):
        list(combinations([setting]))


def test_settings_are_yaml_with_commas_between_values() -> None:
    assert [dict(c) for c in combinations(["eval.nfe=1, 2", "eval.ema=null,{sigma_rel: 0.1}"])] == [
        {"eval.nfe": 1, "eval.ema": None}, {"eval.nfe": 1, "eval.ema": {"sigma_rel": 0.1}},
        {"eval.nfe": 2, "eval.ema": None}, {"eval.nfe": 2, "eval.ema": {"sigma_rel": 0.1}},
    ]  # fmt: skip
    assert [dict(c) for c in combinations(["eval.also=[kid, curve],[]"])] == [
        {"eval.also": ["kid", "curve"]}, {"eval.also": []},
    ]  # fmt: skip
    assert list(combinations([])) == [()]
    with pytest.raises(AblateError, match=r"eval\.nfe is set twice"):
        list(combinations(["eval.nfe=1", "eval.nfe=2"]))


def test_a_value_that_a_field_cannot_have_is_one_line() -> None:
    config = plan().arms[0].config.resolved()
    with pytest.raises(AblateError, match=r"^--set eval.nfe=-1: eval.nfe: input should be greater than 0, got -1$"):
        changed(config, (("eval.nfe", -1),))
    with pytest.raises(AblateError, match=r"eval\.sampler: no choice is named 'pushforwrd'; did you mean pushforward"):
        changed(config, (("eval.sampler", "pushforwrd"),))
    ema: Any = changed(config, (("eval.ema", {"sigma_rel": 0.1}),)).eval.ema
    assert ema.sigma_rel == 0.1


def test_the_command_names_what_is_not_possible_and_ends_with_3(
    copied: StorePaths, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The driver is told of no task here; the run itself is tested on a real Ray in test_launch_run.py."""
    import sys

    from ablate.cli import main

    for file in copied.trials.rglob("checkpoint*"):
        file.unlink()

    def call(*words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["ablate", "eval", *words, "--store", str(copied.root)])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0)

    assert call("ways", "--set", "eval.nfe=4") == ExitCode.FAILED_TRIALS
    printed = capsys.readouterr()
    assert printed.err.count("no checkpoint is left") == 4
    assert "0 evaluations to make, 0 in the store already, 4 not possible" in printed.out
    assert call("ways", "--set", "eval.nfe=4", "--json") == ExitCode.FAILED_TRIALS
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [e["event"] for e in events] == ["message"] * 4 + ["summary"]
    assert call("nothing", "--set", "eval.nfe=4") == ExitCode.USAGE
    assert call("ways", "--set", "eval.nfe=0") == ExitCode.USAGE


def test_asked_is_empty_where_everything_is_measured(store: StorePaths) -> None:
    found: Asked = asked(store, [], [])
    assert (found.name, found.tasks, len(found.skipped)) == ("ways", [], 10)


def test_what_the_store_has_is_measured_again_under_the_identity_of_today(
    copied: StorePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An extractor has changed: the old numbers stay, apart; once all networks have new ones, these are compared."""
    from ablate_core import evaluation
    from ablate_reports.pairs import apart

    found = asked(copied, ["ways"], [], again=True)
    assert (len(found.tasks), found.skipped) == (10, [])
    before, build = analyse(StudyFrames.from_mapping(open_frames(copied, "ways"))), evaluation.build_metric

    def changed_metric(*how: Any) -> Any:
        metric = build(*how)
        metric.definition = metric.definition | {"weights": "of today"}
        return metric

    monkeypatch.setattr(evaluation, "build_metric", changed_metric)
    for task in found.tasks[:1]:
        assert work(copied, [task]) == ["done"]
    some = analyse(StudyFrames.from_mapping(open_frames(copied, "ways")))
    assert [r.value for r in some.rows] == [r.value for r in before.rows], "one new number changes nothing"
    assert apart(some) == []
    assert set(work(copied, found.tasks[1:])) == {"done"}
    assert before.primary is not None
    after = analyse(StudyFrames.from_mapping(open_frames(copied, "ways")))
    assert {g.metric.get("weights") for g in after.groups} == {None, "of today"}
    assert [r.n for r in after.rows] == [2] * 5
