"""The door to Ray: start a private instance on this machine, or join a cluster, and see what it has."""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from ablate.errors import ClusterError
from ablate.launch.options import RunOptions, elsewhere
from ablate_core import plugins

OBJECT_STORE_BYTES = 100 * 2**20
"""Configs and progress reports are all that travels; Ray would reserve 30 % of the memory."""

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths of a space mean the folder the person stands in
    "RAY_AIR_NEW_OUTPUT": "0",  # its banner is printed even when it is told to be silent
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "RAY_memory_monitor_refresh_ms": "0",  # it knows only slots, which are small, and would kill them for an attempt
    "RAY_worker_oom_score_adjustment": "0",  # so that the kernel takes the attempt that is too large, see `forking`
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # Ray's future default, and no warning about it
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # three files per trial that nobody reads
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is the driver's
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # Tune's own state is never restored: the store is
}


@dataclass(frozen=True)
class Cluster:
    """What was found: the resources of each living node, and whether the cluster was started here."""

    nodes: tuple[dict[str, float], ...]
    private: bool
    address: str

    def total(self, resource: str) -> float:
        return sum(node.get(resource, 0.0) for node in self.nodes)


_starting: int | None = None
"""The thread that starts Ray, while it does."""


def _apart() -> None:
    """In a process of Ray's that has just been forked: leave our process group.

    SIGTERM or SIGUSR1 to the group, which is what `timeout`, Slurm and supervisors send, is a request to checkpoint.
    That takes Ray, which would end at once.
    """
    if _starting == threading.get_ident():
        os.setpgid(0, 0)


os.register_at_fork(after_in_child=_apart)


@contextlib.contextmanager
def _ray_apart() -> Iterator[None]:
    global _starting
    _starting = threading.get_ident()
    try:
        yield
    finally:
        _starting = None


@contextlib.contextmanager
def connected(options: RunOptions) -> Iterator[Cluster]:
    """Be connected to Ray, and leave it as it was found: what was started here is shut down, also after an error.

    A process that has called ``ray.init`` already (a notebook, a test) keeps its connection.

    Raises:
        ClusterError: the address answers nothing.
    """
    os.environ.update({name: os.environ.get(name, value) for name, value in ENVIRONMENT.items()})
    import ray

    if ray.is_initialized():
        yield _look(ray, "the connection of this process")
        return
    address = elsewhere(options) or "local"
    try:
        try:
            with _ray_apart(), tempfile.TemporaryDirectory(prefix="ablate-ship-") as stage:
                ray.init(**_arguments(address, options, Path(stage)))
        except (ConnectionError, ValueError) as error:
            if address == "local":
                raise
            what = str(error).partition("\n")[0]
            raise ClusterError(f"no Ray cluster answers at {address} ({what}); start one or drop --address") from error
        yield _look(ray, address)
    finally:
        ray.shutdown()


def _arguments(address: str, options: RunOptions, stage: Path) -> dict[str, Any]:
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    if address != "local":
        return {"address": address, "runtime_env": shipped(options, stage), **quiet}
    return {
        "address": "local",  # without it Ray joins any cluster that happens to run on the machine
        "num_cpus": options.local_cpus,
        "num_gpus": options.logical_gpus,
        "include_dashboard": False,
        "object_store_memory": OBJECT_STORE_BYTES,
        **quiet,
    }


def ships(options: RunOptions) -> bool:
    """Whether our packages and the plug-ins are sent: to a cluster elsewhere, unless its nodes have them installed.

    Local workers share this environment, so nothing is sent.
    """
    return elsewhere(options) is not None and options.ship_code is not False


def shipped(options: RunOptions, stage: Path) -> dict[str, Any]:
    """Ray's ``runtime_env``: our packages and the plug-ins. `stage` is an empty folder for what has to be copied first.

    A plug-in travels as its `plugins.home`: the whole package, or the one file. Ray names what it unpacks after the
    last part of the path, so that a part of a namespace is copied into folders of the namespace's name.
    """
    if not ships(options):
        return {}
    sources = [str(Path(str(importlib.import_module(name).__file__)).parent) for name in ("ablate", "ablate_core")]
    for name, path in dict.fromkeys(map(plugins.home, options.plugins)):
        if "." not in name:
            sources.append(str(path))
            continue
        copy = stage.joinpath(*name.split(".")[:-1], path.name)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            shutil.copytree(path, copy, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        else:
            shutil.copyfile(path, copy)
        sources.append(str(stage / name.partition(".")[0]))
    return {"py_modules": list(dict.fromkeys(sources))}


def _look(ray: ModuleType, address: str) -> Cluster:
    nodes = tuple(node["Resources"] for node in ray.nodes() if node["Alive"])
    return Cluster(nodes, address == "local", address)
