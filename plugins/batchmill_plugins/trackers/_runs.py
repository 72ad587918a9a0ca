"""The runs that the ledger knows, from their links and their metrics."""

from __future__ import annotations

import sqlite3

from batchmill import RunLink, RunRecord

# SQLite would read every row of the index for a DISTINCT; this looks up one id after the other.
_REPORTING = """
    WITH RECURSIVE found (run_id) AS (
        SELECT min(run_id) FROM metric
        UNION ALL
        SELECT (SELECT min(run_id) FROM metric WHERE run_id > found.run_id) FROM found WHERE found.run_id IS NOT NULL
    )
    SELECT run_id FROM found WHERE run_id IS NOT NULL
"""
_LINKS = """
    SELECT run_id, run_path, checkpoint_uuid, model_name, version FROM run_link
    ORDER BY run_id, model_name, version, checkpoint_uuid
"""


def list_runs(connection: sqlite3.Connection) -> list[RunRecord]:
    """Return all runs, sorted by id."""
    paths: dict[str, str | None] = {run_id: None for (run_id,) in connection.execute(_REPORTING)}
    links: dict[str, list[RunLink]] = {}
    for run_id, run_path, checkpoint_uuid, model_name, version in connection.execute(_LINKS):
        paths[run_id] = run_path
        links.setdefault(run_id, []).append(RunLink(checkpoint_uuid, model_name or None, version or None))
    return [RunRecord(run_id, paths[run_id], tuple(links.get(run_id, ()))) for run_id in sorted(paths)]
