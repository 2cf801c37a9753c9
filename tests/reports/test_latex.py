"""The LaTeX tables: they compile whatever a study is called, and say what the page says.

A small reader stands in for TeX: it knows braces, math, environments, alignment and every macro that may occur, and
reads the text back.
"""

from __future__ import annotations

import math
import random
import re
import unicodedata
from collections.abc import Iterator

import pytest
from simulated_study import DEGENERATE, component_study, rich_study, study, study_of
from test_page import HOSTILE

from ablate_reports import StudyFrames, analyse, formats, render_latex
from ablate_reports.latex import change
from ablate_reports.latex_text import PREAMBLE, text
from ablate_reports.statistics import Contrast

TOKEN = re.compile(r"%[^\n]*|\\[A-Za-z]+[ ]*|\\.|[{}$&#^_~]|[^\\{}$&#^_~%]+", re.S)
CHARACTERS = {
    "textbackslash": "\\", "textasciicircum": "^", "textasciitilde": "~", "textless": "<", "textgreater": ">",
    "textbar": "|", "textquotedblright": '"', "textquotedblleft": "“", "textquoteleft": "‘", "ldots": "…",
    "textendash": "–", "textemdash": "—", "dag": "†", "ddag": "‡", "S": "§", "ss": "ß", "o": "ø", "O": "Ø", "ae": "æ",
    "AE": "Æ", "aa": "å", "AA": "Å", "l": "ł", "L": "Ł", "i": "i", "j": "j", "times": "×", "pm": "±", "approx": "≈",
    "to": "→", "leftarrow": "←", "cdot": "·", "leq": "≤", "geq": "≥", "neq": "≠", "infty": "∞", "partial": "∂",
    "nabla": "∇", "surd": "√", "dagger": "†", "ddagger": "‡", "circ": "°", "alpha": "α", "beta": "β", "lambda": "λ",
    "sigma": "σ", "theta": "θ", "Delta": "Δ", "Sigma": "Σ", "omega": "ω", "mu": "μ", "varepsilon": "ε", "epsilon": "ε",
}  # fmt: skip
ACCENTS = {"`": "\u0300", "'": "\u0301", "^": "\u0302", "~": "\u0303", '"': "\u0308", "=": "\u0304", ".": "\u0307",
           "v": "\u030c", "c": "\u0327", "H": "\u030b", "u": "\u0306"}  # fmt: skip
STRUCTURE = set(
    "begin end centering caption label toprule midrule bottomrule textbf texttt par smallskip footnotesize allowbreak "
    "ablateunicode".split()
)


def tokens(latex: str) -> Iterator[str]:
    """Control sequences, characters that mean something, runs of those that do not; comments are gone."""
    end = 0
    for found in TOKEN.finditer(latex):
        assert found.start() == end, f"TeX would stop at {latex[end : end + 20]!r}"
        end = found.end()
        if not found[0].startswith("%"):
            yield found[0]
    assert end == len(latex)


def arguments(stream: Iterator[str]) -> list[str]:
    """The tokens of one argument in braces."""
    depth, inside = 0, []
    for token in stream:
        if token.strip() or depth:
            depth += (token == "{") - (token == "}")
            inside.append(token)
        if not depth and inside:
            break
    assert inside[0] == "{"
    assert depth == 0
    return inside[1:-1]


def read(latex: str) -> str:
    """The text that a reader of the paper sees; fails where TeX would."""
    out, math, depth = "", False, 0
    stream = iter(list(tokens(latex)))
    for token in stream:
        name = token[1:].strip()
        if token == "{" or token == "}":
            depth += 1 if token == "{" else -1
            assert depth >= 0
        elif token == "$":
            math = not math
        elif token in "^_":
            assert math
        elif name == "ablateunicode":
            raw, codes = "".join(arguments(stream)), "".join(arguments(stream))
            assert codes == " ".join(f"U+{ord(ch):04X}" for ch in raw)
            out += raw
        elif token.startswith("\\") and name in ACCENTS and name not in ("l", "o"):
            (letter,) = [CHARACTERS.get(t[1:].strip(), t) for t in arguments(stream) if t not in "{}"]
            out += unicodedata.normalize("NFC", letter + ACCENTS[name])
        elif token.startswith("\\"):
            if name not in STRUCTURE and name != ",":
                out += name if name in "{}$&#%_" else CHARACTERS[name]
        else:
            assert token not in "&#~", token
            assert token.isascii(), token
            out += token.replace("-", "−") if math else token
    assert not math
    assert depth == 0
    return out.replace("²", "2")


