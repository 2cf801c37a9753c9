"""The one writer of the index: `Ingester` holds the store's lock, takes the journals in and publishes snapshots."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import socket
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import duckdb

from ablate.errors import StoreError
from ablate.store.database import CorruptIndexError, connect, quoted, translate
from ablate.store.journal import utc_now
from ablate.store.loading import load_journals, lost_journals
from ablate.store.paths import StorePaths

_log = logging.getLogger(__name__)
_held: set[int] = set()
"""Locks of this process. A forked child closes its copies, or it would hold the store after the death of its parent."""


def _forget_locks() -> None:
    for fd in _held:
        with contextlib.suppress(OSError):
            os.close(fd)
    _held.clear()


os.register_at_fork(after_in_child=_forget_locks)


class Ingester:
    """Context manager: one process at a time brings the index up to the journals.

    ::

        with Ingester(paths) as ingester:
            ingester.ingest()            # call now and then; costs little when there is nothing new
            ingester.publish_snapshot()  # what readers see

    A damaged index is moved aside and rebuilt from the journals; `notes` says so.

    Raises:
        StoreError: on entering, when another ingester holds the store or the index is from a newer version.
    """

    def __init__(self, paths: StorePaths) -> None:
        self.paths = paths
        self.notes: list[str] = []
        self._lock: int | None = None
        self._con: duckdb.DuckDBPyConnection | None = None
        self._unpublished = True

    def __enter__(self) -> Ingester:
        self.paths.make()
        self._lock = _acquire(self.paths)
        try:
            self._open()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the index without a checkpoint and release the store."""
        if self._con is not None:
            self._con.close()
            self._con = None
        if self._lock is not None:
            _release(self._lock)
            self._lock = None

    def ingest(self) -> int:
        """Take in the journals' new complete lines.

        Returns:
            The number of new events.

        Raises:
            StoreError: a journal is of a newer version, or the disk is full.
        """
        count = self._mended(self._load, self._load)
        self._unpublished = self._unpublished or count > 0
        return count

    def publish_snapshot(self) -> bool:
        """Copy the index for readers, replacing the old copy in one step, then checkpoint the index.

        Returns:
            False when nothing has changed since the last one.
        """
        if not self._unpublished and self.paths.snapshot.exists():
            return False
        self._mended(self._publish, lambda: self._load() + self._publish())
        self._unpublished = False
        return True

    def _mended(self, work: Callable[[], int], again: Callable[[], int]) -> int:
        """Do `work`; where it finds the index damaged, make an empty one and do `again`."""
        with self._told():
            try:
                return work()
            except duckdb.Error as error:
                self._recover(translate(error, self.paths.index))
            try:
                return again()
            except duckdb.Error as error:
                raise translate(error, self.paths.index) from error

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Say in one line what a new index does not mend."""
        try:
            yield
        except OSError as error:
            raise StoreError(f"{self.paths.root}: cannot be written ({error}); free the disk") from error
        except CorruptIndexError as error:
            raise StoreError(
                f"{self.paths.index}: damaged as soon as it was made anew; is the disk in order? ({error})"
            ) from error

    def _load(self) -> int:
        return load_journals(self._connection(), self.paths)

    def _publish(self) -> int:
        con = self._connection()
        scratch = self.paths.snapshot.with_name(f".{self.paths.snapshot.name}.{os.getpid()}")
        _remove(scratch)
        source = con.execute("SELECT current_database()").fetchall()[0][0]
        try:
            con.execute(f"ATTACH {quoted(scratch)} AS published")
            try:
                con.execute(f'COPY FROM DATABASE "{source}" TO published')
                con.execute("CHECKPOINT published")
            except BaseException:
                with contextlib.suppress(duckdb.Error):  # the failure that brought us here is the one to report
                    con.execute("DETACH published")
                raise
            con.execute("DETACH published")
            os.replace(scratch, self.paths.snapshot)
        finally:
            _remove(scratch)  # when all went well, nothing but a write-ahead log that the checkpoint has emptied
        con.execute("CHECKPOINT")
        return 0

    def _connection(self) -> duckdb.DuckDBPyConnection:
        if self._con is None:
            raise StoreError(f"{self.paths.root}: the ingester is closed; use it in a `with` block")
        return self._con

    def _open(self) -> None:
        with self._told():
            for left in self.paths.root.glob(f".{self.paths.snapshot.name}.*"):  # by one killed while it published
                left.unlink(missing_ok=True)
            try:
                self._con = connect(self.paths.index)
                self._con.execute("SELECT count(*) FROM ingest").fetchall()
            except CorruptIndexError as error:
                self._recover(error)
            except duckdb.Error as error:
                self._recover(translate(error, self.paths.index))

    def _recover(self, error: Exception) -> None:
        """Move a damaged index aside and start an empty one; the next ``ingest`` fills it from the journals."""
        if self._con is not None:
            with contextlib.suppress(duckdb.Error):
                self._con.close()
            self._con = None
        if not isinstance(error, CorruptIndexError):
            raise error
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
        for file in _files(self.paths.index):
            if file.exists():
                os.replace(file, file.with_name(f"{file.name}.damaged-{stamp}"))
        note = (
            f"{self.paths.index}: the index was damaged ({error}); it was moved aside as "
            f"{self.paths.index.name}.damaged-{stamp} and is rebuilt from the journals, nothing is lost"
        )
        self.notes.append(note)
        _log.warning(note)
        self._con = connect(self.paths.index)
        self._unpublished = True


def rebuild(paths: StorePaths, *, force: bool = False) -> int:
    """Throw the index and the snapshot away and make both again from the journals.

    Args:
        force: also where they hold events whose journals are lost, and which nothing can make again.

    Returns:
        The number of events taken in.

    Raises:
        StoreError: a running study holds the store, or journals are lost.
    """
    paths.make()
    lock = _acquire(paths)
    try:
        if not force:
            _refuse_loss(paths)
        for file in (*_files(paths.index), *_files(paths.snapshot)):
            _remove(file)
    finally:
        _release(lock)
    with Ingester(paths) as ingester:
        count = ingester.ingest()
        ingester.publish_snapshot()
    return count


def _refuse_loss(paths: StorePaths) -> None:
    """Raise a StoreError where a rebuild would throw away what the journals no longer hold."""
    found = {line: None for file in (paths.index, paths.snapshot) for line in lost_journals(paths, _read_from(file))}
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise StoreError(f"{paths.journal}: {next(iter(found))}{more}; a rebuild would lose the events: restore them, "
                         "or accept the loss with `ablate db rebuild --force`")  # fmt: skip


def _read_from(database: Path) -> list[tuple[str, int]]:
    """The journals that a database was made from, and how far each was read; none if it is damaged or not there."""
    if not database.exists():
        return []
    try:
        with duckdb.connect(str(database), read_only=True) as con:
            return con.execute("SELECT journal, byte_offset FROM ingest ORDER BY journal").fetchall()
    except duckdb.Error as error:
        told = translate(error, database)
        if isinstance(told, CorruptIndexError):
            return []
        raise told from error


def _files(database: Path) -> tuple[Path, Path]:
    return database, database.with_name(f"{database.name}.wal")


def _remove(file: Path) -> None:
    for each in _files(file):
        each.unlink(missing_ok=True)


def _acquire(paths: StorePaths) -> int:
    """Take the store's lock; it is released by the kernel when the process dies.

    Raises:
        StoreError: another ingester holds it, the folder cannot be written, or the disk is full.
    """
    try:
        fd = os.open(paths.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise StoreError(f"{paths.lock}: cannot be opened ({error.strerror}); make the store writable") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.pread(fd, 4096, 0)
        os.close(fd)
        raise StoreError(f"{paths.root}: {_held_by(holder)}; wait until it ends, or end it") from error
    me = {"pid": os.getpid(), "host": socket.gethostname(), "since": utc_now()}
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, json.dumps(me).encode(), 0)
    except OSError as error:
        os.close(fd)
        raise StoreError(f"{paths.lock}: cannot be written ({error.strerror}); free the disk") from error
    _held.add(fd)
    return fd


def _release(fd: int) -> None:
    if fd in _held:  # not in a forked child, where it is closed and its number may be somebody else's file
        _held.remove(fd)
        os.close(fd)


def _held_by(content: bytes) -> str:
    try:
        found = json.loads(content)
        return f"the store is being written by {found['host']}:{found['pid']} since {found['since']}"
    except (ValueError, KeyError, TypeError):
        return "the store is being written by another process"
