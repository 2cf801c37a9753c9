"""The journals: append-only JSON lines, one file per process, the truth of a store.

A line is ``{"v": 1, "uid": ..., "kind": ..., "at": <UTC, ISO 8601>, ...payload}``. A process writes only its own
file, so no locks are needed and a network file system will do. Whatever was acknowledged (``append`` returned) survives
the death of the process; results also survive the death of the machine (fsync), and with them all that was written
before them.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from ablate.errors import StoreError
from ablate.store.paths import StorePaths

JOURNAL_VERSION = 1
STATE_CHANGES = frozenset(
    "study arm study_arm study_trial trial attempt_ended env metric_def eval_cond measurement artifact".split()
)
"""Kinds that are fsynced at once; the others (attempt_started, scalar) at least every `SYNC_SECONDS` while events come.

Nobody builds on the start of an attempt: a trial that a power cut takes it from is waiting, as it was before.
"""
SYNC_SECONDS = 5.0
_RESERVED = frozenset({"v", "uid", "kind", "at"})
_NOT_IN_FILE_NAMES = re.compile(r"[^A-Za-z0-9.]+")


class Journal:
    """The journal file of this process, opened at the first event. Safe in threads; a forked child gets its own file.

    Args:
        paths: the store.
        writer: who writes, for people who read the file: ``driver``, ``attempt``, ...
    """

    def __init__(self, paths: StorePaths, writer: str) -> None:
        self.paths = paths
        self.writer = writer
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self._fd: int | None = None
        self._file: Path | None = None
        self._count = 0
        self._torn = False
        self._dirty = False
        self._named = False
        self._synced = time.monotonic()

    @property
    def file(self) -> Path | None:
        """The file written to; None before the first event of this process."""
        return self._file if self._pid == os.getpid() else None

    def append(self, kind: str, payload: Mapping[str, Any], sync: bool | None = None) -> str:
        """Write one event and return its uid. When this returns, the event survives a kill of this process.

        Args:
            kind: see ``docs/store.md``; readers skip kinds that they do not know.
            payload: JSON-able; NaN and infinities become null, paths become text, numpy and torch scalars numbers.
            sync: fsync; None: yes for state changes, and for others when the last fsync is some seconds old.

        Raises:
            StoreError: the file cannot be written (disk full, read-only).
            ValueError: the payload names a reserved field.
        """
        if _RESERVED & payload.keys():
            raise ValueError(
                f"a {kind} event may not carry {sorted(_RESERVED & payload.keys())}: the journal writes them"
            )
        if self._pid != os.getpid():  # we are a forked child: the parent keeps its file, and its lock may be held
            inherited = self._fd
            self._reset()
            if inherited is not None:
                with contextlib.suppress(OSError):
                    os.close(inherited)
        with self._lock:
            try:
                return self._append(kind, payload, sync)
            except OSError as error:
                where = self._file or self.paths.journal
                raise StoreError(
                    f"{where}: cannot write the {kind} event ({error.strerror}); free the disk or make the folder "
                    "writable, then run again: finished work is kept"
                ) from error

    def _append(self, kind: str, payload: Mapping[str, Any], sync: bool | None) -> str:
        if self._fd is None:
            self._open()
        if kind == "attempt_started":
            payload = {**process_identity(), **payload}
        uid = self._write(kind, payload)
        if sync is None:
            sync = kind in STATE_CHANGES or time.monotonic() - self._synced >= SYNC_SECONDS
        if sync:
            self._sync()
        return uid

    def _sync(self) -> None:
        assert self._fd is not None
        os.fsync(self._fd)
        if not self._named:  # after the file: a file system with a log has written its name along with it
            _fsync_folder(self.paths.journal)
            self._named = True
        self._synced, self._dirty = time.monotonic(), False

    def _open(self) -> None:
        self.paths.make()
        host = _NOT_IN_FILE_NAMES.sub("_", socket.gethostname())
        while self._fd is None:
            self._file = self.paths.journal / f"{host}-{self._pid}-{time.time_ns()}.jsonl"
            with contextlib.suppress(FileExistsError):
                self._fd = os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._write("writer", {"writer": self.writer, **process_identity()})

    def _write(self, kind: str, payload: Mapping[str, Any]) -> str:
        assert self._fd is not None
        assert self._file is not None
        uid = f"{self._file.stem}-{self._count}"
        event = {"v": JOURNAL_VERSION, "uid": uid, "kind": kind, "at": utc_now(), **payload}
        text = json.dumps(plain(event), separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        line = text.encode(errors="replace") + b"\n"  # an error's text may hold bytes of a file name as lone surrogates
        if self._torn:  # a failed write left half a line: end it, so that it costs itself only
            line = b"\n" + line
        written = 0
        while written < len(line):
            try:
                written += os.write(self._fd, line[written:])
            except OSError:
                self._torn = self._torn or written > 0
                raise
        self._torn = False
        self._dirty = True
        self._count += 1
        return uid

    def sync(self) -> None:
        """fsync what this process has written; does nothing before its first event."""
        with self._lock:
            if self._fd is not None and self._pid == os.getpid():
                self._sync()

    def close(self) -> None:
        """fsync and close; a later ``append`` opens a new file."""
        with self._lock:
            if self._fd is not None and self._pid == os.getpid():
                if self._dirty:
                    with contextlib.suppress(OSError):
                        self._sync()
                os.close(self._fd)
            self._reset()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def utc_now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


def process_identity() -> dict[str, Any]:
    """Who this process is, so that another one can later tell whether it still lives.

    Returns:
        host, pid, `machine` (boot and pid namespace: where a pid means the same process) and `process_started` (clock
        ticks after boot: tells a pid from its reuse). The last two are None where there is no ``/proc``.
    """
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "machine": machine(),
        "process_started": process_started(os.getpid()),
    }


@cache
def machine() -> str | None:
    """Names the boot and the pid namespace, which a process and its forks keep; None where there is no ``/proc``."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}:{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return None


