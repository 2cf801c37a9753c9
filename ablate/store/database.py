"""Opening DuckDB files: settings, migrations, and which errors mean that a file is damaged."""

from __future__ import annotations

import errno
import hashlib
import os
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path

import duckdb

import ablate
from ablate.errors import StoreError

MIGRATIONS: tuple[str, ...] = ("schema.sql", "schema_2.sql", "schema_3.sql", "schema_4.sql", "schema_5.sql")
"""SQL files of this package; the n-th (from 1) brings a database from schema version n - 1 to n."""

_VERSION_TABLE = """CREATE TABLE IF NOT EXISTS schema_version(
  version INT PRIMARY KEY, applied_at TIMESTAMP, ablate_version VARCHAR, sql_sha256 VARCHAR)"""

_OURS = (
    duckdb.BinderException,
    duckdb.ConstraintException,
    duckdb.ConversionException,
    duckdb.InvalidInputException,
    duckdb.ParserException,
)
"""Errors of a statement, never of a file: rebuilding the index would not mend them."""

_REFUSALS = (
    *(os.strerror(code) for code in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG)),
    *(os.strerror(code) for code in (errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM)),
    "out of disk",
)
"""What the system says when it refuses: the file may be in order."""

_DAMAGE = ("Corrupt", "not a valid DuckDB database file", "Could not read enough bytes", "replaying WAL")
"""What DuckDB says of a damaged file. Its other I/O errors are no damage."""


class CorruptIndexError(Exception):
    """The index or its log is damaged or not of our making. Never shown: the index is rebuilt from the journals."""


def connect(file: Path | None = None) -> duckdb.DuckDBPyConnection:
    """Open (or create) a database for writing, or an empty one in memory, brought to the current schema.

    Checkpoints happen only when asked for: each one rewrites the file's metadata in place, so dying inside one can
    leave a file that DuckDB refuses to open.

    Raises:
        CorruptIndexError: the file or its log is damaged or is no DuckDB file.
        StoreError: another program has it open, it is newer than this program, or the disk refuses.
    """
    con: duckdb.DuckDBPyConnection | None = None
    try:
        con = duckdb.connect(":memory:" if file is None else str(file), config=_config())
        con.execute("PRAGMA disable_checkpoint_on_shutdown")
        con.execute("SET wal_autocheckpoint = '1TB'")
        migrate(con, file)
    except duckdb.Error as error:
        if con is not None:
            con.close()
        raise translate(error, file) from error
    except BaseException:
        if con is not None:
            con.close()
        raise
    return con


def _config() -> dict[str, str | bool | int | float | list[str]]:
    # No extension may be fetched from the network; two threads, because training runs on the same machine.
    return {"autoinstall_known_extensions": "false", "autoload_known_extensions": "false", "threads": "2"}


def translate(error: duckdb.Error, file: Path | None) -> Exception:
    """What a DuckDB error about `file` means: another's lock, a refusal of the disk, a mistake of ours, or damage."""
    if isinstance(error, _OURS):
        return error
    text = " ".join(str(error).split())
    if "Could not set lock" in text or "Unique file handle conflict" in text:
        return StoreError(f"{file}: open in another program; close it ({text.partition('See also')[0].strip()})")
    if any(phrase in text for phrase in _REFUSALS):
        return StoreError(f"{file}: cannot be written; free the disk or make it writable ({text})")
    if "version number" in text:
        return StoreError(f"{file}: written by a newer DuckDB than {duckdb.__version__}; upgrade, or delete it: it is "
                          f"rebuilt from the journals ({text})")  # fmt: skip
    of_system = (duckdb.IOException, duckdb.OutOfMemoryException, duckdb.TransactionException)
    if isinstance(error, of_system) and not any(phrase in text for phrase in _DAMAGE):
        return StoreError(f"{file}: cannot be read or written ({text})")
    return CorruptIndexError(text)


def migrate(con: duckdb.DuckDBPyConnection, file: Path | None = None) -> None:
    """Apply the migrations that the database has not seen, each in one transaction.

    Raises:
        StoreError: the database has a newer schema than this program knows.
        CorruptIndexError: it was made by other SQL under the same version number.
    """
    con.execute(_VERSION_TABLE)
    version = schema_version(con, file)
    for number, sql in enumerate(_migrations()[version:], start=version + 1):
        applied = [number, datetime.now(UTC).replace(tzinfo=None), ablate.__version__, _digest(sql)]
        with transaction(con):
            con.execute(sql)
            con.execute("INSERT INTO schema_version VALUES (?, ?, ?, ?)", applied)


def schema_version(con: duckdb.DuckDBPyConnection, file: Path | None, database: str = "") -> int:
    """The newest migration applied, 0 for none.

    Raises:
        StoreError: it is newer than this program's.
        CorruptIndexError: it was made by other SQL under the same version number, as between two commits of ours.
    """
    table = f"{database}.schema_version" if database else "schema_version"
    applied = con.execute(f"SELECT version, sql_sha256 FROM {table} ORDER BY version").fetchall()
    version = int(applied[-1][0]) if applied else 0
    if version > len(MIGRATIONS):
        raise StoreError(
            f"{file}: has schema version {version}, this ablate knows up to {len(MIGRATIONS)}; upgrade ablate, "
            "or delete the file to rebuild it from the journals"
        )
    if [digest for _, digest in applied] != [_digest(sql) for sql in _migrations()[:version]]:
        raise CorruptIndexError(f"made by another edition of schema version {version}")
    return version


def _migrations() -> list[str]:
    return [resources.files("ablate.store").joinpath(name).read_text(encoding="utf-8") for name in MIGRATIONS]


def _digest(sql: str) -> str:
    return hashlib.sha256(sql.encode()).hexdigest()


class transaction:
    """``with transaction(con):`` commits at the end, rolls back on any exception."""

    def __init__(self, con: duckdb.DuckDBPyConnection) -> None:
        self.con = con

    def __enter__(self) -> None:
        self.con.execute("BEGIN")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.con.execute("COMMIT")
            return
        try:
            self.con.execute("ROLLBACK")
        except duckdb.Error:  # the failure that brought us here is the one to report
            pass


def quoted(file: Path) -> str:
    """A path as an SQL string literal; ATTACH takes no parameters."""
    return "'" + str(file).replace("'", "''") + "'"
