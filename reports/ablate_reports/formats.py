"""Numbers and labels as the reader sees them."""

from __future__ import annotations

import html
import math

MINUS = "\u2212"


def number(value: float | None, digits: int = 4) -> str:
    """Significant digits without exponents for everyday sizes: ``12.34``, ``0.00123``, ``1.2e-07``; None is a dash."""
    if value is None or not math.isfinite(value):
        return "—"
    if value == 0:
        return "0"
    size = math.floor(math.log10(abs(value)))
    if size < -4 or size > 6:
        return f"{value:.{digits - 1}e}".replace("-", MINUS)
    return f"{value:,.{max(0, digits - 1 - size)}f}".replace("-", MINUS)


def digits_of(error: float | None) -> int | None:
    """Decimals that end at the first digit of a standard error: 0.034 -> 2, 12 -> -1; None where there is no error."""
    usable = error is not None and math.isfinite(error) and error > 0
    return -math.floor(math.log10(error)) if usable and error is not None else None


def rounded(value: float | None, digits: int | None) -> str:
    """A value with that many decimals (negative: tens, hundreds); four significant digits where `digits` is None."""
    if value is None or not math.isfinite(value) or digits is None or not -6 <= digits <= 12:
        return number(value)
    return f"{round(value, digits) + 0.0:,.{max(0, digits)}f}".replace("-", MINUS)


def change(delta: float | None, scale: str = "log", *, resolved: bool = False) -> str:
    """A difference on the model's scale: a percentage for logs (a factor beyond +200 %), signed units otherwise.

    One that is `resolved` is not rounded to none.
    """
    if delta is None or not math.isfinite(delta):
        return "—"
    if scale != "log":
        return ("+" if delta > 0 else "") + number(delta, 3)
    percent = 100 * math.expm1(min(delta, 700.0))
    if percent > 200:
        return _factor(delta)
    digits = 0 if percent >= 100 else 2 if percent <= -99 else 1  # -99.95 % is not -100 %
    if resolved and 0 < abs(percent) < 0.05:
        digits = math.ceil(-math.log10(abs(percent)))
    text = f"{percent:+.{digits}f}%"
    return text.replace("-", MINUS)


def interval(low: float | None, high: float | None, scale: str = "log") -> str | None:
    """An interval of differences: ``−8.3% to −5.5%``."""
    if low is None or high is None:
        return None
    ends = (change(end, scale, resolved=low * high > 0) for end in (low, high))
    return " to ".join(ends)


def magnitude(delta: float, scale: str = "log") -> str:
    """An unsigned difference: ``2.4%``; a factor beyond 1000 %."""
    if scale != "log":
        return number(delta, 2)
    return f"{100 * math.expm1(delta):.1f}%" if delta < math.log(11) else _factor(delta)


def _factor(delta: float) -> str:
    factor = math.exp(min(delta, 700.0))
    return f"×{factor:,.1f}" if factor < 1e6 else f"×{number(factor, 3)}"


def times(ratio: float) -> str:
    """A ratio: ``2.3 times``."""
    return f"{ratio:.1f} times" if ratio < 99 else "over 99 times"


def hours(seconds: float) -> str:
    """Seconds as hours, minutes below one hour: ``3.2 h``, ``12 min``, ``40 s``."""
    if seconds >= 3600:
        return f"{seconds / 3600:,.1f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.0f} s"


def percent(p: float) -> str:
    """``0.95 -> 95%``."""
    return f"{100 * p:g}%"


def listed(parts: list[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def short(text: str, length: int = 48) -> str:
    """A label cut to a length, control characters made harmless."""
    clean = " ".join("".join(ch if ch.isprintable() else " " for ch in str(text)).split())
    return clean if len(clean) <= length else clean[: length - 1].rstrip() + "…"


def safe(text: str, length: int = 48) -> str:
    """A label for Plotly, which reads a subset of HTML: escaped, cut, and isolated from its neighbours' direction."""
    return f"\u2068{html.escape(short(text, length), quote=False)}\u2069"