def tables(latex: str) -> list[tuple[str, list[list[str]]]]:
    """Caption and rows of every table, head first; every row must have the columns that its table declares."""
    latex = "".join(tokens(latex.replace(PREAMBLE, "")))
    stack: list[str] = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", latex):
        if kind == "begin":
            stack.append(name)
        else:
            assert stack.pop() == name
    assert stack == []
    found = []
    for body in re.findall(r"\\begin\{table\}(.*?)\\end\{table\}", latex, re.S):
        caption = re.search(r"\\caption\{(.*)\}\n  \\label\{tab:[a-z0-9-]+\}\n", body)
        inner = re.search(r"\\begin\{tabular\}\{(.*?)\}\n(.*?)  \\end\{tabular\}", body, re.S)
        assert caption is not None
        assert inner is not None
        columns = re.sub(r"p\{[\d.]+\\linewidth", "p", inner[1]).replace("}", "")
        rows = []
        for line in inner[2].splitlines():
            if line.strip() in ("\\toprule", "\\midrule", "\\bottomrule"):
                continue
            assert line.endswith(" \\\\"), "one line of the file is one row"
            assert line.strip()[0] not in "[*", "TeX would take it for an argument"
            cells = re.split(r"(?<!\\)&", line.removesuffix(" \\\\"))
            assert len(cells) == len(columns)
            rows.append([read(cell).strip() for cell in cells])
        for note in re.findall(r"\\footnotesize (.*)\\par\}", body):
            read(note)
        found.append((read(caption[1]), rows))
    return found


@pytest.fixture(scope="module")
def hostile() -> StudyFrames:
    more = {"fm": "[a] & b \\\\ % _^~ # $x$ {", "meanflow": "* \\input{/etc/passwd} ✓ 日本 naïve Å λ=½"}
    return study(labels=HOSTILE | more, name="50% \\of {it} & _more_ שלום\n\\end{table}")


def test_hostile_names_are_text_in_every_cell(hostile: StudyFrames) -> None:
    ((caption, (head, *rows)),) = tables(render_latex(hostile))
    assert [row[0] for row in rows] == [formats.short(r.label, 400).replace("“", '"') for r in analyse(hostile).rows]
    assert head[0] == "Arm"
    assert "50% \\of {it} & _more_ שלום \\end{table}" in caption
    assert len(rows[2][0]) == 300, "a long name is whole"
    assert "\\allowbreak" in render_latex(hostile), "and may be broken over lines"


def test_a_thousand_random_names_survive() -> None:
    letters = list("\\{}$&#%_^~<>|-`'\"[]*(),.;:!?=+@/ ab09") + list("é ñ ü ł ß λ Δ σ − × ≈ … — ½ ש ع 日 😀".split())
    letters += ["\u0301", "\u202e", "\u2066", "\x00", "\n", "\t", "\\end{tabular}", "\\\\", "--", "''", "?`", "``"]
    rng = random.Random(7)
    for _ in range(1000):
        name = "".join(rng.choices(letters, k=rng.randint(1, 45)))
        assert read(text(name)) == formats.short(unicodedata.normalize("NFC", name), 400)


def test_no_ligature_and_no_optional_argument_is_made_of_text() -> None:
    written = text("--- '' ,, `` ?` !` [x] *")
    assert not re.search(r"--|''|,,|``|[?!]`|^\[| \[|^\*| \*", written)


def test_numbers_end_at_the_first_digit_of_their_standard_error() -> None:
    a = analyse(rich_study())
    _, rows = tables(render_latex(rich_study()))[0]
    assert a.model is not None
    for row, cells in zip(a.rows, rows[1:], strict=True):
        se = a.model.mean(row.arm_id, a.alpha).se
        if se is None or row.value is None:
            assert cells[1] == formats.number(row.value)
            continue
        decimals = len(cells[1].partition(".")[2])
        first = se * row.value * 10**decimals
        assert 1 <= first < 10, "the last decimal is the first digit of the error"
        assert float(cells[1]) == round(row.value, decimals)
        assert row.low is not None
        assert cells[2].split(" to ")[0] == f"{row.low:.{decimals}f}"
        if row.contrast is not None and row.contrast.se is not None:
            shown = cells[4].rstrip("†%")
            error = 100 * 2.718281828459045**row.contrast.estimate * row.contrast.se
            assert 1 <= error * 10 ** len(shown.partition(".")[2]) < 10


