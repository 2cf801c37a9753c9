"""``ablate report``: the report of a study, also while it runs."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ablate.cli.options import StoreOption, store_root
from ablate.errors import NotHereError

if TYPE_CHECKING:
    from ablate.store import StorePaths
    from ablate_reports import StudyFrames


FLAGS = {"html": "html", "md": "md", "tex": "latex", "csv": "csv", "json": "json"}
"""The suffix of a format's files -> its flag."""


def report(
    studies: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[STUDY]...",
            help="A study of the store, or several for one report; not needed when there is one.",
            show_default=False,
        ),
    ] = None,
    html: Annotated[bool, typer.Option("--html", help="One offline page (also without any format flag).")] = False,
    md: Annotated[bool, typer.Option("--md", help="Markdown.")] = False,
    latex: Annotated[bool, typer.Option("--latex", help="Tables for a paper (booktabs).")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="One row per arm.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Every number and verdict (docs/json.md).")] = False,
    figures: Annotated[
        Path | None,
        typer.Option("--figures", help="Folder for every figure as a file; needs kaleido and Chrome or Chromium."),
    ] = None,
    format: Annotated[
        list[str] | None,
        typer.Option("--format", help="svg, png or pdf; repeatable [default: svg].", show_default=False),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File to write; - is standard output.", show_default=False)
    ] = None,
    store: StoreOption = None,
) -> None:
    """Render what the store holds of STUDY: verdict, tables, figures, samples, failures, provenance."""
    from ablate.cli import present
    from ablate.store import StorePaths
    from ablate_reports import render

    paths = StorePaths(store_root(store))
    flags = {"html": html, "md": md, "tex": latex, "csv": csv, "json": json}
    wanted = [suffix for suffix, flag in flags.items() if flag] or ["html"] * (figures is None)
    asked: Sequence[str | None] = studies if studies else [None]
    names = list(dict.fromkeys(study_name(paths, name) for name in asked))
    _check(names, wanted, figures, format, out)
    frames = [study_frames(paths, name) for name in names]
    for suffix in wanted:
        text = render(suffix, frames)
        if str(out) == "-":
            typer.echo(text, nl=not text.endswith("\n"))
            continue
        path = out or paths.report(names[0], suffix)
        _write(path, text)
        present.line(f"{path} ({path.stat().st_size / 1e6:.1f} MB)" if suffix == "html" else str(path))
    if figures is not None:
        for study in frames:
            folder = figures if len(frames) == 1 else figures / paths.study(study.study["name"]).name
            _draw(study, folder, format or ["svg"])


def _check(
    names: list[str], wanted: list[str], figures: Path | None, format: list[str] | None, out: Path | None
) -> None:
    """Refuse options that contradict each other before anything is computed."""
    if out is not None and len(wanted) != 1:
        asked = " and ".join(wanted) or "figures alone"
        raise NotHereError(f"--out names one file, but {asked} were asked for; drop --out or all but one format")
    if out is not None and out.is_dir():
        raise NotHereError(f"--out {out}: is a folder; name a file in it")
    named = FLAGS.get(out.suffix[1:].lower()) if out is not None else None
    if named and named != FLAGS[wanted[0]]:
        raise NotHereError(
            f"--out {out}: is a name for --{named}, and {FLAGS[wanted[0]]} was asked for; add --{named} or choose "
            "another name"
        )
    if len(names) > 1 and wanted and out is None:
        raise NotHereError(
            f"{len(names)} studies in one report: say with --out where to write it, one format at a time"
        )
    if format and figures is None:
        raise NotHereError(f"--format {format[0]} is about figures: name their folder with --figures")


def _draw(frames: StudyFrames, folder: Path, formats: list[str]) -> None:
    """Every figure of a study as a file, and their captions beside them."""
    from ablate.cli import present
    from ablate_reports import analyse
    from ablate_reports.figures import all_figures
    from ablate_reports.images import CannotDrawError, captions, write_figures

    drawn = all_figures(analyse(frames))
    if not drawn:
        raise NotHereError(f"{frames.study['name']} has no figure yet: nothing is measured that could be drawn")
    typer.echo(f"drawing {len(drawn)} figures ...", err=True)
    try:
        files = write_figures(drawn, folder, formats)
    except (CannotDrawError, ValueError) as error:
        raise NotHereError(str(error)) from None
    except OSError as error:
        raise NotHereError(f"{folder}: cannot write figures ({error.strerror}); choose another folder") from None
    _write(folder / "captions.md", captions(drawn))
    for path in [*files, folder / "captions.md"]:
        present.line(str(path))


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
    if not known:
        what = "there is no study" if name is None else f"no study {name!r}"
        raise NotHereError(f"{paths.root}: {what}, the store is empty; run a space first")
    what = "which study?" if name is None else f"no study {name!r};"
    raise NotHereError(f"{paths.root}: {what} there {'is' if len(known) == 1 else 'are'} {', '.join(known)}")


def study_frames(paths: StorePaths, name: str) -> StudyFrames:
    """What the store holds of a study, as the report reads it."""
    from ablate.store import open_frames
    from ablate_reports import StudyFrames
    from ablate_reports.figures.losses import loss_name

    return StudyFrames.from_mapping(open_frames(paths, name, curves=loss_name))


def _write(path: Path, text: str) -> None:
    """Write so that a reader sees the old file or the new one, never half of it."""
    import os

    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise NotHereError(
            f"{path}: cannot write the report ({error.strerror}); choose another place with --out"
        ) from None
