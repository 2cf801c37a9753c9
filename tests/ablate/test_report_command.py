"""``ablate report``: every format, several studies in one report, figures as files, one line for every mistake."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ablate.cli import main
from ablate.errors import ExitCode

ARMS = {"fm": 0.0, "ct": -0.6, "esc_100%": -0.9}
Fill = Callable[..., Path]


class Ended(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def report(
    filled_store: Fill, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., Ended]:
    """Call ``ablate report`` in an empty folder, on a store of two studies with one metric identity each."""
    monkeypatch.chdir(tmp_path)
    filled_store("digits", ARMS)
    monkeypatch.setenv("ABLATE_HOME", str(filled_store("faces", {"fm": 0.0, "ct": -0.2}, metric="other", seeds=2)))

    def call(*words: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["ablate", "report", *words])
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        printed = capsys.readouterr()
        return Ended(code, printed.out, printed.err)

    return call


def test_latex_is_written_beside_the_other_formats(report: Callable[..., Ended], tmp_path: Path) -> None:
    assert report("digits", "--latex", "--csv").code == ExitCode.COMPLETE
    folder = tmp_path / "filled" / "studies" / "digits"
    latex = (folder / "report.tex").read_text(encoding="utf-8")
    assert "\\toprule" in latex
    assert "esc\\_100\\%" in latex
    assert (folder / "report.csv").is_file()
    assert report("digits", "--latex", "--out", "-").out == latex


def test_several_studies_are_one_report(report: Callable[..., Ended], tmp_path: Path) -> None:
    assert report("digits", "faces", "--html", "-o", "both.html").code == ExitCode.COMPLETE
    page = (tmp_path / "both.html").read_text(encoding="utf-8")
    assert page.count('id="plotly"') == 1
    assert page.count('<article class="study">') == 2
    document = json.loads(report("digits", "faces", "--json", "-o", "-").out)
    assert [s["metric_id"] for s in document["summary"]] == ["m", "other"]
    (ct,) = document["shared"]
    assert ct["label"] == "ct"
    assert ct["mean"]["difference"] == pytest.approx((-0.6 - 0.2) / 2, abs=0.05)
    assert "headline" in json.loads(report("faces", "faces", "--json", "-o", "-").out), "named twice is one"


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["digits", "faces"], "2 studies in one report: say with --out"),
        (["digits", "--md", "--csv", "-o", "x"], "--out names one file, but md and csv were asked for"),
        (["digits", "--format", "pdf"], "name their folder with --figures"),
        (["digits", "--figures", "f", "--format", "eps"], "no figure format 'eps'; there are png, svg, pdf"),
        (["digits", "--figures", "f", "-o", "x"], "--out names one file, but figures alone were asked for"),
        (["digits", "nothing", "-o", "x"], "no study 'nothing'"),
        (["digits", "-o", "x.json"], "x.json: is a name for --json, and html was asked for"),
        (["digits", "--md", "-o", "x.HTML"], "x.HTML: is a name for --html, and md was asked for"),
        (["digits", "--latex", "-o", "x.csv"], "x.csv: is a name for --csv, and latex was asked for"),
        (["digits", "-o", "."], "--out .: is a folder; name a file in it"),
        ([], "which study? there are faces, digits"),
        (["--store", "none"], "none: there is no study, the store is empty; run a space first"),
        (["digits", "--store", "none"], "none: no study 'digits', the store is empty; run a space first"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(report: Callable[..., Ended], words: list[str], part: str) -> None:
    ended = report(*words)
    assert ended.code == ExitCode.USAGE
    assert part in ended.err
    assert ended.err.splitlines()[-1].startswith("error: ")
    assert ended.err.count("error: ") == 1


def test_a_report_that_cannot_be_written_leaves_nothing(
    report: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.replace", full)
        ended = report("digits", "--md", "--out", "x.md")
    assert ended.code == ExitCode.USAGE
    assert "x.md: cannot write the report (No space left on device)" in ended.err
    assert [path.name for path in Path().iterdir() if path.is_file()] == []
    for name in ("x.txt", "x", "x.2.md"):
        assert report("digits", "--md", "--out", name).code == ExitCode.COMPLETE
    assert report("digits", "--latex", "--out", "x.tex").code == ExitCode.COMPLETE


def test_without_kaleido_figures_end_with_one_line_and_exit_code_2(
    report: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "kaleido", None)
    ended = report("digits", "--figures", "drawn")
    assert ended.code == ExitCode.USAGE
    assert ended.err.splitlines()[-1] == "error: static figures need kaleido: pip install 'ablate-shortcut[figures]'"
    assert not Path("drawn").exists()


def test_figures_are_files_with_their_captions(
    report: Callable[..., Ended], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The drawing itself has its test beside the figures; here it is which are drawn, how, and where."""
    from ablate_reports import images

    def drawn(figures: list[Any], folder: Path, formats: list[str]) -> list[Path]:
        folder.mkdir(parents=True)
        return [folder / f"{figure.id}.{suffix}" for figure in figures for suffix in formats]

    monkeypatch.setattr(images, "write_figures", drawn)
    ended = report("faces", "digits", "--figures", "drawn", "--format", "svg", "--format", "pdf")
    assert ended.code == ExitCode.COMPLETE, ended.err
    lines = ended.out.split()
    assert {"drawn/faces/effects.svg", "drawn/faces/effects.pdf", "drawn/digits/curves.svg"} <= set(lines)
    assert "`effects`" in (tmp_path / "drawn" / "digits" / "captions.md").read_text(encoding="utf-8")
    assert "drawing" in ended.err
    assert not list((tmp_path / "filled").rglob("report.html")), "figures alone were asked for"
