"""Any text as LaTeX that compiles: specials escaped, letters of every script kept, nothing a table reads as its own.

Everything written is ASCII but the argument of ``\\ablateunicode``: a character without a macro is set as it is by
XeLaTeX and LuaLaTeX, and by its code point by pdfLaTeX, whose fonts lack it. `PREAMBLE` defines that macro.
"""

from __future__ import annotations

import re
import unicodedata
from itertools import groupby

from ablate_reports import formats

PREAMBLE = (
    "\\providecommand{\\ablateunicode}[2]{\\ifdefined\\Umathchar#1\\else\\texttt{#2}\\fi}"
    " % #1 where the engine reads Unicode, else #2"
)

SPECIAL = {
    "\\": "\\textbackslash{}", "{": "\\{", "}": "\\}", "$": "\\$", "&": "\\&", "#": "\\#", "%": "\\%", "_": "\\_",
    "^": "\\textasciicircum{}", "~": "\\textasciitilde{}", "<": "\\textless{}", ">": "\\textgreater{}",
    "|": "\\textbar{}", '"': "\\textquotedblright{}", "`": "{}`{}", "[": "{[}", "]": "{]}", "*": "{*}",
}  # fmt: skip
"""Beyond TeX's ten specials: what OT1 fonts lack, and what ``\\\\`` or a rule would take for its own argument at the
start of a row."""

_LIGATURE = re.compile(r"([-',])(?=\1)")
"""Neighbours that a font would draw as one sign."""

SYMBOLS = {
    "−": "$-$", "×": "$\\times$", "±": "$\\pm$", "≈": "$\\approx$", "→": "$\\to$", "←": "$\\leftarrow$",
    "≤": "$\\leq$", "≥": "$\\geq$", "≠": "$\\neq$", "∞": "$\\infty$", "∂": "$\\partial$", "∇": "$\\nabla$",
    "·": "$\\cdot$", "√": "$\\surd$", "°": "$^{\\circ}$", "²": "$^{2}$", "³": "$^{3}$", "¹": "$^{1}$",
    "…": "\\ldots{}", "–": "\\textendash{}", "—": "\\textemdash{}", "†": "\\dag{}", "‡": "\\ddag{}", "§": "\\S{}",
    "‘": "\\textquoteleft{}", "’": "'", "“": "\\textquotedblleft{}", "”": "\\textquotedblright{}",
    "ß": "\\ss{}", "ø": "\\o{}", "Ø": "\\O{}", "æ": "\\ae{}", "Æ": "\\AE{}", "å": "\\aa{}", "Å": "\\AA{}",
    "ł": "\\l{}", "Ł": "\\L{}",
}  # fmt: skip

ACCENTS = {
    "\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0308": '"', "\u0304": "=", "\u0307": ".",
    "\u030c": "v", "\u0327": "c", "\u030b": "H", "\u0306": "u",
}  # fmt: skip

GREEK = frozenset(
    "alpha beta gamma delta epsilon zeta eta theta iota kappa mu nu xi pi rho sigma tau upsilon phi chi psi omega "
    "Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega".split()
)

LONGEST = 20
"""Characters of one word before a line may break inside it."""


def text(raw: str, length: int = 400) -> str:
    """Text without meaning to LaTeX: on one line, control characters gone, cut to `length` characters."""
    words = formats.short(unicodedata.normalize("NFC", str(raw)), length).split(" ")
    return " ".join("\\allowbreak{}".join(_pieces(word)) for word in words)


def _pieces(word: str) -> list[str]:
    return [_escaped(word[i : i + LONGEST]) for i in range(0, len(word), LONGEST)]


def _escaped(word: str) -> str:
    found = []
    for foreign, run in groupby(((ch, _macro(ch)) for ch in word), key=lambda pair: pair[1] is None):
        pairs = list(run)
        if foreign:
            raw = "".join(ch for ch, _ in pairs)
            found.append(f"\\ablateunicode{{{raw}}}{{{' '.join(f'U+{ord(ch):04X}' for ch in raw)}}}")
        else:
            found += [macro for _, macro in pairs if macro is not None]
    return _LIGATURE.sub(r"\1{}", "".join(found))


def _macro(ch: str) -> str | None:
    """ASCII that sets one character; None where there is none."""
    if ch in SPECIAL or ch in SYMBOLS:
        return SPECIAL.get(ch) or SYMBOLS[ch]
    if ch.isascii():
        return ch
    parts = unicodedata.normalize("NFD", ch)
    if len(parts) == 2 and parts[0].isascii() and parts[0].isalpha() and parts[1] in ACCENTS:
        letter = f"\\{parts[0]}{{}}" if parts[0] in "ij" and parts[1] != "\u0327" else parts[0]
        return f"\\{ACCENTS[parts[1]]}{{{letter}}}"
    words = unicodedata.name(ch, "").split()
    if words[:1] == ["GREEK"] and words[2:3] == ["LETTER"] and len(words) == 4:
        name = {"LAMDA": "LAMBDA"}.get(words[3], words[3])
        name = name.capitalize() if words[1] == "CAPITAL" else name.lower()
        if name in GREEK or name == "lambda":
            return f"$\\{name}$"
    return None
