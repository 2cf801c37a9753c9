"""``ablate doctor``: can this machine run a study? A line says what was looked at, what was found, how to mend it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import typer

from ablate.cli.options import JsonOption, PluginOption, StoreOption, plugin_names, store_root

if TYPE_CHECKING:
    from ablate_core.config import TrialConfig


class Finding(NamedTuple):
    """One look. `status` is ok, warning or error."""

    what: str
    status: str
    found: str
    mend: str = ""


def doctor(
    what: Annotated[
        Literal["metric"] | None,
        typer.Argument(help="metric: examine how images are measured instead.", show_default=False),
    ] = None,
    space: Annotated[
        str | None,
        typer.Argument(help="Of doctor metric: the space whose metric to examine.", show_default=False),
    ] = None,
    images: Annotated[int, typer.Option("--images", min=8, help="Of doctor metric: images to look at.")] = 512,
    plugin: PluginOption = None,
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Check Python, packages, devices, the store and the evaluation networks; or, with `metric`, what they measure."""
    from ablate.cli import present
    from ablate.errors import ExitCode

    findings = list(_metrics(space, images, plugin) if what == "metric" else _examine(store_root(store)))
    if json:
        present.as_json([finding._asdict() for finding in findings])
    else:
        present.table(
            "", ["", "what", "found", "to mend it"], [[_MARK[f.status], f.what, f.found, f.mend] for f in findings]
        )
    if any(finding.status == "error" for finding in findings):
        raise typer.Exit(ExitCode.USAGE)


_MARK = {"ok": "ok", "warning": "?", "error": "!!"}


def _examine(root: Path) -> Iterator[Finding]:
    looks: tuple[Callable[[], Iterator[Finding]], ...] = (
        _python,
        _packages,
        _plugins,
        _devices,
        _evaluation,
        lambda: _store(root),
    )
    for look in looks:
        try:
            yield from look()
        except Exception as error:  # a doctor that dies of what it looks for is of no use
            name = getattr(look, "__name__", "check").strip("_<>")
            yield Finding(name, "error", f"{type(error).__name__}: {error}".split("\n")[0], "report this as a bug")


def _metrics(space: str | None, images: int, plugin: list[str] | None) -> Iterator[Finding]:
    """The metric of a space; without one those of the digits, with FID where its network is on this machine."""
    from ablate_core.fid.inception import cached_weights

    if space:
        yield from _metric(_base(space, plugin), images)
        return
    yield from _metric(_digits("fd_digits"), images)
    if cached_weights():
        yield from _metric(_digits("fid"), images)
    else:
        yield Finding("fid", "warning", "not examined: no weights", "set eval.extractor in a space, or go online once")


def _base(space: str, plugin: list[str] | None) -> TrialConfig:
    from ablate.space import expand, load_space

    return expand(load_space(space, plugins=plugin_names(plugin))).baseline.config


def _digits(metric: str) -> TrialConfig:
    from ablate_core.config import TrialConfig

    of_images = {"schedule": "linear", "objective": "fm", "architecture": "mlp", "data": "digits"}
    how = {"train": {"steps": 1, "batch_size": 1}, "eval": {"metric": metric, "samples": 2000}}
    return TrialConfig.model_validate({**of_images, **how})


def _metric(config: TrialConfig, images: int) -> Iterator[Finding]:
    from ablate_core.fid import MetricError
    from ablate_core.fid.metrics import FrechetMetric, build_metric
    from ablate_core.fid.selfcheck import examine

    data = config.data.load()
    try:
        metric = build_metric(config.eval, config.data, data)
    except MetricError as error:
        yield Finding(config.eval.metric, "error", str(error))
        return
    if not isinstance(metric, FrechetMetric):
        yield Finding(config.eval.metric, "ok", "compares points as they are: there is no network to examine")
        return
    for look in examine(metric, data, config.data.to_uint8, images):
        yield Finding(*look)


def _python() -> Iterator[Finding]:
    version = sys.version.split()[0]
    good = sys.version_info >= (3, 11)
    yield Finding("python", "ok" if good else "error", version, "" if good else "ablate needs Python 3.11 or newer")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding("cpu cores", "ok", str(cores))


def _packages() -> Iterator[Finding]:
    from importlib.metadata import PackageNotFoundError, distribution, version

    from ablate import __version__

    for name in ("torch", "ray", "duckdb", "plotly", "pandas", "pydantic", "clean-fid", "optuna"):
        try:
            yield Finding(name, "ok", version(name))
        except PackageNotFoundError:
            yield Finding(name, "error", "not installed", "make setup")
    try:
        files = distribution("ablate").files or []
    except PackageNotFoundError:
        files = []
    clash = bool(files)
    yield Finding(
        "ablate-shortcut",
        "error" if clash else "ok",
        f"{__version__}{', and another distribution that also installs the import name ablate' if clash else ''}",
        "uninstall the distribution `ablate`: the two cannot share an environment" if clash else "",
    )


def _plugins() -> Iterator[Finding]:
    from ablate.errors import AblateError
    from ablate.space import load_plugins
    from ablate_core import plugins

    try:
        load_plugins(plugin_names(None))
    except AblateError as error:
        yield Finding("plug-ins", "error", str(error), "every command that reads a space stops at it")
    for plugin in plugins.loaded():
        count = sum(1 for _ in plugins.components(plugin.module))
        release = f", {plugin.release}" if plugin.release.distribution else ""
        yield Finding(f"plug-in {plugin.module}", "ok", f"{count} components{release}, source {plugin.sha256[:12]}")


def _devices() -> Iterator[Finding]:
    import torch

    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(i)
            yield Finding(
                f"gpu {i}", "ok", f"{torch.cuda.get_device_name(i)}, {free / 2**30:.0f} of {total / 2**30:.0f} GiB free"
            )
    else:
        yield Finding("gpu", "warning", "none visible to torch", "trials will train on the CPU; toy scale only")


def _evaluation() -> Iterator[Finding]:
    from ablate_core.fid.fd_digits import weights_sha256
    from ablate_core.fid.inception import cached_weights

    yield Finding("fd_digits classifier", "ok", f"weights {weights_sha256()[:12]}")
    path = cached_weights()
    yield Finding(
        "inception weights (fid)",
        "ok" if path else "warning",
        str(path) if path else "not downloaded",
        "" if path else "needed for `eval.metric: fid` only: set eval.extractor, or go online once",
    )
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    yield Finding(
        "browser (tests of the report only)",
        "ok" if browser else "warning",
        browser or "none",
        "" if browser else "install chromium",
    )


def _store(root: Path) -> Iterator[Finding]:
    from ablate.store import StorePaths, check

    there = root.exists()
    yield Finding("store", "ok", f"{root.resolve()}{'' if there else ' (will be created)'}")
    parent = next(p for p in (root, *root.resolve().parents) if p.exists())
    free = shutil.disk_usage(parent).free / 2**30
    yield Finding(
        "free disk", "ok" if free > 5 else "warning", f"{free:.0f} GiB", "" if free > 5 else "checkpoints need room"
    )
    writable = os.access(parent, os.W_OK)
    yield Finding(
        "store writable",
        "ok" if writable else "error",
        "yes" if writable else "no",
        "" if writable else "choose another --store",
    )
    if there:
        for problem in check(StorePaths(root)):
            yield Finding("store integrity", "warning", problem, "ablate db rebuild keeps what the journals hold")
