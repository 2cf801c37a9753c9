"""``ablate run`` before and after the trainings: what it says and what it refuses. Nothing is trained here."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from written_study import Call, call_ablate

from ablate.errors import ExitCode
from ablate.launch import RunSummary
from ablate.space import expand, load_space
from ablate.store import Journal, StorePaths, rebuild, record_plan
from ablate.store.record import AttemptRecord

SPACE = """
name: toy
base:
  objective: fm
  architecture: {name: mlp, width: 16, depth: 1}
  data: {name: gaussians, size: 500}
  train: {steps: 20, batch_size: 16, lr: 1e-3}
  eval: {metric: energy_distance, samples: 60, gallery: 0}
axes: {objective: [fm, meanflow], lr: {path: train.lr, levels: [1e-3, 2e-3]}}
plans: {cross: {kind: grid}}
seeds: [0, 1]
"""
RAMP = "warning: C27 objective.time_sampler.zero_steps: the ramp takes"


@pytest.fixture
def ablate(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Call:
    """The program in this process, where Ray is not begun early and a run has done everything at once."""

    def run_plan(plan: object, paths: object, options: object, view: Any, **_: object) -> RunSummary:
        view.message("it has begun")
        return RunSummary()

    monkeypatch.setattr("ablate.launch.run_plan", run_plan)
    return call_ablate(capsys, monkeypatch, tmp_path)


def finish(path: Path, store: Path, share: int) -> None:
    """Record the plan of a space, one trial in `share` done at half a second for each of its steps."""
    plan, paths = expand(load_space(str(path))), StorePaths(store)
    with Journal(paths, "driver") as journal:
        record_plan(journal, plan)
        for trial in plan.trials[::share]:
            AttemptRecord(journal, trial.key, eval_key=trial.eval_key).end("done", step=20, wall_seconds=10.0)
    rebuild(paths)


def test_a_run_shows_the_warnings_of_its_plan(ablate: Call, tmp_path: Path) -> None:
    (tmp_path / "toy.yaml").write_text(SPACE.replace("objective: fm\n", "objective: esc\n").replace("fm,", "esc,"))
    ended = ablate("run", "toy.yaml", "--yes")
    assert ended.out.count(RAMP) == 1, "as `ablate plan` shows it"
    assert ended.code == ExitCode.COMPLETE
    ended = ablate("run", "toy.yaml", "--json")
    events = [json.loads(line) for line in ended.out.splitlines()]
    assert {e["event"] for e in events} == {"message"}
    assert any(e["text"].startswith(RAMP) for e in events[:-1])
    assert events[-1]["text"] == "it has begun"


@pytest.mark.parametrize("as_json", [[], ["--json"]])
def test_more_trials_than_the_budget_are_not_begun(ablate: Call, tmp_path: Path, as_json: list[str]) -> None:
    (tmp_path / "toy.yaml").write_text(SPACE + "budget: {trials: 4}\n")
    ended = ablate("run", "toy.yaml", "--yes", *as_json)
    assert ended.code == ExitCode.LIMIT
    assert ended.err == (
        "error: toy: 8 trials to run are more than its budget.trials of 4; raise that or pick fewer with --only, "
        "--plan or --seeds\n"
    )
    ended = ablate("run", "toy.yaml", "--yes", "--seeds", "0", *as_json)
    assert ended.code == ExitCode.COMPLETE
    assert "it has begun" in ended.out + ended.err


def test_a_budget_counts_what_is_left(ablate: Call, tmp_path: Path) -> None:
    (tmp_path / "toy.yaml").write_text(SPACE + "budget: {trials: 4}\n")
    finish(tmp_path / "toy.yaml", tmp_path / "store", 2)
    assert ablate("run", "toy.yaml", "--yes").code == ExitCode.COMPLETE


def test_the_next_step_is_one_that_works(ablate: Call, tmp_path: Path) -> None:
    (tmp_path / "toy.yaml").write_text(SPACE)
    assert ablate("run", "toy.yaml", "--yes").out.endswith("next: ablate report toy --html\n")
    ended = ablate("run", "toy.yaml", "--yes", "--store", "my runs")
    assert ended.out.endswith("next: ablate report toy --html --store 'my runs'\n")


def test_the_cost_of_the_rest_counts_what_runs_at_once(
    ablate: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    (tmp_path / "toy.yaml").write_text(SPACE)
    finish(tmp_path / "toy.yaml", tmp_path / "store", 2)
    cost = json.loads(ablate("plan", "toy.yaml", "--json").out)["cost"]
    assert (cost["trial_seconds"], cost["wall_seconds"]) == (40, 20)
    assert cost["text"].endswith("about 20 s, 2 at once (40 s one at a time)")
    alone = ablate("run", "toy.yaml", "--yes", "--max-concurrent", "1").out
    assert "80 steps; about 40 s\n" in alone
    assert "80 steps; about 40 s\n" in ablate("run", "toy.yaml", "--yes", "--cpus-per-trial", "2").out


@pytest.mark.parametrize(
    ("baseline", "shown"),
    [
        ("C", {"A": "train.weight_decay=0.5", "B": "lr=0.002", "C": "lr=0.001", "D": "schedule=cosine01"}),
        ("A", {"A": "", "B": "lr=0.002", "D": "schedule=cosine01, train.weight_decay=0.0"}),
    ],
)
def test_an_arm_that_no_level_chose_is_shown_by_what_it_changes(
    ablate: Call, tmp_path: Path, baseline: str, shown: dict[str, str]
) -> None:
    """From the base, or from the baseline where the base is no arm."""
    rows = "A: {train.weight_decay: 0.5}, B: {lr: 2e-3}, D: {schedule: cosine01}" + ", C: {}" * (baseline == "C")
    space = SPACE.replace("{kind: grid}", f"{{kind: list, arms: {{{rows}}}}}").replace(
        "objective: [fm, meanflow], ", ""
    )
    (tmp_path / "toy.yaml").write_text(space + f"compare: {{baseline: {baseline}}}\n")
    lines = [re.split(r"  +", line.strip()) for line in ablate("plan", "toy.yaml").out.splitlines()]
    found = {cells[0]: ", ".join(cells[1:-3]) for cells in lines if cells[0] in shown and len(cells) > 4}
    for arm, choices in shown.items():
        assert found[arm].endswith(f"cross, {choices}" if choices else "cross"), arm


@pytest.mark.parametrize("words", [["plan", "toy.yaml"], ["plan", "toy.yaml", "--json"], ["run", "toy.yaml", "--yes"]])
def test_a_plan_that_takes_long_says_that_it_is_being_made(
    ablate: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    def slowly(*given: Any, **named: Any) -> object:
        time.sleep(slow)
        return expand(*given, **named)

    monkeypatch.setattr("ablate.space.expand", slowly)
    (tmp_path / "toy.yaml").write_text(SPACE)
    slow, said = 0.0, "making the plan ...\n"
    monkeypatch.setattr("ablate.cli.present.PATIENCE", 30)
    assert said not in ablate(*words).err
    slow = 0.3
    monkeypatch.setattr("ablate.cli.present.PATIENCE", 0.01)
    ended = ablate(*words)
    assert ended.err.startswith(said)
    assert said not in ended.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--seeds", "0"], "toy: 4 arms x seed 0 = 4 trials, 0 finished in the store, 4 to run; 0 cells skipped"),
        (["--only", "fm/*", "--seeds", "0,1"], "toy: 2 of 4 arms x seeds 0, 1 = 4 trials, "),
        (["--only", "fm/0.002", "--seeds", "3"], "toy: 1 of 4 arms x seed 3 = 1 trial, "),
        (["--seeds", "0-99"], "toy: 4 arms x 100 seeds 0 to 99 = 400 trials, "),
        ([], "toy: 4 arms, seeds 0, 1, 5: 9 trials, "),
    ],
)
def test_the_totals_are_of_what_runs(ablate: Call, tmp_path: Path, words: list[str], said: str) -> None:
    (tmp_path / "toy.yaml").write_text(SPACE.replace("seeds: [0, 1]", "seeds: {list: [0, 1], extra: {fm/0.001: [5]}}"))
    assert said in ablate("plan", "toy.yaml", *words).out


def test_ids_and_labels_are_whole_in_a_narrow_terminal(
    ablate: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "toy.yaml").write_text(SPACE)
    finish(tmp_path / "toy.yaml", tmp_path / "store", 1)
    monkeypatch.setattr("ablate.cli.present.WIDE", 80)
    plan = json.loads(ablate("plan", "toy.yaml", "--json").out)
    arms = ablate("plan", "toy.yaml").out
    for arm in plan["arms"]:
        assert re.search(rf"^ ?{re.escape(arm['label'])} .* {arm['id']}", arms, re.MULTILINE), arm["label"]
    trials = ablate("ls", "toy").out
    for trial in plan["trials"]:
        assert f" {trial['key']} " in trials
