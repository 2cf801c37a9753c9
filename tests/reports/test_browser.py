"""The page in a real browser: no error, no request, everything drawn, everything that can be clicked works."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import Chromium, executable
from simulated_study import DEGENERATE, rich_study, study
from test_page import HOSTILE

from ablate_reports import StudyFrames, render_html

pytestmark = pytest.mark.skipif(executable() is None, reason="chromium not found: apt-get install chromium")

DRAWN = (
    "[...document.querySelectorAll('.plot')].map("
    "p => [p.dataset.figure, !!p.querySelector('.main-svg'), p.textContent.includes('WebGL')])"
)
INK = "document.querySelector('.plot .xtick text')?.style.fill ?? getComputedStyle(document.body).color"


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    with Chromium() as opened:
        yield opened


def show(browser: Chromium, frames: StudyFrames, folder: Path, width: int = 1280) -> None:
    """Open the report with every figure drawn."""
    path = folder / "report.html"
    path.write_text(render_html(frames), encoding="utf-8")
    browser.resize(width, 900)
    browser.open(path, "#all")
    browser.run("window.ablateReport.ready")


@pytest.fixture(scope="module")
def page(browser: Chromium, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rich study, opened once: loading 5 MB of plotly.js is what takes the time."""
    folder = tmp_path_factory.mktemp("rich")
    browser.requests.clear()
    show(browser, rich_study(pictures=folder), folder)
    assert browser.problems == []
    return folder / "report.html"


OPENED_ALWAYS = ("one seed of components", "all failed", "NaN", "two identities")
"""Opening a page takes a second or two; the other degenerate studies are opened by the slow tests."""

WAIT = "new Promise(done => setTimeout(done, 250))"


def test_the_page_draws_everything_without_an_error_or_a_request(browser: Chromium, page: Path) -> None:
    drawn = browser.run(DRAWN)
    assert [name for name, *_ in drawn] == [
        "cumulative-0",
        "effects",
        "mains-0",
        "grid-0",
        "cost-time",
        "curves",
        "rungs",
        "parallel",
    ]
    assert all(svg and not complains for _, svg, complains in drawn)
    assert [u for u in browser.requests if not u.startswith(("data:", "blob:"))] == [page.as_uri()]
    assert browser.run("document.body.innerText.includes('Share chart')") is False
    assert browser.run("[...document.images].filter(i => i.complete && !i.naturalWidth).length") == 0


def test_the_theme_button_turns_the_page_and_its_figures(browser: Chromium, page: Path) -> None:
    pressed = "document.getElementById('theme').getAttribute('aria-pressed')"
    state = f"[getComputedStyle(document.body).backgroundColor, {INK}, {pressed}]"
    light = browser.run(state)
    browser.run(f"document.getElementById('theme').click(); {WAIT}")
    dark = browser.run(state)
    assert light[0] == "rgb(255, 255, 255)"
    assert all(a != b for a, b in zip(light, dark, strict=True)), (light, dark)
    browser.run(f"document.getElementById('theme').click(); {WAIT}")
    assert browser.run(state) == light
    browser.run("delete document.documentElement.dataset.theme")
    assert browser.problems == []


def test_the_system_theme_is_followed(browser: Chromium, page: Path) -> None:
    ink = browser.run(INK)
    browser.theme("dark")
    assert browser.run(f"{WAIT}.then(() => getComputedStyle(document.body).backgroundColor)") == "rgb(20, 23, 26)"
    assert browser.run(INK) != ink
    browser.theme("light")
    assert browser.run(f"{WAIT}.then(() => {INK})") == ink


def test_filters_narrow_the_trials_table(browser: Chromium, page: Path) -> None:
    choose = (
        "(s, v) => { const e = document.querySelector(s); e.value = v; e.dispatchEvent(new Event('input'));"
        " return document.getElementById('trials-shown').textContent; }"
    )
    assert browser.run(f"({choose})('[data-filter=status]', 'diverged')") == "3 of 44 shown"
    assert browser.run(f"({choose})('[data-filter=arm]', 'trig-l2')") == "0 of 44 shown"
    assert browser.run(f"({choose})('[data-filter=status]', '')") == "4 of 44 shown"
    assert browser.run(f"({choose})('[data-filter=text]', 'RIG-L2-3')") == "1 of 44 shown"
    assert browser.run("[...document.querySelectorAll('#trial-rows tr')].filter(r => r.offsetParent).length") == 1


CHOOSE = """(axis, level) => {
    const s = [...document.querySelectorAll('[data-axis]')].find(e => e.closest('label').textContent.startsWith(axis));
    s.value = level; s.dispatchEvent(new Event('input')); }"""
SHOWN = "[...document.querySelectorAll('#arms tbody tr')].filter(r => r.offsetParent).length"


