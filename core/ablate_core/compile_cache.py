"""Where compiled code is kept: one archive per network and kind of machine, shared by everything that trains it.

torch's own cache folder must not be shared by processes that may be killed: a compiler that dies leaves an empty
library in it, which every later process finds and cannot load. Here each process compiles in a folder of its own, and
what it made is published as one archive that replaces the former one, after it worked. Nothing unfinished is ever seen;
a damaged archive (its checksums say so) is removed, and compiled again.

The archives hold machine code and are run: whoever can write the cache folder can run code as its readers.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
import platform
import shutil
import sys
import tempfile
import warnings
import weakref
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from ablate_core.fid.files import LOCK_TIMEOUT, atomic, cache_dir

FOLDERS = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
"""Environment variables that say where torch's compiler and Triton keep their files; read whenever they compile."""
UNITS = "units/"
"""Members of an archive with this prefix name what was compiled; the others are files of the compiler."""
NOTICED = 5.0
"""Seconds after which it is said that another process is waited for."""


def machine_kind(device: torch.device) -> dict[str, Any]:
    """What compiled code depends on beside the network: versions, processor, number of threads, GPU."""
    kind: dict[str, Any] = {
        "torch": str(torch.__version__),
        "python": sys.version_info[:2],
        "libc": platform.libc_ver(),
        "machine": platform.machine(),
        "processor": processor(),
        "threads": torch.get_num_threads(),  # the loops of a kernel are divided when it is written
    }
    if device.type == "cuda":
        triton = importlib.import_module("triton").__version__
        capability = torch.cuda.get_device_capability(device)
        kind |= {"gpu": torch.cuda.get_device_name(device), "capability": capability, "triton": triton}
    return kind


def processor() -> str:
    """The instruction sets of the processor, as a hash: code is compiled for exactly these."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
        flags = next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        flags = platform.processor()
    return hashlib.sha256(" ".join(sorted(flags.split())).encode()).hexdigest()[:16]


class CompileCache:
    """The archive of one network, and the folder in which this process compiles; that goes when this object does.

    Args:
        key: of the network and the kind of machine.
    """

    def __init__(self, key: str) -> None:
        self.path = cache_dir() / "compiled" / f"{key}.zip"
        self.folder, lock = _own_folder()
        self._units: set[str] = set()
        self._files: set[str] = set()
        self._read: tuple[int, int, int] | None = None
        self._done = weakref.finalize(self, _discard, self.folder, lock)

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """What is compiled within is compiled in this process' own folder."""
        before = {name: os.environ.get(name) for name in FOLDERS}
        os.environ.update(zip(FOLDERS, (str(self.folder), str(self.folder / "triton")), strict=True))
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value

    def load(self) -> None:
        """Take what is in the archive, if it changed; remove an archive that is damaged."""
        try:
            found = self.path.stat()
            now = (found.st_ino, found.st_size, found.st_mtime_ns)
            if now == self._read:
                return
            with zipfile.ZipFile(self.path) as archive:
                contents = {name: archive.read(name) for name in archive.namelist()}  # compares the checksums
        except FileNotFoundError:
            return
        except Exception as error:  # whatever zipfile and zlib raise for bytes that are no archive
            warnings.warn(f"{self.path} is damaged ({error}); it is removed and compiled again", stacklevel=2)
            self.path.unlink(missing_ok=True)
            return
        for name, content in contents.items():
            if name.startswith(UNITS):
                self._units.add(name.removeprefix(UNITS))
            elif (file := self.folder / name).resolve().is_relative_to(self.folder):
                self._files.add(name)
                if not file.exists():
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_bytes(content)
        self._read = now

    def has(self, unit: str) -> bool:
        """Whether what was loaded holds `unit`."""
        return unit in self._units

    def publish(self, unit: str) -> None:
        """Put all that this process has loaded and compiled into the archive, `unit` among it, and replace it."""
        self._units.add(unit)
        self._files = self._made()
        with atomic(self.path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for name in sorted(self._files):
                archive.write(self.folder / name, name)
            for known in sorted(self._units):
                archive.writestr(UNITS + known, "")

    def publish_more(self, unit: str) -> None:
        """`publish` where there is something that the archive had not when it was read or written here."""
        if self._made() <= self._files:
            return
        with self.alone():
            self.load()
            self.publish(unit)

    def _made(self) -> set[str]:
        """Names of the compiler's files in the folder."""
        files = (made for made in self.folder.rglob("*") if made.is_file() and made.suffix not in (".lock", ".tmp"))
        return {made.relative_to(self.folder).as_posix() for made in files}

    def forget(self) -> None:
        """Remove the archive and what was taken from it: it did not work here."""
        self.path.unlink(missing_ok=True)
        self._units.clear()
        self._files.clear()
        for made in self.folder.iterdir():
            shutil.rmtree(made, ignore_errors=True)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the archive against everybody else who would compile for it; the lock of a dead process is free.

        Raises Timeout after an hour.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{self.path}.lock")
        try:
            lock.acquire(timeout=NOTICED)
        except Timeout:
            print("waiting for another process that compiles this network", flush=True)
            lock.acquire(timeout=LOCK_TIMEOUT)
        try:
            yield
        finally:
            lock.release()


def _own_folder() -> tuple[Path, FileLock]:
    """A new folder on this machine, and the lock that says that its owner lives; those of dead owners are removed."""
    user = os.getuid() if hasattr(os, "getuid") else ""
    base = Path(tempfile.gettempdir()) / f"ablate-compiled-{user}"
    base.mkdir(mode=0o700, exist_ok=True)
    for file in base.glob("*.lock"):
        with contextlib.suppress(Timeout, OSError), FileLock(file, timeout=0):
            shutil.rmtree(file.with_suffix(""), ignore_errors=True)
            file.unlink(missing_ok=True)
    folder = Path(tempfile.mkdtemp(dir=base)).resolve()
    lock = FileLock(f"{folder}.lock", thread_local=False)
    lock.acquire()
    return folder, lock


def _discard(folder: Path, lock: FileLock) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    lock.release()
    Path(lock.lock_file).unlink(missing_ok=True)
