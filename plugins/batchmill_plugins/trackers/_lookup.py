"""Reading models, versions and checkpoints from the ledger."""

from __future__ import annotations

import json
import sqlite3
from typing import Any

from batchmill import CheckpointRecord, ModelRecord, VersionRecord
from batchmill_plugins.trackers._unknown import unknown_checkpoint, unknown_model, unknown_version

MODEL = "SELECT name, description, metadata, labels, archived, created FROM model"
_CHECKPOINT_COLUMNS = "c.uuid, c.location, c.digest, c.files, coalesce(c.changed_metadata, c.metadata), c.created"
CHECKPOINT = f"SELECT {_CHECKPOINT_COLUMNS} FROM checkpoint c"
_VERSION = f"""
    SELECT v.model_name, v.version, v.name, v.comment, v.notes, v.labels, v.metadata, v.archived, v.created,
           {_CHECKPOINT_COLUMNS}
    FROM model_version v JOIN checkpoint c ON c.uuid = v.checkpoint_uuid
"""


def find_model(connection: sqlite3.Connection | None, name: str) -> ModelRecord:
    """Return a model.

    Args:
        connection: The ledger; None: it was never written to.
        name: The model.

    Raises:
        ModelError: There is none of that name.
    """
    row = connection.execute(f"{MODEL} WHERE name = ?", (name,)).fetchone() if connection else None
    if row is None:
        rows = connection.execute("SELECT name FROM model ORDER BY name") if connection else ()
        raise unknown_model(name, [row[0] for row in rows])
    return read_model(row)


def find_checkpoint(connection: sqlite3.Connection | None, uuid: str) -> CheckpointRecord:
    """Return a checkpoint.

    Args:
        connection: The ledger; None: it was never written to.
        uuid: The checkpoint.

    Raises:
        ModelError: There is none.
    """
    row = connection.execute(f"{CHECKPOINT} WHERE c.uuid = ?", (uuid,)).fetchone() if connection else None
    if row is None:
        newest = "SELECT uuid, location FROM checkpoint ORDER BY created DESC, uuid"
        raise unknown_checkpoint(uuid, connection.execute(newest).fetchall() if connection else [])
    return read_checkpoint(row)


def find_versions(connection: sqlite3.Connection | None, model_name: str) -> list[VersionRecord]:
    """Return a model's versions, ascending.

    Args:
        connection: The ledger; None: it was never written to.
        model_name: The model.

    Raises:
        ModelError: There is no such model.
    """
    find_model(connection, model_name)
    query = f"{_VERSION} WHERE v.model_name = ? ORDER BY v.version"
    rows = connection.execute(query, (model_name,)).fetchall() if connection else []
    return [_read_version(row) for row in rows]


def find_version(connection: sqlite3.Connection, model_name: str, version: int | None) -> VersionRecord:
    """Return one version of a model.

    Raises:
        ModelError: There is no such model or version.
    """
    versions = {record.version: record for record in find_versions(connection, model_name)}
    if version not in versions:
        raise unknown_version(model_name, version, list(versions))
    return versions[version]


def read_model(row: tuple[Any, ...]) -> ModelRecord:
    """Return the model of a row of ``MODEL``."""
    name, description, metadata, labels, archived, created = row
    return ModelRecord(name, description, json.loads(metadata), tuple(json.loads(labels)), bool(archived), created)


def read_checkpoint(row: tuple[Any, ...]) -> CheckpointRecord:
    """Return the checkpoint of a row of ``CHECKPOINT``."""
    uuid, location, digest, files, metadata, created = row
    return CheckpointRecord(uuid, location, digest, json.loads(files), json.loads(metadata), created)


def _read_version(row: tuple[Any, ...]) -> VersionRecord:
    model_name, version, name, comment, notes, labels, metadata, archived, created = row[:9]
    return VersionRecord(
        model_name=model_name,
        version=version,
        checkpoint=read_checkpoint(row[9:]),
        name=name,
        comment=comment,
        notes=notes,
        labels=tuple(json.loads(labels)),
        metadata=json.loads(metadata),
        archived=bool(archived),
        created=created,
    )


def to_json(value: Any) -> str:
    """Return the one text in which a value is stored."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