def test_a_level_chooses_arms_in_every_table_and_figure(browser: Chromium, page: Path) -> None:
    everything = browser.run(SHOWN)
    drawn = """(() => {
        const of = id => document.querySelector(`[data-figure=${id}].plot`);
        const known = list => list.filter(v => v !== null).length;
        const marks = el => known(el.data.filter(t => t.mode === 'markers').flatMap(t => [...t.y]));
        return [marks(of('effects')), known(of('grid-0').data[0].z.flat()),
                new Set(of('curves').data.filter(t => (t.opacity ?? 1) > 0.5).map(t => t.meta)).size,
                of('effects').layout.annotations.filter(a => a.opacity === 0.2).length]; })()"""
    before = browser.run(drawn)
    browser.run(f"({CHOOSE})('schedule', 'cosine'); {WAIT}")
    assert browser.run(SHOWN) == 2
    assert browser.run("document.getElementById('filtered').innerText.trim()").startswith("2 of 11 arms")
    marks, cells, lines, faded = browser.run(drawn)
    assert (marks, cells, lines) == (2, 2, 2)
    assert faded == before[0] - 2
    assert browser.run("document.getElementById('trials-shown').textContent").startswith("0 of 44")  # text still set
    both = "[...document.querySelectorAll('[data-axis]')].filter(e => e.value === 'cosine').length"
    assert browser.run(both) == 2  # the choice beside the arms and the one beside the trials are one
    browser.run(f"document.getElementById('clear').click(); {WAIT}")
    assert browser.run(drawn) == [*before[:3], 0]
    assert browser.run(SHOWN) == everything
    assert browser.problems == []


def test_a_phone_gets_short_names_and_a_menu(browser: Chromium, page: Path) -> None:
    texts = "document.querySelector('[data-figure=cost-time].plot').layout.annotations.map(a => a.text.length)"
    shown = "['.menu', 'nav .links'].map(s => !!document.querySelector(s).offsetParent)"
    browser.resize(1280, 900)
    wide = browser.run(f"{WAIT}.then(() => {texts})")
    assert browser.run(shown) == [True, False]  # there are too many entries for one line
    browser.resize(400, 900)
    short = browser.run(f"{WAIT}.then(() => {texts})")
    assert sum(short) < sum(wide)
    assert browser.run(shown) == [True, False]
    browser.run(
        "document.querySelector('.menu').open = true; document.querySelector('.menu a[href=\"#methods\"]').click()"
    )
    assert browser.run("[location.hash, document.querySelector('.menu').open]") == ["#methods", False]
    browser.resize(1280, 900)
    assert browser.run(f"{WAIT}.then(() => {texts})") == wide


def test_a_legend_entry_switches_its_line_off_and_on(browser: Chromium, page: Path) -> None:
    click = (
        f"(async () => {{ document.querySelectorAll('.legend button')[1].click(); await {WAIT};"
        " return document.querySelector('[data-figure=curves].plot').data.filter(t => t.visible === false).length; })()"
    )
    assert browser.run(click) == 2  # the line and its band
    assert browser.run(click) == 0


@pytest.mark.parametrize("width", [800, 400, 1280])
def test_the_page_never_scrolls_sideways(browser: Chromium, page: Path, width: int) -> None:
    browser.resize(width, 900)
    assert browser.run(f"{WAIT}.then(() => document.documentElement.scrollWidth)") <= width


def test_what_can_be_operated_can_be_reached_by_keyboard_and_has_a_name(browser: Chromium, page: Path) -> None:
    nameless = """[...document.querySelectorAll('button, select, input, summary, nav a')]
        .filter(e => e.closest('.plot') === null)
        .filter(e => e.tabIndex < 0 || !(e.textContent.trim() || e.getAttribute('aria-label') || e.closest('label')))
        .map(e => e.outerHTML)"""
    assert browser.run(nameless) == []
    unreachable = "[...document.querySelectorAll('.scroll')].filter(e => e.tabIndex !== 0).length"
    assert browser.run(unreachable) == 0


