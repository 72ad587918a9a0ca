"""Checks a finished run with nothing of Batchmill's: JSON, hashlib and pyarrow only.

What it knows is the documented format of a run directory. A checker that shared code with the engine would share
its mistakes.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


@dataclass
class CheckedRun:
    """A complete run that passed every check.

    Attributes:
        manifest: ``run.json``.
        records: Commit records in chunk order.
        result: ``result.json``.
        result_bytes: Its bytes.
        table: All rows in dataset order; None if nothing was written.
    """

    manifest: dict[str, Any]
    records: list[dict[str, Any]]
    result: dict[str, Any]
    result_bytes: bytes
    table: pa.Table | None

    @property
    def metrics(self) -> dict[str, Any]:
        return self.result["metrics"]

    def column(self, name: str) -> list[Any]:
        assert self.table is not None, "the run has no outputs"
        return self.table.column(name).to_pylist()


def check_complete(path: Path, samples: int | None = None, sparse: bool = False) -> CheckedRun:
    """Assert that a run is complete and whole: every index once, every digest right, nothing else left behind.

    Args:
        path: The run's directory.
        samples: How many samples it should have; None takes ``run.json``'s word.
        sparse: The processor wrote no rows at all.
    """
    manifest, committed = check_wreck(path)
    grid = _grid(manifest)
    if samples is not None:
        assert manifest["samples"] == samples
    assert sorted(committed) == list(range(len(grid))), f"chunks {sorted(committed)} of {len(grid)} are committed"
    records = [committed[chunk] for chunk in range(len(grid))]

    result_bytes = (path / "result.json").read_bytes()
    result = json.loads(result_bytes)
    assert result["complete"] is True
    assert result["coverage"] == 1.0
    assert result["samples"] == manifest["samples"]
    assert result["fingerprint"] == manifest["fingerprint"]["sha256"]
    assert result["quarantined"] == sum(len(record["quarantined"]) for record in records)
    assert (path / "_SUCCESS").read_text().strip() == _sha256(result_bytes)
    expected = [{**part, "start": r["start"], "stop": r["stop"]} for r in records for part in r["parts"]]
    assert result["outputs"] == expected
    assert result["files"] == [named for record in records for named in record["files"]]
    assert result["bitwise"] == all(record.get("bitwise", True) for record in records)

    tables = [pq.read_table(path / part["name"]) for part in result["outputs"] if part["name"].endswith(".parquet")]
    table = pa.concat_tables(tables) if tables else None
    quarantined = [item["index"] for record in records for item in record["quarantined"]]
    written = [] if table is None else table.column("_index").to_pylist()
    if not sparse:
        assert sorted([*written, *quarantined]) == list(range(manifest["samples"])), "not every index exactly once"
        assert written == sorted(written), "rows are not in dataset order"

    named = {item["name"] for record in records for item in _named(record)}
    there = {str(file.relative_to(path)) for folder in ("parts", "files") for file in (path / folder).rglob("*")}
    files = {name for name in there if (path / name).is_file() and not _hidden(name) and "rank-" not in name}
    assert files == named, f"unreferenced: {sorted(files - named)}; missing: {sorted(named - files)}"
    return CheckedRun(manifest, records, result, result_bytes, table)


def check_wreck(path: Path) -> tuple[dict[str, Any], dict[int, dict[str, Any]]]:
    """Assert what holds at any moment, also right after a crash: every record is whole and so is what it names.

    Returns:
        ``run.json`` and the records by chunk number.
    """
    manifest = _sealed(path / "run.json")
    grid = _grid(manifest)
    records: dict[int, dict[str, Any]] = {}
    for file in sorted((path / "commits").glob("[!.]*")) if (path / "commits").is_dir() else []:
        record = _sealed(file)
        chunk = record["chunk"]
        assert file.name == f"{chunk:08d}.json"
        assert (record["start"], record["stop"]) == grid[chunk]
        assert len(record["attempt"]) == 32
        assert record["fingerprint"] == manifest["fingerprint"]["sha256"]
        for named in _named(record):
            data = (path / named["name"]).read_bytes()
            assert len(data) == named["bytes"], named["name"]
            assert _sha256(data) == named["sha256"], named["name"]
        for part in record["parts"]:
            if part["name"].endswith(".parquet"):
                index = pq.read_table(path / part["name"]).column("_index").to_pylist()
                quarantined = {item["index"] for item in record["quarantined"]}
                assert index == [i for i in range(record["start"], record["stop"]) if i not in quarantined]
                assert part["rows"] == len(index)
        records[chunk] = record
    return manifest, records


def rows_of(run: CheckedRun) -> dict[str, list[Any]]:
    """Return the rows as plain lists, for comparing two runs."""
    return {} if run.table is None else run.table.to_pydict()


def _grid(manifest: dict[str, Any]) -> list[tuple[int, int]]:
    step = manifest["batch_size"] * manifest["chunk_batches"]
    samples = manifest["samples"]
    return [(start, min(start + step, samples)) for start in range(0, samples, step)]


def _named(record: dict[str, Any]) -> list[dict[str, Any]]:
    sidecar = [record["partials_file"]] if "partials_file" in record else []
    return [*record["parts"], *record["files"], *sidecar]


def _sealed(file: Path) -> dict[str, Any]:
    document = json.loads(file.read_bytes())
    body = {key: value for key, value in document.items() if key != "sha256"}
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    assert document["sha256"] == _sha256(canonical), f"{file} does not match its own digest"
    return document


def _hidden(name: str) -> bool:
    return name.rpartition("/")[2].startswith(".")


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
