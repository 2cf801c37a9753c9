"""Opening DuckDB files: settings, migrations, and which errors mean that a file is damaged."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path

import duckdb

import ablate
from ablate.errors import StoreError

MIGRATIONS: tuple[str, ...] = ("schema.sql",)
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


class CorruptIndexError(Exception):
    """The index or its write-ahead log is damaged. Never shown: the index is rebuilt from the journals."""


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
    """What a DuckDB error about `file` means: another's lock or a full disk, a mistake of ours, else damage."""
    if isinstance(error, _OURS):
        return error
    text = " ".join(str(error).split())
    if "Could not set lock" in text or "Unique file handle conflict" in text:
        return StoreError(f"{file}: open in another program; close it ({text.partition('See also')[0].strip()})")
    if any(phrase in text for phrase in ("Permission denied", "Read-only file system", "No space left", "out of disk")):
        return StoreError(f"{file}: cannot be written; free the disk or make it writable ({text})")
    if "version number" in text:
        return StoreError(f"{file}: written by a newer DuckDB than {duckdb.__version__}; upgrade, or delete it: it is "
                          f"rebuilt from the journals ({text})")  # fmt: skip
    return CorruptIndexError(text)


def migrate(con: duckdb.DuckDBPyConnection, file: Path | None = None) -> None:
    """Apply the migrations that the database has not seen, each in one transaction.

    Raises:
        StoreError: the database has a newer schema than this program knows.
    """
    con.execute(_VERSION_TABLE)
    version = schema_version(con)
    check_version(version, file)
    for number, name in enumerate(MIGRATIONS[version:], start=version + 1):
        sql = resources.files("ablate.store").joinpath(name).read_text(encoding="utf-8")
        with transaction(con):
            con.execute(sql)
            con.execute(
                "INSERT INTO schema_version VALUES (?, ?, ?, ?)",
                [
                    number,
                    datetime.now(UTC).replace(tzinfo=None),
                    ablate.__version__,
                    hashlib.sha256(sql.encode()).hexdigest(),
                ],
            )


def schema_version(con: duckdb.DuckDBPyConnection, database: str = "") -> int:
    """The newest migration applied, 0 for none."""
    table = f"{database}.schema_version" if database else "schema_version"
    rows = con.execute(f"SELECT coalesce(max(version), 0) FROM {table}").fetchall()
    return int(rows[0][0])


def check_version(version: int, file: Path | None) -> None:
    """Raises StoreError when `version` is newer than this program's."""
    if version > len(MIGRATIONS):
        raise StoreError(
            f"{file}: has schema version {version}, this ablate knows up to {len(MIGRATIONS)}; upgrade ablate, "
            "or delete the file to rebuild it from the journals"
        )


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
