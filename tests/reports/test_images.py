"""Figures as files: drawn by a real browser where there is one, and one line that says how to mend it where not."""

from __future__ import annotations

import html
import sys
from pathlib import Path

import pytest
from chromium import executable
from PIL import Image
from simulated_study import component_study, study

from ablate_reports import analyse
from ablate_reports.figures import all_figures
from ablate_reports.images import CannotDrawError, captions, on_paper, plotly_figure, write_figures

HOSTILE = {"ct": "<b>$x^2$</b> & \\frac", "esc": "שלום"}


@pytest.mark.skipif(executable() is None, reason="chromium not found: apt-get install chromium")
def test_a_browser_draws_every_format_without_the_network(tmp_path: Path) -> None:
    (figure,) = [f for f in all_figures(analyse(study(labels=HOSTILE))) if f.id == "curves"]
    files = write_figures([figure], tmp_path / "new", ["svg", "png", "pdf"])
    assert [f.name for f in files] == ["curves.svg", "curves.png", "curves.pdf"]
    svg, png, pdf = files
    drawn = svg.read_text(encoding="utf-8")
    assert drawn.startswith("<svg")
    seen = html.unescape(drawn)
    for words in ("training step", "(baseline)", "<b>$x^2$</b> & \\frac", "שלום"):
        assert words in seen, "labels are text, and the legend is inside the figure"
    assert "<b>" not in drawn
    assert "<script" not in drawn
    with Image.open(png) as image:
        assert image.size == (1800, 2 * figure.height)
        colours = image.convert("RGB").getcolors(maxcolors=1 << 20)
        assert colours is not None
        assert max(colours)[1] == (255, 255, 255), "paper is white"
        assert len(colours) > 100
    assert pdf.read_bytes().startswith(b"%PDF-")


def test_without_kaleido_one_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kaleido", None)
    with pytest.raises(
        CannotDrawError, match=r"^static figures need kaleido: pip install 'ablate-shortcut\[figures\]'$"
    ):
        write_figures([], tmp_path)


def test_without_a_browser_one_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import kaleido
    from kaleido.errors import ChromeNotFoundError

    def nothing(jobs: object, kopts: dict[str, object], **more: object) -> None:
        assert kopts["mathjax"] is False, "kaleido would fetch it"
        assert kopts["proxy_server"], "and the browser whatever its vendor wants"
        raise ChromeNotFoundError("two\nlines")

    monkeypatch.setattr(kaleido, "write_fig_from_object_sync", nothing)
    with pytest.raises(CannotDrawError, match=r"none was found: install one .*BROWSER_PATH$") as caught:
        write_figures([], tmp_path)
    assert "\n" not in str(caught.value)


def test_a_browser_that_is_none_is_one_line_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROWSER_PATH", str(tmp_path / "nowhere"))
    figures = all_figures(analyse(study({"a": 0.0, "b": -0.3}, points=5)))[:1]
    with pytest.raises(CannotDrawError) as caught:
        write_figures(figures, tmp_path)
    assert "BROWSER_PATH" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_format_names_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no figure format 'eps'; there are png, svg, pdf"):
        write_figures([], tmp_path, ["eps"])


def test_every_figure_is_a_valid_plotly_figure_in_light_colours() -> None:
    figures = all_figures(analyse(component_study()))
    for figure in figures:
        before = str(figure.spec)
        drawn = plotly_figure(figure)
        assert drawn.layout.font.color == "#1c1e21"
        assert drawn.layout.paper_bgcolor == "#ffffff"
        assert len(drawn.data) == len(figure.spec["data"])
        assert str(figure.spec) == before, "the page's own spec is left alone"
    with_legend = [f for f in figures if f.legend]
    assert with_legend
    assert all(on_paper(f)["layout"]["showlegend"] for f in with_legend)
    said = captions(figures)
    assert all(f"`{f.id}`" in said for f in figures)
