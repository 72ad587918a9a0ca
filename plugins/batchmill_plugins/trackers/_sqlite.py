"""The embedded tracker: models and metrics in one SQLite file."""

from __future__ import annotations

import json
import sqlite3
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from batchmill import (
    CheckpointChanges,
    CheckpointRecord,
    MetricsRecord,
    ModelChanges,
    ModelError,
    ModelRecord,
    RunRecord,
    Tracker,
    VersionChanges,
    VersionRecord,
)
from batchmill_plugins.trackers._ledger import Ledger
from batchmill_plugins.trackers._ledger_path import ledger_path
from batchmill_plugins.trackers._lookup import (
    CHECKPOINT,
    MODEL,
    find_checkpoint,
    find_model,
    find_version,
    find_versions,
    read_checkpoint,
    read_model,
    to_json,
)
from batchmill_plugins.trackers._metrics import metric_rows, metrics_query, read_metrics, store_report
from batchmill_plugins.trackers._runs import list_runs


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
                (name, description, to_json(record.metadata), to_json(record.labels), record.created),
            )
        return record

    def get_model(self, name: str) -> ModelRecord:
        """See ``Tracker.get_model``."""
        with self._ledger.reading() as connection:
            return find_model(connection, name)

    def update_model(self, name: str, changes: ModelChanges) -> ModelRecord:
        """See ``Tracker.update_model``."""
        with self._ledger.writing() as connection:
            record = changes.apply(find_model(connection, name))
            connection.execute(
                "UPDATE model SET description = ?, metadata = ?, labels = ?, archived = ? WHERE name = ?",
                (record.description, to_json(record.metadata), to_json(record.labels), record.archived, name),
            )
        return record

    def list_models(self) -> list[ModelRecord]:
        """See ``Tracker.list_models``."""
        with self._ledger.reading() as connection:
            rows = connection.execute(f"{MODEL} ORDER BY name").fetchall() if connection else []
        return [read_model(row) for row in rows]

    def add_checkpoint(
        self, location: str, digest: str, files: Mapping[str, Any], metadata: Mapping[str, Any]
    ) -> CheckpointRecord:
        """See ``Tracker.add_checkpoint``."""
        same = (location, digest, to_json(metadata))
        with self._ledger.writing() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO checkpoint (location, digest, metadata, uuid, files, created) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                (*same, str(uuid.uuid4()), to_json(files), _now()),
            )
            found = f"{CHECKPOINT} WHERE c.location = ? AND c.digest = ? AND c.metadata = ?"
            return read_checkpoint(connection.execute(found, same).fetchone())

    def get_checkpoint(self, uuid: str) -> CheckpointRecord:
        """See ``Tracker.get_checkpoint``."""
        with self._ledger.reading() as connection:
            return find_checkpoint(connection, uuid)

    def update_checkpoint(self, uuid: str, changes: CheckpointChanges) -> CheckpointRecord:
        """See ``Tracker.update_checkpoint``."""
        with self._ledger.writing() as connection:
            record = changes.apply(find_checkpoint(connection, uuid))
            changed = (to_json(record.metadata), uuid)
            connection.execute("UPDATE checkpoint SET changed_metadata = ? WHERE uuid = ?", changed)
        return record

    def register_version(
        self, model_name: str, checkpoint_uuid: str, name: str, comment: str, labels: Sequence[str]
    ) -> VersionRecord:
        """See ``Tracker.register_version``."""
        with self._ledger.writing() as connection:
            existing = find_versions(connection, model_name)
            checkpoint = find_checkpoint(connection, checkpoint_uuid)
            for record in existing:
                if record.checkpoint.uuid != checkpoint_uuid:
                    continue
                given = (name, comment, tuple(labels))
                if given in ((record.name, record.comment, record.labels), _as_registered(connection, record)):
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
                (model_name, number, checkpoint_uuid, name, comment, to_json(version.labels), version.created),
            )
            return version

    def update_version(self, model_name: str, version: int, changes: VersionChanges) -> VersionRecord:
        """See ``Tracker.update_version``."""
        with self._ledger.writing() as connection:
            before = find_version(connection, model_name, version)
            record = changes.apply(before)
            connection.execute(
                "UPDATE model_version SET name = ?, notes = ?, labels = ?, metadata = ?, archived = ?, "
                "registered = coalesce(registered, ?) WHERE (model_name, version) = (?, ?)",
                (
                    record.name,
                    record.notes,
                    to_json(record.labels),
                    to_json(record.metadata),
                    record.archived,
                    to_json([before.name, before.labels]),
                    model_name,
                    version,
                ),
            )
        return record

    def get_versions(self, model_name: str) -> list[VersionRecord]:
        """See ``Tracker.get_versions``."""
        with self._ledger.reading() as connection:
            return find_versions(connection, model_name)

    def link_run(
        self, run_id: str, run_path: str, checkpoint_uuid: str, model_name: str | None, version: int | None
    ) -> None:
        """See ``Tracker.link_run``."""
        if (model_name is None) != (version is None):
            raise ModelError(f"A model version is a name and a number, but {model_name!r}, {version!r} was given.")
        with self._ledger.writing() as connection:
            find_checkpoint(connection, checkpoint_uuid)
            if model_name is not None:
                linked = find_version(connection, model_name, version)
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

    def list_runs(self) -> list[RunRecord]:
        """See ``Tracker.list_runs``."""
        with self._ledger.reading() as connection:
            return list_runs(connection) if connection else []

    def report(self, record: MetricsRecord) -> None:
        """See ``Tracker.report``."""
        self.report_all([record])

    def report_all(self, records: Iterable[MetricsRecord]) -> None:
        """See ``Tracker.report_all``; all of them or none are stored."""
        prepared = [(record, metric_rows(record)) for record in records]
        if not prepared:
            return
        with self._ledger.writing() as connection:
            for record, values in prepared:
                store_report(connection, record, values)

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
        query, values = metrics_query(group, run_id, checkpoint_uuid, model_name, version)
        return self._stream_metrics(query, values)

    def _stream_metrics(self, query: str, values: list[Any]) -> Iterator[MetricsRecord]:
        with self._ledger.reading() as connection:
            if connection is not None:
                yield from read_metrics(connection.execute(query, values))


def _as_registered(connection: sqlite3.Connection, record: VersionRecord) -> tuple[str, str, tuple[str, ...]]:
    """Return name, comment and labels with which a version was registered, whatever they are now."""
    query = "SELECT registered FROM model_version WHERE (model_name, version) = (?, ?)"
    (registered,) = connection.execute(query, (record.model_name, record.version)).fetchone()
    name, labels = json.loads(registered) if registered is not None else (record.name, record.labels)
    return name, record.comment, tuple(labels)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
