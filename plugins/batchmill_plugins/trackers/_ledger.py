"""The database file: its tables, and safe reading and writing by many processes."""

from __future__ import annotations

import os
import sqlite3
import stat
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

from batchmill import StorageError

SCHEMA_VERSION = 2
_BUSY_TIMEOUT = 60.0  # seconds; a writer holds the lock for about a millisecond
_WAL_RETRY = 0.01  # seconds

_SCHEMA = """
CREATE TABLE model (
    name TEXT PRIMARY KEY,
    description TEXT NOT NULL,
    metadata TEXT NOT NULL,
    labels TEXT NOT NULL,
    archived INTEGER NOT NULL DEFAULT 0,
    created TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE checkpoint (
    uuid TEXT PRIMARY KEY,
    location TEXT NOT NULL,
    digest TEXT NOT NULL,
    files TEXT NOT NULL,
    metadata TEXT NOT NULL,
    created TEXT NOT NULL,
    UNIQUE (location, digest, metadata)
) WITHOUT ROWID;
CREATE TABLE model_version (
    model_name TEXT NOT NULL REFERENCES model (name),
    version INTEGER NOT NULL CHECK (version >= 1),
    checkpoint_uuid TEXT NOT NULL REFERENCES checkpoint (uuid),
    name TEXT NOT NULL,
    comment TEXT NOT NULL,
    notes TEXT NOT NULL DEFAULT '',
    labels TEXT NOT NULL,
    metadata TEXT NOT NULL DEFAULT '{}',
    archived INTEGER NOT NULL DEFAULT 0,
    created TEXT NOT NULL,
    PRIMARY KEY (model_name, version),
    UNIQUE (model_name, checkpoint_uuid)
) WITHOUT ROWID;
-- model_name '' and version 0: the run named the checkpoint only.
CREATE TABLE run_link (
    run_id TEXT NOT NULL,
    checkpoint_uuid TEXT NOT NULL REFERENCES checkpoint (uuid),
    model_name TEXT NOT NULL,
    version INTEGER NOT NULL,
    run_path TEXT NOT NULL,
    PRIMARY KEY (run_id, checkpoint_uuid, model_name, version)
) WITHOUT ROWID;
CREATE INDEX run_link_by_checkpoint ON run_link (checkpoint_uuid);
CREATE INDEX run_link_by_version ON run_link (model_name, version);
CREATE TABLE metric (
    run_id TEXT NOT NULL,
    metric_group TEXT NOT NULL,
    steps_completed INTEGER NOT NULL,
    rank INTEGER NOT NULL,
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    end_time TEXT NOT NULL,
    PRIMARY KEY (run_id, metric_group, steps_completed, rank, name)
) WITHOUT ROWID;
CREATE INDEX metric_by_group ON metric (metric_group);
"""
# What tells a checkpoint or a version from others is what it was registered with, also after it was changed.
_FORMAT_2 = """
-- NULL where it is as registered.
ALTER TABLE checkpoint ADD COLUMN changed_metadata TEXT;
-- Name and labels at registration, NULL where they were never changed.
ALTER TABLE model_version ADD COLUMN registered TEXT;
"""
_STEPS = (_SCHEMA, _FORMAT_2)  # what leads from each format to the next, from an empty file on


class Ledger:
    """Opens the database for one transaction at a time.

    A connection is never kept: it would belong to one process and thread, and would not survive a fork.

    Args:
        path: The file; it and its folder are created by the first write.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection | None]:
        """Yield a connection that sees one moment of the database, or None if nothing was ever written.

        Raises:
            StorageError: The file cannot be read or is not a ledger of this version.
        """
        with self._failures_named("read"):
            if not self.path.exists():
                yield None
                return
            with closing(self._connect("rw")) as connection:
                if 0 < self._version(connection) < SCHEMA_VERSION:
                    with self.writing():
                        pass  # brings the file up to date
                connection.execute("BEGIN")
                # 0: its first writer was killed, or is just creating the tables.
                yield connection if self._version(connection) else None

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Yield a connection inside a transaction that is durable after the block, or undone if it raises.

        Raises:
            StorageError: The file cannot be written or is not a ledger of this version.
        """
        with self._failures_named("write"):
            self._prepare_file()
            with closing(self._connect("rwc")) as connection:
                if self._version(connection) == 0:
                    _switch_to_wal(connection)
                # IMMEDIATE takes the write lock before reading, so that what was read holds at the commit.
                connection.execute("BEGIN IMMEDIATE")
                try:
                    _bring_up_to_date(connection, self._version(connection))
                    yield connection
                except BaseException:
                    if connection.in_transaction:  # SQLite ends it by itself where the disk is full
                        connection.execute("ROLLBACK")
                    raise
                connection.execute("COMMIT")

    def _prepare_file(self) -> None:
        """Create the file where needed: its owner's alone, except in a folder that a group works in together."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        folder = self.path.parent.stat().st_mode
        # The bit is what makes files belong to the group, which a folder meant for one has.
        shared = folder & stat.S_IWGRP and folder & stat.S_ISGID and not folder & stat.S_IWOTH
        try:
            os.close(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666 if shared else 0o600))
        except FileExistsError:  # the usual case
            if not self.path.exists():
                raise StorageError(
                    f"The ledger {self.path} is a link that leads nowhere. Remove it, or choose another file with "
                    f"tracker.path."
                ) from None

    def _connect(self, mode: str) -> sqlite3.Connection:
        uri = f"file:{quote(str(self.path))}?mode={mode}"
        connection = sqlite3.connect(uri, uri=True, timeout=_BUSY_TIMEOUT, isolation_level=None)
        try:
            # FULL: a commit survives a power loss too; with WAL the default could lose the last ones.
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
        except BaseException:
            connection.close()
            raise
        return connection

    def _version(self, connection: sqlite3.Connection) -> int:
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        if version > SCHEMA_VERSION:
            raise StorageError(
                f"The ledger {self.path} has format {version}, and this Batchmill knows formats up to "
                f"{SCHEMA_VERSION}: a newer one wrote it. Upgrade Batchmill, or choose another file with "
                f"tracker.path."
            )
        return version

    @contextmanager
    def _failures_named(self, action: str) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise StorageError(
                f"Could not {action} the ledger {self.path}: {error}. It holds models and metrics and must "
                f"be an SQLite file on a local disk; choose another place with tracker.path."
            ) from error


def _bring_up_to_date(connection: sqlite3.Connection, version: int) -> None:
    if version == SCHEMA_VERSION:
        return
    for step in _STEPS[version:]:
        for statement in step.split(";"):
            if statement.strip():
                connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _switch_to_wal(connection: sqlite3.Connection) -> None:
    """Let readers and a writer work side by side; lasting, so only a new file needs it."""
    deadline = time.monotonic() + _BUSY_TIMEOUT
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            # SQLite does not wait by itself where several processes switch at once.
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(_WAL_RETRY)