def process_started(pid: int) -> int | None:
    """Start time of a process in clock ticks after boot; None if it is gone, a zombie, or there is no ``/proc``."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])  # state is field 3, starttime field 22 of proc(5)


@dataclass(frozen=True)
class Line:
    """One complete line of a journal: `event` is None when it is torn; `end` is the offset of the byte after it."""

    event: dict[str, Any] | None
    end: int
    text: str


def read_lines(file: Path, offset: int = 0, limit: int | None = None) -> Iterator[Line]:
    """Complete lines of one journal from a byte offset on. What follows the last newline is left for later.

    Args:
        limit: stop after the first line that ends `limit` bytes beyond `offset`.

    Raises:
        StoreError: the file cannot be read, or a line was written by a newer version of the journal format.
    """
    try:
        with file.open("rb") as stream:
            stream.seek(offset)
            end = offset
            for raw in stream:
                if not raw.endswith(b"\n"):
                    return
                end += len(raw)
                event = _parse(raw)
                if event is not None and event["v"] > JOURNAL_VERSION:
                    raise StoreError(
                        f"{file}: written in journal version {event['v']}, this ablate reads up to {JOURNAL_VERSION}; "
                        "upgrade ablate"
                    )
                yield Line(event, end, "" if event is not None else raw.decode(errors="replace").strip())
                if limit is not None and end - offset >= limit:
                    return
    except OSError as error:
        raise StoreError(f"{file}: cannot be read ({error.strerror})") from error


def size_of(file: Path) -> int:
    """Bytes of a journal.

    Raises:
        StoreError: it cannot be read.
    """
    try:
        return file.stat().st_size
    except OSError as error:
        raise StoreError(f"{file}: cannot be read ({error.strerror})") from error


def read_events(paths: StorePaths) -> Iterator[dict[str, Any]]:
    """Every event of every journal, journal by journal; torn lines are skipped."""
    for file in paths.journals():
        for line in read_lines(file):
            if line.event is not None:
                yield line.event


def _parse(raw: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    whole = isinstance(event, dict) and isinstance(event.get("v"), int) and "uid" in event
    return event if whole and isinstance(event.get("kind"), str) else None


def plain(value: Any) -> Any:
    """JSON types only, no NaN: JSON has no such number and DuckDB's aggregates are ruined by it."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (dict, Mapping)):  # an abstract class looks through its register, which every fork would copy
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Path):
        return str(value)
    if callable(item := getattr(value, "item", None)):  # numpy and torch scalars, without importing either
        return plain(item())
    raise TypeError(f"a journal event holds JSON types, got {type(value).__name__}")


def _fsync_folder(folder: Path) -> None:
    """Make the new file's name durable too; some file systems refuse and need not."""
    with contextlib.suppress(OSError):
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
