"""The command line: one line and an exit code for every mistake; one study from the space file to the report."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from ablate.cli import main
from ablate.errors import ExitCode

TOY = """
name: toy
question: Does the command line hold together?
base:
  objective: fm
  architecture: {name: mlp, width: 16, depth: 1}
  data: {name: gaussians, size: 500}
  train: {steps: 20, batch_size: 16, lr: 1e-3, log_every: 5, checkpoint_every: 10}
  eval: {metric: energy_distance, samples: 60, gallery: 4, every: 10}
axes: {objective: [fm, meanflow]}
seeds: 2
"""


class Ended(NamedTuple):
    code: int
    out: str
    err: str


Call = Callable[..., Ended]


@pytest.fixture
def ablate(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Call:
    """Call the program in this process, in an empty folder, with a store of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ABLATE_HOME", str(tmp_path / "store"))

    def call(*words: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["ablate", *words])
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        printed = capsys.readouterr()
        return Ended(code, printed.out, printed.err)

    return call


VARIED = "axes: {lr: {path: train.lr, levels: [1e-3, 2e-3]}}\n"
MISTAKES = {
    "unknown key": (
        "base: {objective: meanflow, optimiser: adam}\n" + VARIED,
        "space.yaml:1:29: no key",
        "'optimiser'",
    ),
    "misspelt component": ("base: {objective: meanflo}\n" + VARIED, "space.yaml:1:19:", "did you mean meanflow or"),
    "illegal combination": (
        "base: {objective: scd, schedule: cosine01}\n" + VARIED,
        "C16",
        "nearest: schedule: linear",
    ),
    "duplicate arm": (
        "base: {objective: fm}\naxes: {schedule: [linear, cosine01]}\n"
        "plans: {p: {kind: list, arms: {A: {schedule: cosine01}, B: {schedule: cosine01}}}}\n",
        "arm 'B' is the same as arm 'A'",
        "remove one",
    ),
    "empty axis": ("base: {objective: fm}\naxes: {schedule: []}\n", "axis 'schedule' is empty", "at least one level"),
    "negative steps": ("base: {objective: fm, train: {steps: -5}}\n" + VARIED, "train.steps", "greater than 0, got -5"),
    "unreadable YAML": ("base: {objective: [\n", "space.yaml:2:1: unreadable YAML", "found"),
    "missing folder": (
        "base: {objective: fm, data: {name: image_folder, path: nowhere, size: 8}, eval: {metric: fid}}\n" + VARIED,
        "no folder 'nowhere'",
        "give an existing folder",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_a_space_is_one_line_and_exit_code_2(ablate: Call, mistake: str) -> None:
    text, *parts = MISTAKES[mistake]
    Path("space.yaml").write_text(text)
    ended = ablate("run", "space.yaml", "--yes")
    assert ended.code == ExitCode.USAGE
    assert ended.err.startswith("error: ")
    assert ended.err.count("\n") == 1
    for part in parts:
        assert part in ended.err


def test_of_several_mistakes_the_first_is_said_with_their_number_and_python_has_all(ablate: Call) -> None:
    from ablate.errors import SpaceError
    from ablate.space import load_space

    Path("space.yaml").write_text("base: {objective: fm}\naxes: {schedule: []}\nplans: {p: {kind: list, arms: {}}}\n")
    ended = ablate("plan", "space.yaml", "--json")
    assert (ended.code, ended.out, ended.err.count("\n")) == (ExitCode.USAGE, "", 1)
    assert ended.err.endswith(" (+1 more)\n")
    with pytest.raises(SpaceError) as caught:
        load_space("space.yaml")
    assert len(caught.value.problems) == 2
    assert f"error: {caught.value.problems[0]} (+1 more)\n" == ended.err


def test_a_missing_space_names_the_file_and_the_nearest_built_in_one(ablate: Call) -> None:
    ended = ablate("plan", "objectivs")
    assert ended.code == ExitCode.USAGE
    assert ended.err.count("\n") == 1
    assert "objectives" in ended.err


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["run", "smoke", "--yes", "--gpus", "4096"], "4096 GPUs but the cluster has"),
        (["run", "smoke", "--yes", "--gpus-per-trial", "2"], "share of one GPU"),
        (["run", "smoke", "--yes", "--max-failures", "many"], "--max-failures"),
        (["run", "smoke", "--yes", "--time-limit", "soon"], "write 90s, 30m, 24h or 2d"),
        (["plan", "smoke", "--seeds", "0,x"], "write seeds as 0,1,2 or 0-4"),
        (["plan", "smoke", "--fidelity", "huge"], "huge"),
        (["report", "nothing"], "no study 'nothing'"),
        (["show", "abc"], "abc"),
        (["components", "show", "meanflo"], "did you mean meanflow"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line_and_exit_code_2(ablate: Call, words: list[str], part: str) -> None:
    ended = ablate(*words)
    assert ended.code == ExitCode.USAGE
    assert ended.err.startswith("error: ")
    assert ended.err.count("\n") == 1
    assert part in ended.err


@pytest.mark.parametrize(
    ("seeds", "line"),
    [
        ("0,9223372036854775808", "a seed is at most 9223372036854775807"),
        ("0-99999999999999999999", "a seed is at most 9223372036854775807"),
        ("0-9223372036854775807", "at most 10,000 seeds"),
        ("7,10-10009", "at most 10,000 seeds"),
        ("3-1", "3-1 is an empty range; write the smaller seed first"),
        ("1,1-2", "name each seed once"),
        ("\u00b2", "write seeds as 0,1,2 or 0-4"),
        ("0-\u0663", "write seeds as 0,1,2 or 0-4"),
        ("0-", "write seeds as 0,1,2 or 0-4"),
    ],
)
def test_seeds_that_cannot_be_are_one_line_that_says_why(ablate: Call, seeds: str, line: str) -> None:
    assert ablate("plan", "smoke", "--seeds", seeds) == (ExitCode.USAGE, "", f"error: --seeds {seeds!r}: {line}\n")


def test_a_store_of_a_newer_version_is_refused_with_both_versions(ablate: Call, tmp_path: Path) -> None:
    journal = tmp_path / "store" / "journal" / "host-1-1.jsonl"
    journal.parent.mkdir(parents=True)
    journal.write_text('{"v":99,"uid":"host-1-1-0","kind":"study","at":"2030-01-01T00:00:00Z","study_id":"x"}\n')
    for words in (["ls"], ["plan", "smoke"], ["run", "smoke", "--yes"], ["report", "smoke"]):
        ended = ablate(*words)
        assert ended.code == ExitCode.USAGE, words
        assert ended.err.count("\n") == 1
        assert "99" in ended.err
        assert "1" in ended.err.replace("99", "")


def test_an_internal_error_says_so_and_how_to_see_more(ablate: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    from ablate.cli import present

    def broken(value: object) -> None:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(present, "as_json", broken)
    ended = ablate("schema")
    assert ended.code == ExitCode.INTERNAL
    assert ended.err == "error: internal: RuntimeError: two lines (the same command with --debug shows where)\n"
    ended = ablate("schema", "--debug")
    assert "Traceback" in ended.err


@pytest.mark.parametrize(
    ("number", "code", "words"), [("SIGINT", 130, "interrupted"), ("SIGTERM", 75, "preempted by SIGTERM")]
)
def test_a_signal_before_anything_is_started_ends_the_command_with_its_line(
    tmp_path: Path, number: str, code: int, words: str
) -> None:
    """It reads a space that nobody writes; in the middle of an import, KeyboardInterrupt could be lost."""
    (tmp_path / "journal").mkdir()
    (tmp_path / "journal" / "old.jsonl").touch()  # a store that may hold everything: nothing is begun early
    os.mkfifo(tmp_path / "space.yaml")
    command = [sys.executable, "-m", "ablate", "run", str(tmp_path / "space.yaml"), "--store", str(tmp_path), "--yes"]
    given = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    with open(tmp_path / "space.yaml", "w"):  # opens when it is read
        given.send_signal(getattr(signal, number))
        assert given.wait(30) == code
    assert given.stderr is not None
    assert given.stderr.read() == f"error: {words}; run the same command again to continue\n"


def test_the_version_needs_no_command(ablate: Call) -> None:
    from ablate import __version__

    assert ablate("--version") == Ended(0, f"ablate {__version__}\n", "")


def test_a_plan_prints_arms_trials_skips_with_reasons_and_a_cost(ablate: Call) -> None:
    ended = ablate("plan", "objectives")
    assert ended.code == ExitCode.COMPLETE
    for word in (
        "FM",
        "CT",
        "SCD",
        "IMM",
        "sCT",
        "sCT-linear",
        "MeanFlow",
        "ESC",
        "8 arms",
        "24 trials",
        "cost of the rest",
    ):
        assert word in ended.out
    assert "C16" in ablate("plan", "schedules").out, "the dyadic ladder on the cosine path is listed with its reason"
    plan = json.loads(ablate("plan", "schedules", "--json").out)
    assert {"arms", "trials", "skips", "cost", "store", "baseline", "metric"} <= set(plan)
    assert {skip["reason"][:3] for skip in plan["skips"]} == {"C16"}
    assert not Path("store").exists(), "a plan has no side effects"


def test_components_show_a_method_as_a_row_of_choices_and_list_every_axis(ablate: Call) -> None:
    ended = ablate("components")
    for name in ("meanflow", "esc", "linear", "cosine01", "sit", "mlp", "digits", "time sampler", "plugin"):
        assert name in ended.out
    row = json.loads(ablate("components", "show", "esc", "--json").out)
    assert row["slots"]["time_sampler"]["name"] == "esc_gradual"
    assert "2512.11831" in ablate("components", "show", "esc").out
    assert "p_eq" in ablate("components", "show", "ln_minmax").out


def test_settings_follow_flag_environment_file_default(ablate: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    from ablate.cli.options import setting, store_root

    Path("ablate.toml").write_text('gpus = 3\nstore = "elsewhere"\n')
    assert setting("gpus", None, None) == 3
    assert setting("gpus", None, 5) == 5, "the space file wins over ablate.toml"
    monkeypatch.setenv("ABLATE_GPUS", "7")
    assert setting("gpus", None, 5, default=0.0) == 7
    assert setting("gpus", 9, 5) == 9
    monkeypatch.delenv("ABLATE_HOME")
    assert store_root(None) == Path("elsewhere")
    assert store_root(Path("mine")) == Path("mine")


def test_the_doctor_examines_this_machine(ablate: Call) -> None:
    findings = json.loads(ablate("doctor", "--json").out)
    by_name = {finding["what"]: finding for finding in findings}
    assert {"python", "torch", "ray", "duckdb", "fd_digits classifier", "store", "free disk"} <= set(by_name)
    assert by_name["torch"]["status"] == "ok"


def test_the_doctor_examines_a_metric(ablate: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABLATE_CACHE", str(tmp_path))
    findings = json.loads(ablate("doctor", "metric", "--images", "64", "--json").out)
    assert {f["what"].split(":")[0]: f["status"] for f in findings} == {"fd_digits": "ok", "fid": "warning"}
    (only,) = json.loads(ablate("doctor", "metric", "smoke", "--json").out)
    assert only["found"] == "compares points as they are: there is no network to examine"


def test_a_study_runs_resumes_and_is_reported_in_every_format(ablate: Call, tmp_path: Path) -> None:
    Path("toy.yaml").write_text(TOY)
    run = [sys.executable, "-m", "ablate", "run", "toy.yaml", "--yes", "--gpus", "0"]
    first = subprocess.run(run, capture_output=True, text=True)
    assert first.returncode == ExitCode.COMPLETE, first.stderr
    assert "4 done" in first.stderr + first.stdout
    again = ablate("run", "toy.yaml", "--yes", "--gpus", "0", "--json")
    summary = json.loads(again.out.splitlines()[-1])
    assert (summary["event"], summary["skipped"], summary["done"], again.code) == ("summary", 4, 0, 0)

    trials = json.loads(ablate("ls", "toy", "--json").out)
    assert [t["status"] for t in trials] == ["done"] * 4
    assert all(t["metric"] == "energy_distance" and t["value"] > 0 and t["steps"] == 20 for t in trials)
    assert "toy" in ablate("ls").out
    detail = ablate("show", trials[0]["trial"][:10])
    for word in ("energy_distance", "train.steps", trials[0]["trial"]):
        assert word in detail.out

    assert ablate("report", "toy", "--html", "--md", "--csv", "--json").code == ExitCode.COMPLETE
    folder = tmp_path / "store" / "studies" / "toy"
    page = (folder / "report.html").read_text()
    assert "meanflow" in page
    assert "http://" not in page.split("<script", 1)[0]
    assert json.loads((folder / "report.json").read_text())
    assert "meanflow" in ablate("report", "--md", "--out", "-").out
    assert "meanflow" in ablate("report", "toy.yaml", "--csv", "--out", "-").out

    assert ablate("db", "check").out == "0 problems\n"
    (tmp_path / "store" / "ablate.duckdb").unlink()
    (tmp_path / "store" / "snapshot.duckdb").unlink(missing_ok=True)
    assert json.loads(ablate("ls", "toy", "--json").out) == trials, "the journals are the truth"
    assert ablate("db", "rebuild").code == ExitCode.COMPLETE
    assert json.loads(ablate("ls", "toy", "--json").out) == trials
