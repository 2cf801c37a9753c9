"""The program as a process: what it prints to, how it is interrupted, what its reader does, how it ends."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from written_study import call_ablate, plan, write

from ablate.cli.options import ask_to_start
from ablate.errors import ExitCode
from ablate.store import StorePaths, rebuild

SPACE = """
name: toy
question: Does η matter — at all?
base:
  objective: fm
  architecture: {name: mlp, width: 16, depth: 1}
  data: {name: gaussians, size: 500}
  train: {steps: 20, batch_size: 16, lr: 1e-3}
  eval: {metric: energy_distance, samples: 60, gallery: 0}
axes: {objective: [fm, meanflow]}
"""
PROGRAM = (sys.executable, "-m", "ablate")


def test_a_terminal_without_the_letters_gets_their_codes(tmp_path: Path) -> None:
    (tmp_path / "toy.yaml").write_text(SPACE, encoding="utf-8")
    for encoding, shown in (("ascii", rb"Does \u03b7 matter \u2014 at all?"), ("utf-8", "η matter — at".encode())):
        ended = subprocess.run(
            [*PROGRAM, "plan", str(tmp_path / "toy.yaml")],
            env=os.environ | {"PYTHONIOENCODING": encoding, "ABLATE_HOME": str(tmp_path / "store")},
            capture_output=True,
        )
        assert ended.returncode == ExitCode.COMPLETE, ended.stderr
        assert shown in ended.stdout


def unread(*words: str) -> tuple[int, str]:
    """The program's exit code and its errors where nobody reads what it prints."""
    with subprocess.Popen([*PROGRAM, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        program.stdout.close()
        assert program.stderr is not None
        return program.wait(), program.stderr.read()


@pytest.mark.parametrize("words", [["components"], ["schema"], ["published", "--json"], ["--help"]])
def test_a_reader_that_has_seen_enough_is_no_error(words: list[str]) -> None:
    assert unread(*words) == (ExitCode.COMPLETE, "")


def test_a_reader_that_has_gone_makes_no_claim_hold(tmp_path: Path) -> None:
    paths = StorePaths(tmp_path)
    write(paths, plan(claims="[objective=meanflow is worse than objective=fm.]"))
    rebuild(paths)
    for words in (["check"], ["check", "--json"]):
        assert unread(*words, "--store", str(tmp_path)) == (ExitCode.CLAIM_FAILS, "")


@pytest.mark.parametrize("words", [["schema"], ["db", "check", "--json"]])
def test_an_interrupted_command_says_so(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`run`, `eval` and `confirm` have handlers of their own."""

    def interrupted(value: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ablate.cli.present.as_json", interrupted)
    ended = call_ablate(capsys, monkeypatch, tmp_path)(*words)
    assert ended == (ExitCode.INTERRUPTED, "", "error: interrupted; run the same command again\n")


class Typed(io.StringIO):
    """A terminal with somebody who has typed this."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("typed", ["n\n", "", "what\nN\n"])
def test_no_to_a_question_is_one_line_and_no_internal_error(
    typed: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", Typed(typed))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    with pytest.raises(typer.Exit) as ended:
        ask_to_start(agreed=False)
    assert ended.value.exit_code == ExitCode.INTERRUPTED
    assert capsys.readouterr().err.strip() == "nothing was started"
    monkeypatch.setattr(sys, "stdin", Typed("\n"))
    ask_to_start(agreed=False)


@pytest.mark.parametrize(
    ("words", "told", "help_of"),
    [
        (["run"], "missing argument", "`ablate run --help`"),
        (["run", "toy", "--gpu", "1"], "no such option: --gpu (", "`ablate run --help`"),
        (["run", "toy", "--isolation", "jail"], "invalid value for '--isolation'", "`ablate run --help`"),
        (["plan", "toy", "more"], "got unexpected extra argument", "`ablate plan --help`"),
        (["db", "mend"], "no such command 'mend'", "`ablate db --help`"),
        (["plam"], "no such command 'plam'. Did you mean 'plan'?", "`ablate --help`"),
        (["report", "--out"], "option '--out' requires an argument", "--help`"),
    ],
)
def test_wrong_words_are_one_line(
    words: list[str],
    told: str,
    help_of: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    ended = call_ablate(capsys, monkeypatch, tmp_path)(*words)
    assert ended.code == ExitCode.USAGE
    assert ended.err.startswith(f"error: {told}")
    assert ended.err.endswith(f"{help_of}\n")
    assert ended.err.count("\n") == 1


def test_no_words_are_a_request_for_help(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for words in ([], ["db"]):
        ended = call_ablate(capsys, monkeypatch, tmp_path)(*words)
        assert ended.code == ExitCode.USAGE
        assert "Usage: ablate" in ended.out + ended.err
        assert "Commands:" in ended.out + ended.err
