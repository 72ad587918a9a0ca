"""Reported metrics in the ledger: one row for each run, group, step, rank and name."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from batchmill import MetricsRecord, ModelError
from batchmill_plugins.trackers._lookup import to_json

_KEY = "run_id, metric_group, steps_completed, rank"


def metric_rows(record: MetricsRecord) -> dict[str, str]:
    """Return what is stored for each metric of a report.

    Raises:
        ValueError: A value is not JSON.
    """
    return {name: to_json(value) for name, value in record.metrics.items()}


def store_report(connection: sqlite3.Connection, record: MetricsRecord, values: dict[str, str]) -> None:
    """Store a report inside a transaction; what is there with the same value stays.

    Args:
        connection: The ledger.
        record: The report.
        values: Its ``metric_rows``.

    Raises:
        ModelError: A metric has another value already.
    """
    key = (record.run_id, record.group, record.steps_completed, record.rank)
    query = f"SELECT name, value FROM metric WHERE ({_KEY}) = (?, ?, ?, ?)"
    stored = dict(connection.execute(query, key).fetchall())
    for name, value in values.items():
        if stored.get(name, value) != value:
            raise ModelError(
                f"Run {record.run_id} reported metric {name!r} of group {record.group!r} at step "
                f"{record.steps_completed} on rank {record.rank} before, as {stored[name]}, and now "
                f"as {value}. Report it under another step, group or name."
            )
    connection.executemany(
        f"INSERT INTO metric ({_KEY}, name, value, end_time) VALUES (?, ?, ?, ?, ?, ?, ?)",
        [(*key, name, values[name], record.end_time) for name in values if name not in stored],
    )


def metrics_query(
    group: str | None, run_id: str | None, checkpoint_uuid: str | None, model_name: str | None, version: int | None
) -> tuple[str, list[Any]]:
    """Return the query, and its values, of what matches all filters that are not None.

    Raises:
        ModelError: A version is given without its model.
    """
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
        f"SELECT {_KEY}, name, value, end_time FROM metric WHERE {' AND '.join(where) or 'TRUE'} ORDER BY {_KEY}, name"
    )
    return query, values


def read_metrics(rows: Iterator[tuple[Any, ...]]) -> Iterator[MetricsRecord]:
    """Yield the reports of rows that a ``metrics_query`` gave."""
    for key, group_rows in groupby(rows, key=lambda row: row[:4]):
        run_id, group, steps_completed, rank = key
        metrics, end_times = {}, []
        for *_, name, value, end_time in group_rows:
            metrics[name] = json.loads(value)
            end_times.append(end_time)
        yield MetricsRecord(run_id, group, steps_completed, metrics, max(end_times), rank)
