"""The embedded tracker: models and metrics in one SQLite file."""

from __future__ import annotations

import json
import sqlite3
import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

from batchmill import CheckpointRecord, MetricsRecord, ModelError, ModelRecord, Tracker, VersionRecord
from batchmill_plugins.trackers._ledger import Ledger
from batchmill_plugins.trackers._ledger_path import ledger_path
from batchmill_plugins.trackers._unknown import unknown_checkpoint, unknown_model, unknown_version

_MODEL = "SELECT name, description, metadata, labels, archived, created FROM model"
_CHECKPOINT = "SELECT uuid, location, digest, files, metadata, created FROM checkpoint"
_VERSION = """
    SELECT v.model_name, v.version, v.name, v.comment, v.notes, v.labels, v.metadata, v.archived, v.created,
           c.uuid, c.location, c.digest, c.files, c.metadata, c.created
    FROM model_version v JOIN checkpoint c ON c.uuid = v.checkpoint_uuid
"""
_METRIC_KEY = "run_id, metric_group, steps_completed, rank"


class SqliteTracker(Tracker):
    """Keeps models and metrics in one SQLite file, for any number of processes on one machine at once.

    Args:
        output: The directory or URL that holds runs.
        path: The database file; empty for ``batchmill.sqlite`` in ``output``, see ``ledger_path``.
    """

    def __init__(self, output: str, path: str = "") -> None:
        self._ledger = Ledger(ledger_path(output, path))

    def __repr__(self) -> str:
        return f"SqliteTracker({str(self._ledger.path)!r})"

    def create_model(
        self, name: str, description: str, metadata: Mapping[str, Any], labels: Sequence[str]
    ) -> ModelRecord:
        """See ``Tracker.create_model``."""
        record = ModelRecord(name, description, dict(metadata), tuple(labels), created=_now())
        with self._ledger.writing() as connection:
            if connection.execute("SELECT 1 FROM model WHERE name = ?", (name,)).fetchone():
                raise ModelError(
                    f"There is a model {name!r} already. Get it with client.get_model({name!r}), or choose "
                    f"another name."
                )
            connection.execute(
                "INSERT INTO model (name, description, metadata, labels, created) VALUES (?, ?, ?, ?, ?)",
                (name, description, _json(record.metadata), _json(record.labels), record.created),
            )
        return record

    def get_model(self, name: str) -> ModelRecord:
        """See ``Tracker.get_model``."""
        with self._ledger.reading() as connection:
            return _get_model(connection, name)

    def list_models(self) -> list[ModelRecord]:
        """See ``Tracker.list_models``."""
        with self._ledger.reading() as connection:
            rows = connection.execute(f"{_MODEL} ORDER BY name").fetchall() if connection else []
        return [_model(row) for row in rows]

    def add_checkpoint(
        self, location: str, digest: str, files: Mapping[str, Any], metadata: Mapping[str, Any]
    ) -> CheckpointRecord:
        """See ``Tracker.add_checkpoint``."""
        same = (location, digest, _json(metadata))
        with self._ledger.writing() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO checkpoint (location, digest, metadata, uuid, files, created) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                (*same, str(uuid.uuid4()), _json(files), _now()),
            )
            found = f"{_CHECKPOINT} WHERE location = ? AND digest = ? AND metadata = ?"
            return _checkpoint(connection.execute(found, same).fetchone())

    def get_checkpoint(self, uuid: str) -> CheckpointRecord:
        """See ``Tracker.get_checkpoint``."""
        with self._ledger.reading() as connection:
            return _get_checkpoint(connection, uuid)

    def register_version(
        self, model_name: str, checkpoint_uuid: str, name: str, comment: str, labels: Sequence[str]
    ) -> VersionRecord:
        """See ``Tracker.register_version``."""
        with self._ledger.writing() as connection:
            _get_model(connection, model_name)
            checkpoint = _get_checkpoint(connection, checkpoint_uuid)
            existing = _get_versions(connection, model_name)
            for record in existing:
                if record.checkpoint.uuid != checkpoint_uuid:
                    continue
                if (record.name, record.comment, record.labels) == (name, comment, tuple(labels)):
                    return record
                raise ModelError(
                    f"Checkpoint {checkpoint_uuid} is version {record.version} of model {model_name!r} "
                    f"already, with name {record.name!r}, comment {record.comment!r} and labels "
                    f"{list(record.labels)}."
                )
            number = max((record.version for record in existing), default=0) + 1
            version = VersionRecord(model_name, number, checkpoint, name, comment, labels=tuple(labels), created=_now())
            connection.execute(
                "INSERT INTO model_version "
                "(model_name, version, checkpoint_uuid, name, comment, labels, created) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                (model_name, number, checkpoint_uuid, name, comment, _json(version.labels), version.created),
            )
            return version

    def get_versions(self, model_name: str) -> list[VersionRecord]:
        """See ``Tracker.get_versions``."""
        with self._ledger.reading() as connection:
            _get_model(connection, model_name)
            return _get_versions(connection, model_name)

    def link_run(
        self, run_id: str, run_path: str, checkpoint_uuid: str, model_name: str | None, version: int | None
    ) -> None:
        """See ``Tracker.link_run``."""
        if (model_name is None) != (version is None):
            raise ModelError(f"A model version is a name and a number, but {model_name!r}, {version!r} was given.")
        with self._ledger.writing() as connection:
            _get_checkpoint(connection, checkpoint_uuid)
            if model_name is not None:
                _get_model(connection, model_name)
                versions = {record.version: record for record in _get_versions(connection, model_name)}
                linked = versions.get(version or 0)
                if linked is None:
                    raise unknown_version(model_name, version, list(versions))
                if linked.checkpoint.uuid != checkpoint_uuid:
                    raise ModelError(
                        f"Version {version} of model {model_name!r} has checkpoint {linked.checkpoint.uuid}, "
                        f"not {checkpoint_uuid}."
                    )
            connection.execute(
                "INSERT INTO run_link (run_id, checkpoint_uuid, model_name, version, run_path) "
                "VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT (run_id, checkpoint_uuid, model_name, version) "
                "DO UPDATE SET run_path = excluded.run_path",
                (run_id, checkpoint_uuid, model_name or "", version or 0, run_path),
            )

    def report(self, record: MetricsRecord) -> None:
        """See ``Tracker.report``."""
        key = (record.run_id, record.group, record.steps_completed, record.rank)
        values = {name: _json(value) for name, value in record.metrics.items()}
        with self._ledger.writing() as connection:
            stored = dict(
                connection.execute(
                    f"SELECT name, value FROM metric WHERE ({_METRIC_KEY}) = (?, ?, ?, ?)", key
                ).fetchall()
            )
            for name, value in values.items():
                if stored.get(name, value) != value:
                    raise ModelError(
                        f"Run {record.run_id} reported metric {name!r} of group {record.group!r} at step "
                        f"{record.steps_completed} on rank {record.rank} before, as {stored[name]}, and now "
                        f"as {value}. Report it under another step, group or name."
                    )
            connection.executemany(
                f"INSERT INTO metric ({_METRIC_KEY}, name, value, end_time) VALUES (?, ?, ?, ?, ?, ?, ?)",
                [(*key, name, values[name], record.end_time) for name in values if name not in stored],
            )

    def iter_metrics(
        self,
        *,
        group: str | None = None,
        run_id: str | None = None,
        checkpoint_uuid: str | None = None,
        model_name: str | None = None,
        version: int | None = None,
    ) -> Iterator[MetricsRecord]:
        """See ``Tracker.iter_metrics``."""
        if version is not None and model_name is None:
            raise ModelError(f"version={version} says nothing without model_name.")
        conditions = {"metric_group = ?": group, "run_id = ?": run_id}
        conditions["run_id IN (SELECT run_id FROM run_link WHERE checkpoint_uuid = ?)"] = checkpoint_uuid
        linked: list[Any] = [value for value in (model_name, version) if value is not None]
        where = [condition for condition, value in conditions.items() if value is not None]
        if linked:
            columns = ("model_name = ?", "version = ?")[: len(linked)]
            where.append(f"run_id IN (SELECT run_id FROM run_link WHERE {' AND '.join(columns)})")
        values = [value for value in conditions.values() if value is not None] + linked
        query = (
            f"SELECT {_METRIC_KEY}, name, value, end_time FROM metric "
            f"WHERE {' AND '.join(where) or 'TRUE'} ORDER BY {_METRIC_KEY}, name"
        )
        return self._stream_metrics(query, values)

    def _stream_metrics(self, query: str, values: list[Any]) -> Iterator[MetricsRecord]:
        with self._ledger.reading() as connection:
            rows: Iterator[Any] = connection.execute(query, values) if connection else iter(())
            for key, group_rows in groupby(rows, key=lambda row: row[:4]):
                run_id, group, steps_completed, rank = key
                metrics, end_times = {}, []
                for *_, name, value, end_time in group_rows:
                    metrics[name] = json.loads(value)
                    end_times.append(end_time)
                yield MetricsRecord(run_id, group, steps_completed, metrics, max(end_times), rank)