@pytest.mark.parametrize(("value", "error", "expected"), [
    (123.4, 12.0, "120"), (4.0349, 0.034, "4.03"), (0.00012, 0.00001, "0.00012"), (-0.001, 0.2, "0.0"),
    (1234.5, 0.96, "1,234.5"), (6.09, None, "6.090"), (-4.26, 1.3, "−4"),
])  # fmt: skip
def test_rounding_to_a_standard_error(value: float, error: float | None, expected: str) -> None:
    assert formats.rounded(value, formats.digits_of(error)) == expected


def test_what_is_resolved_is_not_rounded_to_no_change() -> None:
    """A percentage ends at the first digit of its standard error, which may be ten of them."""
    contrast = Contrast("x", "b", math.log(1.5), 3, 3, se=0.1, low=math.log(1.009), high=math.log(2.2), df=4.0)
    assert change(analyse(study()), contrast, "worse") == ("+50\\%", "+0.9\\% to +120\\%")
    assert formats.interval(0.0003, 0.05) == "+0.03% to +5.1%"
    assert formats.interval(-0.0003, 0.05) == "−0.0% to +5.1%"
    assert formats.change(0.0003) == "+0.0%"


def test_the_caption_says_why_nothing_is_bold() -> None:
    three = {"b": {0: 1.0, 1: 1.01, 2: 0.99}, "x": {0: 0.5, 1: 0.51, 2: 0.505}, "y": {0: 2.0, 1: 2.1, 2: 2.05}}
    assert "the best-looking arm has no interval" in render_latex(study_of({**three, "z": {0: 0.4}}))
    assert "Bold: every arm" in render_latex(study_of(three))
    level = render_latex(study({"fm": 0.0, "a": 0.0, "c": 0.0}, 5, noise=0.05, rng_seed=5))
    assert "Nothing is bold, because no arm is worse than the best one beyond doubt." in level


def test_all_arms_that_tie_with_the_best_are_bold_and_the_lowest_alone_never_is() -> None:
    near = study({"base": 0.0, "a": -0.5, "b": -0.505, "c": 0.4}, 5)
    assert [r.label for r in analyse(near).rows if r.tied_best] == ["a", "b"]
    latex = render_latex(near)
    assert [name for name in ("base", "a", "b", "c") if f"\\textbf{{{name}}}" in latex] == ["a", "b"]
    assert "Nothing is bold" in render_latex(study({"base": 0.0, "a": -0.001, "b": 0.001}, 3))
    assert "\\textbf" not in render_latex(study(seeds=1)), "with one seed nobody knows what is best"


def test_the_caption_says_n_level_metric_identity_and_what_the_daggers_mean() -> None:
    ((caption, rows), (path, steps)) = tables(render_latex(rich_study()))
    for words in (
        "(fd_digits), not FID, 1,797 samples (identity mid000000001, condition cid000000001), lower is better",
        "Geometric mean over n = 1 to 4 training seeds with 95% intervals",
        "their 95% intervals hold for all 9 comparisons at once",
        "†Inconclusive: the interval includes no change and reaches beyond the margin of ±2%.",
        "‡No interval, so no verdict.",
    ):
        assert words in caption.replace("^", "")
    verdicts = {cells[0]: cells[-1] for cells in rows}
    assert verdicts["+ gradual times"] == "better"
    assert {c[0] for c in rows if "†" in c[4]} == {n for n, v in verdicts.items() if v == "inconclusive"}
    assert "cumulative path walk" in path
    assert [c[6] for c in steps[1:]] == ["---", "better", "inconclusive", "inconclusive", "better"]


def test_refused_steps_and_claims_are_tables_too() -> None:
    names = [rows for _, rows in tables(render_latex(component_study()))]
    assert ["MeanFlow +muon", "not run"] in [row[:2] for row in names[1]]
    assert [row[1] for row in names[2][1:]] == ["holds", "fails", "undecided", "not understood"]


@pytest.mark.parametrize("frames", DEGENERATE.values(), ids=DEGENERATE)
def test_every_degenerate_study_has_tables_that_compile(frames: StudyFrames) -> None:
    latex = render_latex(frames)
    (_, rows), *_ = tables(latex)
    assert len(rows) == len(analyse(frames).rows) + 1
    assert not re.search(r"\b(nan|NaN|None|inf)\b", latex)
