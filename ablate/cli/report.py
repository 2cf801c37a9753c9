"""``ablate report``: the report of a study, also while it runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ablate.cli.options import StoreOption, store_root
from ablate.errors import NotHereError

if TYPE_CHECKING:
    from ablate.store import StorePaths
    from ablate_reports import StudyFrames


def report(
    study: Annotated[
        str | None, typer.Argument(help="A study of the store; not needed when there is one.", show_default=False)
    ] = None,
    html: Annotated[bool, typer.Option("--html", help="One offline page (also without any format flag).")] = False,
    md: Annotated[bool, typer.Option("--md", help="Markdown.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="One row per arm.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Every number and verdict (docs/json.md).")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File to write; - is standard output.", show_default=False)
    ] = None,
    store: StoreOption = None,
) -> None:
    """Render what the store holds of STUDY: verdict, tables, figures, samples, failures, provenance."""
    import ablate_reports as reports
    from ablate.cli import present
    from ablate.store import StorePaths

    paths = StorePaths(store_root(store))
    frames = study_frames(paths, study_name(paths, study))
    wanted = [suffix for suffix, flag in (("html", html), ("md", md), ("csv", csv), ("json", json)) if flag] or ["html"]
    if out is not None and len(wanted) > 1:
        raise NotHereError(
            f"--out names one file, but {' and '.join(wanted)} were asked for; drop --out or all but one format"
        )
    render = {
        "html": reports.render_html,
        "md": reports.render_markdown,
        "csv": reports.render_csv,
        "json": reports.render_json,
    }
    for suffix in wanted:
        text = render[suffix](frames)
        if str(out) == "-":
            typer.echo(text, nl=not text.endswith("\n"))
            continue
        path = out or paths.report(frames.study["name"], suffix)
        _write(path, text)
        present.line(f"{path} ({path.stat().st_size / 1e6:.1f} MB)" if suffix == "html" else str(path))


def study_name(paths: StorePaths, name: str | None) -> str:
    """The study asked for, or the only one there is. Raises NotHereError that lists what there is."""
    from ablate.store import studies

    known = [str(s["name"]) for s in studies(paths)]
    if name is None and len(known) == 1:
        return known[0]
    if name in known:
        return str(name)
    stem = Path(name).stem if name else None
    if stem in known:  # `ablate report spaces/objectives.yaml` is what people type
        return str(stem)
    have = f"there are {', '.join(known)}" if known else "it is empty: run a space first"
    raise NotHereError(f"{paths.root}: {'which study?' if name is None else f'no study {name!r}'}; {have}")


def study_frames(paths: StorePaths, name: str) -> StudyFrames:
    """What the store holds of a study, as the report reads it."""
    from ablate.store import open_frames
    from ablate_reports import StudyFrames

    return StudyFrames.from_mapping(open_frames(paths, name))


def _write(path: Path, text: str) -> None:
    """Write so that a reader sees the old file or the new one, never half of it."""
    import os

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise NotHereError(
            f"{path}: cannot write the report ({error.strerror}); choose another place with --out"
        ) from None