def _get_model(connection: sqlite3.Connection | None, name: str) -> ModelRecord:
    row = connection.execute(f"{_MODEL} WHERE name = ?", (name,)).fetchone() if connection else None
    if row is None:
        rows = connection.execute("SELECT name FROM model ORDER BY name") if connection else ()
        raise unknown_model(name, [row[0] for row in rows])
    return _model(row)


def _get_checkpoint(connection: sqlite3.Connection | None, uuid: str) -> CheckpointRecord:
    row = connection.execute(f"{_CHECKPOINT} WHERE uuid = ?", (uuid,)).fetchone() if connection else None
    if row is None:
        newest = "SELECT uuid, location FROM checkpoint ORDER BY created DESC, uuid"
        raise unknown_checkpoint(uuid, connection.execute(newest).fetchall() if connection else [])
    return _checkpoint(row)


def _get_versions(connection: sqlite3.Connection | None, model_name: str) -> list[VersionRecord]:
    query = f"{_VERSION} WHERE v.model_name = ? ORDER BY v.version"
    rows = connection.execute(query, (model_name,)).fetchall() if connection else []
    return [_version(row) for row in rows]


def _model(row: tuple[Any, ...]) -> ModelRecord:
    name, description, metadata, labels, archived, created = row
    return ModelRecord(name, description, json.loads(metadata), tuple(json.loads(labels)), bool(archived), created)


def _checkpoint(row: tuple[Any, ...]) -> CheckpointRecord:
    uuid, location, digest, files, metadata, created = row
    return CheckpointRecord(uuid, location, digest, json.loads(files), json.loads(metadata), created)


def _version(row: tuple[Any, ...]) -> VersionRecord:
    model_name, version, name, comment, notes, labels, metadata, archived, created = row[:9]
    return VersionRecord(
        model_name=model_name,
        version=version,
        checkpoint=_checkpoint(row[9:]),
        name=name,
        comment=comment,
        notes=notes,
        labels=tuple(json.loads(labels)),
        metadata=json.loads(metadata),
        archived=bool(archived),
        created=created,
    )


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
