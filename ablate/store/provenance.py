"""What an attempt ran in: code, versions, machine. Recorded with every attempt, so that a number can be traced."""

from __future__ import annotations

import hashlib
import os
import platform
import socket
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import ablate
from ablate_core import plugins
from ablate_core.identity import content_id

_GIT_SECONDS = 20


def environment() -> dict[str, Any]:
    """The environment of this process; JSON-able, constant while the process and the checkout do not change.

    Imports neither torch nor a CUDA library: what torch says is recorded only if it has been imported already, and the
    GPUs are read from the driver's own files, so it is safe before a fork.

    Returns:
        git_sha, git_dirty, diff_sha256 (of ablate's checkout; None when it is installed), ablate, python, packages
        {distribution: version}, plugins {module: {distribution, version, sha256 of its source}} that this process has
        loaded, platform, hostname, cpu, cpu_count, torch, cuda, cudnn, gpus [names], driver, flags
        (threads and precision switches that can change numbers), and env_id, the hash of all of these.
    """
    flags = tuple(_flags(sys.modules.get("torch")).items())
    return {**_environment("torch" in sys.modules, plugins.loaded(), flags)}


@cache  # of what can change in a process; a forked attempt finds what was looked up before it
def _environment(
    with_torch: bool, loaded: tuple[plugins.Plugin, ...], flags: tuple[tuple[str, Any], ...]
) -> dict[str, Any]:
    torch = sys.modules["torch"] if with_torch else None
    found: dict[str, Any] = {
        **_checkout(str(Path(ablate.__file__).resolve().parent)),
        "ablate": ablate.__version__,
        "python": platform.python_version(),
        "packages": dict(_packages()),
        "plugins": {plugin.module: plugin.to_dict() for plugin in loaded},
        "platform": platform.platform(),
        "hostname": socket.gethostname(),
        "cpu": _cpu(),
        "cpu_count": os.cpu_count(),
        "torch": None if torch is None else str(torch.__version__),
        "cuda": None if torch is None else torch.version.cuda,
        "cudnn": None if torch is None or torch.version.cuda is None else torch.backends.cudnn.version(),
        "gpus": list(_gpus()),
        "driver": _driver(),
        "flags": dict(flags),
    }
    return {"env_id": content_id(found), **found}


@cache
def _checkout(package: str) -> dict[str, Any]:
    """State of the git checkout that holds the package; all None when the package is not tracked by one."""
    unknown: dict[str, Any] = {"git_sha": None, "git_dirty": None, "diff_sha256": None}
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:  # say, a .venv inside somebody's repository
        return unknown
    sha, status, diff = (
        _git(package, *command)
        for command in (("rev-parse", "HEAD"), ("status", "--porcelain"), ("diff", "HEAD", "--binary"))
    )
    if sha is None or status is None or diff is None:
        return unknown
    dirty = bool(status.strip())
    return {
        "git_sha": sha.decode().strip(),
        "git_dirty": dirty,
        "diff_sha256": hashlib.sha256(diff + status).hexdigest() if dirty else None,
    }


def _git(folder: str, *arguments: str) -> bytes | None:
    try:
        done = subprocess.run(["git", "-C", folder, *arguments], capture_output=True, timeout=_GIT_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


@cache
def _packages() -> tuple[tuple[str, str], ...]:
    found = {d.metadata["Name"]: d.version for d in metadata.distributions() if d.metadata["Name"]}
    return tuple(sorted(found.items(), key=lambda item: item[0].lower()))


@cache
def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


@cache
def _gpus() -> tuple[str, ...]:
    try:
        texts = [f.read_text() for f in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))]
    except OSError:
        return ()
    lines = (line for text in texts for line in text.splitlines())
    return tuple(line.partition(":")[2].strip() for line in lines if line.startswith("Model:"))


@cache
def _driver() -> str | None:
    try:
        return Path("/proc/driver/nvidia/version").read_text().splitlines()[0].partition(":")[2].strip()
    except (OSError, IndexError):
        return None


def _flags(torch: Any) -> dict[str, Any]:
    names = ("OMP_NUM_THREADS", "CUBLAS_WORKSPACE_CONFIG", "NVIDIA_TF32_OVERRIDE")
    flags: dict[str, Any] = {name: os.environ.get(name) for name in names}
    if torch is not None:
        flags["threads"] = torch.get_num_threads()
        flags["deterministic"] = torch.are_deterministic_algorithms_enabled()
        flags["matmul_precision"] = torch.get_float32_matmul_precision()
    return flags
