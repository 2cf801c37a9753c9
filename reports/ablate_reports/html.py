"""One offline HTML page: no request ever leaves it, and the same study gives the same bytes."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import threading
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ablate_reports import several
from ablate_reports.analysis import Analysis, analyse
from ablate_reports.data import StudyFrames
from ablate_reports.page import context
from ablate_reports.several import Several

TEMPLATES = Path(__file__).parent / "templates"


def render_html(frames: StudyFrames) -> str:
    """The report as one self-contained page.

    Args:
        frames: the study, finished or not.

    Returns:
        HTML of about 2 MB (Plotly, compressed) plus the figures' data and the sample pictures.
    """
    env = _environment()
    body, found = _study(env, analyse(frames), "")
    return _page(env, [body], [found], title=frames.study["name"], contents=found["contents"], several=False)


def render_several_html(studies: Several) -> str:
    """Several studies as one page: an overview, then each of them whole; plotly.js is embedded once."""
    env = _environment()
    made = [_study(env, a, f"s{i}-") for i, a in enumerate(studies.analyses, start=1)]
    links = [(f"s{i}-verdict", name) for i, name in enumerate(studies.names, start=1)]
    return _page(
        env, [body for body, _ in made], [found for _, found in made], title=studies.title, several=True,
        contents=[("overview", "Overview"), *links], summary=several.summary(studies), ratios=several.ratios(studies),
        differs=several.differences(studies), notes=several.notes(studies), mean_row=several.MEAN,
    )  # fmt: skip


def _environment() -> Environment:
    threading.Thread(target=_plotly, daemon=True).start()  # zlib leaves this thread free to analyse meanwhile
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _study(env: Environment, analysis: Analysis, prefix: str) -> tuple[Markup, dict[str, Any]]:
    """One study's part of the page, and what it was made of; every id in it begins with `prefix`."""
    found = context(analysis)
    text = env.get_template("study.html.j2").render(
        **found,
        p=prefix,
        specs={f.id: _json(f.spec | {"narrow": f.narrow}) for f in found["figures"]},
        filter_json=_json(found["arm_levels"]),
    )
    return Markup(text), found


def _page(env: Environment, bodies: list[Markup], found: list[dict[str, Any]], **more: Any) -> str:
    """The page around them: policy, style, contents, plotly.js, script."""
    script = (TEMPLATES / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return env.get_template("report.html.j2").render(
        bodies=bodies,
        version=next((v for f in found if (v := f["study"]["version"])), ""),
        plotly=Markup(_plotly()) if any(f["figures"] for f in found) else None,
        script=Markup(script),
        script_digest=digest,
        style=Markup((TEMPLATES / "style.css").read_text(encoding="utf-8")),
        **more,
    )


def _json(spec: dict[str, Any]) -> Markup:
    """JSON inside a script element: sorted keys, no NaN, and nothing that could end the element."""
    text = json.dumps(spec, sort_keys=True, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))


_packing = threading.Lock()


def _plotly() -> str:
    """plotly.js of the installed wheel, gzipped without a timestamp, in base64."""
    with _packing:
        return _packed()


@lru_cache(maxsize=1)
def _packed() -> str:
    from plotly.offline import get_plotlyjs

    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), 9, mtime=0)).decode("ascii")