def test_the_keyboard_alone_chooses_a_level_and_opens_a_table(browser: Chromium, page: Path) -> None:
    browser.run("document.querySelector('.skip').focus()")
    assert browser.run("document.querySelector('.skip').getBoundingClientRect().left") > 0  # hidden until it has focus
    active = "document.activeElement.outerHTML.slice(0, 60)"
    seen = []
    for _ in range(40):
        browser.press("Tab", 9)
        seen.append(browser.run(active))
        if "data-axis" in seen[-1]:
            break
    assert "data-axis" in seen[-1], seen
    before = browser.run(SHOWN)
    browser.press("ArrowDown", 40)
    assert 0 < browser.run(f"{WAIT}.then(() => {SHOWN})") < before
    browser.press("ArrowUp", 38)
    assert browser.run(f"{WAIT}.then(() => {SHOWN})") == before
    browser.run("document.querySelector('#figure-effects summary').focus()")
    browser.press("Enter", 13)
    assert browser.run("document.querySelector('#figure-effects details').open") is True
    browser.press("Enter", 13)
    assert browser.problems == []


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_text_has_contrast(browser: Chromium, page: Path, scheme: str) -> None:
    browser.theme(scheme)
    contrast = """(() => {
      const rgb = c => c.match(/[\\d.]+/g).slice(0, 3).map(Number);
      const part = v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
      const lum = c => rgb(c).map(part).reduce((s, v, i) => s + v * [.2126, .7152, .0722][i], 0);
      const behind = e => {
        for (; e; e = e.parentElement) {
          const b = getComputedStyle(e).backgroundColor;
          if (!b.endsWith(', 0)') && b !== 'transparent') return b;
        }
        return 'rgb(255,255,255)';
      };
      const bad = new Set();
      for (const e of document.querySelectorAll('main *')) {
        if (e.closest('svg, script, .plot')) continue;
        if (![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())) continue;
        const [a, b] = [lum(getComputedStyle(e).color), lum(behind(e))].sort((x, y) => y - x);
        if ((a + .05) / (b + .05) < 4.5) bad.add(e.className + ' ' + e.tagName + ' ' + e.textContent.slice(0, 30));
      }
      return [...bad];
    })()"""
    assert browser.run(contrast) == []


def test_print_is_light_with_open_tables_and_all_figures(browser: Chromium, page: Path) -> None:
    browser.theme("dark")
    paper = browser.pdf()
    assert paper.startswith(b"%PDF")
    opened = "document.querySelectorAll('details:not([data-noprint])[open]').length > 3"
    state = f"[getComputedStyle(document.body).backgroundColor, {opened}]"
    assert browser.run(f"dispatchEvent(new Event('beforeprint')), {state}") == ["rgb(255, 255, 255)", True]
    assert browser.run(f"dispatchEvent(new Event('afterprint')), {state}") == ["rgb(20, 23, 26)", False]
    assert browser.problems == []
    browser.theme("light")


def test_figures_are_drawn_when_they_come_into_view(browser: Chromium, page: Path) -> None:
    browser.resize(1280, 500)
    browser.open(page)
    browser.run("window.ablateReport.ready")
    assert browser.run("document.querySelectorAll('.plot[data-drawn]').length") < 4
    browser.run("document.querySelector('#figure-curves').scrollIntoView({behavior: 'instant'})")
    drawn = (
        "new Promise(done => { const look = () => document.querySelector('[data-figure=curves][data-drawn]')"
        " ? done(true) : setTimeout(look, 30); look(); })"
    )
    assert browser.run(drawn) is True


def test_hostile_names_are_harmless_and_fit(browser: Chromium, tmp_path: Path) -> None:
    members = [(n, "walk", "cumulative", i, label, {}) for i, (n, label) in enumerate(HOSTILE.items())]
    members += [
        (n, "design", "grid", i, label, {"<i>a": label, "b" * 200: str(i % 2)})
        for i, (n, label) in enumerate(HOSTILE.items())
    ]
    frames = study(
        labels=HOSTILE, name="<img src=x onerror=alert(9)>" * 9, question="<script>alert(3)</script>", members=members
    )
    browser.requests.clear()
    show(browser, frames, tmp_path, width=400)
    for width in (400, 1280):
        browser.resize(width, 900)
        assert browser.run(f"{WAIT}.then(() => document.documentElement.scrollWidth)") <= width
    assert browser.problems == []
    assert browser.run("document.images.length") == 0
    assert browser.run("document.querySelectorAll('.plot script, .plot a').length") == 0
    drawn = browser.run(DRAWN)
    assert len(drawn) > 5
    assert all(svg and not complains for _, svg, complains in drawn)
    assert "<script>alert(1)</script>" in browser.run("document.querySelector('#arms').innerText")
    assert not [u for u in browser.requests if not u.startswith(("data:", "blob:", "file:"))]


@pytest.mark.parametrize(
    "name", [n if n in OPENED_ALWAYS else pytest.param(n, marks=pytest.mark.slow) for n in DEGENERATE]
)
def test_a_degenerate_study_opens_and_draws_what_it_has(browser: Chromium, tmp_path: Path, name: str) -> None:
    browser.requests.clear()
    show(browser, DEGENERATE[name], tmp_path, width=400)
    assert browser.problems == []
    assert all(svg and not complains for _, svg, complains in browser.run(DRAWN))
    assert not [u for u in browser.requests if not u.startswith(("data:", "blob:", "file:"))]
    unnamed = """[...document.querySelectorAll('figure')].filter(f => !f.querySelector('figcaption').textContent.trim()
        || !f.querySelector('tbody tr')
        || !document.getElementById(f.getAttribute('aria-labelledby'))?.textContent.trim()
        || [...f.querySelectorAll('[role=img]')].some(e => !e.getAttribute('aria-label'))).map(f => f.id)"""
    assert browser.run(unnamed) == []
    assert browser.run("document.documentElement.scrollWidth") <= 400
