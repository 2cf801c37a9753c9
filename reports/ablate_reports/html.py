"""One offline HTML page: no request ever leaves it, and the same study gives the same bytes."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ablate_reports.analysis import analyse
from ablate_reports.data import StudyFrames
from ablate_reports.page import context

TEMPLATES = Path(__file__).parent / "templates"


def render_html(frames: StudyFrames) -> str:
    """The report as one self-contained page.

    Args:
        frames: the study, finished or not.

    Returns:
        HTML of about 2 MB (Plotly, compressed) plus the figures' data and the sample pictures.
    """
    found = context(analyse(frames))
    env = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (TEMPLATES / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    figures = found["figures"]
    return env.get_template("report.html.j2").render(
        **found,
        specs={f.id: _json(f.spec | {"narrow": f.narrow}) for f in figures},
        filter_json=_json(found["arm_levels"]),
        plotly=Markup(_plotly()) if figures else None,
        script=Markup(script),
        script_digest=digest,
        style=Markup((TEMPLATES / "style.css").read_text(encoding="utf-8")),
    )


def _json(spec: dict[str, Any]) -> Markup:
    """JSON inside a script element: sorted keys, no NaN, and nothing that could end the element."""
    text = json.dumps(spec, sort_keys=True, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))


@lru_cache(maxsize=1)
def _plotly() -> str:
    """plotly.js of the installed wheel, gzipped without a timestamp, in base64."""
    from plotly.offline import get_plotlyjs

    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), 9, mtime=0)).decode("ascii")
